"""`buildit run`: any image in a sandbox, without an engine.

An image is read by the readers of `verify`, which refuse what is damaged or hostile before anything
of it is laid down. Its tree is unpacked as the ids that containers run as, in the user's cache, and
the last few stay there: an image that is as it was starts without being read again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.codec import CodecError, decode, encode
from buildit.errors import IntegrityError, StoreError, UsageError
from buildit.home import cache_of
from buildit.image.launch import (
    LARGEST_ACCOUNTS,
    Accounts,
    Facts,
    Launch,
    identity_of,
    launch_environment,
    launch_of,
)
from buildit.image.output import UNPACKED, emitted_files
from buildit.sandbox.container import Contained, Mounted, run_contained
from buildit.sandbox.owned import OwnedTrees
from buildit.sandbox.spaces import IdMap, ids_for, own_name
from buildit.sandbox.usernet import user_network
from buildit.store.trees import boot

TREES_KEPT = 4


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A published port: an address and a port of the host, a port inside. TCP."""

    address: str
    outside: int
    inside: int


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a command line asks of one run. What is None or empty is the image's own."""

    image: Path
    command: tuple[str, ...] = ()
    layer: Path | None = None
    volumes: tuple[Mounted, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    workdir: str | None = None
    host_network: bool = False
    terminal: str = ""
    user_network: bool = False


def run_image(options: RunOptions, tell: Callable[[str], None]) -> int:
    """Run an image until its command ends; its exit status. `tell` gets remarks.

    Raises:
        IntegrityError: the image is damaged or hostile, or its format refuses it.
        UnsatisfiableError: a user-mode network is asked for, and cannot be had.
        UsageError: there is no image, command, user, volume or port such as was asked for.
        BuildError, StoreError: the sandbox or a directory cannot be made.
    """
    with ExitStack() as stack:
        wide = ids_for(0, 0, own_name())
        runs = stack.enter_context(opened_runs(wide))
        tree, facts = stack.enter_context(_unpacked(runs, options.image))
        launch = _wanted(launch_of(facts.format, facts.start.encode()), options)
        layer = stack.enter_context(_layer(runs, options.layer, facts))
        accounts = _above(facts.accounts, layer / "upper")
        identity = identity_of(launch, accounts)
        ids = wide if wide.several() else ids_for(identity.uid, identity.gid, own_name())
        _check_ids(ids, facts, identity.uid, identity.gid, tell)
        listeners = [stack.enter_context(_listening(port)) for port in options.ports]
        given = launch_environment(launch, identity, options.environment, options.terminal)
        volumes = (*_network_files(options), *options.volumes)
        return run_contained(
            Contained(
                ids,
                (tree,),
                layer,
                launch.argv,
                given,
                launch.cwd,
                identity.uid,
                identity.gid,
                identity.groups,
                volumes,
                options.host_network,
                listeners=tuple(zip(listeners, (p.inside for p in options.ports), strict=True)),
                network=user_network() if options.user_network else None,
            )
        )


def _wanted(launch: Launch, options: RunOptions) -> Launch:
    """The image's start with what the caller wants instead.

    Raises:
        UsageError: there is no command.
    """
    if options.command:
        launch = replace(launch, argv=options.command)
    if options.user is not None:
        user, _, group = options.user.partition(":")
        launch = replace(launch, user=user or "0", group=group or None, groups=())
    if options.workdir is not None:
        launch = replace(launch, cwd=options.workdir)
    if not launch.argv or not launch.argv[0]:
        hint = f"say which: buildit run {options.image} -- /bin/sh"
        raise UsageError("the image names no command", place=str(options.image), hint=hint)
    return launch


def _check_ids(ids: IdMap, facts: Facts, uid: int, gid: int, tell: Callable[[str], None]) -> None:
    if not ids.has(uid, gid):
        message = f"uid {uid} or gid {gid} is beyond the ids that containers have here"
        raise UsageError(message, hint="see /etc/subuid, or name another user: --user")
    if not ids.several() and set(facts.owners) - {(uid, gid)}:
        tell(
            f"this machine grants no range of ids: all files belong to {uid}:{gid}, and nobody "
            "else is there (uidmap and a line of /etc/subuid, /etc/subgid give one)"
        )


def _network_files(options: RunOptions) -> Iterator[Mounted]:
    """With the host's network come the host's names."""
    if options.host_network:
        taken = {each.dest.rstrip("/") for each in options.volumes}
        for path in ("/etc/resolv.conf", "/etc/hosts"):
            if os.path.isfile(path) and path not in taken:
                yield Mounted(Path(path), path, read_only=True)


@contextmanager
def _listening(port: PublishedPort) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in port.address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((port.address, port.outside))
            listener.listen(128)
        except OSError as error:
            message = f"cannot listen on {port.address}, port {port.outside}: {error.strerror}"
            hint = "publish another: --publish [IP:]HOST:CONTAINER"
            raise UsageError(message, hint=hint) from error
        yield listener


def _above(accounts: Accounts, upper: Path) -> Accounts:
    """The accounts with what an earlier run in the same layer made of them."""
    found: dict[str, str] = {}
    with suppress(OSError, IntegrityError), Root.open(upper) as root:
        for name in ("passwd", "group"):
            with suppress(OSError), root.open_file(f"etc/{name}") as stream:
                found[name] = stream.read(LARGEST_ACCOUNTS).decode("utf-8", "replace")
    passwd, group = found.get("passwd", accounts.passwd), found.get("group", accounts.group)
    return replace(accounts, passwd=passwd, group=group)


# -- unpacked images and layers


@contextmanager
def opened_runs(ids: IdMap) -> Iterator[OwnedTrees]:
    """The directory of unpacked images.

    Raises:
        UsageError: this user has no home.
        StoreError: it cannot be made.
    """
    cache = cache_of(os.environ)
    if cache is None:
        hint = "set XDG_CACHE_HOME to a directory"
        raise UsageError("there is no place to unpack the image: no HOME", hint=hint)
    yield OwnedTrees.opened(Path(cache, "buildit-run"), ids)


@contextmanager
def _unpacked(runs: OwnedTrees, image: Path) -> Iterator[tuple[Path, Facts]]:
    """The tree of an image, as it is to be shown to containers.

    Raises:
        IntegrityError, UsageError: as `run_image`.
        StoreError: it cannot be laid down.
    """
    name = _name_of(image, runs.ids)
    if name is None:  # an unpacked tree, which anybody may change meanwhile
        with runs.scratch() as work:
            yield work / "tree", _laid(image, work, runs.ids)
        return

    def fill(work: Path) -> bytes:
        return encode(_laid(image, work, runs.ids))

    with runs.tree(name, fill, _is_facts) as (tree, facts):
        runs.sweep(TREES_KEPT)
        yield tree, decode(Facts, facts)


def _is_facts(kept: bytes) -> bool:
    with suppress(CodecError):
        decode(Facts, kept)
        return True
    return False


@contextmanager
def _layer(runs: OwnedTrees, wanted: Path | None, facts: Facts) -> Iterator[Path]:
    """A directory with `upper` and `work`: the caller's, or one that goes afterwards.

    Raises:
        UsageError: the caller's is of another image or other ids, or another run has it.
        StoreError: it cannot be made.
    """
    if wanted is None:
        with runs.scratch() as work:
            runs.make_layer(work)
            yield work
        return
    record = {"image": facts.identifier, "uids": runs.ids.uids, "gids": runs.ids.gids}
    text = json.dumps(record, sort_keys=True)
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        lock = os.open(wanted, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        message = f"the layer cannot be made: {error.strerror}"
        raise StoreError(message, place=str(wanted)) from error
    try:
        _claim_layer(wanted, lock, text, runs.ids)
        runs.make_layer(wanted)
        yield wanted.absolute()
    finally:
        os.close(lock)


def _laid(image: Path, work: Path, ids: IdMap) -> Facts:
    from buildit.commands.unpacking import lay_image  # all readers, of which most runs need none

    return lay_image(image, work, ids)


def _name_of(image: Path, ids: IdMap) -> str | None:
    """What an image that is as it was is called by: where it lies, and what stat(2) says of its
    files. None for what has no one to make it whole or not at all."""
    known = ("oci-layout", f"{UNPACKED}.nspawn", f"{UNPACKED}.tar.xz")
    if image.is_dir() and not any((image / one).exists() for one in known):
        return None
    rows = []
    for path in emitted_files(image):
        with suppress(OSError):
            found = path.stat()
            rows.append((str(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    # files that are not synced count for one boot of the machine
    who = [boot().decode(), ids.several(), ids.uids[-1][1:]]
    said = json.dumps([str(image.absolute()), rows, who])
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def _claim_layer(wanted: Path, lock: int, text: str, ids: IdMap) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        hint = "wait for it, or name another directory"
        raise UsageError("another run has this layer", place=str(wanted), hint=hint) from error
    kept = wanted / "layer.json"
    if kept.exists():
        if kept.read_text("utf-8", "replace") != text:
            hint = "a layer goes with one image, and one way of ids: name another directory"
            message = "the layer was written over another image, or by another user"
            raise UsageError(message, place=str(wanted), hint=hint)
        return
    if os.listdir(wanted):
        hint = "name a new or an empty directory"
        raise UsageError("the directory holds no layer", place=str(wanted), hint=hint)
    kept.write_text(text)
    wanted.chmod(0o700)  # set-id files of the container's users are for nobody here
    if ids.become is not None:
        os.chown(wanted, *ids.become)
