"""`run` steps from the file to the stack of layers, without running one."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.commands.running import run_of_step
from buildit.commands.said import listed_steps
from buildit.digest import Digest
from buildit.errors import RecipeError
from buildit.image.merge import LayerChange, Overlay
from buildit.make.makers import is_shared
from buildit.make.run_task import run_task
from buildit.model.image import Layer, LayerKind
from buildit.model.plan import RunStep
from buildit.model.platform import build_platform
from buildit.model.tree import Entry, Kind
from buildit.recipe.lists import load_container

pytestmark = pytest.mark.unit

VARS = "- vars: {author: me, name: web, version: 1.0}\n"


def planned(tmp_path: Path, text: str) -> RunStep:
    (tmp_path / "container.yaml").write_text(f"{VARS}- run: {text}\n")
    step = load_container(tmp_path).steps[1]
    assert step.spec.run is not None
    return run_of_step(step.spec.run, step)


def test_a_script_is_no_template_and_its_environment_is(tmp_path: Path) -> None:
    text = "{script: 'echo {{ name }} {% if', env: {NAME: '{{ name }}'}}"
    step = planned(tmp_path, text)
    assert step.argv == ("/bin/sh", "-ec", "echo {{ name }} {% if")
    assert step.environment == (("NAME", "web"),)
    assert (step.ids, step.said) == ("range", "echo {{ name }} {% if")
    assert step.place.endswith("container.yaml:2:3")


def test_a_program_has_templates_in_its_words(tmp_path: Path) -> None:
    step = planned(tmp_path, "{exec: [adduser, '{{ name }}'], ids: one, network: no}")
    assert (step.argv, step.ids, step.said) == (("adduser", "web"), "one", "adduser web")


def test_a_network_is_marked(tmp_path: Path) -> None:
    assert not planned(tmp_path, "{script: x, network: no}").network
    step = planned(tmp_path, "{script: x, network: yes}")
    assert step.network
    platform = str(build_platform(os.uname().machine))
    tasks = [run_task(one, (), (), 1, platform) for one in (step, replace(step, network=False))]
    # with one, it is neither asked for at a binhost nor published to one
    assert [is_shared(one) for one in tasks] == [False, True]
    assert [json.loads(one.record)["network"] for one in tasks] == ["yes", "no"]
    (listed,) = listed_steps(load_container(tmp_path))[1:]
    assert listed.text == "x (with a network)"


def test_people_see_the_beginning_of_a_long_command(tmp_path: Path) -> None:
    assert planned(tmp_path, f"{{exec: [x, {'y' * 100}]}}").said == f"x {'y' * 58}…"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{script: x, exec: [x]}", "`run` is a script or a program"),
        ("{env: {A: b}}", "`run` is a script or a program"),
        ("{script: x, ids: two}", "ids"),
        ("{script: ''}", "script"),
    ],
)
def test_what_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        planned(tmp_path, text)
    assert said in f"{error.value.message} {error.value.place}"
    assert error.value.hint


# -- the layer that it left, in the stack

FILE = Entry("d/f", Kind.FILE, 0o644, 5, size=1, digest=Digest("1" * 64))
FOLDER = Entry("d", Kind.DIRECTORY, 0o755, 5)


def stacked(kind: LayerKind, *changes: LayerChange) -> Overlay:
    """Each change as a layer, the first of a package, the others of a kind."""
    overlay = Overlay()
    for number, change in enumerate(changes):
        who = kind if number else LayerKind.PACKAGE
        layer = Layer(Digest(f"{number}" * 64), 1, f"layer {number}", Digest("a" * 64), who)
        overlay.lay(layer, change.spelt())
    return overlay


@pytest.mark.parametrize(
    "change",
    [
        LayerChange((Entry("d", Kind.FILE, 0o644, 5, digest=Digest("2" * 64)),)),
        LayerChange((FOLDER, Entry("d/f", Kind.DIRECTORY, 0o755, 5))),
        LayerChange((FOLDER,), ("d/f",)),
        LayerChange((replace(FOLDER, mode=0o700),), (), ("d",)),
    ],
)
def test_what_a_command_did_counts_as_it_is(change: LayerChange) -> None:
    below = LayerChange((FOLDER, FILE))
    found = stacked(LayerKind.RUN, below, change).rootfs(0)
    wanted = {"d": FOLDER, "d/f": FILE}
    for path in change.deleted:
        del wanted[path]
    if change.opaque or change.entries[0].kind is Kind.FILE:
        del wanted["d/f"]
    wanted |= {entry.path: entry for entry in change.entries}
    assert {path: member.entry for path, member in found.tree.items()} == wanted


def test_a_step_of_files_may_not_turn_a_directory_into_a_file() -> None:
    change = LayerChange((Entry("d", Kind.FILE, 0o644, 5, digest=Digest("2" * 64)),))
    with pytest.raises(RecipeError, match="layers clash"):
        stacked(LayerKind.STEP, LayerChange((FOLDER, FILE)), change).rootfs(0)
