"""The base of every model of a user's file, and the types of its leaves.

Leaves arrive as text (DESIGN §2.1: every scalar is read as a string and typed by the schema), so
each type here says which texts it takes. The JSON Schemas that editors use say the same of the
YAML values that an editor sees: there `1.10` is a number and `on` may be a boolean.

A model's own validators raise `LeafError` (or any ValueError); `model.typed` adds the place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    ModelWrapValidatorHandler,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from buildit.digest import Digest
from buildit.recipe import leaf

UNKNOWN_KEY = "unknown_key"
"""The error type of an unknown key; its context's `valid` holds the keys that may be there."""


def spelled(name: str) -> str:
    """The key that users write for a field: `from_` is `from`, `upload_type` is `upload-type`."""
    return name.rstrip("_").replace("_", "-")


class Model(BaseModel):
    """A frozen part of a user's file. Keys are written with dashes; unknown keys are errors.

    The docstring under a field is its description in the JSON Schema and in `docs/`.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=spelled,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """The keys that a user may write, in the order of the fields."""
        return tuple(field.alias or name for name, field in cls.model_fields.items())

    @model_validator(mode="wrap")
    @classmethod
    def _name_valid_keys(cls, value: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Tell each unknown key which keys this model has; pydantic only says that it is extra."""
        try:
            return handler(value)
        except ValidationError as error:
            found = error.errors(include_url=False)
            if not any(map(_is_extra, found)):
                raise
            told = [_told(one, cls.keys()) for one in found]
            raise ValidationError.from_exception_data(cls.__name__, told) from None


def _is_extra(error: ErrorDetails) -> bool:
    return error["type"] == "extra_forbidden" and len(error["loc"]) == 1


def _told(error: ErrorDetails, valid: tuple[str, ...]) -> InitErrorDetails:
    context: dict[str, object] = {**error.get("ctx", {}), "text": error["msg"]}
    kind = error["type"]
    if _is_extra(error):
        kind, context["valid"] = UNKNOWN_KEY, valid
    # Only a custom error can keep any type, context and place when it is raised again.
    told = PydanticCustomError(kind, "{text}", context)
    return InitErrorDetails(type=told, loc=error["loc"], input=error["input"])


def _from_text(parse: Callable[[str], object]) -> BeforeValidator:
    """Text becomes a value; a value that is none (a default, one given by code) stays as it is."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _pattern(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^(?:{pattern})$"})


def _number_or(pattern: str) -> WithJsonSchema:
    """What an editor's YAML reader makes of a leaf that may look like a number."""
    text = {"type": "string", "pattern": f"^(?:{pattern})$"}
    return WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, text]})


_ANY_SCALAR = WithJsonSchema({"type": ["string", "number", "boolean"]})
_SWITCH = {"enum": ["on", "off", "yes", "no", "true", "false"]}

Text = Annotated[str, AfterValidator(leaf.is_text), _ANY_SCALAR]
"""Any text but an empty one; may have several lines."""
Line = Annotated[str, AfterValidator(leaf.is_line), _ANY_SCALAR]
"""One line of text, not empty."""
MaybeEmpty = Annotated[str, WithJsonSchema({"type": ["string", "number", "boolean", "null"]})]
"""Any text, an empty one too (an argument, a variable's value)."""
Flag = Annotated[
    bool,
    _from_text(leaf.parse_flag),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, _SWITCH]}),
]
"""`on`, `off`, `yes`, `no`, `true`, `false`."""
Count = Annotated[int, _from_text(leaf.whole_number), _number_or("[0-9]+")]
"""A whole number from 0."""
Port = Annotated[Count, AfterValidator(leaf.port), _number_or("[0-9]+")]
NumericId = Annotated[Count, AfterValidator(leaf.numeric_id), _number_or("[0-9]+")]
"""A uid or gid."""
Mode = Annotated[int, _from_text(leaf.parse_mode), _number_or(leaf.MODE)]
"""Permission bits: `0644`, `0o644`, `u=rw,go=r`."""
Sha256 = Annotated[Digest, AfterValidator(leaf.sha256), _pattern("(?:sha256:)?[0-9a-f]{64}")]
RelativePath = Annotated[
    str, AfterValidator(leaf.relative_path), WithJsonSchema({"type": "string"})
]
"""A path beneath the directory of the file that names it."""
FileName = Annotated[str, AfterValidator(leaf.file_name), WithJsonSchema({"type": "string"})]
"""The name of a file, without a directory."""
ImagePath = Annotated[str, AfterValidator(leaf.image_path), _pattern("/.*")]
"""An absolute path inside an image."""
PackageName = Annotated[str, AfterValidator(leaf.package_name), _pattern(leaf.PACKAGE)]
"""`category/name`."""
Version = Annotated[str, AfterValidator(leaf.version), _number_or(leaf.VERSION)]
FlagName = Annotated[str, AfterValidator(leaf.flag_name), _pattern(leaf.FLAG)]
"""The name of a USE flag."""
Identifier = Annotated[str, AfterValidator(leaf.identifier), _pattern(leaf.IDENTIFIER)]
"""The name of a variable: of the environment or of a template."""
VariableName = Annotated[
    str, AfterValidator(leaf.variable_name), WithJsonSchema({"type": "string", "minLength": 1})
]
"""The name of a variable of a container's environment: any text without `=`."""
LabelName = Annotated[
    str, AfterValidator(leaf.label_name), WithJsonSchema({"type": "string", "minLength": 1})
]
"""The name of a label or annotation."""
Account = Annotated[str, AfterValidator(leaf.account), _pattern(leaf.ACCOUNT)]
"""The name of a user or group."""
SourceUrl = Annotated[str, AfterValidator(leaf.source_url), _pattern("(?:https?|mirror)://.+")]
"""Where bytes may come from: `https://`, `http://` or `mirror://NAME/path`."""
Url = Annotated[str, AfterValidator(leaf.web_url), _pattern("https?://.+")]
Size = Annotated[int, _from_text(leaf.parse_size), _number_or(leaf.SIZE)]
"""Bytes: `512M`, `2GiB`."""
Duration = Annotated[int, _from_text(leaf.parse_duration), _number_or(leaf.DURATION)]
"""Seconds: `90s`, `2h`."""

SCALAR, SEQUENCE, MAPPING = "<text>", "<list>", "<mapping>"
"""Tags of the kinds of a node, for unions such as a patch's description or its details:

`Annotated[Annotated[Line, Tag(SCALAR)] | Annotated[PatchDetails, Tag(MAPPING)], BY_KIND]`.
Only the branch of the written kind is tried, so that its errors are the only ones reported.
"""


def kind_of(value: object) -> str:
    if isinstance(value, str | int | bool | float):
        return SCALAR
    return SEQUENCE if isinstance(value, list | tuple) else MAPPING


BY_KIND = Discriminator(kind_of)
