"""What the reading of a package's scripts comes to: rules, accounts and what is left over."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from buildit.archive.contents import merged_path
from buildit.make.scripts.registered import Alternative, Delegation
from buildit.make.scripts.walk import Walk
from buildit.model.accounts import (
    ACCOUNT_NAME,
    BASE_GROUPS,
    BASE_USERS,
    AlternativeLink,
    Declared,
    Group,
    User,
    group_id,
    user_id,
)
from buildit.model.tree import Kind

_FIELD = re.compile(r"[^:\x00-\x1f\x7f]*")
"""What a comment, home or shell can be in passwd(5)."""
TextOf = Callable[[str], str]
"""The text of one of the package's files, empty where it has none of that path."""


@dataclass(frozen=True, slots=True)
class ScriptRule:
    """One thing that is done to the tree: `kind` is `directory`, `mode`, `owner`, `copy`, `link`,
    `write`, `capabilities` or `certificates`; `value` a mode, `user:group`, the source, the link's
    text, the content, or a clause. `place` is such as `postinst:12`."""

    kind: str
    path: str
    value: str = ""
    recursive: bool = False
    place: str = ""

    @property
    def said(self) -> str:
        value, lines = self.value.rstrip(), self.value.count("\n")
        value = f"({lines} lines)" if lines > 1 else value
        what = f" -R {value}" if self.recursive else f" {value}" if value else ""
        return f"{self.kind} /{self.path}{what}"


@dataclass(frozen=True, slots=True)
class Remainder:
    """What a script would have done and no rule does, and why where that is known."""

    place: str
    text: str
    why: str = ""

    @property
    def said(self) -> str:
        return f"{self.place}: {self.text}" + (f" ({self.why})" if self.why else "")


@dataclass(frozen=True, slots=True)
class ScriptRules:
    """All of one package; `alternatives` and `catalogs` are what it registers, for who makes a root
    of all its packages."""

    rules: tuple[ScriptRule, ...]
    declared: Declared
    remainder: tuple[Remainder, ...]
    alternatives: tuple[Alternative, ...] = ()
    catalogs: tuple[Delegation, ...] = ()

    def without(self, undone: Mapping[ScriptRule, str]) -> ScriptRules:
        """The same with rules that could not be done, for these reasons, left over."""
        left = (Remainder(one.place, one.said[:100], why) for one, why in undone.items())
        rules = tuple(one for one in self.rules if one not in undone)
        return replace(self, rules=rules, remainder=(*self.remainder, *left))

    @property
    def said(self) -> tuple[str, ...]:
        """All of it, one line each: rules, accounts, alternatives, and what is left over."""
        declared = self.declared
        users = (f"user {u.name} {u.uid}:{u.gid} {u.home} {u.shell}" for u in declared.users)
        groups = (
            f"group {g.name} {g.gid}" + (f" with {', '.join(g.members)}" if g.members else "")
            for g in declared.groups
        )
        links = (f"alternative /{a.link} /{a.target} {a.priority}" for a in declared.alternatives)
        rules = (f"{rule.said}  # {rule.place}" for rule in self.rules)
        left = (f"not done: {one.said}" for one in self.remainder)
        return (*users, *groups, *links, *rules, *left)


@dataclass(slots=True)
class ScriptState:
    """What is known so far; `kinds` are the paths of the package and of what rules made."""

    kinds: dict[str, Kind]
    read: TextOf
    defaults: Mapping[str, str]
    rules: list[ScriptRule] = field(default_factory=list)
    users: dict[str, User] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    links: dict[str, AlternativeLink] = field(default_factory=dict)
    alternatives: list[Alternative] = field(default_factory=list)
    catalogs: list[Delegation] = field(default_factory=list)
    remainder: dict[tuple[str, str], Remainder] = field(default_factory=dict)
    script: str = ""
    line: int = 0
    walked: Walk | None = None

    def done(self) -> ScriptRules:
        rules = tuple(dict.fromkeys(self.rules))
        groups = {
            name: replace(one, members=tuple(sorted({*one.members})))
            for name, one in self.groups.items()
        }
        declared = Declared(
            tuple(self.users[name] for name in sorted(self.users)),
            tuple(groups[name] for name in sorted(groups)),
            tuple(self.links[link] for link in sorted(self.links)),
        )
        remainder = tuple(self.remainder.values())
        registered = tuple(self.alternatives), tuple(self.catalogs)
        return ScriptRules(rules, declared, remainder, *registered)

    @property
    def place(self) -> str:
        return f"{self.script}:{self.line}" if self.line else self.script

    def left(self, place: str, text: str, why: str = "") -> None:
        shown = text if len(text) <= 100 else f"{text[:99]}…"
        self.remainder.setdefault((place, shown), Remainder(place, shown, why))

    def rule(self, kind: str, path: str, value: str = "", *, recursive: bool = False) -> None:
        self.rules.append(ScriptRule(kind, path, value, recursive, self.place))

    def parents(self, path: str) -> None:
        """Directories above a path, those that the package has not."""
        parts = path.split("/")[:-1]
        for count in range(1, len(parts) + 1):
            above = "/".join(parts[:count])
            if above not in self.kinds and not is_base(above):
                self.rule("directory", above)
                self.kinds[above] = Kind.DIRECTORY

    # -- accounts

    def user(self, name: str, group: str, home: str, shell: str, comment: str) -> None:
        if not self._is_account(name) or not self._is_account(group):
            return
        fields = (comment, home, shell)
        if not all(map(_FIELD.fullmatch, fields)):
            self.left(self.place, name, f"{fields!r} cannot be in /etc/passwd")
            return
        if name in BASE_USERS:
            self.users[name] = BASE_USERS[name]
        else:
            made = User(name, user_id(name), group_id(group), home, shell, comment)
            self.users.setdefault(name, made)
        self.group(group)
        if name in BASE_USERS:
            own = BASE_USERS[name].gid
            self.group(next(one for one, gid in BASE_GROUPS.items() if gid == own))

    def group(self, name: str, *members: str) -> None:
        if not all(map(self._is_account, (name, *members))):
            return
        known = self.groups.get(name, Group(name, group_id(name)))
        self.groups[name] = replace(known, members=(*known.members, *members))

    def _is_account(self, name: str) -> bool:
        """Whether it is the name of an account; what is none is left over."""
        if re.fullmatch(ACCOUNT_NAME, name):
            return True
        self.left(self.place, name, "not the name of a user or group")
        return False

    def named(self, owner: str) -> str:
        """`user:group` with the accounts of base-passwd in it declared, or "" where it is not
        literal."""
        user, colon, group = re.sub(r"^([^:.]+)\.", r"\1:", owner).partition(":")
        if user in BASE_USERS and user != "root":
            self.user(
                user,
                next(g for g, n in BASE_GROUPS.items() if n == BASE_USERS[user].gid),
                "",
                "",
                "",
            )
        if colon and not group:  # the user's own
            gid = BASE_USERS[user].gid if user in BASE_USERS else None
            known = self.users.get(user)
            return f"{user}:{gid if gid is not None else known.gid if known else group_id(user)}"
        if group in BASE_GROUPS and group != "root":
            self.group(group)
        return f"{user}:{group}"

    def attributes(self, at: str, mode: str, user: str, group: str) -> None:
        if mode not in ("", "-"):
            self.rule("mode", at, mode)
        if (user, group) != ("-", "-"):
            users, groups = ("root" if one == "-" else one for one in (user, group))
            self.rule("owner", at, self.named(f"{users}:{groups}"))

    def directory(self, at: str) -> None:
        if at and at not in self.kinds and not is_base(at):
            self.parents(at)
            self.rule("directory", at)
            self.kinds[at] = Kind.DIRECTORY

    def copy(self, source: str, at: str) -> str:
        origin = inside(source)
        if at in self.kinds:
            return ""
        if source == "/dev/null":
            kind, value = "write", ""
        elif self.kinds.get(origin) in (Kind.FILE, Kind.HARDLINK):
            kind, value = "copy", origin
        elif origin in self.kinds:
            return "it copies a directory or a link"
        else:
            return f"{source} is no file of the package"
        self.parents(at)
        self.rule(kind, at, value)
        self.kinds[at] = Kind.FILE
        return ""

    def link(self, at: str, target: str) -> str:
        if at in _RUN:
            return ""  # of /var/run and /var/lock: base-files has them
        if self.kinds.get(at) in (None, Kind.SYMLINK):
            self.parents(at)
            self.rule("link", at, target)
            self.kinds[at] = Kind.SYMLINK
        return ""


_BASE = "etc home opt root run srv tmp usr usr/bin usr/lib usr/sbin usr/share var var/backups"
_BASE += " var/cache var/lib var/local var/log var/mail var/opt var/spool var/tmp dev proc sys"


_RUN = ("run", "run/lock")


def is_base(path: str) -> bool:
    """Directories of base-files: made on the way, never with rules of their own."""
    return path in _BASE.split()


def inside(path: str) -> str:
    """A path as the image has it: merged /usr, and /var/run, which is /run (Policy 9.1.4)."""
    at = posixpath.normpath(path).lstrip("/")
    for old, new in (("var/run", "run"), ("var/lock", "run/lock")):
        if at == old or at.startswith(f"{old}/"):
            at = new + at[len(old) :]
    return "" if at == "." else merged_path(at)
