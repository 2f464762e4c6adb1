"""Ports and mounts of a compose file, in both of their syntaxes, in the words of `stack.yaml`.
Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from buildit.recipe.ways.compose.shared import (
    RemarkList,
    bytes_of,
    is_yes,
    map_said,
    refuse_key,
    text_said,
)
from buildit.recipe.ways.compose.words import whole_bytes
from buildit.recipe.ways.nodes import map_node, plain_node, text_node
from buildit.recipe.yaml.node import Mapping, Node, Place, Sequence

_SHORT = re.compile(
    r"(?:(?:(?P<address>\[[0-9A-Fa-f:.]+\]|[0-9.]+):)?"
    r"(?P<first>[0-9]{1,5})?(?:-(?P<last>[0-9]{1,5}))?:)?"
    r"(?P<inside>[0-9]{1,5})(?:-(?P<end>[0-9]{1,5}))?(?:/(?P<kind>[a-z]+))?"
)
_HINT = "write 8080:80, 127.0.0.1:8080:80, 53:53/udp, or {target: 80, published: 8080}"


def ports_said(node: Node, told: RemarkList) -> Iterator[Node]:
    """A port, or a range of them, that is published.

    Raises:
        RecipeError: it is none.
    """
    if isinstance(node, Mapping):
        yield _long_port(node, told)
        return
    text = text_said(node, "ports")
    match = _SHORT.fullmatch(text)
    if match is None:
        raise node.error(f"not a port: {text!r}", _HINT)
    inside = range(int(match["inside"]), int(match["end"] or match["inside"]) + 1)
    first = int(match["first"] or 0)
    outside = range(first, int(match["last"] or first) + 1)
    if not inside:
        raise node.error(f"not a range of ports: {text!r}", _HINT)
    if first and len(inside) > 1 and len(inside) != len(outside):
        raise node.error(f"the ranges of {text!r} are not of one length", _HINT)
    for number, port in enumerate(inside):
        if not first:
            published = "any"
        elif len(inside) > 1:
            published = str(outside[number])
        else:
            published = f"{first}-{outside[-1]}" if len(outside) > 1 else str(first)
        yield _port(node.place, port, published, match["address"] or "", match["kind"] or "")


def _port(place: Place, inside: int, outside: str, address: str, kind: str) -> Node:
    said = {"inside": str(inside), "outside": outside}
    said |= {"address": address} if address else {}
    said |= {"protocol": kind} if kind else {}
    return plain_node(place, said)


def _long_port(node: Mapping, told: RemarkList) -> Node:
    found: dict[str, Node] = {"outside": text_node(node.place, "any")}
    names = {"target": "inside", "host_ip": "address", "protocol": "protocol"}
    for key, value in node.items:
        if key.text in names:
            found[names[key.text]] = value
        elif key.text == "published":
            text = text_said(value, "published")
            found["outside"] = text_node(value.place, text if text not in ("", "0") else "any")
        elif key.text in ("mode", "name", "app_protocol"):
            told.append(f"{key.place}: `{key.text}` of a port is left out")
        elif not key.text.startswith("x-"):
            refuse_key(key, {}, (*names, "published", "mode"))
    return map_node(node.place, {**found})


_LEFT_OPTIONS = ("z", "Z", "cached", "delegated", "consistent", "nocopy", "copy", "U")


def mount_said(node: Node, home: str, told: RemarkList) -> Node:
    """A mount; `home` is what `~` is.

    Raises:
        RecipeError: it is none, or of a kind that has no meaning here.
    """
    if isinstance(node, Mapping):
        return _long_volume(node, home, told)
    text = text_said(node, "volumes")
    source, dest, options = _parts(text)
    if not dest.startswith("/"):
        raise node.error(f"not a volume: {text!r}", "write data:/var/lib/x, or ./conf:/etc/x:ro")
    said = {"dest": dest}
    if source:
        said["source"] = _path(source, home, node)
    for option in filter(None, options.split(",")):
        if option == "ro":
            said["read-only"] = "yes"
        elif option in _LEFT_OPTIONS:
            told.append(f"{node.place}: the option {option} of a volume is left out")
        elif option != "rw":
            raise node.error(f"the option {option!r} of a volume has no meaning here", "ro or rw")
    return plain_node(node.place, said)


def _parts(text: str) -> tuple[str, str, str]:
    parts = text.split(":")
    if len(parts) == 1:
        return "", parts[0], ""
    return parts[0], parts[1], ":".join(parts[2:])


def _path(source: str, home: str, node: Node) -> str:
    """A source as `stack.yaml` has it: a path begins with / or a dot."""
    if source == "~" or source.startswith("~/"):
        if not home:
            raise node.error("~ is the home directory, and HOME has no value", "write a path")
        return f"{home}{source[1:]}"
    return source if source.startswith(("/", ".")) or "/" not in source else f"./{source}"


def _long_volume(node: Mapping, home: str, told: RemarkList) -> Node:
    kind = node.get("type")
    what = text_said(kind, "type") if kind is not None else "volume"
    found: dict[str, str] = {}
    if what not in ("volume", "bind", "tmpfs"):
        hint = "volume, bind and tmpfs have"
        raise (kind or node).error(f"a mount of type {what!r} has no meaning here", hint)
    if what == "tmpfs":
        found["memory"] = "0"
    for key, value in node.items:
        match key.text:
            case "type":
                pass
            case "target":
                found["dest"] = text_said(value, "target")
            case "source":
                text = text_said(value, "source")
                path = _path(text, home, value)
                if what == "bind" and not path.startswith(("/", ".")):
                    path = f"./{path}"
                found["source"] = path
            case "read_only":
                found["read-only"] = "yes" if is_yes(value) else "no"
            case "tmpfs" | "bind" | "volume":
                found |= _options(map_said(value, key.text), told)
            case "consistency":
                told.append(f"{key.place}: `consistency` of a mount is left out")
            case _ if key.text.startswith("x-"):
                pass
            case _:
                refuse_key(key, {}, ("type", "source", "target", "read_only", "tmpfs"))
    if "dest" not in found:
        raise node.error("a mount has a target", "write target: /var/lib/x")
    return plain_node(node.place, found)


def _options(node: Mapping, told: RemarkList) -> dict[str, str]:
    """What the options of one kind of mount say."""
    found: dict[str, str] = {}
    for key, value in node.items:
        if key.text == "size":
            found["memory"] = bytes_of(value, key.text)
        elif key.text == "subpath":
            refuse_key(key, {"subpath": "mount the whole volume"}, ())
        else:
            told.append(f"{key.place}: `{key.text}` of a mount is left out")
    return found


def memory_mounts(node: Node, told: RemarkList) -> Iterator[Node]:
    """The mounts of `tmpfs`."""
    for one in node.items if isinstance(node, Sequence) else (node,):
        text = text_said(one, "tmpfs")
        dest, _, options = text.partition(":")
        said = {"dest": dest, "memory": "0"}
        for option in filter(None, options.split(",")):
            name, _, value = option.partition("=")
            if name == "size" and (size := whole_bytes(value)) is not None:
                said["memory"] = str(size)
            elif option == "ro":
                said["read-only"] = "yes"
            elif option != "rw":
                told.append(f"{one.place}: the option {option} of tmpfs is left out")
        yield plain_node(one.place, said)
