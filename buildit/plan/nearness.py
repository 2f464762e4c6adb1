"""How two builds of one package differ, in the words of who wrote the recipe. Pure.

`plan.identity.differences` says which fields differ; this names the patches, dependencies, flags
and arguments that do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from buildit.digest import BuildKey
from buildit.plan.identity import differences

LabelOf = Callable[[BuildKey], str]
"""`category/name-version` of a key, or its first digits where nobody knows it."""

_TOLD = ("version", "patches", "steps", "dependencies", "environment.USE", "toolchain")
_SHOWN_WORDS = 4


def told_differences(
    old: str, new: str, label: LabelOf, patch_names: Sequence[str] = ()
) -> tuple[str, ...]:
    """What differs between the record of an earlier build and that of the wanted one, one short
    clause each, most telling first. `patch_names` are those of the wanted one, in order.

    Raises:
        ValueError: one is no record.
    """
    before, after = _record(old), _record(new)
    found = [
        *_version(before, after),
        *_patches(before, after, patch_names),
        *_flags(before, after),
        *_dependencies(before, after, label),
        *_steps(before, after),
        *_toolchain(before, after),
    ]
    rest = {name: value for name, value in before.items() if name not in _TOLD}
    now = {name: value for name, value in after.items() if name not in _TOLD}
    for data in (rest, now):
        data["environment"] = {**data.get("environment", {}), "USE": ""}
    found += differences(json.dumps(rest), json.dumps(now))
    return tuple(dict.fromkeys(found))


def _record(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict) or not isinstance(found.get("environment", {}), dict):
        raise ValueError("not a record")
    return found


def _version(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    if before.get("version") != after.get("version"):
        yield f"its version is {before.get('version')}, not {after.get('version')}"


def _patches(
    before: Mapping[str, Any], after: Mapping[str, Any], names: Sequence[str]
) -> Iterator[str]:
    was = [(one["sha256"], one["strip"]) for one in before.get("patches", ())]
    now = [(one["sha256"], one["strip"]) for one in after.get("patches", ())]
    for number, patch in enumerate(now):
        if patch not in was:
            name = names[number] if number < len(names) else f"#{number + 1}"
            yield f"it lacks patch {name}"
    gone = sum(patch not in now for patch in was)
    if gone:
        yield f"it has {gone} other patch{'' if gone == 1 else 'es'}"
    if sorted(was) == sorted(now) and was != now:
        yield "its patches are in another order"


def _flags(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    was = set(before.get("environment", {}).get("USE", "").split())
    now = set(after.get("environment", {}).get("USE", "").split())
    yield from (f"it lacks flag {flag}" for flag in sorted(now - was))
    yield from (f"it has flag {flag}" for flag in sorted(was - now))


def _dependencies(
    before: Mapping[str, Any], after: Mapping[str, Any], label: LabelOf
) -> Iterator[str]:
    was = {one["key"]: one["outputs"] for one in before.get("dependencies", ())}
    now = {one["key"]: one["outputs"] for one in after.get("dependencies", ())}
    gone = {label(BuildKey(key)): key for key in was if key not in now}
    for key in now:
        if key in was:
            continue
        name = label(BuildKey(key))
        same = next((one for one in gone if _name(one) == _name(name)), None)
        if same is None:
            yield f"it was built without {name}"
        elif same == name:
            yield f"it was built with another build of {name} ({gone.pop(same)[:12]})"
        else:
            del gone[same]
            yield f"it was built with {same}, not {name}"
    yield from (f"it was built with {name}" for name in gone)
    if [*was] != [*now] and sorted(was) == sorted(now):
        yield "its dependencies are in another order"
    for key in was.keys() & now.keys():
        if was[key] != now[key]:
            yield f"it saw other outputs of {label(BuildKey(key))}"


def _name(text: str) -> str:
    """`category/name` of a label."""
    stem, dash, version = text.rpartition("-")
    return stem if dash and version[:1].isdigit() else text


def _steps(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    was = _words_by_phase(before)
    now = _words_by_phase(after)
    for phase in dict.fromkeys([*was, *now]):
        old, new = was.get(phase, []), now.get(phase, [])
        if old == new:
            continue
        lacks = [word for word in new if word not in old]
        has = [word for word in old if word not in new]
        parts = [f"lacks {_list(lacks)}"] if lacks else []
        parts += [f"has {_list(has)}"] if has else []
        yield f"its {phase} step {' and '.join(parts) or 'is in another order'}"


def _words_by_phase(record: Mapping[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for step in record.get("steps", ()):
        found.setdefault(step["phase"], []).extend(step["argv"])
    return found


def _list(words: Sequence[str]) -> str:
    shown = [word if len(word) <= 60 and "\n" not in word else "another script" for word in words]
    rest = len(shown) - _SHOWN_WORDS
    return ", ".join(shown[:_SHOWN_WORDS]) + (f" and {rest} more" if rest > 0 else "")


def _toolchain(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    if before.get("toolchain") != after.get("toolchain"):
        yield "it was built by another toolchain"
