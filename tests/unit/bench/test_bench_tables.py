"""What the benchmarks say of their samples, and the graphs that they measure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import graphs
from bench.tables import Table, Verdict, ahead, plain, ratio, row, rows, text
from bench.timing import BenchError, Sample, Side, interleaved, process

pytestmark = pytest.mark.unit


def samples(*walls: float) -> list[Sample]:
    return [Sample(wall, wall / 2, 10 * wall) for wall in walls]


FOUND = {"ours": samples(3.0, 1.0, 2.0), "theirs": samples(4.0, 5.0, 3.0)}


def test_a_row_takes_the_median_the_minimum_and_the_largest_peak() -> None:
    made = row("ours", FOUND["ours"])
    assert (made.median, made.minimum, made.cpu, made.peak, made.runs) == (2.0, 1.0, 1.0, 30.0, 3)


def test_ratios_compare_ours_to_theirs() -> None:
    medians, minima, cpu = ratio(FOUND, "ours", "theirs", 0.6)
    assert (medians.value, cpu.value) == (0.5, 0.5)
    assert minima.value == pytest.approx(1 / 3)
    assert medians.reached
    assert minima.reached is None
    assert not ratio(FOUND, "theirs", "ours", 1.9)[0].reached


def test_being_ahead_is_a_target_from_below() -> None:
    assert ahead(FOUND, "ours", "theirs", 2.0).reached
    assert not ahead(FOUND, "ours", "theirs", 2.1).reached


def test_a_table_names_what_was_missed() -> None:
    verdicts = (Verdict("a", 2.0, "x", 1.5), Verdict("b", 1.0, "x", 1.5))
    table = Table("P0", "nothing", rows(FOUND), verdicts, ("a remark",))
    told = text(table)
    assert "| a | 2 x | <= 1.5 x | **missed** |" in told
    assert "| b | 1 x | <= 1.5 x | reached |" in told
    assert "- a remark" in told
    assert json.loads(json.dumps(plain([table], {"cores": "2"})))["tables"][0]["name"] == "P0"


def test_rounds_are_interleaved_and_begin_with_another_side_each() -> None:
    order: list[str] = []

    def side(name: str) -> Side:
        def run() -> Sample:
            order.append(name)
            return Sample(1, 1, 1)

        return Side(name, run, lambda: order.append(f"before {name}"))

    interleaved((side("a"), side("b")), 2)
    assert order == [
        "before a", "a", "before b", "b", "before b", "b", "before a", "a",
    ]  # fmt: skip


def test_a_process_that_fails_has_no_figure(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = process(["sh", "-c", 'echo "$WORD"; pwd'], cwd=tmp_path, log=log, env={"WORD": "yes"})
    assert done.seconds > 0
    assert log.read_text() == f"yes\n{tmp_path}\n"
    with pytest.raises(BenchError, match="ended with 3:\nwhy"):
        process(["sh", "-c", "echo why; exit 3"], cwd=tmp_path, log=log)


@pytest.mark.parametrize("count", [1, 2, 100, 1000])
def test_each_builder_gets_the_same_graph(count: int) -> None:
    edges = {(i, n) for i in range(count) for n in graphs.needs(i, count)}
    assert {n for _, n in edges} == set(range(1, count))
    assert all(i < n for i, n in edges)
    recipes = graphs.recipes(count, "salt")
    assert len(recipes) == count
    assert sum(text.count("    - bench/") for text in recipes.values()) == len(edges)
    assert graphs.nix(count, "salt").count(" = make ") == count
    for made in (graphs.make(count), graphs.ninja(count)):
        assert made.count(".done") - count - 1 == len(edges)
    assert not set(recipes.values()) & set(graphs.recipes(count, "other").values())
