"""A stack as podman on this machine is told of it: names, labels, and the command lines that make
its networks, volumes, secrets and containers. Pure.

Every name begins with the stack's name and a digest of its directory, so two stacks of one name do
not meet. Labels say what a thing is of, so that it is found when the stack's file is gone.

A container has the same address as long as its network is there: what has looked a name up (nginx
does so once, at its start) still finds a member that was started again.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from buildit.digest import Digest, canonical, digest_bytes
from buildit.errors import UsageError
from buildit.model.stack import (
    DEFAULT_NETWORK,
    Condition,
    ContainerStack,
    MemberRecipe,
    Readiness,
    StackFile,
    StackMember,
    StackMount,
    StackNetwork,
    StackPort,
    StackSecret,
    StackVolume,
    replica_names,
    stack_environment,
)

LABEL = "org.buildit.stack"
"""The prefix of what a stack is called here; `DIRECTORY_LABEL` is where it is written."""

DIRECTORY_LABEL = f"{LABEL}.directory"
MEMBER_LABEL = f"{LABEL}.member"
SETTINGS_LABEL = f"{LABEL}.settings"
AFTER_LABEL = f"{LABEL}.after"
GRACE_LABEL = f"{LABEL}.grace"
ADDRESSES_LABEL = f"{LABEL}.addresses"
GENERATED_LABEL = f"{LABEL}.generated"
"""On a secret that was drawn: it lives as long as the stack's volumes."""

USUAL_GRACE = 10
"""Seconds that a container gets to end, where nobody says another number: podman's own."""

_DIGITS = 8
_FIRST_HOST = 2
"""Of a network's addresses, the second is the first that is given away: the first is the gateway's,
in netavark and in CNI."""


@dataclass(frozen=True, slots=True)
class StackIdentity:
    """Which stack it is: its name, and its absolute directory without links."""

    name: str
    directory: str

    @property
    def prefix(self) -> str:
        return f"{self.name}-{digest_bytes(self.directory.encode())[:_DIGITS]}"

    def called(self, name: str) -> str:
        """What podman calls something of the stack."""
        return f"{self.prefix}-{name}"

    @property
    def labels(self) -> tuple[str, ...]:
        return (*_label(LABEL, self.prefix), *_label(DIRECTORY_LABEL, self.directory))


@dataclass(frozen=True, slots=True)
class KnownPort:
    """A published port: where the machine listens (`address` is empty for everywhere)."""

    address: str
    outside: int
    inside: int
    protocol: str = "tcp"


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """An image that podman has: `identifier` is the digest of its config. `ready` is what its
    healthcheck says, `ports` are those that it says over TCP."""

    identifier: Digest
    ready: Readiness | None = None
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LocalNetwork:
    """A network as podman made it: `subnet` is such as 10.89.0.0/24, empty where addresses are not
    ours to give. `answers` where podman answers for names on it."""

    name: str
    subnet: str = ""
    answers: bool = False


@dataclass(frozen=True, slots=True)
class WantedContainer:
    """One container of the stack as it ought to be. `create` are podman's arguments, `settings` is
    the digest of all that decides them. `waits` are the containers that it starts after, and what
    of each is waited for; `published` are the ports of the machine that it takes, 0 for any."""

    name: str
    shown: str
    member: StackMember
    image: LoadedImage
    create: tuple[str, ...]
    settings: Digest
    addresses: Mapping[str, str]
    waits: tuple[tuple[str, Condition], ...] = ()
    published: tuple[KnownPort, ...] = ()

    @property
    def ready(self) -> Readiness | None:
        return self.member.ready or self.image.ready

    @property
    def grace(self) -> int:
        return _grace(self.member)


def _grace(member: StackMember) -> int:
    return USUAL_GRACE if member.stop_timeout is None else member.stop_timeout


def _label(name: str, value: str) -> tuple[str, ...]:
    return ("--label", f"{name}={value}")


# -- networks, volumes, secrets


def own_networks(stack: ContainerStack) -> tuple[StackNetwork, ...]:
    """The networks that are made for the stack: those that its members are on."""
    declared = {one.name: one for one in stack.networks}
    used = dict.fromkeys(name for member in stack.members for name, _ in networks_of(member))
    found = (declared.get(name, StackNetwork(name)) for name in used)
    return tuple(one for one in found if not one.external)


def networks_of(member: StackMember) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The networks that a member is on, and its further names there."""
    return tuple((one.network, one.aliases) for one in member.networks) or ((DEFAULT_NETWORK, ()),)


def network_known_as(who: StackIdentity, stack: ContainerStack, name: str) -> str:
    """What podman calls a network of the stack."""
    return _known_as(who, stack.networks, name)


def _known_as(who: StackIdentity, declared: Iterable[StackNetwork | StackVolume], name: str) -> str:
    found = next((one for one in declared if one.name == name), None)
    return found.known_as or name if found is not None and found.external else who.called(name)


def create_network(who: StackIdentity, network: StackNetwork) -> tuple[str, ...]:
    words = [*who.labels, *_label(SETTINGS_LABEL, network_settings(network))]
    words += [word for name, value in network.labels for word in _label(name, value)]
    words += ["--internal"] if network.internal else []
    words += ["--subnet", network.subnet] if network.subnet else []
    return ("network", "create", *words, who.called(network.name))


def network_settings(network: StackNetwork) -> Digest:
    said = [network.internal, network.subnet, *map(list, network.labels)]
    return digest_bytes(canonical(said))


def create_volume(who: StackIdentity, volume: StackVolume) -> tuple[str, ...]:
    labels = [word for name, value in volume.labels for word in _label(name, value)]
    return ("volume", "create", *who.labels, *labels, who.called(volume.name))


def volume_known_as(who: StackIdentity, stack: ContainerStack, name: str) -> str:
    return _known_as(who, stack.volumes, name)


def own_volumes(stack: ContainerStack) -> tuple[StackVolume, ...]:
    """The volumes that are made for the stack: those that its members mount."""
    declared = {one.name: one for one in stack.volumes}
    mounts = (mount for member in stack.members for mount in member.mounts)
    used = dict.fromkeys(mount.source for mount in mounts if mount.kind == "volume")
    found = (declared.get(name, StackVolume(name)) for name in used)
    return tuple(one for one in found if not one.external)


def create_secret(who: StackIdentity, secret: StackSecret) -> tuple[str, ...]:
    """Reads the value from its standard input."""
    drawn = _label(GENERATED_LABEL, "yes") if secret.kind == "generated" else ()
    return ("secret", "create", *who.labels, *drawn, who.called(secret.name), "-")


def used_secrets(stack: ContainerStack) -> tuple[StackSecret, ...]:
    """The secrets that members use."""
    used = {one.secret for member in stack.members for one in member.secrets}
    return tuple(one for one in stack.secrets if one.name in used)


def secret_known_as(who: StackIdentity, stack: ContainerStack, name: str) -> str:
    declared = next((one for one in stack.secrets if one.name == name), None)
    if declared is not None and declared.kind == "external":
        return declared.where or declared.name
    return who.called(name)


# -- containers


@dataclass(frozen=True, slots=True)
class LocalFacts:
    """What of this machine decides how containers are made: `further` are options of `podman
    create` that the machine needs, `environment` is what variables without a value take theirs
    from."""

    further: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def wanted_containers(
    who: StackIdentity,
    stack: ContainerStack,
    images: Mapping[str, LoadedImage],
    networks: Mapping[str, LocalNetwork],
    taken: Mapping[str, Mapping[str, str]],
    facts: LocalFacts,
) -> tuple[WantedContainer, ...]:
    """The containers of a stack, as its members are written.

    `images` are by member, `networks` by their names in the stack; `taken` are the addresses that
    containers have, by name and network, which they keep.

    Raises:
        UsageError: a network has fewer addresses than members.
    """
    places = _addresses(who, stack, networks, taken)
    return tuple(
        _wanted(who, stack, member, number, name, images[member.name], networks, places, facts)
        for member in stack.members
        for number, name in enumerate(replica_names(member))
    )


def _wanted(
    who: StackIdentity,
    stack: ContainerStack,
    member: StackMember,
    number: int,
    name: str,
    image: LoadedImage,
    networks: Mapping[str, LocalNetwork],
    places: Mapping[str, Mapping[str, str]],
    facts: LocalFacts,
) -> WantedContainer:
    own = places[who.called(name)]
    waits = tuple(
        (who.called(other), waited.condition)
        for waited in member.waits_for
        for other in replica_names(stack.member(waited.name))
    )
    words = [
        *_of_networks(member, networks, own),
        *_of_names(who, stack, member, networks, places),
        *_of_environment(stack, member, facts),
        *(word for port in member.ports for word in _of_port(port, number)),
        *(word for mount in member.mounts for word in _of_mount(who, stack, mount)),
        *_of_secrets(who, stack, member),
        *_of_start(member),
        *_of_limits(member),
        *facts.further,
    ]
    command = (*(member.entrypoint or ())[1:], *(member.command or ()))
    said = [image.identifier, words, command, [file_settings(one) for one in member.files]]
    said += [sorted(_environment(stack, member, facts).items()), sorted(map(list, waits))]
    settings = digest_bytes(canonical(said))
    labels = (
        *who.labels,
        *_label(MEMBER_LABEL, member.name),
        *_label(SETTINGS_LABEL, settings),
        *_label(AFTER_LABEL, " ".join(name for name, _ in waits)),
        *_label(GRACE_LABEL, str(_grace(member))),
        *_label(ADDRESSES_LABEL, json.dumps(dict(sorted(own.items())))),
    )
    called = who.called(name)
    always = ("--pull", "never", "--no-healthcheck", "--log-driver", "k8s-file")
    create = ("create", "--name", called, *labels, *always, *words, image.identifier, *command)
    ports = tuple(_known_port(one, number) for one in member.ports if one.published)
    return WantedContainer(called, name, member, image, create, settings, own, waits, ports)


def _addresses(
    who: StackIdentity,
    stack: ContainerStack,
    networks: Mapping[str, LocalNetwork],
    taken: Mapping[str, Mapping[str, str]],
) -> dict[str, dict[str, str]]:
    """The address of each container on each of its networks: the one that it has, or the first that
    no other has."""
    names = [(member, name) for member in stack.members for name in replica_names(member)]
    found: dict[str, dict[str, str]] = {who.called(name): {} for _, name in names}
    for key, network in networks.items():
        if not network.subnet:
            continue
        space = ipaddress.ip_network(network.subnet)
        here = [
            who.called(name)
            for member, name in names
            if any(key == one for one, _ in networks_of(member))
        ]
        kept: dict[str, str] = {}
        for one in here:
            address = taken.get(one, {}).get(key, "")
            if address and ipaddress.ip_address(address) in space and address not in kept.values():
                kept[one] = address
        free = _free(space, {*kept.values()})
        for one in here:
            found[one][key] = kept.get(one) or next(free, "")
            if not found[one][key]:
                hint = "give it a larger subnet"
                message = f"the network {key!r} ({network.subnet}) has no address left"
                raise UsageError(message, place=str(stack.file), hint=hint)
    return found


def _free(space: ipaddress.IPv4Network | ipaddress.IPv6Network, used: set[str]) -> Iterator[str]:
    for number in range(_FIRST_HOST, space.num_addresses - 1):
        if (address := str(space[number])) not in used:
            yield address


def _of_networks(
    member: StackMember, networks: Mapping[str, LocalNetwork], own: Mapping[str, str]
) -> Iterator[str]:
    for key, aliases in networks_of(member):
        told = [f"ip={own[key]}"] if key in own else []
        told += [f"alias={one}" for one in dict.fromkeys((member.name, *aliases))]
        yield from ("--network", f"{networks[key].name}:{','.join(told)}")


def _of_names(
    who: StackIdentity,
    stack: ContainerStack,
    member: StackMember,
    networks: Mapping[str, LocalNetwork],
    places: Mapping[str, Mapping[str, str]],
) -> Iterator[str]:
    """Lines of /etc/hosts: what the member calls those that it links to, and, where podman answers
    for no names, all others on its networks."""
    yield from (word for name, ip in member.hosts for word in ("--add-host", f"{name}:{ip}"))
    lines: dict[str, None] = {}
    for key, _ in networks_of(member):
        links = {one.name: one.alias for one in member.links}
        for other in stack.members:
            there = dict(networks_of(other))
            if key not in there or other.name == member.name:
                continue
            known = () if networks[key].answers else (other.name, *there[key])
            alias = links.get(other.name, other.name)
            names = dict.fromkeys((*known, *((alias,) if alias != other.name else ())))
            for replica in replica_names(other):
                address = places[who.called(replica)].get(key)
                if address:
                    lines |= dict.fromkeys(f"{name}:{address}" for name in names)
    yield from (word for line in lines for word in ("--add-host", line))


def _environment(stack: ContainerStack, member: StackMember, facts: LocalFacts) -> dict[str, str]:
    """The variables of a member with their values; those that the caller's environment lacks are
    left out."""
    return {
        name: facts.environment[name] if value is None else value
        for name, value in stack_environment(stack, member)
        if value is not None or name in facts.environment
    }


def _of_environment(stack: ContainerStack, member: StackMember, facts: LocalFacts) -> Iterator[str]:
    """What has its value from the caller's environment is handed on by name."""
    for name, value in stack_environment(stack, member):
        if value is not None:
            yield from ("--env", f"{name}={value}")
        elif name in facts.environment:
            yield from ("--env", name)


def published(port: StackPort, number: int) -> int:
    """The machine's port for the replica `number`, 0 where podman is to find one."""
    outsides = port.outsides
    return outsides[number] if number < len(outsides) else port.outside


def _known_port(port: StackPort, number: int) -> KnownPort:
    return KnownPort(port.address, published(port, number), port.inside, port.protocol)


def _of_port(port: StackPort, number: int) -> tuple[str, ...]:
    if not port.published:
        return ()
    address = f"[{port.address}]" if ":" in port.address else port.address
    outside = published(port, number)
    way = f"{outside or ''}:{port.inside}/{port.protocol}"
    return ("--publish", f"{address}:{way}" if address else way.removeprefix(":"))


def _of_mount(who: StackIdentity, stack: ContainerStack, mount: StackMount) -> tuple[str, ...]:
    """podman reads --mount as a line of CSV."""
    kinds = {"volume": "volume", "anonymous": "volume", "host": "bind", "memory": "tmpfs"}
    parts = [f"type={kinds[mount.kind]}"]
    if mount.kind == "volume":
        parts.append(f"src={volume_known_as(who, stack, mount.source)}")
    elif mount.kind == "host":
        parts.append(f"src={mount.source}")
    parts.append(f"dst={mount.dest}")
    parts += ["ro=true"] if mount.read_only else []
    parts += [f"tmpfs-size={mount.size}"] if mount.kind == "memory" and mount.size else []
    return ("--mount", ",".join(_csv(part) for part in parts))


def _csv(text: str) -> str:
    doubled = text.replace('"', '""')
    return f'"{doubled}"' if any(c in text for c in ',"\n\r') else text


def _of_secrets(who: StackIdentity, stack: ContainerStack, member: StackMember) -> Iterator[str]:
    for use in member.secrets:
        if "," in use.target:
            hint = "name it without a comma: podman takes none there"
            raise UsageError(f"not a file for a secret: {use.target!r}", place=use.place, hint=hint)
        parts = [secret_known_as(who, stack, use.secret), "type=mount", f"target={use.target}"]
        parts += [f"uid={use.uid}", f"gid={use.gid}", f"mode={use.mode:04o}"]
        yield from ("--secret", ",".join(parts))


def _of_start(member: StackMember) -> Iterator[str]:
    if member.entrypoint is not None:
        yield from ("--entrypoint", json.dumps([*member.entrypoint[:1]]))
    restart = member.restart
    most = f":{restart.most}" if restart.when == "on-failure" and restart.most else ""
    yield from ("--restart", f"{restart.when}{most}")
    yield from ("--stop-timeout", str(_grace(member)))
    said = {
        "--user": member.user,
        "--workdir": member.working_directory,
        "--stop-signal": member.stop_signal,
        "--hostname": member.hostname,
    }
    yield from (word for pair in said.items() if pair[1] for word in pair)
    yield from ("--init",) if member.init else ()
    yield from (word for name, value in member.labels for word in _label(name, value))


def _of_limits(member: StackMember) -> Iterator[str]:
    limits, rights = member.limits, member.rights
    if limits.memory:
        yield from ("--memory", f"{limits.memory}b")
    if member.reserved.memory:
        yield from ("--memory-reservation", f"{member.reserved.memory}b")
    if limits.cpus:
        yield from ("--cpus", f"{limits.cpus / 1000:g}")
    if limits.processes:
        yield from ("--pids-limit", str(limits.processes))
    yield from ("--read-only",) if rights.read_only else ()
    yield from ("--security-opt", "no-new-privileges") if rights.no_new_privileges else ()
    yield from (word for one in rights.capabilities for word in ("--cap-add", one))
    yield from (word for one in rights.dropped for word in ("--cap-drop", one))


def file_settings(one: StackFile) -> list[object]:
    """All that decides a file that is laid into a container; its text was read."""
    text = digest_bytes(one.content.encode("utf-8", "surrogateescape"))
    return [one.dest, text, one.mode, one.uid, one.gid]


# -- one container by itself


def alone(directory: Path) -> ContainerStack:
    """The container of a directory as a stack of one; its `file` is the directory."""
    name = re.sub(r"[^a-z0-9]+", "-", directory.name.lower()).strip("-")[:40] or "container"
    member = StackMember(name, str(directory), MemberRecipe(directory))
    return ContainerStack(name, directory, directory, (member,))
