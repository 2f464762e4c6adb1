"""`schemas/` and `docs/formats.md`: as the models are, and right about every shipped file."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from buildit.cli.schema import SCHEMAS, examples, formats_page, schema_text, write_schemas
from buildit.errors import StoreError
from buildit.recipe import config, container, stack, testspec
from buildit.recipe import package as recipe
from buildit.recipe.config import ConfigSpec
from buildit.recipe.container import StepSpec
from buildit.recipe.schema import Model, parse
from buildit.recipe.yaml.node import Mapping, Sequence
from buildit.recipe.yaml.read import parse_yaml

pytestmark = pytest.mark.unit

TOP = Path(__file__).parents[2]
SHIPPED = {
    "pkg": sorted([*TOP.glob("pkgs/*/*/pkg.yaml"), *TOP.glob("containers/*/pkgs/*/pkg.yaml")]),
    "container": sorted(TOP.glob("containers/*/container.yaml")),
    "config": [TOP / ".buildit-config.yaml"],
    "stack": sorted(TOP.glob("containers/*/stack.yaml")),
}
CASES = [(name, path) for name, paths in SHIPPED.items() for path in paths]


def loaded(path: Path) -> Any:
    """What an editor's YAML reader makes of it; its keys are texts."""
    return json.loads(json.dumps(yaml.safe_load(path.read_text("utf-8")), default=str))


VALIDATORS = {name: jsonschema.Draft202012Validator(make()) for name, make in SCHEMAS.items()}


def errors(name: str, value: object) -> list[str]:
    return [error.message for error in VALIDATORS[name].iter_errors(value)]


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_is_the_checked_in_one(name: str) -> None:
    kept = (TOP / "schemas" / f"{name}.schema.json").read_text("utf-8")
    assert schema_text(name) == kept, "run: buildit schema --output schemas"


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_is_a_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(VALIDATORS[name].schema)


def test_page_is_the_checked_in_one() -> None:
    kept = (TOP / "docs" / "formats.md").read_text("utf-8")
    assert formats_page() + "\n" == kept, "run: buildit schema formats > docs/formats.md"


def test_page_has_every_key_and_no_dead_link() -> None:
    page = formats_page()
    for model in (StepSpec, ConfigSpec, stack.StackSpec, stack.MemberSpec):
        assert all(f"| `{key}` |" in page for key in tuple(model.keys()))
    titles = {line[4:].lower() for line in page.splitlines() if line.startswith("### ")}
    links = {part.partition(")")[0] for part in page.split("](#")[1:]}
    assert links <= titles


@pytest.mark.parametrize(("name", "path"), CASES)
def test_every_shipped_file_fits(name: str, path: Path) -> None:
    assert errors(name, loaded(path)) == []


@pytest.mark.parametrize(("name", "path"), [case for case in CASES if case[0] != "config"])
def test_every_shipped_recipe_and_container_names_its_schema(name: str, path: Path) -> None:
    first = path.read_text("utf-8").splitlines()[0]
    named = first.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / named).resolve() == TOP / "schemas" / f"{name}.schema.json"


def typo(value: dict[str, Any], key: str) -> None:
    value[f"{key}x"] = value.pop(key)


TYPOS: list[tuple[str, str, Callable[[Any], object]]] = [
    ("pkg", "pkgs/sys-libs/zlib", lambda doc: typo(doc, "versions")),
    ("pkg", "pkgs/sys-libs/zlib", lambda doc: typo(doc, "style")),
    ("pkg", "pkgs/sys-libs/zlib", lambda doc: typo(doc["steps"], "install")),
    ("pkg", "pkgs/www-servers/nginx", lambda doc: typo(doc["use"]["ssl"], "default")),
    ("pkg", "pkgs/www-servers/nginx", lambda doc: doc["use"].update({"a b": {}})),
    ("pkg", "pkgs/www-servers/nginx", lambda doc: typo(doc["depends"], "link")),
    ("pkg", "pkgs/www-servers/nginx", lambda doc: doc.update(style="autotool")),
    ("pkg", "containers/nginx-prod/pkgs/nginx", lambda doc: typo(doc, "patches")),
    ("pkg", "containers/nginx-prod/pkgs/nginx", lambda doc: typo(doc["use"], "with")),
    ("pkg", "containers/nginx-prod/pkgs/nginx", lambda doc: doc.update(patches={"$drop": []})),
    ("container", "containers/nginx-prod", lambda doc: typo(doc[0], "vars")),
    ("container", "containers/nginx-prod", lambda doc: doc[0].update(sync={"src": "a"})),
    ("container", "containers/nginx-prod", lambda doc: doc.append({})),
    ("container", "containers/nginx-prod", lambda doc: doc.append({"image": {"type": "rpm"}})),
    ("container", "containers/nginx-prod", lambda doc: doc.append({"sync": {"src": "a"}})),
    ("config", ".", lambda doc: typo(doc, "repository")),
    ("config", ".", lambda doc: typo(doc["repository"], "upload-type")),
    ("config", ".", lambda doc: doc.update(limits={"memory": "much"})),
]
FILES = {"pkg": "pkg.yaml", "container": "container.yaml", "config": ".buildit-config.yaml"}


@pytest.mark.parametrize(("name", "directory", "spoil"), TYPOS)
def test_typos_are_refused(name: str, directory: str, spoil: Callable[[Any], object]) -> None:
    value = loaded(TOP / directory / FILES[name])
    assert errors(name, value) == []
    spoil(value)
    assert errors(name, value)


BASE = "www-servers/nginx-1.22.1"


@pytest.mark.parametrize(
    "own",
    [
        {"configure": {"$append": ["--with-x"]}},
        {"configure": {"$prepend": ["-a"], "$remove": ["-b"]}},
        {"configure": {"$replace": ["-a"]}},
        {"patches": {"$remove": ["patches/a.patch"], "b.patch": "Mends b"}},
        {"patches": {"a.patch": {"when": "ssl"}}},
        {"depends": {"link": {"$append": ["sys-libs/zlib"]}}},
        {"depends": {"$replace": {"run": []}}},
        {"use": {"with": ["ipv6"], "without": ["ssl"]}},
        {"use": {"ipv6": {"default": False}}},
        {"outputs": {"doc": {"$append": ["usr/share/x"]}}},
        {"version": 1.22},
        {"steps": {"check": None}},
        {"sources": [{"url": "https://example.org/{{ name }}.tar.gz", "sha256": "{{ sum }}"}]},
    ],
)
def test_what_is_laid_over_a_base_may_be_partial(own: dict[str, object]) -> None:
    assert errors("pkg", {"base": BASE, **own}) == []


@pytest.mark.parametrize(
    "own",
    [
        {"configure": {"$append": "--with-x"}},
        {"configure": {"$append": [], "more": []}},
        {"patches": {"a.patch": {"whenever": "ssl"}}},
        {"use": {"with": "ipv6"}},
        {"sources": [{"url": "https://example.org/a.tar.gz"}]},
    ],
)
def test_what_is_laid_over_a_base_is_still_checked(own: dict[str, object]) -> None:
    assert errors("pkg", {"base": BASE, **own})


def test_a_tree_package_needs_versions_and_takes_overlays_in_them() -> None:
    assert errors("pkg", {"description": "No version"})
    one = {"1.2": {"configure": {"$append": ["-x"]}, "patches": {"a.patch": "Mends a"}}}
    assert errors("pkg", {"versions": one}) == []
    assert errors("pkg", {"versions": {"1.2": {"konfigure": []}}})


def test_schemas_are_written_where_asked(tmp_path: Path) -> None:
    written = write_schemas(tmp_path / "deep", ("pkg", "config"))
    assert [path.name for path in written] == ["pkg.schema.json", "config.schema.json"]
    assert written[0].read_text("utf-8") == schema_text("pkg")


def test_an_unwritable_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as caught:
        write_schemas(tmp_path / "file", ("pkg",))
    assert str(tmp_path / "file") in str(caught.value.place)


@cache
def _models() -> dict[str, type[Model]]:
    """The models of the page, by name."""
    known = {
        name: found
        for module in (container, testspec, recipe, config, stack)
        for name, found in vars(module).items()
        if isinstance(found, type) and issubclass(found, Model)
    }
    titles = [line[4:] for line in formats_page().splitlines() if line.startswith("### ")]
    return {name: known[name] for name in titles}


@pytest.mark.parametrize("name", sorted(_models()))
def test_every_key_of_the_page_has_an_example_that_its_model_reads(name: str) -> None:
    model = _models()[name]
    node = parse_yaml(examples()[name], name)
    items = node.items if isinstance(node, Sequence) else (node,)
    keys: set[str] = set()
    for item in items:
        assert isinstance(item, Mapping)
        keys |= {key.text for key, _ in item.items}
        parse(item, model)
    derived = name in ("EmbeddedPackage", "TreePackage")
    assert {*model.keys()} - {*(recipe.Recipe.keys() if derived else ())} <= keys


@pytest.mark.parametrize(
    ("step", "fits"),
    [
        ({"include": "a.yaml"}, True),
        ({"include": {"url": "https://example.org/a", "sha256": "0" * 64}, "with": {"a": 1}}, True),
        ({"with": {"a": 1}}, False),
        ({"include": "a.yaml", "workdir": "/x"}, False),
        ({"env": {}, "with": {}}, False),
        ({"env": {}, "workdir": "/x"}, False),
        ({}, False),
    ],
)
def test_a_step_has_one_key_but_for_with(step: dict[str, object], fits: bool) -> None:
    assert (errors("container", [step]) == []) == fits
