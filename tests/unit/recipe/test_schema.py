"""The base model, and the JSON Schema that editors get from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import jsonschema
import pytest
from pydantic import Tag, ValidationError

from buildit.recipe import schema
from buildit.recipe.schema import BY_KIND, MAPPING, SCALAR, UNKNOWN_KEY, Model

pytestmark = pytest.mark.unit


class Details(Model):
    description: schema.Line
    strip: schema.Count = 1


class Sample(Model):
    version: schema.VersionText
    """The upstream version."""
    upload_type: schema.Line = "file"
    from_: schema.Line | None = None
    chmod: schema.Mode = 0o644
    recursive: schema.OnOff = False
    memory: schema.Size | None = None
    patches: Mapping[
        str,
        Annotated[Annotated[schema.Line, Tag(SCALAR)] | Annotated[Details, Tag(MAPPING)], BY_KIND],
    ] = {}


def test_leaves_become_values() -> None:
    sample = Sample.model_validate(
        {"version": "1.10", "upload-type": "ssh", "from": "x", "chmod": "0755", "recursive": "on"}
    )
    assert sample == Sample(
        version="1.10", upload_type="ssh", from_="x", chmod=0o755, recursive=True
    )


def test_models_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Sample(version="1").version = "2"  # type: ignore[misc]


def test_unknown_keys_carry_the_valid_ones_at_any_depth() -> None:
    value = {
        "verson": "1",
        "patches": {"a": {"strp": "1"}, "b": {"description": "x", "strip": "-"}},
    }
    with pytest.raises(ValidationError) as caught:
        Sample.model_validate(value)
    found = {error["loc"]: error for error in caught.value.errors()}
    assert found["verson",]["type"] == UNKNOWN_KEY
    assert found["verson",]["ctx"]["valid"] == Sample.keys()
    assert found["patches", "a", MAPPING, "strp"]["ctx"]["valid"] == ("description", "strip")
    assert found["patches", "a", MAPPING, "description"]["type"] == "missing"
    assert found["version",]["type"] == "missing"
    assert "whole number" in found["patches", "b", MAPPING, "strip"]["msg"]


def test_keys_are_spelled_with_dashes() -> None:
    assert Sample.keys()[:3] == ("version", "upload-type", "from")


@pytest.mark.parametrize(
    "document",
    [
        {"version": 1.10, "recursive": True, "chmod": 420, "memory": 1024},
        {"version": "1.22.1", "recursive": "on", "chmod": "0o644", "memory": "512M"},
        {"version": 1, "chmod": "u=rw,go=r", "patches": {"a": "text", "b": {"description": 1.5}}},
    ],
)
def test_editors_accept_what_users_write(document: object) -> None:
    jsonschema.validate(document, Sample.model_json_schema())


@pytest.mark.parametrize(
    "document",
    [
        {"version": "v1"},
        {"version": True},
        {"version": 1, "chmod": "0888"},
        {"version": 1, "upload_type": "x"},
        {"version": 1, "recursive": "maybe"},
        {"version": 1, "patches": {"a": ["x"]}},
        {},
    ],
)
def test_editors_refuse_what_buildit_refuses(document: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, Sample.model_json_schema())


def test_descriptions_are_the_docstrings_of_fields() -> None:
    described = Sample.model_json_schema()["properties"]["version"]["description"]
    assert described == "The upstream version."
