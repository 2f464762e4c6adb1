"""Which program of a .deb is the obvious one to run: what its systemd unit starts, else the one
program that it has. Pure."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from buildit.model.words import some

_PROGRAM = re.compile(r"usr/s?bin/([^/]+)")
UNIT = re.compile(r"usr/lib/systemd/system/([^/@]+)\.service")
"""Paths of units that are of one service, /usr merged."""

_STAYS = ("", "simple", "exec", "notify", "notify-reload")
"""`Type=` of services whose process is the one that was started (systemd.service(5))."""

_FOREGROUND: Mapping[str, tuple[str, ...]] = {
    "apachectl": ("-D", "FOREGROUND"),
    "nginx": ("-g", "daemon off;"),
}
"""What keeps programs in the foreground whose units have them fork (nginx(8): `daemon`; apache2(8):
`-D`, `FOREGROUND`)."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to run: the absolute program with its arguments, and the name of its user where that is
    not root; nothing where none is obvious. `remarks` say what is to be looked at."""

    exec: tuple[str, ...] = ()
    user: str = ""
    remarks: tuple[str, ...] = ()


def obvious_program(name: str, paths: Collection[str], units: Mapping[str, str]) -> Program:
    """The program of the package `name`, which has the files `paths` (/usr merged, without a
    leading slash), and `units`, the text of each unit by its path."""
    programs = sorted(path for path in paths if _PROGRAM.fullmatch(path))
    services = [(path, _settings(text)) for path, text in sorted(units.items())]
    services = [(path, said) for path, said in services if said.get("Type") != "oneshot"]
    if len(services) > 1:
        named = [pair for pair in services if _named(UNIT, pair[0]) == name]
        services = named or services
    if len(services) == 1 and (found := _of_unit(*services[0])) is not None:
        return found
    named_so = [path for path in programs if _named(_PROGRAM, path) == name]
    chosen = named_so if len(named_so) == 1 else programs
    if len(chosen) == 1:
        return Program((f"/{chosen[0]}",))
    if not programs:
        return Program(remarks=(f"debian:{name} has no program",))
    listed = some([f"/{path}" for path in programs], 6)
    return Program(remarks=(f"no program of debian:{name} is the obvious one: it has {listed}",))


def _named(pattern: re.Pattern[str], path: str) -> str:
    match = pattern.fullmatch(path)
    return match[1] if match else ""


def _settings(text: str) -> dict[str, str]:
    """The settings of a unit's [Service]; of one that is there twice the last."""
    found: dict[str, str] = {}
    section = ""
    for line in text.replace("\\\n", " ").split("\n"):
        line = line.strip()
        if line.startswith("["):
            section = line
        key, equals, value = line.partition("=")
        if equals and section == "[Service]" and line[0] not in "#;":
            found[key.strip()] = value.strip()
    return found


def _of_unit(path: str, said: Mapping[str, str]) -> Program | None:
    """What a unit starts; None where only systemd can say what that is."""
    unit = posixpath.basename(path)
    try:
        words = shlex.split(said.get("ExecStart", "").lstrip("-+!@:"))
    except ValueError:
        return None
    if not words or not words[0].startswith("/"):
        return None
    program, rest, remarks = words[0], words[1:], []
    kind = said.get("Type", "").lower()
    if kind not in _STAYS:
        foreground = _FOREGROUND.get(posixpath.basename(program))
        rest = [*(foreground or ())]
        if foreground is None:
            told = f"{unit} has {program} fork: add what keeps it in the foreground"
            remarks.append(f"{told} to `entrypoint`")
    unknown = [word for word in rest if re.search(r"\$|%[a-zA-Z]", word)]
    if unknown:
        rest = [word for word in rest if word not in unknown]
        remarks.append(f"{unit} has {program} started with {some(unknown)} too, which is left out")
    user = said.get("User", "")
    return Program((program, *rest), "" if user == "root" else user, tuple(remarks))
