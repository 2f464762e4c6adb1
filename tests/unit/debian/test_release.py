from __future__ import annotations

from dataclasses import replace

import pytest

from buildit.debian.apt import AptSource
from buildit.debian.archive import (
    archive_keys,
    check_release,
    fetch_release,
    iso_time,
    read_release,
)
from buildit.errors import FetchError, IntegrityError
from buildit.trust.openpgp import dearmor
from tests.debian_maker import DATE, NOW, Archive
from tests.fakes import FakeTransport
from tests.openpgp_maker import Key, clearsigned

pytestmark = pytest.mark.unit

KEY = Key()
SOURCE = AptSource("https://deb.example/debian", "bookworm", ("main",))


def message(**changes: str) -> bytes:
    return clearsigned(Archive(**changes).release({"main/x": b"x"}), KEY)  # type: ignore[arg-type]


def test_what_a_release_says() -> None:
    release = read_release(message(valid_until=DATE), [KEY.armored], "InRelease")
    assert (release.origin, release.suite, release.codename) == ("Debian", "stable", "bookworm")
    assert iso_time(release.date) == "2026-07-11T10:16:37Z"
    assert release.valid_until == release.date
    assert release.by_hash
    assert release.files["main/x"].size == 1


@pytest.mark.parametrize("suite", ["stable", "bookworm"])
def test_suite_and_codename_both_name_it(suite: str) -> None:
    check_release(read_release(message(), [KEY.armored], "x"), replace(SOURCE, suite=suite), NOW)


@pytest.mark.parametrize(
    ("changes", "source", "now", "reason"),
    [
        ({"codename": "trixie"}, SOURCE, NOW, "is of suite 'trixie'"),
        ({"valid_until": DATE}, SOURCE, NOW, "is valid until 2026-07-11T10:16:37Z"),
        ({}, SOURCE, NOW - 3 * 24 * 3600, "in the future"),
        ({"codename": "../etc"}, SOURCE, NOW, "is of suite"),
    ],
)
def test_what_does_not_fit(
    changes: dict[str, str], source: AptSource, now: int, reason: str
) -> None:
    release = read_release(message(**changes), [KEY.armored], "x")
    with pytest.raises(IntegrityError, match=reason):
        check_release(release, source, now)


def test_checks_that_are_off() -> None:
    off = replace(SOURCE, check_valid_until=False, check_date=False)
    old = read_release(message(valid_until=DATE), [KEY.armored], "x")
    check_release(old, off, NOW)
    check_release(old, off, NOW - 3 * 24 * 3600)


GOOD = Archive().release({"main/x": b"x"})


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("Date: ", "Dat: "),
        GOOD.replace("SHA256:", "SHA512:"),
        GOOD.replace("Sat, 11 Jul", "Sat, 31 Foo"),
        GOOD.replace(" 1 main/x", " 1 ../main/x"),
        GOOD.replace(" 1 main/x", " 1 /main/x"),
        GOOD.replace(" 1 main/x", " -1 main/x"),
        GOOD.replace(" 1 main/x", " main/x"),
        GOOD.replace("Label", "Origin"),
        GOOD + "\nOrigin: Other\n",
        "garbage\n",
    ],
)
def test_malformed_though_signed(text: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        read_release(clearsigned(text, KEY), [KEY.armored], "the/InRelease")
    assert caught.value.place == "the/InRelease"


def test_fetching_one() -> None:
    archive = Archive()
    transport = FakeTransport(dict(archive.urls()))
    assert fetch_release(SOURCE, transport, [archive.key.armored], NOW).codename == "bookworm"
    with pytest.raises(IntegrityError, match="no good OpenPGP signature"):
        fetch_release(SOURCE, transport, [Key(9).armored], NOW)
    with pytest.raises(FetchError, match="not found"):
        fetch_release(replace(SOURCE, suite="sid"), transport, [archive.key.armored], NOW)


def test_the_shipped_keys_are_public_keys() -> None:
    keys = archive_keys()
    assert len(keys) == 7
    assert all(dearmor(key, "PUBLIC KEY BLOCK") for key in keys)
