"""The store's directory: what is in it, its format version, and who may own it (DESIGN 4).

An OCI image layout (image-spec image-layout.md) with a constant, empty index, and more beside.
"""

from __future__ import annotations

import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

from buildit.codec import CodecError, decode
from buildit.digest import BuildKey, canonical
from buildit.errors import StoreError
from buildit.store.durable import Disk, located, make_directory, sync_directory, token

STORE_FORMAT = 1
FORMAT_FILE = "buildit-store.json"
BLOBS = "blobs/sha256"
STORE_DIRECTORIES = (
    *(BLOBS, "k", "r", "n", "containers", "trees", "tmp"),
    *("leases", "locks", "roots", "cache", "logs", "corrupt"),
)
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CONSTANT_FILES = {
    "oci-layout": canonical({"imageLayoutVersion": "1.0.0"}),
    "index.json": canonical({"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": []}),
}
FORMAT_BYTES = canonical({"format": STORE_FORMAT})
_TOP = {name.partition("/")[0] for name in STORE_DIRECTORIES} | {*CONSTANT_FILES, FORMAT_FILE}


@dataclass(frozen=True, slots=True)
class _Format:
    format: int


def prepare_store(root: Path, disk: Disk) -> Path:
    """Check the store at `root`, create it where there is none, and return its real path.

    Raises:
        StoreError: of another format, not a store, owned by another user, writable by others, or
            the file system refuses.
    """
    with located(root):
        real = Path(os.path.realpath(root))
        make_directory(real)
        check_owner(real)
        is_new = not check_format(real)
        for name in STORE_DIRECTORIES:
            # One that was deleted is made again, empty: what it held is made or fetched anew.
            make_directory(real / name)
        for name in ("blobs", *STORE_DIRECTORIES):
            check_owner(real / name)
        if is_new:
            _complete(real, disk)
    return real


def _complete(root: Path, disk: Disk) -> None:
    for name in os.listdir(root):
        if ".new-" in name:
            (root / name).unlink(missing_ok=True)
    # The version comes last: a store that has it is complete.
    for name, content in {**CONSTANT_FILES, FORMAT_FILE: FORMAT_BYTES}.items():
        put_constant(root, disk, name, content)
    sync_directory(root.parent)


def put_constant(root: Path, disk: Disk, name: str, content: bytes) -> None:
    """Write a file that is the same in every store."""
    disk.replace_file("layout", root / name, content, root / f"{name}.new-{token()}")


def check_owner(root: Path) -> None:
    """Refuse a store, or a directory of it, that another user could change under us.

    Raises:
        StoreError: not a directory, another owner, or writable by group or others.
    """
    status = root.stat()
    mine, elsewhere = os.geteuid(), "set BUILDIT_STORE elsewhere"
    if not stat.S_ISDIR(status.st_mode):
        raise StoreError("the store is not a directory", place=str(root), hint=elsewhere)
    if status.st_uid != mine:
        raise StoreError(
            f"the store belongs to user {status.st_uid}, not to user {mine} who runs this",
            place=str(root),
            hint="run as its owner, or set BUILDIT_STORE to a directory of your own",
        )
    if status.st_mode & 0o022:
        raise StoreError(
            f"other users may write to the store (mode {stat.S_IMODE(status.st_mode):04o})",
            place=str(root),
            hint=f"run `chmod go-w {shlex.quote(str(root))}`, then `buildit store verify`",
        )


def check_format(root: Path) -> bool:
    """True for a store of our format, False where none was completed here yet.

    Raises:
        StoreError: a newer format, an unreadable version, or a directory with other files.
    """
    path = root / FORMAT_FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        # A store whose creation was cut short holds only names of ours; anything else is no store.
        names = sorted(os.listdir(root))
        strange = [name for name in names if name.partition(".new-")[0] not in _TOP]
        if strange:
            raise StoreError(
                f"the directory is not a store: it holds {strange[0]!r}",
                place=str(root),
                hint="set BUILDIT_STORE (or `store:`) to an empty or missing directory",
            ) from None
        return False
    if text == FORMAT_BYTES:
        return True
    try:
        version = decode(_Format, text).format
    except CodecError:
        raise StoreError(
            "the store's version cannot be read",
            place=str(path),
            hint=f"remove {path}: it is written again, then run `buildit store verify`",
        ) from None
    raise StoreError(
        f"the store has format {version}, this buildit knows format {STORE_FORMAT}",
        place=str(path),
        hint="use a newer buildit, or set BUILDIT_STORE to another directory",
    )


def key_directory(root: Path, key: BuildKey) -> Path:
    """Where the statements about a key are: `k/<aa>/<key>/`."""
    return root / "k" / key[:2] / key
