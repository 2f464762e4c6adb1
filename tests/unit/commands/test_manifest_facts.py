"""What a manifest asked for: pinned in the lock, so that another machine gives the same."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from buildit.commands.choose import Choice, choose
from buildit.commands.run import LOCK_FILE, Options
from buildit.errors import BuilditError
from buildit.model.config import Config
from buildit.model.recipe import RecipeOptions
from buildit.plan.lock import Lock, Section, changes, format_lock
from buildit.recipe.config import Loaded
from tests.planning import PLATFORM

pytestmark = pytest.mark.unit

MANIFEST = """\
language: debian:12
env:
  WHO: "{{ project }}"
  WHERE: "{{ hostname }}"
  WHEN: "{{ date }}"
  WHAT: "{{ os }}/{{ arch }}"
  EACH: "{{ parts | join('+') }}"
"""


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUILDIT_STORE", str(tmp_path / "store"))
    (tmp_path / "manifest.yaml").write_text(MANIFEST)
    return tmp_path


def chosen(box: Path, *update: str, **values: str) -> Choice:
    recipe = RecipeOptions(values=tuple(values.items()))
    options = Options(box, recipe=recipe, update=update)
    return choose(options, Loaded(Config(box / "store", 1), ()))


def environment(choice: Choice) -> dict[str, str]:
    found: dict[str, str] = {}
    for step in choice.container.steps:
        found |= step.spec.env or {}
    return found


def pin(box: Path, facts: dict[str, str]) -> None:
    lock = Lock().with_section(str(PLATFORM), Section(facts=facts))
    (box / LOCK_FILE).write_text(format_lock(lock))


def test_they_are_the_machines_and_the_command_lines_at_first(box: Path) -> None:
    choice = chosen(box, project="web", parts="[a, b]")
    found = environment(choice)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found.pop("WHEN"))
    here = f"{PLATFORM.os}/{PLATFORM.arch}"
    assert found == {"WHO": "web", "WHERE": os.uname().nodename, "WHAT": here, "EACH": "a+b"}
    facts = dict(choice.container.facts)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", facts.pop("date"))
    # a section of the lock is of a platform: os and arch are said by that
    assert facts == {"project": "web", "hostname": os.uname().nodename, "parts": '["a", "b"]'}


PINNED = {"project": "web", "hostname": "far", "date": "2001-02-03", "parts": '["x", "y"]'}


def test_what_is_pinned_counts(box: Path) -> None:
    pin(box, PINNED)
    choice = chosen(box)
    found = environment(choice)
    assert (found["WHO"], found["WHERE"], found["WHEN"]) == ("web", "far", "2001-02-03")
    assert found["EACH"] == "x+y"
    assert dict(choice.container.facts) == PINNED


def test_what_is_given_moves_it(box: Path) -> None:
    pin(box, PINNED)
    choice = chosen(box, project="other")
    assert environment(choice)["WHO"] == "other"
    told = changes(choice.section, Section(facts=choice.container.facts))
    assert told == ("fact project moves from web to other",)


def test_an_update_moves_what_it_names(box: Path) -> None:
    pin(box, PINNED)
    found = environment(chosen(box, "hostname"))
    assert (found["WHERE"], found["WHEN"]) == (os.uname().nodename, "2001-02-03")
    found = environment(chosen(box, "*"))  # everything: but what was given is known from here alone
    assert (found["WHO"], found["WHERE"]) == ("web", os.uname().nodename)
    assert found["WHEN"] != "2001-02-03"
    with pytest.raises(BuilditError, match="'project' is not defined"):
        chosen(box, "project")


def test_what_nothing_asks_for_is_not_pinned(box: Path) -> None:
    (box / "manifest.yaml").write_text("language: debian:12\nenv: {A: '{{ date }}'}\n")
    pin(box, PINNED)
    assert dict(chosen(box).container.facts) == {"date": "2001-02-03"}
