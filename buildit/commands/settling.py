"""The app of an image whose programs and accounts only its layers know, once they lie. Pure."""

from __future__ import annotations

import os
from dataclasses import replace

from buildit.archive.contents import EntryAt
from buildit.commands.accounts import Ids
from buildit.errors import RecipeError
from buildit.image.launch import DEFAULT_PATH
from buildit.image.rules import program_problem
from buildit.model.image import App, Image
from buildit.model.plan import ContainerPlan


def with_app(image: Image, app: App | None) -> Image:
    """An image whose app is settled, and has its words as they were written beside it."""
    written = image.app
    if app is None or written is None:
        return replace(image, app=app)
    spoken = replace(app, exec=written.exec, arguments=written.arguments, health=written.health)
    return replace(image, app=app, written=None if spoken == app else spoken)


def settled_app(app: App, plan: ContainerPlan, find: EntryAt, accounts: Ids) -> App:
    """The app with paths of its programs and numbers of its accounts, as the whole image has them.

    Raises:
        RecipeError: the image has no such program or account.
    """
    place = "" if plan.begins_with is None else plan.begins_with.place
    health = app.health
    if health is not None and health.exec:
        health = replace(health, exec=program_of(health.exec, app, place, find))
    uid, _ = accounts.user(app.user)
    gid = None if app.group is None else accounts.group(app.group)
    for kind, name, found in (("user", app.user, uid), ("group", app.group, gid)):
        if name is not None and found is None:
            message = f"the app runs as {kind} {name!r}, which is no {kind} of the image"
            hint = f"declare it in a `{kind}s` step, or write its number; "
            hint += f"the image has {accounts.names()}"
            raise RecipeError(message, place=plan.place_of(kind) or place, hint=hint)
    own = None if uid is None else accounts.own_group(uid)
    whole = app.with_program(program_of(app.argv, app, place, find)[0]) if app.argv else app
    return replace(
        whole,
        health=health,
        user=str(uid),
        group=None if gid is None else str(gid),
        own_group=None if own is None else str(own),
    )


def program_of(words: tuple[str, ...], app: App, place: str, find: EntryAt) -> tuple[str, ...]:
    """A command whose first word is a path, as `app` finds it. Raises RecipeError: nothing is."""
    name = words[0]
    if name.startswith("/"):
        return words
    if "/" in name:
        return (os.path.normpath(f"{app.working_directory}/{name}"), *words[1:])
    path = dict(app.environment).get("PATH", DEFAULT_PATH)
    for directory in path.split(":"):
        candidate = os.path.normpath(f"{directory}/{name}")
        if directory.startswith("/") and not program_problem(candidate, find):
            return (candidate, *words[1:])
    message = f"the image runs {name!r}, which is in no directory of its PATH ({path})"
    hint = "say what runs: an `app` step with `exec`, or add the package that brings it"
    raise RecipeError(message, place=place, hint=hint)
