"""A stack as Podman Quadlet units (podman-systemd.unit(5)), for the system's or a user's systemd.
Pure.

Every unit is named STACK-NAME, so that two stacks can have a `web`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from buildit.model.stack import (
    ContainerStack,
    StackMember,
    StackMount,
    StackNetwork,
    StackPort,
    StackVolume,
    replica_names,
    stack_environment,
)
from buildit.stack.compose import mounted_name
from buildit.stack.pinned import PinnedStack, asking_argv, names_of, readiness_of

Key = tuple[str, str]
"""A key of a section, and its value."""

_ARCHITECTURES = {"amd64": "x86-64", "386": "x86"}
"""Where systemd (ConditionArchitecture) calls a machine otherwise than OCI."""

_START = 900
"""Seconds that a start may take, with what it waits for."""


def quadlet_files(pinned: PinnedStack) -> Mapping[str, str]:
    """The texts of the units and of the files that they mount, by their path."""
    stack = pinned.stack
    files: dict[str, str] = {}
    for member in stack.members:
        for number, name in enumerate(replica_names(member)):
            unit = _container(member, name, number, pinned)
            files[f"{stack.name}-{name}.container"] = unit
        files |= {mounted_name(member, one.name): one.content for one in member.files}
    for network in stack.networks:
        if not network.external:
            files[f"{stack.name}-{network.name}.network"] = _network(network, stack)
    for volume in stack.volumes:
        if not volume.external:
            files[f"{stack.name}-{volume.name}.volume"] = _volume(volume, stack)
    return files


def secret_name(stack: ContainerStack, name: str) -> str:
    """What podman calls a secret of a stack."""
    secret = next(one for one in stack.secrets if one.name == name)
    return secret.where if secret.kind == "external" else f"{stack.name}-{name}"


def _unit(sections: Mapping[str, Iterable[Key]]) -> str:
    parts = []
    for name, keys in sections.items():
        lines = [f"{key}={value}" for key, value in keys if value]
        if lines:
            parts.append("\n".join([f"[{name}]", *lines]))
    return "\n\n".join(parts) + "\n"


def _words(words: Sequence[str]) -> str:
    """An argument vector as systemd.service(5) reads one, with no specifier nor variable in it."""
    return " ".join(_word(one) for one in words)


def _word(text: str) -> str:
    escaped = "".join(_ESCAPES.get(one, one) for one in text)
    plain = escaped and not any(one in " \t\n\"';" for one in text) and not text.startswith("#")
    return escaped if plain else f'"{escaped}"'


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "%": "%%", "$": "$$"}
"""The generator passes specifiers and variables on into ExecStart (systemd.service(5), "COMMAND
LINES"), where systemd would fill them in."""


def _literal(text: str) -> str:
    return text.replace("%", "%%").replace("$", "$$")


def _container(member: StackMember, name: str, number: int, pinned: PinnedStack) -> str:
    stack, image = pinned.stack, pinned.images[member.name]
    ends = any(
        one.name == member.name and one.condition == "completed"
        for other in stack.members
        for one in other.waits_for
    )
    units = [
        f"{stack.name}-{one}.service"
        for other in member.waits_for
        for one in replica_names(stack.member(other.name))
    ]
    unit: list[Key] = [("Description", f"{name} of {stack.name}")]
    if units:
        unit += [("Requires", " ".join(units)), ("After", " ".join(units))]
    unit += _conditions(member, pinned)
    service: list[Key] = [("Restart", _restart(member)), ("TimeoutStartSec", str(_START))]
    if ends:
        service += [("Type", "oneshot"), ("RemainAfterExit", "yes")]
    if member.restart.most:
        unit += [("StartLimitIntervalSec", "infinity")]
        unit += [("StartLimitBurst", str(member.restart.most + 1))]
    container: list[Key] = [
        ("ContainerName", f"{stack.name}-{name}"),
        ("Image", image.reference),
        ("Pull", "never" if image.is_local else ""),
        *_start(member, pinned),
        *(("Environment", _word(one)) for one in _environment(member, pinned)),
        *(("Network", one) for one in _networks(member, name, stack)),
        *(("PublishPort", one) for one in _ports(member.ports, number)),
        *_mounts(member, stack),
        *(("Secret", one) for one in _secrets(member, stack)),
        *([] if ends else _health(member, pinned)),
        *_rights(member),
    ]
    install = [("WantedBy", "multi-user.target default.target")]
    sections = {"Unit": unit, "Container": container, "Service": service, "Install": install}
    return _unit(sections)


def _conditions(member: StackMember, pinned: PinnedStack) -> Iterator[Key]:
    placement = member.placement
    if placement.host:
        yield "ConditionHost", _literal(placement.host)
    if placement.platform:
        machine = placement.platform.partition("/")[2].replace("/", "-")
        yield "ConditionArchitecture", _ARCHITECTURES.get(machine, machine)
    if placement.labels or placement.spread or placement.most:
        pinned.remark(
            f"{member.name}: labels, spread and most of `placement` choose among machines: Quadlet "
            "units are for one"
        )


def _restart(member: StackMember) -> str:
    return "always" if member.restart.when == "unless-stopped" else member.restart.when


def _start(member: StackMember, pinned: PinnedStack) -> Iterator[Key]:
    program, command = member.entrypoint, member.command
    if command and "" in command:  # the generator loses empty words of Exec
        app = pinned.images[member.name].app
        first = program if program is not None else app.exec if app is not None else None
        if first is not None:
            program, command = (*first, *command), None
        else:
            pinned.remark(f"{member.name}: an empty argument is lost in a Quadlet unit")
    if program is not None:
        # podman takes several words as JSON
        yield "Entrypoint", _literal(json.dumps(list(program)))
    if command:
        yield "Exec", _words(command)
    user, _, group = member.user.partition(":")
    yield "User", _literal(user)
    yield "Group", _literal(group)
    yield "WorkingDir", _literal(member.working_directory)
    yield "HostName", member.hostname
    yield "RunInit", "true" if member.init else ""
    yield "StopSignal", member.stop_signal
    if member.stop_timeout is not None:
        yield "StopTimeout", str(member.stop_timeout)
    for label, value in member.labels:
        yield "Label", _word(f"{label}={value}")
    for host, address in member.hosts:
        yield "AddHost", f"{host}:{address}"


def _environment(member: StackMember, pinned: PinnedStack) -> Iterator[str]:
    for name, value in stack_environment(pinned.stack, member):
        if value is None:
            pinned.remark(
                f"{member.name}: {name} has the value that it has where the stack is started: for "
                "a Quadlet unit write it into a drop-in, Environment="
            )
        else:
            yield f"{name}={value}"


def _networks(member: StackMember, name: str, stack: ContainerStack) -> Iterator[str]:
    known = {one.name: one for one in stack.networks}
    for network, names in names_of(member, stack).items():
        one = known[network]
        at = one.known_as if one.external else f"{stack.name}-{network}.network"
        aliases = dict.fromkeys((*names, name))
        yield f"{at}:{','.join(f'alias={alias}' for alias in aliases)}"


def _ports(ports: Iterable[StackPort], number: int) -> Iterator[str]:
    for one in ports:
        if not one.published:
            continue
        outside = str(one.outsides[number]) if one.outsides else ""
        address = f"[{one.address}]" if ":" in one.address else one.address
        kind = "" if one.protocol == "tcp" else f"/{one.protocol}"
        before = f"{address}:{outside}:" if address else f"{outside}:" if outside else ""
        yield f"{before}{one.inside}{kind}"


def _mounts(member: StackMember, stack: ContainerStack) -> Iterator[Key]:
    known = {one.name: one for one in stack.volumes}
    for one in member.mounts:
        if one.kind == "memory":
            options = [f"size={one.size}"] if one.size else []
            options += ["ro"] if one.read_only else []
            yield "Tmpfs", _literal(":".join(filter(None, (one.dest, ",".join(options)))))
        else:
            yield "Volume", _literal(_volume_said(one, known, stack))
    for file in member.files:
        yield "Volume", _literal(f"./{mounted_name(member, file.name)}:{file.dest}:ro")


def _volume_said(mount: StackMount, known: Mapping[str, StackVolume], stack: ContainerStack) -> str:
    options = ":ro" if mount.read_only else ""
    if mount.kind == "anonymous":
        return f"{mount.dest}{options}"
    if mount.kind == "host":
        return f"{mount.source}:{mount.dest}{options}"
    volume = known[mount.source]
    at = volume.known_as if volume.external else f"{stack.name}-{volume.name}.volume"
    return f"{at}:{mount.dest}{options}"


def _secrets(member: StackMember, stack: ContainerStack) -> Iterator[str]:
    for one in member.secrets:
        parts = [secret_name(stack, one.secret), "type=mount", f"target={one.target}"]
        parts += [f"uid={one.uid}", f"gid={one.gid}", f"mode={one.mode:04o}"]
        yield ",".join(parts)


def _health(member: StackMember, pinned: PinnedStack) -> Iterator[Key]:
    image = pinned.images[member.name]
    ready = readiness_of(member, image)
    argv = None if ready is None else asking_argv(ready, image)
    if ready is None or argv is None:
        return
    yield "HealthCmd", _health_command(argv)
    yield "HealthInterval", f"{ready.interval}s"
    yield "HealthTimeout", f"{ready.timeout}s"
    yield "HealthRetries", str(ready.retries)
    yield "HealthStartPeriod", f"{ready.start}s"
    yield "Notify", "healthy"


def _health_command(argv: Sequence[str]) -> str:
    """podman reads a JSON list of several words as an argument vector, all else as a shell's text
    (podman-run(1), --health-cmd)."""
    return _literal(argv[0] if len(argv) == 1 else json.dumps(list(argv)))


def _rights(member: StackMember) -> Iterator[Key]:
    rights = member.rights
    yield "ReadOnly", "true" if rights.read_only else ""
    yield "NoNewPrivileges", "true" if rights.no_new_privileges else ""
    yield "DropCapability", " ".join(_capability(one) for one in rights.dropped)
    yield "AddCapability", " ".join(_capability(one) for one in rights.capabilities)
    limits = member.limits
    yield "PidsLimit", str(limits.processes) if limits.processes else ""
    words = [f"--memory={limits.memory}b"] if limits.memory else []
    words += [f"--cpus={limits.cpus / 1000:g}"] if limits.cpus else []
    words += [f"--memory-reservation={member.reserved.memory}b"] if member.reserved.memory else []
    words += [f"--platform={member.platform}"] if member.platform else []
    yield "PodmanArgs", " ".join(words)


def _capability(name: str) -> str:
    return "all" if name == "ALL" else f"CAP_{name}"


def _network(network: StackNetwork, stack: ContainerStack) -> str:
    keys: list[Key] = [
        ("NetworkName", f"{stack.name}-{network.name}"),
        ("Internal", "true" if network.internal else ""),
        ("Subnet", network.subnet),
        *(("Label", _word(f"{name}={value}")) for name, value in network.labels),
    ]
    return _unit({"Unit": [("Description", f"network of {stack.name}")], "Network": keys})


def _volume(volume: StackVolume, stack: ContainerStack) -> str:
    keys: list[Key] = [
        ("VolumeName", f"{stack.name}-{volume.name}"),
        *(("Label", _word(f"{name}={value}")) for name, value in volume.labels),
    ]
    return _unit({"Unit": [("Description", f"volume of {stack.name}")], "Volume": keys})
