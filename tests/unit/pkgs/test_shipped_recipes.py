"""The recipes of `pkgs/` and the demo container, as far as they can be judged without building."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from buildit.errors import RecipeError, UnsatisfiableError
from buildit.model.platform import PLATFORMS
from buildit.model.use import Assignment, FlagLayer, flag_values
from buildit.patch.read import parse_patch
from buildit.plan.evaluate import Evaluated, declared_flags, evaluate
from buildit.plan.steps import steps
from buildit.recipe.container import Container
from buildit.recipe.lists import load_container
from buildit.recipe.package import Package, SourceSpec
from buildit.recipe.trees import PACKAGE_FILE, Catalog

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]
TREE = ROOT / "pkgs"
DEMO = ROOT / "containers" / "nginx-prod"
NAMES = [n for n in Catalog((TREE,)).names() if not n.startswith("toolchain/")]
RECIPES = [*(TREE / name for name in NAMES), DEMO / "pkgs" / "nginx"]
NEEDS_TOO = {"http2": {"ssl": True}, "ssl": {"http2": False}}
"""Flags that a rule of required-use moves together with another: with which, when they move."""


def _packages() -> tuple[Package, ...]:
    catalog = Catalog((TREE,))
    return tuple(
        catalog.package(name, version, "test")
        for name in NAMES
        for version in catalog.versions(name, "test")
    )


PACKAGES = _packages()


def embedded() -> Package:
    return Catalog((TREE,)).embed(DEMO / "pkgs" / "nginx", "./pkgs/nginx")


def switched(package: Package, **flags: bool) -> Evaluated:
    wishes = tuple(Assignment(name, value, "test") for name, value in flags.items())
    return evaluate(package, (FlagLayer("command line", wishes),))


def effect(evaluated: Evaluated) -> object:
    """What a flag can change, without the value of `USE`, which names every flag."""
    return (
        evaluated.configure,
        tuple(patch.written for patch in evaluated.patches),
        tuple((w.role, str(w.atom), w.debian) for w in evaluated.wanted),
    )


def scripts(evaluated: Evaluated) -> str:
    made = steps(
        evaluated.package.recipe.style,
        PLATFORMS["linux/amd64"],
        evaluated.configure,
        evaluated.overrides,
    )
    return "\n".join(word for step in made for word in step.argv)


FLAGS = [(package, flag) for package in PACKAGES for flag in declared_flags(package)]


def test_the_tree_has_what_the_demo_needs() -> None:
    assert {
        "dev-libs/openssl",
        "dev-libs/pcre2",
        "sys-apps/baselayout",
        "sys-libs/zlib",
        "www-servers/nginx",
    } <= set(NAMES)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_recipe_holds_with_its_defaults(package: Package) -> None:
    evaluated = evaluate(package, ())
    assert package.recipe.description
    assert package.recipe.license
    assert re.search(r'"?\$DESTDIR"?', scripts(evaluated))


@pytest.mark.parametrize(
    ("package", "flag"), FLAGS, ids=[f"{package.name}[{flag}]" for package, flag in FLAGS]
)
def test_each_flag_changes_something(package: Package, flag: str) -> None:
    beside = NEEDS_TOO.get(flag, {})
    on = switched(package, **{flag: True}, **{k: v for k, v in beside.items() if v})
    off = switched(package, **{flag: False}, **{k: v for k, v in beside.items() if not v})
    assert flag_values(on.settings)[flag] != flag_values(off.settings)[flag]
    in_script = re.search(rf'\*" {re.escape(flag)} "\*\)', scripts(on))
    assert effect(on) != effect(off) or in_script


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_scripts_ask_only_for_declared_flags(package: Package) -> None:
    asked = set(re.findall(r'\*" ([\w+-]+) "\*\)', scripts(evaluate(package, ()))))
    assert asked <= set(declared_flags(package))


def test_http2_without_tls_is_refused() -> None:
    nginx = next(package for package in PACKAGES if package.name == "www-servers/nginx")
    with pytest.raises(UnsatisfiableError):
        switched(nginx, ssl=False)


@pytest.mark.parametrize("directory", RECIPES, ids=lambda path: path.name)
def test_each_patch_is_declared_and_can_be_read(directory: Path) -> None:
    text = (directory / PACKAGE_FILE).read_text()
    patches = sorted((directory / "patches").glob("*"))
    for patch in patches:
        assert f"patches/{patch.name}:" in text
        parsed = parse_patch(patch.read_bytes(), patch.name)
        assert parsed.files
        assert not re.search(r"(?m)^@@.*@@ .*fuzz", patch.read_text())
    declared = re.findall(r"^ +(patches/\S+\.patch):", text, re.MULTILINE)
    assert sorted(declared) == [f"patches/{patch.name}" for patch in patches]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_files_that_scripts_and_signatures_name_are_there(package: Package) -> None:
    directory = Path(package.directories[-1])
    for name in re.findall(r"\$FILES/([\w.-]+)", scripts(evaluate(package, ()))):
        assert (directory / "files" / name).is_file()
    for source in archives(package):
        for key in source.signature.keys_ if source.signature else ():
            assert "BEGIN PGP PUBLIC KEY" in (directory / key).read_text()


def archives(package: Package) -> list[SourceSpec]:
    return [source for source in package.recipe.sources if isinstance(source, SourceSpec)]


def sources() -> list[SourceSpec]:
    return [source for package in PACKAGES for source in archives(package)]


def test_each_source_has_a_place_that_debian_serves() -> None:
    assert sources()
    for source in sources():
        places = (source.url, *source.mirrors)
        assert any(place.startswith("mirror://debian/pool/") for place in places)
        assert all(place.startswith(("https://", "mirror://")) for place in places)


def test_openssl_is_signed_by_upstream() -> None:
    openssl = [source for source in sources() if "/openssl-" in source.url]
    assert openssl
    assert all(source.signature is not None for source in openssl)


def test_ids_are_given_once() -> None:
    users = [(name, spec.uid) for p in PACKAGES for name, spec in p.recipe.users.items()]
    groups = {name: spec.gid for p in PACKAGES for name, spec in p.recipe.groups.items()}
    assert len({uid for _, uid in users}) == len(users) == len({name for name, _ in users})
    assert len(set(groups.values())) == len(groups)
    for package in PACKAGES:
        assert all(user.gid in groups.values() for user in package.recipe.users.values())


def test_the_embedded_nginx_is_the_base_with_two_patches() -> None:
    evaluated = evaluate(embedded(), ())
    assert embedded().name == "www-servers/nginx"
    assert embedded().version == "1.22.1"
    assert [patch.written for patch in evaluated.patches] == [
        "patches/https-only.patch",
        "patches/http2-rapid-reset.patch",
    ]
    assert all(patch.spec.description for patch in evaluated.patches)
    assert evaluated.patches[1].spec.fixes == ("CVE-2023-44487",)
    assert evaluated.enabled() == "gzip http2 ipv6 pcre selinux ssl"


def test_without_ipv6_the_patch_of_the_base_comes_first() -> None:
    written = [patch.written for patch in switched(embedded(), ipv6=False).patches]
    assert written[0] == "patches/no-ipv6.patch"
    assert len(written) == 3


def manifest(container: Container) -> dict[str, Any]:
    """The raw manifest of the ACI, with the container's variables filled in."""
    content: object = next(step.content for step in container.steps if step.content)
    parsed = json.loads(content) if isinstance(content, str) else content
    assert isinstance(parsed, dict)
    return parsed


def test_the_demo_container_has_its_steps() -> None:
    container = load_container(DEMO)
    kinds = [next(iter(step.spec.model_fields_set)) for step in container.steps]
    assert kinds == ["vars", "package", "sync", "sync", "sync", "app", "image", "image"]
    assert container.variables["name"] == "nginx-production"
    assert manifest(container)["name"] == "nginx-production-1.22.1-p1"
    for step in container.steps:
        if step.spec.sync is not None:
            assert isinstance(step.spec.sync.src, str)
            assert (DEMO / step.spec.sync.src).exists()


def test_the_raw_manifest_says_what_the_app_says() -> None:
    container = load_container(DEMO)
    app = next(step.spec.app for step in container.steps if step.spec.app is not None)
    raw = manifest(container)["app"]
    assert raw["exec"] == list(app.exec or ())
    assert raw["workingDirectory"] == app.working_directory
    assert (raw["user"], raw["group"]) == (app.user, app.group)
    ports = [f"{port['name']}={port['port']}/{port['protocol']}" for port in raw["ports"]]
    assert ports == list(app.ports)
    mounts = [f"{mount['name']}={mount['path']}:ro" for mount in raw["mountPoints"]]
    assert mounts == list(app.volumes)


def test_editors_find_the_schema_from_the_first_line() -> None:
    files = {
        **{directory / PACKAGE_FILE: "pkg" for directory in RECIPES},
        DEMO / "container.yaml": "container",
    }
    for file, schema in files.items():
        first = file.read_text().splitlines()[0]
        named = first.removeprefix("# yaml-language-server: $schema=")
        assert named != first
        path = os.path.normpath(file.parent / named)
        assert path == str(ROOT / "schemas" / f"{schema}.schema.json")


def test_a_flag_that_no_recipe_declares_is_refused() -> None:
    package = next(package for package in PACKAGES if package.name == "sys-libs/zlib")
    with pytest.raises(RecipeError, match="nonsense"):
        switched(package, nonsense=True)
