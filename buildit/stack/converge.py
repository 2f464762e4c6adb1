"""What podman has of a stack, as it says it, and what is to be done so that it is as it ought to
be. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from buildit.model.stack import ContainerStack
from buildit.stack.local import (
    ADDRESSES_LABEL,
    AFTER_LABEL,
    DIRECTORY_LABEL,
    GENERATED_LABEL,
    GRACE_LABEL,
    LABEL,
    MEMBER_LABEL,
    SETTINGS_LABEL,
    USUAL_GRACE,
    KnownPort,
    LocalNetwork,
    StackIdentity,
    WantedContainer,
    network_known_as,
    network_settings,
    own_networks,
)

LIVE = ("running", "restarting", "stopping", "paused")
"""States (podman's `define.ContainerStatus`) in which a container has processes, or soon will."""


@dataclass(frozen=True, slots=True)
class KnownContainer:
    """A container that podman has. `pid` is 0 where nothing runs; `log` is the path of its lines;
    `networks` are the addresses that it has now, by podman's names."""

    name: str
    stack: str
    member: str
    state: str
    identifier: str = ""
    image: str = ""
    settings: str = ""
    pid: int = 0
    status: int = 0
    restarts: int = 0
    started: str = ""
    after: tuple[str, ...] = ()
    grace: int = USUAL_GRACE
    addresses: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[KnownPort, ...] = ()
    log: str = ""
    policy: str = ""

    @property
    def shown(self) -> str:
        """What it is called in its stack."""
        return self.name.removeprefix(f"{self.stack}-")

    @property
    def is_live(self) -> bool:
        return self.state in LIVE


@dataclass(frozen=True, slots=True)
class KnownNetwork:
    name: str
    stack: str = ""
    settings: str = ""
    subnet: str = ""
    answers: bool = False


@dataclass(frozen=True, slots=True)
class KnownSecret:
    name: str
    generated: bool = False


@dataclass(frozen=True, slots=True)
class EngineState:
    """All that podman has of one directory's stack."""

    containers: tuple[KnownContainer, ...] = ()
    networks: tuple[KnownNetwork, ...] = ()
    volumes: tuple[str, ...] = ()
    secrets: tuple[KnownSecret, ...] = ()

    def container(self, name: str) -> KnownContainer | None:
        return next((one for one in self.containers if one.name == name), None)

    @property
    def is_empty(self) -> bool:
        return not (self.containers or self.networks or self.secrets)


# -- what podman says


def read_containers(text: str) -> tuple[KnownContainer, ...]:
    """Of `podman container inspect`, in the order of their names."""
    return tuple(sorted(map(_container, _objects(text)), key=lambda one: one.name))


def _container(said: Mapping[str, Any]) -> KnownContainer:
    labels = said.get("Config", {}).get("Labels") or {}
    state = said.get("State", {})
    settings = said.get("NetworkSettings", {})
    host = said.get("HostConfig", {})
    policy = host.get("RestartPolicy", {}).get("Name", "")
    return KnownContainer(
        name=said["Name"].lstrip("/"),
        stack=labels.get(LABEL, ""),
        member=labels.get(MEMBER_LABEL, ""),
        state=str(state.get("Status", "")),
        identifier=str(said.get("Id", "")),
        image=str(said.get("Image", "")).removeprefix("sha256:"),
        settings=labels.get(SETTINGS_LABEL, ""),
        pid=int(state.get("Pid") or 0),
        status=int(state.get("ExitCode") or 0),
        restarts=int(said.get("RestartCount") or 0),
        started=str(state.get("StartedAt", "")),
        after=tuple(labels.get(AFTER_LABEL, "").split()),
        grace=_number(labels.get(GRACE_LABEL, ""), USUAL_GRACE),
        addresses=_addresses_of(labels.get(ADDRESSES_LABEL, "")),
        networks={
            name: one.get("IPAddress") or ""
            for name, one in (settings.get("Networks") or {}).items()
        },
        ports=tuple(_ports(settings.get("Ports") or host.get("PortBindings") or {})),
        log=str(host.get("LogConfig", {}).get("Path", "")),
        policy=str(policy),
    )


_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - what podman says of a port, not what is bound


def _ports(said: Mapping[str, Any]) -> Iterator[KnownPort]:
    for inside, bindings in said.items():
        number, _, protocol = inside.partition("/")
        for one in bindings or ():
            address = one.get("HostIp") or ""
            where = "" if address in _EVERYWHERE else address
            outside = _number(str(one.get("HostPort", "")), 0)
            yield KnownPort(where, outside, _number(number, 0), protocol or "tcp")


def _number(text: str, otherwise: int) -> int:
    return int(text) if text.isascii() and text.isdigit() else otherwise


def _addresses_of(text: str) -> dict[str, str]:
    try:
        said = json.loads(text or "{}")
    except ValueError:
        return {}
    return {str(a): str(b) for a, b in said.items()} if isinstance(said, dict) else {}


def _objects(text: str) -> list[dict[str, Any]]:
    found = json.loads(text) if text.strip() else []
    return [one for one in found or () if isinstance(one, dict)]


def read_networks(text: str) -> tuple[KnownNetwork, ...]:
    """Of `podman network ls` or `inspect` as JSON."""
    return tuple(
        KnownNetwork(
            name=str(one["name"]),
            stack=(one.get("labels") or {}).get(LABEL, ""),
            settings=(one.get("labels") or {}).get(SETTINGS_LABEL, ""),
            subnet=next((net["subnet"] for net in one.get("subnets") or ()), ""),
            answers=bool(one.get("dns_enabled")),
        )
        for one in _objects(text)
    )


def read_volumes(text: str) -> tuple[str, ...]:
    """Of `podman volume ls` as JSON."""
    return tuple(str(one["Name"]) for one in _objects(text))


def read_secrets(text: str, directory: str) -> tuple[KnownSecret, ...]:
    """Of `podman secret inspect`: those that have the label of a directory."""
    specs = [one.get("Spec", {}) for one in _objects(text)]
    return tuple(
        KnownSecret(str(spec["Name"]), GENERATED_LABEL in (spec.get("Labels") or {}))
        for spec in specs
        if (spec.get("Labels") or {}).get(DIRECTORY_LABEL) == directory
    )


# -- what is to be done


How = Literal["kept", "started", "created", "replaced"]


@dataclass(frozen=True, slots=True)
class ContainerChange:
    """What happens to one container: it is as it ought to be, is there and is started, is not
    there, or is another and has to go first. `before` is the one that is there."""

    container: WantedContainer
    how: How
    before: KnownContainer | None = None


def container_changes(
    wanted: Sequence[WantedContainer], now: EngineState, moved: Collection[str] = ()
) -> tuple[ContainerChange, ...]:
    """What brings the containers to what they ought to be; `moved` are names of those that have to
    be made again whatever their settings say (a secret of theirs has another value).

    One that has ended with status 0 and that others wait for in that way is not run again.
    """
    waits = (waited for one in wanted for waited in one.waits)
    finished = {name for name, condition in waits if condition == "completed"}
    return tuple(_change(one, now, moved, finished) for one in wanted)


def _change(
    one: WantedContainer, now: EngineState, moved: Collection[str], finished: Collection[str]
) -> ContainerChange:
    before = now.container(one.name)
    if before is None:
        return ContainerChange(one, "created")
    if before.settings != one.settings or one.name in moved or before.state == "paused":
        return ContainerChange(one, "replaced", before)
    if before.state == "running":
        return ContainerChange(one, "kept", before)
    if before.state == "exited" and before.status == 0 and one.name in finished:
        return ContainerChange(one, "kept", before)
    if before.state in ("created", "configured", "exited", "stopped"):
        return ContainerChange(one, "started", before)
    return ContainerChange(one, "replaced", before)


def superfluous(wanted: Iterable[WantedContainer], now: EngineState) -> tuple[KnownContainer, ...]:
    """Containers of the stack that it has no more."""
    names = {one.name for one in wanted}
    return tuple(one for one in now.containers if one.name not in names)


def stale_networks(
    who: StackIdentity, stack: ContainerStack, now: EngineState
) -> tuple[KnownNetwork, ...]:
    """Networks of the stack that it has no more, or that are made another way now."""
    wanted = {who.called(one.name): network_settings(one) for one in own_networks(stack)}
    return tuple(one for one in now.networks if wanted.get(one.name) != one.settings)


def local_networks(
    who: StackIdentity,
    stack: ContainerStack,
    known: Mapping[str, KnownNetwork],
    names: Iterable[str],
) -> dict[str, LocalNetwork]:
    """The networks of a stack as podman has them, by their names in it; addresses are given out on
    the stack's own alone. `known` are by podman's names."""
    own = {one.name for one in own_networks(stack)}
    found = {}
    for name in names:
        called = network_known_as(who, stack, name)
        network = known[called]
        # an address of IPv6 beside would be podman's own choice
        subnet = network.subnet if name in own and ":" not in network.subnet else ""
        found[name] = LocalNetwork(called, subnet, network.answers)
    return found


# -- the end


def removal_waves(containers: Sequence[KnownContainer]) -> tuple[tuple[KnownContainer, ...], ...]:
    """In what order containers end: each before all that it came after; those of one wave at one
    time. Where labels go in a circle, all that is left ends at once."""
    left = {one.name: one for one in containers}
    waves = []
    while left:
        needed = {name for one in left.values() for name in one.after if name != one.name}
        wave = tuple(one for name, one in left.items() if name not in needed) or (*left.values(),)
        waves.append(wave)
        for one in wave:
            del left[one.name]
    return tuple(waves)


def remove_container(one: KnownContainer, seconds: int | None = None) -> tuple[str, ...]:
    """Ends it within its grace time, or `seconds`, and removes it with its volumes without a
    name."""
    grace = one.grace if seconds is None else seconds
    return ("rm", "--force", "--volumes", "--time", str(grace), one.identifier or one.name)


def remove_rest(now: EngineState, *, volumes: bool) -> tuple[tuple[str, ...], ...]:
    """Command lines that remove all but the containers. A drawn secret stays as long as a volume
    of the stack may have been made with it."""
    keep = bool(now.volumes) and not volumes
    secrets = [one.name for one in now.secrets if not (one.generated and keep)]
    found: list[tuple[str, ...]] = []
    if secrets:
        found.append(("secret", "rm", *secrets))
    if volumes and now.volumes:
        found.append(("volume", "rm", *now.volumes))
    if now.networks:
        found.append(("network", "rm", *(one.name for one in now.networks)))
    return tuple(found)
