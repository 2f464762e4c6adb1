"""What we write as YAML is read back as what it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildit.recipe.yaml.node import Mapping, Node, Scalar
from buildit.recipe.yaml.read import parse_yaml
from buildit.recipe.yaml.write import Remarked, YamlData, yaml_text

pytestmark = pytest.mark.unit

TEXT = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), whitelist_characters="\n\t"), max_size=30
)
DATA = st.recursive(
    TEXT,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=4)
        | st.dictionaries(
            st.text("abcxyz-./ 1", min_size=1, max_size=8), inner, min_size=1, max_size=4
        )
    ),
    max_leaves=12,
)


def plain(node: Node) -> object:
    if isinstance(node, Scalar):
        return node.text
    if isinstance(node, Mapping):
        return {key.text: plain(value) for key, value in node.items}
    return [plain(one) for one in node.items]


@given(st.dictionaries(st.text("abc", min_size=1, max_size=5), DATA, min_size=1, max_size=4))
def test_it_is_read_back(data: dict[str, YamlData]) -> None:
    assert plain(parse_yaml(yaml_text(data), "x")) == data


def test_comments_stand_above_what_they_are_about() -> None:
    data: YamlData = {"a": ["x", Remarked(("of y", "two\nlines"), "y"), Remarked(("end",))]}
    assert yaml_text(data) == "a:\n  - x\n  # of y\n  # two\n  # lines\n  - y\n  # end\n"
