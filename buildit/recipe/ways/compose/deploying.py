"""`deploy` of a service, and the keys that say the same beside it, in the words of `stack.yaml`.
Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping as Map

from buildit.recipe.ways.compose.shared import (
    RemarkList,
    bytes_of,
    items_said,
    map_said,
    refuse_key,
    text_said,
)
from buildit.recipe.ways.nodes import map_node, text_node
from buildit.recipe.yaml.node import Mapping, Node, Scalar, Sequence

_RESTARTS = {"none": "no", "on-failure": "on-failure", "any": "always", "": "always"}
_CONSTRAINT = re.compile(r"\s*([A-Za-z0-9._/-]+)\s*(==|!=)\s*(\S.*?)\s*")
_LEFT = ("labels", "endpoint_mode", "update_config", "rollback_config")
_GLOBAL = "run one on each machine by the tool of that cluster; replicas: N is what there is"


def deploy_said(node: Mapping, name: str, told: RemarkList) -> dict[str, Node]:
    """What `deploy` says of a container.

    Raises:
        RecipeError: a part has no meaning here.
    """
    found: dict[str, Node] = {}
    for key, value in node.items:
        match key.text:
            case "replicas":
                found["replicas"] = value
            case "placement":
                found["placement"] = _placement(map_said(value, key.text))
            case "resources":
                found |= _resources(map_said(value, key.text), told)
            case "restart_policy":
                found["deployed-restart"] = _restart(map_said(value, key.text), told)
            case "mode" if text_said(value, key.text) == "replicated":
                pass
            case "mode":
                raise value.error(
                    f"mode: {text_said(value, key.text)} has no meaning here", _GLOBAL
                )
            case _ if key.text in _LEFT:
                told.append(f"{key.place}: `{key.text}` of the deploy of {name} is left out")
            case _ if key.text.startswith("x-"):
                pass
            case _:
                refuse_key(key, {}, ("replicas", "placement", "resources", "restart_policy"))
    return found


def no_deploy(node: Mapping, found: Map[str, Node]) -> dict[str, Node]:
    """What follows once a whole service is read: `restart` counts before the policy of `deploy`."""
    deployed = found.get("deployed-restart")
    if deployed is None:
        return {}
    assert isinstance(found, dict)  # noqa: S101 - it is the service's own
    del found["deployed-restart"]
    return {} if "restart" in found or node.get("restart") is not None else {"restart": deployed}


def _placement(node: Mapping) -> Mapping:
    found: dict[str, Node] = {}
    labels: dict[str, Node] = {}
    without: dict[str, Node] = {}
    platform: dict[str, str] = {}
    for key, value in node.items:
        match key.text:
            case "constraints":
                for item in items_said(value, key.text):
                    _constraint(item, found, labels, without, platform)
            case "preferences":
                spread = [_spread(item) for item in items_said(value, key.text)]
                found["spread"] = Sequence(tuple(spread), value.place)
            case "max_replicas_per_node":
                found["most"] = value
            case _ if key.text.startswith("x-"):
                pass
            case _:
                refuse_key(key, {}, ("constraints", "preferences", "max_replicas_per_node"))
    if platform:
        text = f"{platform.get('os', 'linux')}/{platform.get('arch', '')}".rstrip("/")
        if "arch" in platform:
            found["platform"] = text_node(node.place, text)
    if labels:
        found["labels"] = map_node(node.place, {**labels})
    if without:
        found["without"] = map_node(node.place, {**without})
    return map_node(node.place, {**found})


def _constraint(
    item: Node,
    found: dict[str, Node],
    labels: dict[str, Node],
    without: dict[str, Node],
    platform: dict[str, str],
) -> None:
    text = text_said(item, "constraints")
    match = _CONSTRAINT.fullmatch(text)
    hint = "node.labels.NAME == VALUE (or !=), node.hostname == NAME, node.platform.arch == NAME"
    if match is None:
        raise item.error(f"not a constraint: {text!r}", hint)
    what, sign, value = match.groups()
    if what.startswith("node.labels."):
        chosen = labels if sign == "==" else without
        chosen[what.removeprefix("node.labels.")] = text_node(item.place, value)
    elif what == "node.hostname" and sign == "==":
        found["host"] = text_node(item.place, value)
    elif what in ("node.platform.os", "node.platform.arch") and sign == "==":
        platform[what.rpartition(".")[2]] = value
    else:
        raise item.error(f"the constraint {text!r} has no meaning here", hint)


def _spread(item: Node) -> Node:
    said = map_said(item, "preferences").get("spread")
    text = text_said(said or item, "spread")
    if not text.startswith("node.labels."):
        raise item.error(f"spread over {text!r} has no meaning here", "node.labels.NAME has")
    return text_node(item.place, text.removeprefix("node.labels."))


def _restart(node: Mapping, told: RemarkList) -> Scalar:
    condition = node.get("condition")
    text = text_said(condition, "condition") if condition is not None else ""
    if text not in _RESTARTS:
        hint = "none, on-failure or any"
        raise (condition or node).error(f"not a condition: {text!r}", hint)
    when = _RESTARTS[text]
    attempts = node.get("max_attempts")
    if attempts is not None and when == "on-failure":
        when = f"{when}:{text_said(attempts, 'max_attempts')}"
    for key, _ in node.items:
        if key.text in ("delay", "window"):
            told.append(f"{key.place}: `{key.text}` of a restart policy is left out")
        elif key.text not in ("condition", "max_attempts") and not key.text.startswith("x-"):
            refuse_key(key, {}, ("condition", "max_attempts"))
    return text_node(node.place, when)


_AMOUNTS = {"memory": "memory", "cpus": "cpus", "pids": "processes"}


def _resources(node: Mapping, told: RemarkList) -> dict[str, Node]:
    del told
    found: dict[str, Node] = {}
    for key, value in node.items:
        part = {"limits": "limits", "reservations": "reserved"}.get(key.text)
        if part is None:
            refuse_key(key, {}, ("limits", "reservations"))
        amounts: dict[str, Node] = {}
        for name, amount in map_said(value, key.text).items:
            if name.text not in _AMOUNTS:
                refuse_key(name, _DEVICES, tuple(_AMOUNTS))
            amounts[_AMOUNTS[name.text]] = amounts_said(name, amount)
        found[part] = map_node(value.place, {**amounts})
    return found


_DEVICES = dict.fromkeys(("devices", "generic_resources"), "devices are of one machine")


def amounts_said(key: Scalar, value: Node) -> Node:
    """An amount as `stack.yaml` has it: memory in bytes."""
    if "mem" not in key.text:
        return value
    return text_node(value.place, bytes_of(value, key.text))
