"""Templates: what they give, what they may not do, and that they end."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.errors import RecipeError
from buildit.recipe.schema import plain
from buildit.recipe.template.render import Variables, render_scalar, render_tree
from buildit.recipe.template.template import FILTERS
from buildit.recipe.yaml.node import Mapping, Place, Scalar
from buildit.recipe.yaml.read import parse_yaml
from tests.scale import examples

pytestmark = pytest.mark.unit

VARIABLES: Variables = {
    "name": "nginx",
    "version": "1.22.1-p1",
    "empty": "",
    "ports": ["80", "443"],
    "app": {"user": "www", "items": "mine"},
    "ssl": True,
}


def _render(text: str, variables: Variables = VARIABLES) -> str:
    place = Place("f", 1, 1)
    return render_scalar(Scalar(text, place, place), variables).text


def _error(text: str, variables: Variables = VARIABLES) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        _render(text, variables)
    return caught.value


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("{{ name }}-{{ version }}", "nginx-1.22.1-p1"),
        ("a\n{{ name }}\n", "a\nnginx\n"),
        ("{{ app.user }} {{ app['user'] }} {{ app.items }} {{ ports[1] }}", "www www mine 443"),
        ("{{ name ~ '/' ~ version }}", "nginx/1.22.1-p1"),
        ("{{ 'on' if ssl else 'off' }}", "on"),
        ("{% if name == 'nginx' and not empty %}y{% elif 1 %}z{% else %}n{% endif %}", "y"),
        ("{% if 'x' == 'y' %}y{% elif '44' in ports or '443' in ports %}z{% endif %}", "z"),
        ("{% for p in ports %}{{ p }}{% if not loop.last %},{% endif %}{% endfor %}", "80,443"),
        ("{% for k, v in app|items %}{{ loop.index }}{{ k }}={{ v }};{% endfor %}", None),
        ("{% for p in [] %}x{% else %}none{% endfor %}", "none"),
        ("{% for p in ports if p != '80' %}{{ p }}{{ loop.length }}{% endfor %}", "4431"),
        ("{{ nope|default('d') }} {{ empty|d('e', true) }} {{ app.nope|default('f') }}", "d e f"),
        ("{{ nope is defined }} {{ name is defined }} {{ nope is undefined }}", None),
        ("{{ ports|join('+') }} {{ name|upper|lower|length }} {{ ports|first }}", "80+443 5 80"),
        ("{{ version|replace('.', '_') }} {{ ' x '|trim }}|{{ ports|last }}", "1_22_1-p1 x|443"),
        ("{{ ports|tojson }} {{ app|tojson }}", '["80", "443"] {"items": "mine", "user": "www"}'),
        ("{% raw %}{{ name }}{% endraw %} {{ '{{' }}", "{{ name }} {{"),
        ("${#name} {# {{ name }} #}{{ name }}{# x\ny #}{{ '{# z #}' }}", "${#name} nginx{# z #}"),
        ("{# only a comment #}", ""),
        ("{#no comment {{ name }}", "{#no comment nginx"),
        ("{% for p in ports %}{{ p }}{{ ',' if not loop.last }}{% endfor %}", "80,443"),
        ("{{ ('x' if empty) ~ 'y' }}{{ ('x' if empty)|default('z') }}{{ name if empty }}", "yz"),
        ("{{ 7 - 1 }} {{ 2 * 3 + 1 }} {{ 7 // 2 }} {{ 7 % 2 }} {{ -3 }}", "6 7 3 1 -3"),
        ("{{ ports[0]|int + 1 }} {{ 'a' + name }} {{ 1.5 + 1 }}", "81 anginx 2.5"),
        ("{% for p in ports %}{{ loop.index + 8080 }} {% endfor %}", "8081 8082 "),
        ("x {%- if ssl %} y {%- endif %} z", None),
        ("no template: ${name%%.*} {x} }}", "no template: ${name%%.*} {x} }}"),
    ],
)
def test_results(text: str, result: str | None) -> None:
    expected = _of_jinja(text, VARIABLES) if result is None else result
    assert _render(text) == expected


def _of_jinja(text: str, variables: Any) -> str:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(text).render(variables)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("{{ nam }}", "f:1:4", "'nam' is not defined"),
        ("a\n  {{ app.usr }}", "f:2:10", "there is no key 'usr'"),
        ("{{ ports[2] }}", "f:1:1", "there is no position 2 in a list of 2"),
        ("{{ name.x }}", "f:1:9", "text has no 'x'"),
        ("{{ ports }}", "f:1:4", "expected text, found a list"),
        ("{{ 'x' if not ssl }}{{ ports[0] + 1 }}", "f:1:1", "+ needs numbers, found text"),
        ("{% if empty %}{{ name|no }}{% endif %}", "f:1:23", "there is no filter 'no'"),
        ("{{ (name is odd) if empty }}", "f:1:13", "there is no test 'odd'"),
        ("{{ 1 // 0 }}", "f:1:1", "1 // 0 has no value"),
        (
            "{{ 999999999999999999 * 999999999999999999 * 9 }}",
            "f:1:1",
            "the result of * is too large",
        ),
        ("{{ 'x' * 9 }}", "f:1:1", "* needs numbers, found text"),
        ("{{ name|int }}", "f:1:9", "int: expected a whole number, found 'nginx'"),
        ("{{ name|uper }}", "f:1:9", "there is no filter 'uper'"),
        ("{{ name|attr('x') }}", "f:1:9", "there is no filter 'attr'"),
        ("{{ name is string }}", "f:1:12", "there is no test 'string'"),
        ("{{ name > 3 }}", "f:1:1", "text cannot be compared with a number"),
        ("{{ name|join(1, 2, 3) }}", "f:1:9", "join: these arguments do not fit"),
        ("{{ app|join }}{{ ssl|first }}", "f:1:22", "first: expected a list, found true or false"),
        ("{% for x in name %}{% endfor %}", "f:1:13", "expected a list to loop over, found text"),
        ("{% for a, b in ports %}{% endfor %}", "f:1:1", "expected 2 values for a, b, found text"),
        ("x\n{{ name", "f:2:1", None),
        ("{% if %}", "f:1:1", None),
        ("{% foo %}", "f:1:1", None),
        ("{{ name }", "f:1:1", None),
    ],
)
def test_mistakes(text: str, place: str, message: str | None) -> None:
    error = _error(text)
    assert error.place == place
    assert error.message == message or (
        message is None and error.message.startswith("the template cannot be read: ")
    )


def test_the_nearest_name_is_offered() -> None:
    hint = _error("{{ versoin }}").hint
    assert hint is not None
    assert hint.startswith("did you mean 'version'? valid here: name, version, ")


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ name.__init__.__globals__ }}",
        "{{ name.format }}",
        "{{ '{0.__class__}'.format(name) }}",
        "{{ '{0.__class__}'|format(name) }}",
        "{{ name|attr('format') }}",
        "{{ ports|map(attribute='__class__')|list }}",
        "{{ ports|map('attr', '__class__')|list }}",
        "{{ ports|selectattr('__class__')|list }}",
        "{{ ports|groupby('__class__') }}",
        "{{ ports.append('x') }}",
        "{{ app.update({}) }}",
        "{{ app.keys() }}",
        "{{ app.get }}",
        "{{ self }}",
        "{{ self.__init__ }}",
        "{{ lipsum.__globals__ }}",
        "{{ cycler }}",
        "{{ joiner() }}",
        "{{ namespace() }}",
        "{{ range(3) }}",
        "{{ dict(a=1) }}",
        "{{ request }}",
        "{{ config }}",
        "{{ loop }}",
        "{{ (1).__class__ }}",
        "{{ 'a'*10 }}",
        "{{ 9**9**9 }}",
        "{{ 'a%s' % name }}",
        "{{ 7 / 1 }}",
        "{{ 7 ** 99999 }}",
        "{{ 'a' % 'b' }}",
        "{{ name[0:2] }}",
        "{{ name[::-1] }}",
        "{{ -ports }}",
        "{{ {'a': 1} }}",
        "{{ name|string|safe }}",
        "{{ name is callable }}",
        "{{ name is filter('x') }}",
        "{{ name|default(*ports) }}",
        "{{ name|join(**app) }}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{% from 'x' import y %}",
        "{% extends 'x' %}",
        "{% block x %}{% endblock %}",
        "{% macro x() %}{% endmacro %}",
        "{% call x() %}{% endcall %}",
        "{% filter upper %}x{% endfilter %}",
        "{% set x = 1 %}",
        "{% set x %}y{% endset %}",
        "{% with x = 1 %}{% endwith %}",
        "{% autoescape true %}{% endautoescape %}",
        "{% do ports.append(1) %}",
        "{% debug %}",
        "{% trans %}x{% endtrans %}",
        "{% for x in ports recursive %}{% endfor %}",
        "{% for x in ports %}{{ loop.__class__ }}{% endfor %}",
        "{% for x in ports %}{{ loop.cycle('a') }}{% endfor %}",
        "{% for x.y in [ports] %}{% endfor %}",
        "{% for a, (b, c) in [[1, [2, 3]]] %}{% endfor %}",
    ],
)
def test_no_way_out(text: str) -> None:
    error = _error(text)
    assert error.place is not None
    assert error.place.startswith("f:1:")


@pytest.mark.scale
def test_no_template_becomes_code() -> None:
    """In a process of its own, because an audit hook stays for good."""
    script = (
        "import sys, jinja2.nodes\n"
        "from buildit.recipe.template.render import render_scalar\n"
        "from buildit.recipe.template import template\n"
        "from buildit.recipe.yaml.node import Place, Scalar\n"
        "place = Place('f', 1, 1)\n"
        "render_scalar(Scalar('{{ a }}', place), {'a': 'x'})\n"
        "seen = []\n"
        "watched = ('compile', 'exec', 'open', 'import', 'subprocess.Popen', 'os.system')\n"
        "sys.addaudithook(lambda event, _: event in watched and seen.append(event))\n"
        "text = '{% for x in l %}{% if x %}{{ x|upper ~ a }}{% endif %}{% endfor %}'\n"
        "found = render_scalar(Scalar(text, place), {'a': '1', 'l': ['b', 'c']}).text\n"
        "assert found == 'B1C1', found\n"
        "assert not seen, seen\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_leaf_without_braces_never_loads_jinja() -> None:
    script = (
        "import sys\n"
        "from buildit.recipe.template.render import render_tree\n"
        "from buildit.recipe.yaml.read import parse_yaml\n"
        "render_tree(parse_yaml('a: [b, {c: d}]', 'f'), {})\n"
        "assert 'jinja2' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


_LARGE: Variables = {"x": "a" * (1 << 20), "l": ["a"] * 1000}


@pytest.mark.scale
@pytest.mark.parametrize(
    "text",
    [
        "{% for a in l %}" * 9 + "{% endfor %}" * 9,
        "{% for a in l %}{% for b in l %}x{% endfor %}{% endfor %}",
        "{% for a in l %}{{ x }}{% endfor %}",
        "{% for a in l %}{% if x == x ~ '' %}{% endif %}{% endfor %}",
        "{% for a in l %}{% if x in x %}{% endif %}{% endfor %}",
        "{% for a in l %}{% if x|replace('a', 'b') %}{% endif %}{% endfor %}",
        "{{ x|replace('a', x) }}",
        "{{ x|replace('', x) }}",
        "{{ x ~ x }}",
        "{{ [" + "x," * 9000 + "]|join }}",
        "{{ [" + "x," * 9000 + "]|tojson }}",
        "{{ l|join(x) }}",
        "{{ " + "(" * 20_000,
        "{{ " + "[" * 20_000,
        "{{ " + "not " * 9000 + "x }}",
        "{{ x" + "|upper" * 9000 + " }}",
        "{{ x" + ".y" * 9000 + " }}",
        "{{ 'a'" + " and 'a'" * 5000 + " }}",
        "{% if x %}" * 3000 + "{% endif %}" * 3000,
        "{{ " * 20_000,
        "{{ 1" + "0" * 9000 + " }}",
        "{{ x }}" + " " * (64 << 10),
    ],
    ids=range(22),
)
def test_bombs_end_soon(text: str) -> None:
    started = time.process_time()
    _error(text, _LARGE)
    assert time.process_time() - started < 20


def test_every_leaf_of_a_tree_is_rendered_and_nothing_else() -> None:
    node = parse_yaml("a: '{{ name }}'\nb: ['{{ evil }}', {c: '{{ nope|d }}'}]\n", "f")
    found = render_tree(node, {"name": "x", "evil": "]}\n- y: {{ name }}"})
    assert plain(found) == {"a": "x", "b": ["]}\n- y: {{ name }}", {"c": ""}]}
    assert plain(render_tree(found, {"name": "again"})) == plain(found)


def test_places_stay_and_keys_are_no_templates() -> None:
    node = parse_yaml("a: |\n  one\n  {{ nope }}\n", "f")
    with pytest.raises(RecipeError) as caught:
        render_tree(node, {})
    assert caught.value.place == "f:3:6"
    found = render_tree(parse_yaml("a: '{{ n }}'", "f"), {"n": "x"})
    assert isinstance(found, Mapping)
    assert found.items[0][1].place == Place("f", 1, 4)
    with pytest.raises(RecipeError, match="looks like a template") as caught:
        render_tree(parse_yaml("'{{ a }}': b", "f"), {"a": "x"})
    assert caught.value.place == "f:1:1"


_PARTS = st.sampled_from(
    [
        *("{{ name }}", "{{ empty }}", "{{ ports|join(',') }}", "{{ nope }}", "{{ app.user }}"),
        *("{% if ssl %}", "{% if empty %}", "{% else %}", "{% endif %}", "{% endfor %}", "text\n"),
        *("{% for p in ports %}", "{{ p }}", "{{ loop.index0 }}", "{%- if ssl -%}", " ", "\n"),
        *("{{ name ~ 1 ~ ssl }}", "{{ name if ssl else nope }}", "{{ p|default('-') }}", "}}"),
        *("{{ '1' < '2' < '3' }}", "{{ name|upper|replace('N', 'm') }}", "{{ ssl and name }}"),
        *("{{ nope is defined or empty or 'x' }}", "{{ 'g' in name }}", "{{ not ssl }}", "{%"),
    ]
)


@given(st.lists(_PARTS, max_size=8).map("".join))
@settings(max_examples=examples(80))
def test_it_says_what_jinja_says(text: str) -> None:
    try:
        expected = _of_jinja(text, VARIABLES)
    except jinja2.TemplateError:
        expected = None
    try:
        found = _render(text)
    except RecipeError:
        found = None
    assert found == expected


@given(st.text("{}%'|~.ab() \n\"#-0[],", max_size=30))
def test_any_text_is_rendered_or_one_error(text: str) -> None:
    try:
        _render("{{ name }}" + text)
    except RecipeError as error:
        place = error.place
    else:
        place = "f:"
    assert place is not None
    assert place.startswith("f:")


def test_the_filters_are_few() -> None:
    assert len(FILTERS) <= 12
