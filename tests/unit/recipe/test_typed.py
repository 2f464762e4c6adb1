"""What pydantic finds wrong, told as a user needs it: place, message, hint."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, model_validator

from buildit.errors import RecipeError
from buildit.model.words import hint_of, nearest
from buildit.recipe import schema
from buildit.recipe.leaf import LeafError
from buildit.recipe.schema import Model, TextOrMap, parse, plain
from buildit.recipe.yaml.read import parse_yaml
from tests.scale import examples

pytestmark = pytest.mark.unit


class Source(Model):
    url: schema.SourceUrl
    sha256: schema.Sha256
    strip: schema.Count = 1


class Patch(Model):
    description: schema.Line


class Image(Model):
    type: Literal["aci", "oci"]
    layers: schema.Count = 1

    @model_validator(mode="after")
    def _check(self) -> Image:
        if self.layers == 0:
            raise LeafError("an image without layers", "write layers: 1")
        return self


class Sample(Model):
    style: Literal["make", "cmake"] = "make"
    description: schema.Text = "x"
    sources: tuple[Source, ...] = ()
    use: dict[schema.FlagName, schema.OnOff] = Field(default_factory=dict)
    args: Annotated[tuple[schema.Line, ...], Field(min_length=1)] = ("x",)
    patches: dict[str, TextOrMap[schema.Line, Patch]] = Field(default_factory=dict)
    image: Image | None = None


def _error(text: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        parse(parse_yaml(text, "f"), Sample)
    return caught.value


def test_a_document_becomes_a_model() -> None:
    text = "style: cmake\nuse: {ssl: on}\nsources:\n- {url: 'https://e.org/x', sha256: '%s'}\n"
    sample = parse(parse_yaml(text % ("a" * 64), "f"), Sample)
    assert sample.style == "cmake"
    assert sample.use == {"ssl": True}
    assert sample.sources[0].sha256 == "a" * 64


def test_a_list_of_models() -> None:
    node = parse_yaml("- {description: a}\n- {description: b}\n", "f")
    assert [one.description for one in parse(node, tuple[Patch, ...])] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        (
            "a: 1\n",
            "f:1:1",
            "unknown key 'a'",
            "valid here: style, description, sources, use, args, patches, image",
        ),
        (
            "x:\nsorces: []\n",
            "f:1:1",
            "unknown key 'x'",
            "valid here: style, description, sources, use, args, patches, image",
        ),
        (
            "sources:\n- url: https://e.org/x\n  sha265: x\n",
            "f:2:3",
            "the key 'sha256' is missing",
            None,
        ),
        (
            "style: cmak\n",
            "f:1:8",
            "style: expected one of make, cmake; found 'cmak'",
            "did you mean 'cmake'? valid here: make, cmake",
        ),
        ("description:\n", "f:1:13", "description: expected text, found nothing", None),
        ("description: [x]\n", "f:1:14", "description: expected text, found a list", None),
        ("args: x\n", "f:1:7", "args: expected a list, found 'x'", "write [x]"),
        ("args: []\n", "f:1:7", "args: expected at least 1, found 0", None),
        ("args: [a, {b: c}]\n", "f:1:11", "args: expected text, found a mapping", None),
        (
            "use: [ssl]\n",
            "f:1:6",
            "use: expected a mapping, found a list",
            "write `key: value` lines below it",
        ),
        ("use: {ssl: maybe}\n", "f:1:12", "ssl: expected on or off, found 'maybe'", None),
        ("use: {ssl: on, -x: on}\n", "f:1:16", "expected the name of a USE flag, found '-x'", None),
        ("patches: {a: [x]}\n", "f:1:14", "a: expected text or a mapping, found a list", None),
        ("patches:\n  a: {desc: x}\n", "f:2:6", "the key 'description' is missing", None),
        ("image: {type: lxc}\n", "f:1:15", "type: expected one of aci, oci; found 'lxc'", None),
        ("image: {}\n", "f:1:8", "the key 'type' is missing", None),
        (
            "image: {type: oci, layers: 0}\n",
            "f:1:8",
            "image: an image without layers",
            "write layers: 1",
        ),
        ("- x\n", "f:1:1", "expected a mapping, found a list", "write `key: value` lines below it"),
        ("style: {a: b}\n", "f:1:8", "style: expected one of make, cmake; found a mapping", None),
    ],
)
def test_messages(text: str, place: str, message: str, hint: str | None) -> None:
    error = _error(text)
    assert (error.place, error.message) == (place, message)
    assert hint is None or error.hint == hint


def test_several_errors_come_at_once_in_written_order() -> None:
    error = _error("style: x\nuse: {a: b, c: d}\nzzz: 1\n")
    assert error.place == "f:1:8"
    assert error.details == (
        "f:2:10: a: expected on or off, found 'b' (yes, no, true and false do too)",
        "f:2:16: c: expected on or off, found 'd' (yes, no, true and false do too)",
        f"f:3:1: unknown key 'zzz' (valid here: {', '.join(Sample.keys())})",
    )


def test_at_most_ten_errors_are_shown() -> None:
    error = _error("use:\n" + "".join(f"  f{n}: x\n" for n in range(30)))
    assert len(error.details) == 10
    assert error.details[-1] == "and 20 more"


def test_a_key_that_looks_like_a_tag_does_not_mislead() -> None:
    error = _error("patches:\n  <text>: [x]\n  '[key]': [y]\n  <mapping>: {d: 1}\n")
    assert error.place == "f:2:11"
    assert [one.split(": ")[0] for one in error.details] == ["f:3:12", "f:4:14", "f:4:15"]


_NODES = st.recursive(
    st.sampled_from(["x", "on", "1", "''", "~", "aci", "https://e.org/x"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(
            st.sampled_from([*Sample.keys(), "url", "strip", "type", "description", "q"]),
            inner,
            max_size=3,
        ).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs.items()) + "}"
        )
    ),
    max_leaves=8,
)


@given(_NODES)
@settings(max_examples=examples(50))
def test_any_document_is_a_model_or_one_error(text: str) -> None:
    node = parse_yaml(f"- {text}", "f")
    try:
        parse(node, tuple[Sample, ...])
    except RecipeError as error:
        where = [str(error.place), *(detail.split(": ")[0] for detail in error.details)]
        assert all(place.startswith(("f:1:", "and ")) for place in where)
    assert plain(node) == plain(parse_yaml(f"- {text}", "g"))


def test_nearest_names() -> None:
    assert nearest("sorces", ("sources", "steps")) == "sources"
    assert nearest("Upload_Type", ("upload-type", "name")) == "upload-type"
    assert nearest("qqq", ("sources",)) is None
    assert hint_of("x", ()) == "nothing can be named here"
    assert hint_of("f9x", [f"f{n}" for n in range(20)]).endswith("f11 and 8 more")
