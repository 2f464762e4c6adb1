"""Arguments and options that several verbs share, and what a verb gets of them."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildit.cli.screen import PlainScreen, on_screen
from buildit.digest import BuildKey, key_uuid
from buildit.errors import UsageError
from buildit.events import Notice, Reporter, silent
from buildit.model.recipe import RecipeOptions
from buildit.model.words import guess
from buildit.recipe.ways.find import named_recipe

if TYPE_CHECKING:
    from buildit.commands.run import Options
    from buildit.model.config import Config
    from buildit.store.cas import Store

_Verb = Callable[..., Any]

PATH = click.Path(path_type=Path)


@dataclass(frozen=True, slots=True)
class Invocation:
    """One command line: its words, and the event that a signal sets."""

    argv: tuple[str, ...]
    stop: threading.Event


@dataclass(frozen=True, slots=True)
class Requested:
    """What a command line asks of one container."""

    options: Options
    as_json: bool

    def screen(self) -> AbstractContextManager[PlainScreen]:
        """The screen on stderr, for the length of the command."""
        return on_screen(as_json=self.as_json)


_SHARED = (
    "directory",
    "use",
    "locked",
    "offline",
    "output",
    "jobs",
    "discover",
    "push",
    "platform",
    "secrets",
    "until",
    "rebuild",
    "cache_mounts",
)
"""The options that are fields of `commands.run.Options`."""


def _secrets(ctx: click.Context, _: click.Parameter, words: tuple[str, ...]) -> object:
    if not words or ctx.resilient_parsing:
        return None
    from buildit.commands.secrets import parse_secrets

    return parse_secrets(words)


JSON = click.option(
    "--json", "as_json", is_flag=True, help="Results as JSON on stdout, progress as JSON on stderr."
)
USE = click.option(
    "--use",
    metavar="FLAG",
    multiple=True,
    help="A flag for every package: ipv6, -selinux, tls=openssl. May be repeated.",
)
LOCKED = click.option(
    "--locked", is_flag=True, help="Fail where buildit.lock would change; never write it."
)
OFFLINE = click.option("--offline", is_flag=True, help="Ask no other machine for anything.")
OUTPUT = click.option(
    "--output",
    metavar="DIR",
    type=PATH,
    default=Path("out"),
    show_default=True,
    help="Where the images go.",
)
JOBS = click.option(
    "--jobs",
    metavar="N",
    type=click.IntRange(min=1),
    help="Packages built at one time; as configured without it.",
)
DISCOVER = click.option(
    "--discover",
    metavar="HOST/PATH[,push=True]",
    multiple=True,
    help="Also take from the binhosts that this name leads to (App Container discovery); with "
    "push=True publish what was made to the configured repositories. file:///DIR and "
    "ssh://user@host/path name a binhost itself. May be repeated.",
)
ONE_PLATFORM = click.option(
    "--platform", metavar="OS/ARCH", help="Only this one of the container's platforms: linux/arm64."
)
UNTIL = click.option(
    "--until",
    metavar="STEP",
    help="Build no further than this step, and no image: its number, FILE:LINE or kind.",
)
REBUILD = click.option(
    "--rebuild",
    is_flag=True,
    help="Run each `run` step once more, and fail where it leaves something else.",
)
CACHES = click.option(
    "--cache-mounts",
    is_flag=True,
    help="For work: the caches that `run` steps mount have what the last one left there. What is "
    "built so is not for release.",
)
PUSH = click.option(
    "--push", is_flag=True, help="Publish what was made to the configured repositories."
)
SECRET = click.option(
    "--secret",
    "secrets",
    metavar="id=ID,src=FILE|env=NAME",
    multiple=True,
    callback=_secrets,
    help="A secret that `run` steps ask for: a file, or a variable of the environment. May be "
    "repeated.",
)
DIR = click.argument("directory", metavar="DIR", type=PATH)


_RECIPE = (
    click.option(
        "--file",
        metavar="NAME",
        help="The recipe in DIR: container.yaml, else a Containerfile or Dockerfile without it.",
    ),
    click.option(
        "--target", metavar="STAGE", help="Of a Dockerfile: build this stage instead of the last."
    ),
    click.option(
        "--set",
        "--build-arg",
        "values",
        metavar="NAME=VALUE",
        multiple=True,
        help="A parameter of the recipe: what `vars` set, or an ARG (--build-arg is the same). "
        "May be repeated.",
    ),
    click.option(
        "--build-context",
        "images",
        metavar="NAME=REFERENCE",
        multiple=True,
        help="What the name of an image stands for: debian:12=oci:../base. May be repeated.",
    ),
    click.option("--tag", metavar="NAME[:VERSION]", help="What the image is called."),
    click.option(
        "--image", "formats", metavar="TYPE[,TYPE...]", help="The images to emit, such as oci,lxc."
    ),
)
"""The options of a recipe, which `_of_recipe` reads."""


def _of_recipe(given: dict[str, Any]) -> RecipeOptions:
    """What the options of a recipe say, which are taken out of `given`.

    Raises:
        UsageError: one is no `NAME=VALUE`.
    """
    name, sign, version = (given.pop("tag") or "").rpartition(":")
    if not sign or "/" in version:  # a port of a host
        name, version = f"{name}{sign}{version}", ""
    formats = tuple(filter(None, (given.pop("formats") or "").split(",")))
    values = tuple(_pair("--set", one) for one in given.pop("values"))
    images = tuple(_pair("--build-context", one) for one in given.pop("images"))
    stage = given.pop("target") or ""
    return RecipeOptions(given.pop("file") or "", stage, values, images, name, version, formats)


def _beside(reference: str, directory: Path) -> str:
    """A reference with the path of an image on this machine as it is from a directory, which is
    what paths in recipes are from."""
    scheme, colon, path = reference.partition(":")
    if not colon or "/" in scheme:
        is_path = reference.startswith((".", "/"))
        return f"./{os.path.relpath(reference, directory)}" if is_path else reference
    return reference if path.startswith("//") else f"{scheme}:{os.path.relpath(path, directory)}"


def _pair(option: str, text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if sign and name:
        return name, value
    raise UsageError(f"{text!r} says no value", hint=f"write it as NAME=VALUE: {option} {text}=…")


def of_recipe(verb: _Verb) -> _Verb:
    """A verb that is called with `recipe`, what the command line says of one."""

    @functools.wraps(verb)
    def called(*args: object, **given: Any) -> object:  # noqa: ANN401 - as click gives them
        return verb(*args, recipe=_of_recipe(given), **given)

    command: _Verb = called
    for option in reversed(_RECIPE):
        command = option(command)
    return command


def of_container(
    *further: Callable[[Any], Any], has_recipe: bool = True
) -> Callable[[_Verb], _Verb]:
    """A verb about a container: it is called with `Requested` and its own options.

    `further` are of `DIR`, `LOCKED`, `OFFLINE`, `OUTPUT`, `JOBS`, `DISCOVER`, `ONE_PLATFORM`,
    `UNTIL`, `REBUILD` and `PUSH`, which become part of `Requested`, as do those of a recipe
    unless it has none yet (`has_recipe`); without `DIR` it is about the working directory.
    """

    def decorate(verb: _Verb) -> _Verb:
        @functools.wraps(verb)
        def called(*args: object, **given: Any) -> object:  # noqa: ANN401 - as click gives them
            from buildit.commands.run import Options

            recipe: RecipeOptions = given.pop("recipe", RecipeOptions())
            words = {name: given.pop(name) for name in _SHARED if name in given}
            said = {name: value for name, value in words.items() if value is not None}
            directory, recipe = named_recipe(said.pop("directory", Path()), recipe)
            images = ((name, _beside(one, directory)) for name, one in recipe.images)
            recipe = replace(recipe, images=tuple(images))
            options = Options(directory, recipe=recipe, **said)
            return verb(*args, Requested(options, given.pop("as_json")), **given)

        command: _Verb = of_recipe(called) if has_recipe else called
        for option in (JSON, *reversed(further)):
            command = option(command)
        return command

    return decorate


@contextmanager
def own_store(report: Reporter = silent) -> Iterator[tuple[Store, Config]]:
    """The store and settings that hold in the working directory.

    Raises:
        RecipeError: the configuration is wrong.
        StoreError: the store cannot be used.
    """
    from buildit.recipe.config import load_config
    from buildit.store.cas import Store

    settings = load_config(Path()).config
    for remark in settings.remarks:
        report(Notice(remark, warning=True))
    with Store.open(settings.store) as store:
        yield store, settings


def told_of(name: str, version: str, key: BuildKey, state: str) -> dict[str, Any]:
    """A build as JSON data: what it is, and where or how it is."""
    return {"name": name, "version": version, "key": key, "uuid": key_uuid(key), "state": state}


def spellings(name: str, version: str) -> tuple[str, ...]:
    """What a package may be called on a command line."""
    short = name.rpartition("/")[2]
    return (name, short, f"{name}-{version}", f"{short}-{version}")


def unknown_package(wanted: str, known: tuple[str, ...], place: str) -> UsageError:
    """The error of a name that no package of a container has, or that several end with."""
    hint = f"{guess(wanted, known)}packages: {', '.join(sorted(known)) or 'none'}"
    return UsageError(f"no single package is called {wanted!r} here", place=place, hint=hint)
