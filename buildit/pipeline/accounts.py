"""/etc/passwd, /etc/group and home directories: one generated layer, from fixed ids. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from buildit.digest import digest_bytes
from buildit.errors import RecipeError
from buildit.image.parents import with_parents
from buildit.model.plan import Group, User
from buildit.model.tree import Entry, Kind


def account_files(
    users: Iterable[tuple[str, User]], groups: Iterable[tuple[str, Group]]
) -> dict[str, bytes]:
    """The text of `etc/passwd` and `etc/group`, by id; each account comes with who declares it.

    Raises:
        RecipeError: two declarations of one name or id differ, or a user's group does not exist.
    """
    users, groups = tuple(users), tuple(groups)
    _check_fields(users)
    by_name = _united(users, "user", lambda user: user.uid)
    groups_by_name = _united(groups, "group", lambda group: group.gid)
    gids = {group.gid for group in groups_by_name.values()}
    for user in by_name.values():
        if user.gid not in gids:
            raise RecipeError(
                f"user {user.name!r} has gid {user.gid}, which no group declares",
                hint=f"declare it: groups: {{{user.name}: {{gid: {user.gid}}}}}",
            )
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


def _check_fields(users: Iterable[tuple[str, User]]) -> None:
    """A field of passwd(5) ends at a colon, an account at the end of the line."""
    for owner, user in users:
        for what in ("comment", "home", "shell"):
            value: str = getattr(user, what)
            if ":" in value or not value.isprintable():
                raise RecipeError(
                    f"the {what} of user {user.name!r} in {owner} cannot be in /etc/passwd: "
                    f"{value!r}",
                    hint="leave out colons and line breaks",
                )


Account = TypeVar("Account", User, Group)


def _united(
    declared: Iterable[tuple[str, Account]], kind: str, number: Callable[[Account], int]
) -> dict[str, Account]:
    by_name: dict[str, tuple[str, Account]] = {}
    by_id: dict[int, tuple[str, str]] = {}
    for owner, account in declared:
        first = by_name.setdefault(account.name, (owner, account))
        if first[1] != account:
            raise RecipeError(
                f"{kind} {account.name!r} is declared differently by {first[0]} and {owner}",
                hint="give both the same ids and paths",
            )
        holder = by_id.setdefault(number(account), (owner, account.name))
        if holder[1] != account.name:
            raise RecipeError(
                f"{kind} id {number(account)} is {holder[1]!r} for {holder[0]} "
                f"and {account.name!r} for {owner}",
                hint="give one of them another id",
            )
    return {name: account for name, (_, account) in by_name.items()}
