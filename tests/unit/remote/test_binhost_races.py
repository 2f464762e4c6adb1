"""A host that answers otherwise each time it is asked: 1 000 pulls, and never wrong bytes (F8).

Good beginnings before bad ends, ends of something else, ranges that lie, refusals in between: what
was verified is what is kept, however often a download was gone on with.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from buildit.digest import digest_bytes
from buildit.errors import FetchError, IntegrityError
from buildit.model.config import Directory
from buildit.remote.binhost.directory import DirectoryRemote
from buildit.remote.transport import LocationError, Response
from buildit.store.artifacts import lookup
from buildit.store.cas import Store
from buildit.store.upkeep import check_store
from tests.unit.remote.test_binhost_mutations import World, forget, place, world

pytestmark = pytest.mark.unit
RUNS = 1000
__all__ = ("place", "world")
SOON = 0.0001
"""Seconds after which the host asks to be asked again."""


@dataclass
class Fickle:
    """Serves files below a directory, `wrong` of ten answers otherwise than it should."""

    rng: random.Random
    wrong: int = 5
    served: int = 0
    spoiled: int = 0
    resumed: int = 0

    @contextmanager
    def get(self, url: str, offset: int, cap: int) -> Iterator[Response]:
        try:
            data = Path(url).read_bytes()
        except FileNotFoundError:
            raise LocationError(url, "not found", absent=True) from None
        self.served += 1
        self.resumed += bool(offset)
        start, chunks = offset if offset <= len(data) else 0, data[offset:]
        if self.rng.randrange(10) < self.wrong:
            self.spoiled += 1
            start, chunks = self.spoil(url, data, start)
        yield Response(self.body(url, chunks, cap), start, len(data), lambda: None)

    def spoil(self, url: str, data: bytes, start: int) -> tuple[int, bytes]:
        """Another answer: the position that it claims, and its bytes."""
        kind = self.rng.choice((0, 1, 1, 1, 1, 2, 3, 4, 5, 6))
        cut = self.rng.randrange(len(data) + 1)
        if kind == 0:
            raise LocationError(url, "busy", transient=True, retry_after=SOON)
        if kind == 1:  # it breaks off, and should be gone on with
            return start, data[start:cut] + b"\0END"
        if kind == 2:  # other bytes from somewhere on
            return start, data[start:cut] + self.rng.randbytes(max(0, len(data) - max(cut, start)))
        if kind == 3:  # the range is another one than it claims
            return start, data[cut:]
        if kind == 4:  # it begins anew, wrongly
            return 0, self.rng.randbytes(len(data))
        if kind == 5:  # too much
            return start, data[start:] + self.rng.randbytes(100)
        return 0, data  # right, from the beginning: it cannot resume

    def body(self, url: str, data: bytes, cap: int) -> Iterator[bytes]:
        """In pieces; a body that ends in END breaks off there."""
        whole, end, _ = data.partition(b"\0END")
        for at in range(0, len(whole), 97):
            if at > cap:
                raise LocationError(url, "too much", wrong=True)
            yield whole[at : at + 97]
        if end:
            raise LocationError(url, "it broke off", transient=True, retry_after=SOON)

    def close(self) -> None:
        return


@pytest.mark.scale
def test_what_was_verified_is_what_is_kept(world: World, place: Path) -> None:
    fickle = Fickle(random.Random(8))
    steady = world.host.binhost
    address = steady.remote.address
    assert isinstance(address, Directory)
    host = replace(steady, remote=DirectoryRemote(address, fickle))
    taken = refused = 0
    with Store.open(place / "races") as store:
        for run in range(RUNS):
            artifact = world.artifacts[run % 2]
            try:
                found = host.pull(artifact.key, store)
            except (IntegrityError, FetchError):
                refused += 1
                assert lookup(store, artifact.key) is None
                continue
            taken += 1
            assert found == artifact
            for output in artifact.outputs.values():
                assert digest_bytes(store.read(output.diff_id)) == output.diff_id
            forget(store)
        assert check_store(store).faults == ()
        assert steady.pull(world.artifacts[0].key, store) == world.artifacts[0]
    assert taken > RUNS / 20
    assert refused > RUNS / 20
    assert fickle.resumed > RUNS / 50, "downloads were gone on with"
