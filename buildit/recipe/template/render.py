"""Templates in values: text leaves are rendered after parsing, so structure cannot change.

A leaf without `{{`, `{%` or `{# #}` never loads Jinja2. Rendered text is marked and never rendered
again.
What a template may say is in `recipe.template.template`; keys are never templates.
"""

from __future__ import annotations

from dataclasses import replace

from buildit.errors import RecipeError
from buildit.recipe.template.values import Variables, is_template
from buildit.recipe.yaml.node import Mapping, Node, Scalar, Sequence


def render_tree(node: Node, variables: Variables) -> Node:
    """`node` with every text leaf rendered; places stay.

    Raises:
        RecipeError: a template is malformed, names what is not defined, uses what templates may
            not, or grows too large; or a key is a template.
    """
    match node:
        case Scalar():
            return render_scalar(node, variables)
        case Sequence(items):
            return replace(node, items=tuple(render_tree(item, variables) for item in items))
        case Mapping(items):
            return replace(
                node,
                items=tuple((_key(key), render_tree(value, variables)) for key, value in items),
            )


def render_scalar(scalar: Scalar, variables: Variables) -> Scalar:
    """`scalar` rendered, once.

    Raises:
        RecipeError: as `render_tree`.
    """
    if scalar.rendered or not is_template(scalar.text):
        return scalar
    from buildit.recipe.template.template import pieces

    text = "".join(piece.text for piece in pieces(scalar, variables))
    return replace(scalar, text=text, body=None, rendered=True)


def _key(key: Scalar) -> Scalar:
    if is_template(key.text):
        raise RecipeError(
            f"the key {key.text!r} looks like a template, which keys may not be",
            place=str(key.place),
            hint="write its text out; only values are rendered",
        )
    return key
