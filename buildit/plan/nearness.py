"""What changed from one build of a package to another, in the words of its recipe. Pure.

Records say patches and dependencies by digest. Their names come from the caller: those of the
wanted build, and of the builds at hand.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from buildit.digest import BuildKey
from buildit.model.words import some

Record = Mapping[str, Any]
LabelOf = Callable[[BuildKey], str]
"""`category/name-version` of a key, or its first digits where it is not known."""

_TOLD = frozenset(
    {"version", "patches", "sources", "files", "steps", "dependencies", "toolchain", "rules"}
)
_SHOWN_WORDS = 4


def told_differences(
    old: str, new: str, label: LabelOf, patch_names: Sequence[str] = ()
) -> tuple[str, ...]:
    """What changed from the record of an earlier build to that of the wanted one, one short clause
    each, most telling first. `patch_names` are those of the wanted one, in order.

    Raises:
        ValueError: one is no record.
    """
    before, after = _record(old), _record(new)
    found = [
        *_replaced(before, after, "version", "version {} -> {}"),
        *_patches(before, after, patch_names),
        *_flags(before, after),
        *_named("source", _by_name(before), _by_name(after)),
        *_named("file", _by_path(before), _by_path(after)),
        *_dependencies(before, after, label),
        *_steps(before, after),
        *_replaced(before, after, "toolchain", "another toolchain"),
        *_rules(before, after),
        *_rest(before, after),
    ]
    if not found and before != after:
        found = ["what it is built from or with is in another order"]
    return tuple(dict.fromkeys(found))


def _record(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict) or not isinstance(found.get("environment", {}), dict):
        raise ValueError("not a record")
    return found


def _replaced(before: Record, after: Record, key: str, words: str) -> Iterator[str]:
    if before.get(key) != after.get(key):
        yield words.format(before.get(key), after.get(key))


def _patches(before: Record, after: Record, names: Sequence[str]) -> Iterator[str]:
    was = [(one["sha256"], one["strip"]) for one in before.get("patches", ())]
    now = [(one["sha256"], one["strip"]) for one in after.get("patches", ())]
    if sorted(was) == sorted(now):
        if was != now:
            yield "its patches are in another order"
        return
    come, gone = Counter(now) - Counter(was), Counter(was) - Counter(now)
    for _, was_from, was_to, now_from, now_to in SequenceMatcher(None, was, now).get_opcodes():
        left = [one for one in was[was_from:was_to] if gone[one] > 0]
        for number in range(now_from, now_to):
            if come[now[number]] == 0:
                continue
            come[now[number]] -= 1
            name = names[number] if number < len(names) else f"#{number + 1}"
            yield f"patch {name} {'changed' if left else 'is new'}"
            if left:
                gone[left.pop(0)] -= 1
    if rest := gone.total():
        yield f"{rest} patch{' is' if rest == 1 else 'es are'} gone"


def _flags(before: Record, after: Record) -> Iterator[str]:
    was, now = (set(one.get("environment", {}).get("USE", "").split()) for one in (before, after))
    then, here = (
        " ".join(f"{'+' if flag in flags else '-'}{flag}" for flag in sorted(was ^ now))
        for flags in (was, now)
    )
    if was != now:
        yield f"flags {then} -> {here}"


def _by_name(record: Record) -> dict[str, object]:
    listed = record.get("sources", ())
    names = [one.get("name") or "" for one in listed]
    return {
        name if names.count(name) == 1 and name else f"{name}#{number}": one
        for number, (name, one) in enumerate(zip(names, listed, strict=True), 1)
    }


def _by_path(record: Record) -> dict[str, object]:
    return {f"files/{one['path']}": one for one in record.get("files", ())}


def _named(noun: str, before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[str]:
    for name in dict.fromkeys([*after, *before]):
        if before.get(name) != after.get(name):
            verb = "is new" if name not in before else "is gone" if name not in after else "changed"
            yield f"{noun} {name} {verb}"


def _dependencies(before: Record, after: Record, label: LabelOf) -> Iterator[str]:
    was = {one["key"]: one["outputs"] for one in before.get("dependencies", ())}
    now = {one["key"]: one["outputs"] for one in after.get("dependencies", ())}
    gone = {key: label(BuildKey(key)) for key in was if key not in now}
    for key in now:
        if key in was:
            continue
        name = label(BuildKey(key))
        same = next((one for one in gone if _name(gone[one]) == _name(name)), None)
        if same is None:
            yield f"{name} is new"
        elif gone.pop(same) == name:
            yield f"another build of {name}"
        else:
            yield f"{label(BuildKey(same))} -> {name}"
    yield from (f"{name} is gone" for name in gone.values())
    if [*was] != [*now] and sorted(was) == sorted(now):
        yield "its dependencies are in another order"
    for key, outputs in now.items():
        if key in was and was[key] != outputs:
            yield f"it sees other outputs of {label(BuildKey(key))}"


def _name(text: str) -> str:
    """`category/name` of a label."""
    stem, dash, version = text.rpartition("-")
    return stem if dash and version[:1].isdigit() else text


def _steps(before: Record, after: Record) -> Iterator[str]:
    was, now = _words_by_phase(before), _words_by_phase(after)
    for phase in dict.fromkeys([*was, *now]):
        old, new = was.get(phase), now.get(phase)
        if old == new:
            continue
        if old is None or new is None:
            yield f"step {phase} is {'new' if old is None else 'gone'}"
            continue
        come = [word for word in new if word not in old]
        gone = [word for word in old if word not in new]
        if any(len(word) > 60 or "\n" in word for word in (*come, *gone)):
            yield f"the script of {phase} changed"
            continue
        parts = [
            f"{some(words, _SHOWN_WORDS)} {'is' if len(words) == 1 else 'are'} {what}"
            for words, what in ((come, "new"), (gone, "gone"))
            if words
        ]
        yield f"{phase}: {', '.join(parts) or 'its arguments are in another order'}"


def _words_by_phase(record: Record) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for step in record.get("steps", ()):
        found.setdefault(step["phase"], []).extend(step["argv"])
    return found


def _rules(before: Record, after: Record) -> Iterator[str]:
    was, now = before.get("rules", {}), after.get("rules", {})
    changed = [
        f"{name} {was.get(name, 'none')} -> {now.get(name, 'none')}"
        for name in sorted({*was, *now})
        if was.get(name) != now.get(name)
    ]
    if changed:
        yield f"buildit's own rules changed ({', '.join(changed)})"


def _rest(before: Record, after: Record) -> Iterator[str]:
    was, now = dict(_flat(before)), dict(_flat(after))
    for path in dict.fromkeys([*now, *was]):
        if path.partition(".")[0] in _TOLD or path == "environment.USE":
            continue
        if was.get(path) != now.get(path):
            yield f"{path} was {_short(was.get(path))}, is {_short(now.get(path))}"


def _short(value: str | None) -> str:
    if value is None:
        return "absent"
    return repr(value if len(value) <= 40 else value[:37] + "…")


def _flat(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    match value:
        case dict():
            for key, inner in value.items():
                yield from _flat(inner, f"{path}.{key}" if path else key)
        case list():
            for number, inner in enumerate(value, 1):
                yield from _flat(inner, f"{path}.{number}")
        case _:
            yield path, str(value)
