"""`schema`: JSON Schemas (draft 2020-12) of the user's files, and `docs/formats.md`, the page of
all their keys, from the models that read them.

The schemas say what an editor can know: it sees plain YAML values, before templates are rendered
and before a package is laid over its base. So a text with a template in it fits every pattern, and
where lists and maps are laid over others (`recipe.trees`), the verbs may stand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter

from buildit.cli.options import PATH
from buildit.cli.screen import say
from buildit.errors import StoreError
from buildit.model.atom import VERSION
from buildit.model.secret import SECRET_ID
from buildit.recipe import leaf
from buildit.recipe.config import ConfigSpec
from buildit.recipe.container import StepSpec
from buildit.recipe.package import (
    DebianSourcePackage,
    EmbeddedPackage,
    Recipe,
    ToolchainPackage,
    TreePackage,
    UseChoice,
)
from buildit.recipe.schema import Model
from buildit.recipe.stack import StackSpec
from buildit.recipe.template.template import DEFAULT_NAMES, FILTERS

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEMPLATE = r"\{\{"
_REF = "#/$defs/"
_BY_NAME = ("properties", "$defs", "patternProperties")
_NAMES: Schema = {"type": "array", "items": {"type": ["string", "number", "boolean"]}}


def pkg_schema() -> Schema:
    """pkg.yaml: of a tree, beside a container (it has a base), or a toolchain."""
    made = _schema(
        TreePackage | EmbeddedPackage | DebianSourcePackage | ToolchainPackage | UseChoice
    )
    definitions: Schema = made["$defs"]
    laid = _Laid(definitions)
    embedded = laid.properties(definitions["EmbeddedPackage"])
    declared = embedded["properties"]["use"]
    embedded["properties"]["use"] = {"anyOf": [{"$ref": f"{_REF}UseChoice"}, declared]}
    definitions["EmbeddedPackage"] = {**embedded, "required": ["base"]}
    versions = definitions["TreePackage"]["properties"]["versions"]
    versions["additionalProperties"] = laid.value(versions["additionalProperties"])
    roots = ("DebianSourcePackage", "EmbeddedPackage", "ToolchainPackage", "TreePackage")
    return _mapped(
        {
            "$schema": DIALECT,
            "title": "pkg.yaml",
            "type": "object",
            "if": {"required": ["base"]},
            "then": {
                "if": {"properties": {"base": {"pattern": "^debian:"}}},
                "then": {"$ref": f"{_REF}DebianSourcePackage"},
                "else": {"$ref": f"{_REF}EmbeddedPackage"},
            },
            "else": {
                "if": {"properties": {"style": {"const": "toolchain"}}, "required": ["style"]},
                "then": {"$ref": f"{_REF}ToolchainPackage"},
                "else": {"$ref": f"{_REF}TreePackage"},
            },
            "$defs": _used(definitions, roots),
        },
        _templated,
    )


def container_schema() -> Schema:
    """container.yaml: a list of steps with one key each, and `with` beside `include`."""
    made = _schema(list[StepSpec])
    made["$defs"]["StepSpec"] |= {
        "minProperties": 1,
        "if": {"required": ["include"]},
        "then": {"propertyNames": {"enum": ["include", "with"]}},
        "else": {"maxProperties": 1, "not": {"required": ["with"]}},
    }
    return _mapped({"$schema": DIALECT, "title": "container.yaml", **made}, _templated)


def config_schema() -> Schema:
    """.buildit-config.yaml."""
    return {"$schema": DIALECT, **_schema(ConfigSpec), "title": ".buildit-config.yaml"}


def stack_schema() -> Schema:
    """stack.yaml."""
    return {"$schema": DIALECT, **_schema(StackSpec), "title": "stack.yaml"}


SCHEMAS: Mapping[str, Callable[[], Schema]] = {
    "pkg": pkg_schema,
    "container": container_schema,
    "config": config_schema,
    "stack": stack_schema,
}


def schema_text(name: str) -> str:
    """The file that is checked in as `schemas/NAME.schema.json`."""
    return f"{json.dumps(SCHEMAS[name](), indent=2)}\n"


def write_schemas(directory: Path, names: Iterable[str]) -> tuple[Path, ...]:
    """Write the named schemas; returns their files.

    Raises:
        StoreError: the directory cannot be written.
    """
    written = []
    for name in names:
        path = directory / f"{name}.schema.json"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            path.write_text(schema_text(name), "utf-8")
        except OSError as error:
            told = f"the schema cannot be written: {error.strerror}"
            hint = "name a directory that you may write: --output DIR"
            raise StoreError(told, place=str(path), hint=hint) from error
        written.append(path)
    return tuple(written)


def _mapped(schema: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """A schema with each of those in it changed, the inner ones first."""

    def inside(value: Any) -> Any:  # noqa: ANN401 - any JSON
        if isinstance(value, list):
            return [inside(one) for one in value]
        return _mapped(value, change) if isinstance(value, dict) else value

    return change(
        {
            key: {name: inside(one) for name, one in value.items()}
            if key in _BY_NAME
            else inside(value)
            for key, value in schema.items()
        }
    )


def _schema(kind: Any) -> Schema:  # noqa: ANN401 - a type as a value
    return _mapped(TypeAdapter(kind).json_schema(by_alias=True), _tidy)


def _tidy(node: Schema) -> Schema:
    """Without invented titles, without nulls (no user writes them), maps closed to other keys."""
    made = {
        key: value
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str)) and not (key == "default" and not value)
    }
    branches = [one for one in made.get("anyOf", ()) if one != {"type": "null"}]
    if len(branches) == 1:
        del made["anyOf"]
        made = {**branches[0], **made}
    elif branches:
        made["anyOf"] = branches
    if "patternProperties" in made:
        made["additionalProperties"] = False
    if isinstance(made.get("default"), dict):
        del made["default"]  # of parts that may be left out: nothing that an editor should insert
    return made


def _templated(node: Schema) -> Schema:
    """Texts may be templates; keys of maps are never rendered."""
    if node.get("type") == "string" and isinstance(node.get("pattern"), str):
        return {**node, "pattern": f"{node['pattern']}|{_TEMPLATE}"}
    return node


@dataclass(frozen=True, slots=True)
class _Laid:
    """Schemas of what is laid over something else: nothing is required, and verbs may stand."""

    definitions: Schema

    def value(self, schema: Schema) -> Schema:
        said = {key: schema[key] for key in ("description",) if key in schema}
        bare = _bare(schema)
        match schema:
            case {"$ref": ref}:
                name = self._named(ref.removeprefix(_REF))
                choices = [{"$ref": name}, _verbs({"$replace": bare})]
            case {"anyOf": members} | {"oneOf": members}:
                choices = [self.value(one) for one in members]
            case {"type": "array"}:
                verbs = {"$prepend": bare, "$append": bare, "$replace": bare, "$remove": _NAMES}
                choices = [bare, _verbs(verbs)]
            case {"type": "object"}:
                choices = [self._map(bare), _verbs({"$replace": bare})]
            case _:
                return schema
        return {**said, "anyOf": choices}

    def properties(self, definition: Schema) -> Schema:
        made = {key: value for key, value in definition.items() if key != "required"}
        made["properties"] = {
            name: self.value(value) for name, value in definition["properties"].items()
        }
        made["properties"]["$remove"] = _NAMES
        return made

    def _map(self, schema: Schema) -> Schema:
        made = dict(schema)
        if isinstance(made.get("additionalProperties"), dict):
            made["additionalProperties"] = self.value(made["additionalProperties"])
        if "patternProperties" in made:
            made["patternProperties"] = {
                pattern: self.value(value) for pattern, value in made["patternProperties"].items()
            }
        if "propertyNames" in made:
            made["propertyNames"] = {"anyOf": [made["propertyNames"], {"const": "$remove"}]}
        return {**made, "properties": {"$remove": _NAMES}}

    def _named(self, name: str) -> str:
        over = f"{name}Over"
        if over not in self.definitions:
            self.definitions[over] = {}  # so that a model that holds itself ends
            self.definitions[over] = self.properties(self.definitions[name])
        return f"{_REF}{over}"


def _bare(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if key not in ("description", "default")}


def _verbs(properties: Schema) -> Schema:
    closed = {"additionalProperties": False, "minProperties": 1}
    return {"type": "object", "properties": properties, **closed}


def _used(definitions: Schema, roots: tuple[str, ...]) -> Schema:
    """The definitions that `roots` reach, by name."""
    found: set[str] = set()
    pending = list(roots)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += re.findall(rf'"{re.escape(_REF)}(\w+)"', json.dumps(definitions[name]))
    return {name: definitions[name] for name in sorted(found)}


_SECTIONS: Mapping[str, tuple[type[Model], ...]] = {
    "container.yaml": (StepSpec,),
    "stack.yaml": (StackSpec,),
    "pkg.yaml": (
        EmbeddedPackage,
        DebianSourcePackage,
        UseChoice,
        TreePackage,
        Recipe,
        ToolchainPackage,
    ),
    ".buildit-config.yaml": (ConfigSpec,),
}
"""The models whose keys stand in the place of `<!-- NAME -->` in the page."""

_PATTERNS: Mapping[str, str] = {
    f"^(?:{pattern})$": word
    for pattern, word in (
        (r"[0-9]+", "number"),
        (leaf.MODE, "mode"),
        (leaf.SIZE, "size"),
        (leaf.DURATION, "duration"),
        (VERSION, "version"),
        (leaf.FLAG, "flag"),
        (leaf.IDENTIFIER, "name"),
        (leaf.ACCOUNT, "account"),
        (leaf.DATABASE, "name"),
        (leaf.STACK_NAME, "name"),
        (SECRET_ID, "id"),
        (leaf.PACKAGE_NAME, "category/name"),
        (leaf.DEBIAN_PACKAGE, "debian:NAME"),
        (leaf.DEBIAN_NAME, "Debian package"),
        (leaf.DEBIAN_VERSION, "Debian version"),
        (leaf.VERSION_SUFFIX, "version suffix"),
        (r"/.*", "absolute path"),
        (r"(?:sha256:)?[0-9a-f]{64}", "SHA-256"),
        (r"(?:https?|mirror)://.+", "URL"),
        (r"(?:https|ssh|file)://.+", "URL"),
        (leaf.COMMIT, "commit"),
        (r"https?://.+", "URL"),
    )
}

_INHERITED = frozenset(Recipe.keys())


@cache
def examples() -> Mapping[str, str]:
    """An example of every key of the user's files, by the name of its model."""
    text = Path(__file__).with_name("examples.yaml").read_text("utf-8")
    parts = re.split(r"(?m)^--- # (\w+)\n", text)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def formats_page() -> str:
    """The whole page, without a newline at its end."""
    shown: set[str] = set()
    page = Path(__file__).with_name("formats.md").read_text("utf-8")
    for title, models in _SECTIONS.items():
        parts = [part for model in models for part in _sections(model, shown)]
        page = page.replace(f"<!-- {title} -->", "\n".join(parts))
    return page.replace("<!-- filters -->", "\n".join(_filters())).rstrip("\n")


def _filters() -> list[str]:
    said: dict[str, list[str]] = {}
    for name, function in FILTERS.items():
        said.setdefault(" ".join((function.__doc__ or "").split()), []).append(name)
    default = "The value, or `default_value` where it is not defined; with `true`, also if empty."
    said[default] = [*DEFAULT_NAMES]
    return sorted(
        f"| {', '.join(f'`{name}`' for name in names)} | {text.replace('|', chr(92) + '|')} |"
        for text, names in said.items()
    )


def _sections(model: type[Model], shown: set[str]) -> Iterator[str]:
    """The table of a model and of those it leads to, each once."""
    made = model.model_json_schema(by_alias=True)
    definitions: dict[str, Any] = made.get("$defs", {})
    for name, schema in ((model.__name__, made), *definitions.items()):
        if name not in shown and "properties" in schema:
            shown.add(name)
            yield _section(name, schema)


def _section(name: str, schema: Mapping[str, Any]) -> str:
    inherited = name in ("EmbeddedPackage", "TreePackage")
    required = schema.get("required", ())
    rows = [
        f"| `{key}` | {_kind(value)} | {_default(key in required, value)} | {_said(value)} |"
        for key, value in schema["properties"].items()
        if not (inherited and key in _INHERITED)
    ]
    about = " ".join(str(schema.get("description", "")).split())
    if inherited:
        about += " Besides, every key of [Recipe](#recipe)."
    if name == EmbeddedPackage.__name__:
        about += " Its `use` also takes a [UseChoice](#usechoice)."
    head = "| key | value | default | meaning |\n|---|---|---|---|"
    example = f"\n```yaml\n{examples()[name]}```\n" if name in examples() else ""
    return f"### {name}\n\n{about}\n\n{head}\n" + "\n".join(rows) + "\n" + example


def _said(schema: Mapping[str, Any]) -> str:
    return " ".join(str(schema.get("description", "")).split()).replace("|", "\\|")


def _default(required: bool, schema: Mapping[str, Any]) -> str:
    if required:
        return "required"
    value = schema.get("default")
    if isinstance(value, bool):
        return "`on`" if value else "`off`"
    return f"`{value}`" if isinstance(value, str | int) and value != "" else ""


def _kind(schema: Mapping[str, Any]) -> str:
    """What may be written there, in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for union in ("anyOf", "oneOf"):
        if union in schema:
            kinds = [_kind(one) for one in schema[union] if one != {"type": "null"}]
            words = list(dict.fromkeys(kinds))
            # A number is only how an editor reads a text such as 0644.
            return " or ".join(words[1:] if len(words) > 1 and words[0] == "number" else words)
    if "enum" in schema:
        choices = tuple(schema["enum"])
        if set(choices) == {"on", "off", "yes", "no", "true", "false"}:
            return "on or off"
        return ", ".join(f"`{one}`" for one in choices)
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == ["null"]:
        return "nothing"
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}" if schema.get("items") else "list of rules"
    if schema.get("type") == "object":
        return _map_kind(schema)
    if "pattern" in schema:
        return _PATTERNS[schema["pattern"]]
    return {"boolean": "on or off", "number": "number"}.get(str(schema.get("type")), "text")


def _map_kind(schema: Mapping[str, Any]) -> str:
    inner = schema.get("patternProperties")
    if inner:
        ((pattern, value),) = inner.items()
        return f"map: {_PATTERNS[pattern]} → {_kind(value)}"
    names = schema.get("propertyNames", {})
    key = _kind(names) if names else "text"
    return f"map: {key} → {_kind(schema['additionalProperties'])}"


@click.command("schema", short_help="Print the JSON Schema of a file, or of all.")
@click.argument("name", type=click.Choice((*SCHEMAS, "formats")), required=False)
@click.option("--output", metavar="DIR", type=PATH, help="Write NAME.schema.json files there.")
def schema_verb(name: str | None, output: Path | None) -> None:
    """Print the JSON Schema of a file, or of all; `formats` is the same as a page to read."""
    if name == "formats":
        say(f"{formats_page()}\n")
    elif output is not None:
        say("".join(f"{path}\n" for path in write_schemas(output, (name,) if name else SCHEMAS)))
    else:
        made = SCHEMAS[name]() if name else {one: make() for one, make in SCHEMAS.items()}
        say(f"{json.dumps(made, indent=2)}\n")
