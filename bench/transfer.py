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


def refuse(_statement: bytes, _signature: bytes | None, _builder: str) -> None:
    """No statements here."""


def pull(url: str, listed: Path, target: Path) -> None:
    """Take every `digest size` of a list into a store."""
    from buildit.remote.binhost.binhost import Binhost
    from buildit.remote.binhost.blobs import Wanted
    from buildit.remote.http.web import WebTransport

    rows = [line.split() for line in listed.read_text().splitlines()]
    wants = [Wanted(Digest(digest), int(size), int(size)) for digest, size in rows]
    web = WebTransport()
    with Store.open(target) as store:
        taken = Binhost("bench", url, web, refuse).pull_blobs(wants, store)
    web.close()
    if taken != len(wants):
        raise SystemExit(f"{taken} of {len(wants)} came")


def push(address: str, listed: Path, source: Path) -> None:
    """Send every blob of a list from a store."""
    from buildit.remote.binhost.publishing import Outgoing, unheard
    from buildit.remote.binhost.ssh_publisher import SshPublisher
    from buildit.remote.sftp.ssh_account import parse_account
    from buildit.remote.sftp.transport import SftpTransport

    transport = SftpTransport()
    with Store.open(source) as store:
        publisher = SshPublisher(parse_account(address), transport, store, "b" * 16)
        publisher.prepare()
        digests = [Digest(line.split()[0]) for line in listed.read_text().splitlines()]
        there = publisher.sizes(digests)
        blobs = [
            Outgoing(digest, store.path(digest).stat().st_size, _opener(store, digest))
            for digest in digests
            if digest not in there
        ]
        publisher.put_blobs(blobs, unheard)
    transport.close()


def _opener(store: Store, digest: Digest) -> Callable[[], BinaryIO]:
    return lambda: store.checked(digest)


if __name__ == "__main__":
    gc.set_threshold(GARBAGE)  # as the command does
    {"pull": pull, "push": push}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
