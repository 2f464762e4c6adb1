"""The shape of the code as a test: ranks, where heavy libraries may be, sizes (STYLE §2.4)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = CHECKOUT / "buildit"

RANK = {
    "": 0,
    "model": 1,
    "patch": 1,
    "archive": 2,
    "recipe": 2,
    "stack": 2,
    "plan": 3,
    "store": 4,
    "image": 5,
    "sandbox": 5,
    "podman": 6,
    "trust": 6,
    "make": 7,
    "remote": 8,
    "debian": 9,
    "site": 9,
    "commands": 10,
    "cli": 11,
    "__main__": 12,
}
"""docs/architecture.md, the table; "" are errors, digest, codec, files, events and home."""

ROOTS = ("", "__init__", "errors", "digest", "codec", "files", "events", "home")
"""The modules of rank 0, which are in no folder."""

ONLY_IN = {
    "yaml": ("recipe.yaml.read",),
    "jinja2": ("recipe.template.template", "site.pages"),
    "requests": ("remote.web",),
    "urllib3": ("remote.web",),
    "cryptography": ("trust.ssh",),
    "pysequoia": ("trust.openpgp",),
    "paramiko": ("remote.sftp.login",),
    "pydantic": (
        "recipe.schema",
        "recipe.package",
        "recipe.container",
        "recipe.testspec",
        "recipe.config",
        "recipe.database.spec",
        "recipe.stack",
        "cli.schema",
    ),
    "pydantic_core": ("recipe.schema",),
    "elftools": (),
    "click": ("cli.*",),
    "rich": ("cli.*",),
    "subprocess": (
        *("sandbox.jail", "sandbox.probe", "trust.openpgp", "remote.sftp.login"),
        "remote.git.program",
        "remote.registry.login",
        *("podman.engine", "podman.lifeline", "podman.probing"),
    ),
    "tarfile": (),
    "zipfile": ("archive.zipread",),
    "unittest": (),
    "pickle": (),
}
"""Who may import what is heavy or sharp; nobody else, not even inside of a function."""

SEAMS = (
    *("__main__", "cli"),  # a verb imports what it needs
    *("commands.building", "commands.realise", "commands.run"),
    *(
        "commands.fetching",
        "commands.pins",
        "commands.suites",
        "commands.stamp",
    ),  # what a run may not come to
    "commands.run_image",  # an image that is unpacked is not read
    *("commands.debian_source", "commands.sources", "commands.bases"),
    "make.makers",  # MAKERS
    "image.formats.table",  # FORMATS
    *("remote.binhost.remotes", "remote.fetch"),  # the remotes, by their addresses
    "recipe.ways.find",  # what reads each kind of recipe
    "recipe.template",  # texts without braces never load Jinja2
    *("commands.assemble", "store.cas", "store.artifacts"),  # what a look-up does not need
)
"""Where a module or folder may import ours inside of a function: what a run may not need."""

LONGEST_MODULE = 600
LONGEST_FUNCTION = 60

BANNED_NAMES = frozenset({"util", "utils", "common", "helper", "helpers", "manager", "base"})


@dataclass(frozen=True)
class Module:
    """One file of ours: `name` is without `buildit.`, such as `plan.merge`."""

    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """The nodes that a rule asks for."""
        return tuple(node for node in ast.walk(self.tree) if isinstance(node, WATCHED))

    @cached_property
    def imports(self) -> tuple[tuple[int, str], ...]:
        return tuple(imports(self.nodes))


WATCHED = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef),
    *(ast.Import, ast.ImportFrom, ast.If, ast.Global, ast.keyword, ast.Call, ast.Attribute),
)


@cache
def modules(root: Path) -> tuple[Module, ...]:
    """All modules beneath a folder, read once for all tests of a process."""
    found = []
    for path in sorted(root.rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        text = path.read_text("utf-8")
        found.append(Module(name.removesuffix(".__init__"), text))
    return tuple(found)


def room(name: str) -> str:
    """The folder that a module is in, `__main__` for itself, "" for the three of rank 0."""
    head = name.partition(".")[0]
    return head if head in RANK else "" if head in ROOTS else head


def imports(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported at run time, `module.name` for from-imports."""
    found = [*nodes]
    for_types = [n for n in found if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)]
    left_out = {id(node) for each in for_types for node in ast.walk(each)}
    for node in found:
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def upward(module: Module) -> Iterator[str]:
    here = room(module.name)
    for line, target in module.imports:
        top, _, rest = target.partition(".")
        there = room(rest)
        if top == "buildit" and there != here and RANK[there] >= RANK[here]:
            yield f"{module.name}:{line}: imports {target}, rank {RANK[there]} into {RANK[here]}"


def misplaced(module: Module) -> Iterator[str]:
    for line, target in module.imports:
        places = ONLY_IN.get(target.partition(".")[0])
        if places is not None and not any(
            module.name == place or (place.endswith(".*") and room(module.name) == place[:-2])
            for place in places
        ):
            yield f"{module.name}:{line}: {target} belongs to {', '.join(places) or 'nobody'}"


def too_long(module: Module) -> Iterator[str]:
    lines = len(module.text.splitlines())
    if lines > LONGEST_MODULE:
        yield f"{module.name}: {lines} lines"
    for node in module.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            length = node.end_lineno - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield f"{module.name}:{node.lineno}: {node.name} has {length} lines"


def forbidden(module: Module) -> Iterator[str]:
    """Module state, shells and imports that hide where a thing is."""
    for node in module.nodes:
        match node:
            case ast.Global():
                yield f"{module.name}:{node.lineno}: global"
            case ast.ImportFrom(level=level) if level:
                yield f"{module.name}:{node.lineno}: a relative import"
            case ast.ImportFrom(names=[ast.alias(name="*"), *_]):
                yield f"{module.name}:{node.lineno}: import *"
            case ast.keyword(arg="shell", value=value) if not (
                isinstance(value, ast.Constant) and value.value is False
            ):
                yield f"{module.name}:{node.lineno}: shell="
            case ast.Call(func=ast.Name(id="eval" | "exec" | "__import__" as name)):
                yield f"{module.name}:{node.lineno}: {name}()"
            case ast.Attribute(value=ast.Name(id="os"), attr="system" | "popen" as name):
                yield f"{module.name}:{node.lineno}: os.{name}"
            case ast.Attribute(attr="extractall"):
                yield f"{module.name}:{node.lineno}: extractall"
            case _:
                pass


def is_seam(name: str) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in SEAMS)


def lazy(module: Module) -> Iterator[str]:
    """Imports of ours inside of functions, where no seam is."""
    if is_seam(module.name):
        return
    for node in module.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for line, target in imports(ast.walk(node)):
                if target.startswith("buildit."):
                    yield f"{module.name}:{line}: imports {target} inside of a function"


def unnamed(module: Module) -> Iterator[str]:
    if BANNED_NAMES & set(module.name.split(".")):
        yield f"{module.name}: the name says nothing"
    package = not module.tree.body and not module.text.strip()
    if not package and not ast.get_docstring(module.tree):
        yield f"{module.name}: no docstring"


@pytest.fixture(scope="module")
def ours() -> tuple[Module, ...]:
    found = modules(PACKAGE)
    assert len(found) > 100
    return found


RULES = (upward, misplaced, too_long, forbidden, unnamed, lazy)


PROTOCOLS = {"fetches": "make", "make": "make"}
"""Functions that each module of a folder has, because it is one value of a protocol (Maker)."""


def doubled(ours: Sequence[Module]) -> Iterator[str]:
    """Public names that more than one module defines: one word is one thing (glossary.md)."""
    places: dict[str, list[str]] = {}
    for module in ours:
        for name in {*public_names(module.tree)} - {"TYPE_CHECKING"}:
            if PROTOCOLS.get(name) != room(module.name):
                places.setdefault(name, []).append(module.name)
    yield from (f"{name}: {', '.join(found)}" for name, found in places.items() if found[1:])


def public_names(tree: ast.Module) -> Iterator[str]:
    """Classes, functions and constants of a module, without those that begin with `_`."""
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found = [name]
            case ast.Assign(targets=targets):
                found = [target.id for target in targets if isinstance(target, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                found = [name]
            case _:
                found = []
        yield from (name for name in found if not name.startswith("_"))


def circles(ours: Sequence[Module]) -> Iterator[str]:
    """Modules that import one another, by whatever way round; the rows of a seam's table may."""
    known = {module.name for module in ours}
    graph = {
        module.name: {one for _, target in found if (one := nearest(target, known))}
        for module in ours
        for found in [imports_of(module.tree.body) if is_seam(module.name) else module.imports]
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield " -> ".join(error.args[1])


def imports_of(statements: Iterable[ast.stmt]) -> Iterator[tuple[int, str]]:
    """As `imports`, of a module's own level alone."""
    return imports(one for one in statements if isinstance(one, ast.Import | ast.ImportFrom))


def nearest(target: str, known: set[str]) -> str | None:
    """The module of ours that an import of `target` (`buildit.a.b.Name`) runs last."""
    top, _, rest = target.partition(".")
    while top == "buildit" and rest and rest not in known:
        rest = rest.rpartition(".")[0]
    return rest if top == "buildit" and rest else None


def test_the_code_keeps_its_shape(ours: Sequence[Module]) -> None:
    assert [line for rule in RULES for module in ours for line in rule(module)] == []
    assert list(doubled(ours)) == []
    assert list(circles(ours)) == []
    assert {room(module.name) for module in ours} <= set(RANK)


def test_only_rooms_that_architecture_md_ranks_exist() -> None:
    table = (CHECKOUT / "docs/architecture.md").read_text()
    written = {
        folder.strip("/"): int(cells[1])
        for row in table.splitlines()
        if (cells := [cell.strip() for cell in row.split("|")])[1:2] and cells[1].isdigit()
        for folder in cells[2].strip("`").split()
        if folder.endswith("/")
    }
    assert written == {name: rank for name, rank in RANK.items() if 1 <= rank <= 11}


def test_init_files_are_empty(ours: Sequence[Module]) -> None:
    assert [str(p) for p in PACKAGE.rglob("__init__.py") if p.read_text().strip()] == []


def test_tests_do_not_mock() -> None:
    mock = re.compile(r"^\s*(?:import|from) +(?:unittest|mock)\b", re.MULTILINE)
    paths = sorted((CHECKOUT / "tests").rglob("*.py"))
    assert [str(path) for path in paths if mock.search(path.read_text("utf-8"))] == []
    assert mock.search("def f():\n    from unittest import mock")


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (upward, "plan.x", "from buildit.store.cas import Store"),
        (upward, "plan.x", "def f():\n    from buildit import cli"),
        (upward, "recipe.x", "import buildit.store.cas"),
        (misplaced, "recipe.trees", "def f():\n    import yaml"),
        (misplaced, "plan.x", "from requests import get"),
        (too_long, "plan.x", "x = 1\n" * 601),
        (too_long, "plan.x", "def f():\n" + "    x = 1\n" * 60),
        (forbidden, "plan.x", "def f():\n    global x"),
        (forbidden, "plan.x", "from . import y"),
        (forbidden, "plan.x", "run('ls', shell=True)"),
        (forbidden, "plan.x", "import os\nos.system('ls')"),
        (lazy, "plan.x", "def f():\n    import buildit.plan.y"),
        (unnamed, "plan.helpers", '"""Doc."""'),
        (unnamed, "plan.x", "x = 1"),
    ],
)
def test_each_rule_can_fail(rule: object, name: str, text: str) -> None:
    assert callable(rule)
    assert list(rule(Module(name, text)))


def test_doubles_and_circles_are_found() -> None:
    pair = [
        Module("plan.a", "import buildit.plan.b\nclass One: ..."),
        Module("plan.b", "def f():\n    from buildit.plan.a import One\nOne = 1"),
    ]
    assert list(doubled(pair)) == ["One: plan.a, plan.b"]
    assert len(list(circles(pair))) == 1
    assert not [*doubled(pair[:1]), *circles(pair[:1])]


def test_imports_for_types_alone_are_free() -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import buildit.cli.main\n"
    assert list(upward(Module("plan.x", text))) == []


HEAVY = ("yaml", "pydantic", "jinja2", "requests", "rich", "click", "cryptography", "paramiko")
QUICK = ("buildit.cli.quick", "buildit.commands.stamp", "buildit.errors")
BACK = (
    "buildit.commands.realise",
    "buildit.commands.assemble",
    "buildit.image.formats.table",
    "buildit.model.plan",
    "buildit.commands.building",
    "buildit.commands.run",
)


def loaded_by(*names: str) -> set[str]:
    """What `sys.modules` holds after importing `names` in a new interpreter."""
    program = "import sys, importlib\nfor n in sys.argv[1:]: importlib.import_module(n)\n"
    program += "print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program, *names],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_the_way_with_nothing_to_do_imports_nothing_heavy() -> None:
    present = [
        name for name in QUICK if (CHECKOUT / name.replace(".", "/")).with_suffix(".py").exists()
    ]
    loaded = loaded_by(*present)
    assert sorted(loaded & {*HEAVY, "subprocess", "socket", "ssl", "concurrent.futures"}) == []
    ours = {name for name in loaded if name.startswith("buildit.")}
    assert not {name for name in ours if name.startswith(("buildit.recipe", "buildit.store"))}


def test_the_back_half_imports_nothing_heavy() -> None:
    light = ("", ".leaf", ".yaml", ".yaml.node")  # the last reads the lock
    loaded = loaded_by(*BACK) - {f"buildit.recipe{name}" for name in light}
    assert sorted(loaded & set(HEAVY)) == []
    late = ("buildit.recipe", "buildit.debian", "buildit.sandbox", "buildit.patch")
    assert not {name for name in loaded if name.startswith(late)}


def test_the_pure_core_needs_the_standard_library_only() -> None:
    rooms = ("model.plan", "plan.identity", "plan.lock", "plan.closure", "digest")
    assert sorted(loaded_by(*(f"buildit.{name}" for name in rooms)) & set(HEAVY)) == []


def test_only_use_cases_see_the_configuration() -> None:
    """What lies below `commands` is handed the part that it needs (HOUSE §3.7)."""
    seen = {
        module.name
        for module in modules(PACKAGE)
        for node in module.nodes
        if isinstance(node, ast.ImportFrom) and node.module == "buildit.model.config"
        if any(alias.name == "Config" for alias in node.names)
    }
    assert "commands.run" in seen
    assert {room(name) for name in seen} <= {"recipe", "commands", "cli"}
