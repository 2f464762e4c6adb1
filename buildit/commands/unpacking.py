"""An image unpacked for a run: read by the readers of `verify`, then laid down as its ids."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.archive.contents import way
from buildit.archive.unpack import Writer
from buildit.errors import IntegrityError, StoreError, UsageError
from buildit.image.launch import LARGEST_ACCOUNTS, Accounts, Facts, launch_of
from buildit.image.reading import Kept, Reading
from buildit.image.verify import read_image
from buildit.model.tree import Entry, Kind
from buildit.sandbox.spaces import IdMap, in_namespace


def lay_image(image: Path, work: Path, ids: IdMap) -> Facts:
    """Read an image, keeping the bytes of its files, and lay its tree down in `work/tree`.

    Raises:
        IntegrityError, UsageError: as `run_image`.
        StoreError: the disk is full or broken.
    """
    kept = work / "kept"
    try:
        kept.mkdir()
        keeping = Kept(kept, ids.become)
        reading = read_image(image, hasher=keeping)
    except OSError as error:
        message = f"the image cannot be unpacked: {error.strerror}"
        raise StoreError(message, place=str(work)) from error
    if reading.problems or reading.entries is None:
        first, *more = reading.problems or ("it cannot be read",)
        hint = "it is not run; `buildit verify` reads it whole"
        raise IntegrityError(first, place=str(image), hint=hint, details=tuple(more))
    facts = _facts(reading, keeping)
    (work / "tree").mkdir(0o755)
    if ids.become is not None:
        os.chown(work / "tree", *ids.become)
    inside = _laying(reading.entries, Kept(Path("kept")), ids, str(image))
    in_namespace(ids, inside, work)
    return facts


def _laying(entries: Sequence[Entry], kept: Kept, ids: IdMap, name: str) -> Callable[[], None]:
    """Work for `in_namespace`, in the directory that has `kept` and `tree`."""
    beyond = next((one for one in entries if ids.several() and not ids.has(one.uid, one.gid)), None)
    if beyond is not None:
        owner = f"{beyond.uid}:{beyond.gid}"
        message = f"/{beyond.path} belongs to {owner}, beyond the ids that containers have here"
        raise UsageError(message, place=name, hint="see /etc/subuid and /etc/subgid")

    def work() -> None:
        with Root.open(Path("tree")) as into:
            writer = Writer(into, None, name, exact=ids.several())
            for entry in entries:
                # attributes give rights that nothing in a sandbox may have
                plain = replace(entry, xattrs={})
                if entry.kind is not Kind.FILE or entry.digest is None:
                    writer.write(plain, None)
                    continue
                with kept.open(entry.digest, entry.size) as content:
                    writer.write(plain, content)
            writer.finish()

    return work


def _facts(reading: Reading, kept: Kept) -> Facts:
    tree = {entry.path: entry for entry in reading.entries or ()}

    def find(path: str) -> Entry | None:
        entry = tree.get(path)
        return tree[entry.target] if entry and entry.kind is Kind.HARDLINK else entry

    def text(path: str) -> str:
        end = way(path, find).end
        entry = find(end) if end else None
        if entry is None or entry.digest is None:
            return ""
        with kept.open(entry.digest, entry.size) as stream:
            return stream.read(LARGEST_ACCOUNTS).decode("utf-8", "replace")

    start = reading.start.decode("utf-8", "replace")
    launch = launch_of(reading.format, start.encode())
    named = {}
    for path in filter(None, (launch.user, launch.group)):
        end = way(path[1:], find).end if path.startswith("/") else None
        entry = find(end) if end else None
        if entry is not None:
            named[path] = (entry.uid, entry.gid)
    accounts = Accounts(text("etc/passwd"), text("etc/group"), named)
    owners = sorted({(one.uid, one.gid) for one in tree.values()})
    return Facts(reading.format, reading.identifier, start, accounts, tuple(owners[:100]))
