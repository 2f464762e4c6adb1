"""`buildit up`: a stack, or one container, under podman: for a look.

What podman lacks of it is made, what is another thing now is made again, the rest stays as it is.
Whatever ends the command in between takes down what it has started.
"""

from __future__ import annotations

import io
import secrets
import string
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildit.archive.admit import Budget
from buildit.archive.tar.read import read_tar
from buildit.commands.secrets import GivenSecrets
from buildit.commands.stack_down import remove_containers, remove_leftovers
from buildit.commands.stack_load import BuiltMember, foreign_image, loaded_image
from buildit.commands.stack_start import StackStart, StartPlan, taken_port
from buildit.errors import BuildError, BuilditError, UsageError
from buildit.events import Notice, Reporter, StackReady
from buildit.model.config import SecretSource
from buildit.model.secret import LARGEST
from buildit.model.stack import ContainerStack, StackFile
from buildit.podman.engine import Podman
from buildit.stack.converge import (
    ContainerChange,
    EngineState,
    KnownContainer,
    KnownNetwork,
    container_changes,
    local_networks,
    stale_networks,
    superfluous,
)
from buildit.stack.local import (
    KnownPort,
    LoadedImage,
    LocalFacts,
    StackIdentity,
    WantedContainer,
    create_network,
    create_secret,
    create_volume,
    network_known_as,
    networks_of,
    own_networks,
    own_volumes,
    secret_known_as,
    used_secrets,
    wanted_containers,
)

Hurrying = Callable[[], AbstractContextManager[threading.Event]]
"""A block in which the next signal sets the event, and ends nothing."""

_WEB = {80: "http", 443: "https", 3000: "http", 5000: "http", 8000: "http", 8080: "http"}
_WEB |= {8081: "http", 8443: "https", 8888: "http"}
_LETTERS = string.ascii_letters + string.digits
_NEW = threading.Event()


@dataclass(frozen=True, slots=True)
class StackToRun:
    """A stack with what its members are made of: `built` are images by member, `remote` the names
    by digest of the others, which podman has or brings. `environment` is where variables without
    a value, and `secrets` where the values of secrets come from."""

    who: StackIdentity
    stack: ContainerStack
    built: Mapping[str, BuiltMember]
    environment: MutableMapping[str, str]
    remote: Mapping[str, str] = field(default_factory=dict)
    secrets: GivenSecrets = field(default_factory=GivenSecrets)
    offline: bool = False


@dataclass(frozen=True, slots=True)
class StackUp:
    """A stack that is up: its containers as podman has them, and as they ought to be."""

    containers: tuple[KnownContainer, ...]
    wanted: tuple[WantedContainer, ...]
    kept: frozenset[str]


def check_ports(podman: Podman, stack: ContainerStack, now: EngineState) -> None:
    """Look before anything is made whether the ports of the stack are free, but for those that its
    own containers have.

    Raises:
        UsageError: one is taken.
    """
    own = {one.outside for container in now.containers for one in container.ports}
    for member in stack.members:
        for port in member.ports:
            for outside in port.outsides if port.published else ():
                asked = KnownPort(port.address, outside, port.inside, port.protocol)
                if outside not in own:
                    problem = taken_port(podman, asked, member.name, port.place or member.place)
                    if problem is not None and len(port.outsides) == 1:
                        raise problem


def bring_up(
    podman: Podman,
    run: StackToRun,
    report: Reporter,
    attach: Callable[[KnownContainer], None],
    hurrying: Hurrying,
    *,
    wait: bool = True,
) -> StackUp:
    """Bring the stack to what it ought to be; with `wait` each container gets ready, else it only
    starts, but for what others wait for. Where that fails, or is interrupted, what was started is
    taken down.

    Raises:
        BuilditError: something failed, such as a container that never becomes ready.
    """
    since = time.monotonic()
    before = podman.state(run.who.directory)
    touched: set[str] = set()
    try:
        up = _brought_up(podman, run, before, report, attach, touched, wait=wait)
    except BaseException:
        with hurrying() as hurry:
            _undo(podman, run.who.directory, before, touched, report, hurry)
        raise
    if wait:
        seconds = time.monotonic() - since
        report(StackReady(run.stack.name, tuple(addresses_of(up)), seconds))
    return up


def _brought_up(
    podman: Podman,
    run: StackToRun,
    before: EngineState,
    report: Reporter,
    attach: Callable[[KnownContainer], None],
    touched: set[str],
    *,
    wait: bool,
) -> StackUp:
    who, stack = run.who, with_texts(run.stack)
    stale = stale_networks(who, stack, before)
    if stale:  # networks cannot be changed under containers
        gone = [one for one in before.containers if {*one.networks} & {net.name for net in stale}]
        remove_containers(podman, gone, report, _NEW)
        podman.run("network", "rm", *(one.name for one in stale))
        before = podman.state(who.directory)
    networks = _networks(podman, who, stack, before)
    for volume in own_volumes(stack):
        if who.called(volume.name) not in before.volumes:
            podman.run(*create_volume(who, volume))
    moved = _secrets(podman, run, before)
    images = _images(podman, run)
    known = local_networks(who, stack, networks, _used_networks(stack))
    taken = {
        one.name: {key: one.addresses.get(key, "") for key in known} for one in before.containers
    }
    facts = LocalFacts(podman.further, run.environment)
    wanted = wanted_containers(who, stack, images, known, taken, facts)
    todo = container_changes(wanted, before, moved)
    remove_containers(podman, superfluous(wanted, before), report, _NEW)
    starting = StackStart(podman, _start_plan(todo, wait=wait), report, attach, str(stack.file))
    try:
        starting.run()
    finally:
        touched |= starting.touched
    found = podman.inspected([one.name for one in wanted])
    _check_alive(found, wait=wait)
    kept = frozenset(one.container.name for one in todo if one.how == "kept")
    return StackUp(found, wanted, kept)


def _check_alive(found: Sequence[KnownContainer], *, wait: bool) -> None:
    """Raises BuildError where one has failed while others became ready."""
    from_start = [
        one for one in found if not one.is_live and one.status and one.policy in ("", "no")
    ]
    if wait and from_start:
        one = from_start[0]
        hint = "its lines: buildit logs, or start it alone: buildit run"
        raise BuildError(f"{one.shown} has ended with status {one.status}", hint=hint)


def _start_plan(todo: tuple[ContainerChange, ...], *, wait: bool) -> StartPlan:
    names = frozenset(one.container.name for one in todo)
    asked = {
        name for one in todo for name, condition in one.container.waits if condition == "ready"
    }
    return StartPlan(todo, names if wait else frozenset(asked))


def _undo(
    podman: Podman,
    directory: str,
    before: EngineState,
    touched: set[str],
    report: Reporter,
    hurry: threading.Event,
) -> None:
    """Take down what a start that failed has made. What ran before and is as it was stays."""
    now = podman.state(directory)
    kept = [one for one in now.containers if one.name not in touched and before.container(one.name)]
    remove_containers(podman, [one for one in now.containers if one not in kept], report, hurry)
    if kept:
        names = ", ".join(one.shown for one in kept)
        report(Notice(f"still there, as before: {names} (buildit down ends it)"))
        return
    remove_leftovers(podman, podman.state(directory), volumes=False)


# -- what stands beside containers


def _used_networks(stack: ContainerStack) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for one in stack.members for name, _ in networks_of(one)))


def _networks(
    podman: Podman, who: StackIdentity, stack: ContainerStack, now: EngineState
) -> dict[str, KnownNetwork]:
    there = {one.name for one in now.networks}
    for network in own_networks(stack):
        if who.called(network.name) not in there:
            podman.run(*create_network(who, network))
    return podman.networks([network_known_as(who, stack, one) for one in _used_networks(stack)])


def _images(podman: Podman, run: StackToRun) -> dict[str, LoadedImage]:
    found = {}
    for member in run.stack.members:
        built = run.built.get(member.name)
        found[member.name] = (
            foreign_image(podman, member, run.remote[member.name], offline=run.offline)
            if built is None
            else loaded_image(podman, run.who, member.name, built)
        )
    return found


def with_texts(stack: ContainerStack) -> ContainerStack:
    """The stack with the texts of the files that its members are given.

    Raises:
        UsageError: one cannot be read.
    """

    def filled(file: StackFile) -> StackFile:
        return replace(file, content=_text_of(file)) if file.path else file

    members = (replace(one, files=tuple(map(filled, one.files))) for one in stack.members)
    return replace(stack, members=tuple(members))


def _text_of(file: StackFile) -> str:
    try:
        return Path(file.path).read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        message = f"{file.path} cannot be read: {error.strerror}"
        raise UsageError(message, place=file.place, hint="name a file that is there") from error


# -- secrets


def _secrets(podman: Podman, run: StackToRun, now: EngineState) -> set[str]:
    """Give podman the secrets of the stack, through a pipe; the names of containers that have
    another value."""
    there = {one.name: one for one in now.secrets}
    moved: set[str] = set()
    for secret in used_secrets(run.stack):
        if secret.kind == "external":
            continue
        called = run.who.called(secret.name)
        if secret.kind == "generated":
            if called not in there:
                drawn = "".join(secrets.choice(_LETTERS) for _ in range(secret.length or 32))
                podman.run(*create_secret(run.who, secret), stdin=drawn.encode())
            continue
        value = run.secrets.value(secret.name)
        users = _users(run, now, secret.name)
        other = {one.name for one, target in users if _shown_in(podman, one, target) != value}
        moved |= other
        if called in there and (other or not users):
            podman.run("secret", "rm", called)
        if called not in there or other or not users:
            podman.run(*create_secret(run.who, secret), stdin=value)
    gone = [one.name for one in now.secrets if one.name not in _called(run)]
    if gone:
        podman.run("secret", "rm", *gone)
    return moved


def stack_secrets(stack: ContainerStack, given: GivenSecrets) -> GivenSecrets:
    """Where the values of a stack's secrets are; what the caller gives counts over what the stack
    says. What variables hold is taken out of the environment: call it before any process begins."""
    sources = {}
    for one in used_secrets(stack):
        if one.kind == "file":
            sources[one.name] = SecretSource("file", one.where)
        elif one.kind == "environment":
            sources[one.name] = SecretSource("env", one.where or one.name)
    return given.over(sources)


def _called(run: StackToRun) -> set[str]:
    return {secret_known_as(run.who, run.stack, one.name) for one in used_secrets(run.stack)}


def _users(run: StackToRun, now: EngineState, secret: str) -> list[tuple[KnownContainer, str]]:
    """The containers that have a secret, and where."""
    targets = {
        member.name: use.target
        for member in run.stack.members
        for use in member.secrets
        if use.secret == secret
    }
    return [(one, targets[one.member]) for one in now.containers if one.member in targets]


def _shown_in(podman: Podman, one: KnownContainer, target: str) -> bytes | None:
    """The value that a container has; None where that cannot be seen."""
    data = podman.piped("cp", f"{one.identifier}:{target}", "-")
    if data is None:
        return None
    try:
        for _, stream in read_tar(io.BytesIO(data), Budget()):
            if stream is not None:
                return stream.read(LARGEST + 1)
    except BuilditError:
        return None
    return None


# -- what can be opened


def addresses_of(up: StackUp) -> list[str]:
    """What can be opened from this machine."""
    found = []
    for container in up.containers:
        wanted = next((one for one in up.wanted if one.name == container.name), None)
        if wanted is None:
            continue
        for port in container.ports:
            address = port.address or "127.0.0.1"
            host = f"[{address}]" if ":" in address else address
            scheme = _scheme(wanted, port.inside) if port.protocol == "tcp" else port.protocol
            usual = {"http": 80, "https": 443}.get(scheme) == port.outside
            end = "/" if scheme in ("http", "https") else ""
            found.append(f"{scheme}://{host}{'' if usual else f':{port.outside}'}{end}")
    return found


def _scheme(wanted: WantedContainer, inside: int) -> str:
    """How a port is spoken to: as its probe or its tests do, else as usual."""
    http = wanted.ready.http if wanted.ready is not None else None
    probes = [(http.port, http.tls)] if http is not None else []
    probes += [(one.port, one.tls) for test in wanted.member.tests for one in test.http]
    said = dict(probes).get(inside)
    return _WEB.get(inside, "tcp") if said is None else "https" if said else "http"
