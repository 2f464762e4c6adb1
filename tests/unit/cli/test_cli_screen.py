"""The lines of events, golden; JSON; a stream that nobody reads; live rows."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildit.cli.live import LiveScreen, _Row
from buildit.cli.screen import JsonScreen, PlainScreen, columns, event_name, printable, screen_for
from buildit.digest import BuildKey, digest_bytes, key_uuid
from buildit.events import (
    BuildFailed,
    Building,
    Built,
    Emitted,
    Event,
    Fetching,
    LocationFailed,
    Missing,
    Notice,
    Packaging,
    PhaseStarted,
    Planned,
    Processing,
    Reused,
    Started,
)
from buildit.model.words import size

pytestmark = pytest.mark.unit

NGINX = BuildKey(digest_bytes(b"nginx"))
ZLIB = BuildKey(digest_bytes(b"zlib"))
LIBC = BuildKey(digest_bytes(b"libc"))
TITLE = "nginx-production-1.22.1-p1"

FIRST_RUN: tuple[Event, ...] = (
    Started(f"Sysadmin42/{TITLE}"),
    Processing("./pkgs/nginx", "linux/amd64", NGINX),
    Missing(NGINX, "www-servers/nginx-1.22.1"),
    Reused(ZLIB, "sys-libs/zlib-1.2.13", "the local store"),
    Planned(1, 1, 0),
    Fetching("nginx-1.22.1.tar.gz", 10, 1_073_948),
    LocationFailed("nginx-1.22.1.tar.gz", "example.org", "404"),
    Fetching("nginx-1.22.1.tar.gz", 1_073_948, 1_073_948, done=True),
    Building(NGINX, "www-servers/nginx-1.22.1", "patch #2 changed"),
    PhaseStarted(NGINX, "www-servers/nginx-1.22.1", "compile"),
    Built(NGINX, "www-servers/nginx-1.22.1", 31.44),
    Planned(2, 0, 1),
    Building(LIBC, "debian:libc6-2.36-9", "unpacked for the first time"),
    Built(LIBC, "debian:libc6-2.36-9", 0.71),
    Packaging(TITLE, "aci"),
    Emitted(TITLE, "aci", "out/x.aci", digest_bytes(b"aci")),
    Notice("1 file has a capability that ACI cannot say", warning=True),
)

FIRST_LINES = f"""\
Building Sysadmin42/nginx-production-1.22.1-p1
Processing package from './pkgs/nginx' for linux/amd64.
HASH: {key_uuid(NGINX)}
Can't find HASH in any known location...
Packages: 1 to build, 1 at hand.
  nginx-1.22.1.tar.gz: example.org: 404; trying the next location
  fetched nginx-1.22.1.tar.gz (1.1 MB)
  www-servers/nginx-1.22.1: building (patch #2 changed)
  www-servers/nginx-1.22.1: built in 31.4 s
Defaulting to local build...   [OK]
  debian:libc6-2.36-9: unpacked in 0.7 s
Packaging nginx-production-1.22.1-p1 as ACI...   [OK]
warning: 1 file has a capability that ACI cannot say
"""


def told(*events: Event) -> str:
    stream = io.StringIO()
    made = screen_for(stream, as_json=False)
    for event in events:
        made(event)
    return stream.getvalue()


def test_the_transcript_of_a_first_run() -> None:
    assert told(*FIRST_RUN) == FIRST_LINES


def test_sizes_are_said_in_a_unit_that_shows_them() -> None:
    text = told(Fetching("openssl-3.0.20.tar.gz.asc", 833, 833, done=True))
    assert text == "  fetched openssl-3.0.20.tar.gz.asc (833 B)\n"


def test_what_the_store_has_is_found() -> None:
    text = told(*FIRST_RUN[:2], Reused(NGINX, "nginx", "the local store"))
    assert text.endswith("Found HASH in the local store...   [OK]\n")


def test_a_dependency_found_or_missing_says_nothing() -> None:
    assert told(Missing(ZLIB, "zlib"), Reused(ZLIB, "zlib", "'local'")) == ""


def test_a_failed_root_is_not_ok() -> None:
    text = told(FIRST_RUN[1], BuildFailed(NGINX, "www-servers/nginx-1.22.1", "compile failed"))
    assert text.splitlines()[-2:] == [
        "  www-servers/nginx-1.22.1: failed: compile failed",
        "Defaulting to local build...   [FAILED]",
    ]


def test_foreign_text_cannot_drive_a_terminal() -> None:
    text = told(BuildFailed(ZLIB, "zlib", "a\x1b[31mb\x07\u202e\udc80\nc"))
    assert text == "  zlib: failed: a?[31mb????c\n"


@given(st.text())
def test_printable_text_has_no_control_characters(text: str) -> None:
    shown_ = printable(text)
    assert len(shown_) == len(text)
    assert shown_.isprintable()


def test_json_lines_hold_every_field() -> None:
    stream = io.StringIO()
    made = JsonScreen(stream)
    for event in FIRST_RUN:
        made(event)
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(found) == len(FIRST_RUN)
    assert found[1] == {
        "event": "processing",
        "origin": "./pkgs/nginx",
        "platform": "linux/amd64",
        "key": NGINX,
    }
    assert event_name(FIRST_RUN[9]) == found[9]["event"] == "phase-started"


class Closed(io.StringIO):
    """A pipe whose reader is gone."""

    def write(self, _: str) -> int:
        raise BrokenPipeError


def test_a_build_goes_on_where_nobody_listens() -> None:
    made = PlainScreen(Closed())
    for event in FIRST_RUN:
        made(event)
    assert not made._heard


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_screen_fits_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert type(screen_for(io.StringIO(), as_json=False)) is PlainScreen
    assert type(screen_for(Terminal(), as_json=True)) is JsonScreen
    live = screen_for(Terminal(), as_json=False)
    live.close()
    assert type(live) is LiveScreen
    monkeypatch.setenv("TERM", "dumb")
    assert type(screen_for(Terminal(), as_json=False)) is PlainScreen


def test_live_rows_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    made = LiveScreen(stream)
    made(FIRST_RUN[8])
    made(FIRST_RUN[9])
    made(FIRST_RUN[5])
    made(FIRST_RUN[14])
    rows = {label: row.note for label, row in made._rows.items()}
    assert rows == {
        "www-servers/nginx-1.22.1": "compile",
        "fetching nginx-1.22.1.tar.gz": "10 B of 1.1 MB",
        f"{TITLE} (aci)": "packaging",
    }
    for event in (FIRST_RUN[7], FIRST_RUN[10], FIRST_RUN[15]):
        made(event)
    assert made._rows == {}
    made.close()
    assert "fetched nginx-1.22.1.tar.gz" in stream.getvalue()
    assert stream.getvalue().count("\x1b[?25h") == 1


def test_markup_in_names_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    made = LiveScreen(stream)
    made(Notice("[bold]libc6:smile: 1:2[/bold]"))
    made.close()
    assert "[bold]libc6:smile: 1:2[/bold]" in stream.getvalue()


def test_a_row_of_a_download_has_a_bar() -> None:
    row = _Row("fetching x", "1.0 MB of 2.0 MB", 100.0, 1_000_000, 2_000_000)
    text = row.text(171.0)
    assert "1:11" in text
    assert text.count("━") == text.count("╌") == 10
    assert "━" not in _Row("building", "compile", 100.0).text(100.0)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (5 * 10**15, "5000.0 TB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_columns_align() -> None:
    assert columns([("a", "bb"), ("ccc", "\x1b")], " ") == (" a    bb", " ccc  ?")
    assert columns([]) == ()
