"""Build styles: a recipe's phases as argument vectors, made without running anything.

Values reach scripts as environment and arguments, never as text inside them. Every script runs
with `sh -eu`, in `$SRC`; the `configure:` list of the recipe is its `"$@"`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from buildit.model.platform import Platform


class Phase(StrEnum):
    PREPARE = "prepare"
    CONFIGURE = "configure"
    COMPILE = "compile"
    CHECK = "check"
    INSTALL = "install"


@dataclass(frozen=True, slots=True)
class Step:
    phase: Phase
    argv: tuple[str, ...]


BUILD_DIRECTORY = "/build"
SOURCE_DIRECTORY = "/build/src"
DESTINATION_DIRECTORY = "/build/out"
FILES_DIRECTORY = "/input/files"
PATCHES_DIRECTORY = "/input/patches"

_MAP = f"-ffile-prefix-map={SOURCE_DIRECTORY}=."
_READS_USE = re.compile(r"\bUSE\b")


def environment(platform: Platform, name: str, version: str) -> dict[str, str]:
    """The whole environment of a build but `USE`, `JOBS` and `SOURCE_DATE_EPOCH`.

    Those three are not here because `USE` counts only where a script reads it, `JOBS` must not
    change the result, and the epoch follows from the sources.
    """
    return {
        "CFLAGS": f"-O2 {_MAP}",
        "CXXFLAGS": f"-O2 {_MAP}",
        "LDFLAGS": "-Wl,-z,relro",
        "DESTDIR": DESTINATION_DIRECTORY,
        "FAKEROOTDONTTRYCHOWN": "1",
        "FILES": FILES_DIRECTORY,
        "HOME": f"{BUILD_DIRECTORY}/home",
        "LC_ALL": "C.UTF-8",
        "LIBDIR": f"/usr/lib/{platform.triplet}",
        "NAME": name,
        "PATH": "/usr/sbin:/usr/bin",
        "PERL_HASH_SEED": "0",
        "PREFIX": "/usr",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "SHELL": "/bin/sh",
        "SRC": SOURCE_DIRECTORY,
        "TERM": "dumb",
        "TMPDIR": "/tmp",  # noqa: S108 - the sandbox's own, empty at the start
        "TRIPLET": platform.triplet,
        "TZ": "UTC0",
        "USER": "build",
        "VERSION": version,
    }


def script(text: str, arguments: Sequence[str] = ()) -> tuple[str, ...]:
    return ("sh", "-eu", "-c", text, "sh", *arguments)


def reads_use(steps: Sequence[Step]) -> bool:
    """Whether a step names the variable `USE`, and so can depend on every enabled flag."""
    return any(_READS_USE.search(word) for step in steps for word in step.argv)


_MAKE = script('make -j"$JOBS"')
_MAKE_INSTALL = script('make DESTDIR="$DESTDIR" install')


def _autotools(platform: Platform, arguments: tuple[str, ...]) -> tuple[Step, ...]:
    configure = (
        "./configure",
        # config.guess would ask the running kernel.
        f"--build={platform.triplet}",
        "--prefix=/usr",
        f"--libdir=/usr/lib/{platform.triplet}",
        "--sysconfdir=/etc",
        "--localstatedir=/var",
        "--disable-dependency-tracking",
        *arguments,
    )
    return (
        Step(Phase.CONFIGURE, configure),
        Step(Phase.COMPILE, _MAKE),
        Step(Phase.INSTALL, _MAKE_INSTALL),
    )


def _cmake(platform: Platform, arguments: tuple[str, ...]) -> tuple[Step, ...]:
    configure = (
        *("cmake", "-S", ".", "-B", ".buildit", "-G", "Unix Makefiles"),
        "-DCMAKE_BUILD_TYPE=None",
        "-DCMAKE_INSTALL_PREFIX=/usr",
        f"-DCMAKE_INSTALL_LIBDIR=lib/{platform.triplet}",
        "-DCMAKE_SKIP_INSTALL_RPATH=ON",
        *arguments,
    )
    return (
        Step(Phase.CONFIGURE, configure),
        Step(Phase.COMPILE, script('make -C .buildit -j"$JOBS"')),
        Step(Phase.INSTALL, script('make -C .buildit DESTDIR="$DESTDIR" install')),
    )


def _meson(platform: Platform, arguments: tuple[str, ...]) -> tuple[Step, ...]:
    configure = (
        *("meson", "setup", ".buildit", "--buildtype=plain", "--prefix=/usr"),
        f"--libdir=lib/{platform.triplet}",
        "--sysconfdir=/etc",
        "--localstatedir=/var",
        "--wrap-mode=nodownload",
        *arguments,
    )
    return (
        Step(Phase.CONFIGURE, configure),
        Step(Phase.COMPILE, script('ninja -C .buildit -j"$JOBS"')),
        Step(Phase.INSTALL, script("meson install -C .buildit --no-rebuild")),
    )


def _make(platform: Platform, arguments: tuple[str, ...]) -> tuple[Step, ...]:
    libdir = f"LIBDIR=/usr/lib/{platform.triplet}"
    compile_ = script('make -j"$JOBS" "$@"', ("PREFIX=/usr", libdir, *arguments))
    install = script('make DESTDIR="$DESTDIR" "$@" install', ("PREFIX=/usr", libdir, *arguments))
    return (Step(Phase.COMPILE, compile_), Step(Phase.INSTALL, install))


def _python(_platform: Platform, arguments: tuple[str, ...]) -> tuple[Step, ...]:
    wheel = script('python3 -m build --wheel --no-isolation -o .buildit "$@"', arguments)
    install = script('python3 -m installer --prefix /usr --destdir "$DESTDIR" .buildit/*.whl')
    return (Step(Phase.COMPILE, wheel), Step(Phase.INSTALL, install))


def _custom(_platform: Platform, _arguments: tuple[str, ...]) -> tuple[Step, ...]:
    return ()


Style = Callable[[Platform, tuple[str, ...]], tuple[Step, ...]]

STYLES: Mapping[str, Style] = {
    "autotools": _autotools,
    "cmake": _cmake,
    "meson": _meson,
    "make": _make,
    "python": _python,
    "custom": _custom,
}


def steps(
    style: str, platform: Platform, configure: tuple[str, ...], overrides: Mapping[Phase, str]
) -> tuple[Step, ...]:
    """The phases of a build in order: the style's, each replaced by the recipe's where it has one.

    An empty override leaves the phase out.
    """
    phases = {step.phase: step for step in STYLES[style](platform, configure)}
    for phase, text in overrides.items():
        if text.strip():
            phases[phase] = Step(phase, script(text, configure))
        else:
            phases.pop(phase, None)
    return tuple(phases[phase] for phase in Phase if phase in phases)
