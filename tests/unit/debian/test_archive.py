from __future__ import annotations

import lzma
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.debian.apt import AptSource
from buildit.debian.archive import KEEP_SECONDS, DebianArchive, likely_bases
from buildit.debian.select import select
from buildit.errors import FetchError, IntegrityError, UnsatisfiableError
from tests.debian_maker import NOW, Archive, paragraph, source_paragraph
from tests.fakes import FakeTransport
from tests.openpgp_maker import Key, clearsigned

pytestmark = pytest.mark.unit

MAIN = Archive(packages=(paragraph("aa", depends="bb"), paragraph("bb", "1")))
SECURITY = Archive(
    uri="https://deb.example/debian-security",
    suite="stable-security",
    codename="bookworm-security",
    components="updates/main",
    packages=(paragraph("bb", "2"),),
)
FOREIGN = Archive(uri="https://apt.example/node", codename="nodistro", origin="Node", key=Key(7))


def source(archive: Archive) -> AptSource:
    return AptSource(archive.uri, archive.codename, ("main", "contrib"))


def transport(*archives: Archive) -> FakeTransport:
    return FakeTransport({url: body for one in archives for url, body in one.urls().items()})


def debian(
    tmp_path: Path, served: FakeTransport, sources: Sequence[AptSource] | None = None
) -> DebianArchive:
    known = sources if sources is not None else [source(MAIN), source(SECURITY)]
    return DebianArchive(known, served, tmp_path / "cache", [MAIN.key.armored], NOW)


def test_choosing_over_suites(tmp_path: Path) -> None:
    archive = debian(tmp_path, transport(MAIN, SECURITY))
    with archive.open_indices(("bookworm", "bookworm-security"), "amd64") as indices:
        debs = select(["aa"], indices)
        assert indices.dates == dict.fromkeys(
            ("bookworm", "bookworm-security"), "2026-07-11T10:16:37Z"
        )
    assert [(deb.name, deb.version, deb.suite) for deb in debs] == [
        ("aa", "1.0", "bookworm"),
        ("bb", "2", "bookworm-security"),
    ]


def test_sources_over_suites(tmp_path: Path) -> None:
    main = replace(MAIN, sources=(source_paragraph("jq", "1.6-2"), source_paragraph("tini")))
    security = replace(SECURITY, sources=(source_paragraph("jq", "1.6-3"),))
    archive = debian(tmp_path, transport(main, security))
    with archive.open_sources(("bookworm", "bookworm-security")) as sources:
        found = [(one.name, one.version, one.suite) for one in map(sources.choose, ("jq", "tini"))]
        assert sources.dates == dict.fromkeys(
            ("bookworm", "bookworm-security"), "2026-07-11T10:16:37Z"
        )
    assert found == [("jq", "1.6-3", "bookworm-security"), ("tini", "1.0-1", "bookworm")]


def test_empty_indices_of_both_kinds_have_one_digest(tmp_path: Path) -> None:
    archive = debian(tmp_path, transport(replace(MAIN, packages=(), sources=())))
    for _ in range(2):
        with (
            archive.open_indices(("bookworm",), "amd64") as indices,
            archive.open_sources(("bookworm",)) as sources,
        ):
            assert indices.named("aa") == ()
            with pytest.raises(UnsatisfiableError, match="no suite has such a source package"):
                sources.choose("aa")


def test_a_release_is_verified_once_a_run(tmp_path: Path) -> None:
    served = transport(MAIN)
    archive = debian(tmp_path, served)
    for _ in range(2):
        with archive.open_indices(("bookworm",), "amd64"), archive.open_sources(("bookworm",)):
            pass
    urls = [url.rpartition("/")[2] for url, _ in served.asked]
    assert urls.count("InRelease") == 1
    assert len(urls) == 3


def test_the_second_time_only_releases_are_fetched(tmp_path: Path) -> None:
    served = transport(MAIN)
    for _ in range(2):
        archive = debian(tmp_path, served)
        with archive.open_indices(("bookworm",), "amd64") as indices:
            assert indices.named("aa")
    urls = [url.rpartition("/")[2] for url, _ in served.asked]
    assert urls.count("InRelease") == 2
    assert len(urls) == 3
    assert "/by-hash/SHA256/" in next(url for url, _ in served.asked if "InRelease" not in url)
    left = sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert [name.rpartition(".")[2] for name in left] == ["index"]


def test_an_index_unused_for_long_is_removed(tmp_path: Path) -> None:
    archive = debian(tmp_path, transport(MAIN))
    (tmp_path / "cache").mkdir()
    old, recent = tmp_path / "cache" / "old.index", tmp_path / "cache" / "recent.index"
    for path, age in ((old, KEEP_SECONDS + 9), (recent, 9)):
        path.write_bytes(b"")
        os.utime(path, (time.time() - age,) * 2)
    with archive.open_indices(("bookworm",), "amd64"):
        assert (old.exists(), recent.exists()) == (False, True)


def test_without_by_hash(tmp_path: Path) -> None:
    plain = replace(MAIN, by_hash=False)
    served = transport(plain)
    with debian(tmp_path, served).open_indices(("bookworm",), "amd64") as indices:
        assert indices.named("aa")
    assert served.asked[-1][0].endswith("/main/binary-amd64/Packages.xz")


def test_a_changed_index_is_refused(tmp_path: Path) -> None:
    served = transport(MAIN)
    for url in served.bodies:
        if "InRelease" not in url:
            served.bodies[url] = lzma.compress(paragraph("evil").encode())
    with (
        pytest.raises((IntegrityError, FetchError)),
        debian(tmp_path, served).open_indices(("bookworm",), "amd64"),
    ):
        pass
    assert not list((tmp_path / "cache").glob("*.index"))


def test_an_index_that_unpacks_to_other_bytes_than_stated(tmp_path: Path) -> None:
    """The mirror cannot do it, a broken archive can."""
    served = transport(MAIN)
    name = "main/binary-amd64/Packages"
    packed = MAIN.urls()[f"{MAIN.uri}/dists/bookworm/{name}.xz"]
    text = MAIN.release({f"{name}.xz": packed, name: b"something else"})
    served.bodies[f"{MAIN.uri}/dists/bookworm/InRelease"] = clearsigned(text, MAIN.key)
    with (
        pytest.raises(IntegrityError, match="unpacks to"),
        debian(tmp_path, served).open_indices(("bookworm",), "amd64"),
    ):
        pass
    assert not list((tmp_path / "cache").glob("*.index"))


def test_a_suite_that_the_machine_does_not_use_is_looked_for(tmp_path: Path) -> None:
    trixie = AptSource(MAIN.uri, "trixie", ("main",))
    later = AptSource(SECURITY.uri, "trixie-security", ("main",))
    archive = debian(tmp_path, transport(MAIN, SECURITY), [trixie, later])
    with archive.open_indices(("bookworm-security", "bookworm"), "amd64") as indices:
        assert [one.version for one in indices.named("bb")] == ["2", "1"]


def test_security_updates_are_looked_for_beside_the_archive(tmp_path: Path) -> None:
    """A machine may name one suite of Debian's, and none of its security archive."""
    trixie = AptSource(MAIN.uri, "trixie", ("main",))
    archive = debian(tmp_path, transport(MAIN, SECURITY), [trixie])
    with archive.open_indices(("bookworm-security", "bookworm"), "amd64") as indices:
        assert [one.version for one in indices.named("bb")] == ["2", "1"]
    node = AptSource(FOREIGN.uri, "nodistro", ("main",))
    known = [node, source(MAIN), source(SECURITY)]
    assert likely_bases(known, "bookworm") == (MAIN.uri,)
    assert likely_bases(known, "trixie") == (MAIN.uri, SECURITY.uri)
    assert likely_bases(known, "trixie-security") == (SECURITY.uri, MAIN.uri)
    assert likely_bases([trixie], "trixie-security") == (SECURITY.uri, MAIN.uri)


def test_security_updates_beside_the_archive_are_verified(tmp_path: Path) -> None:
    forged = replace(SECURITY, key=Key(9))
    with (
        pytest.raises(FetchError, match="has the suite 'bookworm-security'") as caught,
        debian(tmp_path, transport(MAIN, forged), [source(MAIN)]).open_indices(
            ("bookworm-security",), "amd64"
        ),
    ):
        pass
    assert "/debian-security bookworm-security main" in (caught.value.hint or "")


def test_no_source_has_the_suite(tmp_path: Path) -> None:
    with (
        pytest.raises(FetchError, match="has the suite 'sid'") as caught,
        debian(tmp_path, transport(MAIN, SECURITY)).open_indices(("sid",), "amd64"),
    ):
        pass
    assert len(caught.value.details) == 2


def test_a_bad_signature_of_the_suites_own_source_is_not_passed_over(tmp_path: Path) -> None:
    forged = replace(MAIN, key=Key(9))
    mirror = replace(MAIN, uri="https://other.example/debian")
    archive = debian(tmp_path, transport(forged, mirror), [source(forged), source(SECURITY)])
    with pytest.raises(IntegrityError), archive.open_indices(("bookworm",), "amd64"):
        pass


def test_an_architecture_that_is_not_there(tmp_path: Path) -> None:
    archive = debian(tmp_path, transport(MAIN))
    with (
        pytest.raises(UnsatisfiableError, match="lists no main/binary-riscv64"),
        archive.open_indices(("bookworm",), "riscv64"),
    ):
        pass


def test_only_debians_sources_are_bases(tmp_path: Path) -> None:
    copied = replace(MAIN, uri="https://fork.example/debian", origin="Fork")
    gone = AptSource("https://gone.example/debian", "bookworm", ("main",))
    sources = [source(FOREIGN), gone, source(copied), source(MAIN), source(MAIN), source(SECURITY)]
    served = transport(FOREIGN, copied, MAIN, SECURITY)
    assert debian(tmp_path, served, sources).bases() == (MAIN.uri, SECURITY.uri)


def test_bases_of_an_outdated_mirror_will_do(tmp_path: Path) -> None:
    """Whatever is fetched there has a digest."""
    old = replace(MAIN, valid_until=MAIN.date)
    archive = replace(debian(tmp_path, transport(old)), now=NOW + 10**8)
    assert archive.bases() == (MAIN.uri, f"{MAIN.uri}-security"), "updates are beside it"
    with (
        pytest.raises(IntegrityError, match="valid until"),
        archive.open_indices(("bookworm",), "amd64"),
    ):
        pass


def test_no_bases_at_all(tmp_path: Path) -> None:
    for sources in ([], [source(FOREIGN)]):
        with pytest.raises(FetchError, match="is Debian's archive"):
            debian(tmp_path, transport(FOREIGN), sources).bases()
