"""The record of a `run` step: everything that can change its layer, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from buildit.digest import Digest
from buildit.errors import IntegrityError
from buildit.make.run_task import run_task
from buildit.model.plan import LayerRef, RunStep
from buildit.model.tree import Entry, Kind
from buildit.plan.identity import build_key, read_run_record, record_text

pytestmark = pytest.mark.unit

STEP = RunStep(("/bin/sh", "-ec", "x"), (("A", "1"),), "range", "x", "container.yaml:3:3")
BELOW = (LayerRef(Digest("1" * 64), Digest("2" * 64)), LayerRef(Digest("3" * 64), Digest("4" * 64)))
TMP = Entry("tmp", Kind.DIRECTORY, 0o1777, 5)
TASK = run_task(STEP, BELOW, (), 7, "linux/amd64")


def test_a_record_is_what_its_maker_reads() -> None:
    found = read_run_record(TASK.record)
    assert record_text(found.record()) == TASK.record
    assert build_key(TASK.record) == TASK.key
    assert (found.argv, found.ids, found.epoch, found.network) == (STEP.argv, "range", 7, False)
    assert found.below == ("1" * 64, "3" * 64)
    assert (found.environment["A"], found.environment["SOURCE_DATE_EPOCH"]) == ("1", "7")
    assert json.loads(TASK.record)["type"] == "run"


@pytest.mark.parametrize(
    "other",
    [
        run_task(replace(STEP, argv=("/bin/sh", "-ec", "y")), BELOW, (), 7, "linux/amd64"),
        run_task(replace(STEP, environment=(("A", "2"),)), BELOW, (), 7, "linux/amd64"),
        run_task(replace(STEP, ids="one"), BELOW, (), 7, "linux/amd64"),
        run_task(STEP, BELOW[::-1], (), 7, "linux/amd64"),
        run_task(STEP, BELOW[:1], (), 7, "linux/amd64"),
        run_task(STEP, BELOW, (TMP,), 7, "linux/amd64"),
        run_task(STEP, BELOW, (), 8, "linux/amd64"),
        run_task(STEP, BELOW, (), 7, "linux/arm64"),
    ],
)
def test_each_input_is_in_the_key(other: object) -> None:
    assert getattr(other, "key", TASK.key) != TASK.key


def test_what_people_are_told_is_not() -> None:
    told = replace(STEP, said="y", place="container.yaml:9:3")
    assert run_task(told, BELOW, (), 7, "linux/amd64").key == TASK.key
    other_listing = tuple(replace(one, contents=Digest("5" * 64)) for one in BELOW)
    assert run_task(STEP, other_listing, (), 7, "linux/amd64").key == TASK.key


def test_another_scheme_is_refused() -> None:
    data = {**json.loads(TASK.record), "scheme": "0"}
    with pytest.raises(IntegrityError):
        read_run_record(record_text(data))
