"""The local store: immutable blobs named by their SHA-256, scratch space and unpacked trees.

A blob is visible only when it is complete, verified and durable. Nothing is ever edited, and no
blob is hard-linked out: whoever takes one copies (or reflinks) it. Bytes leave it through one of
four doors, all of which hash them: `read`, `checked`, `seekable` and `sound`; images are copied by
`image.output`, which hashes too.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from buildit.digest import CHUNK, BuildKey, Digest, digest_bytes, digest_file, digest_stream
from buildit.files import open_regular
from buildit.store import disk as steps
from buildit.store.blobs import Batch, CorruptBlob, Pending, Sink, checked_stream
from buildit.store.disk import Disk, located, make_directory, token
from buildit.store.locks import Lease, Waiting, exclusive, passing, quietly, reclaim, shared
from buildit.store.trees import Trees


class Store:
    """One store on disk, shared by any number of processes and by the threads of this one."""

    def __init__(self, root: Path, disk: Disk) -> None:
        self.root = root
        self.disk = disk
        self.blobs = root / steps.BLOBS
        self.trees = Trees(root, disk)
        self.tell: Callable[[str], None] = quietly
        """Hears what is mended on the way, in one line."""
        self._lease: Lease | None = None
        self._guard = threading.Lock()

    @classmethod
    def open(cls, root: Path) -> Store:
        """Open the store at `root`, creating it where there is none.

        Raises:
            StoreError: another format, an unsafe owner or mode, or the file system refuses.
        """
        disk = Disk(steps.Faults.wanted(os.environ))
        return cls(steps.prepare_store(root, disk), disk)

    def close(self) -> None:
        """Remove this process's scratch space and end its lease (after a kill: the next start)."""
        with self._guard:
            lease, self._lease = self._lease, None
        if lease is not None:
            lease.end()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- reading

    def path(self, digest: Digest) -> Path:
        """Where the blob is or would be; never to hard-link, and to read only through a door."""
        return self.blobs / digest

    def size(self, digest: Digest) -> int | None:
        """Length of the blob in bytes, None where there is none."""
        with suppress(FileNotFoundError):
            status = self.path(digest).lstat()
            return status.st_size if stat.S_ISREG(status.st_mode) else None
        return None

    def has(self, digest: Digest) -> bool:
        return self.size(digest) is not None

    def open_blob(self, digest: Digest) -> BinaryIO:
        """The blob as it is on disk, seekable and unverified: to look at, never to hand on.

        Raises:
            StoreError: there is no such blob.
            IntegrityError: what has its name is no regular file.
        """
        try:
            return open_regular(self.path(digest))
        except FileNotFoundError:
            hint = "run the build again: it is fetched or built anew"
            what = "the blob is not in the store"
            raise steps.Vanished(what, place=f"sha256:{digest}", hint=hint) from None
        except OSError as error:
            raise steps.store_error(error, self.path(digest)) from None

    def checked(self, digest: Digest) -> BinaryIO:
        """The blob as a sequential stream that raises at its end where the bytes are wrong.

        Raises:
            StoreError: there is no such blob, or the disk fails.
            IntegrityError: from the last `read`: the blob is corrupt and was set aside.
        """
        return checked_stream(self.open_blob(digest), digest, lambda: self.set_aside(digest))

    def seekable(self, digest: Digest) -> BinaryIO:
        """The blob for readers that go back and forth: all of it was hashed through the same
        descriptor before.

        Raises:
            StoreError: there is no such blob, or the disk fails.
            CorruptBlob: the blob is corrupt; it was set aside.
        """
        stream = self.open_blob(digest)
        try:
            with located(self.path(digest)):
                if digest_stream(stream) != digest:
                    self.set_aside(digest)
                    raise CorruptBlob(digest)
                stream.seek(0)
        except BaseException:
            stream.close()
            raise
        return stream

    def sound(self, digest: Digest) -> Path:
        """The path of a blob that was hashed just now, for readers that want a name.

        Raises:
            StoreError, CorruptBlob: as `seekable`.
        """
        self.seekable(digest).close()
        return self.path(digest)

    def recheck(self, digest: Digest) -> None:
        """Compare a blob that somebody found wrong with its name once more; a wrong one is set
        aside, so that what a concurrent run has put in its place meanwhile stays."""
        with located(self.path(digest)):
            self._is_right(digest)

    def read(self, digest: Digest) -> bytes:
        """All bytes of a blob, verified.

        Raises:
            StoreError: there is no such blob, or the disk fails.
            IntegrityError: the blob is corrupt; it was set aside.
        """
        with self.checked(digest) as stream:
            return stream.read()

    # -- writing

    def put_bytes(self, content: bytes) -> Digest:
        """Keep bytes; durable and visible on return."""
        digest = digest_bytes(content)
        if self._keep_existing(digest):
            return digest
        with self.ingest() as sink:
            sink.write(content)
            return sink.commit(digest)

    def ingest(self) -> Sink:
        """A blob to write: `with store.ingest() as sink: sink.write(...); sink.commit()`."""
        path = self.lease().entry("blob")
        return Sink(path, self.disk, lambda blob: self._publish((blob,), None))

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Blobs that become visible together, after one sync, when the block ends well."""
        with located(self.blobs):
            fd = os.open(self.blobs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # Takes a lease only where there is a blob.
        prefix = cache(lambda: self.lease().prefix("blob"))
        batch = Batch(prefix, self.disk, self._publish, fd)
        try:
            yield batch
            batch.finish()
        finally:
            batch.drop()
            os.close(fd)

    def put_file(self, subject: str, path: Path, content: bytes, *, sync: bool = True) -> None:
        """Put a small file that is no blob under a name, replacing what has it (`Disk`)."""
        self.disk.replace_file(subject, path, content, self.lease().entry(subject), sync=sync)

    def put_derived(self, subject: str, path: Path, content: bytes) -> None:
        """As `put_file`, of what can be made again and always has one length: the first stays.

        Raises:
            StoreError: the disk is full or refuses.
        """
        with located(path):
            if not steps.has_size(path, len(content)):
                make_directory(path.parent)
                self.put_file(subject, path, content, sync=False)

    def set_aside(self, digest: Digest) -> Path | None:
        """Move a corrupt blob to corrupt/, so that it is fetched or built anew; None if gone."""
        return set_aside(self.path(digest), self)

    # -- space and locks of this process

    def lease(self) -> Lease:
        """This process's lease, taken on first use; leftovers of dead processes go then."""
        with self._guard, located(self.root):
            if self._lease is None:
                reclaim(self.root)
                self._lease = Lease.take(self.root, self.disk)
            return self._lease

    def lost(self) -> bool:
        """Whether somebody deleted a part of the store while it is open here."""
        with self._guard:
            held = self._lease is None or self._lease.is_named()
        return not held or not all((self.root / name).is_dir() for name in steps.STORE_DIRECTORIES)

    def pin(self, names: Iterable[str]) -> None:
        """Keep keys, digests and trees from being collected while this process runs.

        Pin before looking up; a collection that runs is waited for.
        """
        lease = self.lease()
        with located(self.root), self.publishing():
            lease.pin(names)

    def scratch(self, name: str) -> Path:
        """A fresh directory (mode 0700) on the store's file system; gone when the store closes."""
        path = self.lease().entry(name)
        with located(path):
            path.mkdir(mode=0o700)
            path.chmod(0o700)
        return path

    def discard(self, path: Path) -> None:
        """Remove a scratch directory whatever modes are inside.

        Raises:
            StoreError: something inside belongs to another user, or is a mount point.
        """
        with located(path):
            steps.remove_tree(path)

    def cache(self, name: str) -> Path:
        """A directory for what may be deleted at any time, such as partial downloads."""
        path = self.root / "cache" / name
        with located(path):
            make_directory(path)
        return path

    @contextmanager
    def key_lock(
        self, key: BuildKey, waiting: Waiting = quietly, stop: threading.Event | None = None
    ) -> Iterator[None]:
        """One builder per key: `waiting` is called once with the holder before a wait.

        Look the key up again inside: the one who was waited for may have built it.

        Raises:
            Interrupted: `stop` was set while the lock was waited for.
        """
        locks = self.root / "locks"
        with ExitStack() as held:
            with located(locks):
                make_directory(locks)
                held.enter_context(passing(locks / f"key-{key}", waiting, stop))
            yield

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Held while something becomes visible; keeps a collection out."""
        with shared(self._collect_lock()):
            yield

    @contextmanager
    def collecting(self, waiting: Waiting = quietly) -> Iterator[None]:
        """Held while garbage is found and removed; keeps everybody from publishing."""
        with exclusive(self._collect_lock(), waiting):
            yield

    # -- trees

    def tree(self, diff_id: Digest) -> Path:
        """The layer, unpacked; done on first use.

        Raises:
            StoreError: there is no such layer, or the disk is full.
            IntegrityError: the layer is corrupt or no layer of ours.
        """

        def fill(directory: Path) -> None:
            # The reader of archives is needed by builds only.
            from buildit.archive.beneath import Root
            from buildit.archive.unpack import unpack_layer

            with self.checked(diff_id) as layer, Root.open(directory) as into:
                try:
                    unpack_layer(layer, into)
                finally:
                    # To its end, where the digest is compared: corrupt bytes are named as such,
                    # and set aside, even where the reader stumbled over them first.
                    while layer.read(CHUNK):
                        pass

        return self.named_tree(diff_id, fill)

    def named_tree(self, identity: str, fill: Callable[[Path], None]) -> Path:
        """A derived tree named by what determines it; `fill` makes it in an empty directory. One
        that is not what was filled in any more is dropped, and filled again."""
        path = self.root / "trees" / identity
        with located(path):
            if self.trees.is_whole(path) and not self.trees.is_sound(path):
                self.tell(f"{path}: its files are not those that were unpacked: it is filled again")
            return self.trees.get(identity, self.lease, fill)

    # -- inside

    def _collect_lock(self) -> Path:
        make_directory(self.root / "locks")
        return self.root / "locks" / "collect"

    def _keep_existing(self, digest: Digest) -> bool:
        """True where the blob is there and right: then it is pinned and its age starts anew."""
        if not self.has(digest):
            return False
        lease = self.lease()
        with located(self.path(digest)), self.publishing():
            lease.pin((digest,))
            if not self._is_right(digest):
                return False
            # Whoever put it there may have been killed before it made the name durable.
            self.disk.sync_directory("blob", self.blobs)
            return True

    def _is_right(self, digest: Digest) -> bool:
        """Compare an existing blob with its name; a wrong one is set aside."""
        path = self.path(digest)
        try:
            if stat.S_ISREG(path.lstat().st_mode) and digest_file(path) == digest:
                os.utime(path)
                return True
        except FileNotFoundError:
            return False
        set_aside(path, self)
        return False

    def _publish(self, blobs: tuple[Pending, ...], sync: int | None) -> None:
        """Sync the blobs (through the file system of `sync`, else each), then name them."""
        left = deque(blobs)
        try:
            with located(self.blobs):
                if sync is not None:
                    self.disk.sync_file_system("blob", sync)
                else:
                    for blob in blobs:
                        # Write-back begins for all before the first is waited for.
                        os.posix_fadvise(blob.fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    for blob in blobs:
                        self.disk.sync("blob", blob.fd)
                with self.publishing():
                    self.lease().pin(blob.digest for blob in blobs)
                    while left:
                        named = self._place(left[0])
                        blob = left.popleft()
                        (blob.close if named else blob.drop)()
                    self.disk.sync_directory("blob", self.blobs)
        finally:
            for blob in left:
                blob.drop()

    def _place(self, blob: Pending) -> bool:
        """Give a blob its name; False where the name has the right bytes already."""
        path = f"{self.blobs}/{blob.digest}"
        if os.path.lexists(path) and self.has(blob.digest) and self._is_right(blob.digest):
            return False
        self.disk.publish("blob", blob.temporary, path)
        return True


def set_aside(path: Path, store: Store) -> Path | None:
    """Move a corrupt object of the store to corrupt/; None where it is gone already."""
    corrupt = store.root / "corrupt"
    with located(path):
        make_directory(corrupt)
        store.disk.faults.reach("corrupt-move")
        aside = corrupt / f"{path.name}.{token()}"
        with suppress(FileNotFoundError):
            path.rename(aside)
            with suppress(OSError):
                steps.sync_directory(path.parent)
            return aside
    return None
