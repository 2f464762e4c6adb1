from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.errors import RecipeError
from buildit.model.globs import glob_of, path_matcher
from tests.scale import examples

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("usr/include/**", ["usr/include/a.h", "usr/include/a/b.h"], ["usr/include", "usr/x"]),
        ("**/*.a", ["a.a", "usr/lib/libz.a"], ["usr/lib/libz.ab", "x.a/y"]),
        ("**/cmake/**", ["cmake/x", "usr/lib/cmake/z/q"], ["usr/cmake", "usr/xcmake/z"]),
        ("usr/lib/*.so", ["usr/lib/a.so"], ["usr/lib/x/a.so"]),
        ("usr/lib/?.so", ["usr/lib/a.so"], ["usr/lib/ab.so", "usr/lib//.so"]),
        ("a/[b-d]", ["a/b", "a/d"], ["a/e", "a/-"]),
        ("a/[!b]", ["a/c"], ["a/b", "a//"]),
        ("a/[]x]", ["a/]", "a/x"], ["a/y"]),
        ("a.b", ["a.b"], ["aXb", "a.b\n"]),
        ("**", ["a", "a/b"], []),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb"]),
        ("a/*", ["a/\udcff", "a/b\nc"], ["a/b/c"]),
        ("(x)+", ["(x)+"], ["x"]),
    ],
)
def test_matching(glob: str, yes: list[str], no: list[str]) -> None:
    matches = path_matcher(glob)
    assert [path for path in yes if not matches(path)] == []
    assert [path for path in no if matches(path)] == []


@pytest.mark.parametrize("glob", ["", "/usr", "usr/", "a//b", "../x", "a/./b", "a/[b", "a/[z-a]"])
def test_malformed(glob: str) -> None:
    with pytest.raises(RecipeError, match="malformed glob") as caught:
        path_matcher(glob, place="pkg.yaml:3")
    assert caught.value.place == "pkg.yaml:3"
    assert caught.value.hint


@settings(max_examples=examples(60))
@given(st.text(alphabet="ab*?[]!-./\\&~|^", max_size=10), st.text(alphabet="ab/.", max_size=10))
def test_any_text_is_a_glob_or_refused(glob: str, path: str) -> None:
    try:
        matches = path_matcher(glob)
    except RecipeError:
        return
    assert matches(path) in (True, False)


@settings(max_examples=examples(40))
@given(st.text(alphabet="ab+().$^\\{}", min_size=1, max_size=6))
def test_other_signs_mean_themselves(name: str) -> None:
    if name not in (".", ".."):
        assert path_matcher(name)(name)


def oracle(glob: str) -> re.Pattern[str]:
    """The same language for a matcher that goes back: right, and slow at its worst."""
    wild = {"**/": "(?:[^/]+/)*", "**": ".+", "*": "[^/]*", "?": "[^/]"}
    tokens = re.findall(r"\*\*/|\*\*|\*|\?|\[[!^]?\]?[^]/]*\]|.", glob, re.DOTALL)
    return re.compile(
        "".join(
            wild.get(token) or (f"(?!/){token.replace('!', '^', 1)}" if token[1:] else f"[{token}]")
            for token in tokens
        ),
        re.DOTALL,
    )


PIECES = st.sampled_from(["a", "b", "/", "*", "**", "**/", "?", "[ab]", "[!a]", "/**/", "*/"])
PATHS = st.text(alphabet="ab/", max_size=9)


@pytest.mark.scale
@settings(max_examples=examples(400))
@given(st.lists(PIECES, max_size=8).map("".join), st.lists(PATHS, min_size=1, max_size=20))
def test_the_matcher_is_its_oracle(glob: str, paths: list[str]) -> None:
    try:
        matches = path_matcher(glob)
    except RecipeError:
        return
    pattern = oracle(glob)
    for path in paths:
        assert matches(path) == (pattern.fullmatch(path) is not None), path


@pytest.mark.parametrize(
    "glob",
    ["usr/lib/*a*a*a*a*a*a*a*a*a*a*b", "**/*/**/*/**/*/**/x", "**a**a**a**a**a**b", "*" * 99 + "b"],
)
@pytest.mark.parametrize("path", ["usr/lib/" + "a" * 4000, "a/" * 2000 + "a"])
def test_no_glob_is_slow(glob: str, path: str) -> None:
    matches = path_matcher(glob)
    begin = time.process_time()
    assert not matches(path)
    assert time.process_time() - begin < 20


@settings(max_examples=examples(100))
@given(st.text(alphabet="ab*?[]!^-é \udcff\n", min_size=1, max_size=9))
def test_a_glob_of_a_path_matches_it(path: str) -> None:
    assert path_matcher(glob_of(path))(path)
