from __future__ import annotations

import itertools
import time
from collections.abc import Mapping

import pytest

from buildit.errors import RecipeError, UnsatisfiableError
from buildit.model.atom import Atom, Version
from buildit.model.use import FlagLayer, parse_assignment
from buildit.plan.resolve import Demand, Selection, resolve
from buildit.recipe.package import Depends, Package, Recipe
from buildit.recipe.schema import parse
from buildit.recipe.yaml.node import Mapping as Keys
from buildit.recipe.yaml.read import parse_yaml

pytestmark = pytest.mark.unit


class Shelf:
    """Packages from texts: `name-version` -> the recipe's YAML."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.packages: dict[str, dict[str, Package]] = {}
        for label, text in texts.items():
            name, _, version = label.rpartition("-")
            node = parse_yaml(text or "{}", f"{label}.yaml")
            assert isinstance(node, Keys)
            recipe = parse(node, Recipe)
            package = Package(name, version, name, recipe, node, ())
            self.packages.setdefault(name, {})[version] = package

    def versions(self, name: str, place: str) -> tuple[Version, ...]:
        if name not in self.packages:
            raise UnsatisfiableError(f"no package {name}", place=place)
        return tuple(sorted(map(Version.parse, self.packages[name]), reverse=True))

    def package(self, name: str, version: Version, place: str) -> Package:
        assert place
        return self.packages[name][version.text]


def root(text: str, number: int = 1) -> Demand:
    return Demand(Atom.parse(text), (), f"container.yaml:{number}:1")


def link(*atoms: str) -> str:
    return f"depends: {{link: [{', '.join(repr(atom) for atom in atoms)}]}}"


def selected(
    texts: Mapping[str, str],
    *roots: str,
    flags: Mapping[str, tuple[FlagLayer, ...]] | None = None,
    preferred: Mapping[str, str] | None = None,
) -> Selection:
    demands = tuple(root(text, number) for number, text in enumerate(roots, 1))
    return resolve(demands, Shelf(texts), flags or {}, preferred or {})


def labels(selection: Selection) -> list[str]:
    return [f"{one.package.name}-{one.package.version}" for one in selection.chosen.values()]


def layer(name: str, *texts: str, every: bool = False) -> FlagLayer:
    return FlagLayer(name, tuple(parse_assignment(text, f"{name}:1") for text in texts), every)


# -- versions


def test_the_newest_version_is_taken() -> None:
    assert labels(selected({"a/b-1.9": "", "a/b-1.10": "", "a/b-1.2": ""}, "a/b")) == ["a/b-1.10"]


@pytest.mark.parametrize(
    ("atom", "version"),
    [("a/b-1.2", "1.2"), ("<a/b-1.9", "1.2"), (">=a/b-1.3", "1.10"), ("=a/b-1.2*", "1.2")],
)
def test_the_atom_decides(atom: str, version: str) -> None:
    texts = {"a/b-1.9": "", "a/b-1.10": "", "a/b-1.2": ""}
    assert labels(selected(texts, atom)) == [f"a/b-{version}"]


def test_a_range_takes_the_newest_within_it() -> None:
    texts = {f"a/b-{version}": "" for version in ("1.1", "1.2", "1.9", "2")}
    assert labels(selected(texts, ">=a/b-1.2 <2")) == ["a/b-1.9"]
    texts["a/app-1"] = link(">=a/b-1.2 <2", "<a/b-1.9")
    assert labels(selected(texts, "a/app")) == ["a/b-1.2", "a/app-1"]
    with pytest.raises(UnsatisfiableError, match="no version of a/b") as caught:
        selected(texts, ">=a/b-1.3 <1.9", "a/app")
    assert "without" in (caught.value.hint or "") or "versions at hand" in (caught.value.hint or "")


def test_the_locked_version_is_kept_as_long_as_it_satisfies() -> None:
    texts = {"a/b-1.9": "", "a/b-1.10": "", "a/b-1.2": ""}
    assert labels(selected(texts, "a/b", preferred={"a/b": "1.9"})) == ["a/b-1.9"]
    assert labels(selected(texts, "<a/b-1.9", preferred={"a/b": "1.9"})) == ["a/b-1.2"]
    assert labels(selected(texts, "a/b", preferred={"a/b": "0.1"})) == ["a/b-1.10"]


def test_a_later_demand_changes_an_earlier_choice() -> None:
    texts = {
        "a/app-1": link("a/lib", "a/tool"),
        "a/lib-1": "",
        "a/lib-2": link("a/only-new"),
        "a/only-new-1": "",
        "a/tool-1": link("<a/lib-2"),
    }
    assert labels(selected(texts, "a/app")) == ["a/lib-1", "a/tool-1", "a/app-1"]


def test_a_choice_holds_under_all_demands() -> None:
    texts = {
        "a/x-1": link(">=a/lib-2"),
        "a/y-1": link("<a/lib-4"),
        "a/z-1": link("<a/lib-3"),
        **{f"a/lib-{n}": "" for n in range(1, 6)},
    }
    for order in (("a/x", "a/y", "a/z"), ("a/z", "a/x", "a/y"), ("a/lib", "a/z", "a/x", "a/y")):
        assert "a/lib-2" in labels(selected(texts, *order))


def test_a_conflict_names_both_chains() -> None:
    texts = {
        "a/app-1": link("a/x", "a/y"),
        "a/x-1": link("<a/lib-2"),
        "a/y-1": link(">=a/lib-2"),
        "a/lib-1": "",
        "a/lib-2": "",
    }
    with pytest.raises(UnsatisfiableError) as caught:
        selected(texts, "a/app")
    error = caught.value
    assert error.message == "no version of a/lib is what every dependent asks for"
    assert error.place == "a/y-1.yaml:1:18"
    assert error.details == (
        "a/app -> a/x -> <a/lib-2 (a/x-1.yaml:1:18)",
        "a/app -> a/y -> >=a/lib-2 (a/y-1.yaml:1:18)",
    )
    assert error.hint == (
        "without <a/lib-2 (a/x-1.yaml:1:18), a/lib-2 fits; versions at hand: 2, 1"
    )


def test_demands_that_chase_each_other_end() -> None:
    texts = {
        "a/x-1": link("<a/y-2"),
        "a/x-2": link("<a/y-2"),
        "a/y-1": link("<a/x-2"),
        "a/y-2": link(">=a/x-2"),
    }
    with pytest.raises(UnsatisfiableError):
        selected(texts, ">=a/y-2", "a/x")


# -- graph


def test_dependencies_come_first_and_the_order_is_stable() -> None:
    texts = {"a/app-1": link("a/z", "a/b"), "a/z-1": link("a/c"), "a/b-1": link("a/c"), "a/c-1": ""}
    again = {name: texts[name] for name in reversed(texts)}
    assert labels(selected(texts, "a/app")) == labels(selected(again, "a/app"))
    assert labels(selected(texts, "a/app"))[0] == "a/c-1"
    assert labels(selected(texts, "a/app"))[-1] == "a/app-1"


def test_who_asked_is_kept() -> None:
    texts = {"a/app-1": link("a/b"), "a/b-1": ""}
    found = selected(texts, "a/app", "a/b-1")
    assert [str(demand) for demand in found.demands["a/b"]] == [
        "a/b-1 (container.yaml:2:1)",
        "a/app -> a/b (a/app-1.yaml:1:18)",
    ]


def test_a_cycle_is_named_with_the_line_of_an_edge() -> None:
    texts = {
        "a/a-1": link("a/b"),
        "a/b-1": "depends: {build: [a/c]}",
        "a/c-1": "depends: {run: [a/a]}",
    }
    with pytest.raises(UnsatisfiableError, match="in a cycle: ") as caught:
        selected(texts, "a/a")
    walk = caught.value.message.partition(": ")[2].split(" -> ")
    assert walk[0] == walk[-1]
    edges = {("a/a", "a/b"), ("a/b", "a/c"), ("a/c", "a/a")}
    assert set(itertools.pairwise(walk)) == edges
    assert (caught.value.place or "").startswith(f"{walk[0]}-1.yaml:1:")


def test_an_unknown_package_is_named_where_it_is_asked_for() -> None:
    with pytest.raises(UnsatisfiableError, match="no package a/none") as caught:
        selected({"a/app-1": link("a/none")}, "a/app")
    assert caught.value.place == "a/app-1.yaml:1:18"


# -- flags


def test_conditions_follow_the_flags() -> None:
    text = """
    use: {ssl: {default: on, description: TLS}, doc: {default: off, description: d}}
    depends: {link: [{when: ssl, atom: a/tls}, {when: doc, atom: a/doc}]}
    """
    texts = {"a/app-1": text, "a/tls-1": "", "a/doc-1": ""}
    assert labels(selected(texts, "a/app")) == ["a/tls-1", "a/app-1"]
    given = {"a/app": (layer("container", "-ssl", "doc"),)}
    assert labels(selected(texts, "a/app", flags=given)) == ["a/doc-1", "a/app-1"]


def test_a_layer_for_every_package_touches_those_that_declare_the_flag() -> None:
    texts = {
        "a/app-1": "use: {ssl: {default: on, description: d}}\n" + link("a/lib"),
        "a/lib-1": "",
    }
    found = selected(texts, "a/app", flags={"": (layer("config", "-ssl", every=True),)})
    assert found.chosen["a/app"].flags == {"ssl": False}
    assert found.chosen["a/app"].settings["ssl"].origin == "config:1"


FLAGGED = (
    "use: {ssl: {default: off, description: d}, tls: {default: x, choices: [x, y], description: d}}"
)


@pytest.mark.parametrize(
    ("atom", "refusal", "hint"),
    [
        ("a/lib[ssl]", "ssl is off, [ssl] is asked", "[ssl]"),
        ("a/lib[tls=y]", "tls is x, [tls=y] is asked", "[tls=y]"),
        ("a/lib[-ssl,tls=y]", "tls is x, [tls=y] is asked", "[-ssl, tls=y]"),
        ("a/lib[zip]", "it declares no flag 'zip', [zip] is asked", "declared: ssl, tls"),
    ],
)  # fmt: skip
def test_a_flag_that_is_asked_for_must_be_set(atom: str, refusal: str, hint: str) -> None:
    with pytest.raises(UnsatisfiableError) as caught:
        selected({"a/app-1": link(atom), "a/lib-1": FLAGGED}, "a/app")
    assert caught.value.message == f"a/lib is not as a/app needs it: {refusal}"
    assert caught.value.place == "a/app-1.yaml:1:18"
    assert hint in (caught.value.hint or "")
    if "zip" not in atom:
        assert any("a/lib-1.yaml:1:" in line for line in caught.value.details)


def test_the_hint_of_a_missing_flag_works() -> None:
    texts = {"a/app-1": link("a/lib[ssl,tls=y]"), "a/lib-1": FLAGGED}
    given = {"a/lib": (layer("container", "ssl", "tls=y"),)}
    assert labels(selected(texts, "a/app", flags=given)) == ["a/lib-1", "a/app-1"]


def test_a_demand_follows_the_dependents_own_flag() -> None:
    own = "use: {ssl: {default: on, description: d}}\n"
    texts = {"a/app-1": own + link("a/lib[ssl?]"), "a/lib-1": FLAGGED}
    with pytest.raises(UnsatisfiableError, match="ssl is off"):
        selected(texts, "a/app")
    given = {"a/app": (layer("container", "-ssl"),)}
    assert labels(selected(texts, "a/app", flags=given)) == ["a/lib-1", "a/app-1"]


def test_a_container_has_no_flags_that_an_atom_could_follow() -> None:
    with pytest.raises(RecipeError, match="does not declare") as caught:
        selected({"a/lib-1": FLAGGED}, "a/lib[ssl?]")
    assert caught.value.place == "container.yaml:1:1"


# -- size


def chain(count: int) -> dict[str, dict[str, Package]]:
    """`count` packages; each needs the next one, and every hundredth one the last."""
    found = {}
    node = parse_yaml("{}", "f")
    assert isinstance(node, Keys)
    for number in range(count):
        needs = tuple(f"a/p{n}" for n in range(number + 1, min(number + 2, count)))
        if number % 100 == 0 and number < count - 2:
            needs = (*needs, f"a/p{count - 1}")
        recipe = Recipe(depends=Depends(link=needs))
        found[f"a/p{number}"] = {"1": Package(f"a/p{number}", "1", "", recipe, node, ())}
    return found


@pytest.mark.scale
def test_ten_thousand_packages_one_below_the_other() -> None:
    shelf = Shelf({})
    shelf.packages = chain(10_000)
    before = time.process_time()
    found = resolve((root("a/p0"),), shelf, {}, {})
    assert time.process_time() - before < 60
    assert len(found.chosen) == 10_000
    assert next(iter(found.chosen)) == "a/p9999"
    assert len(found.demands["a/p9999"]) == 101
    assert len(found.demands["a/p9998"][0].chain) == 12
