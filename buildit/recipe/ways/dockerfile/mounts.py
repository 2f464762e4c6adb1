"""`RUN --mount=…`: what a command finds mounted. Pure.

Docker's reference, "RUN --mount"; the options of each type, and their other names, are BuildKit's.
"""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass

from buildit.model.words import hint_of
from buildit.recipe.ways.dockerfile.parse import Instruction

_KINDS = ("bind", "cache", "tmpfs", "secret", "ssh")
_OTHER_NAMES = {
    "src": "source",
    "dst": "target",
    "destination": "target",
    "ro": "readonly",
    "rw": "readwrite",
}
_SWITCHES = ("readonly", "readwrite", "required")
_OPTIONS = {
    "bind": ("type", "from", "source", "target", "readonly", "readwrite"),
    "cache": (
        *("type", "from", "source", "target", "readonly", "readwrite", "id", "sharing"),
        *("mode", "uid", "gid"),
    ),
    "tmpfs": ("type", "target", "size", "readonly", "readwrite"),
    "secret": ("type", "id", "source", "target", "required", "mode", "uid", "gid", "env"),
    "ssh": ("type", "id", "target", "required", "mode", "uid", "gid"),
}
_TRUE = ("1", "t", "true")
_FALSE = ("0", "f", "false")


@dataclass(frozen=True, slots=True)
class RunMount:
    """One mount. `target` is absolute; `origin` is a stage or an image, empty for the directory of
    the file, `source` a path in it. `mode`, `uid` and `gid` are texts, empty where they are not
    said."""

    kind: str
    target: str
    origin: str = ""
    source: str = ""
    id: str = ""
    is_writable: bool = False
    is_required: bool = False
    sharing: str = "shared"
    size: str = ""
    mode: str = ""
    uid: str = ""
    gid: str = ""
    variable: str = ""


def mounted_from(one: Instruction) -> list[str]:
    """What the mounts of a RUN come from: names of stages and images, as written."""
    found = (_options(one, text) for text in one.values_of("mount"))
    return [options["from"] for options in found if options.get("from")]


def mounts_of(
    one: Instruction, expand: Callable[[str], str], directory: str
) -> tuple[RunMount, ...]:
    """The mounts of a RUN; `expand` gives a text its values, `directory` is where it starts.

    Raises:
        RecipeError: one is malformed, or of a type that is not here.
    """
    return tuple(_mount(one, text, expand, directory) for text in one.values_of("mount"))


def _options(one: Instruction, text: str) -> dict[str, str]:
    """The options of a mount as written, by their first names; a switch alone is `true`."""
    try:
        (fields,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as error:
        raise one.error(
            f"--mount={text[:60]} is malformed", "divide its options by commas"
        ) from error
    found: dict[str, str] = {}
    for field in fields:
        name, is_set, value = field.partition("=")
        name = _OTHER_NAMES.get(name.lower(), name.lower())
        if not is_set and name not in _SWITCHES:
            raise one.error(f"{field[:40]!r} of --mount has no value", f"write {name[:40]}=…")
        found[name] = value if is_set else "true"
    return found


def _mount(one: Instruction, text: str, expand: Callable[[str], str], directory: str) -> RunMount:
    written = _options(one, text)
    said = {k: v if k == "from" else expand(v) for k, v in written.items()}
    kind = said.get("type", "bind").lower()
    if kind not in _KINDS:
        raise one.error(f"there is no mount of type {kind[:40]!r}", hint_of(kind, _KINDS))
    for name in said:
        if name not in _OPTIONS[kind]:
            hint = hint_of(name, _OPTIONS[kind])
            raise one.error(f"a mount of type {kind} has no {name[:40]!r}", hint)
    if kind == "ssh":
        hint = "bring the key as a secret: --mount=type=secret,id=key"
        raise one.error("an SSH agent cannot be had in a build", hint)
    if kind == "secret":
        return _secret(one, said, directory)
    if not said.get("target"):
        raise one.error(f"a mount of type {kind} has no target", "add target=/PATH")
    writable = kind in ("cache", "tmpfs")
    if "readonly" in said:
        writable = not _switch(one, said, "readonly")
    if "readwrite" in said:
        writable = _switch(one, said, "readwrite")
    sharing = said.get("sharing", "shared").lower()
    if sharing not in ("shared", "private", "locked"):
        hint = hint_of(sharing, ("shared", "private", "locked"))
        raise one.error(f"a cache cannot be shared as {sharing[:40]!r}", hint)
    target = posixpath.normpath(posixpath.join(directory, said["target"]))
    if target.strip("/") == "":
        raise one.error("nothing can be mounted over /", "name a directory as its target")
    source = posixpath.normpath("/" + said.get("source", "")).lstrip("/")
    return RunMount(
        kind,
        target,
        said.get("from", ""),
        source,
        said.get("id", "") or target,
        writable,
        False,
        sharing,
        _size(one, said.get("size", "")),
        *_owner(one, said),
    )


def _secret(one: Instruction, said: dict[str, str], directory: str) -> RunMount:
    target, variable = said.get("target", ""), said.get("env", "")
    name = said.get("id") or said.get("source") or posixpath.basename(target)
    if not name:
        raise one.error("a mount of type secret has no id", "add id=NAME, and --secret id=NAME,…")
    if not target and not variable:
        target = f"/run/secrets/{posixpath.basename(name)}"
    if target:
        target = posixpath.normpath(posixpath.join(directory, target))
    required = "required" in said and _switch(one, said, "required")
    mode, uid, gid = _owner(one, said)
    return RunMount(
        "secret",
        target,
        id=name,
        is_required=required,
        mode=mode,
        uid=uid,
        gid=gid,
        variable=variable,
    )


def _switch(one: Instruction, said: dict[str, str], name: str) -> bool:
    value = said[name].lower()
    if value not in (*_TRUE, *_FALSE):
        raise one.error(f"{name} of --mount is true or false, not {value[:40]!r}")
    return value in _TRUE


def _owner(one: Instruction, said: dict[str, str]) -> tuple[str, str, str]:
    """Mode with a leading zero, uid, gid."""
    mode = said.get("mode", "")
    if mode and not re.fullmatch(r"0?o?[0-7]{1,4}", mode):
        raise one.error(f"mode={mode[:40]} of --mount is no octal number", "write it as in 0755")
    for name in ("uid", "gid"):
        if said.get(name) and not re.fullmatch(r"[0-9]{1,9}", said[name]):
            raise one.error(f"{name}={said[name][:40]} of --mount is no number")
    shown = f"0{mode.lstrip('0o') or '0'}" if mode else ""
    return shown, said.get("uid", ""), said.get("gid", "")


def _size(one: Instruction, text: str) -> str:
    match = re.fullmatch(r"([0-9]{1,12})([kmgt]?)i?b?", text.lower()) if text else None
    if text and match is None:
        raise one.error(f"size={text[:40]} of --mount is no size", "write it as in 64m")
    return f"{match[1]}{match[2].upper()}" if match else ""
