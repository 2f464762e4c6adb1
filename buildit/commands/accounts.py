"""Accounts: who they are, and /etc/passwd and /etc/group as one generated layer, from fixed ids.

Pure, but for reading the files of accounts that a sync step brings.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from buildit.archive.beneath import Root
from buildit.digest import digest_bytes
from buildit.errors import BuildError, IntegrityError, RecipeError
from buildit.image.merge import with_parents
from buildit.image.rules import account_problems
from buildit.model.image import App
from buildit.model.plan import Group, User
from buildit.model.tree import Entry, Kind
from buildit.recipe.leaf import id_of

PASSWD, GROUP = "etc/passwd", "etc/group"
_LARGEST_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class Ids:
    """The accounts that owners of files and the app may name."""

    users: Mapping[str, User] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)

    def user(self, text: str) -> tuple[int | None, int | None]:
        """uid and first gid of a user's name or number; root is 0 everywhere."""
        number = 0 if text == "root" else id_of(text)
        found = self.users.get(text)
        return (found.uid, found.gid) if found else (number, number)

    def group(self, text: str) -> int | None:
        found = self.groups.get(text)
        return found.gid if found else 0 if text == "root" else id_of(text)

    def own_group(self, uid: int) -> int | None:
        """The first gid of the user with this number, where there is one."""
        own = {user.gid for user in self.users.values() if user.uid == uid}
        return min(own) if len(own) == 1 else 0 if uid == 0 else None

    def names(self) -> str:
        return ", ".join(sorted({*self.users, *self.groups})) or "none"

    def over(self, below: Ids) -> Ids:
        """These where a name is in both."""
        return Ids({**below.users, **self.users}, {**below.groups, **self.groups})


def app_with_ids(app: App, ids: Ids, places: Mapping[str, str]) -> App:
    """The app with numbers for its user and group, which every executor takes (Kubernetes'
    runAsNonRoot takes nothing else).

    `places` are where `user` and `group` were written.

    Raises:
        RecipeError: a name is none of the image's accounts; the app would start nowhere.
    """
    uid, _ = ids.user(app.user)
    gid = None if app.group is None else ids.group(app.group)
    asked = (("user", app.user, uid, ids.users), ("group", app.group, gid, ids.groups))
    for kind, name, found, known in asked:
        if name is None or found is not None or any(account_problems(name)):
            continue  # what is no name at all is told by the check of the app
        message = f"the app runs as {kind} {name!r}, which is no {kind} of the image"
        example = "{uid: 101, gid: 101}" if kind == "user" else "{gid: 101}"
        hint = (
            f"declare it: `- {kind}s: {{{name}: {example}}}`, or in the recipe of its package; "
            f"declared: {', '.join(sorted(known)) or 'none'}"
        )
        raise RecipeError(message, place=places.get(kind), hint=hint)
    own = None if uid is None else ids.own_group(uid)
    return replace(
        app,
        user=app.user if uid is None else str(uid),
        group=app.group if gid is None else str(gid),
        own_group=None if own is None else str(own),
    )


def synced_accounts(project: Path, syncs: Iterable[tuple[str, str]]) -> tuple[Ids, list[Path]]:
    """The accounts of an /etc/passwd or /etc/group that a sync step brings, and the files that
    were looked for. `syncs` are source and destination of each; the last one wins, as in the image.
    """
    rows: dict[str, list[list[str]]] = {PASSWD: [], GROUP: []}
    looked: list[Path] = []
    for src, dest in syncs:
        for wanted in (PASSWD, GROUP):
            source = _source_of(src, dest, wanted)
            if source is None:
                continue
            looked.append(project / source)
            # The sync step says what is wrong with a file that cannot be read.
            with suppress(OSError, BuildError, IntegrityError), Root.open(project) as root:
                with root.open_file(source) as stream:
                    text = stream.read(_LARGEST_FILE).decode("utf-8", "replace")
                found = (line.split(":") for line in text.split("\n") if line[:1] not in ":#")
                rows[wanted] = list(found)
    users = {
        name: User(name, user, group, home, shell, comment)
        for name, _, uid, gid, comment, home, shell in (r for r in rows[PASSWD] if len(r) == 7)
        if (user := id_of(uid)) is not None and (group := id_of(gid)) is not None
    }
    groups = {
        name: Group(name, group, tuple(one for one in members.split(",") if one))
        for name, _, gid, members in (row for row in rows[GROUP] if len(row) == 4)
        if (group := id_of(gid)) is not None
    }
    return Ids(users, groups), looked


def _source_of(src: str, dest: str, wanted: str) -> str | None:
    """The file of the project that becomes `wanted`, if there is one."""
    source, target = posixpath.normpath(src), posixpath.normpath(dest).strip("/")
    target = "" if target == "." else target
    if target == wanted:
        return source
    if dest.endswith("/") and posixpath.join(target, posixpath.basename(source)) == wanted:
        return source
    if not target or wanted.startswith(f"{target}/"):
        return posixpath.normpath(posixpath.join(source, wanted[len(target) :].lstrip("/")))
    return None


def account_files(
    users: Iterable[tuple[str, User]], groups: Iterable[tuple[str, Group]]
) -> dict[str, bytes]:
    """The text of `etc/passwd` and `etc/group`, by id; each account comes with who declares it.

    Raises:
        RecipeError: two declarations of one name or id differ, or a user's group does not exist.
    """
    users, groups = tuple(users), tuple(groups)
    for owner, user in users:  # passwd(5): a field ends at a colon, an account with its line
        for what in ("comment", "home", "shell"):
            value: str = getattr(user, what)
            if ":" in value or not value.isprintable():
                where = f"the {what} of user {user.name!r} in {owner}"
                message = f"{where} cannot be in /etc/passwd: {value!r}"
                raise RecipeError(message, hint="leave out colons and line breaks")
    by_name = _united(users, "user", lambda user: user.uid)
    groups_by_name = _united(groups, "group", lambda group: group.gid)
    gids = {group.gid for group in groups_by_name.values()}
    for user in by_name.values():
        if user.gid not in gids:
            message = f"user {user.name!r} has gid {user.gid}, which no group declares"
            hint = f"declare it: groups: {{{user.name}: {{gid: {user.gid}}}}}"
            raise RecipeError(message, hint=hint)
    if not by_name and not groups_by_name:
        return {}
    passwd = "".join(
        f"{u.name}:x:{u.uid}:{u.gid}:{u.comment}:{u.home}:{u.shell}\n"
        for u in sorted(by_name.values(), key=lambda user: (user.uid, user.name))
    )
    group = "".join(
        f"{g.name}:x:{g.gid}:{','.join(g.members)}\n"
        for g in sorted(groups_by_name.values(), key=lambda group: (group.gid, group.name))
    )
    return {"etc/group": group.encode(), "etc/passwd": passwd.encode()}


def account_entries(
    files: Mapping[str, bytes], tree: Mapping[str, Entry], epoch: int
) -> tuple[Entry, ...]:
    """The layer's entries over `tree`, the merged entries below, in order."""
    made = [
        Entry(path, Kind.FILE, 0o644, mtime=epoch, size=len(text), digest=digest_bytes(text))
        for path, text in files.items()
    ]
    return with_parents(made, tree, Entry("", Kind.DIRECTORY, 0o755, mtime=epoch))


_Account = TypeVar("_Account", User, Group)


def _united(
    declared: Iterable[tuple[str, _Account]], kind: str, number: Callable[[_Account], int]
) -> dict[str, _Account]:
    by_name: dict[str, tuple[str, _Account]] = {}
    by_id: dict[int, tuple[str, str]] = {}
    for owner, account in declared:
        first = by_name.setdefault(account.name, (owner, account))
        if first[1] != account:
            message = f"{kind} {account.name!r} is declared differently by {first[0]} and {owner}"
            raise RecipeError(message, hint="give both the same ids and paths")
        holder = by_id.setdefault(number(account), (owner, account.name))
        if holder[1] != account.name:
            message = f"{kind} id {number(account)} is {holder[1]!r} for {holder[0]} "
            message += f"and {account.name!r} for {owner}"
            raise RecipeError(message, hint="give one of them another id")
    return {name: account for name, (_, account) in by_name.items()}
