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
import pwd
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.codec import CodecError, decode, encode
from buildit.errors import BuilditError, IntegrityError, StoreError, UsageError
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
from buildit.sandbox.container import Contained, Mounted, removed, run_contained
from buildit.sandbox.spaces import IdMap, ids_for, in_namespace
from buildit.store.disk import is_named
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


def run_image(options: RunOptions, tell: Callable[[str], None]) -> int:
    """Run an image until its command ends; its exit status. `tell` gets remarks.

    Raises:
        IntegrityError: the image is damaged or hostile, or its format refuses it.
        UsageError: there is no image, command, user, volume or port such as was asked for.
        BuildError, StoreError: the sandbox or a directory cannot be made.
    """
    with ExitStack() as stack:
        runs = stack.enter_context(opened_runs())
        wide = ids_for(0, 0, _own_name())
        tree, facts = stack.enter_context(runs.unpacked(options.image, wide))
        launch = _wanted(launch_of(facts.format, facts.start.encode()), options)
        layer = stack.enter_context(runs.layer(options.layer, facts, wide))
        accounts = _above(facts.accounts, layer / "upper")
        identity = identity_of(launch, accounts)
        ids = wide if wide.several() else ids_for(identity.uid, identity.gid, _own_name())
        _check_ids(ids, facts, identity.uid, identity.gid, tell)
        listeners = [stack.enter_context(_listening(port)) for port in options.ports]
        given = launch_environment(launch, identity, options.environment, options.terminal)
        volumes = (*_network_files(options), *options.volumes)
        return run_contained(
            Contained(
                ids,
                tree,
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
            )
        )


def _own_name() -> str:
    with suppress(KeyError):
        return pwd.getpwuid(os.getuid()).pw_name
    return ""


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
def opened_runs() -> Iterator[Runs]:
    """The directory of unpacked images.

    Raises:
        UsageError: this user has no home.
        StoreError: it cannot be made.
    """
    cache = cache_of(os.environ)
    if cache is None:
        hint = "set XDG_CACHE_HOME to a directory"
        raise UsageError("there is no place to unpack the image: no HOME", hint=hint)
    root = Path(cache, "buildit-run")
    try:
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o700)
    except OSError as error:
        message = f"the image cannot be unpacked: {error.strerror}"
        raise StoreError(message, place=str(root)) from error
    yield Runs(root)


@dataclass(frozen=True, slots=True)
class Runs:
    """`NAME.tree/` of each image that is unpacked, `.facts` and `.lock` beside it; `tmp-…` of what
    is at work, each locked by its run."""

    root: Path

    @contextmanager
    def unpacked(self, image: Path, ids: IdMap) -> Iterator[tuple[Path, Facts]]:
        """The tree of an image, as it is to be shown to containers with these ids.

        Raises:
            IntegrityError, UsageError: as `run_image`.
            StoreError: it cannot be laid down.
        """
        name = _name_of(image, ids)
        if name is None:  # an unpacked tree, which anybody may change meanwhile
            with self.scratch(ids) as work:
                yield work / "tree", _laid(image, work, ids)
            return
        path = self.root / f"{name}.lock"
        while True:
            with path.open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH)  # many runs may have one tree
                facts = self._there(name)
                if facts is None:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    if is_named(lock.fileno(), path) and self._there(name) is None:
                        self._fill(image, name, ids)
                elif is_named(lock.fileno(), path):  # and not swept before it was locked
                    os.utime(lock.fileno())
                    self._sweep(ids)
                    yield self.root / f"{name}.tree", facts
                    return

    def _there(self, name: str) -> Facts | None:
        try:
            facts = decode(Facts, (self.root / f"{name}.facts").read_bytes())
        except (OSError, CodecError):
            return None
        return facts if (self.root / f"{name}.tree").is_dir() else None

    def _fill(self, image: Path, name: str, ids: IdMap) -> None:
        with self.scratch(ids) as work:
            facts = _laid(image, work, ids)
            self._remove([f"{name}.tree"], ids)
            (work / "facts").write_bytes(encode(facts))
            # the facts come last: a tree counts with them
            for kind in ("tree", "facts"):
                (work / kind).rename(self.root / f"{name}.{kind}")

    @contextmanager
    def layer(self, wanted: Path | None, facts: Facts, ids: IdMap) -> Iterator[Path]:
        """A directory with `upper` and `work`: the caller's, or one that goes afterwards.

        Raises:
            UsageError: the caller's is of another image or other ids, or another run has it.
            StoreError: it cannot be made.
        """
        if wanted is None:
            with self.scratch(ids) as work:
                _make_layer(work, ids)
                yield work
            return
        record = {"image": facts.identifier, "uids": ids.uids, "gids": ids.gids}
        text = json.dumps(record, sort_keys=True)
        try:
            wanted.mkdir(parents=True, exist_ok=True)
            lock = os.open(wanted, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            message = f"the layer cannot be made: {error.strerror}"
            raise StoreError(message, place=str(wanted)) from error
        try:
            _claim_layer(wanted, lock, text, ids)
            _make_layer(wanted, ids)
            yield wanted.absolute()
        finally:
            os.close(lock)

    @contextmanager
    def scratch(self, ids: IdMap) -> Iterator[Path]:
        """A directory that is removed at the end, or by a later run where this one is killed."""
        path, lock = self._claimed()
        try:
            yield path
        finally:
            self._remove([path.name], ids)
            os.close(lock)

    def _claimed(self) -> tuple[Path, int]:
        while True:
            path = self.root / f"tmp-{os.urandom(8).hex()}"
            with suppress(FileNotFoundError):  # swept before it was locked
                path.mkdir(0o755)
                lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(lock, fcntl.LOCK_EX)
                if is_named(lock, path):
                    return path, lock
                os.close(lock)

    def _sweep(self, ids: IdMap) -> None:
        """Remove what killed runs left, and all but the trees that were used last. Whoever wants
        one meanwhile waits for its lock, then finds that it is of that name no more."""
        for path in self.root.glob("tmp-*"):
            with _locked(path) as free:
                if free:
                    self._remove([path.name], ids)
        used = {path: _used(path) for path in self.root.glob("*.lock")}
        for path in sorted(used, key=lambda path: -used[path])[TREES_KEPT:]:
            with _locked(path) as free:
                if free:
                    path.with_suffix(".facts").unlink(missing_ok=True)  # a tree counts with them
                    self._remove([f"{path.stem}.tree"], ids)
                    if not path.with_suffix(".tree").exists():
                        path.unlink()

    def _remove(self, names: Sequence[str], ids: IdMap) -> None:
        there = [name for name in names if (self.root / name).exists()]
        if not there:
            return
        # what is of other ids, or closed to its owner, only root of such a namespace may remove
        if os.geteuid() == 0:
            removed([str(self.root / name) for name in there])()
        else:
            with suppress(BuilditError):
                in_namespace(ids, removed(there), self.root)


def _laid(image: Path, work: Path, ids: IdMap) -> Facts:
    from buildit.commands.unpacking import lay_image  # all readers, of which most runs need none

    return lay_image(image, work, ids)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock what nobody has, for as long as the body runs; whether it is."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        free = True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            free = False
        yield free and is_named(lock, path)
    finally:
        os.close(lock)


def _used(lock: Path) -> int:
    with suppress(FileNotFoundError):  # another run sweeps too
        return lock.stat().st_mtime_ns
    return 0


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


def _make_layer(place: Path, ids: IdMap) -> None:
    for name in ("upper", "work"):
        path = place / name
        if not path.is_dir():
            path.mkdir(0o755)
            path.chmod(0o755)
            if ids.become is not None:
                os.chown(path, *ids.become)
