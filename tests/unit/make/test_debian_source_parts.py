"""Parts of the build of a Debian source: its directory, changelog, switches, siblings."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from buildit.archive.beneath import Root
from buildit.errors import BuildError, UnsatisfiableError
from buildit.make.capture.capture import Installed
from buildit.make.capture.needs import Look, Needs
from buildit.make.debian_configure import NOTES, calls_nothing, problem, shim
from buildit.make.debian_outputs import BuiltDeb, refuse_unmet, siblings_of
from buildit.make.debian_source import _patched_time, must_read
from buildit.make.debian_tree import changelog_entry, changers, dsc_misfit, holder, source_directory
from buildit.model.artifact import RUNTIME
from buildit.model.platform import PLATFORMS
from buildit.model.tree import YEAR_1980, Entry
from buildit.patch.read import parse_patch

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("version", "directory"),
    [
        ("1.22.1-9+deb12u2", "x-1.22.1"),
        ("1:8.4-1-3", "x-8.4-1"),
        ("2.5", "x-2.5"),
        ("3:2.5", "x-2.5"),
    ],
)
def test_the_directory_that_dpkg_source_makes(version: str, directory: str) -> None:
    assert source_directory("x", version) == directory


CHANGELOG = """nginx (1.22.1-9) bookworm; urgency=high

  * Fix it.
    -- not a trailer

 -- A Person <a@example.org>  Mon, 01 Jan 2024 10:00:00 +0100

nginx (1.22.1-8) unstable; urgency=low
"""


def test_an_entry_for_what_was_changed() -> None:
    entry = changelog_entry(CHANGELOG, "+buildit1")
    lines = entry.splitlines()
    assert lines[0] == "nginx (1.22.1-9+buildit1) bookworm; urgency=medium"
    trailer = " -- buildit <buildit@localhost>  Mon, 01 Jan 2024 10:00:00 +0100"
    assert lines[-2:] == [trailer, ""]
    assert "A Person" not in entry
    with pytest.raises(BuildError, match="does not begin with an entry"):
        changelog_entry("nonsense\n", "+x")


DH = "%:\n\tdh $@\n"


@pytest.mark.parametrize(
    ("rules", "nothing"),
    [
        (DH, False),
        (f"{DH}override_dh_auto_configure:\n\tdh_auto_configure -- --with-x\n", False),
        (f"{DH}override_dh_auto_configure-arch:\n\t./configure\n", False),
        ("include /usr/share/cdbs/1/class/autotools.mk\n", False),
        (f"{DH}# dh_auto_configure\noverride_dh_auto_configure: flavours\n", True),
        ("include /usr/share/dpkg/default.mk\nbuild:\n\tdh_testdir\n\t./configure\n", True),
    ],
)
def test_rules_that_never_configure_with_debhelper(rules: str, nothing: bool) -> None:
    assert calls_nothing(rules) is nothing


PATCH = b"--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n one\n-two\n+three\n"


def test_who_holds_a_change() -> None:
    patch = parse_patch(PATCH, "p", strip=1)
    series = {"series": b"fix.patch\n", "fix.patch": b"Description\n" + PATCH, "other": b"+four\n"}
    assert holder(patch, series) == "fix.patch"
    assert holder(patch, {"other": b"+four\n"}) == ""


def test_which_of_debians_patches_change_a_file() -> None:
    texts = {"fix.patch": b"Description\n" + PATCH, "g.patch": PATCH.replace(b"/f", b"/g")}
    series = {"series": b"# ours\ng.patch -p1\nfix.patch\n", "unused.patch": PATCH, **texts}
    assert changers(["f"], series) == ("fix.patch",)
    assert changers(["g", "f"], series) == ("g.patch", "fix.patch")
    assert changers(["f"], {}) == ()


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"a_1.orig.tar.gz": "a" * 64}, ""),
        ({"a_1.orig.tar.gz": "b" * 64}, "names a_1.orig.tar.gz with another digest than the ar"),
        ({"b_1.orig.tar.gz": "a" * 64}, "names a_1.orig.tar.gz, which the archive's index does "),
    ],
)
def test_a_dsc_is_of_the_files_that_the_index_lists(files: dict[str, str], told: str) -> None:
    line = f" {'a' * 64} 12 a_1.orig.tar.gz\n"
    dsc = f"Format: 1.0\nChecksums-Sha256:\n{line}Files:\n {'c' * 32} 12 a_1.orig.tar.gz\n"
    found = dsc_misfit(dsc.encode(), files)
    assert found.startswith(told) if told else not found


# -- switches, by the program itself

AUTOCONF = """#!/bin/sh
case "$1" in
--help*) echo "  --with-oniguruma=PREFIX  help"; echo "  --enable-docs  help"; exit ;;
esac
printf '  $ ./configure %s\\n' "$*" >config.log
exit
ac_user_opts='
enable_option_checking
with_secret
'
"""


def run_shim(
    place: Path, switches: Sequence[str], tool: str, more: Sequence[str] = ()
) -> tuple[int, str, Mapping[str, bytes]]:
    """Call the program as debian/rules would, `tool` being debhelper's own: its status, what the
    tool was given, and its notes."""
    (place / "tool").write_text(tool)
    (place / "tool").chmod(0o755)
    text = shim(switches).replace("/usr/bin/dh_auto_configure", str(place / "tool"))
    home = place / "home"
    text = text.replace("/build/home", str(home))
    (place / "shim").write_text(text)
    tree = place / "tree"
    tree.mkdir()
    (tree / "configure").write_text(AUTOCONF)
    (tree / "configure").chmod(0o755)
    argv = ["sh", str(place / "shim"), *more]
    done = subprocess.run(argv, cwd=tree, check=False, capture_output=True, text=True)
    notes = home / NOTES
    left = {path.name: path.read_bytes() for path in notes.iterdir() if path.is_file()}
    return done.returncode, done.stdout, left


TOOL = (
    '#!/bin/sh\necho "given: $*"\nwhile [ "$1" != -- ]; do shift; done\nshift\n./configure "$@"\n'
)


def test_switches_come_after_those_of_the_rules(tmp_path: Path) -> None:
    more = ["-B", "x", "--", "--enable-docs", "--prefix=/usr"]
    status, said, notes = run_shim(tmp_path, ["--without-oniguruma", "A=b c"], TOOL, more)
    assert "given: -B x -- --enable-docs --prefix=/usr --without-oniguruma A=b c\n" in said
    assert status == 0
    assert problem(notes, ["--without-oniguruma"], "x-1") is None


def test_rules_without_switches_of_their_own(tmp_path: Path) -> None:
    status, said, _ = run_shim(tmp_path, ["--with-secret"], TOOL, ["-B", "x"])
    assert (status, "given: -B x -- --with-secret\n" in said) == (0, True)


@pytest.mark.parametrize(
    ("switch", "near"),
    [
        ("--without-onigurama", "--with-oniguruma"),
        ("--enable-doc", "--enable-docs"),
        ("--enable-oniguruma", ""),
    ],
)
def test_a_misspelt_switch_ends_the_build_and_is_named(
    switch: str, near: str, tmp_path: Path
) -> None:
    status, said, notes = run_shim(tmp_path, [switch, "--with-oniguruma=x"], TOOL)
    assert status == 1, "nothing is compiled with it"
    assert f"buildit: not a switch of this program: {switch}\n" in said
    wrong = problem(notes, [switch], "x-1")
    assert wrong is not None
    assert wrong.message == f"not a switch of this program: {switch}"
    assert near in (wrong.hint or "")


CMAKE = """#!/bin/sh
echo "WITH_SRV:BOOL=ON" >CMakeCache.txt
echo "CMake Warning:
  Manually-specified variables were not used by the project:

    WITH_SVR
    CMAKE_EXPORT_NO_PACKAGE_REGISTRY

"
"""


def test_cmake_says_what_it_did_not_use(tmp_path: Path) -> None:
    switches = ["-DWITH_SVR=OFF", "-DWITH_SRV:BOOL=OFF"]
    status, _, notes = run_shim(tmp_path, switches, CMAKE)
    wrong = problem(notes, switches, "x-1")
    assert (status, notes["unknown"]) == (1, b"-DWITH_SVR=OFF\n")
    assert wrong is not None
    assert "-DWITH_SRV" in (wrong.hint or "")


def test_meson_ends_by_itself() -> None:
    notes = {
        "called": b"",
        "output": b'meson.build:1:0: ERROR: Unknown options: "exmaples"\n',
        "meson": b'[{"name": "examples"}, {"name": "buildtype"}]',
    }
    wrong = problem(notes, ["-Dexmaples=false", "-Dbuildtype=x"], "x-1")
    assert wrong is not None
    assert wrong.message == "not a switch of this program: -Dexmaples=false"
    assert wrong.hint == "did you mean -Dexamples?"


def test_a_failure_of_the_tool_is_its_own(tmp_path: Path) -> None:
    status, _, notes = run_shim(tmp_path, ["--with-secret"], "#!/bin/sh\nexit 7\n")
    assert status == 7
    assert problem(notes, ["--with-secret"], "x-1") is None


def test_switches_that_nothing_took() -> None:
    wrong = problem({}, ["--x"], "x-1")
    assert wrong is not None
    assert "does not call dh_auto_configure" in wrong.message
    assert os.linesep not in wrong.message


# -- siblings


def built(name: str, **fields: str) -> BuiltDeb:
    said = {"package": name, **{key.replace("_", "-"): text for key, text in fields.items()}}
    installed: Installed = None  # type: ignore[assignment]
    return BuiltDeb(f"{name}_1_all.deb", said, installed, 0)


def test_what_a_deb_wants_of_the_same_build() -> None:
    core = built("x-core", provides="x-abi-1 (= 1), x-any")
    light = built("x-light", provides="x-any")
    other = built(
        "x",
        pre_depends="x-common:any (>= 1~)",
        depends="libc6 (>= 2.4), debconf | x-light, x-any, x-abi-1, x, other | x-core (= 1)",
    )
    common = built("x-common")
    every = [core, light, other, common]
    assert siblings_of(other, every) == ("x-common", "x-core", "x-light")
    assert siblings_of(common, every) == ()


# -- times


def test_patched_files_are_as_new_as_those_of_debians_series(tmp_path: Path) -> None:
    for path, time in (("configure.ac", 500), ("a/upstream.c", 100), (".pc/made-now", 900)):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("x")
        os.utime(tmp_path / path, (time, time))
    with Root.open(tmp_path) as tree:
        assert _patched_time(tree) == 501, "no series: later than any other"
        (tmp_path / ".pc/applied-patches").write_text("fix.patch\n")
        assert _patched_time(tree) == 500


def test_a_tree_without_what_every_source_has_is_refused(tmp_path: Path) -> None:
    (tmp_path / "changelog").symlink_to("/etc/hostname")
    with Root.open(tmp_path) as tree:
        assert _patched_time(tree) == YEAR_1980 + 1
        for path in ("changelog", "debian/changelog", "changelog/x"):
            with pytest.raises(BuildError, match="is missing, or is no file"):
                must_read(tree, path)


def no_file(entry: Entry) -> BinaryIO:
    raise FileNotFoundError(entry.path)


def test_a_library_that_nothing_provides_is_refused_unless_debian_only_recommends_it() -> None:
    """iproute2's plug-in for ATM needs libatm1, which it recommends; a patch that brings a new
    library into a program is another matter."""
    wanted = {"soname:libatm.so.1": ("usr/lib/tc/q_atm.so",), "/usr/bin/python3": ("usr/bin/x",)}
    deb = built("iproute2", recommends="libatm1 (>= 2.4), other | libx")
    needs = {RUNTIME: Needs(wanted)}
    empty: dict[str, Look] = {}
    seen = Installed(no_file, PLATFORMS["linux/amd64"], "x", {}, needs, (), frozenset(), empty)
    deb = replace(deb, installed=seen)
    owners = {"libatm.so.1": "libatm1"}
    found: dict[str, dict[str, str]] = {"iproute2": {}}
    told = refuse_unmet([deb], found, lambda one: owners.get(one, ""), "x")
    assert told == (
        "iproute2: /usr/lib/tc/q_atm.so needs the library libatm.so.1 of libatm1, left out",
    )
    owners["libatm.so.1"] = "libnew1"
    with pytest.raises(
        UnsatisfiableError, match=r"nothing provides the library libatm\.so\.1"
    ) as e:
        refuse_unmet([deb], found, lambda one: owners.get(one, ""), "x")
    assert "debian:libnew1" in str(e.value.hint)
