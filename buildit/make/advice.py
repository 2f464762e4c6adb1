"""What a failed phase lacked, read from the end of its log: a reason and the line to write; pure.

A phase says it in the words of the program that looked: the shell, make, env, python, perl, or our
own build styles. The log is written by the build, so all of this is for people only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

Advice = tuple[str, str]
"""A reason, which follows the phase's name and "failed: ", and a hint that works when copied."""

_PROGRAMS = """
    ant asciidoctor autoconf autogen automake autopoint bc bison bzip2 cargo clang cmake cpio
    curl dos2unix doxygen ed file flex gawk gfortran git gperf help2man lzip m4 meson nasm npm
    openssl pandoc patchelf python3 rsync ruby rustc scons sqlite3 swig unzip valac wget
    xsltproc xxd yasm zip zstd
    aclocal=automake autoheader=autoconf autom4te=autoconf autoreconf=autoconf bunzip2=bzip2
    clang++=clang ctest=cmake dtc=device-tree-compiler fc-cache=fontconfig
    gdbus-codegen=libglib2.0-dev-bin gettextize=gettext
    glib-compile-resources=libglib2.0-dev-bin glib-genmarshal=libglib2.0-dev-bin
    glib-mkenums=libglib2.0-dev-bin go=golang-go gtkdocize=gtk-doc-tools hexdump=bsdextrautils
    intltoolize=intltool java=default-jdk-headless javac=default-jdk-headless lex=flex
    libtool=libtool-bin libtoolize=libtool makeinfo=texinfo msgfmt=gettext msgmerge=gettext
    mvn=maven ninja=ninja-build node=nodejs php=php-cli protoc=protobuf-compiler ps=procps
    python=python-is-python3 rpcgen=rpcsvc-proto rst2man=python3-docutils
    sphinx-build=python3-sphinx tclsh=tcl which=debianutils xgettext=gettext
    xmllint=libxml2-utils xz=xz-utils yacc=bison
"""
PROGRAMS: Mapping[str, str] = {
    program: deb or program for program, _, deb in (one.partition("=") for one in _PROGRAMS.split())
}
"""The .debs of Debian 12 that have programs which builds call, where it is not the toolchain."""

MODULES: Mapping[str, str] = {"flit_core": "flit", "poetry": "python3-poetry-core"}
"""Python's modules whose .deb is not python3-MODULE."""

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
    fatal = status in {126, 127} or any(re.search(r"\bError 12[67]\b", line) for line in near)
    rules = (*_LINES, *_ENDS) if fatal else _LINES
    return _first(_TOGETHER, ("\n".join(near),)) or _first(rules, reversed(near))


def notes(log: Iterable[str]) -> tuple[str, ...]:
    """What steps of ours have said to the user, each once."""
    return tuple(dict.fromkeys(line.removeprefix(NOTE) for line in log if line.startswith(NOTE)))


def _first(rules: Sequence[_Rule], texts: Iterable[str]) -> Advice | None:
    for text in texts:
        for pattern, answer, hint in rules:
            if found := re.search(pattern, text):
                if not isinstance(answer, str):
                    return answer(found["name"])
                return answer % found.groupdict(), hint % found.groupdict()
    return None


def _add(deb: str | None) -> str:
    if deb is None:
        return "add the .deb that has it: depends: {build: [debian:NAME]} (`apt-file search` tells)"
    return f"add it to the recipe: depends: {{build: [debian:{deb}]}}"


def _absent(path: str) -> Advice:
    if path.startswith((".", "/build/")) or ("/" in path and not path.startswith("/usr/")):
        reason = f"there is no {path}, or its interpreter is not in the chroot"
        hint = "see what the sources have with `buildit shell`; "
        return reason, f"{hint}head -1 {path} names an interpreter"
    base = path.rpartition("/")[2]
    name = base if base in PROGRAMS else re.sub(r"-\d[\d.]*$|\.\d+$", "", base)
    return f"the chroot has no program {base}", _add(PROGRAMS.get(name))


def _of_python(name: str) -> Advice:
    deb = MODULES.get(name, f"python3-{name.lower().replace('_', '-').replace('.', '-')}")
    return f"the chroot's python3 has no module {name}", _add(deb)


def _of_perl(path: str) -> Advice:
    deb = f"lib{path.lower().replace('/', '-').replace('_', '-')}-perl"
    return f"the chroot's perl has no module {path.replace('/', '::')}", _add(deb)


def _of_go(path: str) -> Advice:
    """The Debian Go Packaging Team's policy, "Naming Conventions": the host without its end."""
    host, *parts = path.lower().replace("_", "-").split("/")
    host = {"google.golang.org": "google", "golang.org": "golang"}.get(
        host, host.rpartition(".")[0]
    )
    deb = "-".join(("golang", host, *parts[:2], "dev"))
    return f"the Go package {path} is neither in vendor/ nor in the chroot", _add(deb)


def _of_rust(name: str) -> Advice:
    deb = f"librust-{name.lower().replace('_', '-')}-dev"
    return f"the crate {name} is neither in vendor/ nor in the chroot", _add(deb)


_Rule = tuple[str, "str | Callable[[str], Advice]", str]
"""A pattern, reason and hint with `%(name)s` of its groups, or what makes both of the name."""

_NAME = r"(?P<name>[A-Za-z0-9_.+/@-]+)"
_QUOTE = "[\"'`‘’]?"  # noqa: RUF001 - C.UTF-8 quotes with these
_QUOTED = rf"{_QUOTE}(?P<name>[A-Za-z0-9_.+/@-]+?){_QUOTE}"
_NO_FILE = "No such file or directory"
_OUTSIDE = (
    rf"^(?:/usr/bin/)?(?:install|cp|mkdir|ln|mv|touch|tee): (?:cannot|failed to) .*?{_QUOTE}"
    r"(?P<path>/(?:usr|etc|opt|var|srv|bin|sbin|lib)/[^'’]*)['’]?.*: "  # noqa: RUF001 - as above
    rf"(?:{_NO_FILE}|Read-only file system|Permission denied)$"
)
_OWNER = "(?:cannot change ownership|changing ownership|cannot change owner|chown|chgrp)"
_ACCOUNT = r"(?P<what>user|group):? [\"'`‘](?P<name>[^\"'`’]+)"  # noqa: RUF001 - as above

_REASONS = "/.* is a device|go.mod requires .*?|no go.mod says .*?|the build left no program .*?"

_TOGETHER: Sequence[_Rule] = (
    # of plan.steps
    (rf"(?m)^buildit: (?P<reason>{_REASONS}): (?P<hint>.*)$", "%(reason)s", "%(hint)s"),
    # of python3-build
    (r"ERROR Missing dependencies:\n\t(?P<name>[A-Za-z0-9_.-]+)", _of_python, ""),
)
_LINES: Sequence[_Rule] = (
    (
        r"^make(?:\[\d+\])?: \*\*\* No targets specified and no makefile found",
        "there is no Makefile in the sources",
        "name the right `style:`; or the sources' `directory:` and `strip:` misplace it",
    ),
    (
        r"\bNo space left on device\b",
        "/tmp or /dev/shm is full: each holds 2 GiB, in memory",  # noqa: S108 - words
        "write large files elsewhere: environment: {TMPDIR: /build/home}",
    ),
    (
        rf"{_OWNER}\b.*: (?:Invalid argument|Operation not permitted)",
        "an ordinary user cannot give files away",
        "write `fakeroot: yes` in the recipe: the install phase then runs under fakeroot",
    ),
    (
        rf"^(?:install|chown|chgrp): invalid {_ACCOUNT}",
        "the chroot has no %(what)s %(name)s",
        (
            "leave the owner to `files: [{path: PATH, owner: USER:GROUP}]` in the recipe, with "
            "`%(what)ss:` declaring %(name)s; where its install insists, give a number"
        ),
    ),
    (
        _OUTSIDE,
        "it writes to %(path)s, outside of $DESTDIR",
        (
            "where the Makefile does not honour DESTDIR, say the whole prefix: "
            """steps: {install: 'make install PREFIX="$DESTDIR/usr"'}, or patch it"""
        ),
    ),
    (r"Could not detect Ninja|unable to find a build program .*Ninja", *_absent("ninja")),
    (r"Backend '(?P<name>[A-Za-z0-9_]+)[.A-Za-z0-9_:]*' is not available", _of_python, ""),
    (r"No module named '?(?P<name>[A-Za-z0-9_]+)", _of_python, ""),
    (r"cannot find package \"(?P<name>[A-Za-z0-9_.~/-]+)\" in any of", _of_go, ""),
    (r"no matching package named `(?P<name>[A-Za-z0-9_-]+)` found", _of_rust, ""),
    (r"Can't locate (?P<name>[A-Za-z0-9_/]+)\.pm in @INC", _of_perl, ""),
)
_ENDS: Sequence[_Rule] = (
    (
        rf"^(?:.*: )?(?:line )?\d+: (?:exec: )?{_NAME}: Permission denied$",
        "%(name)s has no x bit, or is a directory",
        "steps: {prepare: 'chmod +x %(name)s'}, or call it by its interpreter: sh %(name)s",
    ),
    (rf"^(?:/bin/)?(?:sh|dash): \d+: (?:exec: )?{_NAME}: not found$", _absent, ""),
    (rf"^[^ :]+: (?:line )?\d+: (?:exec: )?{_NAME}: (?:command )?not found$", _absent, ""),
    (rf"^[^ :]+: (?:line )?\d+: {_NAME}: {_NO_FILE}$", _absent, ""),
    (rf"^(?:make|gmake|ninja)(?:\[\d+\])?: {_NAME}: {_NO_FILE}$", _absent, ""),
    (rf"^(?:/usr/bin/)?env: {_QUOTED}: {_NO_FILE}$", _absent, ""),
    (rf"^(?:/bin/)?(?:ba)?sh: {_NAME}: command not found$", _absent, ""),
    (rf"^(?:exec|nohup|xargs|find|time|nice): {_QUOTED}: {_NO_FILE}$", _absent, ""),
    (r"^WARNING: '(?P<name>[a-z0-9.-]+)' is (?:missing on|needed)", _absent, ""),
)

_STYLES = {
    "CMakeLists.txt": "style: cmake",
    "meson.build": "style: meson",
    "pyproject.toml": "style: python",
    "Makefile": "style: make",
}


def _configure(tail: Sequence[str]) -> Advice | None:
    """The words of `plan.steps` where a source has no ./configure."""
    ours = [line.removeprefix(_OURS) for line in tail if line.startswith(_OURS)]
    reason = "there is no ./configure in the sources"
    if reason not in ours:
        return None
    files = [line.rpartition(" ")[2] for line in ours if line.startswith("there is a file ")]
    style = next((_STYLES[name] for name in files if name in _STYLES), None)
    hint = "name the right `style:`; or `directory:` and `strip:` misplace it"
    if {"configure.ac", "autogen.sh", "bootstrap"} & set(files):
        hint = "make it: steps: {prepare: autoreconf -fi}, "
        hint += "depends: {build: [debian:autoconf, debian:automake, debian:libtool]}"
    elif style is not None:
        hint = f"the sources have a {files[0]}: {style}"
    return reason, hint
