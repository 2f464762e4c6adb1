"""A binhost behind SSH: temporary names, made durable, then their own; nothing is overwritten.

A large upload that was cut short goes on where it ended, once what is there was read back and is
what was to be sent. Each store has temporary names of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from buildit.digest import CHUNK, BuildKey, Digest, digest_bytes
from buildit.errors import BuilditError, FetchError
from buildit.events import Reporter, silent
from buildit.model.config import Ssh
from buildit.remote.binhost import protocols
from buildit.remote.binhost.directory import ReadOnly
from buildit.remote.binhost.protocols import Outgoing, Served, SignedStatement, blob_path
from buildit.remote.sftp.client import OK, Sftp, StatusError
from buildit.remote.sftp.login import SftpTransport
from buildit.remote.transport import LocationError
from buildit.store.artifacts import entry_bytes, entry_name
from buildit.store.attest import SIZE_LIMIT
from buildit.store.disk import CONSTANT_FILES, FORMAT_BYTES, FORMAT_FILE, STORE_DIRECTORIES
from buildit.store.names import entry

GROUP_BYTES = 8 << 20
"""Small blobs in memory at one time."""
_MANY = 100
"""Files that are open at one time; OpenSSH's server takes some thousand."""


_File = tuple[str, bytes]
"""A path below the root, and what it holds."""


class SshRemote(ReadOnly):
    """Blobs, statements and views of a directory behind SSH. `token` is the caller's part of
    temporary names; two processes must not use it at the same time."""

    def __init__(
        self, account: Ssh, transport: SftpTransport, token: str, report: Reporter = silent
    ) -> None:
        super().__init__(account, transport, report, jobs=1)
        self.account = account
        self._sessions = transport
        self._token = token
        self._made: set[str] = set()

    def prepare(self) -> None:
        """Make the layout, where it is not there yet.

        Raises:
            FetchError: the server cannot be reached, or refuses.
        """
        with self._session() as sftp:
            root = self.account.below("").rstrip("/")
            parents = [root[:at] for at in range(1, len(root)) if root[at] == "/"]
            sftp.make_directories([*parents, *([root] if root else [])])
            self._directories(sftp, STORE_DIRECTORIES)
            if sftp.status(self.account.below("tmp")) is None:
                there = root and sftp.status(root) is not None
                how = "cannot be written to" if there else "cannot be made"
                raise StatusError(2, f"the directory {root or '.'} {how}")
            files = {**CONSTANT_FILES, FORMAT_FILE: FORMAT_BYTES}
            self._place(sftp, self._absent(sftp, files))

    # -- blobs

    def missing(self, blobs: Mapping[Digest, int]) -> frozenset[Digest]:
        with self._session() as sftp:
            found = sftp.statuses([self.account.below(blob_path(digest)) for digest in blobs])
        return frozenset(
            digest
            for (digest, size), status in zip(blobs.items(), found, strict=True)
            if status is None or not status.regular or status.size != size
        )

    def put(self, blobs: Sequence[Outgoing], progress: protocols.Progress) -> None:
        total, sent = sum(blob.size for blob in blobs), 0
        with self._session() as sftp:
            for group in _groups([blob for blob in blobs if blob.size <= sftp.piece]):
                self._place(sftp, [*map(_content, group)], mend=True)
                sent += sum(blob.size for blob in group)
                progress(sent, total)
            for blob in blobs:
                if blob.size > sftp.piece:
                    for at in self._put_large(sftp, blob):
                        progress(sent + at, total)
                    sent += blob.size

    def _put_large(self, sftp: Sftp, blob: Outgoing) -> Iterator[int]:
        temporary = self.temporary(blob_path(blob.digest))
        with closing(blob.open()) as source:
            offset = self._resumable(sftp, temporary, source, blob.size)
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
                self._remove(sftp, temporary)  # our own bytes turned out to be wrong
                raise
        self._name(sftp, [(temporary, blob_path(blob.digest))], [blob.size])

    def _resumable(self, sftp: Sftp, temporary: str, source: BinaryIO, size: int) -> int:
        """How much of a blob an earlier try left there: read back, since a partial file proves
        nothing."""
        status = sftp.status(temporary)
        if status is None:
            return 0
        if not status.regular or status.size > size or not status.mode & 0o200:
            sftp.remove(temporary)
            return 0
        same = 0
        for chunk in sftp.chunks(temporary, 0, status.size):
            if source.read(len(chunk)) != chunk:
                break
            same += len(chunk)
        return same

    # -- statements

    def of(self, asked: Sequence[tuple[BuildKey, str]]) -> list[Served | None]:
        paths = [protocols.statement_path(key, name) for key, name in asked]
        contents = self.read(paths, SIZE_LIMIT)
        signatures = self.read([f"{path}.sig" for path in paths], protocols.SIGNATURE_LIMIT)
        pairs = zip(contents, signatures, strict=True)
        return [None if content is None else (content, signed) for content, signed in pairs]

    def add(self, statements: Sequence[SignedStatement]) -> list[str]:
        with self._session() as sftp:
            self._directories(sftp, (Path(one.path).parent for one in statements))
            there = sftp.statuses([self.account.below(one.path) for one in statements])
            free = [one for one, status in zip(statements, there, strict=True) if status is None]
            self._place(sftp, [file for one in free for file in _beside(one, one.path)])
            self._place(sftp, [(one.path, one.content) for one in free])
            contents = self._read(sftp, [one.path for one in statements], SIZE_LIMIT)
            pairs = list(zip(statements, contents, strict=True))
            self._settle(sftp, [one for one, content in pairs if content == one.content])
            others = {
                f"{one.path.removesuffix('.json')}.{digest_bytes(one.content)}.json": one
                for one, content in pairs
                if content != one.content
            }
            self._place(sftp, [file for at, one in others.items() for file in _beside(one, at)])
            self._place(sftp, [(at, one.content) for at, one in others.items()])
            self._note(sftp, statements)
        return [self.account.below(path) for path in others]

    def _settle(self, sftp: Sftp, statements: Sequence[SignedStatement]) -> None:
        """The publisher that got the statements' names sees to it that the signatures are those of
        them: an earlier push may have left its own before it was cut short."""
        files = [file for one in statements for file in _beside(one, one.path)]
        most = max((len(content) for _, content in files), default=0)
        there = self._read(sftp, [path for path, _ in files], most)
        for (path, content), found in zip(files, there, strict=True):
            if found != content:
                temporary = self.temporary(path)
                sftp.write_small([(temporary, content)])
                self._give(sftp, temporary, path)

    def _note(self, sftp: Sftp, statements: Sequence[SignedStatement]) -> None:
        """Enter what was published into the indices of names and of resolved keys."""
        files = dict(found for one in statements if (found := entry(one.artifact)) is not None)
        for one in statements:
            if one.resolved is not None:
                files[entry_name(one.resolved, one.builder)] = entry_bytes(one.artifact.key)
        new = self._absent(sftp, files)
        self._directories(sftp, (Path(path).parent for path, _ in new))
        self._place(sftp, new)

    # -- views

    def names(self, directories: Sequence[str]) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        with self._session() as sftp:
            for group in _groups_of(directories):
                found += sftp.listings([self.account.below(path) for path in group])
        return found

    def read(self, paths: Sequence[str], limit: int) -> list[bytes | None]:
        with self._session() as sftp:
            return self._read(sftp, paths, limit)

    def _read(self, sftp: Sftp, paths: Sequence[str], limit: int) -> list[bytes | None]:
        found: list[bytes | None] = []
        for group in _groups_of(paths):
            found += sftp.read_small([self.account.below(path) for path in group], limit)
        return found

    def write(self, path: str, content: bytes | Path) -> None:
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        with self._session() as sftp:
            self._directories(sftp, [Path(path).parent])
            temporary = self.temporary(path)
            # left by an upload that was cut short when it was finished but for its name
            self._remove(sftp, temporary)
            with protocols.reading_of(content) as stream:
                for _ in sftp.write(temporary, stream, 0):
                    pass
            status = sftp.status(temporary)
            if status is None or status.size != size:
                raise StatusError(4, f"{path} changed while it was sent")
            self._give(sftp, temporary, path)

    # -- files

    def _give(self, sftp: Sftp, temporary: str, path: str) -> None:
        """Rename over what has the name; where the server refuses, nothing stays."""
        try:
            sftp.replace(temporary, self.account.below(path))
        except StatusError as error:
            self._remove(sftp, temporary)
            raise StatusError(error.code, f"{path}: {error.text}") from error

    def _remove(self, sftp: Sftp, temporary: str) -> None:
        with suppress(StatusError):  # it need not be there
            sftp.remove(temporary)

    def _absent(self, sftp: Sftp, files: Mapping[str, bytes]) -> list[_File]:
        there = sftp.statuses([self.account.below(path) for path in files])
        return [file for file, one in zip(files.items(), there, strict=True) if one is None]

    def _directories(self, sftp: Sftp, paths: Iterable[str | Path]) -> None:
        """Make directories below the root that were not made or seen by this push yet."""
        chains = ([*Path(path, "any").parents][-2::-1] for path in paths)
        wanted = dict.fromkeys(str(one) for chain in chains for one in chain)
        new = [path for path in wanted if path not in self._made]
        sftp.make_directories([self.account.below(path) for path in new])
        self._made |= set(new)

    def _place(self, sftp: Sftp, files: Sequence[_File], *, mend: bool = False) -> None:
        """Write small files and give them their names, those that are still free.

        Blobs (`mend`) are not synced one by one, which takes a disk longer than all else: what a
        power loss of the server leaves of one has another size, and the next push replaces it.
        """
        pairs = [(self.temporary(path), path) for path, _ in files]
        small = [(self.temporary(path), content) for path, content in files]
        try:
            sftp.write_small(small, durable=not mend)
        except StatusError as error:
            raise self._full(sftp, error, [temporary for temporary, _ in pairs]) from error
        self._name(sftp, pairs, [len(content) for _, content in files] if mend else ())

    def _name(
        self, sftp: Sftp, pairs: Sequence[tuple[str, str]], sizes: Sequence[int] = ()
    ) -> None:
        """Rename without overwriting; what another publisher was first with is removed. Where
        `sizes` are given, a file of another size is no blob (a power loss may have cut it): it is
        replaced."""
        final = [(temporary, self.account.below(path)) for temporary, path in pairs]
        for number, code in enumerate(sftp.rename(final)):
            if code == OK:
                continue
            temporary, path = final[number]
            there = sftp.status(path)
            if there is not None and sizes and there.size != sizes[number]:
                sftp.replace(temporary, path)
                continue
            self._remove(sftp, temporary)
            if there is None:
                raise StatusError(code, f"{path} cannot be given its name")

    def temporary(self, path: str) -> str:
        return self.account.below(f"tmp/up-{self._token}-{digest_bytes(path.encode())}")

    def _full(self, sftp: Sftp, error: StatusError, temporaries: Sequence[str]) -> FetchError:
        """What a failed write means; what was written goes, to give its space back."""
        free = sftp.free(self.account.below("tmp"))
        for temporary in temporaries:
            self._remove(sftp, temporary)
        if free is not None and free < 1 << 20:
            hint = "make room there, then push again: what is there already is not sent again"
            return FetchError("the disk of the server is full", place=str(self.account), hint=hint)
        return _failed(self.account, error)

    @contextmanager
    def _session(self) -> Iterator[Sftp]:
        try:
            with self._sessions.session(self.account) as sftp:
                yield sftp
        except StatusError as error:
            raise _failed(self.account, error) from error
        except LocationError as error:
            again = "when it answers, push again: what is there already is not sent again"
            reason, hint = f"publishing failed: {error.reason}", error.hint or again
            raise FetchError(reason, place=error.place, hint=hint) from error


def _failed(account: Ssh, error: StatusError) -> FetchError:
    own = "on the server, let the account own that directory and all that is in it"
    hint = f"{own}; look at its quota too"
    return FetchError(f"the server refuses: {error.text}", place=str(account), hint=hint)


def _beside(one: SignedStatement, path: str) -> list[_File]:
    """The files that come before a statement: its signature and its pack, where it has them."""
    files = [(f"{path}.sig", one.signature or b""), (path + protocols.PACK, one.pack)]
    return [file for file in files if file[1]]


def _content(blob: Outgoing) -> _File:
    with closing(blob.open()) as stream:
        return blob_path(blob.digest), stream.read()


def _groups_of(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    return (paths[at : at + _MANY] for at in range(0, len(paths), _MANY))


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
