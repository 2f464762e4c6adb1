"""The maker of `run` steps: a command over the layers below, whose difference becomes a layer.

Each layer below is a tree of its own in the store's cache, with the owners, modes and deletions
that it has, so that the next step over it finds it there; an overlay shows them as one. The upper
directory is read and packed by root of a namespace with the same ids, once no process of the step
exists any more: only there owners and capabilities are what they are inside.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from buildit.archive.beneath import Root
from buildit.archive.contents import contents_blob, parse_contents, way
from buildit.archive.streams import Content, write_all
from buildit.archive.tar.write import write_tar
from buildit.digest import CHUNK, Digest, digest_bytes, digest_stream
from buildit.errors import (
    BuildError,
    BuilditError,
    FetchError,
    IntegrityError,
    Interrupted,
    UnsatisfiableError,
    UsageError,
)
from buildit.image.merge import directories_above
from buildit.make.build_directory import TREES, BuildDirectory, PhaseFailed, kept_where_it_fails
from buildit.make.capture.capture import told
from buildit.make.capture.normalise import Change, bounded
from buildit.make.difference import (
    ANSWERS,
    KEY_HEAD,
    LAYERED,
    MOST_ANSWERS,
    OPAQUE,
    Difference,
    Over,
    UpperEntry,
    difference,
    holds_private_key,
    names_temporary,
)
from buildit.make.keeping_secrets import Searched, check_names, remove_secrets, unreadable
from buildit.make.laid_trees import (
    HIDING,
    WHOLE,
    laid_name,
    lay_directories,
    lay_layer,
    lay_members,
)
from buildit.make.listings import listings_of
from buildit.make.makers import AtHand, BuildPlace, Made, put_record
from buildit.make.run_mounts import given_secrets, mount_files
from buildit.make.run_room import RunRoom, network_for
from buildit.make.run_task import APT_PLACE, STEP_ENVIRONMENT
from buildit.make.service_policy import POLICY, service_policy
from buildit.model.artifact import RUNTIME, Output
from buildit.model.config import Limits
from buildit.model.plan import Inputs, Task, Toolchain
from buildit.model.platform import Platform, build_platform
from buildit.model.secret import NO_SECRETS, Secrets
from buildit.model.tree import Entry, Kind
from buildit.plan.identity import RUN, ImageTestInputs, RunInputs, read_run_record, read_test_record
from buildit.sandbox.container import RESOLVER
from buildit.sandbox.owned import OwnedTrees
from buildit.sandbox.spaces import SECRETS, IdMap, ids_for, in_namespace, one_id, own_name
from buildit.sandbox.step import MOUNT_POINTS, run_step
from buildit.store.blobs import Batch
from buildit.store.cas import Store
from buildit.store.names import FailedBuild, find_failure

KEPT, UNUSED = 400, 14 * 86400.0
"""How many trees of layers a store keeps, and for how many seconds after their last use."""

MOST_LAYERS = 450
"""An overlay of the kernel holds 500."""

_UPPER, _RECORD = "upper", "record.json"

RANGE_HINT = (
    "install uidmap and give the user a line in /etc/subuid and /etc/subgid (usermod "
    "--add-subuids 100000-165535 --add-subgids 100000-165535 NAME), run it as root, or say "
    "`ids: one` in a `run` step where all that it makes belongs to root"
)


def fetches(task: Task, toolchain: Toolchain) -> Inputs:
    """What apt is to find: the layers below are in the store."""
    del toolchain
    return Inputs(debs=task.inputs.debs)


def make(task: Task, at_hand: AtHand, place: BuildPlace, work: Path) -> Made:
    """Run the command, and pack what it left.

    Raises:
        BuildError: it failed, exceeded a limit, or left what no layer can hold; log and tree are
            kept.
        UnsatisfiableError: this machine cannot run it.
        FetchError: it has a network, and there is to be none.
        StoreError, CorruptBlob: the store cannot be written, or a layer of it is damaged.
        Interrupted: `place.stop` was set.
    """
    del at_hand
    inputs, store = read_run_record(task.record), place.store
    label = task.about.origin or task.label
    check_machine(inputs.platform, "`run` steps", label)
    ids = _ids(inputs.ids, label)
    if inputs.network and place.offline:
        hint = "build it once without --offline: its layer is then in the store"
        raise FetchError("the step has a network, and --offline forbids it", place=label, hint=hint)
    network = network_for(label) if inputs.network else None
    mounts = given_secrets(inputs, place.secret)
    secrets = Secrets(tuple(mounts.secrets))
    parts = BuildDirectory(work, store.root / TREES, (), label, place.limits, place.stop)
    (work / "logs").mkdir()
    owned = OwnedTrees.opened(store.cache("layers"), ids)
    owned.sweep(KEPT, UNUSED)
    with (
        owned.scratch() as layer,
        kept_upper(task, parts, layer, ids, store, secrets),
        ExitStack() as stack,
    ):
        owned.make_layer(layer)
        over = _over(task, inputs, ids, store)
        below = trees_below(owned, inputs.below, inputs.restated, label, store)
        lent = _lent(owned, service_policy(over.below))
        trees = (*stack.enter_context(lent), *stack.enter_context(below))
        log = parts.log_of("run")
        mounts.files += mount_files(inputs, owned, layer, store, stack)
        room = RunRoom(task, inputs, ids, layer, store, network, mounts)
        one = room.contained(trees, over.below, secrets)
        try:
            outcome = run_step(one, log=log, limits=place.limits, stop=place.stop)
        except UsageError as error:
            hint = "the layers below must have it: put what brings it before the step"
            raise BuildError(error.message, place=label, hint=hint) from error
        if outcome.status != 0 or outcome.limit is not None:
            raise parts.failed("run", outcome, log, recipe=False)
        with store.batch() as batch:
            output, remarks = _packed(layer, over, inputs.epoch, batch, ids, place, secrets)
            with batch.ingest() as sink:
                parts.write_log(sink.write)
                kept_log = sink.commit()
            made = Made({RUNTIME: output}, put_record(task, batch), inputs.epoch, kept_log)
        # its tree is that of the layer, which the next step runs over
        (layer / _UPPER).rename(layer / "tree")
        owned.adopt(laid_name(output.diff_id, ids), layer, WHOLE)
    place.warn(task, told(remarks))
    return made


def check_machine(platform: Platform, what: str, label: str) -> None:
    """Refuse what cannot run on this machine, in words.

    Raises:
        UnsatisfiableError: it is of another platform.
    """
    here = build_platform(os.uname().machine)
    if platform != here:
        message = f"{what} for {platform} cannot run on {here}"
        hint = f"build it on a machine of {platform.arch}"
        raise UnsatisfiableError(message, place=label, hint=hint)


def _ids(wanted: str, label: str) -> IdMap:
    """Raises UnsatisfiableError where a range is wanted and not to be had."""
    if wanted == "one":
        return one_id(0, 0)
    found = ids_for(0, 0, own_name())
    if not found.several():
        message = "the step needs a range of user ids, and this machine grants none"
        raise UnsatisfiableError(message, place=label, hint=RANGE_HINT)
    return found


@contextmanager
def kept_upper(
    task: Task,
    parts: BuildDirectory,
    layer: Path,
    ids: IdMap,
    store: Store,
    secrets: Secrets = NO_SECRETS,
) -> Iterator[None]:
    """Keep what a step left that fails, but for what holds a secret, and say where it is."""
    try:
        with kept_where_it_fails(task, parts, store) as course:
            course.phase = task.kind
            try:
                yield
            except BuilditError:
                if not _can_be_kept(secrets, ids, layer):
                    raise
                (parts.work / _RECORD).write_text(task.record)
                with suppress(FileNotFoundError):
                    (layer / _UPPER).rename(parts.work / _UPPER)
                raise
    except BuilditError as error:
        failure = find_failure(store, task.key)
        if isinstance(error, PhaseFailed) and failure is not None and failure.work is not None:
            kept = f"what it wrote is in {failure.work / _UPPER}"
            error.hint = f"see `buildit log`; look around in it with `buildit shell`; {kept}"
        raise


def _can_be_kept(secrets: Secrets, ids: IdMap, layer: Path) -> bool:
    """Take what holds a secret out of what a step left, and let who built it remove the rest;
    whether all of that is done."""
    try:
        if secrets:
            in_namespace(ids, partial(remove_secrets, _UPPER, secrets), layer)
        if ids.by_program:
            in_namespace(ids, _own_directories, layer)
    except BuilditError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class KeptStep:
    """What a step that failed ran over, as its record has it, and the tree of what it wrote."""

    ids: str
    below: tuple[Digest, ...]
    restated: str
    environment: Mapping[str, str]
    argv: tuple[str, ...]
    upper: Path


def kept_step(failure: FailedBuild) -> KeptStep | None:
    """What is kept of a failed step; None where the failure is of something else, or no tree was
    kept."""
    work = failure.work
    if work is None or not (work / _UPPER).is_dir():
        return None
    with suppress(OSError, IntegrityError):
        text, upper = (work / _RECORD).read_text(), work / _UPPER
        if failure.phase == RUN:
            ran = read_run_record(text)
            return KeptStep(ran.ids, ran.below, ran.restated, ran.environment, ran.argv, upper)
        said = read_test_record(text)
        environment = {**STEP_ENVIRONMENT, **said.environment}
        return KeptStep("range", said.below, said.restated, environment, said.app, upper)
    return None


def _own_directories() -> None:
    for directory, _, _ in os.walk(_UPPER, onerror=unreadable):
        os.chown(directory, 0, 0, follow_symlinks=False)


# -- what is below


@contextmanager
def trees_below(
    owned: OwnedTrees, below: Sequence[Digest], restated: str, label: str, store: Store
) -> Iterator[tuple[Path, ...]]:
    """The trees of layers, the top first; `below` and `restated` are as in `RunInputs`.

    Raises:
        BuildError: there are none, or more than an overlay holds.
        StoreError, CorruptBlob: one cannot be laid down.
    """
    if len(below) > MOST_LAYERS:
        message = f"{len(below)} layers lie below, more than an overlay can hold"
        raise BuildError(message, place=label, hint="run it over fewer packages")
    if not below:
        message = "there is nothing to run: no layer lies below"
        hint = "put the package that has the command before the step"
        raise BuildError(message, place=label, hint=hint)
    fills: list[tuple[Digest, Callable[[Path], bytes]]] = []
    if restated:
        listing = restated.encode()
        fills.append((digest_bytes(listing), partial(lay_directories, owned.ids, listing)))
    # an overlay takes a directory once; of two layers that are the same the upper one counts
    every = dict.fromkeys(below[::-1])
    fills += [(one, partial(lay_layer, owned.ids, store, one)) for one in every]
    with ExitStack() as stack:
        trees = []
        for digest, fill in fills:
            tree, facts = stack.enter_context(owned.tree(laid_name(digest, owned.ids), fill))
            trees.append(tree)
            if facts == HIDING:
                break
        yield tuple(trees)


@contextmanager
def _lent(owned: OwnedTrees, entries: tuple[Entry, ...]) -> Iterator[tuple[Path, ...]]:
    """The tree of a service policy, if there is one."""
    if not entries:
        yield ()
        return
    members = [(one, io.BytesIO(POLICY) if one.kind is Kind.FILE else None) for one in entries]
    name = laid_name(digest_bytes(contents_blob(entries)), owned.ids)
    with owned.tree(name, partial(lay_members, owned.ids, "policy-rc.d", members)) as (tree, _):
        yield (tree,)


def tree_below(task: Task, inputs: RunInputs | ImageTestInputs, store: Store) -> dict[str, Entry]:
    """The merged tree of the layers below, by path. Raises StoreError."""
    listings = [layer.contents for layer in task.inputs.below]
    merged = listings_of(store).merged(store, listings)
    tree = {path: member.entry for path, member in merged.tree.items()}
    if inputs.restated:
        tree |= {one.path: one for one in parse_contents(inputs.restated.encode())}
    return tree


def _over(task: Task, inputs: RunInputs, ids: IdMap, store: Store) -> Over:
    """The merged tree that the command ran over, and what was made in it to mount on."""
    below = tree_below(task, inputs, store).get
    points: set[str] = set()
    further = (SECRETS, APT_PLACE) if inputs.as_app else ()
    further = (*further, *(one.mount.dest.lstrip("/") for one in inputs.mounts))
    for point in (*MOUNT_POINTS, *further, *((RESOLVER,) if inputs.network else ())):
        end = way(point, below).end or ""
        points |= {end, *directories_above([end])}
    lent = {one.path: one for one in service_policy(below) if one.kind is Kind.FILE}
    return Over(below, frozenset(points - {""}), alone=not ids.several(), lent=lent)


# -- what it left


def _packed(
    layer: Path,
    over: Over,
    epoch: int,
    batch: Batch,
    ids: IdMap,
    place: BuildPlace,
    secrets: Secrets,
) -> tuple[Output, tuple[Change, ...]]:
    """The layer of what lies in the upper directory, and what a user should know of it.

    Raises:
        BuildError: it holds what no layer can, or more than the limits allow.
        StoreError: the store cannot be written.
        Interrupted: the run was stopped.
    """
    tar, facts = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    told: list[bytes] = []
    with ExitStack() as stack, batch.ingest() as sink:
        read = [stack.enter_context(open(one[0], "rb", 0)) for one in (tar, facts)]
        write = [stack.enter_context(open(one[1], "wb", 0)) for one in (tar, facts)]

        def meanwhile() -> None:
            for end in write:
                end.close()
            while part := read[0].read(CHUNK):
                if place.stop.is_set():
                    raise Interrupted("stopped while what the step left was packed")
                sink.write(part)
            told.append(read[1].read())

        out = write[0], write[1]
        work = partial(_pack, Path(_UPPER), over, epoch, place.limits, out, secrets)
        in_namespace(ids, work, layer, meanwhile)
        diff_id, size = sink.commit(), sink.size
    head, _, contents = told[0].partition(b"\n")
    remarks = tuple(Change(what, path) for what, path in json.loads(head))
    return Output(diff_id, size, batch.put_bytes(contents)), remarks


def _pack(
    upper: Path,
    over: Over,
    epoch: int,
    limits: Limits,
    out: tuple[BinaryIO, BinaryIO],
    secrets: Secrets,
) -> None:
    """Write the layer to the first stream; remarks in one line and its listing to the second."""
    further: list[tuple[str, str]] = []
    with Root.open(upper) as root:
        uppers = [_upper_entry(root, upper, *one) for one in bounded(root.walk(), limits)]
        check_names(uppers, secrets)

        def digest(path: str) -> Digest:
            with root.open_file(path) as stream:
                return digest_stream(stream)

        found = difference(uppers, over, epoch, digest)
        own = {entry.path for entry in found.change.entries} - found.emptied

        def content(entry: Entry) -> Content:
            if entry.path not in own:
                return io.BytesIO()
            stream = root.open_file(entry.path)
            if holds_private_key(stream.peek(KEY_HEAD)):
                further.append(("a private key is in the image", entry.path))
            if entry.path in ANSWERS:
                with root.open_file(entry.path) as answers:
                    if names_temporary(answers.read(MOST_ANSWERS)):
                        further.append(("not reproducible: it names a temporary file", entry.path))
            return Searched(stream, entry.path, secrets) if secrets else cast(Content, stream)

        written = write_tar(found.change.spelt(), content, out[0], whiteouts=True)
        out[0].close()
        _settle(root, upper, uppers, found)
    with out[1]:
        head = json.dumps([*found.remarks, *further]).encode()
        write_all(out[1], head + b"\n" + contents_blob(written))


def _settle(root: Root, upper: Path, uppers: Sequence[UpperEntry], found: Difference) -> None:
    """Make of the upper directory the tree that `_lay` makes of its layer."""
    entries = {entry.path: entry for entry in found.change.entries}
    deleted, opaque = {*found.change.deleted}, {*found.change.opaque}
    os.chown(upper, 0, 0)
    upper.chmod(0o755)
    _remove_attributes(upper, os.listxattr(upper))
    for one in reversed(uppers):  # what is in a directory comes behind it, and changes its time
        entry = entries.get(one.path)
        if entry is None:
            if one.path not in deleted:
                remove = root.rmdir if stat.S_ISDIR(one.status_mode) else root.unlink
                remove(one.path)
            continue
        if entry.kind is not Kind.HARDLINK:
            keep = {*entry.xattrs, *((OPAQUE,) if one.path in opaque else ())}
            _remove_attributes(upper / one.path, one.xattrs.keys() - keep)
        if one.path in found.emptied:
            _empty(root, entry)
        root.utime(one.path, entry.mtime)


def _remove_attributes(place: Path, names: Iterable[str]) -> None:
    """But for those that are the machine's, such as SELinux's labels."""
    for name in names:
        if name.startswith(LAYERED):
            os.removexattr(place, name, follow_symlinks=False)


def _empty(root: Root, entry: Entry) -> None:
    """As a new file: the content may have other names, where it stays."""
    root.unlink(entry.path)
    descriptor = root.create(entry.path, 0o600)
    try:
        os.fchown(descriptor, entry.uid, entry.gid)
        os.fchmod(descriptor, entry.mode)
        for name, value in entry.xattrs.items():
            os.setxattr(descriptor, name, value)
    finally:
        os.close(descriptor)


def _upper_entry(root: Root, upper: Path, path: str, status: os.stat_result) -> UpperEntry:
    is_link = stat.S_ISLNK(status.st_mode)
    xattrs: dict[str, bytes] = {}
    if not is_link:
        place = upper / path
        try:
            names = os.listxattr(place, follow_symlinks=False)
            xattrs = {one: os.getxattr(place, one, follow_symlinks=False) for one in names}
        except OSError as error:  # the file system may have none
            if error.errno != errno.EOPNOTSUPP:
                raise
    return UpperEntry(
        path,
        status.st_mode,
        status.st_mtime_ns // 10**9,
        status.st_uid,
        status.st_gid,
        status.st_size,
        status.st_ino,
        status.st_nlink,
        status.st_rdev,
        root.readlink(path) if is_link else "",
        xattrs,
    )
