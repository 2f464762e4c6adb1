"""P8 and P9: a binhost over HTTPS against curl, over SSH against OpenSSH's sftp and rsync."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.room import CHECKOUT, Room, clear
from bench.tables import Table, Verdict, ahead, ratio, rows
from bench.timing import BenchError, Run, Sample, Side, interleaved, process
from buildit.store.cas import Store
from tests.servers import Nginx, Sshd, certificates, nginx, sshd

Found = dict[str, list[Sample]]
LARGE = 500_000_000
COUNT, SMALL = 2000, 4000
"""How many small objects, and the bytes of the largest of them."""


def pulling(room: Room, rounds: int) -> Table:
    """P8: curl writes files and sha256sum reads them; buildit verifies and keeps in one go."""
    place = _place(room)
    found: Found = {}
    verdicts: list[Verdict] = []
    with _cleared(place), _site(room, place) as server:
        for kind, limit in (("large", 0.95), ("small", 1.2)):
            sides = (
                _side(place, f"buildit, {kind}", _pull(room, place, server, kind)),
                _side(place, f"curl, {kind}", _curl(room, place, server, kind)),
            )
            found |= interleaved(sides, rounds)
            verdicts += _verdicts(found, f"buildit, {kind}", f"curl, {kind}", kind, limit)
    remark = (
        f"nginx with TLS on loopback; large: one blob of {LARGE / 1e6:.0f} MB that does not "
        f"shrink, small: {COUNT} blobs of up to {SMALL} bytes. curl: `--parallel`, then "
        "`sha256sum -c`. buildit: a new process and store each time, synced at the end."
    )
    return Table("P8", "taking from a binhost over HTTPS", rows(found), tuple(verdicts), (remark,))


def pushing(room: Room, rounds: int) -> Table:
    """P9: OpenSSH's sftp (which syncs, too) for one large file, rsync for many small ones."""
    place = _place(room)
    found: Found = {}
    verdicts: list[Verdict] = []
    with _cleared(place), sshd(room.root / "sshd" / str(os.getpid())) as server:
        for kind, rival, limit in (("large", "sftp", 0.9), ("small", "rsync", 1.2)):
            theirs = _sftp if rival == "sftp" else _rsync
            sides: tuple[Side, ...] = (
                _side(place, f"buildit, {kind}", _push(room, place, server, kind)),
                _side(place, f"{rival}, {kind}", theirs(room, place, server, kind)),
            )
            if kind == "small":  # what ADR 21 decides by
                sides += (_side(place, "sftp, small", _sftp(room, place, server, kind)),)
            found |= interleaved(sides, rounds)
            verdicts += _verdicts(found, f"buildit, {kind}", f"{rival}, {kind}", kind, limit)
    remark = (
        "sshd on loopback; the files of P8. buildit hashes what it sends, and renames it there; a "
        "large file is synced first, as `put -f` does; small blobs are not, nor does rsync. sftp "
        "gives small files temporary names, renames them and syncs none."
    )
    return Table("P9", "publishing over SSH", rows(found), tuple(verdicts), (remark,))


def _verdicts(found: Found, ours: str, theirs: str, kind: str, limit: float) -> tuple[Verdict, ...]:
    """Speed for the large blob, time for the small ones, as PERFORMANCE has them."""
    if kind == "small":
        return ratio(found, ours, theirs, limit)
    value = ahead(found, ours, theirs).value
    return (Verdict(f"{ours}: speed, of that of {theirs}", value, "x", limit, at_least=True),)


def _place(room: Room) -> Path:
    """A directory with a store of both kinds of blobs, made once, and lists of them."""
    place = room.root / "binhosts"
    if (place / "small.txt").exists():
        return place
    clear(place)
    place.mkdir(parents=True)
    with Store.open(place / "bin") as store:
        rng = os.urandom
        with store.ingest() as sink:
            for _ in range(LARGE // 1_000_000):
                sink.write(rng(1_000_000))
            large = sink.commit()
        with store.batch() as batch:
            small = [batch.put_bytes(rng(SMALL * (n % 20 + 1) // 20)) for n in range(COUNT)]
        for name, digests in (("large", [large]), ("small", small)):
            text = "".join(f"{one} {store.size(one)}\n" for one in digests)
            (place / f"{name}.txt").write_text(text)
            (place / f"{name}.sums").write_text("".join(f"{one}  {one}\n" for one in digests))
    return place


@contextmanager
def _site(room: Room, place: Path) -> Iterator[Nginx]:
    made = certificates(room.root / "tls" / str(os.getpid()))
    os.environ["SSL_CERT_FILE"] = str(made.authority)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        os.environ.pop(name, None)
    with nginx(room.root / "nginx" / str(os.getpid()), place, made) as server:
        yield server


def _side(place: Path, name: str, run: Run) -> Side:
    return Side(name, run, _emptied(place / "target"))


def _emptied(target: Path) -> Callable[[], None]:
    """A new directory each time: ext4 is slow to create files just after as many were removed."""

    def empty() -> None:
        fresh = target.with_name("targets") / os.urandom(6).hex()
        fresh.mkdir(parents=True)
        target.unlink(missing_ok=True)
        target.symlink_to(fresh)
        os.sync()

    return empty


@contextmanager
def _cleared(place: Path) -> Iterator[None]:
    try:
        yield
    finally:
        shutil.rmtree(place / "targets", ignore_errors=True)


def _digests(place: Path, kind: str) -> list[str]:
    return [line.split()[0] for line in (place / f"{kind}.txt").read_text().splitlines()]


def _transfer(room: Room, words: list[str], env: dict[str, str]) -> Run:
    argv = [sys.executable, "-m", "bench.transfer", *words]
    path = {"PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": ""}
    return lambda: process(argv, cwd=CHECKOUT, log=room.log("transfer.log"), env={**path, **env})


def _pull(room: Room, place: Path, server: Nginx, kind: str) -> Run:
    words = ["pull", f"{server.url}/bin", str(place / f"{kind}.txt"), str(place / "target/store")]
    return _transfer(room, words, {})


def _curl(room: Room, place: Path, server: Nginx, kind: str) -> Run:
    target = place / "target"
    config = place / f"{kind}.curl"
    config.write_text(
        "".join(
            f'url = "{server.url}/bin/blobs/sha256/{one}"\noutput = "{one}"\n'
            for one in _digests(place, kind)
        )
    )
    ca = os.environ["SSL_CERT_FILE"]
    script = 'curl -sSf --parallel --cacert "$1" -K "$2" && sha256sum --quiet -c "$3"'
    argv = ["sh", "-euc", script, "curl", ca, str(config), str(place / f"{kind}.sums")]
    return lambda: process(argv, cwd=target, log=room.log("curl.log"))


def _push(room: Room, place: Path, server: Sshd, kind: str) -> Run:
    address = server.url(place / "target/bin")
    words = ["push", address, str(place / f"{kind}.txt"), str(place / "bin")]
    return _transfer(room, words, {"BUILDIT_SSH": server.program})


def _sftp(room: Room, place: Path, server: Sshd, kind: str) -> Run:
    batch = place / f"{kind}.sftp"
    source, target = place / "bin/blobs/sha256", place / "target"
    small = "put {0}/{2} {1}/up-{2}\nrename -l {1}/up-{2} {1}/{2}\n"
    line = small if kind == "small" else "put -f {0}/{2} {1}/{2}\n"
    batch.write_text("".join(line.format(source, target, one) for one in _digests(place, kind)))
    config = str(server.root / "ssh_config")
    argv = ["sftp", "-q", "-F", config, "-P", str(server.port), "-b", str(batch), "127.0.0.1"]
    return lambda: process(argv, cwd=place, log=room.log("sftp.log"))


def _rsync(room: Room, place: Path, server: Sshd, kind: str) -> Run:
    if shutil.which("rsync") is None:
        raise BenchError("rsync is not installed: apt install rsync")
    listed = place / f"{kind}.names"
    listed.write_text("".join(f"{one}\n" for one in _digests(place, kind)))
    shell = f"{server.program} -p {server.port}"
    argv = ["rsync", "-a", "-e", shell, "--files-from", str(listed)]
    argv += [f"{place}/bin/blobs/sha256/", f"127.0.0.1:{place}/target/"]
    return lambda: process(argv, cwd=place, log=room.log("rsync.log"))
