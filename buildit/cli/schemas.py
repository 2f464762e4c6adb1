"""JSON Schemas (draft 2020-12) of the user's files, from the models that read them.

They say what an editor can know: it sees plain YAML values, before templates are rendered and
before a package is laid over its base. So a text with a template in it fits every pattern, and
where lists and maps are laid over others (`recipe.merge`), the verbs may stand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from buildit.errors import StoreError
from buildit.recipe.config import ConfigSpec
from buildit.recipe.container import StepSpec
from buildit.recipe.package import EmbeddedPackage, ToolchainPackage, TreePackage, UseChoice

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEMPLATE = r"\{\{"
_REF = "#/$defs/"
_BY_NAME = ("properties", "$defs", "patternProperties")
_NAMES: Schema = {"type": "array", "items": {"type": ["string", "number", "boolean"]}}


def pkg_schema() -> Schema:
    """pkg.yaml: of a tree, beside a container (it has a base), or a toolchain."""
    made = _schema(TypeAdapter(TreePackage | EmbeddedPackage | ToolchainPackage | UseChoice))
    definitions: Schema = made["$defs"]
    laid = _Laid(definitions)
    embedded = laid.properties(definitions["EmbeddedPackage"])
    declared = embedded["properties"]["use"]
    choice = {"$ref": f"{_REF}UseChoice"}
    embedded["properties"]["use"] = {"anyOf": [choice, declared]}
    definitions["EmbeddedPackage"] = {**embedded, "required": ["base"]}
    versions = definitions["TreePackage"]["properties"]["versions"]
    versions["additionalProperties"] = laid.value(versions["additionalProperties"])
    return _with_templates(
        {
            "$schema": DIALECT,
            "title": "pkg.yaml",
            "type": "object",
            "if": {"required": ["base"]},
            "then": {"$ref": f"{_REF}EmbeddedPackage"},
            "else": {
                "if": {"properties": {"style": {"const": "toolchain"}}, "required": ["style"]},
                "then": {"$ref": f"{_REF}ToolchainPackage"},
                "else": {"$ref": f"{_REF}TreePackage"},
            },
            "$defs": _used(definitions, ("EmbeddedPackage", "ToolchainPackage", "TreePackage")),
        }
    )


def container_schema() -> Schema:
    """container.yaml: a list of steps with one key each."""
    made = _schema(TypeAdapter(list[StepSpec]))
    made["$defs"]["StepSpec"] |= {"minProperties": 1, "maxProperties": 1}
    return _with_templates({"$schema": DIALECT, "title": "container.yaml", **made})


def config_schema() -> Schema:
    """.buildit-config.yaml."""
    return {"$schema": DIALECT, **_schema(TypeAdapter(ConfigSpec)), "title": ".buildit-config.yaml"}


SCHEMAS: Mapping[str, Callable[[], Schema]] = {
    "pkg": pkg_schema,
    "container": container_schema,
    "config": config_schema,
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
            raise StoreError(
                f"the schema cannot be written: {error.strerror}",
                place=str(path),
                hint="name a directory that you may write: --output DIR",
            ) from error
        written.append(path)
    return tuple(written)


def _mapped(node: Any, change: Callable[[Schema], Schema]) -> Any:  # noqa: ANN401 - any JSON
    """JSON with each of its schemas changed, the inner ones first."""
    if isinstance(node, list):
        return [_mapped(one, change) for one in node]
    if not isinstance(node, dict):
        return node
    return change(
        {
            key: {name: _mapped(inner, change) for name, inner in value.items()}
            if key in _BY_NAME
            else _mapped(value, change)
            for key, value in node.items()
        }
    )


def _schema(adapter: TypeAdapter[Any]) -> Schema:
    made: Schema = _mapped(adapter.json_schema(by_alias=True), _tidy)
    return made


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


def _with_templates(schema: Schema) -> Schema:
    """Texts may be templates; keys of maps are never rendered."""
    made: Schema = _mapped(schema, _templated)
    return made


def _templated(node: Schema) -> Schema:
    if node.get("type") == "string" and isinstance(node.get("pattern"), str):
        return {**node, "pattern": f"{node['pattern']}|{_TEMPLATE}"}
    return node


@dataclass(frozen=True, slots=True)
class _Laid:
    """Schemas of what is laid over something else: nothing is required, and verbs may stand."""

    definitions: Schema

    def value(self, schema: Schema) -> Schema:
        said = {key: schema[key] for key in ("description",) if key in schema}
        if "$ref" in schema:
            name = schema["$ref"].removeprefix(_REF)
            return {**said, "anyOf": [{"$ref": self._named(name)}, _replace(_bare(schema))]}
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return {**said, "anyOf": [self.value(one) for one in schema[union]]}
        if schema.get("type") == "array":
            return {**said, "anyOf": [_bare(schema), _list_verbs(_bare(schema))]}
        if schema.get("type") == "object":
            return {**said, "anyOf": [self._map(_bare(schema)), _replace(_bare(schema))]}
        return schema

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
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "minProperties": 1,
    }


def _replace(schema: Schema) -> Schema:
    return _verbs({"$replace": schema})


def _list_verbs(schema: Schema) -> Schema:
    named = {"$prepend": schema, "$append": schema, "$replace": schema, "$remove": _NAMES}
    return _verbs(named)


def _used(definitions: Schema, roots: tuple[str, ...]) -> Schema:
    """The definitions that `roots` reach, by name."""
    found: set[str] = set()
    pending = list(roots)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += re.findall(
                rf'"\$ref": "{re.escape(_REF)}(\w+)"', json.dumps(definitions[name])
            )
    return {name: definitions[name] for name in sorted(found)}
