"""Meta tags of web pages: what counts as one, and that no page makes us work long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildit.remote.discovery import metas

pytestmark = pytest.mark.unit
GOOD = '<meta name="n" content="c">'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (GOOD, [{"name": "n", "content": "c"}]),
        ("<META Name=n\nCONTENT = 'a &amp; b'/>", [{"name": "n", "content": "a & b"}]),
        ("<meta name=a name=b>", [{"name": "a"}]),
        ("<meta name = >", [{"name": ""}]),
        ("<meta/name=n/>", [{"name": "n/"}]),
        ("<meta name>", [{"name": ""}]),
        (f"<p title='{GOOD}'>", []),
        (f"<!-- {GOOD} -->{GOOD}", [{"name": "n", "content": "c"}]),
        (f"<!-->{GOOD}", [{"name": "n", "content": "c"}]),
        (f"<!-- {GOOD} --!>", []),
        (f"<!-- {GOOD}", []),
        (f"<script>{GOOD}</scripts>{GOOD}</script >", []),
        (f"<TITLE>{GOOD}</title>{GOOD}", [{"name": "n", "content": "c"}]),
        (f"<!doctype html>< {GOOD}", [{"name": "n", "content": "c"}]),
        (f"a < b {GOOD} </meta name=x>", [{"name": "n", "content": "c"}]),
        ('<meta name="n" content="c', []),
        (f"<p title='never closed {GOOD}", []),
        (f"<meta name=n content='{'x' * 5000}'>", [{"name": "n"}]),
        (f"<meta content='&#{'9' * 4000};'>", [{"content": "\ufffd"}]),
        ("<metaname=n>", []),
    ],
)
def test_what_is_a_meta_tag(text: str, found: list[dict[str, str]]) -> None:
    assert list(metas(text)) == found


@pytest.mark.scale
@pytest.mark.parametrize(
    "part",
    [
        "<",
        "<a ",
        "</",
        "</a ",
        "<!",
        "<!--",
        "<?",
        "<a b='",
        "<meta a=b ",
        "<a/",
        "<a =",
        "<a   ",
        "&#1",
    ],
)
def test_no_page_makes_us_work_long(part: str) -> None:
    """Each took the library's parser up to hours: it is quadratic, and worse."""
    start = time.monotonic()
    for text in (part * ((1 << 18) // len(part)), "<script>" + part * ((1 << 18) // len(part))):
        assert not any(said.get("name") for said in metas(text))
    assert time.monotonic() - start < 30


@given(st.text("<>!-/='\" metanscrip", max_size=60))
def test_any_text_is_read(text: str) -> None:
    assert all(isinstance(said, dict) for said in metas(text))
