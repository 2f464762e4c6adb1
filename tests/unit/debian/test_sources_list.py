from __future__ import annotations

from pathlib import Path

import pytest

from buildit.debian.apt import AptSource, read_sources
from buildit.errors import RecipeError

pytestmark = pytest.mark.unit

URI = "https://deb.example/debian"


def etc(tmp_path: Path, **files: str) -> Path:
    """`sources_list="…"` is sources.list; `d_x_list="…"` is sources.list.d/x.list."""
    for folder in ("sources.list.d", "apt.conf.d"):
        (tmp_path / folder).mkdir(exist_ok=True)
    for name, text in files.items():
        path = name.replace("d_", "sources.list.d/", 1) if name.startswith("d_") else name
        head, _, suffix = path.rpartition("_")
        (tmp_path / f"{head}.{suffix}").write_text(text)
    return tmp_path


def test_no_sources_at_all(tmp_path: Path) -> None:
    assert read_sources(tmp_path).usable == ()


def test_one_line_syntax(tmp_path: Path) -> None:
    text = f"""
# a comment
deb {URI}/ bookworm main contrib # and here
deb [arch=amd64,arm64 signed-by=/x.gpg] {URI} bookworm-updates main
deb-src {URI} bookworm main
deb {URI}/ bookworm main contrib
"""
    sources = read_sources(etc(tmp_path, sources_list=text))
    assert sources.usable == (
        AptSource(URI, "bookworm", ("main", "contrib")),
        AptSource(URI, "bookworm-updates", ("main",)),
    )
    assert sources.skipped == (f"{tmp_path}/sources.list:5:1: source packages only",)


def test_deb822_syntax(tmp_path: Path) -> None:
    text = f"""\
Types: deb deb-src
# http://snapshot.example/
URIs: {URI} http://other.example/debian
Suites: bookworm
 bookworm-updates
Components: main
Architectures: amd64

Types: deb
URIs: {URI}
Suites: trixie
Components: main
Enabled: no
"""
    sources = read_sources(etc(tmp_path, d_debian_sources=text))
    assert [(source.uri, source.suite) for source in sources.usable] == [
        (uri, suite)
        for uri in (URI, "http://other.example/debian")
        for suite in ("bookworm", "bookworm-updates")
    ]


def test_only_names_that_apt_reads(tmp_path: Path) -> None:
    line = f"deb {URI} bookworm main"
    folder = etc(tmp_path, d_b_list=line, d_a_disabled=line, sources_list=line)
    (folder / "sources.list.d" / "x y.list").write_text("garbage")
    (folder / "sources.list.d" / "x.list.save").write_text("garbage")
    assert len(read_sources(folder).usable) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("deb cdrom:[Debian]/ bookworm main", "neither https:"),
        ("deb tor+http://x.example/debian bookworm main", "neither https:"),
        ("deb http://user:pw@x.example bookworm/", "flat archive"),
        ("deb mirror+file:/nonexistent/list bookworm main", "cannot be read"),
        ("deb ftp://u:secret@x.example/ bookworm main", "neither https:"),
    ],
)
def test_what_we_cannot_use_is_named(tmp_path: Path, line: str, reason: str) -> None:
    sources = read_sources(etc(tmp_path, sources_list=line))
    assert sources.usable == ()
    assert reason in sources.skipped[0]
    assert "secret" not in sources.skipped[0]


def test_a_mirror_list_in_a_file(tmp_path: Path) -> None:
    mirrors = tmp_path / "mirrors.txt"
    mirrors.write_text(f"# ours\n{URI}/\tpriority:1\n\nhttp://b.example/debian\n")
    folder = etc(tmp_path, sources_list=f"deb mirror+file://{mirrors} bookworm main")
    assert [source.uri for source in read_sources(folder).usable] == [
        URI,
        "http://b.example/debian",
    ]


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("sources_list", "deb\n", "sources.list:1:1"),
        ("sources_list", "\nrpm https://x.example a b\n", "sources.list:2:1"),
        ("sources_list", "deb [arch] https://x.example a b\n", "sources.list:1:1"),
        ("sources_list", "deb https://x.example bookworm\n", "sources.list:1:1"),
        ("sources_list", "deb https://x.example ../etc main\n", "sources.list:1:1"),
        ("d_x_sources", "\nTypes: deb\nURIs: https://x.example\n", "sources.list.d/x.sources:2:1"),
        ("d_x_sources", "Types: deb\nTypes: deb\n", "sources.list.d/x.sources:2:1"),
    ],
)
def test_broken_sources(tmp_path: Path, name: str, text: str, place: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_sources(etc(tmp_path, **{name: text}))
    assert caught.value.place == f"{tmp_path}/{place}"


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_bytes(b"deb \xff")
    with pytest.raises(RecipeError, match="not UTF-8"):
        read_sources(tmp_path)


def test_checks_that_the_administrator_switched_off(tmp_path: Path) -> None:
    line = f"deb {URI} bookworm main"
    assert read_sources(etc(tmp_path, sources_list=line)).usable[0].check_valid_until
    off = line.replace("deb ", "deb [check-valid-until=no] ")
    (one,) = read_sources(etc(tmp_path, sources_list=off)).usable
    assert (one.check_valid_until, one.check_date) == (False, True)
    etc(tmp_path, sources_list=line)
    conf = tmp_path / "apt.conf.d" / "99x"
    conf.write_text('// Acquire::Check-Date "false";\nAcquire::Check-Valid-Until "false";\n')
    (one,) = read_sources(tmp_path).usable
    assert (one.check_valid_until, one.check_date) == (False, True)
    conf.write_text("Acquire::Check-Date false;\n")
    (one,) = read_sources(tmp_path).usable
    assert (one.check_valid_until, one.check_date) == (False, False)
