from __future__ import annotations

import pytest

from buildit.debian.apt import paragraphs
from buildit.errors import RecipeError

pytestmark = pytest.mark.unit


def test_paragraphs_fields_and_comments() -> None:
    text = "# first\nA: 1\nB:\n  two\n# inside\n\tthree\n\n  \nc : no".replace("c : no", "C:x\r\n")
    assert list(paragraphs(text, "f")) == [(2, {"a": "1", "b": "\ntwo\nthree"}), (9, {"c": "x"})]
    assert list(paragraphs("", "f")) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("A: 1\nno field\n", "f:2:1"),
        (" begins with a blank\n", "f:1:1"),
        ("A: 1\na: 2\n", "f:2:1"),
        ("A: 1\n\n: x\n", "f:3:1"),
        ("A : 1", "f:1:1"),
    ],
)
def test_broken_text(text: str, place: str) -> None:
    with pytest.raises(RecipeError) as caught:
        list(paragraphs(text, "f"))
    assert caught.value.place == place
