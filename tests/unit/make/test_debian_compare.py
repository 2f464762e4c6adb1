"""Why our .deb is not the archive's."""

from __future__ import annotations

import gzip
import io
import struct

import pytest

from buildit.make.debian_compare import ComparedDeb, Reason, compare_debs
from tests.debian_maker import make_deb

pytestmark = pytest.mark.unit


def compared(ours: bytes, theirs: bytes) -> ComparedDeb:
    (found,) = compare_debs({"x": io.BytesIO(ours)}, {"x": io.BytesIO(theirs)})
    return found


def test_the_same_bytes() -> None:
    deb = make_deb("x", {"usr/bin/x": "x"})
    assert compared(deb, deb) == ComparedDeb("x", Reason.NONE)


def test_packages_that_only_one_side_has() -> None:
    deb = io.BytesIO(make_deb("x", {}))
    assert compare_debs({"x": deb}, {"y": deb}) == (
        ComparedDeb("x", Reason.ABSENT),
        ComparedDeb("y", Reason.NOT_BUILT),
    )


LOG = "usr/share/doc/x/changelog.Debian.gz"
TRIMMED = b"x (1)\n\n# Older entries have been removed from this changelog.\n"


def elf(code: bytes, build_id: bytes, section: bytes = b".note.gnu.build-id") -> bytes:
    """A file of 64 bits with two sections and their names."""
    names = b"\0.text\0" + section + b"\0.shstrtab\0"
    body = code + build_id + names
    rows = [(0, 0, 0, 0), (1, 1, 64, len(code)), (7, 7, 64 + len(code), len(build_id))]
    rows.append((8 + len(section), 3, 64 + len(code) + len(build_id), len(names)))
    table = b"".join(
        struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, at, size, 0, 0, 1, 0)
        for name, kind, at, size in rows
    )
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    head = (ident, 3, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, 4, 3)
    return struct.pack("<16sHHIQQQIHHHHHH", *head) + body + table


@pytest.mark.parametrize(
    ("ours", "theirs", "reason", "told"),
    [
        (
            make_deb("x", {"usr/bin/x": "a /build/reproducible-path/x-1"}),
            make_deb("x", {"usr/bin/x": "a /build/x-Ab3dEf/x-1"}),
            Reason.BUILD_PATH,
            "/build/x-Ab3dEf/x-1",
        ),
        (
            make_deb("x", {"a": "b"}, fields="Depends: perl (>= 5.36.0-7+deb12u4), y\n"),
            make_deb("x", {"a": "b"}, fields="Depends: perl (>= 5.36.0-7+deb12u3), y\n"),
            Reason.NEWER_DEPENDENCY,
            "perl (>= 5.36.0-7+deb12u4), not perl (>= 5.36.0-7+deb12u3)",
        ),
        (
            make_deb("x", {"usr/bin/x": elf(b"code", b"one")}),
            make_deb("x", {"usr/bin/x": elf(b"code", b"two")}),
            Reason.DEBUG_DATA,
            "usr/bin/x differs in what names its debug data",
        ),
        (
            make_deb("x", {"usr/bin/x": elf(b"code", b"one", b".gnu_debugaltlink")}),
            make_deb("x", {"usr/bin/x": elf(b"code", b"two", b".gnu_debugaltlink")}),
            Reason.DEBUG_DATA,
            "usr/bin/x differs in what names its debug data",
        ),
        (
            make_deb("x", {"usr/bin/x": elf(b"code", b"one")}),
            make_deb("x", {"usr/bin/x": elf(b"ecod", b"one")}),
            Reason.UNEXPLAINED,
            "",
        ),
        (
            make_deb("x", {"a": "b"}, postinst="# Automatically added by dh_y/13.11.4\n"),
            make_deb("x", {"a": "b"}, postinst="# Automatically added by dh_y/13.9\n"),
            Reason.OLDER_BUILDER,
            "DEBIAN/postinst is of dh_y/13.9",
        ),
        (
            make_deb("x", {"usr/share/doc/x/changelog.gz": "trimmed"}),
            make_deb("x", {"usr/share/doc/x/changelog.gz": "whole"}),
            Reason.OLDER_BUILDER,
            "usr/share/doc/x/changelog.gz",
        ),
        (
            make_deb("x", {"usr/share/man/x.gz": "a"}, fields="Installed-Size: 2\n"),
            make_deb("x", {"usr/share/man/x.gz": "b"}, fields="Installed-Size: 3\n"),
            Reason.OLDER_BUILDER,
            "usr/share/man/x.gz",
        ),
        (
            make_deb("x", {"usr/share/man/x.gz": "a"}, fields="Installed-Size: 2\n"),
            make_deb("x", {"usr/share/man/x.gz": "a"}, fields="Installed-Size: 3\n"),
            Reason.UNEXPLAINED,
            "",
        ),
        (
            make_deb("x", {LOG: gzip.compress(TRIMMED), "usr/bin/x": "of another compiler"}),
            make_deb("x", {LOG: gzip.compress(b"x (1)\nx (0)\n"), "usr/bin/x": "of theirs"}),
            Reason.OLDER_BUILDER,
            f"{LOG} has all entries",
        ),
        (
            make_deb("x", {"x": elf(b"\0with TLS 3.0.22 7 Oct 2026\0", b"one")}),
            make_deb("x", {"x": elf(b"\0with TLS 3.0.17 1 Jul 2025\0", b"two")}),
            Reason.NEWER_DEPENDENCY,
            "x has 'with TLS 3.0.22 7 Oct 2026', not 'with TLS 3.0.17 1 Jul 2025'",
        ),
        (
            make_deb("x", {"x": elf(b"\0on 7 Oct 2026 1.0\0", b"one")}),
            make_deb("x", {"x": elf(b"\0on 1 Jul 2025 1.0\0", b"two")}),
            Reason.UNEXPLAINED,
            "",
        ),
        (
            make_deb("x", {"a.html": "<a>"}),
            make_deb("x", {"a.html": '<a class="reference external" href="https://…">'}),
            Reason.NETWORK,
            "a.html has 1 links",
        ),
        (make_deb("x", {"a": "b"}), make_deb("x", {"a": "c"}), Reason.UNEXPLAINED, ""),
    ],
)
def test_reasons(ours: bytes, theirs: bytes, reason: Reason, told: str) -> None:
    found = compared(ours, theirs)
    assert found.reason == reason
    assert told in found.told
    assert found.paths


def test_a_rebuild_of_the_archive() -> None:
    ours = make_deb("x", {"a": "b"})
    theirs = ours_with_version("1+b3")
    assert compared(ours, theirs).reason is Reason.BIN_NMU


def ours_with_version(version: str) -> bytes:
    return make_deb("x", {"a": "b"}, control=f"Package: x\nVersion: {version}\n")


def test_the_same_files_packed_otherwise() -> None:
    deb = make_deb("x", {"a": "b"})
    found = compared(deb, deb + b"extra           0           0     0     100644  0         `\n")
    assert (found.reason, found.paths) == (Reason.OLDER_BUILDER, ())
