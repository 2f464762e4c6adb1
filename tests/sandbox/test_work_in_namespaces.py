"""Work that is done as root of a user namespace: what goes wrong there comes back as it was."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from buildit.errors import BuildError, BuilditError, IntegrityError, StoreError, UsageError
from buildit.sandbox.container import removed
from buildit.sandbox.owned import OwnedTrees
from buildit.sandbox.spaces import IdMap, in_namespace, namespace, one_id

pytestmark = pytest.mark.sandbox


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ended() -> None:
    os._exit(7)


@pytest.mark.parametrize(
    ("work", "said"), [(killed, "was killed by signal 9"), (ended, "ended with status 7")]
)
def test_work_that_dies_without_a_word_is_not_taken_as_done(
    tmp_path: Path, work: Callable[[], None], said: str
) -> None:
    with pytest.raises(BuildError, match=said):
        in_namespace(one_id(0, 0), work, tmp_path)


@pytest.mark.parametrize("kind", [BuildError, IntegrityError, StoreError, UsageError])
def test_an_error_comes_back_as_what_it_is(tmp_path: Path, kind: type[BuilditError]) -> None:
    def work() -> None:
        raise kind("it went wrong", place="a place", hint="a hint")

    with pytest.raises(kind) as caught:
        in_namespace(one_id(0, 0), work, tmp_path)
    assert type(caught.value) is kind
    assert (caught.value.place, caught.value.hint) == ("a place", "a hint")


def test_a_namespace_that_cannot_be_says_why() -> None:
    twice = ((0, 0, 1), (0, 1, 1))
    with (
        pytest.raises(OSError, match="Invalid argument"),
        namespace(IdMap(twice, twice, by_root=True)),
    ):
        pass


def test_trees_deeper_than_the_stack_are_removed(tmp_path: Path) -> None:
    top, held = tmp_path / "tree", os.open(tmp_path, os.O_RDONLY)
    for name in ("tree", *["d"] * 1500):
        os.mkdir(name, dir_fd=held)
        deeper = os.open(name, os.O_RDONLY, dir_fd=held)
        os.close(held)
        held = deeper
    os.close(held)
    try:
        removed([str(top), str(tmp_path / "absent")])()
        assert not top.exists()
    finally:  # pytest could not
        subprocess.run(["rm", "-rf", top], check=True)


def test_a_tree_that_another_run_has_made_meanwhile_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(work: Path) -> bytes:
        (work / "tree").mkdir()
        return b"whole"

    def late(_number: int, _frame: object) -> None:
        raise TimeoutError

    first, second = (OwnedTrees.opened(tmp_path, one_id(0, 0)) for _ in "12")
    kept, looks = OwnedTrees._kept, [None]

    def not_yet(self: OwnedTrees, name: str, is_known: Callable[[bytes], bool]) -> bytes | None:
        return looks.pop() if looks else kept(self, name, is_known)

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    try:
        with first.tree("one", fill):
            monkeypatch.setattr(OwnedTrees, "_kept", not_yet)
            with second.tree("one", fill) as (tree, facts):
                assert (tree, facts) == (tmp_path / "one.tree", b"whole")
        assert looks == []
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
