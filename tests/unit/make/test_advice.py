"""What a phase lacked, as the programs of Debian 12 say it."""

from __future__ import annotations

import pytest

from buildit.make.advice import advice, notes

pytestmark = pytest.mark.unit

MISSING = [
    ("sh: 1: exec: cmake: not found", 127, "debian:cmake"),
    ("sh: 2: meson: not found", 127, "debian:meson"),
    ("sh: 1: ninja: not found", 127, "debian:ninja-build"),
    ("./autogen.sh: 3: autoreconf: not found", 127, "debian:autoconf"),
    ("./run.bash: line 12: xxd: command not found", 127, "debian:xxd"),
    ("make: msgfmt: No such file or directory\nmake: *** [Makefile:2: x] Error 127", 2, "gettext"),
    ("/bin/sh: 1: flex: not found\nmake[2]: *** [Makefile:9: l.c] Error 127", 2, "debian:flex"),
    ("env: ‘python3’: No such file or directory", 127, "debian:python3"),  # noqa: RUF001
    ("/usr/bin/env: 'ruby': No such file or directory", 127, "debian:ruby"),
    ("sh: 1: python3.11: not found", 127, "debian:python3"),
    ("sh: 1: frobnicate: not found", 127, "debian:NAME"),
    ("WARNING: 'aclocal-1.16' is missing on your system.\nmake: Error 127", 2, "debian:automake"),
    ("/usr/bin/python3: No module named build", 1, "debian:python3-build"),
    ("ModuleNotFoundError: No module named 'yaml'", 1, "debian:python3-yaml"),
    ("ModuleNotFoundError: No module named 'flit_core'", 1, "debian:flit"),
    ("ERROR Backend 'setuptools.build_meta' is not available.", 1, "debian:python3-setuptools"),
    ("ERROR Missing dependencies:\n\twheel", 1, "debian:python3-wheel"),
    ("ERROR: Could not detect Ninja v1.8.2 or newer", 1, "debian:ninja-build"),
    ("sh: 12: exec: go: not found", 127, "debian:golang-go"),
    (
        'main.go:5:2: cannot find package "github.com/BurntSushi/toml" in any of:',
        1,
        "debian:golang-github-burntsushi-toml-dev",
    ),
    (
        'x.go:5:2: cannot find package "golang.org/x/sys/unix" in any of:',
        1,
        "debian:golang-golang-x-sys-dev",
    ),
    ("error: no matching package named `serde_json` found", 101, "debian:librust-serde-json-dev"),
    ("Can't locate XML/Parser.pm in @INC (you may need to", 2, "debian:libxml-parser-perl"),
]


@pytest.mark.parametrize(("log", "status", "deb"), MISSING)
def test_the_line_to_add_is_said(log: str, status: int, deb: str) -> None:
    said = advice(status, log.splitlines())
    assert said is not None
    assert deb in said[1]
    assert "depends: {build: [debian:" in said[1]
    assert "the chroot" in said[0]


OTHERS = [
    ("install: cannot change ownership of '/build/out/x': Invalid argument", 1, "fakeroot: yes"),
    ("chown: changing ownership of 'x': Operation not permitted", 1, "fakeroot: yes"),
    ("chgrp: changing group of 'x': Invalid argument", 1, "fakeroot: yes"),
    ("install: invalid group \u2018mail\u2019", 1, "`groups:` declaring mail"),
    ("install: invalid user 'web'", 1, "`users:` declaring web"),
    ("chown: invalid user: 'web:web'", 1, "files: [{path: PATH, owner: USER:GROUP}]"),
    ("make: *** No targets specified and no makefile found.  Stop.", 2, "style:"),
    ("sh: 1: ./build.sh: Permission denied", 126, "chmod +x ./build.sh"),
    ("sh: 1: ./build.sh: not found", 127, "head -1 ./build.sh"),
    ("cc1: error: /tmp/x.s: No space left on device", 1, "TMPDIR"),
    ("buildit: there is no ./configure in the sources", 127, "style:"),
    ("buildit: /null is a device: leave it out", 1, "leave it out"),
    ("buildit: go.mod requires modules, and a build has no network: add it", 1, "add it"),
    ("buildit: the build left no program in .buildit/bin: is it a library?", 1, "is it a library?"),
    (
        (
            "install: cannot create regular file '/usr/local/bin/tool': No such file or directory\n"
            "make: *** [Makefile:2: install] Error 1"
        ),
        2,
        'PREFIX="$DESTDIR/usr"',
    ),
    ("cp: cannot create regular file '/etc/x.conf': Read-only file system", 1, "DESTDIR"),
    ("mkdir: cannot create directory ‘/opt/x’: Read-only file system", 1, "DESTDIR"),  # noqa: RUF001
]


@pytest.mark.parametrize(("log", "status", "words"), OTHERS)
def test_what_else_would_help_is_said(log: str, status: int, words: str) -> None:
    said = advice(status, ["some text", *log.splitlines()])
    assert said is not None
    assert words in said[1]


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("configure.ac", "autoreconf -fi"),
        ("autogen.sh", "debian:autoconf"),
        ("CMakeLists.txt", "style: cmake"),
        ("meson.build", "style: meson"),
        ("Makefile", "style: make"),
    ],
)
def test_a_source_without_configure_says_what_it_has(file: str, words: str) -> None:
    log = ["buildit: there is no ./configure in the sources", f"buildit: there is a file {file}"]
    said = advice(127, log)
    assert said is not None
    assert words in said[1]


@pytest.mark.parametrize(
    ("log", "status"),
    [
        ("main.c:1:10: fatal error: x.h: No such file or directory", 1),
        ("./configure: line 9: git: command not found\nconfigure: error: no libx", 1),
        ("checking for ninja... no\nmake: *** [Makefile:3: all] Error 1", 2),
        ("sh: 1: git: not found" + "\nx" * 30 + "\nError 127", 2),
        ("buildit: there is no ./configure in the sources", 1),
        ("", 1),
    ],
)
def test_what_did_not_end_the_phase_is_not_blamed(log: str, status: int) -> None:
    assert advice(status, log.splitlines()) is None


def test_notes_are_the_lines_of_ours_once_each() -> None:
    log = ["buildit: note: a", "x", "buildit: note: b", "buildit: note: a", "buildit: c"]
    assert notes(log) == ("a", "b")
