from __future__ import annotations

from pathlib import Path

import pytest

from buildit.errors import BuilditError, RecipeError, UnsatisfiableError
from buildit.model.atom import Version
from buildit.plan.evaluate import evaluate
from buildit.recipe.package import Package, Recipe, SourceSpec
from buildit.recipe.trees import DEEPEST_CHAIN, Catalog
from buildit.recipe.yaml.node import leaves
from tests.planning import TOOLCHAIN, Checkout

pytestmark = pytest.mark.unit

H = "a" * 64
NGINX = """\
description: HTTP server
versions:
  1.22.1:
    sources: [{url: "https://example.org/{{ name }}-{{ version }}.tgz", sha256: HASH}]
    configure: {$append: [--old]}
  1.24.0: {}
  1.23.0:
use:
  ipv6: {default: on, description: IPv6}
  ssl: {default: on, description: TLS}
configure: [--prefix=/usr]
environment: {A: "1", B: "2"}
steps: {install: "echo {{ not a template }}"}
""".replace("HASH", H)


@pytest.fixture
def project(tmp_path: Path) -> Checkout:
    made = Checkout(tmp_path)
    made.write("pkgs/www-servers/nginx/pkg.yaml", NGINX)
    made.write("pkgs/toolchain/debian-12/pkg.yaml", TOOLCHAIN)
    return made


def catalog(project: Checkout) -> Catalog:
    return Catalog((project.root / "pkgs",))


def of_tree(project: Checkout, version: str) -> Package:
    return catalog(project).package("www-servers/nginx", Version.parse(version), "p")


def embedded(project: Checkout, text: str, name: str = "mine") -> Package:
    project.write(f"container/{name}/pkg.yaml", text)
    return catalog(project).embed(project.root / "container" / name, f"./{name}")


def refused(project: Checkout, text: str) -> BuilditError:
    with pytest.raises(BuilditError) as caught:
        embedded(project, text)
    assert caught.value.place
    return caught.value


# -- tree packages


def test_versions_come_newest_first(project: Checkout) -> None:
    found = catalog(project).versions("www-servers/nginx", "p")
    assert [version.text for version in found] == ["1.24.0", "1.23.0", "1.22.1"]


def test_a_version_is_laid_over_what_all_share(project: Checkout) -> None:
    old, new = of_tree(project, "1.22.1"), of_tree(project, "1.24.0")
    assert old.recipe.configure == ("--prefix=/usr", "--old")
    assert new.recipe.configure == ("--prefix=/usr",)
    assert (new.recipe.sources, of_tree(project, "1.23.0").recipe) == ((), new.recipe)
    assert (old.name, old.version) == ("www-servers/nginx", "1.22.1")


def urls(recipe: Recipe) -> list[str]:
    return [source.url for source in recipe.sources if isinstance(source, SourceSpec)]


def test_name_and_version_fill_templates_but_never_scripts(project: Checkout) -> None:
    recipe = of_tree(project, "1.22.1").recipe
    assert urls(recipe) == ["https://example.org/nginx-1.22.1.tgz"]
    assert recipe.steps.install == "echo {{ not a template }}"


def test_a_document_is_read_once(project: Checkout) -> None:
    shelf = catalog(project)
    first = shelf.package("www-servers/nginx", Version.parse("1.22.1"), "p")
    project.write("pkgs/www-servers/nginx/pkg.yaml", "broken: [")
    assert shelf.package("www-servers/nginx", Version.parse("1.22.1"), "p") is first
    assert shelf.versions("www-servers/nginx", "p")


def test_the_first_tree_that_has_a_package_wins(project: Checkout) -> None:
    project.write("other/www-servers/nginx/pkg.yaml", "versions: {9: {}}")
    project.write("other/x/only/pkg.yaml", "versions: {1: {}}")
    shelf = Catalog((project.root / "pkgs", project.root / "other"))
    assert len(shelf.versions("www-servers/nginx", "p")) == 3
    assert shelf.versions("x/only", "p")
    assert shelf.names() == ["toolchain/debian-12", "www-servers/nginx", "x/only"]


def test_what_was_looked_for_is_remembered_even_if_absent(project: Checkout) -> None:
    project.write("other/x/only/pkg.yaml", "versions: {1: {}}")
    shelf = Catalog((project.root / "pkgs", project.root / "other"))
    shelf.versions("x/only", "p")
    assert shelf.consulted == [
        project.root / "pkgs/x/only/pkg.yaml",
        project.root / "other/x/only/pkg.yaml",
    ]


def test_an_unknown_package_names_the_nearest(project: Checkout) -> None:
    with pytest.raises(UnsatisfiableError, match="no tree has a package 'www-servers/nginks'") as c:
        catalog(project).versions("www-servers/nginks", "c.yaml:1:1")
    assert (c.value.place, c.value.hint) == ("c.yaml:1:1", "did you mean www-servers/nginx?")
    with pytest.raises(UnsatisfiableError) as c:
        Catalog(()).versions("a/b", "p")
    assert c.value.hint == "trees: none"


# -- toolchains


def test_a_toolchain(project: Checkout) -> None:
    found = catalog(project).toolchain("toolchain/debian-12", "p")
    assert found.debian.packages == ("libc6", "gcc")
    assert found.debian.run == {"libc6": ("libgcc-s1",)}


@pytest.mark.parametrize("name", ["../../x", "/etc", "www-servers/nginx", "debian-12", "a/b/c"])
def test_what_is_no_toolchain_is_refused(project: Checkout, name: str) -> None:
    with pytest.raises((RecipeError, UnsatisfiableError)) as caught:
        catalog(project).toolchain(name, "p")
    assert caught.value.hint


# -- embedded packages


def test_an_embedded_package_says_only_what_differs(project: Checkout) -> None:
    found = embedded(
        project,
        """\
        base: www-servers/nginx-1.22.1
        author: me
        configure: [--mine]
        environment: {B: "3"}
        use: {with: [ipv6], without: [ssl]}
        """,
    )
    assert (found.name, found.version, found.origin) == ("www-servers/nginx", "1.22.1", "./mine")
    assert found.recipe.configure == ("--prefix=/usr", "--old", "--mine")
    assert found.recipe.environment == {"A": "1", "B": "3"}
    assert [Path(one).name for one in found.directories] == ["nginx", "mine"]
    assert evaluate(found, ()).flag_texts() == ("+ipv6", "-ssl")


def test_every_leaf_of_the_merged_recipe_names_its_file(project: Checkout) -> None:
    found = embedded(project, "base: www-servers/nginx-1.22.1\nconfigure: [--mine]\n")
    files = {path: leaf.place.file for path, leaf in leaves(found.node)}
    assert files[("configure", "0")].endswith("pkgs/www-servers/nginx/pkg.yaml")
    assert files[("configure", "2")].endswith("container/mine/pkg.yaml")


def test_a_base_without_a_version_is_the_newest(project: Checkout) -> None:
    assert embedded(project, "base: www-servers/nginx\n").version == "1.24.0"


def test_a_base_names_a_version_in_any_spelling(project: Checkout) -> None:
    assert embedded(project, "base: www-servers/nginx-1.24.0-r0\n").version == "1.24.0"


def test_it_may_have_a_version_of_its_own(project: Checkout) -> None:
    found = embedded(project, "base: www-servers/nginx-1.22.1\nversion: 1.22.1-r7\n")
    assert found.version == "1.22.1-r7"
    assert urls(found.recipe) == ["https://example.org/nginx-1.22.1-r7.tgz"]


def test_a_chain_of_embedded_packages(project: Checkout) -> None:
    project.write(
        "container/below/pkg.yaml",
        "base: www-servers/nginx-1.22.1\nuse: {without: [ipv6, ssl]}\nconfigure: [--below]\n",
    )
    found = embedded(project, "base: ../below\nuse: {with: [ssl]}\nconfigure: [--above]\n")
    assert found.recipe.configure[-2:] == ("--below", "--above")
    assert [layer.name for layer in found.layers] == ["base", "use"]
    assert evaluate(found, ()).flag_texts() == ("+ssl", "-ipv6")


def test_it_may_declare_flags(project: Checkout) -> None:
    found = embedded(
        project, "base: www-servers/nginx-1.22.1\nuse: {lua: {default: off, description: Lua}}\n"
    )
    assert list(found.recipe.use) == ["ipv6", "ssl", "lua"]
    assert found.layers == ()


def test_it_shadows_the_tree(project: Checkout) -> None:
    project.write("container/mine/pkg.yaml", "base: www-servers/nginx-1.22.1\nconfigure: [--x]\n")
    shelf = catalog(project)
    of_tree = shelf.package("www-servers/nginx", Version.parse("1.22.1"), "p")
    found = shelf.embed(project.root / "container/mine", "./mine")
    assert found is not of_tree
    assert [v.text for v in shelf.versions("www-servers/nginx", "p")] == ["1.22.1"]
    assert shelf.package("www-servers/nginx", Version.parse("1.22.1"), "p") is found


def test_two_embedded_packages_of_one_name_are_refused(project: Checkout) -> None:
    shelf = catalog(project)
    for name in ("one", "two"):
        project.write(f"container/{name}/pkg.yaml", "base: www-servers/nginx-1.22.1\n")
    first = shelf.embed(project.root / "container/one", "./one")
    assert shelf.embed(project.root / "container/one", "./one") is first
    with pytest.raises(
        RecipeError, match=r"\./two and \./one are both www-servers/nginx"
    ) as caught:
        shelf.embed(project.root / "container/two", "./two")
    assert "container/two/pkg.yaml:1:1" in (caught.value.place or "")


def test_where_no_package_is_the_line_that_names_it_is_told(project: Checkout) -> None:
    with pytest.raises(RecipeError, match=r"there is no pkg\.yaml in") as caught:
        catalog(project).embed(project.root / "container/mien", "./mien", "container.yaml:2:3")
    assert caught.value.place == "container.yaml:2:3"


def test_the_longest_chain(project: Checkout) -> None:
    project.write("container/n1/pkg.yaml", "base: www-servers/nginx-1.22.1\n")
    for number in range(2, DEEPEST_CHAIN + 2):
        project.write(f"container/n{number}/pkg.yaml", f"base: ../n{number - 1}\n")
    shelf = catalog(project)
    assert shelf.embed(project.root / f"container/n{DEEPEST_CHAIN}", "x").version == "1.22.1"
    with pytest.raises(RecipeError, match=f"more than {DEEPEST_CHAIN} links"):
        shelf.embed(project.root / f"container/n{DEEPEST_CHAIN + 1}", "x")


def test_a_cycle_through_a_link_is_found(project: Checkout) -> None:
    project.write("container/a/pkg.yaml", "base: ../b\n")
    (project.root / "container/b").symlink_to("a")
    with pytest.raises(RecipeError, match="has a cycle"):
        catalog(project).embed(project.root / "container/a", "x")


BASE = "base: www-servers/nginx-1.22.1\n"


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("base: [x]\n", ":1:7", "expected a package or a path"),
        ("base: '>=www-servers/nginx-1'\n", ":1:7", "must be category/name"),
        ("base: gentoo:www-servers/nginx\n", ":1:7", "cannot build from a gentoo source"),
        ("- base\n", ":1:1", "expected keys"),
        (BASE + "versions: {2: {}}\n", ":2:1", "unknown key 'versions'"),
        (BASE + "version: ''\n", ":2:10", "malformed version"),
        (BASE + "use: [ssl]\n", ":2:6", "expected flags to turn on and off"),
        (BASE + "use: ssl\n", ":2:6", "expected flags to turn on and off"),
        (BASE + "use: {with: [[ssl]]}\n", ":2:6", "expected a list of texts"),
        (BASE + "use: {without: [tls=x]}\n", ":2:17", "cannot disable 'tls=x'"),
        (
            BASE + "use: {with: [ssl], lua: {default: on}}\n",
            ":2:7",
            "stands beside no declarations",
        ),
        (BASE + "author: '{{ nmae }}'\n", ":2:13", "'nmae' is not defined"),
        (BASE + "environment: {'{{ name }}': x}\n", ":2:15", "looks like a template"),
        (BASE + "patches: {x.patch: {strip: 1}}\n", ":2:20", "'description' is missing"),
    ],
)
def test_a_mistake_is_one_error_at_its_place(
    project: Checkout, text: str, place: str, message: str
) -> None:
    error = refused(project, text)
    assert message in error.message
    assert (error.place or "").endswith(f"container/mine/pkg.yaml{place}")


@pytest.mark.parametrize(
    ("version", "message"),
    [("1.0: latest", "a value cannot be laid over the map"), ("1.0: [x]", "a list cannot be laid")],
)
def test_a_version_is_a_map_or_nothing(project: Checkout, version: str, message: str) -> None:
    project.write("pkgs/x/y/pkg.yaml", f"versions: {{{version}}}\n")
    with pytest.raises(RecipeError, match=message):
        catalog(project).package("x/y", Version.parse("1.0"), "p")
