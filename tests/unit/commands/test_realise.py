from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import pytest

from buildit.archive.streams import submit
from buildit.commands.realise import Submit, agrees, realise
from buildit.digest import BuildKey, Digest, digest_bytes
from buildit.errors import BuildError
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.model.plan import Dependency, Inputs, RunNeed, RunTime, Task

pytestmark = pytest.mark.unit

At = Mapping[BuildKey, Artifact]


def key(name: str) -> BuildKey:
    return BuildKey(digest_bytes(name.encode()))


def layer(text: str) -> Digest:
    return digest_bytes(text.encode())


def artifact(
    name: str, content: str, at_hand: At | None = None, loads: tuple[str, ...] = ()
) -> Artifact:
    """What a build of `name` leaves against the dependencies at hand."""
    resolved = {k: {RUNTIME: one.outputs[RUNTIME].diff_id} for k, one in (at_hand or {}).items()}
    providers = {f"soname:{one}.so": f"{key(one)}:{RUNTIME}" for one in loads}
    output = Output(layer(content), 1, layer("listing"), tuple(providers), providers)
    return Artifact(key(name), name, "1", "", {RUNTIME: output}, layer("record"), resolved=resolved)


OUTPUTS = {True: (RUNTIME,), False: ("dev", RUNTIME)}


@dataclass
class World:
    """`needs` are a graph of names, a tool has `!` behind it.

    `stored` are the artifacts that `find` has, best first.
    """

    needs: Mapping[str, list[str]]
    stored: dict[str, list[Artifact]] = field(default_factory=dict)
    run: Mapping[str, list[str]] = field(default_factory=dict)
    fails: frozenset[str] = frozenset()
    found: dict[str, Artifact] = field(default_factory=dict)
    built: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    prepared: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lock = threading.Lock()

    def nodes(self) -> dict[BuildKey, Task]:
        found = {}
        for name in self.needs:
            dependencies = tuple(
                Dependency(
                    key(other.removesuffix("!")),
                    (RUNTIME,) if other.endswith("!") else ("dev", RUNTIME),
                )
                for other in self.needs[name]
            )
            run = tuple(RunNeed(key(one), RUNTIME, "") for one in self.run.get(name, []))
            found[key(name)] = Task(
                key(name),
                "package",
                name,
                "1",
                "",
                inputs=Inputs(dependencies),
                outputs={RUNTIME: RunTime(run)},
            )
        return found

    def find(self, node: Task, at_hand: At) -> Artifact | None:
        self.asked.append(node.name)
        candidates = self.stored.get(node.name, [])
        return next((one for one in candidates if agrees(one, at_hand)), None)

    def cut_off(self, node: Task, at_hand: At) -> Artifact | None:
        assert {dep.key for dep in node.inputs.dependencies} <= set(at_hand)
        return self.found.get(node.name)

    def build(self, node: Task, at_hand: At) -> Artifact:
        with self.lock:
            self.built.append(node.name)
        if node.name in self.fails:
            raise BuildError(f"{node.name} fails")
        wanted = {dep.key for dep in node.inputs.dependencies}
        assert wanted <= set(at_hand), "a build begins when all that it needs is at hand"
        return artifact(node.name, f"new {node.name}", {k: at_hand[k] for k in wanted})

    def threads(self, jobs: int) -> Submit:
        pool = ThreadPoolExecutor(jobs)
        return lambda task, at_hand: submit(pool, partial(self.build, task, at_hand))

    def get(self, *roots: str, jobs: int = 2) -> dict[BuildKey, Artifact]:
        return realise(
            self.nodes(),
            tuple((key(root), RUNTIME) for root in roots),
            find=self.find,
            cut_off=self.cut_off,
            prepare=lambda nodes: self.prepared.append(tuple(node.name for node in nodes)),
            submit=self.threads(jobs),
        )


CHAIN = {"libc": [], "z": ["libc"], "tls": ["z", "libc"], "app": ["tls", "z", "libc"]}


def test_everything_is_built_once_dependencies_first() -> None:
    world = World(CHAIN)
    found = world.get("app")
    assert world.built == ["libc", "z", "tls", "app"]
    assert world.prepared == [("libc", "z", "tls", "app")]
    assert set(found) == {key(name) for name in CHAIN}


def test_nothing_is_built_where_all_is_found() -> None:
    stored = {"app": [artifact("app", "a", loads=("z",))], "z": [artifact("z", "z")]}
    world = World(CHAIN, stored)
    world.get("app")
    assert (world.built, world.prepared) == ([], [])


def test_only_what_the_files_load_is_looked_up() -> None:
    """A tool, or a library of which only the headers were used, may be gone."""
    stored = {"app": [artifact("app", "a", loads=("z",))], "z": [artifact("z", "z")]}
    world = World({**CHAIN, "tool": [], "app": ["tls", "z", "tool!"]}, stored)
    world.get("app")
    assert sorted(world.asked) == ["app", "z"]
    assert world.built == []


def test_a_provider_that_is_no_node_of_the_plan_is_for_the_caller() -> None:
    world = World({"app": []}, {"app": [artifact("app", "a", loads=("libc6.deb",))]})
    assert set(world.get("app")) == {key("app")}


def test_declared_run_dependencies_are_obtained() -> None:
    world = World({"app": [], "data": []}, {"app": [artifact("app", "a")]}, {"app": ["data"]})
    world.get("app")
    assert world.built == ["data"]


def test_a_missing_node_brings_all_that_its_build_sees() -> None:
    stored = {"z": [artifact("z", "z")]}
    world = World({**CHAIN, "tool": [], "app": ["z", "tool!"]}, stored)
    world.get("app")
    assert world.built == ["tool", "app"]


def test_an_artifact_built_against_other_bytes_is_built_again() -> None:
    """DESIGN §3, mixed closures: z was rebuilt with other bytes since app was."""
    old = artifact("app", "old", {key("z"): artifact("z", "z before")}, loads=("z",))
    world = World({"z": [], "app": ["z"]}, {"app": [old], "z": [artifact("z", "z now")]})
    found = world.get("app")
    assert world.built == ["app"]
    assert found[key("app")].outputs[RUNTIME].diff_id == layer("new app")


def test_another_statement_that_fits_is_taken_instead() -> None:
    z = artifact("z", "z now")
    old = artifact("app", "old", {key("z"): artifact("z", "z before")}, loads=("z",))
    fits = artifact("app", "fits", {key("z"): z}, loads=("z",))
    world = World({"z": [], "app": ["z"]}, {"app": [old, fits], "z": [z]})
    found = world.get("app")
    assert world.built == []
    assert found[key("app")] == fits


def test_what_is_recalled_is_not_built_and_its_own_needs_are_looked_up() -> None:
    z = artifact("z", "z")
    app = artifact("app", "a", {key("z"): z}, loads=("z",))
    world = World({"z": [], "app": ["z"], "top": ["app"]}, {"z": [z]}, found={"app": app})
    found = world.get("top")
    assert world.built == ["top"], "app was found as its dependencies were at hand"
    assert world.prepared == [("top",)]
    assert found[key("app")] == app


def test_nothing_is_recalled_while_a_dependency_is_missing() -> None:
    world = World({"z": [], "app": ["z"]}, found={"app": artifact("app", "a")})
    world.get("app")
    assert world.built == ["z", "app"], "whoever builds app may cut_off it once z is there"


def test_a_dependency_that_comes_out_the_same_rebuilds_nothing_above() -> None:
    same = artifact("z", "new z")
    app = artifact("app", "a", {key("z"): same}, loads=("z",))
    world = World({"z": [], "app": ["z"]}, {"app": [app]})
    world.get("app")
    assert world.built == ["z"]


def test_a_dependency_that_comes_out_different_rebuilds_what_is_above() -> None:
    app = artifact("app", "a", {key("z"): artifact("z", "z before")}, loads=("z",))
    tls = artifact("tls", "t", {key("z"): artifact("z", "z before")}, loads=("z",))
    top = artifact("top", "x", {key("tls"): tls, key("app"): app}, loads=("tls", "app"))
    needs: dict[str, list[str]] = {"z": [], "tls": ["z"], "app": ["z"], "top": ["tls", "app"]}
    world = World(needs, {"app": [app], "tls": [tls], "top": [top]})
    world.get("top")
    assert world.built[0] == "z"
    assert world.built[-1] == "top"
    assert sorted(world.built) == ["app", "tls", "top", "z"]


def test_independent_nodes_are_built_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=10)

    class Waiting(World):
        def build(self, node: Task, at_hand: At) -> Artifact:
            if node.name != "app":
                together.wait()
            return super().build(node, at_hand)

    world = Waiting({"a": [], "b": [], "c": [], "app": ["a", "b", "c"]})
    world.get("app", jobs=3)
    assert world.built[-1] == "app"


def test_at_most_jobs_builds_run_at_once() -> None:
    running = 0
    most = 0
    guard = threading.Lock()

    class Counting(World):
        def build(self, node: Task, at_hand: At) -> Artifact:
            nonlocal running, most
            with guard:
                running += 1
                most = max(most, running)
            done = super().build(node, at_hand)
            with guard:
                running -= 1
            return done

    names = [f"n{number}" for number in range(20)]
    Counting({**{name: [] for name in names}, "app": names}).get("app", jobs=2)
    assert most <= 2


def test_a_failure_lets_running_siblings_finish_and_starts_nothing_new() -> None:
    failed = threading.Event()
    finished: list[str] = []

    class Failing(World):
        def build(self, node: Task, at_hand: At) -> Artifact:
            if node.name == "bad":
                failed.set()
                raise BuildError("bad fails")
            if node.name == "slow":
                assert failed.wait(10)
            done = super().build(node, at_hand)
            finished.append(node.name)
            return done

    needs: dict[str, list[str]] = {
        "bad": [],
        "slow": [],
        "later": ["slow"],
        "app": ["bad", "later"],
    }
    world = Failing(needs)
    with pytest.raises(BuildError, match="bad fails"):
        world.get("app", jobs=2)
    assert finished == ["slow"]


def test_the_first_failure_is_the_one_that_is_raised() -> None:
    world = World({"a": [], "b": ["a"], "app": ["b"]}, fails=frozenset({"a"}))
    with pytest.raises(BuildError, match="a fails"):
        world.get("app", jobs=1)
    assert world.built == ["a"]


def test_a_failed_preparation_builds_nothing() -> None:
    world = World({"app": []})

    def prepare(nodes: tuple[Task, ...]) -> None:
        raise BuildError("nothing to fetch from")

    with pytest.raises(BuildError, match="nothing to fetch"):
        realise(
            world.nodes(),
            ((key("app"), RUNTIME),),
            find=world.find,
            prepare=prepare,
            submit=world.threads(1),
        )
    assert world.built == []


@pytest.mark.scale
def test_a_deep_chain_is_no_recursion() -> None:
    names = [f"p{number}" for number in range(1500)]
    needs = {name: names[number + 1 : number + 2] for number, name in enumerate(names)}
    world = World(needs)
    world.get("p0", jobs=1)
    assert world.built == list(reversed(names))


@pytest.mark.parametrize(
    ("outputs", "fits"),
    [({RUNTIME: "z"}, True), ({RUNTIME: "other"}, False), ({"dev": "z"}, False), ({}, True)],
)
def test_agrees(outputs: dict[str, str], fits: bool) -> None:
    one = Artifact(
        key("app"),
        "app",
        "1",
        "",
        {},
        layer("record"),
        resolved={key("z"): {name: layer(text) for name, text in outputs.items()}},
    )
    assert agrees(one, {key("z"): artifact("z", "z")}) is fits
    assert agrees(one, {})
