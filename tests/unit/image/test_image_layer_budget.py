"""Which layers of an image lie together, from one release to the next."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildit.digest import Digest, digest_bytes
from buildit.image.formats.oci import LAYER_BUDGET, LayerPlace, group, write_layers
from buildit.image.formats.table import rootfs_of
from buildit.model.image import Layer, LayerKind
from tests.unit.image.samples import EPOCH, BlobDirectory, directory, file, image

pytestmark = pytest.mark.unit

BUDGET = 99
SAME_CLASS = (1 << 15, (1 << 19) - 1)
"""Sizes that the rule does not tell apart."""


def package(name: str, size: int, version: str = "1.0") -> Layer:
    title = f"lib/{name}-{version} (runtime)"
    return Layer(digest_bytes(f"{title}{size}".encode()), size, title, Digest("0" * 64))


def groups(layers: Sequence[Layer], budget: int = BUDGET) -> set[tuple[Layer, ...]]:
    return {tuple(layers[part.start : part.stop]) for part in group(layers, budget)}


def release(chance: random.Random, count: int, *, uniform: bool = False) -> list[Layer]:
    """Packages with sizes as Debian's have them, from 2 kB to gigabytes."""
    return [
        package(
            f"p{chance.random()}",
            chance.randint(*SAME_CLASS)
            if uniform
            else 2048 + int(chance.lognormvariate(12, 2)) // 512 * 512,
        )
        for _ in range(count)
    ]


@given(st.lists(st.integers(0, 1 << 30), max_size=40), st.integers(1, 45))
def test_groups_hold_all_layers_in_order_within_the_budget(sizes: list[int], budget: int) -> None:
    parts = group([package(f"p{n}", size) for n, size in enumerate(sizes)], budget)
    assert [number for numbers in parts for number in numbers] == list(range(len(sizes)))
    assert len(parts) == min(budget, len(sizes))
    assert all(parts)


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="budget"):
        group([package("a", 1)], 0)


@pytest.mark.parametrize("seed", range(20))
def test_a_changed_package_changes_its_own_group_only(seed: int) -> None:
    chance = random.Random(seed)
    old = release(chance, 200)
    at = chance.randrange(200)
    name = old[at].title[4:].split("-")[0]
    new = list(old)
    new[at] = package(name, old[at].size ^ 1, "2.0-1+deb12u3")
    changed = groups(new) - groups(old)
    assert len(groups(new)) == BUDGET
    assert [new[at] in each for each in changed] == [True]


@pytest.mark.parametrize("seed", range(20))
def test_a_package_of_another_size_moves_two_cuts_at_most(seed: int) -> None:
    chance = random.Random(seed)
    old = release(chance, 200)
    at = chance.randrange(200)
    new = list(old)
    new[at] = replace(old[at], size=old[at].size * 300)
    others = [each for each in groups(new) - groups(old) if new[at] not in each]
    assert len(others) <= 4


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_a_package_that_comes_or_goes_leaves_the_others(seed: int, uniform: bool) -> None:
    """Each cut that moves makes one group of two, or two of one."""
    chance = random.Random(seed)
    old = release(chance, 200, uniform=uniform)
    at = chance.randrange(200)
    more = [*old[:at], *release(chance, 1, uniform=uniform), *old[at:]]
    most = 3 if uniform else 5
    assert len(groups(more) - groups(old)) <= most
    assert len(groups(old) - groups(more)) <= most


def test_layers_of_one_size_are_no_chain() -> None:
    """Merging the smallest neighbours, lowest first, changed every group here."""
    old = [package(f"p{n}", 10240) for n in range(198)]
    new = [package("first", 10240), *old]
    assert len(groups(new) - groups(old)) <= 3


def test_large_packages_and_steps_stay_alone() -> None:
    chance = random.Random(1)
    small = release(chance, 150, uniform=True)
    large = package("gcc", 100_000_000)
    step = replace(package("sync", 512), title="sync ./www", kind=LayerKind.STEP)
    found = groups([*small[:70], large, *small[70:], step], 20)
    assert {(large,), (step,)} <= found


def test_blobs_of_a_changed_release_are_those_of_the_other(blobs: BlobDirectory) -> None:
    """200 packages, one of them changed: as many layers as the budget allows, all but one the same,
    though every title has a new version."""

    def layers(changed: bytes) -> tuple[Layer, ...]:
        return tuple(
            blobs.layer(
                f"lib/p{n}-1.{len(changed)} (runtime)",
                [directory("usr"), file(f"usr/{n}", changed if n == 77 else bytes([n]) * 3)],
            )
            for n in range(200)
        )

    def written(name: str, changed: bytes) -> set[Digest]:
        place = LayerPlace(blobs, blobs.root.with_name(name), "none")
        place.directory.mkdir()
        rootfs = rootfs_of(image(layers(changed), "oci"), blobs)
        return {one.diff_id for one in write_layers(rootfs, EPOCH, place)}

    old, new = written("old", b"old"), written("new", b"anew")
    assert len(old) == len(new) == LAYER_BUDGET
    assert len(new - old) == 1
