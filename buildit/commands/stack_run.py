"""A stack from its directory to where it runs: read, built, brought up, looked at, taken down."""

from __future__ import annotations

import threading
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.commands.building import build
from buildit.commands.run import Options
from buildit.commands.stack_build import build_stack
from buildit.commands.stack_down import take_down
from buildit.commands.stack_load import BuiltMember, real_directory
from buildit.commands.stack_look import LogFollower, Show, check_tests, run_stack_tests, watch
from buildit.commands.stack_up import (
    Hurrying,
    StackToRun,
    StackUp,
    bring_up,
    check_ports,
    stack_secrets,
)
from buildit.commands.stacks import stack_at
from buildit.errors import BuildError, Interrupted
from buildit.events import Notice, Reporter, silent
from buildit.image.inheriting import find_base
from buildit.model.stack import StackPort
from buildit.podman.engine import Podman, opened_engine
from buildit.podman.lifeline import StackLock, stack_lifeline, stack_lock
from buildit.stack.converge import KnownContainer
from buildit.stack.local import StackIdentity, alone

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class UpOptions:
    """`detach`: it goes on when the command ends; `wait`: so it does, once all are ready; `test`:
    its tests are made, and then it is taken down unless it goes on."""

    detach: bool = False
    wait: bool = False
    test: bool = False

    @property
    def stays(self) -> bool:
        return self.detach or self.wait

    @property
    def until_ready(self) -> bool:
        return self.wait or self.test or not self.detach


def stack_to_run(
    options: Options, report: Reporter, stop: threading.Event, environ: MutableMapping[str, str]
) -> StackToRun:
    """Read the stack of a directory, or its one container, and build what is not built.

    Raises:
        BuilditError: it is wrong, a port of it is taken, or a build fails.
    """
    stack = stack_at(options)
    if stack is None:
        return _alone(options, report, stop, environ)
    directory = real_directory(stack.directory)
    given = stack_secrets(stack, options.secrets)
    podman = opened_engine(environ)
    check_ports(podman, stack, podman.state(directory))
    made = build_stack(stack, options, report, stop, silent)
    remote = {name: one.reference for name, one in made.images.items() if not one.is_local}
    remote = {name: one for name, one in remote.items() if name not in made.built}
    built = {name: BuiltMember(one.path, one.format) for name, one in made.built.items()}
    who = StackIdentity(stack.name, directory)
    return StackToRun(who, made.stack, built, environ, remote, given, options.offline)


def _alone(
    options: Options, report: Reporter, stop: threading.Event, environ: MutableMapping[str, str]
) -> StackToRun:
    """One container with the ports that its image says, on this machine alone."""
    directory = real_directory(options.directory)
    stack = alone(Path(directory))
    podman = opened_engine(environ)
    podman.state(directory)  # what is wrong with podman is told before a long build
    recipe = replace(options.recipe, formats=("oci",))
    (image, *_) = build(replace(options, recipe=recipe), report, stop)
    app = find_base("oci", image.path, "").inherited.app
    ports = tuple(
        StackPort(one.number, one.protocol, published=True, outside=one.number, address=_LOOPBACK)
        for one in app.ports
    )
    (member,) = stack.members
    stack = replace(stack, members=(replace(member, ports=ports),))
    check_ports(podman, stack, podman.state(directory))
    built = {member.name: BuiltMember(image.path, "oci")}
    return StackToRun(StackIdentity(stack.name, directory), stack, built, environ)


def up(
    run: StackToRun,
    asked: UpOptions,
    report: Reporter,
    show: Show,
    hurrying: Hurrying,
    unheard: Callable[[], bool],
) -> StackUp:
    """Bring the stack up, make its tests, and look at it until it ends, as it is asked.

    Raises:
        BuilditError: it does not come up, a test fails, or a container of it ends badly.
        Interrupted: the caller ended it; it is taken down.
    """
    with stack_lock(run.who.directory) as lock:
        lock.take(lambda: report(Notice("waiting for another command that changes this stack")))
        with stack_lifeline(run.who.directory, lock) as line:
            podman = replace(opened_engine(run.environment), group=line.group)
            follower = LogFollower(show)
            if not asked.detach and not asked.wait:
                follower.begin()
            try:
                found = bring_up(
                    podman, run, report, follower.attach, hurrying, wait=asked.until_ready
                )
                if asked.stays and not asked.test:
                    return found
                return _looked_at(
                    podman, run, asked, found, report, follower, lock, hurrying, unheard
                )
            finally:
                follower.end()


def _looked_at(
    podman: Podman,
    run: StackToRun,
    asked: UpOptions,
    found: StackUp,
    report: Reporter,
    follower: LogFollower,
    lock: StackLock,
    hurrying: Hurrying,
    unheard: Callable[[], bool],
) -> StackUp:
    ended: tuple[KnownContainer, ...] = ()
    try:
        if asked.test:
            done = run_stack_tests(podman, run.stack.members, found.containers, report)
            check_tests(done, str(run.stack.file))
            return found
        lock.give()
        ended = watch(podman, found.containers, report, follower, unheard)
    except KeyboardInterrupt:
        message = f"interrupted: {run.stack.name} is taken down"
        raise Interrupted(
            message, hint="its volumes stay: buildit down --volumes removes them"
        ) from None
    finally:
        if not asked.stays:
            with hurrying() as hurry:
                if not lock.held:
                    lock.take(lambda: None)
                take_down(podman, run.who.directory, report, hurry)
    bad = [one for one in ended if one.status]
    if bad:
        names = ", ".join(f"{one.shown} (status {one.status})" for one in bad)
        raise BuildError(f"ended: {names}", place=str(run.stack.file))
    return found
