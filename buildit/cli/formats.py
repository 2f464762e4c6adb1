"""`docs/formats.md`: every key of the user's files, from the descriptions in the models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from buildit.model.versionhint import VERSION
from buildit.recipe import leaf
from buildit.recipe.config import ConfigSpec
from buildit.recipe.container import StepSpec
from buildit.recipe.package import EmbeddedPackage, Recipe, ToolchainPackage, TreePackage, UseChoice
from buildit.recipe.schema import Model
from buildit.recipe.template.values import DEFAULT_NAMES, FILTERS

_HEAD = """# File formats

Generated from the models by `buildit schema formats > docs/formats.md`; do not edit.

Every file is YAML in which each scalar is text, typed by the key that it stands under: `1.10` stays
`1.10`, and an unquoted `on` is a word. No value at all, an unquoted `~` or `null` are an empty
text. Tabs stand in quotes, block texts and comments only. Unknown and duplicate keys are errors.
The JSON Schemas in `schemas/` say the same to editors.
"""

_PKG = """The recipe of a package. Texts, except those of `steps`, are templates over `name` and
`version`.

A package says only what differs from its base: scalars replace, maps merge, lists
append. A map of verbs in the place of a list or map says otherwise: `{$prepend: […]}`,
`{$append: […]}`, `{$replace: …}`, `{$remove: […]}`.
"""

_CONFIG = """The first file that says something wins: beside the container or in a directory above
it, `~/.config/buildit/config.yaml`, the shipped one. Maps merge by key, `use` adds up.
"""

_ROOTS: tuple[tuple[str, str, tuple[type[Model], ...]], ...] = (
    (
        "container.yaml",
        "An ordered list of steps, each with one key. Texts are templates over `vars`.",
        (StepSpec,),
    ),
    ("pkg.yaml", _PKG, (EmbeddedPackage, UseChoice, TreePackage, Recipe, ToolchainPackage)),
    (".buildit-config.yaml", _CONFIG, (ConfigSpec,)),
)

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
        (leaf.PACKAGE_NAME, "category/name"),
        (r"/.*", "absolute path"),
        (r"(?:sha256:)?[0-9a-f]{64}", "SHA-256"),
        (r"(?:https?|mirror)://.+", "URL"),
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
    parts = [_HEAD]
    for title, about, models in _ROOTS:
        parts.append(f"## {title}\n\n{about}")
        for model in models:
            parts += _sections(model, shown)
    parts.append(_templates())
    return "\n".join(parts).rstrip("\n")


_TEMPLATES = """## Templates

Texts may be [Jinja](https://jinja.palletsprojects.com/templates/) templates: `{{ name }}`,
`{% if … %}`, `{% for … %}`, `{# a comment #}`; `${#x}` stays as it is, for shells. They see `vars`,
each from its step on, and in a container `packages`, with the `version`, `license`, `homepage` and
`description` of each: `{{ packages['www-servers/nginx'].version }}` (not in `package` and `use`
steps, which choose the packages). `+ - * // %` take numbers, `~` joins texts,
`{{ ',' if not loop.last }}` is empty where the condition is false. Calls, `{% set %}` and other
files there are none. Tests: `is defined`, `is undefined`. Filters:

| filter | gives |
|---|---|
"""


def _templates() -> str:
    said: dict[str, list[str]] = {}
    for name, function in FILTERS.items():
        said.setdefault(" ".join((function.__doc__ or "").split()), []).append(name)
    said["The value, or `default_value` where it is not defined; with `true`, also if empty."] = [
        *DEFAULT_NAMES
    ]
    rows = sorted(
        f"| {', '.join(f'`{name}`' for name in names)} | {text.replace('|', chr(92) + '|')} |"
        for text, names in said.items()
    )
    return _TEMPLATES + "\n".join(rows) + "\n"


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
