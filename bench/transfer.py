"""One side of P8 and P9, as a process of its own: take blobs from a binhost, or send them."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from buildit.__main__ import GARBAGE
from buildit.digest import Digest
from buildit.store.cas import Store


def pull(url: str, listed: Path, target: Path) -> None:
    """Take every `digest size` of a list into a store."""
    from buildit.model.config import Https
    from buildit.remote.binhost.directory import ReadOnly
    from buildit.remote.binhost.protocols import WantedBlob
    from buildit.remote.web import WebTransport

    rows = [line.split() for line in listed.read_text().splitlines()]
    wants = [WantedBlob(Digest(digest), int(size), int(size)) for digest, size in rows]
    web = WebTransport()
    with Store.open(target) as store, store.batch() as batch:
        taken = ReadOnly(Https(url), web).get(wants, store, batch)
    web.close()
    if taken != len(wants):
        raise SystemExit(f"{taken} of {len(wants)} came")


def push(address: str, listed: Path, source: Path) -> None:
    """Send every blob of a list from a store."""
    from buildit.remote.binhost.protocols import Outgoing, unheard
    from buildit.remote.binhost.ssh import SshRemote
    from buildit.remote.sftp.login import SftpTransport
    from buildit.remote.transport import ssh_address

    transport = SftpTransport()
    with Store.open(source) as store:
        account = ssh_address(address)
        remote = SshRemote(account, transport, "b" * 16)
        remote.prepare()
        rows = [line.split() for line in listed.read_text().splitlines()]
        sizes = {Digest(digest): int(size) for digest, size in rows}
        missing = remote.missing(sizes)
        blobs = [Outgoing(one, sizes[one], _opener(store, one)) for one in sizes if one in missing]
        remote.put(blobs, unheard)
    transport.close()


def _opener(store: Store, digest: Digest) -> Callable[[], BinaryIO]:
    return lambda: store.checked(digest)


if __name__ == "__main__":
    gc.set_threshold(GARBAGE)  # as the command does
    {"pull": pull, "push": push}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
