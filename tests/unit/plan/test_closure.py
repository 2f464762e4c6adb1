from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.digest import BuildKey, digest_bytes
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.model.plan import OutputRef, RunNeed, RunTime, Task
from buildit.plan.tasks import Closure, closure, views_of
from tests.scale import examples

pytestmark = pytest.mark.unit


def key(name: str) -> BuildKey:
    return BuildKey(digest_bytes(name.encode()))


def _needs(run: Mapping[str, list[str]], name: str) -> tuple[RunNeed, ...]:
    return tuple(RunNeed(key(one), RUNTIME, "declared: run") for one in run.get(name, []))


class World:
    """Packages with the outputs that they need: `needs` maps `a` or `a:dev` to `b`, `b:dev`."""

    def __init__(
        self, needs: Mapping[str, list[str]], run: Mapping[str, list[str]] | None = None
    ) -> None:
        self.outputs: dict[str, dict[str, list[str]]] = {}
        for text, wanted in needs.items():
            name, _, output = text.partition(":")
            self.outputs.setdefault(name, {})[output or RUNTIME] = wanted
            for other in wanted:
                self.outputs.setdefault(other.partition(":")[0], {})
        run = run or {}
        self.nodes = {
            key(name): Task(
                key(name), "package", name, "1", "", outputs={RUNTIME: RunTime(_needs(run, name))}
            )
            for name in {*self.outputs, *run, *(one for names in run.values() for one in names)}
        }
        self.asked: list[str] = []

    def node(self, k: BuildKey) -> Task:
        return self.nodes[k]

    def obtain(self, node: Task) -> Artifact:
        self.asked.append(node.name)
        outputs = {}
        for output, wanted in {RUNTIME: [], **self.outputs.get(node.name, {})}.items():
            providers = {}
            for other in wanted:
                name, _, part = other.partition(":")
                own = "" if name == node.name else key(name)
                providers[f"soname:{other}.so"] = f"{own}:{part or RUNTIME}"
            outputs[output] = Output(digest_bytes(b""), 0, digest_bytes(b""), (), providers)
        return Artifact(node.key, node.name, "1", "", outputs, digest_bytes(b""))

    def of(self, *roots: str) -> Closure:
        return closure(tuple((key(root), RUNTIME) for root in roots), self.node, self.obtain)

    def names(self, *roots: str) -> list[str]:
        return [
            self.nodes[k].name + ("" if output == RUNTIME else f":{output}")
            for k, output in self.of(*roots).members
        ]


def why_text(
    why: Mapping[OutputRef, tuple[OutputRef, str]],
    member: OutputRef,
    node: Callable[[BuildKey], Task],
) -> str:
    """Why a member is in the closure: `nginx -> libssl.so.3 -> openssl`, root first."""
    words = [node(member[0]).name]
    while member in why:
        member, need = why[member]
        words[:0] = [node(member[0]).name, need.partition(":")[2] or need]
    return " -> ".join(words)


def test_dependencies_come_first_and_siblings_by_name() -> None:
    world = World({"app": ["z", "b", "a"], "a": ["c"], "b": ["c"], "z": []})
    assert world.names("app") == ["c", "a", "b", "z", "app"]


def test_only_the_outputs_that_are_needed_come_in() -> None:
    world = World({"app": ["lib:locale"], "app:dev": ["perl"], "lib:locale": []})
    assert world.names("app") == ["lib:locale", "app"]


def test_an_output_needs_its_siblings() -> None:
    world = World({"app": ["app:locale"], "app:locale": ["lib"]})
    assert world.names("app") == ["lib", "app:locale", "app"]


def test_declared_run_dependencies_come_in() -> None:
    world = World({"app": ["lib"]}, run={"app": ["data"], "lib": ["plugin"]})
    assert world.names("app") == ["data", "plugin", "lib", "app"]
    found = world.of("app")
    assert found.why[(key("data"), RUNTIME)] == ((key("app"), RUNTIME), "declared: run")


def test_a_missing_output_is_a_member_without_needs() -> None:
    world = World({"app": ["lib:doc"]})
    assert world.names("app") == ["lib:doc", "app"]


def test_why_leads_from_a_root() -> None:
    world = World({"app": ["lib"], "lib": ["libc"]})
    found = world.of("app")
    assert why_text(found.why, (key("libc"), RUNTIME), world.node) == (
        "app -> lib.so -> lib -> libc.so -> libc"
    )
    assert why_text(found.why, (key("app"), RUNTIME), world.node) == "app"


def test_why_ends_in_a_cycle_too() -> None:
    """libc6 loads libgcc_s, which needs libc6."""
    world = World({"libc": ["libgcc"], "libgcc": ["libc"], "app": ["libgcc"]})
    assert world.names("libc") == ["libgcc", "libc"]
    found = world.of("libc")
    assert (
        why_text(found.why, (key("libgcc"), RUNTIME), world.node) == "libc -> libgcc.so -> libgcc"
    )
    assert (key("libc"), RUNTIME) not in found.why
    both = world.of("app", "libc")
    assert why_text(both.why, (key("libgcc"), RUNTIME), world.node) == "app -> libgcc.so -> libgcc"


@pytest.mark.scale
def test_a_chain_may_be_deeper_than_the_stack() -> None:
    depth = 3000
    world = World({f"p{n}": [f"p{n + 1}"] for n in range(depth)})
    assert len(world.names("p0")) == depth + 1


GRAPHS = st.dictionaries(
    st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), max_size=4), max_size=6
)


@settings(max_examples=examples(25))
@given(GRAPHS, st.randoms())
def test_the_order_follows_from_names_alone(graph: dict[str, list[str]], random: object) -> None:
    graph = {"a": [], **graph}
    turned = {name: list(reversed(needs)) for name, needs in reversed(graph.items())}
    assert World(graph).names("a") == World(turned).names("a")


@settings(max_examples=examples(25))
@given(GRAPHS)
def test_every_reason_leads_to_a_root(graph: dict[str, list[str]]) -> None:
    world = World({"a": [], "b": [], **graph})
    found = world.of("a", "b")
    assert len(set(found.members)) == len(found.members)
    for member in found.members:
        assert why_text(found.why, member, world.node).split(" -> ")[0] in ("a", "b")


def test_each_artifact_is_obtained_once_per_output() -> None:
    world = World({"a": ["b", "c"], "b": ["d"], "c": ["d"]})
    world.of("a")
    assert sorted(world.asked) == ["a", "b", "c", "d"]


def test_a_view_stands_for_its_deb_wherever_it_is_needed() -> None:
    """`without:` of a package step holds for the image, whoever needs the .deb besides."""
    world = World({"app": ["deb"], "deb": ["far"], "view": ["near"], "other": ["view"]})
    subject = digest_bytes(b"x")
    for name, partial in (("deb", False), ("view", True)):
        task = world.nodes[key(name)]
        world.nodes[key(name)] = replace(task, subject=subject, partial=partial)
    views = views_of(world.nodes.values())
    assert views == {subject: key("view")}
    roots = ((key("app"), RUNTIME), (key("other"), RUNTIME))
    found = closure(roots, world.node, world.obtain, views)
    assert [world.node(one).name for one, _ in found.members] == ["near", "view", "app", "other"]
