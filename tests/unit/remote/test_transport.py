from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildit.remote.transport import (
    Circuit,
    LocalTransport,
    LocationError,
    SchemeTransport,
    local_path,
    read_small,
)
from tests.fakes import FakeTransport, default_transport

pytestmark = pytest.mark.unit


def test_a_file_by_url_and_by_path(tmp_path: Path) -> None:
    path = tmp_path / "a b%41"
    path.write_bytes(b"hello")
    assert read_small(LocalTransport(), str(path), 5) == b"hello"
    assert read_small(LocalTransport(), path.as_uri(), 5) == b"hello"


def test_a_file_from_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"hello")
    with LocalTransport().get(str(path), 2, 10) as response:
        assert (response.offset, response.total) == (2, 5)
        assert b"".join(response.chunks) == b"llo"
    with LocalTransport().get(str(path), 9, 10) as response:
        assert response.offset == 0


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for place, reason in (
        (tmp_path / "fifo", "regular"),
        (tmp_path, "regular"),
        (tmp_path / "none", "no such"),
    ):
        with pytest.raises(LocationError, match=reason):
            read_small(LocalTransport(), str(place), 10)


def test_too_long_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    with pytest.raises(LocationError, match="5 bytes, more than the 4"):
        read_small(LocalTransport(), str(tmp_path / "f"), 4)


@pytest.mark.parametrize("url", ["file://other.example/x", "file:relative", "file:///a%00b"])
def test_bad_file_urls(url: str) -> None:
    with pytest.raises(LocationError):
        local_path(url)


def test_other_schemes_are_not_paths() -> None:
    assert local_path("https://example.org/x") is None
    assert local_path("file://localhost/x") == Path("/x")


def test_scheme_decides_the_transport(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    transport = default_transport()
    assert read_small(transport, (tmp_path / "f").as_uri(), 1) == b"x"
    with pytest.raises(LocationError, match="'ftp' is refused"):
        read_small(transport, "ftp://example.org/", 1)
    with pytest.raises(LocationError, match="'relative/path' is refused"):
        read_small(transport, "relative/path", 1)
    transport.close()


def test_a_transport_is_made_once(tmp_path: Path) -> None:
    made: list[LocalTransport] = []

    def make() -> LocalTransport:
        made.append(LocalTransport())
        return made[-1]

    transport = SchemeTransport({"file": make})
    (tmp_path / "f").write_bytes(b"x")
    read_small(transport, str(tmp_path / "f"), 1)
    read_small(transport, str(tmp_path / "f"), 1)
    assert len(made) == 1


REFUSED = LocationError("u", "refused (HTTP 403 Forbidden)", refused=True)


@pytest.mark.parametrize("root", [b"1", LocationError("u", "not found", absent=True)])
def test_a_host_that_refuses_what_it_lacks_is_told_of_once(root: bytes | LocationError) -> None:
    told: list[LocationError] = []
    warned: list[LocationError] = []
    served = {"https://h/format": root, "https://h/there": b"x"}
    served |= {f"https://h/{number}": REFUSED for number in range(9)}
    circuit = Circuit(
        FakeTransport(served), told.append, root="https://h/format", warn=warned.append
    )
    for number in range(9):
        with pytest.raises(LocationError, match="403") as caught:
            read_small(circuit, f"https://h/{number}", 10)
        assert caught.value.absent
    assert read_small(circuit, "https://h/there", 10) == b"x"
    assert (told, len(warned)) == ([], 1)


def test_a_host_that_refuses_its_root_too_is_left_alone() -> None:
    told: list[LocationError] = []
    served: dict[str, bytes | LocationError] = {"https://h/format": REFUSED, "https://h/x": REFUSED}
    circuit = Circuit(FakeTransport(served), told.append, root="https://h/format")
    for _ in range(9):
        with pytest.raises(LocationError) as caught:
            read_small(circuit, "https://h/x", 10)
        assert not caught.value.absent
    assert circuit.broken is not None
    assert len(told) == 1
