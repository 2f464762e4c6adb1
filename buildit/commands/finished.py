"""The tests of a container as tasks over its finished image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from buildit.commands.accounts import GROUP, PASSWD
from buildit.errors import RecipeError, UsageError
from buildit.image.launch import Accounts, Launch, identity_of, launch_environment, launch_of
from buildit.make.image_test import NOBODY_STARTS, Starting, found_file, image_test_task
from buildit.model.image import App
from buildit.model.image_test import FileTest, ImageTest
from buildit.model.plan import ContainerPlan, LayerFile, LayerRef, Task
from buildit.model.tree import Kind

if TYPE_CHECKING:
    from buildit.commands.assemble import Stack


def test_tasks(plan: ContainerPlan, app: App | None, made: Stack) -> Iterator[Task]:
    """The tests of an image whose layers are all there; `app` is as the image has it.

    Raises:
        RecipeError: the image has no such user or group; it has no app.
        StoreError, IntegrityError: a layer is missing or damaged.
    """
    if not plan.tests:
        return
    rootfs = made.rootfs()
    below = [LayerRef(layer.diff_id, layer.contents) for layer in made.layers]
    entries = {path: member.entry for path, member in rootfs.tree.items()}
    for test in plan.tests:
        files = tuple(_with_numbers(one, made, test.place) for one in test.files)
        starting = _starting(plan, app, made, test) if test.runs else NOBODY_STARTS
        if test.http and not starting.app:
            message = "there is no app that could answer"
            hint = "say what runs: `- entrypoint: [/usr/bin/x]`"
            raise RecipeError(message, place=test.place, hint=hint)
        contents, copies = made.contents(rootfs), []
        for one in files:
            entry = found_file(entries, one) if one.content else None
            if entry is not None and entry.kind is Kind.FILE:
                member = rootfs.tree[entry.path]
                layer = rootfs.layers[member.layer]
                start = contents.start(member)
                copies.append(LayerFile(entry.path, layer.diff_id, layer.size, start))
        restated = rootfs.restated
        given = replace(test, files=files)
        yield image_test_task(given, starting, below, restated, tuple(copies), plan.platform)


def _starting(plan: ContainerPlan, app: App | None, made: Stack, test: ImageTest) -> Starting:
    """What starts, by the image's own accounts, as `run_image` has it."""
    launch = Launch()
    if app is not None:
        user, group = app.user, app.group
        launch = Launch(app.argv, user, group, (), app.environment, app.working_directory)
    elif contents := [one for one in plan.images if one.content]:
        launch = launch_of(contents[0].format, contents[0].content.encode())
    try:
        identity = identity_of(launch, Accounts(made.text_of(PASSWD), made.text_of(GROUP)))
    except UsageError as error:
        raise RecipeError(error.message, place=test.place, hint=error.hint) from error
    environment = launch_environment(launch, identity, {}, "")
    who = identity.uid, identity.gid, identity.groups
    return Starting(launch.argv, environment, launch.cwd, *who)


def _with_numbers(test: FileTest, made: Stack, place: str) -> FileTest:
    if not test.owner:
        return test
    ids = made.accounts()
    found = ids.owner(test.owner)
    if found is None:
        message = f"the image has no owner {test.owner!r}"
        hint = f"it has {ids.names()}; numbers do as well: 0:0"
        raise RecipeError(message, place=place, hint=hint)
    return replace(test, owner=f"{found[0]}:{found[1]}")
