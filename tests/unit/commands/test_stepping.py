"""Which step of a container is meant, and how many layers lie up to it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from buildit.commands.stepping import find_step, layers_until, step_said
from buildit.digest import Digest
from buildit.errors import UsageError
from buildit.model.listed import ListedStep
from buildit.model.plan import ContainerPlan, DirectoriesStep, RunStep, Toolchain

pytestmark = pytest.mark.unit

LISTED = (
    ListedStep("vars", "name", "box/container.yaml:1:3"),
    ListedStep("directories", "/srv", "box/container.yaml:2:3"),
    ListedStep("run", "one", "box/container.yaml:12:3"),
    ListedStep("app", "/bin/x", "lists/web.yaml:2:3"),
    ListedStep("run", "two", "lists/web.yaml:1:3"),
)
RUN = RunStep(("x",), (), "range", "x", "x:1:1")
PLAN = ContainerPlan(
    *("box", "", "web", "1", "linux", "amd64"),
    Toolchain("toolchain/none", "linux/amd64", Digest("0" * 64), ()),
    (),
    (DirectoriesStep((), "x:2:3"), RUN, RUN),
    (),
    None,
    listed=LISTED,
)


@pytest.mark.parametrize(
    ("wanted", "number"),
    [
        ("1", 1),
        ("5", 5),
        ("container.yaml:1", 1),
        ("box/container.yaml:12", 3),
        ("container.yaml:12:3", 3),
        ("web.yaml:2", 4),
        ("app", 4),
    ],
)
def test_a_step_is_named_by_number_place_or_kind(wanted: str, number: int) -> None:
    assert find_step(LISTED, wanted) == number


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("0", "there is no step 0: the container has 5"),
        ("6", "there is no step 6"),
        ("run", "2 steps are called 'run'"),
        ("container.yaml:3", "no step is called"),
        ("ontainer.yaml:1", "no step is called"),
        ("sync", "no step is called 'sync'"),
        ("", "no step is called ''"),
    ],
)
def test_what_names_none_or_several(wanted: str, said: str) -> None:
    with pytest.raises(UsageError, match="step") as error:
        find_step(LISTED, wanted)
    assert said in error.value.message
    assert error.value.hint


def test_steps_without_layers_count_for_none() -> None:
    assert [layers_until(PLAN, number) for number in range(6)] == [0, 0, 1, 2, 2, 3]
    assert layers_until(replace(PLAN, steps=()), 5) == 0


def test_a_step_in_words() -> None:
    assert step_said(PLAN, 3) == "step 3, run one (box/container.yaml:12:3)"
