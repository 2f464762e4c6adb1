"""Early cut-off over a real store: what is found, from where, and what is not believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from buildit.digest import BuildKey, Digest
from buildit.errors import FetchError
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.model.config import Https
from buildit.model.plan import Dependency, Inputs, Task
from buildit.plan.identity import build_key, record_text, resolved_key
from buildit.remote.binhost.binhost import Binhost
from buildit.remote.binhost.nearby import Repetitions, cut_off
from buildit.store.artifacts import (
    Found,
    anything,
    commit,
    entry_bytes,
    entry_name,
    lookup,
    place_statement,
)
from buildit.store.attest import LOCAL, statement_bytes
from buildit.store.cas import Store
from tests.fakes import MemoryRemote

pytestmark = pytest.mark.unit

BYTES, OTHER = Digest("1" * 64), Digest("2" * 64)
BUILDER = "b" * 64


def library(recipe: str, diff_id: Digest = BYTES) -> Artifact:
    output = Output(diff_id, 1, Digest("3" * 64))
    key = build_key(record_text({"type": "package", "recipe": recipe}))
    return Artifact(key, "libs/greet", "1", "linux/amd64", {RUNTIME: output}, Digest("4" * 64))


def app(dependency: Artifact, **more: str) -> Task:
    record = record_text(
        {
            "type": "package",
            "name": "app/hello",
            "dependencies": [{"key": dependency.key, "outputs": ["dev", RUNTIME]}],
            **more,
        }
    )
    deps = (Dependency(dependency.key, ("dev", RUNTIME)),)
    return Task(build_key(record), "package", "app/hello", "1.0", record, inputs=Inputs(deps))


def built(node: Task, dependency: Artifact, store: Store) -> Artifact:
    layer = b"hello"
    need = "soname:libgreet.so.1"
    providers = {need: f"{dependency.key}:{RUNTIME}"}
    output = Output(
        store.put_bytes(layer), len(layer), store.put_bytes(b"contents"), (need,), providers
    )
    return Artifact(
        node.key,
        node.name,
        node.version,
        "linux/amd64",
        {RUNTIME: output},
        store.put_bytes(node.record.encode()),
        resolved={dependency.key: {RUNTIME: dependency.outputs[RUNTIME].diff_id}},
    )


class Host(Binhost):
    """A binhost in memory: entries by path, and what a pull brings into the store."""

    asked: list[str]
    bring: Callable[[BuildKey], Artifact | None]

    def __init__(
        self,
        entries: dict[str, bytes] | None = None,
        bring: Callable[[BuildKey], Artifact | None] = lambda _: None,
        *,
        dead: bool = False,
    ) -> None:
        there = MemoryRemote(Https("https://far.example/b"))
        there.files |= entries or {}
        there.transport.dead = dead
        super().__init__("far", there, lambda *_: None, (BUILDER,))
        object.__setattr__(self, "bring", bring)
        object.__setattr__(self, "asked", there.transport.asked)

    def pull(
        self, key: BuildKey, store: Store, suits: Callable[[Artifact], str | None] = anything
    ) -> Artifact | None:
        artifact: Artifact | None = self.bring(key)
        if artifact is None or suits(artifact) is not None:
            return None
        content = statement_bytes(artifact, BUILDER)
        place_statement(store, artifact, BUILDER, content, b"signature", origin=self.name)
        return artifact


@dataclass
class World:
    store: Store
    old: Artifact = field(default_factory=lambda: library("old"))
    new: Artifact = field(default_factory=lambda: library("new"))
    hosts: tuple[Host, ...] = ()

    def cut_off(
        self, node: Task, dependency: Artifact | None = None
    ) -> tuple[Artifact, str] | None:
        at_hand = {self.new.key: dependency or self.new}
        return cut_off(
            node, at_hand, Repetitions(self.store, self.hosts), lambda one, _: keep(self.store, one)
        )


def keep(store: Store, artifact: Artifact) -> None:
    commit(store, artifact)


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


def test_identical_bytes_under_another_key_are_recalled(world: World, store: Store) -> None:
    before = built(app(world.old), world.old, store)
    commit(store, before)
    node = app(world.new)
    assert node.key != before.key
    found = world.cut_off(node)
    assert found is not None
    made, origin = found
    assert made.restated == before.key
    assert made.outputs[RUNTIME].diff_id == before.outputs[RUNTIME].diff_id
    provider = made.outputs[RUNTIME].providers["soname:libgreet.so.1"]
    assert provider == f"{world.new.key}:{RUNTIME}"
    assert lookup(store, node.key) == made, "the next run finds it by its key"
    assert origin.startswith("the local store")


def test_other_bytes_or_another_recipe_are_not(world: World, store: Store) -> None:
    commit(store, built(app(world.old), world.old, store))
    changed = replace(
        world.new, outputs={RUNTIME: replace(world.new.outputs[RUNTIME], diff_id=OTHER)}
    )
    assert world.cut_off(app(world.new), changed) is None
    assert world.cut_off(app(world.new, version="2")) is None


def test_nothing_is_recalled_without_dependencies_or_for_a_deb(world: World) -> None:
    lonely = replace(app(world.new), record=record_text({"type": "debian"}), inputs=Inputs())
    assert world.cut_off(lonely) is None
    assert cut_off(app(world.old), {}, Repetitions(world.store), lambda *_: None) is None


def resolved(world: World) -> Digest:
    found = resolved_key(app(world.new).record, {world.new.key: {RUNTIME: BYTES}})
    assert found is not None
    return found


def test_a_binhost_is_asked_by_builder_and_its_pull_judges(world: World, store: Store) -> None:
    before = built(app(world.old), world.old, store)
    path = entry_name(resolved(world), BUILDER)
    host = Host({path: entry_bytes(before.key)}, lambda key: before if key == before.key else None)
    world.hosts = (Host(dead=True), host)
    found = world.cut_off(app(world.new))
    assert found is not None
    assert found[1].startswith("'far' as ")
    assert host.asked == [path]


def test_what_is_not_believed_is_not_repeated(world: World, store: Store) -> None:
    before = built(app(world.old), world.old, store)
    place_statement(store, before, LOCAL, statement_bytes(before, LOCAL), None, origin="depot")
    node, at_hand = app(world.new), {world.new.key: world.new}
    asked: list[str] = []
    kept: list[str] = []

    def believed(found: Found) -> str | None:
        asked.append(found.origin)
        return "nobody signed it"

    def keep(_: Artifact, found: Found) -> None:
        kept.append(found.origin)

    assert cut_off(node, at_hand, Repetitions(store, (), believed), keep) is None
    assert (asked, kept) == (["depot"], [])
    assert cut_off(node, at_hand, Repetitions(store), keep) is not None
    assert kept == ["depot"], "whoever keeps it learns whose it is"


def test_an_entry_that_lies_is_not_believed(world: World, store: Store) -> None:
    """It points to a build of something else that happens to use the same library."""
    other = built(app(world.old, version="2"), world.old, store)
    path = entry_name(resolved(world), BUILDER)
    world.hosts = (Host({path: entry_bytes(other.key)}, lambda _: other),)
    assert world.cut_off(app(world.new)) is None
    wrong_record = replace(other, record=store.put_bytes(app(world.old).record.encode()))
    world.hosts = (Host({path: entry_bytes(other.key)}, lambda _: wrong_record),)
    assert world.cut_off(app(world.new)) is None


def test_what_a_binhost_points_to_and_refuses_is_passed_over(world: World) -> None:
    def refused(key: BuildKey) -> Artifact:
        raise FetchError("not trusted")

    entry = {entry_name(resolved(world), BUILDER): entry_bytes(world.old.key)}
    garbage = {entry_name(resolved(world), BUILDER): b"<html>"}
    world.hosts = (Host(entry, refused), Host(entry), Host(garbage))
    assert world.cut_off(app(world.new)) is None
