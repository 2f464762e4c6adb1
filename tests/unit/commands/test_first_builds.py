"""What is built before a container: each once, and at the same time what does not need another."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from buildit.commands.below import FirstBuilds
from buildit.commands.run import Options, Unbuilt
from buildit.errors import BuildError
from buildit.events import silent
from buildit.model.recipe import RecipeOptions

pytestmark = pytest.mark.unit


def unbuilt(stage: str) -> Unbuilt:
    options = Options(Path("box"), recipe=RecipeOptions(stage=stage))
    return Unbuilt(options, "box/Dockerfile:1:1", "it is new")


def test_stages_that_do_not_need_each_other_are_built_at_once() -> None:
    both = threading.Barrier(2, timeout=30)  # broken where one waits for the other's end
    made: list[str] = []

    def make(asked: Options) -> None:
        both.wait()
        made.append(asked.recipe.stage)

    FirstBuilds(make, 2, silent).build([unbuilt("a"), unbuilt("b")])
    assert sorted(made) == ["a", "b"]


def test_one_that_several_lack_is_built_once() -> None:
    made: list[str] = []

    def make(asked: Options) -> None:
        made.append(asked.recipe.stage)
        if asked.recipe.stage != "common":
            first.build([unbuilt("common")])

    first = FirstBuilds(make, 2, silent)
    first.build([unbuilt("a"), unbuilt("b")])
    assert sorted(made) == ["a", "b", "common"]


def test_one_that_fails_is_told_once_the_others_have_ended() -> None:
    begun, made = threading.Event(), []

    def make(asked: Options) -> None:
        if asked.recipe.stage == "bad":
            begun.set()
            raise BuildError("it failed", place="box/Dockerfile:3:1")
        assert begun.wait(30)
        made.append(asked.recipe.stage)

    with pytest.raises(BuildError, match="it failed"):
        FirstBuilds(make, 2, silent).build([unbuilt("bad"), unbuilt("good")])
    assert made == ["good"]


def test_one_job_is_one_after_the_other() -> None:
    running: list[str] = []

    def make(asked: Options) -> None:
        assert not running
        running.append(asked.recipe.stage)
        running.clear()

    FirstBuilds(make, 1, silent).build([unbuilt("a"), unbuilt("b"), unbuilt("c")])
