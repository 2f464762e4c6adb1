"""What a .dockerignore leaves out, by moby's rules."""

from __future__ import annotations

import time

import pytest

from buildit.errors import RecipeError
from buildit.model.ignored import ignored_by, may_take_back
from buildit.recipe.ways.dockerfile.ignored import MOST_PATTERNS, ignore_names, ignore_patterns

pytestmark = pytest.mark.unit


def left_out(text: str, *paths: str) -> list[str]:
    return [path for path in paths if ignored_by(ignore_patterns(text, ".dockerignore"))(path)]


def test_lines_are_read_as_docker_reads_them() -> None:
    text = "\ufeff# comment\n\n  a/ \n#b\n /c/./d\n! e\n!/f/\n **/*.o \n # no comment\n.\n"
    assert ignore_patterns(text, ".dockerignore") == (
        *("a", "c/d", "!e", "!f", "**/*.o", "# no comment", "."),
    )


@pytest.mark.parametrize(
    ("text", "taken", "stays"),
    [
        ("a", ["a", "a/b", "a/b/c"], ["b/a", "aa"]),
        ("*.md", ["x.md"], ["d/x.md"]),
        ("*/x", ["a/x", "a/x/y"], ["x", "a/b/x"]),
        ("**/x", ["x", "a/x", "a/b/x/y"], ["ax"]),
        ("a/**", ["a/b", "a/b/c"], ["a"]),
        ("**", ["a", "a/b"], []),
        ("a**b", ["ab", "ax/b", "ax/y/b"], ["axb"]),
        ("?", ["a"], ["ab", "é/".rstrip("/") * 2]),
        ("[a-c].x", ["b.x"], ["d.x"]),
        ("[^a].x", ["b.x"], ["a.x"]),
        (r"\*.x", ["*.x"], ["a.x"]),
        ("a\n!a/keep", ["a", "a/b"], ["a/keep", "a/keep/x"]),
        ("*\n!src\nsrc/tmp", ["a", "src/tmp", "src/tmp/x"], ["src", "src/x"]),
        ("*.md\n!README*.md\nREADME-secret.md", ["x.md", "README-secret.md"], ["README.md"]),
        ("!a\na", ["a"], []),
        ("..\n../a\n/", [], ["a"]),
        (".", ["a", "b/c"], []),
    ],
)
def test_the_last_pattern_that_fits_decides(text: str, taken: list[str], stays: list[str]) -> None:
    assert left_out(text, *taken, *stays) == taken


def test_a_file_of_the_recipes_own_counts_first() -> None:
    assert ignore_names("ci/prod.Dockerfile") == (
        *("ci/prod.Dockerfile.dockerignore", ".dockerignore"),
    )


def test_what_takes_back_is_known() -> None:
    assert may_take_back(ignore_patterns("a\n!b", "x"))
    assert not may_take_back(ignore_patterns("a\n\\!b", "x"))


@pytest.mark.parametrize("text", ["a\n!\n", "b\n[a\n", "c\n! \n"])
def test_malformed_patterns_are_told(text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        ignore_patterns(text, ".dockerignore")
    assert caught.value.place == ".dockerignore:2:1"


def test_hostile_patterns_end() -> None:
    begin = time.process_time()
    with pytest.raises(RecipeError):
        ignore_patterns("a\n" * (MOST_PATTERNS + 1), "x")
    patterns = ignore_patterns("**/" * 50 + "x\n" + "*a" * 100 + "b", "x")
    assert not ignored_by(patterns)("/".join(["a" * 40] * 50))
    assert time.process_time() - begin < 5
