"""The steps that a foreign recipe was translated to, as the text of a container.yaml: each behind
the line that it is from, and the lines that gave no step as comments in their places. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from buildit.recipe.ways.aptlines import apt_script
from buildit.recipe.yaml import node as nodes
from buildit.recipe.yaml.node import Node, Scalar
from buildit.recipe.yaml.write import Remarked, YamlData, yaml_text

_UNRENDERED = {("run", "script"), ("test", "script")}
"""Keys of steps whose text is no template."""
_SHELLS = (("/bin/sh", "-c"), ("/bin/bash", "-c"), ("/bin/sh", "-ec"), ("/bin/bash", "-ec"))
_TEMPLATE = ("{{", "{%", "{#")


@dataclass(frozen=True, slots=True)
class OwnLine:
    """A line (from 1) of a foreign recipe with its text; `why` is empty where it became steps."""

    line: int
    text: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Writing:
    """What a container.yaml is made of. `file` is the recipe's name, `variables` those of its
    `vars`, `lines` its own lines. `containers` are the directories that stages are written to, by
    what they are asked for. `is_debian`: apt of the base finds the packages of our suites."""

    file: str
    variables: Mapping[str, str]
    lines: tuple[OwnLine, ...]
    images: tuple[str, ...] = ()
    containers: Mapping[str, str] = field(default_factory=dict)
    is_debian: bool = False
    head: tuple[str, ...] = ()


def written_container(steps: nodes.Sequence, writing: Writing) -> str:
    """The text of a container.yaml with these steps."""
    variables = dict(writing.variables)
    items: list[YamlData] = []
    waiting = [one for one in writing.lines if one.why]
    for step in steps.items:
        if not isinstance(step, nodes.Mapping):
            continue
        key, value = step.items[0]
        line = min((place.line for place in _places(value)), default=step.place.line)
        before = [one for one in waiting if one.line < line]
        waiting = [one for one in waiting if one.line >= line]
        items += [Remarked(_comments(before, writing.file))] * bool(before)
        if key.text == "vars" and isinstance(value, nodes.Mapping):
            said = {
                name.text: _text(one.text) for name, one in value.items if isinstance(one, Scalar)
            }
            variables |= said
            continue
        if key.text == "run" and isinstance(value, nodes.Mapping):
            items.append(_written_run(value, writing))
        else:
            items.append({key.text: _data(value, (key.text,), writing)})
    items += [Remarked(_comments(waiting, writing.file))] * bool(waiting)
    items += [{"image": {"type": one}} for one in writing.images]
    return yaml_text(Remarked(writing.head, [{"vars": variables}, *items]))


def _comments(lines: Iterable[OwnLine], file: str) -> tuple[str, ...]:
    return tuple(f"{file}:{one.line}: {one.text}  ({one.why})" for one in lines)


def _places(node: Node) -> Iterator[nodes.Place]:
    yield node.place
    match node:
        case nodes.Sequence(items):
            for item in items:
                yield from _places(item)
        case nodes.Mapping(items):
            for _, value in items:
                yield from _places(value)
        case _:
            pass


def translated_lines(steps: nodes.Sequence) -> frozenset[int]:
    """The lines of the recipe that steps are from."""
    return frozenset(place.line for place in _places(steps))


def _data(node: Node, path: tuple[str, ...], writing: Writing) -> YamlData:
    match node:
        case Scalar(text):
            return text if path in _UNRENDERED else _text(text)
        case nodes.Sequence(items):
            return [_data(one, path, writing) for one in items]
        case nodes.Mapping(items):
            stage = node.get("stage") if path[-1] == "from" else None
            if isinstance(stage, Scalar) and stage.text in writing.containers:
                return {"container": writing.containers[stage.text]}
            return {key.text: _data(one, (*path, key.text), writing) for key, one in items}


def _text(text: str) -> str:
    """A text that a template leaves as it is."""
    for sign in _TEMPLATE:
        text = text.replace(sign, f"\0{sign[1]}")
    for sign in _TEMPLATE:
        text = text.replace(f"\0{sign[1]}", "{{ '" + sign + "' }}")
    return text


# -- commands


def _written_run(value: nodes.Mapping, writing: Writing) -> YamlData:
    """A `run` step. Over Debian's own root what its command has apt install is its `debs`, whose
    versions the lock pins, and it has no network where it needs none beside."""
    whole = _data(value, ("run",), writing)
    text = _command(value)
    plain: YamlData = {"run": whole}
    if not text or not isinstance(whole, Mapping):
        return plain
    if manager := _other_manager(text):
        return Remarked((f"What {manager} fetches is pinned by nothing.",), plain)
    apt = apt_script(text, {})
    if not writing.is_debian or "debs" in whole or not apt.runs_apt:
        return plain
    made = {key: one for key, one in whole.items() if key != "network" or not apt.is_local}
    return {"run": {**made, **({"debs": [*apt.packages]} if apt.packages else {})}}


def _command(value: nodes.Mapping) -> str:
    """The text of a command that a shell runs; "" where it is another."""
    listed, script = value.get("exec"), value.get("script")
    if isinstance(script, Scalar):
        return script.text
    if isinstance(listed, nodes.Sequence):
        words = tuple(one.text for one in listed.items if isinstance(one, Scalar))
        if words[:-1] in _SHELLS:
            return words[-1]
    return ""


def _other_manager(text: str) -> str:
    """The package manager of another system that a command calls; "" where it calls none."""
    found = re.search(r"(?:^|[;&|(]|\bsudo)\s*(apk|yum|dnf|microdnf|zypper|pacman)\s", text)
    return found[1] if found else ""
