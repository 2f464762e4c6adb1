"""Build styles: a recipe's phases as argument vectors, made without running anything.

Values reach scripts as environment and arguments, never as text inside them. Every script runs
with `sh -eu`, in `$SRC`; the `configure:` list of the recipe is its `"$@"`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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


_CONFIGURE = r"""
if [ ! -f ./configure ]; then
  echo "buildit: there is no ./configure in the sources"
  for file in autogen.sh bootstrap configure.ac CMakeLists.txt meson.build pyproject.toml \
    Makefile; do
    if [ -e "$file" ]; then echo "buildit: there is a file $file"; fi
  done
  exit 127
fi
if [ ! -x ./configure ]; then
  echo "buildit: note: ./configure had no x bit in its archive, and got one"
  chmod a+x ./configure
fi
exec ./configure "$@"
"""

_FAKEROOT = r"""
list=$(mktemp)
fakeroot -- sh -eu -c '
  list=$1; shift
  "$@"
  cd "$DESTDIR"
  find . -depth -printf "%M %m %U:%G %p\\0" >"$list"
' sh "$list" "$@"
exec perl -0ne '
  BEGIN { chdir $ENV{DESTDIR} or die "$ENV{DESTDIR}: $!\n" }
  chomp;
  my ($kind, $mode, $owner, $path) = split / /, $_, 4;
  $path =~ s{^\./}{};
  if ($kind =~ /^[bc]/) {
    print "buildit: /$path is a device: leave it out, the engine makes those of a container\n";
    $devices = 1;
  } elsif ($kind !~ /^l/) {
    chmod oct $mode, $path or die "/$path: $!\n";
  }
  if ($owner ne "0:0") {
    print "buildit: note: the install gave /$path to $owner, the package does not; it would by ",
      "files: [{path: $path, owner: \"$owner\"}]\n";
  }
  END { $? = 1 if $devices }
' "$list"
"""
"""What is simulated ends with fakeroot, so modes are then set as they were seen under it (fakeroot
keeps every file writable, libfakeroot.c), owners are told, and devices, by then plain files, are
refused.
"""

_MAKE_FLAGS = r"""
makefiles() {
  find . -type f \( -name '[Mm]akefile*' -o -name 'GNUmakefile*' -o -name '*.mk' -o -name '*.mak' \
    \) -exec awk -v name="$1" '
      /\\$/ { line = line substr($0, 1, length($0) - 1) " "; next }
      {
        line = line $0
        if (match(line, "(^|[ \t:])" name "[ \t]*[:?+!]*=")) {
          value = substr(line, RSTART + RLENGTH)
          sub(/#.*/, "", value); gsub("[$][({]" name "[)}]", "", value); gsub(/["\047]/, "", value)
          gsub(/[ \t\r]+/, " ", value); sub(/^ /, "", value); sub(/ $/, "", value)
          print value
        }
        line = ""
      }' {} +
}
usual='-(O[0-3sgz]?|g[0-9a-z-]*|W([a-z][^, ]*)?|pedantic|pedantic-errors|pipe|s)'
carried() {
  makefiles "$1" | grep -Evx "($usual( $usual)*)?" >/dev/null
}
compiler() {
  words=$(makefiles "$1" | sed 's/^[$][({][A-Z_]*[)}]//' | sort -u)
  case $words in
    '' | cc | gcc | c++ | g++) echo "$2" ;;
    *[!a-zA-Z0-9_.+=\ -]*)
      if printf '%s\n' "$words" | grep -Evx 'cc|gcc|clang|c\+\+|g\+\+|clang\+\+' >/dev/null; then
        echo "buildit: note: the Makefiles set $1 and $3 by themselves, so the flags of buildit" \
          "may be lost: give $1=… or $3=… in configure:" >&2
      else
        echo "$2"
      fi ;;
    *) echo "$words" ;;
  esac
}
cc='' cxx=''
for name in CFLAGS CXXFLAGS CPPFLAGS LDFLAGS; do
  eval "value=\${$name:-}"
  if [ -z "$value" ]; then continue; fi
  if ! carried "$name"; then set -- "$name=$value" "$@"; continue; fi
  case $name in CXXFLAGS) ;; *) cc="$cc $value" ;; esac
  case $name in CFLAGS) ;; *) cxx="$cxx $value" ;; esac
done
if [ -n "$cxx" ]; then
  words=$(compiler CXX c++ CXXFLAGS)
  if [ -n "$words" ]; then set -- "CXX=$words$cxx" "$@"; fi
fi
if [ -n "$cc" ]; then
  words=$(compiler CC cc CFLAGS)
  if [ -n "$words" ]; then set -- "CC=$words$cc" "$@"; fi
fi
"""
"""For `sh -eu`, before make is called with `"$@"`: how `style: make` hands CFLAGS, CXXFLAGS,
CPPFLAGS and LDFLAGS to a Makefile.

GNU make (manual, 6.10 and 9.5): a Makefile's `CFLAGS = -O2` beats the environment, so flags that
are only there are lost in silence; a variable of the command line beats every assignment and makes
`CFLAGS += -Iinclude` do nothing, so what the program needs is lost. Which of both would happen is
read in the Makefiles:

1. Where all that they assign to a variable is about optimisation, debugging and warnings (or
   nothing), ours goes on the command line.
2. Else the Makefile's value stays as it is, and ours comes with the compiler: `CC='cc FLAGS'` for
   C, `CXX` for C++; the linker's flags with both. The Makefile's words come later, and win.

`configure:` stands last on the command line: a recipe's own `CFLAGS=…` or `CC=…` wins over both.
"""


_GO = r"""
export GOCACHE="$SRC/.buildit/cache" GOPROXY=off GOSUMDB=off GOTOOLCHAIN=local
export CGO_CFLAGS="$CFLAGS" CGO_CXXFLAGS="$CXXFLAGS" CGO_LDFLAGS="$LDFLAGS"
mkdir -p .buildit/bin
if [ "$#" = 0 ]; then set -- ./...; fi
set -- -p "$JOBS" -trimpath -buildvcs=false -ldflags=-buildid= -o "$SRC/.buildit/bin/" "$@"
if [ -f go.mod ] && [ -f vendor/modules.txt ]; then
  exec go build -mod=vendor "$@"
elif [ -f go.mod ] && ! grep -Eq '^[[:space:]]*require[[:space:](]' go.mod; then
  exec go build "$@"
fi
module=${GO_IMPORT_PATH:-}
if [ -z "$module" ] && [ -f go.mod ]; then
  module=$(sed -n 's/^module[[:space:]]*"\{0,1\}\([^"[:space:]]*\).*/\1/p' go.mod)
fi
if [ -z "$module" ]; then
  echo "buildit: no go.mod says what this module is called: environment: {GO_IMPORT_PATH: …}"
  exit 1
elif [ ! -d /usr/share/gocode/src ] && [ ! -d vendor ]; then
  echo "buildit: go.mod requires modules, and a build has no network: add the result of" \
    "'go mod vendor' as a source with directory: vendor, or Debian's packages of them," \
    "as depends: {build: [debian:golang-github-…-dev]}"
  exit 1
fi
export GO111MODULE=off GOPATH="$SRC/.buildit/path:/usr/share/gocode"
rm -rf .buildit/path
mkdir -p ".buildit/path/src/$module"
tar --exclude=./.buildit -cf - . | tar -xf - -C ".buildit/path/src/$module"
cd ".buildit/path/src/$module"
exec go build "$@"
"""
"""Module mode where everything is there: vendored, or nothing is required. Else with GOPATH, as
Debian's packages of libraries are laid out (`/usr/share/gocode`, dh_golang(1)).

What `-trimpath` leaves out: paths, and the flags of cgo. `-buildid=` takes a digest of the tools'
own build ids out of the program.
"""

_INSTALL_PROGRAMS = r"""
found=
for file in "$1"/*; do
  case $file in *.so | *.d | *.rlib | *.a) continue ;; esac
  if [ ! -f "$file" ] || [ ! -x "$file" ]; then continue; fi
  install -D -m 0755 "$file" "$DESTDIR/usr/bin/${file##*/}"
  found=yes
done
if [ -z "$found" ]; then
  echo "buildit: the build left no program in $1: is it a library? Write steps: {install: …}"
  exit 1
fi
"""

_CARGO = r"""
export CARGO_HOME="$HOME/.cargo" CARGO_TARGET_DIR="$SRC/.buildit" CARGO_NET_OFFLINE=true
export RUSTFLAGS="--remap-path-prefix=$SRC=. --remap-path-prefix=$HOME=home ${RUSTFLAGS:-}"
mkdir -p "$CARGO_HOME"
crates=
if [ -d vendor ]; then
  crates=$SRC/vendor
elif [ -d /usr/share/cargo/registry ]; then
  crates=/usr/share/cargo/registry
  rm -f Cargo.lock
fi
if [ -n "$crates" ]; then
  printf '[source.crates-io]\nreplace-with = "here"\n[source.here]\ndirectory = "%s"\n' "$crates" \
    >"$CARGO_HOME/config.toml"
fi
if [ ! -f Cargo.lock ]; then cargo generate-lockfile --offline; fi
exec cargo build --release --frozen -j "$JOBS" "$@"
"""
"""Of the crates in `vendor/`, as `cargo vendor` leaves them and as Cargo.lock has them; else of
Debian's packages (`librust-*-dev`), whose versions are not those of Cargo.lock, so it is made anew
(as dh-cargo does)."""


@dataclass(frozen=True, slots=True)
class Style:
    """How sources of a kind are built: a script for each phase, and what the phases of `takes` get
    before the recipe's own `configure:`, where `{triplet}` is that of the platform."""

    scripts: Mapping[Phase, str]
    arguments: tuple[str, ...] = ()
    takes: tuple[Phase, ...] = (Phase.CONFIGURE,)


STYLES: Mapping[str, Style] = {
    "autotools": Style(
        {
            Phase.CONFIGURE: _CONFIGURE,
            Phase.COMPILE: 'make -j"$JOBS"',
            Phase.INSTALL: 'make DESTDIR="$DESTDIR" install',
        },
        (
            # config.guess would ask the running kernel.
            *("--build={triplet}", "--prefix=/usr", "--libdir=/usr/lib/{triplet}"),
            *("--sysconfdir=/etc", "--localstatedir=/var", "--disable-dependency-tracking"),
        ),
    ),
    "cmake": Style(
        {
            Phase.CONFIGURE: 'exec cmake "$@"',
            Phase.COMPILE: 'make -C .buildit -j"$JOBS"',
            Phase.INSTALL: 'make -C .buildit DESTDIR="$DESTDIR" install',
        },
        (
            *("-S", ".", "-B", ".buildit", "-G", "Unix Makefiles"),
            *("-DCMAKE_BUILD_TYPE=None", "-DCMAKE_INSTALL_PREFIX=/usr"),
            "-DCMAKE_INSTALL_LIBDIR=lib/{triplet}",
            # GNUInstallDirs would put them below /usr wherever a file takes the relative names
            *("-DCMAKE_INSTALL_SYSCONFDIR=/etc", "-DCMAKE_INSTALL_LOCALSTATEDIR=/var"),
            *("-DCMAKE_SKIP_INSTALL_RPATH=ON", "-DFETCHCONTENT_FULLY_DISCONNECTED=ON"),
        ),
    ),
    "meson": Style(
        {
            Phase.CONFIGURE: 'exec meson setup "$@"',
            Phase.COMPILE: 'ninja -C .buildit -j"$JOBS"',
            Phase.INSTALL: "meson install -C .buildit --no-rebuild",
        },
        (
            *(".buildit", "--buildtype=plain", "--prefix=/usr", "--libdir=lib/{triplet}"),
            *("--sysconfdir=/etc", "--localstatedir=/var", "--wrap-mode=nodownload"),
        ),
    ),
    "make": Style(
        {
            Phase.COMPILE: f'{_MAKE_FLAGS}exec make -j"$JOBS" "$@"',
            Phase.INSTALL: f'{_MAKE_FLAGS}exec make DESTDIR="$DESTDIR" "$@" install',
        },
        ("PREFIX=/usr", "LIBDIR=/usr/lib/{triplet}"),
        takes=(Phase.COMPILE, Phase.INSTALL),
    ),
    "python": Style(
        {
            Phase.COMPILE: 'python3 -m build --wheel --no-isolation -o .buildit "$@"',
            # Debian's python3 installs below /usr/local unless it is told that this is a package
            # (sysconfig._get_preferred_schemes in its patch distutils-install-layout.diff)
            Phase.INSTALL: "export DEB_PYTHON_INSTALL_LAYOUT=deb\n"
            'python3 -m installer --prefix /usr --destdir "$DESTDIR" .buildit/*.whl',
        },
        takes=(Phase.COMPILE,),
    ),
    "go": Style(
        {Phase.COMPILE: _GO, Phase.INSTALL: f"set -- .buildit/bin{_INSTALL_PROGRAMS}"},
        takes=(Phase.COMPILE,),
    ),
    "cargo": Style(
        {Phase.COMPILE: _CARGO, Phase.INSTALL: f"set -- .buildit/release{_INSTALL_PROGRAMS}"},
        takes=(Phase.COMPILE,),
    ),
    "custom": Style({}),
}


def steps(
    style: str,
    platform: Platform,
    configure: tuple[str, ...],
    overrides: Mapping[Phase, str],
    *,
    fakeroot: bool = False,
) -> tuple[Step, ...]:
    """The phases of a build in order: the style's, each replaced by the recipe's where it has one.

    An empty override leaves the phase out. Under `fakeroot` the `chown`, `install -o` and `chmod`
    of the install phase succeed as they would for root.
    """
    made = STYLES[style]
    arguments = (*(one.format(triplet=platform.triplet) for one in made.arguments), *configure)
    phases = {
        phase: Step(phase, script(text, arguments if phase in made.takes else ()))
        for phase, text in made.scripts.items()
    }
    for phase, text in overrides.items():
        if text.strip():
            phases[phase] = Step(phase, script(text, configure))
        else:
            phases.pop(phase, None)
    if fakeroot and Phase.INSTALL in phases:
        phases[Phase.INSTALL] = Step(Phase.INSTALL, script(_FAKEROOT, phases[Phase.INSTALL].argv))
    return tuple(phases[phase] for phase in Phase if phase in phases)
