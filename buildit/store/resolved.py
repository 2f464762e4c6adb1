"""Early cut-off: builds by their resolved key, `r/<aa>/<resolved key>/<builder>.json` (DESIGN 3).

An entry only points to a key. It is believed by nobody: whoever follows it computes the resolved
key from the record and the signed statement of the build that it points to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.codec import CodecError, decode, encode
from buildit.digest import BuildKey, Digest
from buildit.errors import IntegrityError
from buildit.files import open_regular
from buildit.model.artifact import Artifact, Output
from buildit.store.attest import is_builder
from buildit.store.cas import Store
from buildit.store.durable import has_size, located, make_directory
from buildit.store.layout import key_directory

ENTRY_LIMIT = 256
DIRECTORY = "r"


def entry_name(resolved: Digest, builder: str) -> str:
    """Where a builder's entry is, below a store or binhost."""
    return f"{DIRECTORY}/{resolved[:2]}/{resolved}/{builder}.json"


@dataclass(frozen=True, slots=True)
class _Entry:
    key: BuildKey


def entry_bytes(key: BuildKey) -> bytes:
    return encode(_Entry(key))


def parse_entry(content: bytes) -> BuildKey | None:
    """The key that an entry points to; None where it is no entry."""
    try:
        return decode(_Entry, content).key
    except CodecError:
        return None


def note_resolved(store: Store, artifact: Artifact, builder: str) -> Digest | None:
    """Enter an artifact under its resolved key; the builder's first entry stays.

    Returns the resolved key; None where the artifact has none, or is itself re-stated: the build
    that it repeats has the entry already.

    Raises:
        StoreError: the disk is full or refuses.
        IntegrityError: the record is missing or corrupt.
    """
    if artifact.restated is not None:
        return None
    resolved = resolved_of(artifact, store.read(artifact.record).decode())
    if resolved is None:
        return None
    path = store.root / entry_name(resolved, builder)
    content = entry_bytes(artifact.key)  # as long as any other: the first one stays
    with located(path):
        if not has_size(path, len(content)):
            make_directory(path.parent)
            store.disk.replace_file(
                "resolved", path, content, store.lease().entry("resolved"), sync=False
            )
    return resolved


def resolved_of(artifact: Artifact, record: str) -> Digest | None:
    """The resolved key of a build, by what its statement and its record say.

    None where it has none, or the record is not the one that the key is the digest of.
    """
    # the rules of keys are not needed by who only takes what is there
    from buildit.plan.identity import build_key, resolved_key

    if build_key(record) != artifact.key:
        return None
    try:
        return resolved_key(record, artifact.resolved)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def pointed_to(root: Path, resolved: Digest) -> Iterator[BuildKey]:
    """The keys that the entries of a store, or of a binhost that is a directory, point to."""
    directory = root / DIRECTORY / resolved[:2] / resolved
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError:
        return
    for name in names:
        if name.endswith(".json") and is_builder(name.removesuffix(".json")):
            key = _read(directory / name)
            if key is not None:
                yield key


def stale_entries(store: Store) -> Iterator[Path]:
    """Entries that point to a build which the store does not have."""
    for path in (store.root / DIRECTORY).glob("??/*/*.json"):
        key = _read(path)
        if key is None or not key_directory(store.root, key).is_dir():
            yield path


def _read(path: Path) -> BuildKey | None:
    try:
        with open_regular(path) as stream:
            return parse_entry(stream.read(ENTRY_LIMIT))
    except (OSError, IntegrityError):
        return None


def restated(
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
