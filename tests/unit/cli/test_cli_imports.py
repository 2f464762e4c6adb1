"""`buildit import`: what it refuses before it asks for anything."""

from __future__ import annotations

import os

import pytest

from tests.unit.cli.conftest import Command

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("argv", "said", "hint"),
    [
        ((), "name one thing to import", "write a file, debian:NAME[,NAME…], or --suite"),
        (("debian:a", "--suite", "debian-12"), "name one thing to import", "debian:NAME"),
        (("nginx",), "'nginx' is nothing that can be imported", "debian:nginx"),
        (("debian:",), "the name of a Debian package is missing", "debian:NAME"),
        (("debian:a,,b",), "the name of a Debian package is missing", "debian:NAME"),
        (("debian:a,b=1,a=2",), "the package a is there twice", "name it once"),
        (("debian:A B",), "expected the name of a Debian package", "write nginx"),
        (("debian:a", "--image", "aic"), "there is no image format 'aic'", "did you mean aci?"),
        (("--suite", "debian-1"), "no suite is known as 'debian-1'", "debian-12"),
        (("debian:a", "--output", "."), "is there already", "--output"),
    ],
)
def test_it_is_refused_in_words(
    command: Command, argv: tuple[str, ...], said: str, hint: str
) -> None:
    with open("kept", "w", encoding="utf-8"):
        pass
    done = command("import", *argv)
    assert done.code == 2, done.err
    assert said in done.err
    assert hint in done.err
    assert done.out == ""
    assert os.listdir() == ["kept"]
