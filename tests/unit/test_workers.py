"""Several workers of one test run: their order, their units of work, what they share."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.workers import made_once, unit_of_work

pytestmark = pytest.mark.unit


def test_a_file_is_one_worker_s_and_so_is_all_of_e2e() -> None:
    assert unit_of_work("tests/unit/test_a.py::Test::test_b[x::y]") == "tests/unit/test_a.py"
    assert unit_of_work("tests/e2e/test_demo.py::test_a") == "tests/e2e"
    assert unit_of_work("tests/e2e/test_flags.py::test_b") == "tests/e2e"


def test_what_workers_share_is_made_once_and_removed_by_the_last(tmp_path: Path) -> None:
    calls: list[str] = []
    both = threading.Barrier(2, timeout=60)

    def make() -> str:
        calls.append("made")
        return "thing"

    def work() -> None:
        with made_once(
            tmp_path / "common", make, lambda made: calls.append(f"{made} gone")
        ) as made:
            both.wait()
            calls.append(made)
            both.wait()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["made", "thing", "thing", "thing gone"]
    with made_once(tmp_path / "common", make, lambda _: None) as made:
        assert (made, calls[-1]) == ("thing", "made")


def test_what_could_not_be_made_is_tried_by_the_next(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), made_once(tmp_path / "x", lambda: 1 // 0, print):
            pass
    with made_once(tmp_path / "x", lambda: 1, lambda _: None) as made:
        assert made == 1
