"""Globs of trust rules: one that no package can be called is an error where it is written."""

from __future__ import annotations

import itertools
import random
import time
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from buildit.errors import RecipeError
from buildit.model.globs import fits_some
from buildit.recipe.config import load_config

pytestmark = pytest.mark.unit

NONE = ("X/*", "app", "/x/app", "x/app ", " x/app", "{x,y}/*", "x/", "x//y", "?", "", "x/*/y",
        "[/]", "x/a.b", "Debian:*", "debian:", "x/\tapp", "é/*", "*/ *",
        "x/[!a-zA-Z0-9_+-]")  # fmt: skip
SOME = ("x/app", "*", "**", "[x]/app", "x/App", "debian:*", "deb*", "app*", "[!a]/b", "*nginx*",
        "debian:a.b", "dev-libs/*", "?/?", "x/[a-c]*", "*:*", "[d]ebian:x")  # fmt: skip


@pytest.mark.parametrize("glob", NONE)
def test_a_glob_that_no_name_can_fit(glob: str) -> None:
    assert not fits_some(glob)


@pytest.mark.parametrize("glob", SOME)
def test_a_glob_that_some_name_fits(glob: str) -> None:
    assert fits_some(glob)


def test_it_says_what_trying_all_short_names_says() -> None:
    names = ["".join(c) + "/" + "".join(n) for c in itertools.product("ab", repeat=1)
             for k in (1, 2) for n in itertools.product("abA", repeat=k)]  # fmt: skip
    rnd = random.Random(7)
    for _ in range(400):
        glob = "".join(rnd.choice(["a", "b", "/", "*", "?", "[ab]", "A"]) for _ in range(4))
        if any(fnmatchcase(name, glob) for name in names):
            assert fits_some(glob), glob


def test_no_glob_takes_long() -> None:
    started = time.monotonic()
    assert not fits_some("*a" * 200 + " ")
    assert time.monotonic() - started < 30


def test_the_config_refuses_it_with_its_place(tmp_path: Path) -> None:
    (tmp_path / ".buildit-config.yaml").write_text('trust: {packages: [{match: "X/*", need: 2}]}\n')
    with pytest.raises(RecipeError, match="no package can be called 'X/") as caught:
        load_config(tmp_path)
    assert caught.value.place is not None
    assert ".buildit-config.yaml:1" in caught.value.place


@pytest.mark.parametrize("path", ["h:99999/x", "u@h:0//x", "h/../x", "h/x/..", "h:65536/x"])
def test_a_place_that_no_server_has_is_an_error_where_it_is_written(
    tmp_path: Path, path: str
) -> None:
    config = tmp_path / ".buildit-config.yaml"
    for way in ("upload", "download"):
        config.write_text(f"repository: {{name: a, {way}-type: ssh, {way}-path: '{path}'}}\n")
        with pytest.raises(RecipeError, match=f"{way}-path"):
            load_config(tmp_path)
