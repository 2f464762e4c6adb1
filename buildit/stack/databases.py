"""What follows for a stack from images with a database: its volume, its password, how those that
link to it find it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from buildit.errors import RecipeError
from buildit.model.database import SECRET_FILES, Database, where_it_is
from buildit.model.stack import (
    ContainerStack,
    SecretUse,
    StackMember,
    StackMount,
    StackSecret,
    StackVolume,
)
from buildit.stack.pinned import PinnedImage

DRAWN = 32
"""Letters and digits of a password that the stack says nothing of."""

STOP_SECONDS = 60
"""How long a database may take to write what it has, where the stack says nothing of it."""


def with_image_databases(
    stack: ContainerStack, images: Mapping[str, PinnedImage]
) -> ContainerStack:
    """The stack with what its databases need, as far as it says nothing of it: a volume for the
    data, a secret that is drawn at the first start, and for each member that links to one the
    secret and the variables of `where_it_is`.

    Raises:
        RecipeError: a database would run twice over one volume, or no other container reaches it.
    """
    databases = {
        name: image.database for name, image in images.items() if image.database is not None
    }
    members = []
    volumes, secrets = list(stack.volumes), list(stack.secrets)
    for member in stack.members:
        database = databases.get(member.name)
        if database is not None:
            member = _serving(member, database)
            volumes += _new_volumes(member, volumes)
            if database.password and database.password not in {one.name for one in secrets}:
                drawn = StackSecret(
                    database.password, "generated", length=DRAWN, place=member.place
                )
                secrets.append(drawn)
        for link in member.links:
            if (asked := databases.get(link.name)) is not None:
                if not asked.network:
                    message = f"the database of {link.name!r} is for its own container alone"
                    hint = "write `network: yes` and a `password` in its `database` step"
                    raise RecipeError(message, place=link.place, hint=hint)
                member = _asking(member, asked, link.alias)
        members.append(member)
    return replace(stack, members=tuple(members), volumes=tuple(volumes), secrets=tuple(secrets))


def _serving(member: StackMember, database: Database) -> StackMember:
    """A member that is a database, with a volume and its password."""
    directory = database.kind.directory
    if member.replicas > 1:
        message = (
            f"{member.replicas} replicas of {member.name!r} would share the data of a database"
        )
        raise RecipeError(message, place=member.place, hint="leave `replicas` out")
    if all(one.dest != directory for one in member.mounts):
        own = StackMount(directory, "volume", f"{member.name}-data", place=member.place)
        member = replace(member, mounts=(*member.mounts, own))
    if member.stop_timeout is None:
        member = replace(member, stop_timeout=STOP_SECONDS)
    return _with_secret(member, database, 0o400)


def _asking(member: StackMember, database: Database, host: str) -> StackMember:
    """A member that links to a database; what it says itself counts."""
    found: dict[str, str | None] = {**where_it_is(database, host)}
    environment = found | dict(member.environment)
    return _with_secret(replace(member, environment=tuple(environment.items())), database, 0o444)


def _with_secret(member: StackMember, database: Database, mode: int) -> StackMember:
    name = database.password
    if not name or any(one.secret == name for one in member.secrets):
        return member
    use = SecretUse(name, f"{SECRET_FILES}/{name}", mode=mode, place=member.place)
    return replace(member, secrets=(*member.secrets, use))


def _new_volumes(member: StackMember, known: list[StackVolume]) -> list[StackVolume]:
    names = {one.name for one in known}
    mounts = (one for one in member.mounts if one.kind == "volume" and one.source not in names)
    return [StackVolume(one.source, place=one.place) for one in mounts]
