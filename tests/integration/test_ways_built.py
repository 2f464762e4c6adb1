"""Flockport recipes and manifests that are built as they lie there; a few of each in CI, all with
BUILDIT_TEST_WHOLE=1."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.integration.program import Done
from tests.integration.seeds import Seed
from tests.scale import WHOLE
from tests.ways_corpus import FLOCKPORT, MANIFESTS, set_words

pytestmark = pytest.mark.sandbox

_SAMPLE = ("cache", "by-platform", "matrix-of-one", "shared")


def _tried(every: tuple[Path, ...]) -> tuple[Path, ...]:
    return tuple(one for one in every if WHOLE or one.name in _SAMPLE)


def built(seed: Seed, recipe: Path, here: Path, *words: str) -> Done:
    box = here / recipe.name
    if not box.exists():
        shutil.copytree(recipe, box)
    asked = (str(box), "--output", str(here / "out"), *words)
    return seed.program.run(*asked)


def test_there_are_ten_of_each() -> None:
    assert (len(FLOCKPORT), len(MANIFESTS)) == (10, 10)


@pytest.mark.parametrize("recipe", _tried(FLOCKPORT), ids=lambda one: one.name)
def test_flockport_recipes(seed: Seed, here: Path, recipe: Path) -> None:
    (image,) = built(seed, recipe, here, "--image", "oci").good().images()
    script = (recipe / "check").read_text()
    seed.program.run("run", str(image), "--", "/bin/sh", "-ec", script).good()
    lock = (here / recipe.name / "buildit.lock").read_text()
    assert "\ndeb suite:debian-12 " in lock
    assert "\ndeb run:" in lock  # what apt installs is exact
    again = built(seed, recipe, here, "--image", "oci", "--locked", "--offline").good()
    assert "built in" not in again.err


@pytest.mark.parametrize("recipe", _tried(MANIFESTS), ids=lambda one: one.name)
def test_manifests(seed: Seed, here: Path, recipe: Path) -> None:
    said = set_words(recipe.name)
    first = built(seed, recipe, here, *said).good()
    assert "test " in first.err
    (image,) = first.images()
    digest = (image / "index.json").read_bytes()
    # what was said is in the lock: without it the same comes out, and something else is refused
    again = built(seed, recipe, here, "--locked").good()
    assert (again.images()[0] / "index.json").read_bytes() == digest
    if said:
        name, _, _ = said[1].partition("=")
        other = built(seed, recipe, here, *said, "--set", f"{name}=another", "--locked")
        assert other.code == 3
        assert f"fact {name} moves from" in other.err


def test_a_test_that_fails_leaves_no_image(seed: Seed, here: Path) -> None:
    recipe = next(one for one in MANIFESTS if one.name == "matrix-of-one")
    box = here / recipe.name
    shutil.copytree(recipe, box)
    file = box / "manifest.yaml"
    file.write_text(f"{file.read_text()}  - test -e /nowhere\n")
    done = built(seed, recipe, here, *set_words(recipe.name))
    assert done.code == 1
    assert "matrix-of-one/manifest.yaml:10:" in done.err
    assert "$ test -e /nowhere" in done.err  # the command that was the last
    assert not list((here / "out").glob("*"))
