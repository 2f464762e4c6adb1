"""`show`, `log` and `shell`: one build, its log, and the tree of one that failed.

A build is named as people call it: by a key, its UUID, a prefix, a package's name, a statement.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import shlex
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from buildit.archive.contents import parse_contents
from buildit.cli.options import JSON, of_recipe, own_store, spellings
from buildit.cli.screen import columns, give, on_screen, printable, say
from buildit.digest import CHUNK, BuildKey, is_hex64, key_uuid, parse_digest
from buildit.errors import StoreError, UsageError
from buildit.model.artifact import Artifact, Output
from buildit.model.config import Limits
from buildit.model.recipe import CONTAINER_FILE, RecipeOptions
from buildit.model.tree import Entry, Kind
from buildit.model.words import size
from buildit.recipe.ways.find import has_recipe, named_recipe
from buildit.store import names
from buildit.store.artifacts import Found, examine, lookup
from buildit.store.cas import Store
from buildit.store.disk import key_directory
from buildit.store.names import SHORTEST_PREFIX, FailedBuild, NameEntry

if TYPE_CHECKING:
    from buildit.make.build_directory import KeptJail

_KEY = re.compile(
    rf"[0-9a-fA-F]{{{SHORTEST_PREFIX},64}}|[0-9a-fA-F]{{8}}(?:-[0-9a-fA-F]{{4,12}}){{4}}"
)
_LETTERS = {Kind.FILE: "-", Kind.DIRECTORY: "d", Kind.SYMLINK: "l", Kind.HARDLINK: "h"}

_SHOWN = 30
"""Most lines shown of the script that failed."""


def find_key(store: Store, text: str) -> BuildKey:
    """The key that `text` names: see the module; of a name (`category/name` or `name`, with
    `-version` or without), the newest build, finished or failed.

    Raises:
        UsageError: nothing, or several things, are called so.
    """
    beside = Path(text).parent.name
    if is_hex64(beside) and Path(text).is_file():
        return names.find(store, beside)
    if _KEY.fullmatch(text):
        return names.find(store, text)
    builds: list[tuple[NameEntry | FailedBuild, Path]] = [
        *((one, key_directory(store.root, one.key)) for one in names.named(store)),
        *((one, one.log) for one in names.failures(store)),
    ]
    fitting = [pair for pair in builds if text in spellings(pair[0].name, pair[0].version)]
    called = sorted({one.name for one, _ in fitting})
    if len(called) == 1:
        return max((names.changed_at(path), one.key) for one, path in fitting)[1]
    if called:
        hint = f"say which: {', '.join(called)}"
        raise UsageError("packages of several categories are called so", place=text, hint=hint)
    hint = "see `buildit store list`"
    raise UsageError("no build in the store has this name or key", place=text, hint=hint)


def _failure_of(store: Store, text: str | None) -> FailedBuild | None:
    """The failure of what `text` names, without it the last one; None where that did not fail.

    Raises:
        UsageError: nothing is called so, or nothing has failed.
    """
    if text is not None:
        return names.find_failure(store, find_key(store, text))
    found = names.failures(store)
    if not found:
        hint = "name a build: see `buildit store list`"
        raise UsageError("no failed build is remembered", hint=hint)
    return found[0]


def _found_build(store: Store, text: str) -> Found:
    """The finished build that `text` names.

    Raises:
        UsageError: nothing is called so, it failed, or it is not whole.
    """
    key = find_key(store, text)
    found = examine(store, key)
    if isinstance(found, Found):
        return found
    failure = names.find_failure(store, key)
    if failure is not None:
        hint = f"see `buildit log {key[:12]}`, or enter it: `buildit shell {key[:12]}`"
        raise UsageError(f"the build failed: {failure.message}", place=text, hint=hint)
    first, *further = found.reasons
    told, hint = f"the build is not whole: {first}", "build its container again"
    raise UsageError(told, place=text, hint=hint, details=tuple(further))


def _artifact_lines(found: Found, store: Store) -> Iterator[str]:
    """What a build is, its outputs, what they need with the provider of each, and what is not as it
    was installed."""
    artifact = found.artifact
    yield printable(f"{artifact.name}-{artifact.version} for {artifact.platform}")
    yield f"HASH: {key_uuid(artifact.key)}"
    yield f"key: {artifact.key}"
    yield printable(f"builder: {found.builder}")
    if found.origin:
        yield printable(f"taken from: '{found.origin}'")
    outputs = sorted(artifact.outputs.items())
    rows = [
        (name, size(one.size), f"{len(_entries(one, store))} entries", f"sha256:{one.diff_id}")
        for name, one in outputs
    ]
    yield from ("outputs:", *columns(rows, "  "))
    needs = [
        (name, need, _provider(output.providers.get(need, ""), artifact, store))
        for name, output in outputs
        for need in output.needs
    ]
    yield from ("needs:", *columns(needs, "  ")) if needs else ()
    lines = _captured(artifact, store)
    yield from ("changed:", *(f"  {printable(line)}" for line in lines)) if lines else ()


def _captured(artifact: Artifact, store: Store) -> tuple[str, ...]:
    """The lines that `capture.told` wrote into the log, none where it is not in the store."""
    if artifact.log is None or not store.has(artifact.log):
        return ()
    from buildit.make.capture.capture import CAPTURE

    log = store.read(artifact.log).decode("utf-8", "replace")
    _, found, part = f"\n{log}".rpartition(f"\n=== {CAPTURE}\n")
    return tuple(part.split("\n=== ")[0].splitlines()) if found else ()


def _entries(output: Output, store: Store) -> tuple[Entry, ...]:
    return parse_contents(store.read(output.contents))


def _provider(text: str, artifact: Artifact, store: Store) -> str:
    key, _, output = text.partition(":")
    if not text:
        return "nothing" if artifact.name.startswith("debian:") else "waived"
    if not key:
        return f"its own {output}"
    provider = lookup(store, BuildKey(key))
    name = key[:12] if provider is None else f"{provider.name}-{provider.version}"
    return f"{name} ({output})"


def _file_lines(artifact: Artifact, store: Store) -> Iterator[str]:
    """Every entry of every output, as `ls -l` would say it."""
    for name, output in sorted(artifact.outputs.items()):
        rows = []
        for one in _entries(output, store):
            mode = f"{_LETTERS[one.kind]}{one.mode:04o}"
            path = f"/{one.path}" + (f" -> {one.target}" if one.target else "")
            rows.append((mode, f"{one.uid}:{one.gid}", str(one.size), path))
        yield from (f"files of {name}:", *columns(rows, "  "))


def _artifact_plain(found: Found, store: Store) -> dict[str, object]:
    """All of it, the record and the files of each output included."""
    artifact = found.artifact
    plain = {**asdict(artifact), "uuid": key_uuid(artifact.key), "builder": found.builder}
    plain["changed"] = _captured(artifact, store)
    plain["record"] = json.loads(store.read(artifact.record))
    for name, output in artifact.outputs.items():
        plain["outputs"][name]["files"] = [
            {**asdict(one), "xattrs": {key: value.hex() for key, value in one.xattrs.items()}}
            for one in _entries(output, store)
        ]
    return plain


@click.command("show")
@click.argument("build", metavar="KEY|NAME")
@click.option("--files", is_flag=True, help="List the files of every output.")
@click.option("--record", is_flag=True, help="Print the record that the key is the digest of.")
@JSON
def show_verb(build: str, files: bool, record: bool, as_json: bool) -> None:
    """Show a build: outputs, their needs and who provides them.

    A build is named by its key, the first 8 digits of it or more, its HASH, its package's name
    (the newest one), or the path of its statement.
    """

    def lines(found: Found) -> Iterator[str]:
        yield from _artifact_lines(found, store)
        yield from _file_lines(found.artifact, store) if files else ()
        if record:
            read = json.loads(store.read(found.artifact.record))
            text = json.dumps(read, indent=2, sort_keys=True)
            yield from ("record:", *(f"  {line}" for line in text.split("\n")))

    with own_store() as (store, _):
        found = _found_build(store, build)
        give(found, lines, lambda one: _artifact_plain(one, store), as_json=as_json)


@contextmanager
def _build_log(store: Store, text: str | None) -> Iterator[tuple[str, BinaryIO]]:
    """The label and the log of a build: of its failure, where the last attempt failed.

    Raises:
        UsageError: nothing is called so, or it left no log.
        IntegrityError: while reading: the log is corrupt.
    """
    failure = _failure_of(store, text)
    if failure is not None:
        with failure.log.open("rb") as stream:
            yield f"{failure.name}-{failure.version}", stream
        return
    artifact = _found_build(store, text or "").artifact
    label = f"{artifact.name}-{artifact.version}"
    if artifact.log is None or not store.has(artifact.log):
        hint = "only what was built here has one"
        raise UsageError("the build left no log", place=label, hint=hint)
    with store.checked(artifact.log) as stream:
        yield label, stream


def log_text(stream: BinaryIO, *, terminal: bool) -> Iterator[str]:
    """The text of a log: as it is, or with what could drive a terminal made harmless."""
    chunks = iter(lambda: stream.read(CHUNK), b"")
    for text in codecs.iterdecode(chunks, "utf-8", "replace" if terminal else "surrogateescape"):
        yield "\n".join(map(printable, text.split("\n"))) if terminal else text


@click.command("log", short_help="Print the log of a build; without a name, of the last failure.")
@click.argument("build", metavar="[KEY|NAME]", required=False)
@JSON
def log_verb(build: str | None, as_json: bool) -> None:
    """Print the log of a build, finished or failed; without a name that of the last failure.

    What the containers of a stack have written is shown by `buildit logs`.
    """
    with own_store() as (store, _), _build_log(store, build) as (title, stream):
        if as_json:
            plain = {"build": title, "log": stream.read().decode("utf-8", "replace")}
            say(f"{json.dumps(plain, indent=2)}\n")
            return
        for chunk in log_text(stream, terminal=sys.stdout.isatty()):
            say(chunk)


def room_of(failure: FailedBuild, store: Store, limits: Limits) -> tuple[Path, KeptJail]:
    """The work directory of a failed build and its jail, with all trees of it in place.

    Raises:
        UsageError: no tree was kept, or it failed before there was a sandbox.
        StoreError: a tree of its root was collected meanwhile.
    """
    from buildit.make.build_directory import BuildDirectory

    label = f"{failure.name}-{failure.version}"
    if failure.work is None:
        raise UsageError("no tree of the build was kept", place=label, hint="see `buildit log`")
    room = BuildDirectory(failure.work, store.root / "trees", (), label, limits, threading.Event())
    kept = room.read_jail()
    store.pin(kept.jail.lowers)  # no other buildit prunes them while somebody looks around
    for name in kept.jail.lowers:
        if is_hex64(name) and store.has(parse_digest(name)):
            store.tree(parse_digest(name))  # that of a layer, which can be unpacked again
        elif not (store.root / "trees" / name).is_dir():
            hint = "build it again, then enter it"
            told = f"the tree {name[:12]} of its root was collected meanwhile"
            raise StoreError(told, place=label, hint=hint)
    return failure.work, kept


def introduction(failure: FailedBuild, kept: KeptJail) -> Iterator[str]:
    """What a person who enters should know: where it failed, and what ran there."""
    yield failure.message
    installed = "installed: /build/out  " if kept.jail.cwd == "/build/src" else ""
    yield f"sources: {kept.jail.cwd}  {installed}inputs: /input  (kept in {failure.work})"
    argv = kept.commands.get(failure.phase)
    if argv is None:
        return
    lines = shlex.join(argv).splitlines()
    yield f"{failure.phase} ran:"
    yield from (f"  {line}" for line in lines[:_SHOWN])
    if len(lines) > _SHOWN:
        yield f"  … and {len(lines) - _SHOWN} more lines"


@click.command("shell", short_help="Enter the tree of a failed build, or of a container's step.")
@click.argument("build", metavar="[DIR|KEY|NAME]", required=False)
@click.option(
    "--at", metavar="STEP", help="The tree after this step of DIR: its number, FILE:LINE or kind."
)
@of_recipe
def shell_verb(build: str | None, at: str | None, recipe: RecipeOptions) -> int:
    """Enter the tree of a failed build, in its sandbox; without a name that of the last failure.

    Of DIR, a container's: its finished tree, or that of the step at which the last run failed;
    with --at the tree that any step left. `buildit plan DIR` lists the steps.
    """
    directory, recipe = named_recipe(Path(build or "."), recipe)
    if not has_recipe(directory, recipe):
        if at is not None:
            hint = "buildit shell DIR --at STEP"
            raise UsageError(f"there is no {CONTAINER_FILE} in {directory}", hint=hint)
        return _enter_build(build)
    if build is None and at is None:
        return _enter_build(None)
    return _enter_container(directory, at, recipe)


def _enter_container(directory: Path, at: str | None, recipe: RecipeOptions) -> int:
    from buildit.commands.run import Options
    from buildit.commands.stepping import enter_step

    with on_screen(as_json=False) as screen:
        return enter_step(Options(directory, recipe=recipe), at, screen)


def _enter_build(build: str | None) -> int:
    from buildit.commands.stepping import enter_failed
    from buildit.sandbox.run import shell

    with own_store() as (store, settings):
        failure = _failure_of(store, build)
        if failure is None:
            hint = f"see what it left: `buildit show --files {build}`"
            told = "this build did not fail: no tree of it is kept"
            raise UsageError(told, place=build, hint=hint)
        with on_screen(as_json=False) as screen:
            status = enter_failed(failure, store, screen)
        if status is not None:
            return status
        work, kept = room_of(failure, store, settings.limits)
        for line in introduction(failure, kept):
            os.write(2, f"{printable(line)}\n".encode("utf-8", "replace"))
        prompt = {"PS1": f"[{failure.name}] $PWD $ ", "TERM": os.environ.get("TERM", "dumb")}
        jail = replace(kept.jail, env={**kept.jail.env, **prompt})
        trees = store.root / "trees"
        has_bash = any((trees / lower / "usr/bin/bash").is_file() for lower in jail.lowers)
        # Where the toolchain has no bash: dash complains of its terminal at its end.
        command = ("bash", "--norc", "--noprofile", "-i") if has_bash else ("sh", "-i")
        return shell(jail, command, trees=trees, work=work, limits=settings.limits).status
