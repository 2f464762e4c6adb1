from __future__ import annotations

import pytest

from buildit.make.package import environment_of
from buildit.plan.identity import BuildInputs
from tests.making import inputs

pytestmark = pytest.mark.unit


def record(**environment: str) -> BuildInputs:
    return inputs(environment=environment)


def test_a_build_knows_its_epoch_and_how_many_jobs_may_run() -> None:
    env = environment_of(record(CFLAGS="-O2"), 1_600_000_000)
    assert int(env.pop("JOBS")) >= 1
    assert env == {"CFLAGS": "-O2", "SOURCE_DATE_EPOCH": "1600000000"}


def test_a_recipe_may_say_how_many_jobs_its_makefile_bears() -> None:
    """It is in the record, so it must count."""
    assert environment_of(record(JOBS="1", SOURCE_DATE_EPOCH="7"), 5) == {
        "JOBS": "1",
        "SOURCE_DATE_EPOCH": "7",
    }
