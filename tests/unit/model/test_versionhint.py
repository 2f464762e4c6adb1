from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.errors import RecipeError
from buildit.model.atom import Atom, Version, suggested, suggested_name
from tests.scale import examples

pytestmark = pytest.mark.unit

WRITTEN = {
    "1.0.0-rc.1": "1.0.0_rc1",
    "4.4-20221106": "4.4_p20221106",
    "2.9.14+dfsg": "2.9.14",
    "1.0~rc1": "1.0_rc1",
    "r1234.abcdef0": "0_p1234",
    "1.2.3a1": "1.2.3_alpha1",
    "v1.2.3": "1.2.3",
    "1_2_3": "1.2.3",
    "11.0.20.1+1": "11.0.20.1_p1",
    "1.0A": "1.0a",
    "9.2p1": "9.2_p1",
    "1.0.dev3": "1.0_pre3",
    "1.0.post1": "1.0_p1",
    "2.0.0-beta2": "2.0.0_beta2",
    "1:2.3": "2.3",
    "1.2.Final": "1.2",
    "1.0-SNAPSHOT": "1.0_pre",
    "2021-03-04": "2021.03.04",
    "20.08.1-1": "20.08.1_p1",
    "1.0.0-alpha.1+build5": "1.0.0_alpha1_p5",
    "1.2+git20200101.abc1234": "1.2_p20200101",
    "release-2.4": "2.4",
}


@pytest.mark.parametrize("text", WRITTEN)
def test_how_others_write_it(text: str) -> None:
    assert suggested(text) == WRITTEN[text]
    with pytest.raises(RecipeError) as caught:
        Version.parse(text)
    assert WRITTEN[text] in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["2024a", "9e", "0.0.0.20240101", "foo", "", "1.2.3-4ubuntu1"])
def test_what_is_right_or_far_off_has_none(text: str) -> None:
    assert suggested(text) is None


@pytest.mark.parametrize("text", WRITTEN)
def test_an_atom_with_such_a_version_says_how_to_write_it(text: str) -> None:
    said = said_of(f"app/x-{text}")
    other = text in ("1:2.3", "2021-03-04", "release-2.4")  # a slot, two versions, a longer name
    assert (f"app/x-{WRITTEN[text]}" in said) is not other


def said_of(text: str) -> str:
    """The hint on an atom; where it is a name by its grammar, what the tree would say."""
    try:
        return suggested_name(Atom.parse(text).name) or ""
    except RecipeError as error:
        return error.hint or ""


@settings(max_examples=examples(100))
@given(st.text(alphabet="0123456789.-_+~abrcv", max_size=30))
def test_what_is_suggested_is_a_version(text: str) -> None:
    found = suggested(text)
    if found is not None:
        assert Version.parse(found).text == found
