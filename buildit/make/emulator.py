"""QEMU for the builds of another platform: one static program of a pinned .deb, as a tree.

The outer stage of the sandbox registers it (`sandbox.jail`); nothing of it enters the root of the
build, whose programs find themselves on a machine of their own architecture.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.errors import StoreError, UnsatisfiableError
from buildit.make.capture.elf import MalformedElf, read_elf
from buildit.make.debtree import Filling, set_times
from buildit.model.plan import DebRef, Task
from buildit.model.platform import EMULATIONS, Emulation
from buildit.sandbox.probe import EMULATION_HINT, no_emulation
from buildit.store.cas import Store


def emulator_of(task: Task, store: Store, stop: threading.Event) -> str:
    """What the sandbox of a task is told of its emulator, whose tree is then in the store; empty
    where it needs none.

    Raises:
        UnsatisfiableError: the .deb has no such program that runs alone.
        IntegrityError, StoreError, Vanished, Interrupted: as `debtree.Filling.unpack`.
    """
    if not task.inputs.emulator:
        return ""
    deb, emulation = task.inputs.emulator[0], EMULATIONS[task.platform]
    name = f"emulator-{emulation.program}-{deb.digest}"
    store.pin((name,))
    fill = partial(_fill, deb=deb, emulation=emulation, store=store, stop=stop)
    tree = store.named_tree(name, fill)
    store.trees.touch(tree)
    program = next((path for path in _programs(emulation) if (tree / path).is_file()), None)
    if program is None:
        raise StoreError(
            f"{emulation.program} is gone", place=str(tree), hint="buildit store verify"
        )
    return emulation.registration(f"{name}/{program}")


def check_emulation(tasks: tuple[Task, ...]) -> None:
    """Refuse builds for another platform, before the first begins, where no emulator can run.

    Raises:
        UnsatisfiableError: this machine lacks what it takes; the hint says what.
    """
    wanted = next((task for task in tasks if task.inputs.emulator), None)
    if wanted is None or not (problem := no_emulation()):
        return
    message = f"cannot build for {wanted.platform} here: no emulator can be registered ({problem})"
    raise UnsatisfiableError(message, place=wanted.label, hint=EMULATION_HINT)


def _programs(emulation: Emulation) -> Iterator[str]:
    """Where the program may be; a .deb of Debian 13 has it without the ending."""
    yield f"usr/bin/{emulation.program}-static"
    yield f"usr/bin/{emulation.program}"


def _fill(
    tree: Path, deb: DebRef, emulation: Emulation, store: Store, stop: threading.Event
) -> None:
    programs = frozenset(_programs(emulation))
    Filling(tree, store.sound, programs.__contains__, stop).unpack([deb])
    place = f"{deb.name} {deb.version}"
    found = [path for path in _programs(emulation) if (tree / path).is_file()]
    if not found:
        hint = "take another one: buildit lock --update emulator"
        raise UnsatisfiableError(f"it has no {emulation.program}", place=place, hint=hint)
    with (tree / found[0]).open("rb") as stream:
        try:
            elf = read_elf(stream)
        except MalformedElf as error:
            raise UnsatisfiableError(f"{found[0]} is damaged: {error}", place=place) from error
    if elf is None or elf.interp or elf.needed:
        hint = "take the one of Debian 12 or 13: buildit lock --update emulator"
        raise UnsatisfiableError(f"{found[0]} is no static program", place=place, hint=hint)
    with Root.open(tree) as root:
        set_times(root)
