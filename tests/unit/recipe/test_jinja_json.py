"""Raw manifests: JSON whatever the values hold, and mistakes placed in the user's file."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildit.errors import RecipeError
from buildit.recipe.template.render import Json, Variables, render_json
from buildit.recipe.yaml.node import Mapping, Place, Scalar
from buildit.recipe.yaml.read import parse_yaml

pytestmark = pytest.mark.unit


def _scalar(text: str) -> Scalar:
    lines = "".join(f"    {line}\n" for line in text.split("\n"))
    node = parse_yaml(f"type: aci\ncontent: |\n{lines}", "f")
    assert isinstance(node, Mapping)
    content = node.get("content")
    assert isinstance(content, Scalar)
    return content


def _json(text: str, variables: Variables) -> Json:
    return render_json(_scalar(text), variables)


VARIABLES: Variables = {"name": "web", "port": "443", "ports": ["80", "443"], "on": True}


def test_a_manifest() -> None:
    text = (
        '{"acKind": "ImageManifest", "name": "{{ name }}-{{ port }}",\n'
        '  "port": {{ port }}, "all": {{ ports|tojson }},\n'
        '  "each": [{% for p in ports %}{"p": "{{ p }}"}'
        "{% if not loop.last %},{% endif %}{% endfor %}]}"
    )
    assert _json(text, VARIABLES) == {
        "acKind": "ImageManifest",
        "name": "web-443",
        "port": 443,
        "all": ["80", "443"],
        "each": [{"p": "80"}, {"p": "443"}],
    }


@given(st.text(), st.text())
def test_no_value_changes_the_structure(name: str, other: str) -> None:
    text = '{"a": "{{ name }}", "b": ["x{{ other }}{{ name }}"], "c": {{ name|tojson }}}'
    try:
        found = render_json(Scalar(text, Place("f", 1, 1)), {"name": name, "other": other})
    except RecipeError as error:
        found = None
        message = error.message
        assert "surrogate" in message
    if found is not None:
        assert found == {"a": name, "b": [f"x{other}{name}"], "c": name}


@given(st.text('{}[]",:0123456789 truefalsn\\', max_size=12))
def test_outside_of_quotes_a_value_is_one_value(value: str) -> None:
    scalar = Scalar('{"a": [{{ v }}], "b": 1}', Place("f", 1, 1))
    try:
        found = render_json(scalar, {"v": value})
    except RecipeError:
        return
    assert found == {"a": [json.loads(value)], "b": 1}


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ('{"a": 1,\n "b": 2,,\n "c": 3}', "f:4:13", "this is not JSON: "),
        ('{"a": "{{ name }}",\n "b": 2,,\n "c": 3}', "f:4:13", "this is not JSON: "),
        ('{"a": 1,\n "b": {"a": 2},\n "a": 3}', "f:5:6", "the key 'a' is written twice"),
        ('{"x": "{{ name }}", "a": 1,\n "\\u0061": 3}', "f:4:6", "the key 'a' is written twice"),
        ('{"a": {{ name }}}', "f:3:11", "the value 'web' is not JSON by itself"),
        ('{"a": {{ on }}}', "f:3:11", "the value 'True' is not JSON by itself"),
        ('{"a":\n "{{ nme }}"}', "f:4:10", "'nme' is not defined"),
        ('{"a": "\\{{ name }}"}', "f:3:13", "a backslash stands before a template"),
        ('{"a": NaN}', "f:3:5", "this is not JSON: NaN is no number there"),
        ('{"a": 1e999}', "f:3:5", "the number 1e999 is too large"),
        ('{"a": ' + "9" * 5000 + "}", "f:3:5", "the number 999"),
        ('{"a": "\\ud800"}', "f:3:5", "a text holds half of a surrogate pair"),
        ("[" * 3000, "f:3:5", "the JSON is nested too deeply"),
        ("x", "f:3:5", "this is not JSON: "),
        ('{"a": "tab\t"}', "f:3:15", "this is not JSON: Invalid control character"),
        ('{"a": 1} {"b": 2}', "f:3:14", "this is not JSON: Extra data"),
    ],
)
def test_mistakes_are_placed_in_the_file(text: str, place: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        _json(text, VARIABLES)
    assert caught.value.place == place
    assert caught.value.message.startswith(message)


def test_the_rendered_line_is_shown_where_it_differs() -> None:
    with pytest.raises(RecipeError) as caught:
        _json('{"a": "{{ name }}" "b"}', VARIABLES)
    assert caught.value.details == ('after rendering, the line is: {"a": "web" "b"}',)
    with pytest.raises(RecipeError) as caught:
        _json('{"a": "web" "b"}', VARIABLES)
    assert caught.value.details == ()
