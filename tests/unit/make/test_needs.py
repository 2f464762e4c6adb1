from __future__ import annotations

import io
from typing import BinaryIO

import pytest

from buildit.make.capture.needs import Listing, Needs, Open, fault, interpreters, looks, needs_of
from buildit.model.platform import PLATFORMS
from buildit.model.tree import Entry, Kind
from tests.unit.make.elves import elf

pytestmark = pytest.mark.unit

TARGET = PLATFORMS["linux/amd64"]
LIB = "usr/lib/x86_64-linux-gnu"


def scan(files: dict[str, bytes | str], plain: frozenset[str] = frozenset()) -> Needs:
    """Bytes are files (executable but for `plain`), texts are symlinks."""
    found = entries(files, plain)
    return needs_of(found, looks(found, opener(files)), TARGET)


def entries(
    files: dict[str, bytes | str], plain: frozenset[str] = frozenset()
) -> tuple[Entry, ...]:
    return tuple(
        Entry(path, Kind.SYMLINK, 0o777, target=content)
        if isinstance(content, str)
        else Entry(path, Kind.FILE, 0o644 if path in plain else 0o755, size=len(content))
        for path, content in files.items()
    )


def opener(files: dict[str, bytes | str]) -> Open:
    def open_(entry: Entry) -> BinaryIO:
        content = files[entry.path]
        assert isinstance(content, bytes)
        return io.BytesIO(content)

    return open_


def test_a_program_needs_its_libraries_and_its_loader() -> None:
    nginx = elf(needed=("libz.so.1", "libc.so.6"), interp="/lib64/ld-linux-x86-64.so.2")
    found = scan({"usr/sbin/nginx": nginx})
    assert tuple(found.wanted) == (
        "interp:/lib64/ld-linux-x86-64.so.2",
        "soname:libc.so.6",
        "soname:libz.so.1",
    )
    assert found.wanted["soname:libz.so.1"] == ("usr/sbin/nginx",)


def test_what_the_output_gives_is_no_need() -> None:
    found = scan(
        {
            "usr/bin/x": elf(needed=("liba.so.1",), interp="/lib64/ld.so"),
            f"{LIB}/liba.so.1": "liba.so.1.2",
            f"{LIB}/liba.so.1.2": elf(soname="liba.so.1", needed=("libb.so.1",)),
            "usr/lib/libb.so.1": elf(soname="libb.so.1"),
            "usr/lib64/ld.so": elf(),
            "usr/bin/s": b"#! /bin/mysh -e\n",
            "usr/bin/mysh": elf(),
        }
    )
    assert tuple(found.wanted) == ()


def test_a_library_outside_the_loader_s_directories_is_not_found_there() -> None:
    found = scan({"usr/bin/x": elf(needed=("liba.so.1",)), "opt/liba.so.1": elf()})
    assert tuple(found.wanted) == ("soname:liba.so.1",)


@pytest.mark.parametrize("runpath", ["$ORIGIN/../lib/p", "${ORIGIN}/../lib/p", "/usr/lib/p"])
def test_private_directories(runpath: str) -> None:
    program = elf(needed=("libp.so",), runpath=runpath)
    assert tuple(scan({"usr/bin/x": program, "usr/lib/p/libp.so": elf()}).wanted) == ()
    alone = scan({"usr/bin/x": program})
    assert tuple(alone.wanted) == ("soname:libp.so",)
    assert alone.directories == {"soname:libp.so": ("usr/lib/p",)}
    other = Listing(entries({"usr/lib/p/libp.so": b"\x7fELF"}))
    assert other.gives("soname:libp.so", TARGET, alone.directories["soname:libp.so"])
    assert not other.gives("soname:libp.so", TARGET)


def test_foreign_files_need_nothing() -> None:
    found = scan(
        {
            "usr/share/a32": elf(needed=("libx.so",), wide=False, machine=3),
            "usr/share/arm": elf(needed=("libx.so",), machine=183),
            "usr/share/bad": elf(needed=("libx.so",))[:90],
        }
    )
    assert tuple(found.wanted) == ()


def test_elf_is_known_by_magic_scripts_by_the_x_bit() -> None:
    files: dict[str, bytes | str] = {
        f"{LIB}/liba.so.1": elf(needed=("libz.so.1",)),
        "usr/share/x.py": b"#!/usr/bin/python3\n",
    }
    assert tuple(scan(files, frozenset(files)).wanted) == ("soname:libz.so.1",)
    assert tuple(scan(files).wanted) == ("path:/usr/bin/python3", "soname:libz.so.1")


@pytest.mark.parametrize(
    ("line", "programs"),
    [
        (b"#!/bin/sh\n", ("/bin/sh",)),
        (b"#! /bin/sh -eu\nfoo", ("/bin/sh",)),
        (b"#!/usr/bin/env python3\n", ("/usr/bin/env", "/usr/bin/python3")),
        (b"#!/usr/bin/env -S A=b perl -w\n", ("/usr/bin/env", "/usr/bin/perl")),
        (b"#!/usr/bin/env /opt/x\n", ("/usr/bin/env", "/opt/x")),
        (b"#!/usr/bin/env -S -u HOME -i A=b python3 -E\n", ("/usr/bin/env", "/usr/bin/python3")),
        (b"#!/usr/bin/env -vS -uHOME perl -w\n", ("/usr/bin/env", "/usr/bin/perl")),
        (b"#!/usr/bin/env -S --unset HOME --chdir=/ perl\n", ("/usr/bin/env", "/usr/bin/perl")),
        (b"#!/usr/bin/env -iS -C / perl\n", ("/usr/bin/env", "/usr/bin/perl")),
        (b"#!/usr/bin/env -Sperl\n", ("/usr/bin/env", "/usr/bin/perl")),
        (b"#!/usr/bin/env --split-string=perl -w\n", ("/usr/bin/env", "/usr/bin/perl")),
        (b"#!/usr/bin/env -S A='b c' 'perl' \"-w\"\n", ("/usr/bin/env", "/usr/bin/perl")),
        (b"#!/usr/bin/env -S -- A=b perl\n", ("/usr/bin/env", "/usr/bin/perl")),
        (b"#!/usr/bin/env python3 -E\n", ("/usr/bin/env",)),
        (b"#!/usr/bin/env ./run\n", ("/usr/bin/env",)),
        (b"#!/bin/sh\r\n", ("/bin/sh",)),
        (b"#!/usr/bin/env python3\r\n", ("/usr/bin/env", "/usr/bin/python3")),
        (b"#!/usr/bin/env\n", ("/usr/bin/env",)),
        (b"#!python3\n", ()),
        (b"#!\n", ()),
        (b"#!/bin/sh", ("/bin/sh",)),
    ],
)
def test_interpreters(line: bytes, programs: tuple[str, ...]) -> None:
    assert interpreters(line) == programs


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"#!/bin/sh\n", ""),
        (b"#!/bin/sh", ""),
        (b"#!\t/bin/sh -e \n", ""),
        (b"#!/usr/bin/env -S A=b perl -w\n", ""),
        (b"#!/usr/bin/env perl\n", ""),
        (b"#!/bin/sh\r\n", "carriage return, so '/bin/sh\\r' is asked for"),
        (b"#!/bin/sh -e\r\n", "carriage return"),
        (b"\xef\xbb\xbf#!/bin/sh\n", "a byte order mark"),
        (b"#!/usr/bin/env python3\r\n", "carriage return, so 'python3\\r' is asked for"),
        (b"#!python3\n", "the interpreter 'python3' will not be found"),
        (b"#!\n", "the interpreter '' will not be found"),
        (b"#!/usr/bin/env\n", "no program"),
        (b"#!/usr/bin/env -S -u X A=b\n", "no program"),
        (b"#!/usr/bin/env python3 -E\n", "'python3 -E' as one word"),
        (b"#!/usr/bin/env -i python3\n", "'-i python3' as one word"),
        (b"#!/usr/bin/env ./run\n", "'./run' will not be found"),
        (b"#!/" + b"x" * 300 + b"\n", "longer than the 255 bytes"),
    ],
)
def test_faults_of_the_first_line(line: bytes, words: str) -> None:
    reason, hint = fault(line)
    assert words in reason
    assert bool(words) == bool(reason) == bool(hint)


def test_symlinks_that_leave_the_output() -> None:
    found = scan(
        {
            "usr/bin/a": "../lib/a/run",
            "usr/bin/b": "/etc/alternatives/b",
            "usr/bin/c": "../../../../etc/c",
            "usr/bin/inside": "/bin/d",
            "usr/bin/d": b"x" * 9,
            "usr/dir": "lib",
            "usr/lib/keep": b"x" * 9,
            "usr/loop": "loop",
            "etc/mtab": "../proc/self/mounts",
            "usr/bin/e": "chain",
            "usr/bin/chain": "/opt/e",
        }
    )
    assert tuple(found.wanted) == (
        "path:/etc/alternatives/b",
        "path:/etc/c",
        "path:/opt/e",
        "path:/usr/lib",
        "path:/usr/lib/a/run",
    )
    assert found.wanted["path:/opt/e"] == ("usr/bin/chain", "usr/bin/e")


def test_dlopen_notes() -> None:
    note = [
        {"soname": ["libr.so.2", "libr.so.1"], "priority": "required"},
        {"soname": ["libs.so.1"], "priority": "suggested"},
        {"soname": ["libgone.so.2", "libhere.so.1"], "priority": "required"},
    ]
    found = scan({"usr/bin/x": elf(dlopen=note), f"{LIB}/libhere.so.1": elf()})
    assert tuple(found.wanted) == ("soname:libr.so.2",)


def test_a_listing_answers_as_a_merged_system_does() -> None:
    listing = Listing(
        entries(
            {
                "usr/bin/dash": b"x",
                "usr/bin/sh": "dash",
                "usr/lib/ld.so": b"x",
                "usr/lib64/ld.so": "../lib/ld.so",
            }
        )
    )
    assert listing.gives("path:/bin/sh", TARGET)
    assert listing.gives("interp:/lib64/ld.so", TARGET)
    assert not listing.gives("path:/bin/bash", TARGET)


PRIVATE = "usr/lib/x86_64-linux-gnu/x"
LOADER = "/lib64/ld-linux-x86-64.so.2"


def private(program: bytes, **libraries: bytes) -> tuple[str, ...]:
    """The sonames that a program and libraries in a private directory lack."""
    files = {f"{PRIVATE}/{name}.so.1": content for name, content in libraries.items()}
    needs = tuple(scan({"usr/bin/x": program, **files}, frozenset(files)).wanted)
    return tuple(need for need in needs if need.startswith("soname:"))


def test_rpath_of_a_program_holds_for_its_libraries_runpath_does_not() -> None:
    liba = elf(soname="liba.so.1", needed=("libb.so.1",))
    libb = elf(soname="libb.so.1")
    old = elf(needed=("liba.so.1",), rpath=f"/{PRIVATE}", interp=LOADER)
    new = elf(needed=("liba.so.1",), runpath=f"/{PRIVATE}", interp=LOADER)
    assert private(old, liba=liba, libb=libb) == ()
    assert private(new, liba=liba, libb=libb) == ("soname:libb.so.1",)
    # a program that loads it first makes it known (elf/dl-load.c: names are compared first)
    both = elf(needed=("liba.so.1", "libb.so.1"), runpath=f"/{PRIVATE}", interp=LOADER)
    assert private(both, liba=liba, libb=libb) == ()
    # a library's own DT_RUNPATH turns every DT_RPATH off for what it needs itself
    own = elf(soname="liba.so.1", needed=("libb.so.1",), runpath="/opt/none")
    assert private(old, liba=own, libb=libb) == ("soname:libb.so.1",)
    # and further down it holds again
    deep = elf(soname="libb.so.1", needed=("libc.so.1",))
    here = elf(soname="liba.so.1", needed=("libb.so.1",), runpath="$ORIGIN")
    assert private(old, liba=here, libb=deep, libc=elf(soname="libc.so.1")) == ()


def test_every_program_has_to_find_its_libraries() -> None:
    liba = elf(soname="liba.so.1", needed=("libb.so.1",))
    found = scan(
        {
            "usr/bin/good": elf(needed=("liba.so.1",), rpath=f"/{PRIVATE}", interp=LOADER),
            "usr/bin/poor": elf(needed=("liba.so.1",), runpath=f"/{PRIVATE}", interp=LOADER),
            f"{PRIVATE}/liba.so.1": liba,
            f"{PRIVATE}/libb.so.1": elf(soname="libb.so.1"),
        }
    )
    assert found.wanted["soname:libb.so.1"] == (f"{PRIVATE}/liba.so.1",)


def test_a_plugin_gets_the_rpath_of_the_programs() -> None:
    program = elf(rpath=f"/{PRIVATE}", interp=LOADER)
    plugin = elf(needed=("libb.so.1",))
    assert private(program, plugin=plugin, libb=elf(soname="libb.so.1")) == ()
    assert private(elf(interp=LOADER), plugin=plugin, libb=elf(soname="libb.so.1")) == (
        "soname:libb.so.1",
    )


def test_libraries_that_need_each_other_end() -> None:
    a, b = elf(soname="a.so", needed=("b.so",)), elf(soname="b.so", needed=("a.so", "c.so"))
    assert tuple(scan({f"{LIB}/a.so": a, f"{LIB}/b.so": b}).wanted) == ("soname:c.so",)
