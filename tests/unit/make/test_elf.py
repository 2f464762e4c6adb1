from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.make.capture.elf import MalformedElf, read_elf
from tests.scale import examples
from tests.unit.make.elves import elf

pytestmark = pytest.mark.unit

NOTE = [
    {"feature": "zlib", "priority": "required", "soname": ["libz.so.2", "libz.so.1"]},
    {"soname": ["libx.so.1"]},
]


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("little", [True, False])
def test_every_class_and_byte_order(wide: bool, little: bool) -> None:
    raw = elf(
        needed=("libc.so.6", "libz.so.1"),
        soname="libq.so.3",
        runpath="$ORIGIN/../x:/usr/lib/q:",
        interp="/lib/ld.so",
        dlopen=NOTE,
        wide=wide,
        little=little,
        machine=62 if wide else 3,
    )
    found = read_elf(io.BytesIO(raw))
    assert found is not None
    assert (found.machine.bits, found.machine.little) == (64 if wide else 32, little)
    assert found.machine.number == (62 if wide else 3)
    assert found.needed == ("libc.so.6", "libz.so.1")
    assert found.soname == "libq.so.3"
    assert found.runpath == ("$ORIGIN/../x", "/usr/lib/q")
    assert found.interp == "/lib/ld.so"
    assert found.dlopen == (("libz.so.2", "libz.so.1"),)


def test_rpath_counts_only_without_runpath() -> None:
    old = read_elf(io.BytesIO(elf(rpath="/a")))
    both = read_elf(io.BytesIO(elf(rpath="/a", runpath="/b")))
    assert old is not None
    assert both is not None
    assert (old.runpath, both.runpath) == (("/a",), ("/b",))


def test_magic_decides() -> None:
    assert read_elf(io.BytesIO(b"#!/bin/sh\n")) is None
    assert read_elf(io.BytesIO(b"")) is None
    assert read_elf(io.BytesIO(b"\x7fEL")) is None


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\x7fELF", "unknown class"),
        (b"\x7fELF\x03\x01" + b"\0" * 20, "unknown class"),
        (elf()[:40], "cut off at byte 40"),
        (elf()[:100], "cut off at byte 100"),
        (elf(needed=("libz.so.1",))[:-40], "cut off"),
        (elf(dlopen={"soname": "libz"}), "a dlopen note without sonames"),
        (elf(dlopen=["x"]), "a dlopen note without sonames"),
    ],
)
def test_malformed(raw: bytes, reason: str) -> None:
    with pytest.raises(MalformedElf, match=reason):
        read_elf(io.BytesIO(raw))


WHOLE = elf(needed=("libc.so.6",), dlopen=NOTE, interp="/l")


@settings(max_examples=examples(150))
@given(
    st.lists(st.tuples(st.integers(16, len(WHOLE) - 1), st.integers(0, 255)), max_size=4),
    st.integers(17, len(WHOLE)),
)
def test_damage_is_malformed_or_harmless(changes: list[tuple[int, int]], length: int) -> None:
    raw = bytearray(WHOLE)
    for at, value in changes:
        raw[at] = value
    try:
        found = read_elf(io.BytesIO(bytes(raw[:length])))
    except MalformedElf:
        return
    assert found is not None


def system_files() -> list[Path]:
    found = {Path(sys.executable).resolve(), Path("/bin/sh").resolve()}
    for pattern in (
        "libc.so.6",
        "libz.so.1",
        "libcrypto.so.3",
        "libstdc++.so.6",
        "libsystemd.so.0",
    ):
        found |= {path.resolve() for path in Path("/usr/lib").glob(f"*/{pattern}")}
    found |= set(sorted(Path("/usr/bin").glob("[a-c]*"))[:40])
    return sorted(path for path in found if path.is_file())


@pytest.mark.scale
def test_it_agrees_with_pyelftools_on_the_machine_s_own_files() -> None:
    compared = 0
    for path in system_files():
        with path.open("rb") as stream:
            mine = read_elf(stream)
            if mine is None:
                continue
            assert (mine.needed, mine.soname, mine.interp) == reference(stream), path
            compared += 1
    assert compared > 5


def reference(stream: Any) -> tuple[tuple[str, ...], str, str]:
    from elftools.elf.elffile import ELFFile

    file: Any = ELFFile(stream)
    interps = [s.get_interp_name() for s in file.iter_segments("PT_INTERP")]
    tags = [tag for s in file.iter_segments("PT_DYNAMIC") for tag in s.iter_tags()]
    needed = tuple(tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED")
    sonames = [tag.soname for tag in tags if tag.entry.d_tag == "DT_SONAME"]
    return needed, "".join(sonames), "".join(interps)
