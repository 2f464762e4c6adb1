"""What verbs do where the directory has a stack, and not a container."""

from __future__ import annotations

from buildit.cli.options import Invocation, Requested
from buildit.cli.screen import give
from buildit.commands.run import Options
from buildit.commands.stack_build import BuiltStack, build_stack
from buildit.commands.stacks import parts_of_stack, stack_at
from buildit.model.stack import ContainerStack


def build_whole_stack(invocation: Invocation, asked: Requested, stack: ContainerStack) -> None:
    """Build a stack; the path of what was emitted goes to stdout."""
    with asked.screen() as screen:
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
