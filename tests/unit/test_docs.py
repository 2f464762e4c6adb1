"""What the documents say is there, is there: names of code, files, verbs and options."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from buildit.cli.quick import VERBS
from tests.unit.test_shape import PACKAGE, RANK, modules

pytestmark = pytest.mark.unit

CHECKOUT = Path(__file__).resolve().parents[2]
ARCHITECTURE = CHECKOUT.joinpath("docs/architecture.md").read_text("utf-8")
README = CHECKOUT.joinpath("README.md").read_text("utf-8")
PAGES = (CHECKOUT / "README.md", *sorted(CHECKOUT.glob("docs/**/*.md")))


@cache
def names(module: Path) -> set[str]:
    """Every function, class, method and module-level name of a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
            case _:
                pass
    return found


@cache
def missing(dotted: str) -> str | None:
    """What of `module.name` or `folder.module.name` does not exist; None where all of it does."""
    *way, last = dotted.split(".")
    package = CHECKOUT / "buildit"
    if package.joinpath(*way, f"{last}.py").is_file():
        return None
    modules = [*package.glob(f"{'/'.join(way)}.py"), *package.glob(f"**/{'/'.join(way)}.py")]
    if not modules:
        return f"{dotted}: no module"
    return None if any(last in names(module) for module in modules) else f"{dotted}: no name"


def test_architecture_names_what_is_there() -> None:
    dotted = re.findall(r"`((?:[a-z_]+\.)+(?!py\b|md\b|yaml\b|lock\b)[A-Za-z_]+)`", ARCHITECTURE)
    assert len(dotted) > 10
    assert [found for name in dotted if (found := missing(name))] == []


def test_a_name_that_is_not_there_is_found() -> None:
    assert missing("fetch.Fetcher") is None
    assert missing("commands.stamp") is None
    assert missing("cli.quick.replay") is None
    assert missing("fetch.Fetchor") == "fetch.Fetchor: no name"
    assert missing("commands.stump") == "commands.stump: no module"
    assert missing("sauces.Fetcher") == "sauces.Fetcher: no module"


def test_architecture_has_every_folder_with_its_rank() -> None:
    table = re.findall(r"^\| (\d+) \| `([^`]+)`", ARCHITECTURE, re.M)
    said = {name.rstrip("/"): int(rank) for rank, name in table}
    assert said.pop("errors digest events home codec files") == RANK[""]
    assert said == {name: rank for name, rank in RANK.items() if name}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_readme_uses_verbs_that_there_are() -> None:
    used = set(re.findall(r"`buildit ([a-z]+)\b(?!/)", README))
    assert used > {"plan", "explain", "show", "log", "shell", "verify", "store", "doctor", "lock"}
    assert used <= VERBS


GLOSSARY = CHECKOUT.joinpath("docs/glossary.md").read_text("utf-8")


DEFINED = re.compile(r"^(?:class |def )?([A-Za-z]\w*)(?=[(:]| =)", re.M)
"""Public names as a module's own level gives them, without the time that parsing takes."""


def test_words_that_the_glossary_took_out_are_gone() -> None:
    table = GLOSSARY.partition("## Words that are not used")[2]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| ")][1:]
    unused = {word for row in rows for word in re.findall(r"[a-z]+", row)}
    assert len(unused) > 10
    found = [
        f"{module.name}.{name}"
        for module in modules(PACKAGE)
        if not module.name.startswith(("recipe.yaml.", "recipe.ways.nodes"))
        for name in (module.name, *DEFINED.findall(module.text))
        for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
        if word.lower() in unused
    ]
    assert found == []


def test_docstrings_name_modules_that_there_are() -> None:
    """Of names such as `plan.resolve`, where the first word is a folder of ours."""
    found = [
        f"{module.name}: {wrong}"
        for module in modules(PACKAGE)
        for name in re.findall(r"`((?:[a-z_]+\.)+[A-Za-z_]+)`", module.text)
        if name.partition(".")[0] in {*RANK, *BEFORE}
        and name not in ("image.content", "stack.yaml")
        if (wrong := missing(name))
    ]
    assert found == []


BEFORE = ("build", "load", "net", "pipeline")
"""Folders that there were until revision 66a0901."""
