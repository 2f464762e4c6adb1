"""The top of a compose file in the words of `stack.yaml`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Mapping as Map
from dataclasses import dataclass

from buildit.recipe.ways.compose.merging import as_pairs, is_null
from buildit.recipe.ways.compose.service import ComposeService
from buildit.recipe.ways.compose.shared import (
    Pairs,
    RemarkList,
    is_yes,
    map_said,
    refuse_key,
    text_said,
)
from buildit.recipe.ways.nodes import map_node, text_node
from buildit.recipe.yaml.node import Mapping, Node, Scalar

_TOP = ("name", "services", "networks", "volumes", "secrets", "configs", "version")
_REFUSED = {
    "include": "write the services of that file into this one, or extend them",
    "models": "name what serves the model as a service",
}


@dataclass(frozen=True, slots=True)
class Project:
    """A stack's nodes, and what was read and does no harm where it is left out."""

    node: Mapping
    remarks: tuple[str, ...]


def translated(
    node: Mapping, services: Map[str, tuple[Scalar, Mapping]], values: Map[str, str]
) -> Project:
    """A compose file whose variables are filled in, with those of its services that are wanted;
    `values` are the variables.

    Raises:
        RecipeError: a key has no meaning here.
    """
    told: list[str] = []
    for key, _ in node.items:
        if key.text not in _TOP and not key.text.startswith("x-"):
            refuse_key(key, _REFUSED, _TOP)
    secrets, configs = _top(node, "secrets"), _top(node, "configs")
    containers = []
    for name, (key, service) in services.items():
        made = ComposeService(name, service, told, secrets, configs, values).made()
        containers.append((key, made))
    found: Pairs = [(text_node(node.place, "containers"), Mapping(tuple(containers), node.place))]
    if (name_node := node.pair("name")) is not None:
        found.append(name_node)
    for what, make in _TOPS.items():
        pair = node.pair(what)
        if pair is not None and not is_null(pair[1]):
            found.append((pair[0], make(map_said(pair[1], what), told)))
    return Project(Mapping(tuple(found), node.place), tuple(told))


def _top(node: Mapping, key: str) -> Mapping:
    found = node.get(key)
    return Mapping((), node.place) if found is None or is_null(found) else map_said(found, key)


def _each(
    node: Mapping,
    told: RemarkList,
    make: Callable[[Scalar, Mapping, RemarkList], Iterator[tuple[str, Node]]],
) -> Mapping:
    items = []
    for name, one in node.items:
        said = Mapping((), name.place) if is_null(one) else map_said(one, name.text)
        external = said.get("external")
        if external is not None and not isinstance(external, Mapping) and not is_yes(external):
            said = said.without("external")
        values = {**dict(_external(name, said))} or {**dict(make(name, said, told))}
        items.append((name, map_node(said.place, values)))
    return Mapping(tuple(items), node.place)


def _external(name: Scalar, said: Mapping) -> Iterator[tuple[str, Node]]:
    """What is there already, under a name."""
    external = said.get("external")
    if external is None:
        return
    inner = external.get("name") if isinstance(external, Mapping) else None
    named = inner or said.get("name") or name
    yield "external", named


def _networks(node: Mapping, told: RemarkList) -> Mapping:
    return _each(node, told, _network)


def _network(name: Scalar, said: Mapping, told: RemarkList) -> Iterator[tuple[str, Node]]:
    for key, value in said.items:
        match key.text:
            case "internal":
                yield "internal", value
            case "labels":
                yield "labels", as_pairs(value)
            case "ipam":
                yield from _ipam(map_said(value, "ipam"), told)
            case "driver" if text_said(value, "driver") in ("bridge", "default", ""):
                pass
            case "name" | "attachable" | "enable_ipv4" | "driver_opts":
                told.append(f"{key.place}: `{key.text}` of the network {name.text} is left out")
            case _ if key.text.startswith("x-"):
                pass
            case _:
                refuse_key(key, _NETWORK_REFUSED, ("internal", "labels", "ipam", "external"))


_NETWORK_REFUSED = {
    "driver": "leave it out: networks here are bridges of one machine",
    "enable_ipv6": "write a subnet of IPv6: ipam: {config: [{subnet: …}]}",
}


def _ipam(said: Mapping, told: RemarkList) -> Iterator[tuple[str, Node]]:
    for key, value in said.items:
        if key.text == "config":
            items = getattr(value, "items", ())
            subnets = [
                one.get("subnet") for one in items if isinstance(one, Mapping) and one.get("subnet")
            ]
            if len(subnets) > 1:
                raise key.error("a network has one subnet here", "leave the others out")
            if subnets and subnets[0] is not None:
                yield "subnet", subnets[0]
            others = [
                name.text for one in items if isinstance(one, Mapping) for name, _ in one.items
            ]
            if left := sorted({*others} - {"subnet"}):
                told.append(f"{key.place}: {', '.join(left)} of the subnet is left out")
        else:
            told.append(f"{key.place}: `{key.text}` of `ipam` is left out")


def _volumes(node: Mapping, told: RemarkList) -> Mapping:
    return _each(node, told, _volume)


def _volume(name: Scalar, said: Mapping, told: RemarkList) -> Iterator[tuple[str, Node]]:
    for key, value in said.items:
        match key.text:
            case "labels":
                yield "labels", as_pairs(value)
            case "driver" if text_said(value, "driver") in ("local", "default", ""):
                pass
            case "name":
                told.append(f"{key.place}: `name` of the volume {name.text} is left out")
            case _ if key.text.startswith("x-"):
                pass
            case _:
                refuse_key(key, _VOLUME_REFUSED, ("labels", "external", "driver"))


_VOLUME_REFUSED = {
    "driver": "leave it out, or make the volume yourself and write external: true",
    "driver_opts": "make the volume yourself with these, and write external: true",
}


def _secrets(node: Mapping, told: RemarkList) -> Mapping:
    return _each(node, told, _secret)


def _secret(name: Scalar, said: Mapping, told: RemarkList) -> Iterator[tuple[str, Node]]:
    for key, value in said.items:
        match key.text:
            case "file":
                yield "file", value
            case "environment":
                yield "env", value
            case "name" | "labels":
                told.append(f"{key.place}: `{key.text}` of the secret {name.text} is left out")
            case _ if key.text.startswith("x-"):
                pass
            case _:
                refuse_key(key, _SECRET_REFUSED, ("file", "environment", "external"))


_SECRET_REFUSED = {
    "content": "a value in the file is no secret: write file: or environment:",
    "driver": "write file:, environment: or external: true",
    "template_driver": "write file:, environment: or external: true",
}

_TOPS: Map[str, Callable[[Mapping, RemarkList], Mapping]] = {
    "networks": _networks,
    "volumes": _volumes,
    "secrets": _secrets,
}
