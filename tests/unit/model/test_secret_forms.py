"""What gives a secret away, found and masked however it is written and cut into pieces."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from urllib.parse import quote

import pytest

from buildit.model.secret import MASK, Finder, Masker, Secret, Secrets

pytestmark = pytest.mark.unit

TOKEN = b"s3cr3t/+t\xc3\xb6ken=="
KEY = b"-----BEGIN THING-----\n" + base64.encodebytes(bytes(range(200))) + b"-----END THING-----\n"
BOTH = Secrets((Secret("token", TOKEN + b"\n"), Secret("key", KEY)))
BINARY = Secrets((Secret("binary", bytes(range(128, 148))),))


@pytest.mark.parametrize(
    "written",
    [
        TOKEN,
        b"x" + TOKEN + b"y",
        TOKEN.hex().encode(),
        TOKEN.hex().upper().encode(),
        quote(TOKEN, safe="").encode(),
        quote(TOKEN, safe="").lower().encode(),
        json.dumps(TOKEN.decode()).encode(),
        hashlib.sha256(TOKEN + b"\n").hexdigest().encode(),
        hashlib.sha1(TOKEN).hexdigest().encode(),
        KEY.splitlines()[2],
        KEY.replace(b"\n", b"\r\n"),
        base64.encodebytes(KEY),
        base64.b64encode(KEY),
        KEY.hex().encode()[60:120],
        *(base64.b64encode(b"user:pass word"[:n] + TOKEN + b"...") for n in range(6)),
        *(base64.urlsafe_b64encode(b"user:pass word"[:n] + TOKEN) for n in range(6)),
    ],
)
def test_a_form_is_found_and_masked(written: bytes) -> None:
    assert BOTH.found_in(b"before " + written + b" after") in ("token", "key")
    text = BOTH.masked((b"before " + written + b" after").decode("utf-8", "surrogateescape"))
    assert text.startswith("before ")
    assert text.endswith(" after")
    assert MASK.decode() in text
    assert BOTH.found_in(text.encode("utf-8", "surrogateescape")) is None


@pytest.mark.parametrize(
    "harmless",
    [b"", b"-----BEGIN THING-----", TOKEN[:-1], b"s3cr3t", KEY.splitlines()[1][:11], bytes(4096)],
)
def test_what_is_none_stays(harmless: bytes) -> None:
    assert BOTH.found_in(harmless) is None
    masker = Masker(BOTH)
    assert masker.mask(harmless) + masker.rest() == harmless


def test_no_value_is_in_what_python_says_of_it() -> None:
    assert TOKEN.decode() not in repr(BOTH)


@pytest.mark.parametrize("seed", range(40))
def test_pieces_do_not_matter(seed: int) -> None:
    chance = random.Random(seed)
    secrets = chance.choice((BOTH, BINARY, Secrets((Secret("a", b"abcabcab"),))))
    forms = [form for form, _ in secrets.forms]
    parts = [chance.choice([*forms, b"abc", b"\n", b"hello ", TOKEN[:5]]) for _ in range(20)]
    data = b"".join(parts)
    whole = Masker(secrets)
    expected = whole.mask(data) + whole.rest()
    masker, finder, out, found = Masker(secrets), Finder(secrets), b"", False
    while data:
        size = chance.randint(1, 9)
        piece, data = data[:size], data[size:]
        out += masker.mask(piece)
        found = bool(finder.feed(piece)) or found
    out += masker.rest()
    assert out == expected
    assert secrets.found_in(out) is None
    assert found == any(part in forms for part in parts)


def test_what_can_be_no_beginning_is_shown_at_once() -> None:
    masker = Masker(BOTH)
    assert masker.mask(b"hello\n") == b"hello\n"
    assert masker.mask(b"now " + TOKEN[:4]) == b"now "
    assert masker.mask(TOKEN[4:] + b".") == MASK + b"."


def test_what_repeats_is_held_in_bounds() -> None:
    masker = Masker(Secrets((Secret("a", b"aaaaaaaa"),)))
    shown = sum(len(masker.mask(b"a" * 50)) for _ in range(100))
    assert shown == len(MASK)
    assert len(masker._held) < 200
    assert masker.mask(b"\n") == b"\n"
