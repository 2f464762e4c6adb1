"""How a version that upstream writes in a way of its own is written here. Pure."""

from __future__ import annotations

import re

VERSION = r"[0-9]+(?:\.[0-9]+)*[a-z]?(?:_(?:alpha|beta|pre|rc|p)[0-9]*)*(?:-r[0-9]+)?"
"""A version as PMS 3.2 has it."""

_LONGEST = 100
_HEAD = re.compile(
    r"(?:v|r|ver|version|rel|release)?[-_.]?"
    r"(?P<numbers>[0-9]+(?:(?:_[0-9]{1,3})+|(?:-[0-9]{1,3})+|(?:[.][0-9]+)*)(?![0-9]))"
)
_COUNTED = re.compile(r"r(?P<count>[0-9]+)(?:[.+-]g?[0-9a-f]{5,40})?")  # commits and a git hash
_EPOCH = re.compile(r"[0-9]+:")
_PART = re.compile(
    r"[-._~+]?(?P<word>snapshot|preview|patch|build|git|alpha|beta|final|release|repack|dfsg|post|dev|pre"
    r"|rc|ga|ds|cr|a|b|c|m|p)?[-._]?(?P<number>[0-9]*(?:[.][0-9]+(?![0-9a-z]))*)(?:[.+-]g?[0-9a-f]{7,40}$)?"
)
_SUFFIXES = {
    "alpha": "alpha", "a": "alpha", "beta": "beta", "b": "beta",
    "pre": "pre", "preview": "pre", "dev": "pre", "snapshot": "pre", "m": "pre",
    "rc": "rc", "c": "rc", "cr": "rc", "p": "p", "patch": "p", "post": "p",
    "build": "p", "git": "p", None: "p",
}  # fmt: skip
_DROPPED = frozenset(("final", "release", "ga", "dfsg", "ds", "repack"))


def suggested(text: str) -> str | None:
    """The version of PMS 3.2 that says the same, None where none is near.

    Semver (`1.0.0-rc.1`), PEP 440 (`1.2.3a1`), Debian (`1.0~rc1`, `2.9+dfsg`), dates
    (`4.4-20221106`), git tags (`v1.2.3`) and counts (`r1234.abcdef0`), OpenJDK
    (`11.0.20.1+1`), boost (`1_2_3`).
    """
    lower = text.lower()
    if len(text) > _LONGEST or _is_version(text):
        return None
    counted = _COUNTED.fullmatch(lower)
    found = f"0_p{int(counted['count'])}" if counted else _rewritten(_EPOCH.sub("", lower, count=1))
    return found if found is not None and _is_version(found) else None


def _rewritten(text: str) -> str | None:
    head = _HEAD.match(text)
    if head is None:
        return None
    made, rest = re.sub("[_-]", ".", head["numbers"]), text[head.end() :]
    if re.match(r"[a-z](?![a-z0-9])", rest):
        made, rest = made + rest[0], rest[1:]
    while rest:
        part = _PART.match(rest)
        if part is None or not part[0] or not (part["word"] or part["number"]):
            return None
        word, number = part["word"], part["number"].replace(".", "")
        if word not in _DROPPED:
            made += f"_{_SUFFIXES[word]}{number}"
        rest = rest[part.end() :]
    return made


def suggested_name(name: str) -> str | None:
    """The `category/name-version` of a text that was taken for a name as a whole."""
    for dash in re.finditer("-", name):
        version = suggested(name[dash.end() :])
        if version is not None and name[: dash.start()].rpartition("/")[2]:
            return f"{name[: dash.start()]}-{version}"
    return None


def _is_version(text: str) -> bool:
    return re.fullmatch(VERSION, text) is not None
