"""A stack as its file says it, with what is asked of it while it runs, and the containers that are
built for it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.commands.image_names import LOCAL_SCHEMES
from buildit.commands.run import Options
from buildit.commands.testing import image_test
from buildit.errors import UsageError
from buildit.model.image import App, Port
from buildit.model.image_test import ImageTest
from buildit.model.recipe import RecipeOptions
from buildit.model.stack import ContainerStack, MemberRecipe, StackMember
from buildit.recipe.container import LoadedStep, StepSpec
from buildit.recipe.schema import parse
from buildit.recipe.ways.find import find_stack
from buildit.recipe.ways.stacks import read_stack_file
from buildit.recipe.yaml.node import Mapping as Keys
from buildit.recipe.yaml.node import Node, Scalar, Sequence

RECIPE_OF_STACK = "a stack's file says this of each container"


def stack_at(options: Options) -> ContainerStack | None:
    """The stack that the command line names; None where it names a container.

    Raises:
        RecipeError: it is wrong; the place names the line.
    """
    path = find_stack(options.directory, options.recipe)
    if path is None:
        return None
    loaded = read_stack_file(path, os.environ)
    members = tuple(
        replace(one, tests=_tests(loaded.tests.get(one.name), one)) for one in loaded.stack.members
    )
    return replace(loaded.stack, members=members)


def _tests(node: Node | None, member: StackMember) -> tuple[ImageTest, ...]:
    if node is None:
        return ()
    app = App(("/",), ports=tuple(Port(one.inside, one.protocol) for one in member.ports))
    items = node.items if isinstance(node, Sequence) else (node,)
    found = []
    for one in items:
        step = Keys(((Scalar("test", one.place), one),), one.place)
        spec = parse(step, StepSpec)
        assert spec.test is not None  # noqa: S101 - it is the step's only key
        found.append(image_test(spec.test, LoadedStep(spec, step), app, has_app=True))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class StackPart:
    """A container that is built for a stack, for one or more of its members: `options` are as a
    command line would say them; `name` is that of the first of these."""

    name: str
    members: tuple[str, ...]
    options: Options


def parts_of_stack(
    stack: ContainerStack, options: Options, formats: tuple[str, ...] = ()
) -> tuple[StackPart, ...]:
    """The containers that are built for a stack, each once; their images are `formats` (as their
    recipes say, without), below the output directory by the name of the first member.

    Raises:
        UsageError: something is asked for that is of one container.
    """
    asked = options.recipe
    for said, what in ((asked.stage, "--target"), (asked.values, "--set"), (asked.name, "--tag")):
        if said:
            raise UsageError(f"{what}: {RECIPE_OF_STACK}", place=str(stack.file))
    if options.until:
        message = "--until is of one container"
        raise UsageError(message, hint="name that container's directory", place=str(stack.file))
    found: dict[tuple[MemberRecipe, str], list[str]] = {}
    for member in stack.members:
        if member.recipe is not None:
            found.setdefault((member.recipe, member.platform), []).append(member.name)
    return tuple(
        StackPart(names[0], tuple(names), _options(options, recipe, platform, formats, names[0]))
        for (recipe, platform), names in found.items()
    )


def _options(
    options: Options, recipe: MemberRecipe, platform: str, formats: tuple[str, ...], name: str
) -> Options:
    directory = recipe.directory
    shown = Path(os.path.relpath(directory)) if directory.is_relative_to(Path.cwd()) else directory
    said = ((name, _from(one, options.directory, shown)) for name, one in options.recipe.images)
    images = tuple((dict(recipe.images) | dict(said)).items())
    return replace(
        options,
        directory=shown,
        output=options.output / name,
        platform=platform or options.platform,
        recipe=RecipeOptions(recipe.file, recipe.stage, recipe.values, images, formats=formats),
    )


def _from(reference: str, stack: Path, container: Path) -> str:
    """A reference of the command line, whose path is from the stack's directory, as it is from a
    container's."""
    if reference.startswith(("./", "../")):
        return f"./{os.path.relpath(stack / reference, container)}"
    if not reference.startswith(LOCAL_SCHEMES) or "://" in reference:
        return reference
    scheme, _, path = reference.partition(":")
    return f"{scheme}:{os.path.relpath(stack / path, container)}"
