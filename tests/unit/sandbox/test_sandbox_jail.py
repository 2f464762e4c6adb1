"""The pure half of the sandbox: values, command lines, the overlay plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.errors import BuildError
from buildit.sandbox.jail import Bind, Jail, Places, bwrap_argv, chain, overlays
from tests.scale import examples

pytestmark = pytest.mark.unit

JAIL = Jail(
    lowers=("zlib", "toolchain"),
    binds=(Bind("build", "/build", writable=True), Bind("in/files", "/files")),
    env={"PATH": "/usr/bin", "LANG": "C"},
    cwd="/build/src",
    tmp_bytes=1 << 20,
)

ISOLATION = [
    "--unshare-all",
    "--unshare-user",
    "--unshare-cgroup",
    "--disable-userns",
    "--die-with-parent",
    *("--cap-drop", "ALL"),
    *("--uid", "1000"),
    *("--gid", "1000"),
    *("--hostname", "buildit"),
    "--clearenv",
    *("--seccomp", "8"),
    *("--json-status-fd", "9"),
]

ROOT = [
    *("--ro-bind", "/tmp/root", "/"),
    *("--proc", "/proc"),
    *("--dev", "/dev"),
    *("--perms", "1777", "--size", "1048576", "--tmpfs", "/dev/shm"),
    *("--remount-ro", "/dev"),
    *("--perms", "1777", "--size", "1048576", "--tmpfs", "/tmp"),
    *("--bind", "/tmp/work/build", "/build"),
    *("--ro-bind", "/tmp/work/in/files", "/files"),
    *("--setenv", "LANG", "C"),
    *("--setenv", "PATH", "/usr/bin"),
    *("--chdir", "/build/src"),
]


def test_argv_of_a_build() -> None:
    expected = ["bwrap", "--new-session", *ISOLATION, *ROOT, "--", "sh", "--login"]
    assert bwrap_argv(JAIL, ["sh", "--login"]) == expected


def test_argv_on_a_terminal_differs_only_in_its_session() -> None:
    build = bwrap_argv(JAIL, ["sh"])
    assert bwrap_argv(JAIL, ["sh"], terminal=True) == [
        word for word in build if word != "--new-session"
    ]


def test_argv_does_not_depend_on_the_order_of_the_environment() -> None:
    turned = Jail(JAIL.lowers, JAIL.binds, {"LANG": "C", "PATH": "/usr/bin"}, JAIL.cwd)
    straight = Jail(JAIL.lowers, JAIL.binds, dict(JAIL.env), JAIL.cwd)
    assert bwrap_argv(turned, ["x"]) == bwrap_argv(straight, ["x"])


@settings(max_examples=examples(40))
@given(st.lists(st.text(st.characters(exclude_characters="\0")), min_size=1, max_size=5))
def test_the_command_is_never_read_as_options(command: Sequence[str]) -> None:
    argv = bwrap_argv(JAIL, command)
    assert argv[-len(command) - 1 :] == ["--", *command]


def test_mount_points_cover_the_binds_and_the_working_directory(tmp_path: Path) -> None:
    words = chain(JAIL, ["x"], Places(tmp_path, ".", "."), ["1"], terminal=False)
    points = sorted({"dev", "proc", "tmp", "build", "build/src", "files"})
    assert " ".join(f"skeleton/{point}" for point in points) in words


OPTIONS = "ro,xino=on,lowerdir="


def test_few_trees_are_one_overlay() -> None:
    assert overlays(("a", "b")) == (("root", f"{OPTIONS}a:b:/tmp/skeleton"),)


def flattened(plan: Sequence[tuple[str, str]]) -> list[str]:
    """The trees from top to bottom as the kernel merges a plan of nested overlays."""
    assert all(options.startswith(OPTIONS) for _, options in plan)
    lowers = {f"/tmp/{name}": options.removeprefix(OPTIONS).split(":") for name, options in plan}
    assert plan[-1][0] == "root"
    return [tree for name in lowers["/tmp/root"] for tree in lowers.get(name, [name])]


@settings(max_examples=examples(25))
@given(st.integers(1, 1500), st.integers(4, 64))
def test_any_number_of_trees_keeps_its_order_and_fits_pages(count: int, width: int) -> None:
    trees = [f"{number:0{width}x}" for number in range(count)]
    plan = overlays(trees)
    assert flattened(plan) == [*trees, "/tmp/skeleton"]
    assert all(len(options) < 4096 and ":" in options for _, options in plan)


def test_more_trees_than_two_levels_hold_are_refused() -> None:
    with pytest.raises(BuildError, match="more than one overlay") as caught:
        overlays([f"{number:064x}" for number in range(30000)])
    assert caught.value.hint is not None


@pytest.mark.parametrize("path", ["", "/abs", ".", "..", "a/../b", "a//b", "a/", "./a", "a\0b"])
def test_a_bind_stays_inside_the_work_directory(path: str) -> None:
    with pytest.raises(BuildError, match="inside the work directory"):
        Jail(("t",), (Bind(path, "/x"),), {}, "/x")


@pytest.mark.parametrize(
    "path", ["", "x", "/", "/a/../b", "/a//b", "/a/", "/./a", "/a\0b", "/a b", "/a*"]
)
def test_paths_inside_are_absolute_and_plain(path: str) -> None:
    with pytest.raises(BuildError, match="inside of a sandbox"):
        Jail(("t",), (Bind("x", path),), {}, "/x")
    with pytest.raises(BuildError, match="inside of a sandbox"):
        Jail(("t",), (), {}, path)


@pytest.mark.parametrize("name", ["", "..", ".", "a:b", "a,b", "a\\b", "a/b", "/a", "a b", "ä"])
def test_names_of_trees_can_be_overlay_options(name: str) -> None:
    with pytest.raises(BuildError, match="name of a tree"):
        Jail((name,), (), {}, "/x")


def test_a_jail_has_a_root() -> None:
    with pytest.raises(BuildError, match="at least one tree"):
        Jail((), (), {}, "/x")


@pytest.mark.parametrize(("name", "value"), [("", "x"), ("A=B", "x"), ("1A", "x"), ("A", "\0")])
def test_the_environment_is_sane(name: str, value: str) -> None:
    with pytest.raises(BuildError, match="environment variable"):
        Jail(("t",), (), {name: value}, "/x")
