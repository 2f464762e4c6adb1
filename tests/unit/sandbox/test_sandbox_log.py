"""The bounded log and what a terminal gets to see of it."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildit.sandbox.run import LogFile, end_of, printable_output
from tests.scale import examples

pytestmark = pytest.mark.unit


def kept(path: Path, limit: int, parts: list[bytes]) -> bytes:
    with closing(LogFile(path, limit)) as log:
        for part in parts:
            log.write(part)
    return path.read_bytes()


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(1, 30))
def test_head_and_tail_survive(tmp_path: Path, parts: list[bytes], half: int) -> None:
    whole = b"".join(parts)
    found = kept(tmp_path / "log", 2 * half, parts)
    if len(whole) <= 2 * half:
        assert found == whole
        return
    mark = b"\n[buildit: %d bytes left out here]\n" % (len(whole) - 2 * half)
    assert found == whole[:half] + mark + whole[-half:]


def test_it_says_whether_it_left_something_out(tmp_path: Path) -> None:
    assert kept(tmp_path / "log", 10, [b"0123456789"]) == b"0123456789"
    assert b"1 bytes left out" in kept(tmp_path / "log", 10, [b"0123456789", b"a"])


def test_an_older_log_is_replaced_and_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"old and longer")
    assert kept(tmp_path / "log", 100, [b"new"]) == b"new"
    (tmp_path / "link").symlink_to(tmp_path / "log")
    with pytest.raises(OSError, match="link"):
        LogFile(tmp_path / "link", 100)
    assert (tmp_path / "log").read_bytes() == b"new"


@given(st.binary(max_size=200))
def test_nothing_printable_moves_the_cursor(data: bytes) -> None:
    text = printable_output(data)
    assert re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", text) is None
    text.encode("utf-8")


def test_printable_by_example() -> None:
    assert printable_output(b"ok\t\xc3\xa4\n") == "ok\tä\n"
    assert printable_output(b"\x1b[2K\r[OK]") == "\\x1b[2K\\x0d[OK]"
    assert printable_output(b"\xff\xc2\x9b31m") == "�\\x9b31m"
    assert printable_output("a\u202eb".encode()) == "a\\u202eb"


def test_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert end_of(log, 3) == []
    log.write_bytes(b"x" * 200_000 + b"\none\n\x1btwo\n")
    assert end_of(log, 64 << 10)[-2:] == [b"one", b"\x1btwo"]
