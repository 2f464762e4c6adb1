"""What an image says of its start, whatever its format, and who runs in it; pure.

Each format says it in a document of its own: the config of OCI, which docker has too, the manifest
of an ACI, `config` of LXC, the settings of nspawn. A tree, a squashfs and an unpacked directory say
nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from buildit.errors import UsageError

LARGEST_ACCOUNTS = 1 << 20
"""Bytes that are read of a passwd or group."""

_MOST_IDS = (1 << 32) - 1  # the last one says "none" (setresuid(2))
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Launch:
    """How an image starts. `user` and `group` are names, numbers or, of an ACI, absolute paths of
    files whose owner is meant; `group` None is the user's own. `groups` are further group ids."""

    argv: tuple[str, ...] = ()
    user: str = "0"
    group: str | None = None
    groups: tuple[int, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    cwd: str = "/"


def launch_of(form: str, document: bytes) -> Launch:
    """What the document of an image of this format says; that it is sound was seen before.

    Raises:
        ValueError: it is no text, or no JSON.
    """
    if form in ("oci", "oci-archive", "docker-archive"):
        section = json.loads(document).get("config") or {}
        return _of_section(section)
    if form == "aci":
        return _of_app(json.loads(document).get("app"))
    if form == "lxc":
        return _of_config(document.decode())
    if form == "nspawn":
        return _of_settings(document.decode())
    return Launch()


def _of_section(section: Mapping[str, object]) -> Launch:
    """image-spec config.md, "config"."""
    words = [*_words(section.get("Entrypoint")), *_words(section.get("Cmd"))]
    user, _, group = str(section.get("User") or "0").partition(":")
    return Launch(
        tuple(words),
        user or "0",
        group or None,
        (),
        tuple(_pairs(_words(section.get("Env")))),
        str(section.get("WorkingDir") or "/"),
    )


def _of_app(app: Mapping[str, object] | None) -> Launch:
    """appc spec aci.md, "app"."""
    if app is None:
        return Launch()
    known = {name.lower(): value for name, value in app.items()}
    further = known.get("supplementarygids")
    variables = known.get("environment")
    return Launch(
        _words(known.get("exec")),
        str(known.get("user", "0")),
        str(known.get("group", "0")),
        tuple(one for one in further if isinstance(one, int)) if isinstance(further, list) else (),
        tuple((str(each["name"]), str(each["value"])) for each in variables)
        if isinstance(variables, list)
        else (),
        str(known.get("workingdirectory") or "/"),
    )


def _of_config(text: str) -> Launch:
    """lxc.container.conf(5), the keys that our own configs have."""
    pairs = [
        (key.strip(), value.strip())
        for key, sign, value in (line.partition("=") for line in text.splitlines())
        if sign and not key.lstrip().startswith("#")
    ]
    said = dict(pairs)
    command = said.get("lxc.execute.cmd") or said.get("lxc.init.cmd", "")
    if len(command) > 1 and command[0] == command[-1] and command[0] in "'\"":
        command = command[1:-1]  # confile.c takes a pair around the whole off
    variables = [value for key, value in pairs if key == "lxc.environment"]
    return Launch(
        tuple(quoted_words(command)),
        said.get("lxc.init.uid", "0"),
        said.get("lxc.init.gid", "0"),
        (),
        tuple(_pairs(variables)),
        said.get("lxc.init.cwd", "/"),
    )


def _of_settings(text: str) -> Launch:
    """systemd.nspawn(5), the section [Exec]."""
    section = ""
    lists: dict[str, list[str]] = {"Parameters": [], "Environment": []}
    said: dict[str, str] = {}
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line
        if section != "[Exec]" or line.startswith(("#", ";", "[")):
            continue
        key, _, value = line.partition("=")
        if key in lists:
            lists[key] = [*lists[key], *quoted_words(value)] if value else []
        else:
            said[key] = value
    return Launch(
        tuple(lists["Parameters"]),
        said.get("User") or "0",
        None,
        (),
        tuple(_pairs(lists["Environment"])),
        said.get("WorkingDirectory") or "/",
    )


_PIECE = re.compile(r""""([^"]*)"|'([^']*)'|([^\s"']+)|(\s+)""")


def quoted_words(text: str) -> Iterator[str]:
    """Words cut at blanks; quotes of both kinds hold them together, and nothing escapes."""
    word: str | None = None
    for found in _PIECE.finditer(text):
        if found[4] is not None:
            if word is not None:
                yield word
            word = None
        else:
            word = (word or "") + (found[1] or found[2] or found[3] or "")
    if word is not None:
        yield word


def _words(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _pairs(lines: list[str] | tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, _, value = line.partition("=")
        yield name, value


def _is_id(text: str) -> bool:
    """Whether it can be a number of 32 bits; int() raises at 4300 digits."""
    return text.isdecimal() and len(text) <= 10


@dataclass(frozen=True, slots=True)
class Accounts:
    """The texts of an image's passwd and group, and the owner (uid, gid) of the files that a user
    or group is said to be of."""

    passwd: str = ""
    group: str = ""
    owners: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def users(self) -> Iterator[tuple[str, int, int, str]]:
        """Name, uid, gid and home of each line of passwd(5) that has them."""
        for line in self.passwd.splitlines():
            parts = line.split(":")
            if len(parts) >= 6 and _is_id(parts[2]) and _is_id(parts[3]):
                yield parts[0], int(parts[2]), int(parts[3]), parts[5]

    def groups(self) -> Iterator[tuple[str, int, list[str]]]:
        """Name, gid and members of each line of group(5)."""
        for line in self.group.splitlines():
            parts = line.split(":")
            if len(parts) >= 4 and _is_id(parts[2]):
                yield parts[0], int(parts[2]), parts[3].split(",")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a run needs to know of an image beside its tree: `start` is that of `Reading`, `owners`
    are those of its files."""

    format: str
    identifier: str
    start: str
    accounts: Accounts
    owners: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who runs: numbers, and the home directory."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def identity_of(launch: Launch, accounts: Accounts) -> Identity:
    """Names become numbers as the image's own files say. A number needs no entry there. Groups of
    the user come along, unless a group is named (runc's and rkt's rule).

    Raises:
        UsageError: the image has no such user or group.
    """
    users = list(accounts.users())
    row = next((one for one in users if one[0] == launch.user), None)
    number = _number(launch.user, accounts, 0)
    if row is None and number is None:
        known = ", ".join(one[0] for one in users[:20]) or "none"
        message = f"the image has no user {launch.user!r}"
        raise UsageError(message, hint=f"name a number, or one of /etc/passwd in it: {known}")
    if row is None:
        row = next((one for one in users if one[1] == number), None)
    uid, own, home = row[1:] if row is not None else (number or 0, 0, "/")
    groups = [gid for _, gid, members in accounts.groups() if row and row[0] in members]
    if launch.group is None:
        return Identity(uid, own, tuple(sorted({*groups, *launch.groups})), home)
    found = next((gid for name, gid, _ in accounts.groups() if name == launch.group), None)
    gid = _number(launch.group, accounts, 1) if found is None else found
    if gid is None:
        message = f"the image has no group {launch.group!r}"
        raise UsageError(message, hint="name a number, or a group of /etc/group in it")
    return Identity(uid, gid, tuple(sorted(launch.groups)), home)


def _number(text: str, accounts: Accounts, which: int) -> int | None:
    if text.startswith("/"):
        owner = accounts.owners.get(text)
        return None if owner is None else owner[which]
    number = int(text) if _is_id(text) else _MOST_IDS
    return number if number < _MOST_IDS else None


def launch_environment(
    launch: Launch, identity: Identity, given: Mapping[str, str], terminal: str
) -> dict[str, str]:
    """The whole environment: what every program finds, the image's over it, the caller's on top.
    `terminal` is the kind of the caller's, empty without one."""
    first = {"PATH": DEFAULT_PATH, "HOME": identity.home or "/", "container": "buildit"}
    kind = {"TERM": terminal} if terminal else {}
    return {**first, **kind, **dict(launch.environment), **given}
