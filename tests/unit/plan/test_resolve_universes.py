"""Random universes: what a brute-force search solves is solved, whatever the written order."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from buildit.errors import UnsatisfiableError
from buildit.model.atom import Atom, Version
from buildit.plan.resolve import Demand, resolve
from tests.unit.plan.test_resolve import Shelf, labels

pytestmark = pytest.mark.unit

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "resolver-counter-examples.json"
COUNT = int(os.environ.get("BUILDIT_TEST_UNIVERSES", "150"))
"""How many universes: `BUILDIT_TEST_UNIVERSES=20000` is the whole run."""

Universe = Mapping[str, Mapping[str, Sequence[str]]]
"""Name -> version -> the atoms that it needs."""


def shelf(universe: Universe, flags: Mapping[str, Mapping[str, bool]] | None = None) -> Shelf:
    texts = {}
    for name, versions in universe.items():
        for version, needs in versions.items():
            label = f"{name}-{version}"
            declared = "".join(
                f"  {flag}: {{default: {'on' if value else 'off'}, description: d}}\n"
                for flag, value in (flags or {}).get(label, {}).items()
            )
            use = f"use:\n{declared}" if declared else ""
            texts[label] = use + f"depends: {{link: [{', '.join(map(repr, needs))}]}}"
    return Shelf(texts)


def answer(universe: Universe, roots: Sequence[str], **more: object) -> dict[str, str] | None:
    """What buildit chooses; None where it refuses."""
    demands = tuple(
        Demand(Atom.parse(text), (), f"container.yaml:{number}:1")
        for number, text in enumerate(roots, 1)
    )
    flags = more.get("flags")
    assert flags is None or isinstance(flags, dict)
    preferred = more.get("preferred", {})
    assert isinstance(preferred, dict)
    try:
        found = resolve(demands, shelf(universe, flags), {}, preferred)
    except UnsatisfiableError:
        return None
    return dict(label.rsplit("-", 1) for label in labels(found))


def valid(universe: Universe, roots: Sequence[str], chosen: Mapping[str, str]) -> bool:
    """Whether a choice satisfies all that it reaches, and has no cycle."""
    pending = [Atom.parse(text) for text in roots]
    seen: set[str] = set()
    edges: dict[str, set[str]] = {}
    while pending:
        atom = pending.pop()
        version = chosen.get(atom.name)
        if version is None or not atom.matches_version(atom.name, Version.parse(version)):
            return False
        if atom.name in seen:
            continue
        seen.add(atom.name)
        needs = [Atom.parse(text) for text in universe[atom.name][version]]
        edges[atom.name] = {need.name for need in needs}
        pending += needs
    return seen == set(chosen) and not cyclic(edges)


def cyclic(edges: Mapping[str, set[str]]) -> bool:
    left = {name: set(needs) for name, needs in edges.items()}
    while left:
        done = {name for name, needs in left.items() if not needs & set(left)}
        if not done:
            return True
        left = {name: needs for name, needs in left.items() if name not in done}
    return False


def every_choice(universe: Universe) -> Iterator[dict[str, str]]:
    names = sorted(universe)
    for versions in itertools.product(*([None, *sorted(universe[name])] for name in names)):
        yield {name: v for name, v in zip(names, versions, strict=True) if v is not None}


def random_universe(seed: int) -> tuple[Universe, list[str]]:
    chance = random.Random(seed)
    names = [f"a/p{n}" for n in range(chance.randint(2, 5))]

    def atom(name: str) -> str:
        number = chance.randint(1, 4)
        return chance.choice(
            [
                name,
                f">={name}-{number}",
                f"<={name}-{number}",
                f"={name}-{number}*",
                f"~{name}-{number}",
            ]
        )

    universe: dict[str, dict[str, list[str]]] = {}
    for index, name in enumerate(names):
        universe[name] = {}
        for version in chance.sample("1234", chance.randint(1, 3)):
            # mostly downwards; now and then upwards, where a cycle may be
            below = names[index + 1 :] if chance.random() < 0.9 else names
            others = [one for one in below if one != name]
            wanted = chance.sample(others, min(len(others), chance.randint(0, 2)))
            universe[name][version] = [atom(one) for one in wanted]
    roots = [atom(name) for name in chance.sample(names, chance.randint(1, 2))]
    return universe, roots


def newer(universe: Universe, roots: Sequence[str], found: Mapping[str, str]) -> list[str]:
    """Packages that could be newer while all others stay: there may be none."""
    return [
        f"{name}-{other}"
        for name, version in found.items()
        for other in universe[name]
        if Version.parse(other) > Version.parse(version)
        and valid(universe, roots, {**found, name: other})
    ]


@pytest.mark.scale
@pytest.mark.parametrize("block", range(10))
def test_what_can_be_solved_is_solved_in_any_order(block: int) -> None:
    solved = 0
    for seed in range(block * COUNT // 10, (block + 1) * COUNT // 10):
        universe, roots = random_universe(seed)
        can = any(valid(universe, roots, choice) for choice in every_choice(universe))
        found = answer(universe, roots)
        assert (found is not None) == can, (seed, universe, roots, found)
        turned = {
            name: {version: needs[::-1] for version, needs in reversed(list(versions.items()))}
            for name, versions in reversed(list(universe.items()))
        }
        assert answer(turned, roots[::-1]) == found, (seed, universe, roots)
        if found is not None:
            solved += 1
            assert valid(universe, roots, found), (seed, universe, roots, found)
            assert newer(universe, roots, found) == [], (seed, universe, roots, found)
    assert solved, "no universe of this block has an answer"


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text()), ids=lambda case: case["kind"])
def test_the_counter_examples_are_solved(case: Mapping[str, object]) -> None:
    raw = case["universe"]
    assert isinstance(raw, dict)
    universe: Universe = {
        name: {version: [atom for _, atom in one["deps"]] for version, one in versions.items()}
        for name, versions in raw.items()
    }
    flags = {
        f"{name}-{version}": one["flags"]
        for name, versions in raw.items()
        for version, one in versions.items()
    }
    roots = case["roots"]
    assert isinstance(roots, list)
    found = answer(universe, roots, flags=flags)
    assert found is not None
    assert answer(universe, roots[::-1], flags=flags) == found
    known = case.get("a valid answer", case.get("a solution"))
    assert isinstance(known, dict)
    assert set(found) == set(known)
    if case["kind"] != "stale":
        assert found == known


def test_ranges_and_several_demands_on_one_package() -> None:
    universe: Universe = {
        "a/app": {"1": [">=a/lib-1.2", "<a/lib-2"]},
        "a/lib": {"1.1": [], "1.2": [], "1.9": [], "2": []},
    }
    assert answer(universe, ["a/app"]) == {"a/app": "1", "a/lib": "1.9"}
    assert answer(universe, ["a/app", "<a/lib-1.9"]) == {"a/app": "1", "a/lib": "1.2"}
    assert answer(universe, ["a/app"], preferred={"a/lib": "1.2"}) == {"a/app": "1", "a/lib": "1.2"}


def test_a_stale_lock_refuses_nothing() -> None:
    universe: Universe = {
        "a/app": {"1": ["a/x", "a/y"]},
        "a/x": {"1": ["<=a/lib-1"], "2": [">=a/lib-2"]},
        "a/y": {"1": [">=a/lib-2"]},
        "a/lib": {"1": [], "2": []},
    }
    locked = {"a/x": "1", "a/lib": "1"}
    assert answer(universe, ["a/app"], preferred=locked) == {
        "a/app": "1",
        "a/x": "2",
        "a/y": "1",
        "a/lib": "2",
    }


def test_the_change_that_would_do_was_tried() -> None:
    universe: Universe = {
        "a/x": {"1": ["<a/lib-2"]},
        "a/y": {"1": [">=a/lib-2"]},
        "a/lib": {"1": [], "2": []},
    }
    demands = tuple(Demand(Atom.parse(text), (), f"c:{text}") for text in ("a/x", "a/y"))
    with pytest.raises(UnsatisfiableError) as caught:
        resolve(demands, shelf(universe), {}, {})
    assert "without <a/lib-2 (a/x-1.yaml:1:18), a/lib-2 fits" in (caught.value.hint or "")


def test_what_a_newer_choice_does_without_is_gone() -> None:
    """Seed 19693: the search finds p0-1, which needs p2; then p0-3 fits, which needs nothing."""
    universe: Universe = {
        "a/p0": {"4": ["=a/p2-2*", "<=a/p1-4"], "3": [], "1": ["<=a/p2-3"]},
        "a/p1": {"4": ["<=a/p0-2"], "1": []},
        "a/p2": {"4": [], "1": [], "2": []},
    }
    found = answer(universe, ["a/p0"])
    assert found is not None
    assert valid(universe, ["a/p0"], found)
    assert newer(universe, ["a/p0"], found) == []
