from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from buildit.archive.beneath import Root
from buildit.digest import digest_bytes
from buildit.errors import BuildError, Interrupted
from buildit.make.capture.capture import Installed, capture
from buildit.make.capture.normalise import Watched, open_content
from buildit.model.platform import PLATFORMS
from buildit.model.tree import Kind
from buildit.plan.identity import OutputInput, RuleInput

pytestmark = pytest.mark.unit

TARGET = PLATFORMS["linux/amd64"]
LIB = "usr/lib/x86_64-linux-gnu"


def put(dest: Path, *paths: str, mode: int = 0o644) -> None:
    for path in paths:
        (dest / path).parent.mkdir(parents=True, exist_ok=True)
        (dest / path).write_bytes(b"data")
        (dest / path).chmod(mode)


def looked(dest: Path, *rules: OutputInput, files: tuple[RuleInput, ...] = ()) -> Installed:
    with Root.open(dest) as root:
        return capture(root, files, rules, 1, TARGET, "a/x-1")


def test_what_is_told_names_the_paths_and_what_keeps_them(tmp_path: Path) -> None:
    put(tmp_path, f"{LIB}/libz.la", f"{LIB}/mod/a.la", f"{LIB}/mod/b.la", "usr/share/info/dir")
    put(tmp_path, *(f"{LIB}/deep/{number} x.a" for number in range(7)), "usr/bin/z\n")
    found = looked(tmp_path)
    plugins = f"{LIB}/mod/a.la, {LIB}/mod/b.la"
    assert found.told(loud=True) == (
        f"libtool archive left out: {plugins}; to keep: outputs: {{runtime: [{plugins}]}}",
        "put in `dev`, which images lack: "
        + ", ".join(f"{LIB}/deep/{number} x.a" for number in range(5))
        + " and 2 more; to keep: outputs: {runtime: ["
        + ", ".join(f'"{LIB}/deep/{number} x.a"' for number in range(5))
        + "]}",
    )
    assert len(found.told()) == 3
    kept = looked(
        tmp_path, OutputInput("runtime", (f"{LIB}/mod/*.la", f"{LIB}/deep/*"), optional=True)
    )
    assert kept.told(loud=True) == ()
    assert f"{LIB}/mod/a.la" in [entry.path for entry in kept.outputs["runtime"]]


def test_a_package_of_nothing_is_refused_unless_declared(tmp_path: Path) -> None:
    found = looked(tmp_path)
    with pytest.raises(BuildError, match="the package is empty") as caught:
        found.refuse_empty(())
    assert caught.value.place == "a/x-1"
    assert "outputs: {runtime: {optional: yes}}" in (caught.value.hint or "")
    found.refuse_empty((OutputInput("runtime", (), optional=True),))
    with pytest.raises(BuildError, match="the package is empty"):
        found.refuse_empty((OutputInput("runtime", ("usr/bin/*",), optional=True),))


def test_a_package_for_development_only_is_told(tmp_path: Path) -> None:
    put(tmp_path, "usr/include/x.h", "usr/share/doc/x/README")
    found = looked(tmp_path)
    found.refuse_empty(())
    assert found.told(loud=True) == ("an image gets nothing of it: everything is in dev, doc",)


def test_modes_that_have_to_be_declared(tmp_path: Path) -> None:
    put(tmp_path, "usr/bin/s", mode=0o4755)
    with Root.open(tmp_path) as root:
        with pytest.raises(BuildError, match="mode 4755"):
            capture(root, (), (), 1, TARGET, "a/x-1").check(())
        files = (RuleInput("usr/bin/s", "4755", "", ()),)
        declared = capture(root, files, (), 1, TARGET, "a/x-1")
        assert declared.check(()) == ()
    assert declared.outputs["runtime"][-1].mode == 0o4755


@pytest.mark.parametrize("prepare", [lambda dest: put(dest, "a"), lambda dest: large(dest / "a")])
def test_a_stop_is_heeded_within_a_chunk(tmp_path: Path, prepare: Callable[[Path], None]) -> None:
    prepare(tmp_path)
    stop = threading.Event()
    with Root.open(tmp_path) as root:
        threading.Timer(0.3 if (tmp_path / "a").stat().st_size > 9 else 0, stop.set).start()
        time.sleep(0.1)
        begin = time.monotonic()
        with pytest.raises(Interrupted):
            capture(Watched(root, stop), (), (), 1, TARGET, "a/x-1")
    assert time.monotonic() - begin < 10


def large(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(4 << 30)
        stream.truncate((4 << 30) - 1)


class Counting(Root):
    """A root that counts how often each file is opened."""

    opened: ClassVar[Counter[str]] = Counter()

    def open_read(self, path: str) -> int:
        self.opened[path] += 1
        return super().open_read(path)


def test_small_files_are_opened_once(tmp_path: Path) -> None:
    put(tmp_path, "usr/share/a", "usr/share/b", "usr/bin/c", mode=0o755)
    (tmp_path / "usr/share/large").write_bytes(b"x" * 100_000)
    Counting.opened.clear()
    with Counting.open(tmp_path) as root:
        tree = Watched(root, threading.Event())
        found = capture(tree, (), (), 1, TARGET, "a/x-1")
        assert found.check(()) == ()
        for entry in found.outputs["runtime"]:
            if entry.kind is Kind.FILE:
                with open_content(tree, entry.path) as stream:
                    assert digest_bytes(stream.read()) == entry.digest
    assert Counting.opened.pop("usr/share/large") > 2
    assert dict(Counting.opened) == {"usr/bin/c": 1, "usr/share/a": 1, "usr/share/b": 1}
