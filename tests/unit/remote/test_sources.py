from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from buildit.digest import Digest, digest_bytes
from buildit.errors import FetchError, IntegrityError, RecipeError, StoreError
from buildit.events import Event, Fetching, LocationFailed
from buildit.remote.fetch import Fetch, Fetcher, listed_mirrors, locations, no_mirrors, open_partial
from buildit.remote.transport import LocalTransport, LocationError, Response, Transport
from tests.fakes import FakeTransport, MemorySink

pytestmark = pytest.mark.unit

DATA = b"the very bytes of the source archive"
DIGEST = digest_bytes(DATA)
A, B, C = (f"https://{name}.example/x.tar" for name in "abc")


def want(*urls: str, size: int | None = None) -> Fetch:
    return Fetch("x.tar", urls, DIGEST, size)


def fetcher(transport: Transport, tmp_path: Path, events: list[Event] | None = None) -> Fetcher:
    told = events if events is not None else []
    return Fetcher(
        MemorySink(), transport, tmp_path / "partial", no_mirrors, told.append, pause=0.0
    )


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "partial").iterdir())


def put_partial(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / DIGEST).write_bytes(data)


def test_first_location_that_verifies(tmp_path: Path) -> None:
    events: list[Event] = []
    transport = FakeTransport({B: b"something else", C: DATA})
    desk = fetcher(transport, tmp_path, events)
    assert desk.fetch(want(A, B, C)) == DIGEST
    assert desk.sink.has(DIGEST)
    assert [event.location for event in events if isinstance(event, LocationFailed)] == [A, B]
    assert events[-1] == Fetching("x.tar", len(DATA), len(DATA), done=True)
    assert left(tmp_path) == []


def test_what_is_there_is_not_fetched(tmp_path: Path) -> None:
    transport = FakeTransport({A: DATA})
    desk = fetcher(transport, tmp_path)
    desk.fetch(want(A))
    desk.fetch(want(A))
    assert transport.asked == [(A, 0)]


@pytest.mark.parametrize("ranges", [True, False])
def test_resume_from_a_partial_file(tmp_path: Path, *, ranges: bool) -> None:
    put_partial(tmp_path, DATA[:10])
    transport = FakeTransport({A: DATA}, ranges=ranges)
    assert fetcher(transport, tmp_path).fetch(want(A)) == DIGEST
    assert transport.asked == [(A, 10)]


def test_a_bad_partial_is_dropped_and_the_location_asked_again(tmp_path: Path) -> None:
    put_partial(tmp_path, b"corrupt")
    transport = FakeTransport({A: DATA})
    assert fetcher(transport, tmp_path).fetch(want(A)) == DIGEST
    assert transport.asked == [(A, 7), (A, 0)]


@pytest.mark.parametrize("leftover", [DATA, DATA + b"tail"])
def test_a_partial_of_full_length(tmp_path: Path, leftover: bytes) -> None:
    put_partial(tmp_path, leftover)
    transport = FakeTransport({A: DATA})
    assert fetcher(transport, tmp_path).fetch(want(A, size=len(DATA))) == DIGEST
    assert transport.asked == ([] if leftover == DATA else [(A, 0)])


def test_a_full_partial_with_wrong_bytes(tmp_path: Path) -> None:
    put_partial(tmp_path, b"x" * len(DATA))
    transport = FakeTransport({A: DATA})
    assert fetcher(transport, tmp_path).fetch(want(A, size=len(DATA))) == DIGEST
    assert transport.asked == [(A, 0)]


class Flaky:
    """Breaks off after `good` bytes as often as `breaks` says, then serves the rest."""

    def __init__(self, good: int, breaks: int) -> None:
        self.offsets: list[int] = []
        self._good = good
        self._breaks = breaks

    @contextmanager
    def get(self, url: str, offset: int, cap: int) -> Iterator[Response]:  # noqa: ARG002
        self.offsets.append(offset)

        def chunks() -> Iterator[bytes]:
            if len(self.offsets) <= self._breaks:
                yield DATA[offset : offset + self._good]
                raise LocationError(url, "connection ended", transient=True)
            yield DATA[offset:]

        yield Response(chunks(), offset, len(DATA), lambda: None)

    def close(self) -> None:
        return


def test_a_broken_connection_goes_on_where_it_was(tmp_path: Path) -> None:
    transport = Flaky(good=5, breaks=2)
    assert fetcher(transport, tmp_path).fetch(want(A)) == DIGEST
    assert transport.offsets == [0, 5, 10]


def test_a_location_that_keeps_breaking_leaves_its_bytes(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="no location serves it") as caught:
        fetcher(Flaky(good=5, breaks=9), tmp_path).fetch(want(A))
    assert caught.value.details == (f"{A}: connection ended",)
    assert caught.value.exit_code == 4
    assert (tmp_path / "partial" / DIGEST).read_bytes() == DATA[:15]


def test_wrong_bytes_everywhere(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError) as caught:
        fetcher(FakeTransport({A: b"one", B: b"two"}), tmp_path).fetch(want(A, B))
    assert caught.value.exit_code == 5
    assert caught.value.details == (
        f"{A}: wrong bytes: expected sha256:{DIGEST}, got sha256:{digest_bytes(b'one')}",
        f"{B}: wrong bytes: expected sha256:{DIGEST}, got sha256:{digest_bytes(b'two')}",
    )
    assert left(tmp_path) == []


def test_wrong_bytes_here_and_nothing_there_is_a_matter_of_the_bytes(tmp_path: Path) -> None:
    events: list[Event] = []
    with pytest.raises(IntegrityError) as caught:
        fetcher(FakeTransport({A: b"one"}), tmp_path, events).fetch(want(A, B))
    assert (caught.value.hint or "").startswith("is the sha256 right")
    assert f"got sha256:{digest_bytes(b'one')}" in caught.value.details[0]
    told = [event.location for event in events if isinstance(event, LocationFailed)]
    assert told == [A], "nothing follows B: the error tells of it"


def test_a_html_page_is_named(tmp_path: Path) -> None:
    page = b"\n<!DOCTYPE html><html>please log in</html>"
    with pytest.raises(IntegrityError) as caught:
        fetcher(FakeTransport({A: page}), tmp_path).fetch(want(A))
    assert "HTML page" in caught.value.details[0]


def test_no_more_than_the_size_is_taken(tmp_path: Path) -> None:
    with pytest.raises(FetchError) as caught:
        fetcher(FakeTransport({A: DATA}), tmp_path).fetch(want(A, size=4))
    assert "more than the 4" in caught.value.details[0]


def test_no_location_at_all(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"x\.tar: no location is known"):
        fetcher(FakeTransport({}), tmp_path).fetch(want())


def test_distfiles_are_earlier_locations_and_their_absence_no_news(tmp_path: Path) -> None:
    events: list[Event] = []
    (tmp_path / "x.tar").write_bytes(DATA)
    missing, present = str(tmp_path / "none"), str(tmp_path / "x.tar")
    desk = fetcher(LocalTransport(), tmp_path, events)
    assert desk.fetch(want(missing, present, A)) == DIGEST
    assert not [event for event in events if isinstance(event, LocationFailed)]


def test_a_wrong_distfile_and_nothing_else_is_wrong_bytes(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"other")
    with pytest.raises(IntegrityError):
        fetcher(LocalTransport(), tmp_path).fetch(want(str(tmp_path / "x.tar")))


def test_without_a_digest_only_https_and_files(tmp_path: Path) -> None:
    plain = "http://a.example/x.tar"
    transport = FakeTransport({plain: DATA, A: DATA})
    desk = fetcher(transport, tmp_path)
    with pytest.raises(FetchError) as caught:
        desk.fetch(Fetch("x", (plain,)))
    assert "http is refused" in caught.value.details[0]
    assert desk.fetch(Fetch("x", (plain, A))) == DIGEST
    assert transport.asked == [(A, 0)]
    assert left(tmp_path) == []
    assert desk.fetch(Fetch("x", (plain,), proves_itself=True)) == DIGEST
    assert transport.asked[1:] == [(plain, 0)]
    here = "http://127.0.0.1:8000/x.tar"
    assert fetcher(FakeTransport({here: DATA}), tmp_path).fetch(Fetch("x", (here,))) == DIGEST


def test_mirrors_are_put_in_when_they_are_reached() -> None:
    asked: list[str] = []

    def mirrors(name: str) -> tuple[str, ...]:
        asked.append(name)
        return ("https://m1.example/debian/", "https://m2.example/debian")

    urls = (A, "mirror://debian/pool/x.tar", "https://m1.example/debian/pool/x.tar", A)
    found = locations(urls, mirrors)
    assert next(found) == A
    assert not asked
    assert list(found) == [
        "https://m1.example/debian/pool/x.tar",
        "https://m2.example/debian/pool/x.tar",
    ]


def test_bad_mirrors() -> None:
    mirrors = listed_mirrors({"debian": ["https://m.example"]})
    with pytest.raises(RecipeError) as caught:
        list(locations(("mirror://debain/x",), mirrors))
    assert caught.value.hint == "did you mean mirror://debian/…?"
    for url in ("mirror://debian", "mirror:///x", "mirror://debian/", "mirror://debian/../x"):
        with pytest.raises(RecipeError, match="not a mirror URL"):
            list(locations((url,), mirrors))
    with pytest.raises(RecipeError, match="unknown mirror list"):
        no_mirrors("gnu")


def test_several_at_once_in_order_and_each_once(tmp_path: Path) -> None:
    bodies = {f"https://a.example/{n}": b"body %d" % n for n in range(20)}
    transport = FakeTransport(dict(bodies))
    wants = [Fetch(url, (url,), digest_bytes(body)) for url, body in bodies.items()]
    got = fetcher(transport, tmp_path).fetch_all([*wants, *wants], 4)
    assert list(got) == [want.digest for want in wants] * 2
    assert len(transport.asked) == 20
    assert fetcher(transport, tmp_path).fetch_all([], 4) == ()


def test_two_wants_of_one_digest_share_their_locations(tmp_path: Path) -> None:
    transport = FakeTransport({B: DATA})
    assert fetcher(transport, tmp_path).fetch_all([want(B), want(A)], 2) == (DIGEST, DIGEST)
    assert transport.asked == [(B, 0)]
    transport = FakeTransport({B: DATA})
    assert fetcher(transport, tmp_path).fetch_all([want(A), want(B)], 2) == (DIGEST, DIGEST)


class Endless:
    """`slow` never ends by itself; everything else is absent once `slow` has begun."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.aborted = threading.Event()

    @contextmanager
    def get(self, url: str, offset: int, cap: int) -> Iterator[Response]:  # noqa: ARG002
        if not url.endswith("/slow"):
            self.begun.wait(5)
            raise LocationError(url, "not found", absent=True)

        def chunks() -> Iterator[bytes]:
            self.begun.set()
            while not self.aborted.wait(0.01):
                yield b"more"
            raise LocationError(url, "cut", transient=True)

        yield Response(chunks(), 0, None, self.aborted.set)

    def close(self) -> None:
        return


def test_the_first_error_ends_the_others(tmp_path: Path) -> None:
    transport = Endless()
    wants = [
        Fetch("slow", ("https://a.example/slow",), digest_bytes(b"s")),
        Fetch("gone", ("https://a.example/gone",), digest_bytes(b"g")),
        *(Fetch(str(n), ("https://a.example/n",), digest_bytes(b"%d" % n)) for n in range(5)),
    ]
    with pytest.raises(FetchError, match="gone: no location"):
        fetcher(transport, tmp_path).fetch_all(wants, 2)
    assert transport.aborted.is_set()


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    full = Fetch("x.tar", (A,), DIGEST)
    (tmp_path / "partial").symlink_to("/dev/null")
    with pytest.raises(StoreError):
        fetcher(FakeTransport({A: DATA}), tmp_path).fetch(full)


def test_one_process_at_a_time_fills_a_partial(tmp_path: Path) -> None:
    """The second waits, and goes on with the bytes of the first or finds them in the sink."""
    desk = fetcher(FakeTransport({A: DATA}), tmp_path)
    done = threading.Event()
    results: list[Digest] = []

    def second() -> None:
        results.append(desk.fetch(want(A)))
        done.set()

    with open_partial(tmp_path / "partial", DIGEST) as partial:
        partial.rehash()
        partial.add(DATA[:3])
        thread = threading.Thread(target=second)
        thread.start()
        assert not done.wait(0.05)
    thread.join()
    assert results == [DIGEST]
    assert isinstance(desk.transport, FakeTransport)
    assert desk.transport.asked == [(A, 3)]


def test_restart_makes_a_new_inode(tmp_path: Path) -> None:
    with open_partial(tmp_path, "p") as partial:
        partial.rehash()
        partial.add(b"old")
        with (tmp_path / "p").open("rb") as old:
            partial.restart()
            partial.add(b"new")
            assert old.read() == b"old"
        assert (tmp_path / "p").read_bytes() == b"new"
        with (tmp_path / "p").open("rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.unlink(tmp_path / "p")


def test_a_link_in_place_of_a_partial_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"keep")
    (tmp_path / "p").symlink_to("victim")
    with pytest.raises(StoreError), open_partial(tmp_path, "p"):
        pass
    assert (tmp_path / "victim").read_bytes() == b"keep"
