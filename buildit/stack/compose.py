"""A stack as `compose.yaml` (compose-spec), every image by its digest or ID. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from buildit.model.stack import (
    DEFAULT_NETWORK,
    Amounts,
    Condition,
    StackMember,
    StackMount,
    StackNetwork,
    StackPort,
    StackSecret,
    StackVolume,
    stack_environment,
)
from buildit.stack.pinned import PinnedStack, asking_argv, readiness_of
from buildit.stack.yamltext import Data, yaml_document

_CONDITIONS: Mapping[Condition, str] = {
    "started": "service_started",
    "ready": "service_healthy",
    "completed": "service_completed_successfully",
}


_SECRET_MODE = 0o444


def compose_files(pinned: PinnedStack) -> Mapping[str, str]:
    """The texts of `compose.yaml` and of the files that it mounts, by their path beside it."""
    stack = pinned.stack
    document: dict[str, Data] = {
        "name": stack.name,
        "services": {one.name: _service(one, pinned) for one in stack.members},
        "networks": {one.name: _network(one) for one in stack.networks},
        "volumes": {one.name: _volume(one) for one in stack.volumes},
        "secrets": {one.name: _secret(one, pinned) for one in stack.secrets},
        "configs": {
            f"{member.name}-{one.name}": {"file": f"./{mounted_name(member, one.name)}"}
            for member in stack.members
            for one in member.files
        },
    }
    files = {"compose.yaml": yaml_document(_said(document))}
    for member in stack.members:
        files |= {mounted_name(member, one.name): one.content for one in member.files}
    return files


def mounted_name(member: StackMember, name: str) -> str:
    """Where a mounted file lies, beside what is emitted."""
    return f"files/{member.name}/{name}"


def _said(document: Mapping[str, Data]) -> dict[str, Data]:
    """Without what says nothing."""
    return {key: value for key, value in document.items() if value not in (None, "", {}, [], ())}


def _plain(text: str) -> str:
    """A text in which compose fills in nothing."""
    return text.replace("$", "$$")


def _service(member: StackMember, pinned: PinnedStack) -> Data:
    image = pinned.images[member.name]
    local = image.is_local
    said: dict[str, Data] = _said(
        {
            "image": f"sha256:{image.reference}" if local else image.reference,
            "pull_policy": "never" if local else "",
            "platform": member.platform,
            "user": _plain(member.user),
            "working_dir": _plain(member.working_directory),
            "environment": _environment(member, pinned),
            "depends_on": _depends(member, pinned),
            "networks": _networks(member),
            "links": [f"{one.name}:{one.alias}" for one in member.links if one.alias != one.name],
            "ports": [_port(one) for one in member.ports if one.published],
            "expose": [_exposed(one) for one in member.ports if not one.published],
            "volumes": [_mount(one) for one in member.mounts],
            "configs": _configs(member),
            "secrets": _secret_uses(member, pinned),
            "healthcheck": _health(member, pinned),
            "restart": _restart(member),
            "stop_signal": member.stop_signal,
            "labels": {name: _plain(value) for name, value in member.labels},
            "hostname": member.hostname,
            "extra_hosts": [f"{name}={address}" for name, address in member.hosts],
            "init": member.init or None,
            **_rights(member),
            "deploy": _deploy(member),
        }
    )
    # Empty ones mean something here: no program, or no arguments.
    if member.entrypoint is not None:
        said["entrypoint"] = [_plain(one) for one in member.entrypoint]
    if member.command is not None:
        said["command"] = [_plain(one) for one in member.command]
    if member.stop_timeout is not None:
        said["stop_grace_period"] = f"{member.stop_timeout}s"
    return said


def _configs(member: StackMember) -> Data:
    return [
        _said(
            {
                "source": f"{member.name}-{one.name}",
                "target": one.dest,
                "mode": one.mode,
                "uid": one.uid,
                "gid": one.gid,
            }
        )
        for one in member.files
    ]


def _secret_uses(member: StackMember, pinned: PinnedStack) -> Data:
    found: list[Data] = []
    for one in member.secrets:
        said: dict[str, Data] = {"source": one.secret, "target": one.target}
        if (one.uid, one.gid, one.mode) != (0, 0, _SECRET_MODE):
            said |= {"uid": str(one.uid), "gid": str(one.gid), "mode": one.mode}
            pinned.remark(
                f"{member.name}: docker compose leaves the file of {one.secret} the owner "
                "and mode that it has on the machine"
            )
        found.append(said)
    return found


def _rights(member: StackMember) -> dict[str, Data]:
    rights = member.rights
    return {
        "read_only": rights.read_only or None,
        "cap_add": list(rights.capabilities),
        "cap_drop": list(rights.dropped),
        "security_opt": ["no-new-privileges:true"] if rights.no_new_privileges else [],
    }


def _environment(member: StackMember, pinned: PinnedStack) -> Data:
    found = stack_environment(pinned.stack, member)
    return {name: None if value is None else _plain(value) for name, value in found}


def _depends(member: StackMember, pinned: PinnedStack) -> Data:
    found: dict[str, Data] = {}
    for one in member.waits_for:
        condition = one.condition
        other = pinned.stack.member(one.name)
        if condition == "ready" and _health(other, pinned) is None:
            condition = "started"
        found[one.name] = {"condition": _CONDITIONS[condition]}
    return found


def _networks(member: StackMember) -> Data:
    plain = all(one.network == DEFAULT_NETWORK and not one.aliases for one in member.networks)
    if plain:
        return None
    return {
        one.network: {"aliases": list(one.aliases)} if one.aliases else None
        for one in member.networks
    }


def _port(port: StackPort) -> Data:
    outside = f"{port.outside}-{port.outside_last}" if port.outside_last else str(port.outside)
    return _said(
        {
            "target": port.inside,
            "published": outside if port.outside else "",
            "host_ip": port.address,
            "protocol": port.protocol,
        }
    )


def _exposed(port: StackPort) -> str:
    return str(port.inside) if port.protocol == "tcp" else f"{port.inside}/{port.protocol}"


def _mount(mount: StackMount) -> Data:
    kind = {"volume": "volume", "anonymous": "volume", "host": "bind", "memory": "tmpfs"}
    return _said(
        {
            "type": kind[mount.kind],
            "source": _plain(mount.source),
            "target": mount.dest,
            "read_only": mount.read_only or None,
            "tmpfs": {"size": mount.size} if mount.size else None,
        }
    )


def _health(member: StackMember, pinned: PinnedStack) -> Data:
    image = pinned.images[member.name]
    ready = readiness_of(member, image)
    if ready is None:
        return None
    argv = asking_argv(ready, image)
    if argv is None:
        pinned.remark(
            f"{member.name}: nothing in its image can ask whether it is ready: compose.yaml and "
            "the Quadlet units take it for ready once it runs; `ready: {exec: …}` would do"
        )
        return None
    return {
        "test": ["CMD", *(_plain(one) for one in argv)],
        "interval": f"{ready.interval}s",
        "timeout": f"{ready.timeout}s",
        "retries": ready.retries,
        "start_period": f"{ready.start}s",
    }


def _restart(member: StackMember) -> str:
    restart = member.restart
    if restart.when == "no":
        return ""
    return f"{restart.when}:{restart.most}" if restart.most else restart.when


def _deploy(member: StackMember) -> Data:
    placement = member.placement
    constraints = [
        f"node.labels.{name} {'==' if must else '!='} {value}"
        for name, value, must in placement.labels
    ]
    if placement.host:
        constraints.append(f"node.hostname == {placement.host}")
    if placement.platform:
        system, _, machine = placement.platform.partition("/")
        constraints += [f"node.platform.os == {system}", f"node.platform.arch == {machine}"]
    where: dict[str, Data] = {
        "constraints": [_plain(one) for one in constraints],
        "preferences": [{"spread": f"node.labels.{one}"} for one in placement.spread],
        "max_replicas_per_node": placement.most or None,
    }
    amounts = {"limits": _amounts(member.limits), "reservations": _amounts(member.reserved)}
    return _said(
        {
            "replicas": member.replicas if member.replicas > 1 else None,
            "placement": _said(where),
            "resources": _said(amounts),
        }
    )


def _amounts(amounts: Amounts) -> Data:
    return _said(
        {
            "cpus": f"{amounts.cpus / 1000:g}" if amounts.cpus else "",
            "memory": str(amounts.memory) if amounts.memory else "",
            "pids": amounts.processes or None,
        }
    )


def _network(network: StackNetwork) -> Data:
    if network.external:
        return {"external": True, "name": network.known_as}
    return _said(
        {
            "internal": network.internal or None,
            "ipam": {"config": [{"subnet": network.subnet}]} if network.subnet else None,
            "labels": {name: _plain(value) for name, value in network.labels},
        }
    )


def _volume(volume: StackVolume) -> Data:
    if volume.external:
        return {"external": True, "name": volume.known_as}
    return _said({"labels": {name: _plain(value) for name, value in volume.labels}})


def _secret(secret: StackSecret, pinned: PinnedStack) -> Data:
    match secret.kind:
        case "file":
            return {"file": _plain(secret.where)}
        case "environment":
            return {"environment": secret.where}
        case "generated":
            return {"file": f"./secrets/{secret.name}"}
        case _:
            pinned.remark(
                f"the secret {secret.name} is external: docker compose takes such secrets in a "
                "swarm only"
            )
            return {"external": True, "name": secret.where}
