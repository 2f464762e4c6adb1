"""Taking a stack down: its containers in the reverse order, each within its grace time, then its
secrets and networks, and its volumes where that is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from buildit.errors import BuilditError
from buildit.events import MemberRemoved, Notice, Reporter
from buildit.podman.engine import EngineError, Podman, opened_engine, reason_of
from buildit.podman.lifeline import StackLock, wait_for_group
from buildit.stack.converge import (
    EngineState,
    KnownContainer,
    removal_waves,
    remove_container,
    remove_rest,
)

_LOOK = 0.05  # seconds between two looks at whether all is to end at once


@dataclass(frozen=True, slots=True)
class Removed:
    """What went: containers by their names in the stack, and how many networks, secrets and
    volumes; `volumes_kept` are those that stay."""

    containers: tuple[str, ...] = ()
    networks: int = 0
    secrets: int = 0
    volumes: int = 0
    volumes_kept: int = 0


def take_down(
    podman: Podman,
    directory: str,
    report: Reporter,
    hurry: threading.Event,
    *,
    volumes: bool = False,
) -> Removed:
    """Remove all that podman has of a directory's stack; once `hurry` is set nothing gets time.

    Raises:
        BuildError: podman fails; what could be removed is.
    """
    now = podman.state(directory)
    remove_containers(podman, now.containers, report, hurry)
    return remove_leftovers(podman, now, volumes=volumes)


def remove_leftovers(podman: Podman, now: EngineState, *, volumes: bool) -> Removed:
    """Remove what a stack has beside containers."""
    problem: EngineError | None = None
    for words in remove_rest(now, volumes=volumes):
        status, _, told = podman.tried(*words)
        reason = reason_of(told, status)
        if status and "no such" not in reason.lower() and "not found" not in reason.lower():
            problem = problem or EngineError(" ".join(words[:2]), reason)
    if problem is not None:
        raise problem
    kept = bool(now.volumes) and not volumes
    secrets = [one for one in now.secrets if not (one.generated and kept)]
    gone = 0 if kept else len(now.volumes)
    names = tuple(one.shown for one in now.containers)
    return Removed(names, len(now.networks), len(secrets), gone, len(now.volumes) - gone)


def remove_containers(
    podman: Podman, containers: Sequence[KnownContainer], report: Reporter, hurry: threading.Event
) -> None:
    """End and remove containers, those that came after others first.

    Raises:
        BuildError: podman could not remove one; the others are removed all the same.
    """
    problems: list[BuilditError] = []
    waves = removal_waves(containers)
    if not waves:
        return
    with ThreadPoolExecutor(max(map(len, waves))) as pool:
        for wave in waves:
            begun = [pool.submit(_remove, podman, one, report, hurry) for one in wave]
            told = False
            while any(wait(begun, _LOOK).not_done):
                if hurry.is_set() and not told:
                    told = True
                    podman.tried("kill", *(one.identifier or one.name for one in wave))
            problems += [
                error for each in begun if isinstance(error := each.exception(), BuilditError)
            ]
            others = [
                e for each in begun if (e := each.exception()) and not isinstance(e, BuilditError)
            ]
            if others:
                raise others[0]
    if problems:
        raise problems[0]


def _remove(podman: Podman, one: KnownContainer, report: Reporter, hurry: threading.Event) -> None:
    seconds = 0 if hurry.is_set() else None
    status, _, told = podman.tried(*remove_container(one, seconds))
    reason = reason_of(told, status)
    if status and "no such container" not in reason and "no container with" not in reason:
        raise EngineError("rm", reason)
    report(MemberRemoved(one.shown))


def down(
    directory: str,
    lock: StackLock,
    report: Reporter,
    hurry: threading.Event,
    *,
    volumes: bool,
    was_watcher: bool,
    environ: dict[str, str],
) -> Removed:
    """Take the stack of a directory down, whether its file is there or not.

    Raises:
        BuilditError: podman fails.
    """
    podman = opened_engine(environ)
    if was_watcher:
        wait_for_group()
    lock.take(lambda: report(Notice("waiting for another command that changes this stack")))
    try:
        return take_down(podman, directory, report, hurry, volumes=volumes)
    finally:
        lock.give()


Ending = Callable[[], threading.Event]


def in_group(podman: Podman, group: int) -> Podman:
    return replace(podman, group=group)
