"""What verbs do where the directory has a stack, and not a container."""

from __future__ import annotations

from dataclasses import replace

from buildit.cli.options import Invocation, Requested
from buildit.cli.planned import EVERYTHING, relocked
from buildit.cli.screen import give
from buildit.commands.run import LOCK_FILE, Options
from buildit.commands.stack_build import BuiltStack, build_stack, lock_stack_images
from buildit.commands.stacks import parts_of_stack, stack_at
from buildit.errors import UsageError
from buildit.events import Reporter


def build_whole_stack(invocation: Invocation, asked: Requested) -> None:
    """Build the stack of a directory; the path of what was emitted goes to stdout."""
    with asked.screen() as screen:
        stack = stack_at(asked.options)
        assert stack is not None  # noqa: S101 - the caller has looked
        built = build_stack(stack, asked.options, screen, invocation.stop)
    give(built, lambda one: (str(one.directory),), _stack_plain, as_json=asked.as_json)


def _stack_plain(built: BuiltStack) -> dict[str, object]:
    return {
        "stack": built.stack.name,
        "path": str(built.directory),
        "containers": {
            name: {"image": image.reference, "archive": image.archive}
            for name, image in built.images.items()
        },
        "files": [str(path) for path in built.files],
    }


def each_container(options: Options) -> tuple[Options, ...]:
    """What is asked for, container by container: those of a stack, or the one."""
    stack = stack_at(options)
    return (
        (options,)
        if stack is None
        else tuple(one.options for one in parts_of_stack(stack, options))
    )


def relock_stack(
    given: Options, names: tuple[str, ...], report: Reporter, *, update: bool
) -> tuple[dict[str, object], ...]:
    """Write the locks of the containers of a stack, and that of the images that it takes as they
    are; `names` are what may move.

    Raises:
        UsageError: names without `--update`.
        BuilditError: see `relocked` and `lock_stack_images`.
    """
    if names and not update:
        hint = f"let it move: buildit lock --update {names[0]}"
        raise UsageError(f"{names[0]!r} is not the directory of a container or a stack", hint=hint)
    stack = stack_at(given)
    assert stack is not None  # noqa: S101 - the caller has looked
    moving = (names or (EVERYTHING,)) if update else ()
    parts = parts_of_stack(stack, replace(given, update=moving))
    found = [relocked(one.options, (), report) for one in parts]
    moved = lock_stack_images(stack, replace(given, update=moving), report)
    if any(one.recipe is None for one in stack.members):
        found.append({"lock": str(stack.directory / LOCK_FILE), "changes": [*moved]})
    return tuple(found)
