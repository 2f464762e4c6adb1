"""What a failed phase lacked, read from the end of its log: a reason and the line to write; pure.

A phase says it in the words of the program that looked: the shell, make, env, python, perl, or our
own build styles. The log is written by the build, so all of this is for people only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Advice:
    """`reason` follows the phase's name and "failed: "; `hint` works when it is copied."""

    reason: str
    hint: str


PROGRAMS: Mapping[str, str] = {
    "aclocal": "automake",
    "ant": "ant",
    "asciidoctor": "asciidoctor",
    "autoconf": "autoconf",
    "autogen": "autogen",
    "autoheader": "autoconf",
    "autom4te": "autoconf",
    "automake": "automake",
    "autopoint": "autopoint",
    "autoreconf": "autoconf",
    "bc": "bc",
    "bison": "bison",
    "bunzip2": "bzip2",
    "bzip2": "bzip2",
    "cargo": "cargo",
    "clang": "clang",
    "clang++": "clang",
    "cmake": "cmake",
    "ctest": "cmake",
    "cpio": "cpio",
    "curl": "curl",
    "dos2unix": "dos2unix",
    "doxygen": "doxygen",
    "dtc": "device-tree-compiler",
    "ed": "ed",
    "fc-cache": "fontconfig",
    "file": "file",
    "flex": "flex",
    "gawk": "gawk",
    "gdbus-codegen": "libglib2.0-dev-bin",
    "gettextize": "gettext",
    "gfortran": "gfortran",
    "git": "git",
    "glib-compile-resources": "libglib2.0-dev-bin",
    "glib-genmarshal": "libglib2.0-dev-bin",
    "glib-mkenums": "libglib2.0-dev-bin",
    "go": "golang-go",
    "gperf": "gperf",
    "gtkdocize": "gtk-doc-tools",
    "help2man": "help2man",
    "hexdump": "bsdextrautils",
    "intltoolize": "intltool",
    "java": "default-jdk-headless",
    "javac": "default-jdk-headless",
    "lex": "flex",
    "libtool": "libtool-bin",
    "libtoolize": "libtool",
    "lzip": "lzip",
    "m4": "m4",
    "makeinfo": "texinfo",
    "meson": "meson",
    "msgfmt": "gettext",
    "msgmerge": "gettext",
    "mvn": "maven",
    "nasm": "nasm",
    "ninja": "ninja-build",
    "node": "nodejs",
    "npm": "npm",
    "openssl": "openssl",
    "pandoc": "pandoc",
    "patchelf": "patchelf",
    "php": "php-cli",
    "protoc": "protobuf-compiler",
    "ps": "procps",
    "python": "python-is-python3",
    "python3": "python3",
    "rpcgen": "rpcsvc-proto",
    "rsync": "rsync",
    "ruby": "ruby",
    "rst2man": "python3-docutils",
    "rustc": "rustc",
    "scons": "scons",
    "sphinx-build": "python3-sphinx",
    "sqlite3": "sqlite3",
    "swig": "swig",
    "tclsh": "tcl",
    "unzip": "unzip",
    "valac": "valac",
    "wget": "wget",
    "which": "debianutils",
    "xgettext": "gettext",
    "xmllint": "libxml2-utils",
    "xsltproc": "xsltproc",
    "xxd": "xxd",
    "xz": "xz-utils",
    "yacc": "bison",
    "yasm": "yasm",
    "zip": "zip",
    "zstd": "zstd",
}
"""The .debs of Debian 12 that have programs which builds call, where it is not the toolchain."""

MODULES: Mapping[str, str] = {
    "flit_core": "flit",
    "poetry": "python3-poetry-core",
    "sphinx": "python3-sphinx",
    "yaml": "python3-yaml",
}
"""Python's modules whose .deb is not python3-MODULE."""

_NAME = r"[A-Za-z0-9_.+/@-]+"
_QUOTE = "[\"'`‘’]?"  # noqa: RUF001 - C.UTF-8 quotes with these
_ABSENT = tuple(
    re.compile(pattern)
    for pattern in (
        rf"^(?:/bin/)?(?:sh|dash): \d+: (?:exec: )?(?P<name>{_NAME}): not found$",
        rf"^[^ :]+: (?:line )?\d+: (?:exec: )?(?P<name>{_NAME}): (?:command )?not found$",
        rf"^[^ :]+: (?:line )?\d+: (?P<name>{_NAME}): No such file or directory$",
        rf"^(?:make|gmake|ninja)(?:\[\d+\])?: (?P<name>{_NAME}): No such file or directory$",
        rf"^(?:/usr/bin/)?env: {_QUOTE}(?P<name>{_NAME}?){_QUOTE}: No such file or directory$",
        rf"^(?:/bin/)?(?:ba)?sh: (?P<name>{_NAME}): command not found$",
        (
            rf"^(?:exec|nohup|xargs|find|time|nice): {_QUOTE}(?P<name>{_NAME}?){_QUOTE}: "
            "No such file or directory$"
        ),
        r"^WARNING: '(?P<name>[a-z0-9.-]+)' is (?:missing on|needed)",
    )
)
_CLOSED = re.compile(rf"^(?:.*: )?(?:line )?\d+: (?:exec: )?(?P<name>{_NAME}): Permission denied$")
_MODULE = re.compile(r"No module named '?(?P<name>[A-Za-z0-9_]+)")
_NEEDS = re.compile(r"ERROR Missing dependencies:\n\t(?P<name>[A-Za-z0-9_.-]+)")
_NINJA = re.compile(r"Could not detect Ninja|unable to find a build program .*Ninja")
_BACKEND = re.compile(r"Backend '(?P<name>[A-Za-z0-9_]+)[.A-Za-z0-9_:]*' is not available")
_PERL = re.compile(r"Can't locate (?P<name>[A-Za-z0-9_/]+)\.pm in @INC")
_OWNER = re.compile(
    r"(?:cannot change ownership|changing ownership|cannot change owner|chown|chgrp)\b.*: "
    r"(?:Invalid argument|Operation not permitted)"
)
_OUTSIDE = re.compile(
    rf"^(?:/usr/bin/)?(?:install|cp|mkdir|ln|mv|touch|tee): (?:cannot|failed to) .*?{_QUOTE}"
    r"(?P<path>/(?:usr|etc|opt|var|srv|bin|sbin|lib)/[^'’]*)['’]?.*: "  # noqa: RUF001 - as above
    r"(?:No such file or directory|Read-only file system|Permission denied)$"
)
_ACCOUNT = re.compile(
    r"^(?:install|chown|chgrp): invalid (?P<what>user|group):? [\"'`‘](?P<name>[^\"'`’]+)"  # noqa: RUF001
)
_SPACE = re.compile(r"\bNo space left on device\b")
_NO_MAKEFILE = re.compile(r"^make(?:\[\d+\])?: \*\*\* No targets specified and no makefile found")
_DEVICE = re.compile(r"^buildit: (?P<reason>/.* is a device): (?P<hint>.*)$", re.MULTILINE)
_FATAL = re.compile(r"\bError 12[67]\b")
_OURS = "buildit: "
NOTE = "buildit: note: "
"""How a step of ours begins a line that the user is to see."""


_NEAR = 12  # lines: what was printed long before the end did not end it


def advice(status: int, tail: Sequence[str]) -> Advice | None:
    """What the last lines of a phase's log ask for, the last telling one first; None: nothing.

    A program that is not found counts where 126 or 127 was the status that ended the phase
    (POSIX, 2.8.2), its own or that of a command of make: configure scripts look in vain for many.
    """
    if status == 127 and (said := _configure(tail)):
        return said
    near = tail[-_NEAR:]
    device = _DEVICE.search("\n".join(near))  # of plan.steps
    if device is not None:
        return Advice(device["reason"], device["hint"])
    needs = _NEEDS.search("\n".join(near))  # of python3-build
    if needs is not None:
        return _of_python(needs["name"])
    fatal = status in {126, 127} or any(_FATAL.search(line) for line in near)
    for line in reversed(near):
        found = _line(line) or (_program(line) if fatal else None)
        if found is not None:
            return found
    return None


def notes(log: Iterable[str]) -> tuple[str, ...]:
    """What steps of ours have said to the user, each once."""
    return tuple(dict.fromkeys(line.removeprefix(NOTE) for line in log if line.startswith(NOTE)))


def _line(line: str) -> Advice | None:
    if _NO_MAKEFILE.match(line):
        return Advice(
            "there is no Makefile in the sources",
            "name the right `style:`; or the sources' `directory:` and `strip:` misplace it",
        )
    if _SPACE.search(line):
        return Advice(
            "/tmp or /dev/shm is full: each holds 2 GiB, in memory",  # noqa: S108 - words
            "write large files elsewhere: environment: {TMPDIR: /build/home}",
        )
    if _OWNER.search(line):
        return Advice(
            "an ordinary user cannot give files away",
            "write `fakeroot: yes` in the recipe: the install phase then runs under fakeroot",
        )
    account = _ACCOUNT.match(line)
    if account is not None:
        what, name = account["what"], account["name"]
        return Advice(
            f"the chroot has no {what} {name}",
            "leave the owner to `files: [{path: PATH, owner: USER:GROUP}]` in the recipe, with "
            f"`{what}s:` declaring {name}; where its install insists, give a number",
        )
    outside = _OUTSIDE.match(line)
    if outside is not None:
        return Advice(
            f"it writes to {outside['path']}, outside of $DESTDIR",
            "where the Makefile does not honour DESTDIR, say the whole prefix: "
            """steps: {install: 'make install PREFIX="$DESTDIR/usr"'}, or patch it""",
        )
    if _NINJA.search(line):
        return Advice("the chroot has no program ninja", _add(PROGRAMS["ninja"]))
    return _module(line)


def _program(line: str) -> Advice | None:
    closed = _CLOSED.match(line)
    if closed is not None:
        name = closed["name"]
        return Advice(
            f"{name} has no x bit, or is a directory",
            f"steps: {{prepare: 'chmod +x {name}'}}, or call it by its interpreter: sh {name}",
        )
    found = next(filter(None, (pattern.match(line) for pattern in _ABSENT)), None)
    if found is None:
        return None
    path = found["name"]
    if path.startswith((".", "/build/")) or ("/" in path and not path.startswith("/usr/")):
        return Advice(
            f"there is no {path}, or its interpreter is not in the chroot",
            f"see what the sources have with `buildit shell`; head -1 {path} names an interpreter",
        )
    base = path.rpartition("/")[2]
    name = base if base in PROGRAMS else re.sub(r"-\d[\d.]*$|\.\d+$", "", base)
    return Advice(f"the chroot has no program {base}", _add(PROGRAMS.get(name)))


def _module(line: str) -> Advice | None:
    backend = _BACKEND.search(line)
    found = backend or _MODULE.search(line)
    if found is not None:
        return _of_python(found["name"])
    perl = _PERL.search(line)
    if perl is not None:
        name = perl["name"].replace("/", "::")
        deb = f"lib{perl['name'].lower().replace('/', '-').replace('_', '-')}-perl"
        return Advice(f"the chroot's perl has no module {name}", _add(deb))
    return None


def _of_python(name: str) -> Advice:
    deb = MODULES.get(name, f"python3-{name.lower().replace('_', '-').replace('.', '-')}")
    return Advice(f"the chroot's python3 has no module {name}", _add(deb))


def _add(deb: str | None) -> str:
    if deb is None:
        return "add the .deb that has it: depends: {build: [debian:NAME]} (`apt-file search` tells)"
    return f"add it to the recipe: depends: {{build: [debian:{deb}]}}"


_STYLES = {
    "CMakeLists.txt": "style: cmake",
    "meson.build": "style: meson",
    "pyproject.toml": "style: python",
    "Makefile": "style: make",
}


def _configure(tail: Sequence[str]) -> Advice | None:
    """The words of `plan.steps` where a source has no ./configure."""
    ours = [line.removeprefix(_OURS) for line in tail if line.startswith(_OURS)]
    if "there is no ./configure in the sources" not in ours:
        return None
    files = [line.rpartition(" ")[2] for line in ours if line.startswith("there is a file ")]
    reason = "there is no ./configure in the sources"
    if {"configure.ac", "autogen.sh", "bootstrap"} & set(files):
        return Advice(
            reason,
            "make it: steps: {prepare: autoreconf -fi}, "
            "depends: {build: [debian:autoconf, debian:automake, debian:libtool]}",
        )
    style = next((_STYLES[name] for name in files if name in _STYLES), None)
    if style is not None:
        return Advice(reason, f"the sources have a {files[0]}: {style}")
    return Advice(reason, "name the right `style:`; or `directory:` and `strip:` misplace it")
