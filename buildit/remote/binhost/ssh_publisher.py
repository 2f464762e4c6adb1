"""Publish over SFTP: temporary names, made durable, then their own; nothing is overwritten.

A large upload that was cut short goes on where it ended, once what is there was read back and is
what was to be sent. Each store has temporary names of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from buildit.digest import CHUNK, Digest, digest_bytes
from buildit.errors import BuilditError, FetchError
from buildit.model.artifact import Artifact
from buildit.remote.binhost.binhost import SIGNATURE_LIMIT
from buildit.remote.binhost.blobs import blob_path
from buildit.remote.binhost.publishing import Outgoing, Progress, Signed
from buildit.remote.sftp.client import OK, Sftp, Small, StatusError
from buildit.remote.sftp.ssh_account import Account
from buildit.remote.sftp.transport import SftpTransport
from buildit.remote.transport import LocationError
from buildit.store.attest import SIZE_LIMIT
from buildit.store.cas import Store
from buildit.store.layout import (
    CONSTANT_FILES,
    DIRECTORIES,
    FORMAT_BYTES,
    FORMAT_FILE,
    key_directory,
)
from buildit.store.names import entry
from buildit.store.resolved import entry_bytes, entry_name, resolved_of

GROUP_BYTES = 8 << 20
"""Small blobs in memory at one time."""
MANY = 100
"""Files that are open at one time; OpenSSH's server takes some thousand."""


@dataclass(slots=True)
class SshPublisher:
    """A directory behind SSH, for what `store` has. `token` is the store's part of temporary
    names; two processes of one store must not use it at the same time."""

    account: Account
    transport: SftpTransport
    store: Store
    token: str
    _made: set[str] = field(default_factory=set)

    def close(self) -> None:
        """The transport is the caller's."""

    def prepare(self) -> None:
        """Make the layout, where it is not there yet.

        Raises:
            FetchError: the server cannot be reached, or refuses.
        """
        with self._session() as sftp:
            root = self.account.below("").rstrip("/")
            parents = [root[:at] for at in range(1, len(root)) if root[at] == "/"]
            sftp.make_directories([*parents, *([root] if root else [])])
            self._directories(sftp, DIRECTORIES)
            if sftp.status(self.account.below("tmp")) is None:
                there = root and sftp.status(root) is not None
                how = "cannot be written to" if there else "cannot be made"
                raise StatusError(2, f"the directory {root or '.'} {how}")
            files = {**CONSTANT_FILES, FORMAT_FILE: FORMAT_BYTES}
            found = sftp.statuses([self.account.below(name) for name in files])
            missing = [pair for pair, one in zip(files.items(), found, strict=True) if one is None]
            self._place(sftp, missing)

    def sizes(self, digests: Sequence[Digest]) -> Mapping[Digest, int]:
        with self._session() as sftp:
            found = sftp.statuses([self.account.below(blob_path(digest)) for digest in digests])
        pairs = zip(digests, found, strict=True)
        return {digest: status.size for digest, status in pairs if status and status.regular}

    def published(self, statements: Sequence[Signed]) -> list[tuple[bytes, bytes | None] | None]:
        paths = [_statement(one) for one in statements]
        with self._session() as sftp:
            there = sftp.statuses([self.account.below(path) for path in paths])
            return [
                None if status is None else self._published(sftp, path)
                for path, status in zip(paths, there, strict=True)
            ]

    def read_file(self, path: str, limit: int) -> bytes | None:
        with self._session() as sftp:
            return self._read(sftp, path, limit)

    def names(self, directories: Sequence[str]) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        with self._session() as sftp:
            for at in range(0, len(directories), MANY):
                group = directories[at : at + MANY]
                found += sftp.listings([self.account.below(path) for path in group])
        return found

    def read_files(self, paths: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = []
        with self._session() as sftp:
            for at in range(0, len(paths), MANY):
                found += sftp.read_small([self.account.below(p) for p in paths[at : at + MANY]])
        return found

    # -- blobs

    def put_blobs(self, blobs: Sequence[Outgoing], progress: Progress) -> None:
        total, sent = sum(blob.size for blob in blobs), 0
        with self._session() as sftp:
            for group in _groups([blob for blob in blobs if blob.size <= sftp.piece]):
                files = [(blob_path(blob.digest), _content(blob)) for blob in group]
                self._place(sftp, files, mend=True)
                sent += sum(blob.size for blob in group)
                progress(sent, total)
            for blob in blobs:
                if blob.size > sftp.piece:
                    for at in self._put_large(sftp, blob):
                        progress(sent + at, total)
                    sent += blob.size

    def _put_large(self, sftp: Sftp, blob: Outgoing) -> Iterator[int]:
        temporary = self.temporary(blob_path(blob.digest))
        offset = self._resumable(sftp, temporary, blob)
        with closing(blob.open()) as source:
            left = offset
            while left:
                left -= len(source.read(min(CHUNK, left)))
            try:
                yield from sftp.write(temporary, source, offset)
            except StatusError as error:
                raise self._full(sftp, error, [temporary]) from error
            except LocationError:
                raise
            except BuilditError:
                with suppress(StatusError):
                    sftp.remove(temporary)  # our own bytes turned out to be wrong
                raise
        self._name(sftp, [(temporary, blob_path(blob.digest))], [blob.size])

    def _resumable(self, sftp: Sftp, temporary: str, blob: Outgoing) -> int:
        """How much of the blob an earlier try left there: read back, since a partial file proves
        nothing."""
        status = sftp.status(temporary)
        if status is None:
            return 0
        if not status.regular or status.size > blob.size or not status.mode & 0o200:
            sftp.remove(temporary)
            return 0
        same = 0
        with closing(blob.open()) as source:
            for chunk in sftp.chunks(temporary, 0, status.size):
                if source.read(len(chunk)) != chunk:
                    break
                same += len(chunk)
        return same

    # -- statements

    def put_statements(self, statements: Sequence[Signed]) -> list[str]:
        with self._session() as sftp:
            self._directories(sftp, (str(Path(_statement(one)).parent) for one in statements))
            free = [one for one in statements if not self._is_taken(sftp, one)]
            taken = [one for one in statements if one not in free]
            self._place(sftp, [(f"{_statement(one)}.sig", one.signature or b"") for one in free])
            placed = self._place(sftp, [(_statement(one), one.content) for one in free])
            taken += [one for one, done in zip(free, placed, strict=True) if not done]
            differs = [self._beside(sftp, one) for one in taken]
            for one in free:
                self._settle(sftp, one)
            self._note(sftp, statements)
        return [path for path in differs if path is not None]

    def put_signature(self, signed: Signed) -> None:
        with self._session() as sftp:
            self._replace(sftp, f"{_statement(signed)}.sig", signed.signature or b"")

    def put_file(self, path: str, source: Path) -> None:
        """Give a file of a view its name, replacing what has it."""
        size = source.stat().st_size
        with self._session() as sftp:
            self._directories(sftp, (str(Path(path).parent),))
            temporary = self.temporary(path)
            with suppress(StatusError):
                # left by an upload that was cut short when it was finished but for its name
                sftp.remove(temporary)
            with source.open("rb") as stream:
                for _ in sftp.write(temporary, stream, 0):
                    pass
            status = sftp.status(temporary)
            if status is None or status.size != size:
                raise StatusError(4, f"{path} changed while it was sent")
            self._give(sftp, temporary, path)

    def _is_taken(self, sftp: Sftp, one: Signed) -> bool:
        return sftp.status(self.account.below(_statement(one))) is not None

    def _settle(self, sftp: Sftp, one: Signed) -> None:
        """Whoever got the statement's name sees to it that the signature is the one of it: an
        earlier push may have left its own before it was cut short."""
        path = _statement(one)
        if self._read(sftp, path, SIZE_LIMIT) == one.content:
            beside = f"{path}.sig"
            if self._read(sftp, beside, SIGNATURE_LIMIT) != one.signature:
                self._replace(sftp, beside, one.signature or b"")

    def _beside(self, sftp: Sftp, one: Signed) -> str | None:
        """Publish a statement whose name another one has; where, unless it is the same."""
        path = _statement(one)
        if self._read(sftp, path, SIZE_LIMIT) == one.content:
            return None
        path = f"{path.removesuffix('.json')}.{digest_bytes(one.content)}.json"
        self._place(sftp, [(f"{path}.sig", one.signature or b"")])
        self._place(sftp, [(path, one.content)])
        return self.account.below(path)

    def _note(self, sftp: Sftp, statements: Sequence[Signed]) -> None:
        """Enter what was published into the indices of names and of resolved keys."""
        files = dict(_entries([one.artifact for one in statements]))
        for one in statements:
            artifact = one.artifact
            if artifact.restated is None:
                resolved = resolved_of(artifact, self.store.read(artifact.record).decode())
                if resolved is not None:
                    files[entry_name(resolved, one.builder)] = entry_bytes(artifact.key)
        there = sftp.statuses([self.account.below(path) for path in files])
        new = [pair for pair, one in zip(files.items(), there, strict=True) if one is None]
        self._directories(sftp, (str(Path(path).parent) for path, _ in new))
        self._place(sftp, new)

    # -- files

    def _published(self, sftp: Sftp, path: str) -> tuple[bytes, bytes | None] | None:
        content = self._read(sftp, path, SIZE_LIMIT)
        if content is None:
            return None
        return content, self._read(sftp, f"{path}.sig", SIGNATURE_LIMIT)

    def _read(self, sftp: Sftp, path: str, limit: int) -> bytes | None:
        """A small file; None where there is none, or something that cannot be one of ours."""
        whole = self.account.below(path)
        status = sftp.status(whole)
        if status is None or not status.regular or status.size > limit:
            return None
        return b"".join(sftp.chunks(whole, 0, status.size))

    def _replace(self, sftp: Sftp, path: str, content: bytes) -> None:
        temporary = self.temporary(path)
        sftp.write_small([Small(temporary, content)])
        self._give(sftp, temporary, path)

    def _give(self, sftp: Sftp, temporary: str, path: str) -> None:
        """Rename over what has the name; where the server refuses, nothing stays."""
        try:
            sftp.replace(temporary, self.account.below(path))
        except StatusError as error:
            with suppress(StatusError):
                sftp.remove(temporary)
            raise StatusError(error.code, f"{path}: {error.text}") from error

    def _directories(self, sftp: Sftp, paths: Iterator[str] | Sequence[str]) -> None:
        """Make directories below the root that were not made or seen by this push yet."""
        wanted: dict[str, None] = {}
        for path in paths:
            parts = Path(path).parts
            wanted |= {"/".join(parts[: n + 1]): None for n in range(len(parts))}
        new = [path for path in wanted if path not in self._made]
        sftp.make_directories([self.account.below(path) for path in new])
        self._made |= set(new)

    def _place(
        self, sftp: Sftp, files: Sequence[tuple[str, bytes]], *, mend: bool = False
    ) -> list[bool]:
        """Write small files and give them their names; whether each name was still free.

        Blobs (`mend`) are not synced one by one, which takes a disk longer than all else: what a
        power loss of the server leaves of one has another size, and the next push replaces it.
        """
        pairs = [(self.temporary(path), path) for path, _ in files]
        small = [
            Small(temporary, content)
            for (temporary, _), (_, content) in zip(pairs, files, strict=True)
        ]
        try:
            sftp.write_small(small, durable=not mend)
        except StatusError as error:
            raise self._full(sftp, error, [temporary for temporary, _ in pairs]) from error
        return self._name(sftp, pairs, [len(content) for _, content in files] if mend else ())

    def _name(
        self, sftp: Sftp, pairs: Sequence[tuple[str, str]], sizes: Sequence[int] = ()
    ) -> list[bool]:
        """Rename without overwriting; what another publisher was first with is removed. Where
        `sizes` are given, a file of another size is no blob (a power loss may have cut it): it is
        replaced."""
        final = [(temporary, self.account.below(path)) for temporary, path in pairs]
        codes = sftp.rename(final)
        for number, ((temporary, path), code) in enumerate(zip(final, codes, strict=True)):
            if code == OK:
                continue
            there = sftp.status(path)
            if there is not None and sizes and there.size != sizes[number]:
                sftp.replace(temporary, path)
                continue
            with suppress(StatusError):
                sftp.remove(temporary)
            if there is None:
                raise StatusError(code, f"{path} cannot be given its name")
        return [code == OK for code in codes]

    def temporary(self, path: str) -> str:
        return self.account.below(f"tmp/up-{self.token}-{digest_bytes(path.encode())}")

    def _full(self, sftp: Sftp, error: StatusError, temporaries: Sequence[str]) -> FetchError:
        """What a failed write means; what was written goes, to give its space back."""
        free = sftp.free(self.account.below("tmp"))
        for temporary in temporaries:
            with suppress(StatusError):
                sftp.remove(temporary)
        if free is not None and free < 1 << 20:
            return FetchError(
                "the disk of the server is full",
                place=self.account.shown,
                hint="make room there, then push again: what is there already is not sent again",
            )
        return _failed(self.account, error)

    @contextmanager
    def _session(self) -> Iterator[Sftp]:
        try:
            with self.transport.session(self.account) as sftp:
                yield sftp
        except StatusError as error:
            raise _failed(self.account, error) from error
        except LocationError as error:
            raise FetchError(
                f"publishing failed: {error.reason}",
                place=error.place,
                hint=error.hint
                or "when it answers, push again: what is there already is not sent again",
            ) from error


def _failed(account: Account, error: StatusError) -> FetchError:
    return FetchError(
        f"the server refuses: {error.text}",
        place=account.shown,
        hint="on the server, let the account own that directory and all that is in it; "
        "look at its quota too",
    )


def _statement(one: Signed) -> str:
    return f"{key_directory(Path(), one.artifact.key)}/{one.builder}.json"


def _entries(artifacts: Sequence[Artifact]) -> Iterator[tuple[str, bytes]]:
    for artifact in artifacts:
        found = entry(artifact)
        if found is not None:
            yield found


def _content(blob: Outgoing) -> bytes:
    with closing(blob.open()) as stream:
        return stream.read()


def _groups(blobs: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    """In turn, as many as fit into memory together."""
    group: list[Outgoing] = []
    size = 0
    for blob in blobs:
        if group and size + blob.size > GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(blob)
        size += blob.size
    if group:
        yield group
