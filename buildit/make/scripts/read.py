"""What a .deb's maintainer scripts would have done to an image, as rules; none is started. Pure.

The scripts are walked by `walk` as on a first installation: `preinst install`, then
`postinst configure ""` (Debian Policy 6.5). Commands with a plain meaning for files and accounts
become rules; those that concern a running system only (services, debconf, caches) mean nothing for
an image; whatever else would change something is the remainder, which the user is told. After the
scripts count sysusers.d(5), tmpfiles.d(5) and what units have systemd make (systemd.exec(5),
RuntimeDirectory= and its like), as services find it on every Debian system.

Where a script is not literal, or does what a rule cannot say, `INSTEAD` has what is walked in its
place: the same few commands.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping
from functools import partial

from buildit.make.scripts.effects import answered
from buildit.make.scripts.instead import INSTEAD
from buildit.make.scripts.shell import NotShell
from buildit.make.scripts.state import ScriptRules, ScriptState, TextOf, inside
from buildit.make.scripts.walk import UNKNOWN, ShellCommand, Walk
from buildit.model.tree import Kind

SCRIPTS: Mapping[str, tuple[str, ...]] = {"preinst": ("install",), "postinst": ("configure", "")}
_LARGEST = 1 << 18  # bytes of a script; Debian's largest has a fifth of it
_SYSTEMD = {
    "Runtime": "run",
    "State": "var/lib",
    "Cache": "var/cache",
    "Logs": "var/log",
    "Configuration": "etc",
}


def script_rules(
    name: str,
    control: Mapping[str, bytes],
    kinds: Mapping[str, Kind],
    read: TextOf,
    instead: Mapping[str, str] = INSTEAD,
) -> ScriptRules:
    """The rules of a package; `kinds` has its paths, merged and without a leading slash."""
    state = ScriptState(dict(kinds), read, _defaults(control.get("templates", b"")))
    if name in instead:
        _walk(state, "buildit", instead[name], SCRIPTS["postinst"], name)
    else:
        said = re.search(
            rb"^Architecture: *([a-z0-9-]+)", control.get("control", b""), re.MULTILINE
        )
        architecture = said[1].decode() if said and said[1] != b"all" else UNKNOWN
        for script, arguments in SCRIPTS.items():
            text = control.get(script, b"")
            if len(text) > _LARGEST:
                state.left(script, f"{len(text)} bytes", "longer than a maintainer script is")
            elif re.match(rb"#!\s*\S*(sh|bash)\b", text):
                _walk(state, script, text.decode("utf-8", "replace"), arguments, name, architecture)
            elif text:
                state.left(
                    script, text.split(b"\n")[0].decode("utf-8", "replace"), "no shell script"
                )
    for path in sorted(kinds):
        if re.fullmatch(r"usr/lib/sysusers\.d/[^/]+\.conf", path):
            _sysusers(state, path)
        elif re.fullmatch(r"usr/lib/tmpfiles\.d/[^/]+\.conf", path):
            _tmpfiles(state, path)
        elif re.fullmatch(r"(usr/lib|etc)/systemd/system/[^/]+\.(service|socket)", path):
            _unit(state, path)
    return state.done()


def _defaults(templates: bytes) -> dict[str, str]:
    """The answers of debconf to whom nobody answered, by the question's name."""
    found = {}
    for paragraph in templates.decode("utf-8", "replace").split("\n\n"):
        parts = (line.partition(":") for line in paragraph.split("\n"))
        fields = {key: value.strip() for key, colon, value in parts if colon and key[:1] != " "}
        found[fields.get("Template", "")] = fields.get("Default", "")
    return found


# -- scripts


def _walk(
    state: ScriptState,
    script: str,
    text: str,
    arguments: tuple[str, ...],
    name: str,
    architecture: str = UNKNOWN,
) -> None:
    state.script, state.line = script, 0
    variables = {
        "DPKG_MAINTSCRIPT_NAME": script,
        "DPKG_MAINTSCRIPT_PACKAGE": name,
        "DPKG_MAINTSCRIPT_ARCH": architecture,
    }
    state.walked = Walk(partial(answered, state), arguments, variables)
    try:
        state.walked.script(text)
    except NotShell as error:
        state.left(script, "it cannot be read as a shell script", str(error))


# -- files of systemd


def _lines(state: ScriptState, path: str) -> Iterator[list[str]]:
    state.script, state.line = posixpath.basename(path), 0
    for line in state.read(path).split("\n"):
        state.line += 1
        if line.strip() and line.strip()[0] not in "#;":
            try:
                yield shlex.split(line)
            except ValueError:
                state.left(state.place, line.strip(), "not literal")


def _sysusers(state: ScriptState, path: str) -> None:
    for kind, name, *rest in (words for words in _lines(state, path) if len(words) > 1):
        number, comment, home, shell = (*rest, *["-"] * 4)[:4]
        given = number.partition(":")[2]
        if kind[:1] == "u":
            home = "/" if home == "-" else home
            shell = "/usr/sbin/nologin" if shell == "-" else shell
            state.user(
                name,
                given if given and not given.isdigit() else name,
                home,
                shell,
                comment.strip("-"),
            )
        elif kind[:1] == "g":
            state.group(name)
        elif kind[:1] == "m":
            state.group(number, name)


def _tmpfiles(state: ScriptState, path: str) -> None:
    for kind, target, *rest in (words for words in _lines(state, path) if len(words) > 1):
        mode, user, group, _, argument = (*rest, *["-"] * 5)[:5]
        at = inside(target)
        if "%" in target or "*" in target or not kind or kind[0] not in "dDfFLCzev":
            continue  # removals, devices, quotas and ages: a running system's
        if kind[0] == "L":
            state.link(at, argument if argument != "-" else f"/usr/share/factory/{at}")
            continue
        if kind[0] == "C":
            if argument != "-":
                state.copy(argument, at)
            continue
        if kind[0] in "dDv":
            state.directory(at)
        elif kind[0] in "fF" and at not in state.kinds:
            state.parents(at)
            state.rule("write", at, "" if argument == "-" else argument)
            state.kinds[at] = Kind.FILE
        if at in state.kinds:
            state.attributes(at, mode.lstrip("~:"), user, group)


def _before_start(state: ScriptState, line: str) -> None:
    """What a unit does to directories before each start (systemd.service(5), ExecStartPre=)."""
    try:
        words = tuple(shlex.split(line.lstrip("-+!@:")))
    except ValueError:
        return
    name = posixpath.basename(words[0]) if words else ""
    if name in ("mkdir", "chown", "chmod", "install") and not any("%" in one for one in words):
        answered(state, ShellCommand((name, *words[1:]), 0))
    elif words and words[0].startswith(("/usr/lib", "/usr/share/")):  # a helper, not a mere check
        state.left(
            state.place, line, "systemd does it before each start; so must what the image runs"
        )


def _unit(state: ScriptState, path: str) -> None:
    """The directories that systemd makes before a service starts, in /run, /var/lib, …"""
    values: dict[str, str] = {}
    before: list[str] = []
    state.script, state.line = posixpath.basename(path), 0
    for at in ("run", "var/log"):  # of base-files: a service's sockets and logs are in them
        if at not in state.kinds:
            state.rule("directory", at)
            state.kinds[at] = Kind.DIRECTORY
    for line in state.read(path).replace("\\\n", " ").split("\n"):
        key, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            values[key.strip()] = value.strip()
            before += [value.strip()] if key.strip() == "ExecStartPre" else []
    for line in before:
        _before_start(state, line)
    user = values.get("User", "root")
    group = values.get("Group") or (user if user in state.groups or user in state.users else "")
    if values.get("DynamicUser", "no") in ("yes", "true", "1"):
        return
    for key, top in _SYSTEMD.items():
        for name in values.get(f"{key}Directory", "").split():
            at = f"{top}/{name.partition(':')[0]}"
            if "%" in at:
                continue
            made = at not in state.kinds
            state.directory(at)
            if made or values.get(f"{key}DirectoryMode"):
                state.rule("mode", at, values.get(f"{key}DirectoryMode", "0755"))
            if user != "root" and key != "Configuration":
                state.rule("owner", at, state.named(f"{user}:{group}"))
