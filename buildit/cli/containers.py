"""`build` and `push`: what makes something of the container in a directory, and what a successful
build leaves for `cli.quick`: the lines of a run that finds everything.

A replay is right only if the run that it replays saw the files as they are now, so nothing is kept
of a run during which one of them changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from buildit import events
from buildit.cli import options
from buildit.cli.options import (
    DIR,
    DISCOVER,
    LOCKED,
    OFFLINE,
    ONE_PLATFORM,
    OUTPUT,
    USE,
    Invocation,
    Requested,
)
from buildit.cli.quick import beneath, stamp_of_build
from buildit.cli.screen import event_lines, give, on_screen, printable
from buildit.codec import from_plain
from buildit.commands import building, stamp
from buildit.commands.realise import LOCAL_STORE
from buildit.commands.run import Options
from buildit.commands.sync import own_of, watched
from buildit.errors import BuilditError, UsageError
from buildit.image.output import recipe
from buildit.model.image import Emission
from buildit.model.plan import ContainerPlan
from buildit.model.words import counted, size
from buildit.recipe.ways.find import find_stack
from buildit.store.disk import BLOBS, key_directory

if TYPE_CHECKING:
    from buildit.commands.images import PushedImage
    from buildit.commands.publish import Published
    from buildit.commands.walking import AskStep

LOCK = "buildit.lock"


def remember(
    argv: Sequence[str], started: int, options: Options, emissions: Sequence[Emission]
) -> None:
    """Keep the run for a replay, where the plan left a stamp and there are images."""
    planned = options.question("plan")
    kept = stamp.read(planned)
    if kept is None or not emissions:
        return
    plan = from_plain(ContainerPlan, kept["plan"])
    if len(plan.platforms) > 1 and not options.platform:
        return  # its files, lines and statements are those of several plans
    keys = frozenset(key for key, _ in plan.wanted)
    said = (line for event in _events(plan, emissions) for line in event_lines(event, keys))
    store = Path(kept["settings"]["store"]).absolute()
    trust = kept["settings"]["trust"]
    lists = [trust["allowed_signers"], *trust["own_signers"].values()]
    trusted = [path for path in dict.fromkeys(lists) if path]
    directory = Path(plan.directory)
    synced = [watched(directory, one, own_of(plan, options.output, one)) for one in plan.takes]
    keep_run(
        list(argv),
        started,
        planned,
        [*(path for paths in synced for path in paths), *trusted],
        [printable(line) for line in said],
        [str(emission.path) for emission in emissions],
        [str(key_directory(store, key)) for key in keys],
        str(store / BLOBS),
        _until(trusted),
    )


def _until(lists: Sequence[str]) -> int | None:
    """When the first line of the allowed-signers files ends to count that counts now."""
    if not lists:
        return None
    from buildit.trust.signers import signers_of

    now = time.time()
    try:
        ends = [line.valid_before for path in lists for line in signers_of(Path(path))]
    except BuilditError:
        return 0  # a run that looks says what is wrong with it
    return min((end for end in ends if end is not None and end >= now), default=None)


def _events(plan: ContainerPlan, emissions: Sequence[Emission]) -> Iterator[events.Event]:
    yield events.Started(plan.label)
    for origin, key in plan.names:
        yield events.Processing(origin, plan.platform, key)
    for _, key in plan.names:
        yield events.Reused(key, plan.task(key).label, LOCAL_STORE)
    title = f"{plan.name}-{plan.version}"
    for one in emissions:
        yield events.Emitted(title, one.format, str(one.path), one.digest)
    yield from (events.Notice(notice) for one in emissions for notice in one.notices)


def keep_run(
    argv: list[str],
    started: int,
    plan_stamp: str,
    synced: Sequence[str],
    lines: Sequence[str],
    images: Sequence[str],
    statements: Sequence[str],
    blobs: str = "",
    until: int | None = None,
) -> None:
    """Remember a run that succeeded, so that the next one can be replayed.

    `started` is when it began (`time.time_ns`). `plan_stamp` names the stamp of its plan, whose
    files are those that planning read; `synced` are the sources of its sync steps. `images` and
    `statements` (of its packages, in the store) must still be there for a replay; an OCI layout
    that was deleted is put back from `blobs`, the directory of the store's blobs. `until` (seconds
    since 1970) is when some builder's word ends to count: from then on a real run must look.
    """
    name = stamp_of_build(argv)
    if name is None:
        return
    planned = stamp.files_of(plan_stamp)
    if planned is None:
        return
    files = planned + stamp.record(Path(path) for path in synced)
    for path, seen, _ in files:
        written = os.path.basename(path) == LOCK and "--locked" not in argv  # by the run itself
        if not written and stamp.changed_since(seen, started):
            # What was planned may be older than what its stamp says of the files: neither counts.
            stamp.forget(plan_stamp)
            return
    result = {
        "screen": [f"{line}\n" for line in lines],
        "paths": [f"{path}\n" for path in images],
        "images": stamp.made(Path(part) for image in images for part in beneath(image)),
        "store": statements,
        "restore": {os.path.abspath(image): _recipe(image, blobs) for image in images},
        "blobs": blobs,
        "until": until,
    }
    stamp.write(name, files, result)


def _recipe(image: str, blobs: str) -> dict[str, Any] | None:
    """How to put an image back; None for one that is a file, or holds what the store has not."""
    try:
        return recipe(Path(image), Path(blobs)) if blobs and os.path.isdir(image) else None
    except OSError:
        return None


def _image_plain(one: Emission) -> dict[str, object]:
    return {
        "path": str(one.path),
        "format": one.format,
        "digest": f"sha256:{one.digest}",
        "identifier": one.identifier,
    }


@click.command("build", short_help="Build the container or the stack in DIR.")
@options.of_container(
    *(DIR, USE, OUTPUT, LOCKED, OFFLINE, options.JOBS, DISCOVER, ONE_PLATFORM),
    *(options.SECRET, options.UNTIL, options.REBUILD, options.CACHES, options.PUSH),
)
@click.option(
    "--step", "by_hand", is_flag=True, help="Ask before each step: run, skip, shell or quit."
)
@click.pass_obj
def build_verb(invocation: Invocation, asked: Requested, by_hand: bool) -> None:
    """Build the container or the stack in DIR; the paths of its images go to stdout."""
    started = time.time_ns()
    is_stack = find_stack(asked.options.directory, asked.options.recipe) is not None
    ask: AskStep | None = None
    if by_hand:
        from buildit.cli import stepping

        stepping.check_asking(asked.options, as_json=asked.as_json, is_stack=is_stack)
        ask = stepping.answer_at
    if is_stack:
        from buildit.cli.stacks import build_whole_stack

        build_whole_stack(invocation, asked)
        return
    with on_screen(as_json=asked.as_json, plain=by_hand) as screen:
        emissions = building.build(asked.options, screen, invocation.stop, ask)
    give(
        emissions,
        lambda found: (str(one.path) for one in found),
        lambda found: {"images": [_image_plain(one) for one in found]},
        as_json=asked.as_json,
    )
    if not asked.as_json:
        remember(invocation.argv, started, asked.options, emissions)


def _pushed_lines(done: Sequence[Published]) -> Iterator[str]:
    for one in done:
        new = f"{one.blobs} new blobs, {one.files} new files"
        yield f"{one.path}  {one.artifacts} artifacts, {new}, {size(one.sent)}"


@click.command("push", short_help="Publish the packages, the spec and the images of DIR.")
@options.of_container(DIR, USE, LOCKED, OUTPUT, OFFLINE, DISCOVER, ONE_PLATFORM, options.SECRET)
@click.argument("registry", metavar="[oci://HOST/NAME[:TAG]]", required=False)
@click.pass_obj
def push_verb(invocation: Invocation, asked: Requested, registry: str | None) -> None:
    """Publish the packages, the spec and the images of DIR, or of all containers of its stack;
    build it first.

    With oci://HOST/NAME[:TAG], bring its OCI image to that registry; DIR may then be an image, too.
    """
    if find_stack(asked.options.directory, asked.options.recipe) is not None:
        if registry is not None:
            hint = "a repository of `upload-type: oci` takes all of its images: buildit push DIR"
            raise UsageError("a stack has several images", place=registry, hint=hint)
        from buildit.cli.stacks import build_whole_stack

        asked = replace(asked, options=replace(asked.options, push=True))
        build_whole_stack(invocation, asked)
        return
    if registry is not None:
        with asked.screen() as screen:
            found = _to_registry(invocation, asked, registry, screen)
        give(found, _registry_lines, as_json=asked.as_json)
        return
    with asked.screen() as screen:
        done = building.push(asked.options, screen, invocation.stop)
    give(done, _pushed_lines, as_json=asked.as_json)


def _to_registry(
    invocation: Invocation, asked: Requested, named: str, report: events.Reporter
) -> PushedImage:
    from buildit.commands.images import push_image
    from buildit.recipe.config import load_config
    from buildit.remote.registry.client import Registry
    from buildit.remote.registry.reference import parse_reference
    from buildit.remote.web import WebTransport
    from buildit.trust.signers import own_key

    to, path = parse_reference(named), asked.options.directory
    of_container = path.is_dir() and not (path / "oci-layout").exists()
    # an image may come from a stranger: what lies in it says nothing of keys
    settings = load_config(path if of_container else Path()).config
    key = own_key(settings.trust.keys)
    if of_container:
        emissions = building.build(asked.options, report, invocation.stop)
        path = oci_image_of(path, emissions)
    if asked.options.offline:
        raise UsageError("a registry is not asked with --offline", place=named)
    with closing(WebTransport()) as web:
        done = push_image(path, to, Registry(web, to), key)
    if key is None:
        hint = "name your SSH key in .buildit-config.yaml: signing-key: ~/.ssh/id_ed25519"
        report(events.Notice(f"the image is not signed; {hint}"))
    elif not done.signature:
        what = "cosign cannot verify it: only Ed25519 keys and ECDSA keys of 256 bits can be"
        report(events.Notice(f"the statement is signed, but {what}"))
    return done


def oci_image_of(container: Path, emissions: Sequence[Emission]) -> Path:
    """The OCI image of a container, in a directory or an archive.

    Raises:
        UsageError: it has none, or several that differ.
    """
    images = [one for one in emissions if one.format in ("oci", "oci-archive")]
    if not images:
        hint = "add `- image: {type: oci}` to container.yaml"
        raise UsageError("the container has no OCI image", place=str(container), hint=hint)
    if len({one.digest for one in images}) > 1:
        names = ", ".join(str(one.path) for one in images)
        hint = f"name the one to be pushed instead of {container}: {names}"
        raise UsageError("its OCI images are not the same", place=str(container), hint=hint)
    return images[0].path


def _registry_lines(done: PushedImage) -> Iterator[str]:
    new = f"{counted(done.blobs, 'new blob')}, {size(done.sent)}"
    said = [(done.statement, "statement"), (done.signature, "signature")]
    more = "".join(f", {what}" for digest, what in said if digest)
    yield f"{done.reference}  {done.tag}, {new}{more}"
