from __future__ import annotations

import gzip
import io
import lzma
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.archive.admit import Budget
from buildit.archive.beneath import Root
from buildit.archive.contents import MERGED_LINKS, MERGED_USR, merged_path
from buildit.archive.deb import merged_text, read_control, read_deb
from buildit.archive.unpack import unpack_entries
from buildit.errors import IntegrityError
from buildit.model.tree import Entry
from tests.scale import examples
from tests.unit.archive.trees import Node, directory, file, hardlink, on_disk, packed, symlink

pytestmark = pytest.mark.unit

LIMITS = Budget()
CONTROL = b"Package: zlib1g\nVersion: 1:1.3\nArchitecture: amd64\n"
Nodes = list[tuple[Entry, bytes]]


def ar(*members: tuple[str, bytes]) -> bytes:
    parts = [b"!<arch>\n"]
    for name, data in members:
        parts.append(b"%-16s0           0     0     100644  %-10d`\n" % (name.encode(), len(data)))
        parts.append(data + b"\n" * (len(data) % 2))
    return b"".join(parts)


def deb(nodes: Nodes, control: bytes = CONTROL) -> bytes:
    return ar(
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", gzip.compress(packed([file("control", control)]))),
        ("data.tar.xz", lzma.compress(packed(nodes), preset=0)),
    )


def read(data: bytes, budget: Budget = LIMITS) -> dict[str, tuple[Entry, bytes]]:
    found = {}
    for entry, content in read_deb(io.BytesIO(data), budget, "z.deb"):
        assert entry.path not in found
        found[entry.path] = (entry, (content.read() or b"") if content else b"")
    return found


def targets(nodes: Nodes) -> dict[str, str]:
    return {path: entry.target for path, (entry, _) in read(deb(nodes)).items()}


def test_files_links_and_hard_links_move_together() -> None:
    nodes = [
        directory("bin"), file("bin/gzip", b"elf", mode=0o4755),
        hardlink("bin/uncompress", "bin/gzip"), directory("lib"), directory("lib/x86"),
        symlink("lib/x86/libz.so.1", "libz.so.1.3"),
        file("lib/x86/libz.so.1.3", b"z"), directory("usr"), directory("usr/lib"),
        directory("usr/lib/x86"), symlink("usr/lib/x86/libz.so", "../../../lib/x86/libz.so.1"),
        symlink("usr/lib/x86/abs.so", "/lib/x86/libz.so.1"),
        symlink("sbin/tool", "../bin/gzip"), symlink("lib/up", "../etc/conf"),
        symlink("etc/alternative", "../bin/gzip"), symlink("etc/plain", "../usr//share/./x"),
        symlink("lib64/ld.so", "/lib/x86/ld.so"),
    ]  # fmt: skip
    found = targets(nodes)
    assert found["usr/lib/x86/libz.so.1"] == "libz.so.1.3"
    assert found["usr/lib/x86/libz.so"] == "libz.so.1"
    assert found["usr/lib/x86/abs.so"] == "/lib/x86/libz.so.1"
    assert found["usr/sbin/tool"] == "../bin/gzip"
    assert found["usr/bin/uncompress"] == "usr/bin/gzip"
    assert found["usr/lib/up"] == "../../etc/conf"
    assert found["etc/alternative"] == "../usr/bin/gzip"
    assert found["etc/plain"] == "../usr//share/./x"
    assert found["usr/lib64/ld.so"] == "/lib/x86/ld.so"
    assert not {"bin", "lib", "sbin", "lib64"} & set(found)
    assert read(deb(nodes))["usr/bin/gzip"][0].mode == 0o4755


PART = st.sampled_from(["lib", "bin", "usr", "x", "lib64", ".."])


@given(
    path=st.lists(PART.filter(lambda part: part != ".."), min_size=1, max_size=4).map("/".join),
    text=st.lists(PART, min_size=1, max_size=5).map("/".join),
)
@settings(max_examples=examples(150), deadline=None)
def test_a_link_leads_to_the_same_file_after_the_move(path: str, text: str) -> None:
    def leads(at: str, to: str) -> str:
        parts = at.split("/")[:-1]
        for part in to.split("/"):
            parts = parts[:-1] if part == ".." else [*parts, part]
        return "/".join(parts)

    new = leads(merged_path(path), merged_text(path, text))
    assert merged_path(new) == merged_path(leads(path, text))


def test_links_at_the_top_are_the_caller_s() -> None:
    nodes = [symlink("bin", "usr/bin"), symlink("lib", "/usr/lib"), file("usr/bin/x")]
    assert set(read(deb(nodes))) == {"usr/bin/x"}
    assert {link.path: link.target for link in MERGED_LINKS}["lib64"] == "usr/lib64"
    assert MERGED_USR == "1"
    with pytest.raises(IntegrityError, match="not to 'usr/lib'"):
        read(deb([symlink("lib", "lib64")]))


def test_what_meets_in_usr_must_be_the_same() -> None:
    same = [file("bin/x", b"1" * 5000), file("bin/y", b"2"), file("usr/bin/x", b"1" * 5000),
            file("usr/bin/z", b"3")]  # fmt: skip
    assert {path: data for path, (_, data) in read(deb(same)).items()} == {
        "usr/bin/x": b"1" * 5000, "usr/bin/y": b"2", "usr/bin/z": b"3",
    }  # fmt: skip
    assert targets([symlink("bin/x", "y"), symlink("usr/bin/x", "y")]) == {"usr/bin/x": "y"}
    for other in (file("usr/bin/x", b"2"), file("usr/bin/x", b"12"), directory("usr/bin/x"),
                  symlink("usr/bin/x", "y")):  # fmt: skip
        with pytest.raises(IntegrityError, match="meet in /usr") as caught:
            read(deb([file("bin/x", b"1"), other]))
        assert caught.value.place == "z.deb"


@pytest.mark.parametrize("text", ["/usr/bin/x", "../usr/bin/x"])
def test_a_link_from_the_old_place_to_the_new_is_dropped(text: str) -> None:
    found = read(deb([symlink("bin/x", text), file("usr/bin/x", b"1")]))
    assert [data for _, data in found.values()] == [b"1"]
    found = read(deb([file("bin/x", b"1"), symlink("usr/bin/x", "../../bin/x")]))
    assert [data for _, data in found.values()] == [b"1"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_codecs(suffix: str) -> None:
    encoders: dict[str, Callable[[bytes], bytes]] = {
        "": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstd.compress,
    }  # fmt: skip
    encode = encoders[suffix]
    data = ar(
        ("debian-binary", b"2.0\n"),
        ("_gpgorigin", b"odd"),
        ("control.tar" + suffix, encode(packed([file("control", CONTROL)]))),
        ("data.tar" + suffix, encode(packed([file("lib/a", b"1")]))),
        ("future", b"x"),
    )
    assert set(read(data)) == {"usr/lib/a"}


SOUND = deb([file("lib/a", b"1")])
BINARY = ("debian-binary", b"2.0\n")
CONTROL_TAR = ("control.tar", packed([file("control", CONTROL)]))
HOSTILE = {
    "it is no .deb": b"PK\3\4" + bytes(100),
    "its first line": b"",
    "malformed": SOUND[:8] + bytes(60),
    "ar header is truncated": SOUND + b"abc",
    "no plain name or size": SOUND.replace(b"4         `", b"-4        `"),
    "missing": ar(BINARY),
    "data.tar is missing": ar(BINARY, CONTROL_TAR),
    "debian-binary in its place": ar(CONTROL_TAR, BINARY),
    "control.tar in its place": ar(BINARY, ("data.tar", packed([])), CONTROL_TAR),
    "data.tar in its place": ar(BINARY, CONTROL_TAR, ("data.tar.lzma", b"")),
    "not 2.x": ar(("debian-binary", b"3.0\n")),
    "truncated inside": SOUND[:-40],
    "checksum": ar(BINARY, CONTROL_TAR, ("data.tar", b"x" * 512)),
}


@pytest.mark.parametrize("says", HOSTILE)
def test_hostile_package(says: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        read(HOSTILE[says])
    assert says in caught.value.message
    assert caught.value.place == "z.deb"
    assert caught.value.hint


def test_cut_anywhere_is_an_error() -> None:
    whole = deb([file("lib/a", bytes(3000))])
    for size in range(0, len(whole) - 1, 11):
        with pytest.raises(IntegrityError):
            read(whole[:size])


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_a_package_of_dpkg_is_unpacked_like_dpkg_does(tmp_path: Path) -> None:
    build = tmp_path / "build"
    (build / "DEBIAN").mkdir(parents=True)
    (build / "DEBIAN/control").write_bytes(
        CONTROL + b"Maintainer: A <a@example.org>\nDescription: z\n"
    )
    (build / "usr/share/doc").mkdir(parents=True)
    (build / "usr/share/doc/copyright").write_text("x" * 5000)
    (build / "usr/bin").mkdir()
    (build / "usr/bin/a").write_text("a")
    (build / "usr/bin/b").hardlink_to(build / "usr/bin/a")
    (build / "usr/bin/c").symlink_to("../share/doc")
    for path in [build, *build.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    out = tmp_path / "z.deb"
    argv = ["dpkg-deb", "--root-owner-group", "-b", str(build), str(out)]
    subprocess.run(argv, check=True, capture_output=True)
    subprocess.run(["dpkg-deb", "-x", str(out), str(tmp_path / "theirs")], check=True)
    ours = tmp_path / "ours"
    ours.mkdir()
    with out.open("rb") as stream, Root.open(ours) as root:
        unpack_entries(read_deb(stream, LIMITS), root)
    assert timeless(on_disk(ours)) == timeless(on_disk(tmp_path / "theirs"))


def test_control_members_are_data_and_paths_can_be_had_as_the_package_has_them() -> None:
    members = {"control": CONTROL, "postinst": b"#!/bin/sh\n", "triggers": b""}
    packed_control = packed([file(n, c) for n, c in sorted(members.items())])
    nodes = [directory("lib"), file("lib/z.so.1", b"z"), symlink("usr/lib/z.so", "/lib/z.so.1")]
    data = ar(
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", gzip.compress(packed_control)),
        ("data.tar.xz", lzma.compress(packed(nodes), preset=0)),
    )
    stream = io.BytesIO(data)
    names: list[str] = []
    merged = [entry.path for entry, _ in read_deb(stream, LIMITS, "z.deb", names.append)]
    assert names == ["lib", "lib/z.so.1", "usr/lib/z.so"]
    assert merged == ["usr/lib", "usr/lib/z.so.1", "usr/lib/z.so"]
    assert read_control(stream, "z.deb") == members


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (deb([])[:100], "truncated"),
        (
            ar(
                ("debian-binary", b"2.0\n"),
                ("control.tar.gz", gzip.compress(packed([file("postinst", b"")]))),
            ),
            "no `control`",
        ),
        (ar(("debian-binary", b"2.0\n")), "control.tar is missing"),
    ],
)
def test_a_package_without_control_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(IntegrityError, match=reason):
        read_control(io.BytesIO(data), "z.deb")


def timeless(nodes: list[Node]) -> list[Node]:
    """Without the times of directories: dpkg-deb makes links last, so those are its own."""
    return [
        (path, kind, mode, 0 if kind == "directory" else mtime, what)
        for path, kind, mode, mtime, what in nodes
    ]
