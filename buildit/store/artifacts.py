"""Artifacts in the store: committed by a statement after their blobs, looked up by key.

One statement per builder and key. A second, different one by the same builder is kept beside the
first as `<builder>.<digest>.json` and reported: that build is not reproducible.

Early cut-off: builds by their resolved key, `r/<aa>/<resolved key>/<builder>.json` (DESIGN 3).

An entry only points to a key. It is believed by nobody: whoever follows it computes the resolved
key from the record and the signed statement of the build that it points to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.codec import CodecError, decode, encode
from buildit.digest import BuildKey, Digest, digest_bytes, is_hex64
from buildit.errors import IntegrityError, StoreError
from buildit.files import open_regular
from buildit.model.artifact import Artifact, Output
from buildit.store.attest import LOCAL, SIZE_LIMIT, is_builder, parse_statement, statement_bytes
from buildit.store.cas import Store, set_aside
from buildit.store.disk import Vanished, key_directory, located, make_directory
from buildit.store.locks import exclusive
from buildit.store.names import entry

Suits = Callable[[Artifact], str | None]
"""Why an artifact that is whole cannot be taken here (another `resolved`, say); None: take it."""

_CHECK = "run `buildit store verify`"

Sign = Callable[[bytes], bytes]
"""A statement's bytes to the armored signature over them."""


@dataclass(frozen=True, slots=True)
class Found:
    """A usable artifact and the statement that says so; `origin` names the binhost that it was
    taken from, and is empty for what was built here."""

    artifact: Artifact
    builder: str
    path: Path
    origin: str = ""


ELSEWHERE = "elsewhere"
"""The origin of what came from a place that nobody wrote down."""

Believed = Callable[[Found], str | None]
"""Why a statement of the store is not believed today; None: it is."""


@dataclass(frozen=True, slots=True)
class Miss:
    """Why the store cannot serve a key: one reason, or one per statement that was refused.

    `unread` is why a statement could not even be read: the disk, and not what it says.
    """

    reasons: tuple[str, ...]
    unread: StoreError | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """Where the statement is; `differs_from` is the builder's earlier, different one."""

    path: Path
    differs_from: Path | None


def anything(_: Artifact) -> str | None:
    """Suits whoever asks."""
    return None


def anybody(_: Found) -> str | None:
    """Believes whatever the store has: to look at it, not to use it."""
    return None


def lookup(
    store: Store, key: BuildKey, suits: Suits = anything, believed: Believed = anybody
) -> Artifact | None:
    """The artifact of a key, with all that an image or a build needs of it; None is a miss."""
    found = examine(store, key, suits, believed)
    return found.artifact if isinstance(found, Found) else None


def examine(
    store: Store, key: BuildKey, suits: Suits = anything, believed: Believed = anybody
) -> Found | Miss:
    """As `lookup`, with the statement or the reasons; what was built here is looked at first."""
    reasons = []
    unread = None
    paths = statement_paths(store.root, key)
    if len(paths) > 1:
        paths.sort(key=lambda path: (origin_path(path).exists(), path.name.split(".")[0] != LOCAL))
    for path in paths:
        try:
            artifact, builder = read_statement(path, key)
        except (IntegrityError, StoreError) as error:
            reasons.append(f"{path.name}: {error.message}")
            if isinstance(error, StoreError) and not isinstance(error, Vanished):
                unread = error
            continue
        reason = incomplete(store, artifact) or suits(artifact)
        if reason is None:
            found = Found(artifact, builder, path, origin_of(path))
            reason = believed(found)
            if reason is None:
                return found
        reasons.append(f"{path.name}: {reason}")
    return Miss(tuple(reasons) or ("no build of it is in the store",), unread)


def incomplete(store: Store, artifact: Artifact) -> str | None:
    """What the store lacks of an artifact: one line, or None. The log is not missed."""
    for name, output in artifact.outputs.items():
        size = store.size(output.diff_id)
        if size is None:
            return f"layer {output.diff_id} of output {name} is missing"
        if size != output.size:
            return f"layer {output.diff_id} of output {name} has {size} bytes, not {output.size}"
        if not store.has(output.contents):
            return f"contents {output.contents} of output {name} are missing"
    return None if store.has(artifact.record) else f"record {artifact.record} is missing"


def commit(
    store: Store, artifact: Artifact, builder: str = LOCAL, sign: Sign | None = None
) -> Committed:
    """Make an artifact visible. Its blobs must be in the store already.

    `builder` is `local` without `sign`, else the SHA-256 of the signing key's public blob.

    Raises:
        StoreError: a blob is missing, or the disk is full or refuses.
        ValueError: the artifact is not well formed, or builder and signature do not go together.
    """
    if (builder == LOCAL) != (sign is None):
        how = "without" if sign is None else "with"
        raise ValueError(f"builder {builder!r} does not go {how} a key")
    reason = incomplete(store, artifact)
    if reason is not None:
        reason = f"the artifact cannot be committed: {reason}"
        raise StoreError(reason, place=f"key {artifact.key}", hint="run the build again")
    content = statement_bytes(artifact, builder)
    return place_statement(store, artifact, builder, content, sign(content) if sign else None)


def place_statement(
    store: Store,
    artifact: Artifact,
    builder: str,
    content: bytes,
    signature: bytes | None,
    origin: str = "",
) -> Committed:
    """Keep the bytes of a statement that was written or verified by the caller.

    `origin` names the binhost that it was taken from; one that is there already keeps what is
    known of it, unless it now was built here.

    Raises:
        StoreError: the disk is full or refuses.
    """
    directory = key_directory(store.root, artifact.key)
    lease = store.lease()
    with located(directory):
        make_directory(store.root / "locks")
        with exclusive(store.root / "locks" / "statements"), store.publishing():
            lease.pin((artifact.key,))
            # Before the statement: after a kill in between, the entry is stale, which is harmless.
            if (named := entry(artifact)) is not None:
                store.put_derived("name", store.root / named[0], named[1])
            store.disk.make_synced_directory("statement", directory)
            placed = _choose(store, artifact.key, builder, content)
            _write(store, placed.path, content, signature, origin)
            # After it: an entry that points to nothing would only be asked for in vain.
            note_resolved(store, artifact, builder)
    return placed


def signature_path(statement: Path) -> Path:
    return statement.with_name(f"{statement.name}.sig")


def origin_path(statement: Path) -> Path:
    """Where a store notes the binhost that a statement was taken from; never published."""
    return statement.with_name(f"{statement.name}.from")


def origin_of(statement: Path) -> str:
    """The name of the binhost that a statement of the store was taken from; empty: built here.

    Raises:
        StoreError: the note cannot be read.
    """
    beside = origin_path(statement)
    with located(beside), suppress(FileNotFoundError):
        return beside.read_text("utf-8", "replace") or ELSEWHERE
    return ""


def statement_paths(root: Path, key: BuildKey) -> list[Path]:
    """Files that may hold statements about a key, by name, the first of each builder first."""
    directory = key_directory(root, key)
    try:
        names = [name for name in os.listdir(directory) if split_statement_name(name) is not None]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [directory / name for name in sorted(names, key=lambda name: (name.count("."), name))]


def split_statement_name(name: str) -> tuple[str, Digest | None] | None:
    """`<builder>.json` or `<builder>.<digest>.json` to its parts; None for any other name."""
    match name.split("."):
        case [builder, "json"] if is_builder(builder):
            return builder, None
        case [builder, digest, "json"] if is_builder(builder) and is_hex64(digest):
            return builder, Digest(digest)
        case _:
            return None


def read_bounded(path: Path, limit: int) -> bytes:
    """A regular file of at most `limit` bytes.

    Raises:
        OSError: it cannot be read.
        IntegrityError: it is larger, or no regular file.
    """
    with open_regular(path) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise IntegrityError(f"it has more than {limit} bytes", place=str(path), hint=_CHECK)
    return content


def read_statement(path: Path, key: BuildKey) -> tuple[Artifact, str]:
    """A statement whose file name says who made it.

    Raises:
        IntegrityError: what it says is not what its name says, or it is malformed.
        StoreError: it cannot be read.
    """
    with located(path):
        content = read_bounded(path, SIZE_LIMIT)
    statement = parse_statement(content, key)
    check_name(path, statement.builder, content)
    return statement.artifact, statement.builder


def check_name(path: Path, builder: str, content: bytes) -> None:
    """Refuse a statement under a name that is not its own.

    Raises:
        IntegrityError: another builder's name, or another digest.
    """
    named = split_statement_name(path.name)
    if named is None or named[0] != builder or named[1] not in (None, digest_bytes(content)):
        reason = f"the statement by {builder} does not belong under this name"
        raise IntegrityError(reason, place=str(path), hint=_CHECK)


def _choose(store: Store, key: BuildKey, builder: str, content: bytes) -> Committed:
    """The name for a statement; a malformed file that has the name is set aside."""
    path = key_directory(store.root, key) / f"{builder}.json"
    if not os.path.lexists(path):
        return Committed(path, None)
    try:
        read_statement(path, key)
        if read_bounded(path, SIZE_LIMIT) == content:
            return Committed(path, None)
    except (IntegrityError, OSError):
        set_aside(path, store)
        return Committed(path, None)
    return Committed(path.with_name(f"{builder}.{digest_bytes(content)}.json"), path)


def _write(store: Store, path: Path, content: bytes, signature: bytes | None, origin: str) -> None:
    """The signature and the origin first, so that a statement that is visible has them."""
    disk, beside = store.disk, signature_path(path)
    known = path.exists()
    if not origin:
        origin_path(path).unlink(missing_ok=True)
    elif not known:
        store.put_file("origin", origin_path(path), origin.encode())
    if signature is not None and not (known and beside.exists()):
        store.put_file("signature", beside, signature)
    if not known:
        if signature is None:
            # Left by a commit that was cut short before its statement: it signs other bytes.
            beside.unlink(missing_ok=True)
        temporary = store.lease().entry("statement")
        disk.write_file("statement", temporary, content)
        try:
            disk.publish_once("statement", temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    # One that was known: whoever wrote it may have been killed before it made the name durable.
    disk.sync_directory("statement", path.parent)


ENTRY_LIMIT = 256
RESOLVED = "r"


def entry_name(resolved: Digest, builder: str) -> str:
    """Where a builder's entry is, below a store or binhost."""
    return f"{RESOLVED}/{resolved[:2]}/{resolved}/{builder}.json"


@dataclass(frozen=True, slots=True)
class _Entry:
    key: BuildKey


def entry_bytes(key: BuildKey) -> bytes:
    return encode(_Entry(key))


def parse_entry(content: bytes) -> BuildKey | None:
    """The key that an entry points to; None where it is no entry."""
    with suppress(CodecError):
        return decode(_Entry, content).key
    return None


def note_resolved(store: Store, artifact: Artifact, builder: str) -> None:
    """Enter an artifact under its resolved key, where it has one; the builder's first entry stays.
    One that is itself re-stated has none: the build that it repeats has the entry already.

    Raises:
        StoreError: the disk is full or refuses.
        IntegrityError: the record is missing or corrupt.
    """
    if artifact.restated is None:
        resolved = resolved_of(artifact, store.read(artifact.record).decode())
        if resolved is not None:
            path = store.root / entry_name(resolved, builder)
            store.put_derived("resolved", path, entry_bytes(artifact.key))


def resolved_of(artifact: Artifact, record: str) -> Digest | None:
    """The resolved key of a build, by what its statement and its record say.

    None where it has none, or the record is not the one that the key is the digest of.
    """
    # the rules of keys are not needed by who only takes what is there
    from buildit.plan.identity import build_key, resolved_key

    if build_key(record) == artifact.key:
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            return resolved_key(record, artifact.resolved)
    return None


def pointed_to(root: Path, resolved: Digest) -> Iterator[BuildKey]:
    """The keys that the entries of a store, or of a binhost that is a directory, point to."""
    with suppress(OSError):
        for path in sorted((root / RESOLVED / resolved[:2] / resolved).iterdir()):
            if path.suffix == ".json" and is_builder(path.stem) and (key := _read(path)):
                yield key


def stale_entries(store: Store) -> Iterator[Path]:
    """Entries that point to a build which the store does not have."""
    for path in (store.root / RESOLVED).glob("??/*/*.json"):
        key = _read(path)
        if key is None or not key_directory(store.root, key).is_dir():
            yield path


def _read(path: Path) -> BuildKey | None:
    with suppress(OSError, IntegrityError), open_regular(path) as stream:
        return parse_entry(stream.read(ENTRY_LIMIT))
    return None


def restated_for(
    artifact: Artifact,
    old_record: str,
    key: BuildKey,
    record: Digest,
    new_record: str,
    at_hand: Mapping[BuildKey, Mapping[str, Digest]],
) -> Artifact:
    """What another build left, said of `key`: its dependencies have other keys and the same bytes.

    Both records have the same resolved key, so dependencies correspond by their place.
    """
    from buildit.plan.identity import dependency_keys

    moved = dict(zip(dependency_keys(old_record), dependency_keys(new_record), strict=True))
    return replace(
        artifact,
        key=key,
        record=record,
        outputs={name: _moved(output, moved) for name, output in artifact.outputs.items()},
        resolved={one: dict(at_hand[one]) for one in moved.values() if at_hand[one]},
        restated=artifact.restated or artifact.key,
    )


def _moved(output: Output, moved: Mapping[BuildKey, BuildKey]) -> Output:
    providers = {}
    for need, provider in output.providers.items():
        key, _, name = provider.partition(":")
        providers[need] = f"{moved.get(BuildKey(key), key)}:{name}"
    return replace(output, providers=providers)
