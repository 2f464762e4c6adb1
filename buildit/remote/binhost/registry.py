"""A binhost in a repository of an OCI registry: blobs, statements, and names for search.

What lies there is told in `manifests`. It is read as a directory is, by paths below a root, which
`RegistryTransport` finds in the registry. There are no other files: no pages, and no discovery.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from buildit.archive.streams import run_all
from buildit.digest import BuildKey, Digest, digest_bytes, is_hex64, oci_digest, parse_digest
from buildit.errors import FetchError, IntegrityError
from buildit.events import Reporter, silent
from buildit.model.artifact import Output
from buildit.model.config import Oci
from buildit.remote import fetch
from buildit.remote.binhost import manifests, protocols
from buildit.remote.binhost.directory import TRIES, ReadOnly
from buildit.remote.binhost.manifests import Descriptor, StatementParts
from buildit.remote.binhost.protocols import Outgoing, Served, SignedStatement
from buildit.remote.registry.client import IMAGE_MANIFEST, Registry
from buildit.remote.registry.reference import parse_reference
from buildit.remote.registry.referrers import EMPTY, EMPTY_MEDIA, SSHSIG_MEDIA, STATEMENT_MEDIA
from buildit.remote.transport import LocationError, Response, Transport, WebLimits, check_cap
from buildit.store.artifacts import entry_bytes

REQUESTS = 8
"""Requests under way at one time, each on a connection that is kept."""
_T = TypeVar("_T")


class RegistryTransport:
    """Serves what a binhost's paths mean in a repository of a registry. Thread-safe."""

    def __init__(self, address: Oci, registry: Registry, close: Callable[[], None]) -> None:
        self.address = address
        self.registry = registry
        self.close = close
        self._marks: dict[str, Mapping[str, str]] = {}

    @contextmanager
    def get(self, url: str, offset: int, cap: int) -> Iterator[Response]:
        try:
            found = self._found(url, url.removeprefix(self.address.url("")))
            if isinstance(found, bytes):
                check_cap(url, len(found), cap)
                yield Response(iter((found[offset:],)), offset, len(found), lambda: None)
                return
            with self.registry.open_blob(oci_digest(found), offset, cap) as response:
                yield response
        except LocationError as error:
            raise _placed(error, url) from error

    def _found(self, url: str, path: str) -> Digest | bytes:
        """The blob that a path means, or its bytes."""
        if (blob := manifests.blob_at(path)) is not None:
            return blob
        if (part := manifests.part_at(path)) is not None:
            # what is beside a statement is that of the statement which was read, not of a later one
            fresh = part.mark == manifests.STATEMENT_MARK or part.tag not in self._marks
            marks = self.marks(part.tag) if fresh else self._marks[part.tag]
            if part.mark in marks:
                return _digest(url, marks[part.mark])
        if (tag := manifests.entry_at(path)) is not None:
            key = self.marks(tag).get(manifests.KEY_MARK, "")
            if is_hex64(key):
                return entry_bytes(BuildKey(key))
        raise LocationError(url, "the registry has no such thing", absent=True)

    def marks(self, tag: str) -> Mapping[str, str]:
        """What the manifest of a tag says of itself; nothing where there is none."""
        found = self.registry.manifest(tag, (IMAGE_MANIFEST,))
        self._marks[tag] = {} if found is None else manifests.marks_of(found[0])
        return self._marks[tag]


def registry_transport(address: Oci, connect: float, answer: float) -> RegistryTransport:
    """The way to a repository of a registry, over connections that are kept; how many seconds are
    waited for one, and for an answer.

    Raises:
        UsageError: the address is none of a registry.
    """
    web = fetch.web_transport(WebLimits(connect=connect, headers=answer))
    return RegistryTransport(address, Registry(web, parse_reference(str(address))), web.close)


def _digest(url: str, text: str) -> Digest:
    try:
        return parse_digest(text)
    except ValueError as error:
        raise LocationError(url, f"names a blob by {text[:80]!r}", wrong=True) from error


def _placed(error: LocationError, url: str) -> LocationError:
    """The error, of this URL. A registry that does not let us in is left alone: it says the same of
    whatever it is asked for."""
    return LocationError(
        url,
        error.reason,
        hint=error.hint,
        transient=error.transient,
        absent=error.absent,
        wrong=error.wrong,
        retry_after=error.retry_after,
        unreachable=error.unreachable or error.refused,
    )


class RegistryRemote(ReadOnly):
    """Blobs, statements and names of a repository; `transport` reads it, perhaps watched over."""

    def __init__(
        self, reading: RegistryTransport, transport: Transport, report: Reporter = silent
    ) -> None:
        super().__init__(reading.address, transport, report, jobs=REQUESTS)
        self._reading = reading
        self._registry = reading.registry
        self._there: dict[Digest, int] = {}
        """Blobs of this push that are there, with their size in bytes."""
        self._damaged: set[Digest] = set()
        self._tags: list[str] | None = None

    def beside(self, part: str) -> Registry:
        """The repository `part` below this one, with logins of its own: a token is for one."""
        at = self._registry.at
        return replace(self._registry, at=replace(at, name=f"{at.name}/{part}"), _shown={})

    def prepare(self) -> None:
        """Find out whether something can be published there.

        Raises:
            FetchError: it cannot be reached, or refuses.
        """
        with self._publishing():
            self._brought(EMPTY, EMPTY_MEDIA)  # whether we may write, only writing tells

    # -- blobs

    def missing(self, blobs: Mapping[Digest, int]) -> frozenset[Digest]:
        with self._publishing():
            sizes = run_all([partial(self._size, digest) for digest in blobs], REQUESTS)
        found = dict(zip(blobs, sizes, strict=True))
        missing = frozenset(one for one, size in blobs.items() if found[one] != size)
        self._there |= {one: size for one, size in blobs.items() if one not in missing}
        self._damaged |= {one for one in missing if found[one] is not None}
        return missing

    def put(self, blobs: Sequence[Outgoing], progress: protocols.Progress) -> None:
        sent = _Sent(sum(blob.size for blob in blobs), progress)
        with self._publishing():
            run_all([partial(self._put, blob, sent) for blob in blobs], REQUESTS)
            self._there |= {blob.digest: blob.size for blob in blobs}
            self._keep()

    def _put(self, blob: Outgoing, sent: _Sent) -> None:
        last: list[_Counted] = []

        def opened() -> BinaryIO:
            if last:  # it is sent again
                sent.add(-last.pop().size)
            last.append(_Counted(blob.open(), sent))
            return cast("BinaryIO", last[0])

        name = oci_digest(blob.digest)
        _retried(partial(self._registry.put_blob, name, blob.size, opened))
        sent.add(0)
        if blob.digest in self._damaged and self._size(blob.digest) != blob.size:
            reason = f"the registry has a damaged blob, and keeps it: {name}"
            hint = "have whoever runs it remove that blob, then push again"
            raise IntegrityError(reason, place=str(self.address), hint=hint)

    def _keep(self) -> None:
        """Refer to all blobs of this push: a registry removes what no manifest refers to."""
        self._brought(EMPTY, EMPTY_MEDIA)
        digests = sorted(self._there)
        for at in range(0, len(digests), manifests.MOST_LISTED):
            group = digests[at : at + manifests.MOST_LISTED]
            tag = manifests.blobs_tag(group)
            if self._registry.manifest(tag) is None:
                listed = manifests.blobs_manifest({one: self._there[one] for one in group})
                self._manifest(listed, tag)

    # -- statements

    def of(self, asked: Sequence[tuple[BuildKey, str]]) -> list[Served | None]:
        paths = [protocols.statement_path(key, name) for key, name in asked]
        return run_all([partial(self._statement, path) for path in paths], REQUESTS)

    def add(self, statements: Sequence[SignedStatement]) -> list[str]:
        with self._publishing():
            done = run_all([partial(self._add, one) for one in statements], REQUESTS)
        self._tags = None
        return [path for path in done if path]

    def _add(self, one: SignedStatement) -> str:
        """Publish one statement; where it is, if it contradicts another, which stays."""
        parts, key = self._parts(one), one.artifact.key
        marks = manifests.annotations_of(one.artifact, one.builder, parts)
        layers = [self._layer(output) for output in manifests.image_outputs(one.artifact).values()]
        config = self._brought(manifests.image_config(one.artifact), manifests.CONFIG_MEDIA)
        image = manifests.image_manifest(config, layers, marks)
        subject, tag = oci_digest(digest_bytes(image)), manifests.key_tag(key, one.builder)
        statement = digest_bytes(one.content)
        blobs = [*layers, *self._named(one)]
        listing = manifests.statement_manifest(image, parts, blobs, marks)
        self._manifest(listing, manifests.statement_tag(key, one.builder, statement))
        _retried(partial(self._registry.add_referrer, listing, subject))
        if self._contradicted(tag, parts):
            self._manifest(image, subject)
        else:
            self._manifest(image, tag)
            names = [manifests.name_tag(one.artifact.name, key)]
            if one.resolved is not None:
                names.append(manifests.resolved_tag(one.resolved, one.builder))
            for name in filter(None, names):
                self._manifest(image, name)
            # somebody may have published at the same time, and have come last
            if not self._contradicted(tag, parts):
                return ""
        path = f"{one.path.removesuffix('.json')}.{statement}.json"
        return self.address.url(path)

    def _contradicted(self, tag: str, parts: StatementParts) -> bool:
        """Whether a tag has another statement that can be read."""
        there = _retried(partial(self._reading.marks, tag)).get(manifests.STATEMENT_MARK)
        if there is None or there == parts.statement["digest"]:
            return False
        return self._registry.has_blob(there) is not None

    def _parts(self, one: SignedStatement) -> StatementParts:
        name = f"{one.builder}.json"
        signature, pack = one.signature, one.pack
        return StatementParts(
            self._brought(one.content, STATEMENT_MEDIA, name),
            self._brought(signature, SSHSIG_MEDIA, f"{name}.sig") if signature else None,
            self._brought(pack, manifests.PACK_MEDIA) if pack else None,
        )

    def _layer(self, output: Output) -> Descriptor:
        """A layer in the form that is there: compressed, as it went up, or plain."""
        forms = {
            **{one.digest: f"{manifests.LAYER_MEDIA}+{one.codec}" for one in output.encodings},
            output.diff_id: manifests.LAYER_MEDIA,
        }
        for digest, media_type in forms.items():
            if (size := self._known(digest)) is not None:
                return manifests.descriptor(media_type, digest, size)
        reason = f"the registry has lost the layer {oci_digest(output.diff_id)}"
        raise FetchError(reason, place=str(self.address), hint="push again")

    def _named(self, one: SignedStatement) -> Iterator[Descriptor]:
        """What a statement names besides its image's layers, as far as it is there."""
        for output in one.artifact.outputs.values():
            yield self._layer(output)
        artifact = one.artifact
        named = [artifact.record, *(output.contents for output in artifact.outputs.values())]
        named += [artifact.log] if artifact.log is not None else []
        for digest in (*named, *(digest for _, digest in artifact.materials)):
            if (size := self._known(digest)) is not None:
                yield manifests.descriptor(manifests.ANY_MEDIA, digest, size)

    # -- names

    def names(self, directories: Sequence[str]) -> list[tuple[str, ...]]:
        """Of `n/<category>/<name>` and `k/<aa>/<key>`: all else is in no directory."""
        return [self._names(directory.strip("/")) for directory in directories]

    def _names(self, directory: str) -> tuple[str, ...]:
        kind, _, rest = directory.partition("/")
        if kind not in ("k", "n"):
            return ()
        if self._tags is None:
            self._tags = self._registry.tags()
        if kind == "n":
            return manifests.named_by(self._tags, rest)
        tags = manifests.tags_of(self._tags, rest.rpartition("/")[2])
        builders = (self._reading.marks(tag).get(manifests.BUILDER_MARK, "") for tag in tags)
        return tuple(sorted(f"{builder}.json" for builder in builders if is_hex64(builder)))

    def write(self, path: str, content: bytes | Path) -> None:  # noqa: ARG002 - the protocol's
        hint = "publish to a directory or over SSH, too, where pages are wanted"
        raise FetchError("a registry keeps no pages", place=str(self.address), hint=hint)

    # -- one blob, one manifest

    def _size(self, digest: Digest) -> int | None:
        return _retried(partial(self._registry.has_blob, oci_digest(digest)))

    def _known(self, digest: Digest) -> int | None:
        if digest in self._there:
            return self._there[digest]
        if (size := self._size(digest)) is not None:
            self._there[digest] = size
        return size

    def _brought(self, content: bytes, media_type: str, title: str = "") -> Descriptor:
        found = manifests.descriptor_of(media_type, content, title)
        if digest_bytes(content) not in self._there:
            opened = partial(io.BytesIO, content)
            _retried(partial(self._registry.put_blob, found["digest"], len(content), opened))
            self._there[digest_bytes(content)] = len(content)
        return found

    def _manifest(self, content: bytes, target: str) -> None:
        _retried(partial(self._registry.put_manifest, content, IMAGE_MANIFEST, target))

    @contextmanager
    def _publishing(self) -> Iterator[None]:
        try:
            yield
        except LocationError as error:
            again = "push again: what is there already is not sent again"
            hint = f"{error.hint or 'when it answers'}; {again}"
            reason = f"publishing failed: {error.reason}"
            raise FetchError(reason, place=error.place, hint=hint) from error


def _retried(work: Callable[[], _T]) -> _T:
    return fetch.retried(work, TRIES, fetch.Abort(), longest=1.0)


@dataclass(slots=True)
class _Sent:
    """How much of a push has gone, told by several threads."""

    total: int
    progress: protocols.Progress
    _sent: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, size: int) -> None:
        with self._lock:
            self._sent += size
            self.progress(self._sent, self.total)


class _Counted:
    """A stream whose bytes are counted as they go."""

    def __init__(self, stream: BinaryIO, sent: _Sent) -> None:
        self._stream, self._sent = stream, sent
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        chunk = self._stream.read(size)
        self.size += len(chunk)
        self._sent.add(len(chunk))
        return chunk

    def __enter__(self) -> _Counted:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stream.close()
