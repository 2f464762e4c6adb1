"""A stack: several containers that are built, emitted and started as one thing. What of it depends
on what; no I/O here.

Every `place` is where the user wrote it, for messages. Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Literal

from buildit.model.image_test import ImageTest

DEFAULT_NETWORK = "default"
"""The network of members that name none (compose-spec, "networks")."""

Condition = Literal["started", "ready", "completed"]
"""What of a member is waited for: that it runs, that it is ready (where it has neither `ready` nor
a healthcheck of its image: that it runs), or that it has ended with status 0."""


@dataclass(frozen=True, slots=True)
class MemberRecipe:
    """A member that is built: the absolute `directory` of its recipe; `file`, `stage`, `values` and
    `images` are as `--file`, `--target`, `--build-arg` and `--build-context` say them."""

    directory: Path
    file: str = ""
    stage: str = ""
    values: tuple[tuple[str, str], ...] = ()
    images: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class StartsAfter:
    """That a member starts after another one."""

    name: str
    condition: Condition = "started"
    place: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """A member that another one uses, and under what name it finds it; `variable` is what begins
    the names of the variables that say where it is: `DB` for DB_HOST and DB_PORT."""

    name: str
    alias: str
    place: str = ""

    @property
    def variable(self) -> str:
        return "".join(c if c.isalnum() else "_" for c in self.alias).upper()


@dataclass(frozen=True, slots=True)
class StackPort:
    """A port that a member listens on, 1..65535; `protocol` is tcp, udp or sctp.

    `published`: the machine forwards its port `outside` (0: any that is free) at `address` (empty:
    at all addresses). `outside_last` is the last of a range, of which each replica takes one.
    """

    inside: int
    protocol: str = "tcp"
    published: bool = False
    outside: int = 0
    outside_last: int = 0
    address: str = ""
    place: str = ""

    @property
    def outsides(self) -> range:
        """The ports of the machine that it may take; empty where any will do, or none."""
        return range(self.outside, max(self.outside, self.outside_last) + 1 if self.outside else 0)


@dataclass(frozen=True, slots=True)
class StackMount:
    """What is mounted at `dest`, absolute in the container: the volume `source` (`volume`), the
    absolute host path `source` (`host`), a volume without a name (`anonymous`), or memory
    (`memory`, of at most `size` bytes; 0: as the engine has it)."""

    dest: str
    kind: Literal["volume", "host", "anonymous", "memory"]
    source: str = ""
    read_only: bool = False
    size: int = 0
    place: str = ""


@dataclass(frozen=True, slots=True)
class StackFile:
    """A file that is not of the image, mounted read-only at `dest`: the text of the host's file at
    `path` (absolute), or `content`. Not for secrets: it is copied into what is emitted."""

    name: str
    dest: str
    path: str = ""
    content: str = ""
    mode: int | None = None
    uid: str = ""
    gid: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A network that a member is on, and its further names there."""

    network: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SecretUse:
    """A secret that a member finds in the file `target`, absolute."""

    secret: str
    target: str
    uid: int = 0
    gid: int = 0
    mode: int = 0o444
    place: str = ""


@dataclass(frozen=True, slots=True)
class HttpProbe:
    """A GET that a ready member answers with a status below 400 (or with `status`, where it is not
    0)."""

    port: int
    path: str = "/"
    host: str = "localhost"
    tls: bool = False
    status: int = 0


@dataclass(frozen=True, slots=True)
class Readiness:
    """How a member tells that it can be used: a program of it that ends with 0, an answer over
    HTTP, or that it listens on the port `tcp`. `exec` is an argument vector; `script` is a text
    for the image's /bin/sh in its place."""

    exec: tuple[str, ...] = ()
    script: str = ""
    http: HttpProbe | None = None
    tcp: int = 0
    interval: int = 5
    timeout: int = 5
    retries: int = 12
    start: int = 0
    place: str = ""

    @property
    def argv(self) -> tuple[str, ...]:
        """The program that is asked; empty where none is."""
        return ("/bin/sh", "-c", self.script) if self.script else self.exec


@dataclass(frozen=True, slots=True)
class Placement:
    """On which machines a member may run: of this `host`, this `platform` (`linux/arm64`), with
    these labels (name, value, whether it must or must not be that), spread over the values of
    labels, at most so many replicas on one (0: any number)."""

    host: str = ""
    platform: str = ""
    labels: tuple[tuple[str, str, bool], ...] = ()
    spread: tuple[str, ...] = ()
    most: int = 0
    place: str = ""


@dataclass(frozen=True, slots=True)
class Amounts:
    """Memory in bytes, processors in thousandths, and processes; 0 where nothing is said."""

    memory: int = 0
    cpus: int = 0
    processes: int = 0


@dataclass(frozen=True, slots=True)
class Restart:
    """When a member is started again: never (`no`), `always`, only after a failure (`on-failure`,
    at most `most` times where that is not 0), or unless somebody stopped it (`unless-stopped`)."""

    when: Literal["no", "always", "on-failure", "unless-stopped"] = "no"
    most: int = 0


@dataclass(frozen=True, slots=True)
class Rights:
    """What a member may do beyond, or not, of what the engine lets it by itself; capabilities are
    written as `NET_ADMIN`."""

    read_only: bool = False
    no_new_privileges: bool = False
    capabilities: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StackMember:
    """One container of a stack.

    It is of a `recipe`, or else of the image `image` (a reference as skopeo writes it, or a short
    name). `command` are the arguments and `entrypoint` the program instead of the image's; None
    leaves the image's. `environment` is its own; `stack_environment` has what its links say, too. A
    variable that is None has the value that it has where the stack is started. `tests` ask the
    running stack.
    """

    name: str
    place: str
    recipe: MemberRecipe | None = None
    image: str = ""
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    user: str = ""
    working_directory: str = ""
    environment: tuple[tuple[str, str | None], ...] = ()
    links: tuple[Link, ...] = ()
    depends: tuple[StartsAfter, ...] = ()
    ports: tuple[StackPort, ...] = ()
    mounts: tuple[StackMount, ...] = ()
    files: tuple[StackFile, ...] = ()
    networks: tuple[Attachment, ...] = ()
    secrets: tuple[SecretUse, ...] = ()
    replicas: int = 1
    restart: Restart = Restart()
    placement: Placement = Placement()
    ready: Readiness | None = None
    tests: tuple[ImageTest, ...] = ()
    stop_signal: str = ""
    stop_timeout: int | None = None
    labels: tuple[tuple[str, str], ...] = ()
    limits: Amounts = Amounts()
    reserved: Amounts = Amounts()
    rights: Rights = Rights()
    hostname: str = ""
    hosts: tuple[tuple[str, str], ...] = ()
    platform: str = ""
    init: bool = False

    @property
    def waits_for(self) -> tuple[StartsAfter, ...]:
        """All that it starts after: what it depends on, and what it links to once that is ready.
        Of two that name one member the stricter counts."""
        asked = [*self.depends]
        asked += [StartsAfter(one.name, "ready", place=one.place) for one in self.links]
        found: dict[str, StartsAfter] = {}
        for one in asked:
            before = found.get(one.name)
            if before is None or _STRICT.index(one.condition) > _STRICT.index(before.condition):
                found[one.name] = one
        return tuple(found.values())


_STRICT: tuple[Condition, ...] = ("started", "ready", "completed")


@dataclass(frozen=True, slots=True)
class StackNetwork:
    """A network of the stack. `internal`: it leads nowhere else. `external`: it is there already,
    under the name `known_as`."""

    name: str
    internal: bool = False
    external: bool = False
    known_as: str = ""
    subnet: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    place: str = ""


@dataclass(frozen=True, slots=True)
class StackVolume:
    """A volume of the stack, which outlives its containers. `external`: it is there already, under
    the name `known_as`. `size` is what is asked for where volumes have one; 0: what is usual."""

    name: str
    external: bool = False
    known_as: str = ""
    size: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    place: str = ""


@dataclass(frozen=True, slots=True)
class StackSecret:
    """Where the value of a secret comes from, never the value: the host's file `where` (absolute),
    the variable `where` of the environment, `length` letters and digits that are drawn at the
    first start (`generated`), or what the engine or cluster has under `where` (`external`)."""

    name: str
    kind: Literal["file", "environment", "generated", "external"]
    where: str = ""
    length: int = 0
    place: str = ""


@dataclass(frozen=True, slots=True)
class ContainerStack:
    """All of a stack: `name` is a DNS label; `directory` and `file` are absolute paths of where it
    is written. `remarks` are what was read and has no meaning here, and does no harm."""

    name: str
    directory: Path
    file: Path
    members: tuple[StackMember, ...]
    networks: tuple[StackNetwork, ...] = ()
    volumes: tuple[StackVolume, ...] = ()
    secrets: tuple[StackSecret, ...] = ()
    remarks: tuple[str, ...] = ()
    consulted: tuple[Path, ...] = field(default=(), compare=False)

    def member(self, name: str) -> StackMember:
        """Raises KeyError: there is none of that name."""
        return next((one for one in self.members if one.name == name), None) or _none(name)


def _none(name: str) -> StackMember:
    raise KeyError(name)


def stack_environment(
    stack: ContainerStack, member: StackMember
) -> tuple[tuple[str, str | None], ...]:
    """The variables of a member: of each link where it leads (`DB_HOST`, and `DB_PORT` where the
    other one listens on one port over TCP), then its own, which count where both say one."""
    found: dict[str, str | None] = {}
    for link in member.links:
        found[f"{link.variable}_HOST"] = link.alias
        ports = {one.inside for one in stack.member(link.name).ports if one.protocol == "tcp"}
        if len(ports) == 1:
            found[f"{link.variable}_PORT"] = str(*ports)
    return tuple((found | dict(member.environment)).items())


def start_order(stack: ContainerStack) -> tuple[tuple[StackMember, ...], ...]:
    """The members in waves: each wave waits for nothing but those before it. Within one, as they
    are written. `circle_of` is empty for every stack that was read.

    Raises:
        ValueError: members wait for each other.
    """
    if circle := circle_of(stack.members):
        raise ValueError(" waits for ".join(circle))
    place = {one.name: number for number, one in enumerate(stack.members)}
    sorter = TopologicalSorter(_graph(stack.members))
    sorter.prepare()
    waves = []
    while sorter.is_active():
        names = sorted(sorter.get_ready(), key=place.__getitem__)
        waves.append(tuple(stack.members[place[name]] for name in names))
        sorter.done(*names)
    return tuple(waves)


def circle_of(members: Iterable[StackMember]) -> tuple[str, ...]:
    """The names of members that wait for each other, each for the next, the first one again at the
    end; empty where there are none."""
    try:
        TopologicalSorter(_graph([*members])).prepare()
    except CycleError as error:
        return tuple(reversed(error.args[1]))
    return ()


def _graph(members: Iterable[StackMember]) -> dict[str, list[str]]:
    listed = [*members]
    known = {one.name for one in listed}
    return {
        one.name: [other.name for other in one.waits_for if other.name in known] for one in listed
    }


def replica_names(member: StackMember) -> Iterator[str]:
    """What its containers are called: its name, or that with a number from 1."""
    if member.replicas == 1:
        yield member.name
    else:
        yield from (f"{member.name}-{number}" for number in range(1, member.replicas + 1))
