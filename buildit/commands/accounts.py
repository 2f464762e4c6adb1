"""Accounts: who they are, and /etc/passwd and /etc/group, from fixed ids; over those of a base,
where the container begins with one.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from buildit.archive.beneath import Root
from buildit.commands.sync import Filler
from buildit.digest import digest_bytes
from buildit.errors import BuildError, IntegrityError, RecipeError
from buildit.image.launch import LARGEST_ACCOUNTS
from buildit.image.merge import with_parents
from buildit.image.rules import account_problems
from buildit.model.accounts import (
    ACCOUNT_NAME,
    BASE_USERS,
    Declared,
    Group,
    User,
    group_id,
    user_id,
)
from buildit.model.image import App
from buildit.model.plan import (
    DirectoriesStep,
    DirectoryToMake,
    LayerStep,
    ModesStep,
    ModeToSet,
    SyncStep,
    TextsStep,
    TextToWrite,
)
from buildit.model.tree import Entry, Kind
from buildit.recipe.leaf import id_of

PASSWD, GROUP = "etc/passwd", "etc/group"


@dataclass(frozen=True, slots=True)
class Ids:
    """The accounts that owners of files and the app may name.

    Where the image has packages of Debian's, other names have the ids that these always give them:
    they are noted in `borrowed`, and looked for when the packages are at hand. With `late` the
    layers below have names of their own, which nobody knows before they are made."""

    users: Mapping[str, User] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    borrowed: set[tuple[str, str]] | None = None
    late: bool = False

    def user(self, text: str) -> tuple[int | None, int | None]:
        """uid and first gid of a user's name or number; root is 0 everywhere."""
        number = 0 if text == "root" else id_of(text)
        found = self.users.get(text)
        if found is None and number is None and self._borrows("user", text):
            return user_id(text), own_gid(text)
        return (found.uid, found.gid) if found else (number, number)

    def group(self, text: str) -> int | None:
        found = self.groups.get(text)
        number = 0 if text == "root" else id_of(text)
        if found is None and number is None and self._borrows("group", text):
            return group_id(text)
        return found.gid if found else number

    def owner(self, text: str) -> tuple[int, int] | None:
        """uid and gid of `user:group`, or of a user and the first group of that; None for who is
        not known."""
        user, _, group = text.partition(":")
        uid, own = self.user(user)
        gid = self.group(group) if group else own
        return None if uid is None or gid is None else (uid, gid)

    def _borrows(self, kind: str, name: str) -> bool:
        if self.late or self.borrowed is None or not re.fullmatch(ACCOUNT_NAME, name):
            return False
        self.borrowed.add((kind, name))
        return True

    def own_group(self, uid: int) -> int | None:
        """The first gid of the user with this number, where there is one."""
        own = {user.gid for user in self.users.values() if user.uid == uid}
        names = {name for kind, name in self.borrowed or () if kind == "user"}
        own |= {own_gid(name) for name in names if user_id(name) == uid}
        return min(own) if len(own) == 1 else 0 if uid == 0 else None

    def names(self) -> str:
        return ", ".join(sorted({*self.users, *self.groups})) or "none"

    def over(self, below: Ids) -> Ids:
        """These where a name is in both."""
        users, groups = {**below.users, **self.users}, {**below.groups, **self.groups}
        return Ids(users, groups, below.borrowed if self.borrowed is None else self.borrowed)


def own_gid(name: str) -> int:
    """The group that a package's user is taken to have: base-passwd's, or the one of its name."""
    return BASE_USERS[name].gid if name in BASE_USERS else group_id(name)


def check_borrowed(borrowed: Iterable[tuple[str, str]], found: Declared) -> None:
    """Refuse names that Debian's packages turned out not to declare, or otherwise.

    Raises:
        RecipeError: with what they declare.
    """
    users = {user.name: user for user in found.users}
    groups = {group.name for group in found.groups}
    for kind, name in sorted(borrowed):
        known = users if kind == "user" else groups
        if name not in known:
            message = f"the container names the {kind} {name!r}, whom none of its packages declares"
            hint = f"declare it in a `{kind}s` step; the packages have {', '.join(sorted(known))}"
            raise RecipeError(message, hint=hint if known else hint.partition(";")[0])
        if kind == "user" and users[name].gid != own_gid(name):
            message = f"the user {name!r} has the group {users[name].gid}, not one of its own"
            hint = f"write numbers: {users[name].uid} for the user, {users[name].gid} for the group"
            raise RecipeError(message, hint=hint)


_EVERYWHERE = (BASE_USERS["root"], BASE_USERS["nobody"])


def with_debians(
    users: list[tuple[str, User]], groups: list[tuple[str, Group]], found: Declared
) -> tuple[list[tuple[str, User]], list[tuple[str, Group]]]:
    """The accounts of packages and the container, with those that Debian's packages declare. What
    the others say of one with the same ids counts; root and nobody come with them."""
    own_users = {(user.name, user.uid, user.gid) for _, user in users}
    own_groups = {(group.name, group.gid) for _, group in groups}
    debian = "Debian's packages"
    gids = {group.gid for _, group in groups}
    if found:  # as every Debian system has them; no package asks for them
        base = [one for one in _EVERYWHERE if one.uid not in {user.uid for _, user in users}]
        users, groups = [*users], [*groups]
        users += [(debian, user) for user in base]
        groups += [
            (debian, Group(name, gid))
            for name, gid in (("root", 0), ("nogroup", 65534))
            if gid not in gids
        ]
    more_users = [
        (debian, user)
        for user in found.users
        if (user.name, user.uid, user.gid) not in own_users and user not in _EVERYWHERE
    ]
    more_groups = [
        (debian, group)
        for group in found.groups
        if (group.name, group.gid) not in own_groups and group.gid not in (0, 65534)
    ]
    return users + more_users, groups + more_groups


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
        hint = f"declare it: `- {kind}s: {{{name}: {example}}}`, or in the recipe of its package; "
        hint += f"declared: {', '.join(sorted(known)) or 'none'}"
        raise RecipeError(message, place=places.get(kind), hint=hint)
    own = None if uid is None else ids.own_group(uid)
    user, group = app.user if uid is None else str(uid), app.group if gid is None else str(gid)
    return replace(app, user=user, group=group, own_group=None if own is None else str(own))


def synced_accounts(
    syncs: Iterable[tuple[Path, str, str, Filler | None]],
) -> tuple[Ids, list[Path]]:
    """The accounts of an /etc/passwd or /etc/group that a sync step brings, and the files that
    were looked for. `syncs` are, of each, the directory that the source is beneath, the source, the
    destination and what fills in its templates; the last one wins, as in the image.
    """
    rows: dict[str, list[list[str]]] = {PASSWD: [], GROUP: []}
    looked: list[Path] = []
    for project, src, dest, fill in syncs:
        for wanted in (PASSWD, GROUP):
            source = _source_of(src, dest, wanted)
            if source is None:
                continue
            looked.append(project / source)
            # The sync step says what is wrong with a file that cannot be read.
            wrong = (OSError, BuildError, IntegrityError, RecipeError)
            with suppress(*wrong), Root.open(project) as root:
                with root.open_file(source) as stream:
                    data = stream.read(LARGEST_ACCOUNTS)
                data = data if fill is None else fill(data, source)
                rows[wanted] = _rows(data.decode("utf-8", "replace"))
    return _ids(rows[PASSWD], rows[GROUP]), looked


def read_accounts(passwd: str, group: str) -> Ids:
    """Those of an /etc/passwd and an /etc/group."""
    return _ids(_rows(passwd), _rows(group))


def _rows(text: str) -> list[list[str]]:
    return [line.split(":") for line in text.split("\n") if line[:1] not in ":#"]


def _ids(passwd: list[list[str]], group: list[list[str]]) -> Ids:
    users = {
        name: User(name, user, gid, home, shell, comment)
        for name, _, uid, own, comment, home, shell in (r for r in passwd if len(r) == 7)
        if (user := id_of(uid)) is not None and (gid := id_of(own)) is not None
    }
    groups = {
        name: Group(name, number, tuple(one for one in members.split(",") if one))
        for name, _, gid, members in (row for row in group if len(row) == 4)
        if (number := id_of(gid)) is not None
    }
    return Ids(users, groups)


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
    by_uid = sorted(by_name.values(), key=lambda user: (user.uid, user.name))
    by_gid = sorted(groups_by_name.values(), key=lambda group: (group.gid, group.name))
    passwd = [f"{u.name}:x:{u.uid}:{u.gid}:{u.comment}:{u.home}:{u.shell}\n" for u in by_uid]
    group = [f"{g.name}:x:{g.gid}:{','.join(g.members)}\n" for g in by_gid]
    return {GROUP: "".join(group).encode(), PASSWD: "".join(passwd).encode()}


def accounts_over(
    below: Mapping[str, str], files: Mapping[str, bytes], place: str
) -> dict[str, bytes]:
    """The files with the accounts of a base first, as they are there, by path; none where nothing
    is to be added. root, nobody and nogroup are the base's, where it has such.

    Raises:
        RecipeError: the base has another account of the same name or number.
    """
    made: dict[str, bytes] = {}
    for path, added in files.items():
        kind, ids = ("user", 4) if path == PASSWD else ("group", 3)
        rows = [row for row in _rows(below.get(path, "")) if len(row) > ids - 1]
        by_name, by_id = {row[0]: row for row in rows}, {row[2]: row for row in rows}
        more: list[str] = []
        for row in _rows(added.decode()):
            known = by_name.get(row[0]) or by_id.get(row[2])
            if known is None:
                more.append(":".join(row))
            elif known[0] in ("root", "nobody", "nogroup") or row[2] in ("0", "65534"):
                continue
            elif (known[0], known[2:ids]) != (row[0], row[2:ids]):
                message = f"the {kind} {row[0]} ({':'.join(row[2:ids])}) is {known[0]} "
                message += f"({':'.join(known[2:ids])}) in the base"
                raise RecipeError(message, place=place, hint="give it another name and number")
            elif kind == "group" and {*row[3].split(",")} - {*known[3].split(","), ""}:
                message = f"the group {row[0]} has other members in the base: {known[3] or 'none'}"
                raise RecipeError(message, place=place, hint="declare a group of another name")
        if more:
            text = below.get(path, "")
            text += "" if not text or text.endswith("\n") else "\n"
            made[path] = (text + "\n".join(more) + "\n").encode()
    return made


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


# -- owners by the names of the image below


_Owned = TypeVar("_Owned", SyncStep, DirectoryToMake, TextToWrite, ModeToSet)


def numbered_owners(step: LayerStep, accounts: Callable[[], Ids]) -> LayerStep:
    """The step with numbers for its owners; `accounts` gives those of the image below, and is asked
    where one of them is named.

    Raises:
        RecipeError: the image has no such account.
    """
    match step:
        case SyncStep(owner=owner) if owner:
            return _numbered(step, accounts())
        case DirectoriesStep(directories=made) if any(one.owner for one in made):
            ids = accounts()
            return replace(step, directories=tuple(_numbered(one, ids) for one in made))
        case TextsStep(texts=written) if any(one.owner for one in written):
            ids = accounts()
            return replace(step, texts=tuple(_numbered(one, ids) for one in written))
        case ModesStep(modes=changed) if any(one.owner for one in changed):
            ids = accounts()
            return replace(step, modes=tuple(_numbered(one, ids) for one in changed))
        case _:
            return step


def _numbered(one: _Owned, ids: Ids) -> _Owned:
    if not one.owner:
        return one
    found = ids.owner(one.owner)
    if found is None:
        message = f"the image has no account for the owner {one.owner!r} at this step"
        hint = f"it has {ids.names()}; make it before, in a `users` or `run` step, or write numbers"
        raise RecipeError(message, place=one.place, hint=hint)
    return replace(one, uid=found[0], gid=found[1], owner="")
