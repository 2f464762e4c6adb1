"""The base of every model of a user's file, and the types of its leaves.

Leaves arrive as text (DESIGN §2.1: every scalar is read as a string and typed by the schema), so
each type here says which texts it takes. The JSON Schemas that editors use say the same of the
YAML values that an editor sees: there `1.10` is a number and `on` may be a boolean.

A model's own validators raise `LeafError` (or any ValueError); `recipe.schema` adds the place.
"""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Callable
from collections.abc import Mapping as Map
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Self, TypeVar, cast

import pydantic
from pydantic import AfterValidator, ModelWrapValidatorHandler, Tag, ValidationError, WithJsonSchema
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError

from buildit.digest import Digest
from buildit.errors import RecipeError
from buildit.model.secret import SECRET_ID
from buildit.model.words import hint_of, yaml_word
from buildit.recipe import leaf
from buildit.recipe.leaf import LeafError
from buildit.recipe.yaml.node import Mapping, Node, Place, Scalar, Sequence, follow

UNKNOWN_KEY = "unknown_key"
"""The error type of an unknown key; its context's `valid` holds the keys that may be there."""


def spelled(name: str) -> str:
    """The key that users write for a field: `from_` is `from`, `upload_type` is `upload-type`."""
    return name.rstrip("_").replace("_", "-")


class Model(pydantic.BaseModel):
    """A frozen part of a user's file. Keys are written with dashes; unknown keys are errors.

    The docstring under a field is its description in the JSON Schema and in `docs/`.
    """

    model_config = pydantic.ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=spelled,
        populate_by_name=True,
        defer_build=True,
    )

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """The keys that a user may write, in the order of the fields."""
        return tuple(field.alias or name for name, field in cls.model_fields.items())

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: pydantic.GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """With the descriptions, which are read here: to read them at import, as pydantic can, is a
        tenth of what a plan of nothing yet known takes."""
        made = handler(core)
        properties = handler.resolve_ref_schema(made)["properties"]
        for owner in reversed(cls.__mro__[: cls.__mro__.index(Model)]):
            for name, text in _descriptions(owner):
                properties[cls.model_fields[name].alias or name]["description"] = text
        return made

    @pydantic.model_validator(mode="wrap")
    @classmethod
    def _name_valid_keys(cls, value: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Tell each unknown key which keys this model has; pydantic only says that it is extra."""
        try:
            return handler(value)
        except ValidationError as error:
            told = [_told(one, cls.keys()) for one in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(cls.__name__, told) from None


@cache
def _descriptions(model: type) -> tuple[tuple[str, str], ...]:
    """The fields that a model declares itself, with the docstrings under them."""
    body = ast.parse(inspect.getsource(model)).body[0]
    assert isinstance(body, ast.ClassDef)  # noqa: S101 - models stand at the top
    found = []
    for one, below in pairwise(body.body):
        match one, below:
            case ast.AnnAssign(ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                found.append((name, inspect.cleandoc(text)))
            case _:
                pass
    return tuple(found)


def _told(error: ErrorDetails, valid: tuple[str, ...]) -> InitErrorDetails:
    context: dict[str, object] = {**error.get("ctx", {}), "text": error["msg"]}
    kind = error["type"]
    if kind == "extra_forbidden" and len(error["loc"]) == 1:
        kind, context["valid"] = UNKNOWN_KEY, valid
    # Only a custom error can keep any type, context and place when it is raised again.
    told = PydanticCustomError(kind, "{text}", context)
    return InitErrorDetails(type=told, loc=error["loc"], input=error["input"])


def _from_text(parse: Callable[[str], object]) -> pydantic.BeforeValidator:
    """Text becomes a value; a value that is none (a default, one given by code) stays as it is."""
    return pydantic.BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _pattern(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^(?:{pattern})$"})


def _number_or(pattern: str) -> WithJsonSchema:
    """What an editor's YAML reader makes of a leaf that may look like a number."""
    text = _pattern(pattern).json_schema
    return WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, text]})


_ANY_SCALAR = WithJsonSchema({"type": ["string", "number", "boolean"]})
_STRING = WithJsonSchema({"type": "string"})
_SOME_STRING = WithJsonSchema({"type": "string", "minLength": 1})
_WORDS = {"enum": ["on", "off", "yes", "no", "true", "false"]}
_SWITCH = WithJsonSchema({"anyOf": [{"type": "boolean"}, _WORDS]})

Text = Annotated[str, AfterValidator(leaf.is_text), _ANY_SCALAR]
"""Any text but an empty one; may have several lines."""
Line = Annotated[str, AfterValidator(leaf.is_line), _ANY_SCALAR]
"""One line of text, not empty."""
MaybeEmpty = Annotated[str, WithJsonSchema({"type": ["string", "number", "boolean", "null"]})]
"""Any text, an empty one too (an argument, a variable's value)."""
OnOff = Annotated[bool, _from_text(leaf.parse_flag), _SWITCH]
"""`on`, `off`, `yes`, `no`, `true`, `false`."""
Count = Annotated[int, _from_text(leaf.whole_number), _number_or("[0-9]+")]
"""A whole number from 0."""
NumericId = Annotated[Count, AfterValidator(leaf.numeric_id), _number_or("[0-9]+")]
"""A uid or gid."""
Mode = Annotated[int, _from_text(leaf.parse_mode), _number_or(leaf.MODE)]
"""Permission bits: `0644`, `0o644`, `u=rw,go=r`."""
Sha256 = Annotated[Digest, AfterValidator(leaf.sha256), _pattern("(?:sha256:)?[0-9a-f]{64}")]
RelativePath = Annotated[str, AfterValidator(leaf.relative_path), _STRING]
"""A path beneath the directory of the file that names it."""
WorkDirectory = Annotated[str, AfterValidator(leaf.work_directory), _STRING]
"""A directory of this machine, also outside of the project."""
FileName = Annotated[str, AfterValidator(leaf.file_name), _STRING]
"""The name of a file, without a directory."""
ImagePath = Annotated[str, AfterValidator(leaf.image_path), _pattern("/.*")]
"""An absolute path inside an image."""
PackageName = Annotated[str, AfterValidator(leaf.package_name), _pattern(leaf.PACKAGE_NAME)]
"""`category/name`."""
VersionText = Annotated[str, AfterValidator(leaf.version), _number_or(leaf.VERSION)]
FlagName = Annotated[str, AfterValidator(leaf.flag_name), _pattern(leaf.FLAG)]
"""The name of a USE flag."""
Identifier = Annotated[str, AfterValidator(leaf.identifier), _pattern(leaf.IDENTIFIER)]
"""The name of a variable: of the environment or of a template."""
VariableName = Annotated[str, AfterValidator(leaf.variable_name), _SOME_STRING]
"""The name of a variable of a container's environment: any text without `=`."""
LabelName = Annotated[str, AfterValidator(leaf.is_line), _SOME_STRING]
"""The name of a label or annotation (image-spec annotations.md)."""
SecretId = Annotated[str, AfterValidator(leaf.secret_id), _pattern(SECRET_ID)]
"""What a secret is called."""
DatabaseName = Annotated[str, AfterValidator(leaf.database_name), _pattern(leaf.DATABASE)]
"""What a database or its user is called."""
AccountName = Annotated[str, AfterValidator(leaf.account_name), _pattern(leaf.ACCOUNT)]
"""The name of a user or group."""
DebianPackage = Annotated[str, AfterValidator(leaf.debian_package), _pattern(leaf.DEBIAN_PACKAGE)]
"""`debian:NAME`, with `=VERSION` where it matters."""
DebianName = Annotated[str, AfterValidator(leaf.debian_name), _pattern(leaf.DEBIAN_NAME)]
"""`NAME` of a Debian package, with `=VERSION` where it matters."""
DebianVersion = Annotated[str, AfterValidator(leaf.debian_version), _number_or(leaf.DEBIAN_VERSION)]
"""The whole version of a Debian package."""
VersionSuffix = Annotated[str, AfterValidator(leaf.version_suffix), _pattern(leaf.VERSION_SUFFIX)]
"""What stands after Debian's version: `+buildit1`."""
SourceUrl = Annotated[str, AfterValidator(leaf.source_url), _pattern("(?:https?|mirror)://.+")]
"""Where bytes may come from: `https://`, `http://` or `mirror://NAME/path`."""
GitUrl = Annotated[str, AfterValidator(leaf.git_url), _pattern("(?:https|ssh|file)://.+")]
"""A git repository: `https://…`, `ssh://git@…` or `file:///…`."""
CommitId = Annotated[str, AfterValidator(leaf.commit_id), _pattern(leaf.COMMIT)]
"""A git commit, 40 hex digits."""
TagName = Annotated[str, AfterValidator(leaf.tag_name), _ANY_SCALAR]
"""A git tag."""
Url = Annotated[str, AfterValidator(leaf.web_url), _pattern("https?://.+")]
Size = Annotated[int, _from_text(leaf.parse_size), _number_or(leaf.SIZE)]
"""Bytes: `512M`, `2GiB`."""
Duration = Annotated[int, _from_text(leaf.parse_duration), _number_or(leaf.DURATION)]
"""Seconds: `90s`, `2h`."""

SCALAR, LIST, MAPPING = "<text>", "<list>", "<mapping>"
"""Tags of the kinds of a node, for unions such as a patch's description or its details: only the
branch of the written kind is tried, so that its errors are the only ones reported."""


def _kind_of(value: object) -> str:
    if isinstance(value, str | int | bool | float):
        return SCALAR
    return LIST if isinstance(value, list | tuple) else MAPPING


BY_KIND = pydantic.Discriminator(_kind_of)


def by_key(*models: type[Model]) -> pydantic.Discriminator:
    """Tells mappings apart by the first key of each model; the last model is for all others. That
    key in `<>` is the tag: no tag may be a key, as `_finding` follows an error's location by keys.
    """

    def tag(value: object) -> str:
        for model in models[:-1]:
            key = model.keys()[0]
            if isinstance(value, model) or (isinstance(value, Map) and key in value):
                return f"<{key}>"
        return f"<{models[-1].keys()[0]}>"

    return pydantic.Discriminator(tag)


T = TypeVar("T")
_U = TypeVar("_U")
TextOrMap = Annotated[Annotated[T, Tag(SCALAR)] | Annotated[_U, Tag(MAPPING)], BY_KIND]
TextOrList = Annotated[Annotated[T, Tag(SCALAR)] | Annotated[tuple[T, ...], Tag(LIST)], BY_KIND]
ListOrMap = Annotated[Annotated[tuple[T, ...], Tag(LIST)] | Annotated[_U, Tag(MAPPING)], BY_KIND]

_SHOWN = 10
_KINDS = {SCALAR: "text", LIST: "a list", MAPPING: "a mapping"}
_EXPECTED = {
    "string_type": "text",
    "tuple_type": "a list",
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "int_type": "a number",
    "bool_type": "on or off",
}


@cache
def _adapter(model: Any) -> pydantic.TypeAdapter[Any]:  # noqa: ANN401 - a type, or a union of some
    return pydantic.TypeAdapter(model)


def parse(node: Node, model: type[T]) -> T:
    """`node` as `model`: a `Model`, or a tuple or union of such.

    Raises:
        RecipeError: unknown or missing keys, values that their types refuse; the first one is the
            message, up to nine more are its details.
    """
    adapter: pydantic.TypeAdapter[T] = _adapter(cast("Any", model))
    try:
        return adapter.validate_python(plain(node), by_alias=True, by_name=False)
    except ValidationError as error:
        found = sorted({_finding(node, one) for one in error.errors(include_url=False)})
    (place, message, hint), *rest = found
    told = ((f"{where}: {text}", advice) for where, text, advice in rest[: _SHOWN - 1])
    details = [f"{line} ({advice})" if advice else line for line, advice in told]
    if len(found) > _SHOWN:
        details.append(f"and {len(found) - _SHOWN} more")
    raise RecipeError(message, place=str(place), hint=hint or None, details=tuple(details))


def plain(node: Node) -> str | list[Any] | dict[str, Any]:
    """`node` without places: texts, lists, and maps in written order."""
    match node:
        case Scalar(text):
            return text
        case Sequence(items):
            return [plain(item) for item in items]
        case Mapping(items):
            return {key.text: plain(value) for key, value in items}


def _finding(root: Node, error: ErrorDetails) -> tuple[Place, str, str]:
    """Where something is wrong, the message, and the hint."""
    kind, loc = error["type"], error["loc"]
    context: Map[str, Any] = error.get("ctx", {})
    node, key, rest = follow(root, loc)
    if kind == UNKNOWN_KEY and key is not None:
        return key.place, f"unknown key {key.text!r}", hint_of(key.text, context["valid"]) or ""
    if kind == "missing":
        return node.place, f"the key {loc[-1]!r} is missing", f"add `{loc[-1]}: …`"
    subject = f"{key.text}: " if key is not None else ""
    if rest == "[key]" and key is not None:
        node, subject = key, ""  # pydantic locates an unfit key of a map as (…, key, "[key]")
    message, hint = _said(kind, error["msg"], context, node)
    return node.place, subject + message, hint or ""


def _said(kind: str, text: str, context: Map[str, Any], node: Node) -> tuple[str, str | None]:
    """The message and the hint of an error that is not about a key."""
    wrong = context.get("error")
    if isinstance(wrong, ValueError):
        return str(wrong), wrong.hint if isinstance(wrong, LeafError) else None
    written = _written(node)
    if expected := _EXPECTED.get(kind):
        return f"expected {expected}, found {written}", _form(node, expected)
    choices = tuple(re.findall(r"'([^']*)'", str(context.get("expected", ""))))
    if kind == "literal_error":
        chosen = node.text if isinstance(node, Scalar) else ""
        return f"expected one of {', '.join(choices)}; found {written}", hint_of(chosen, choices)
    if kind == "union_tag_invalid":  # no branch for a node of this kind
        tags = re.findall(r"'([^']*)'", str(context.get("expected_tags", "")))
        return f"expected {' or '.join(_KINDS[tag] for tag in tags)}, found {written}", None
    if kind == "too_short":
        least, found = context["min_length"], context["actual_length"]
        return f"expected at least {least}, found {found}", None
    return f"{text[:1].lower()}{text[1:]}, found {written}", None


def _form(node: Node, expected: str) -> str | None:
    """How what was expected is written."""
    if expected == "a mapping":
        return "write `key: value` lines below it"
    text = node.text.strip() if isinstance(node, Scalar) else ""
    as_list = _as_list(text) or "write each item on a line that begins with a dash"
    return as_list if expected == "a list" else None


_SHELL = re.compile(r"[|&;<>$`*]")


def _as_list(text: str) -> str | None:
    """How a text that was meant as a list is written as one, word by word as a shell reads it."""
    words = ["/bin/sh", "-c", text]
    if not _SHELL.search(text) or len(text.split()) == 1:
        try:
            words = shlex.split(text)
        except ValueError:  # a lone quote
            return None
    return f"write [{', '.join(map(yaml_word, words))}]" if text else None


def _written(node: Node) -> str:
    if isinstance(node, Scalar):
        text = node.text if len(node.text) <= 60 else node.text[:59] + "…"
        return repr(text) if text else "nothing"
    return "a list" if isinstance(node, Sequence) else "a mapping"
