from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.errors import IntegrityError
from buildit.trust.openpgp import (
    by_gpgv,
    by_sequoia,
    check_clearsigned,
    crc24,
    dearmor,
    signers,
    verify_clearsigned,
    verify_detached,
)
from tests.openpgp_maker import BORN, SHA1, Key, armor, clearsigned
from tests.scale import examples

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(
        not shutil.which("gpgv") and not find_spec("pysequoia"),
        reason="neither gpgv nor pysequoia is installed",
    ),
]

GOOD, OTHER = Key(1), Key(2)
TEXT = "Origin: Debian\n- a dash\nDate: now\n"


def test_one_good_signature() -> None:
    signed = verify_clearsigned(clearsigned(TEXT, GOOD), [GOOD.armored])
    assert signed.text.decode().strip() == TEXT.strip()
    assert signed.fingerprints == (GOOD.fingerprint,)


def test_binary_keys_and_several_in_one_file() -> None:
    message = clearsigned(TEXT, OTHER)
    assert verify_clearsigned(message, [GOOD.packets, OTHER.packets]).fingerprints
    assert verify_clearsigned(message, [GOOD.armored + OTHER.armored]).fingerprints


def test_a_signature_of_an_unknown_key_beside_a_good_one() -> None:
    signed = verify_clearsigned(clearsigned(TEXT, OTHER, GOOD), [GOOD.armored])
    assert signed.fingerprints == (GOOD.fingerprint,)


@pytest.mark.parametrize(
    ("message", "key"),
    [
        pytest.param(clearsigned(TEXT, OTHER), GOOD, id="unknown key"),
        pytest.param(clearsigned(TEXT, GOOD).replace(b"now", b"new"), GOOD, id="changed text"),
        pytest.param(
            clearsigned(TEXT, GOOD, OTHER).replace(b"now", b"new"), GOOD, id="changed text, two"
        ),
        pytest.param(clearsigned(TEXT, Key(3, lifetime=90)), Key(3, lifetime=90), id="expired key"),
        pytest.param(clearsigned(TEXT, Key(4, revoked=True)), Key(4, revoked=True), id="revoked"),
        pytest.param(clearsigned(TEXT, GOOD, algorithm=SHA1), GOOD, id="SHA-1"),
        pytest.param(TEXT.encode(), GOOD, id="no signature"),
        pytest.param(b"", GOOD, id="empty"),
        pytest.param(clearsigned(TEXT, GOOD)[:-60], GOOD, id="cut off"),
        pytest.param(b"Origin: Evil\n" + clearsigned(TEXT, GOOD), GOOD, id="text before"),
        pytest.param(clearsigned(TEXT, GOOD) + b"Origin: Evil\n", GOOD, id="text behind"),
        pytest.param(clearsigned(TEXT, GOOD) * 2, GOOD, id="two messages"),
    ],
)
def test_what_is_not_well_signed(message: bytes, key: Key) -> None:
    with pytest.raises(IntegrityError):
        verify_clearsigned(message, [key.armored])


def test_an_expired_key_beside_a_good_one_does_not_count() -> None:
    expired = Key(3, lifetime=90)
    signed = verify_clearsigned(clearsigned(TEXT, expired, GOOD), [expired.armored, GOOD.armored])
    assert signed.fingerprints == (GOOD.fingerprint,)


def test_without_keys_nothing_is_good() -> None:
    with pytest.raises(IntegrityError, match="no OpenPGP key is trusted"):
        verify_clearsigned(clearsigned(TEXT, GOOD), [])


@pytest.mark.parametrize("wrap", [lambda packets: packets, lambda p: armor("SIGNATURE", p)])
def test_detached(tmp_path: Path, wrap: Callable[[bytes], bytes]) -> None:
    content = tmp_path / "-content"
    content.write_bytes(b"an archive")
    signature = wrap(GOOD.detached(b"an archive"))
    assert verify_detached(content, signature, [GOOD.armored]) == (GOOD.fingerprint,)
    with pytest.raises(IntegrityError):
        verify_detached(content, signature, [OTHER.armored])
    content.write_bytes(b"an Archive")
    with pytest.raises(IntegrityError):
        verify_detached(content, signature, [GOOD.armored])


def test_a_key_that_expired_after_it_signed_a_file_counts(tmp_path: Path) -> None:
    key = Key(3, lifetime=90)
    content = tmp_path / "content"
    content.write_bytes(b"x")
    before, after = key.detached(b"x", at=BORN + 60), key.detached(b"x", at=BORN + 100)
    assert verify_detached(content, before, [key.armored]) == (key.fingerprint,)
    with pytest.raises(IntegrityError):
        verify_detached(content, after, [key.armored])
    revoked = Key(4, revoked=True)
    with pytest.raises(IntegrityError):
        verify_detached(content, revoked.detached(b"x"), [revoked.armored])


@pytest.mark.skipif(find_spec("pysequoia") is None, reason="pysequoia is not installed")
def test_sequoia_judges_as_gpgv_does(tmp_path: Path) -> None:
    keys = (GOOD.packets,)
    signed = by_sequoia(clearsigned(TEXT, GOOD, OTHER), None, keys)
    assert signed.text.decode().split() == TEXT.split()
    assert signed.fingerprints == (GOOD.fingerprint,)
    content = tmp_path / "content"
    content.write_bytes(b"x")
    assert by_sequoia(GOOD.detached(b"x"), content, keys).fingerprints == (GOOD.fingerprint,)
    old = Key(3, lifetime=90)
    before = by_sequoia(old.detached(b"x"), content, (old.packets,))
    assert before.fingerprints == (old.fingerprint,)
    with pytest.raises(IntegrityError):
        by_sequoia(old.detached(b"x", at=BORN + 100), content, (old.packets,))
    for message, key in (
        (clearsigned(TEXT, OTHER), GOOD),
        (clearsigned(TEXT, GOOD, algorithm=SHA1), GOOD),
        (clearsigned(TEXT, Key(4, revoked=True)), Key(4, revoked=True)),
        (clearsigned(TEXT, Key(3, lifetime=90)), Key(3, lifetime=90)),
        (clearsigned(TEXT, GOOD).replace(b"now", b"new"), GOOD),
    ):
        with pytest.raises(IntegrityError):
            by_sequoia(message, None, (key.packets,))


VALID = "[GNUPG:] VALIDSIG AA 2026-01-01 1 0 4 0 22 8 01 BB"


def test_status_lines() -> None:
    good = f"[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG AA name\n{VALID}\n"
    assert signers(good) == ("BB",)
    assert signers(good + good) == ("BB",)
    for status in (
        "",
        VALID,
        good.replace("GOODSIG", "EXPKEYSIG"),
        good.replace("GOODSIG", "REVKEYSIG"),
        good.replace("GOODSIG", "EXPSIG"),
        good.replace(" 8 01", " 2 01"),
        good.replace("[GNUPG:] VALIDSIG", "VALIDSIG"),
        good + "[GNUPG:] NEWSIG\n[GNUPG:] BADSIG CC name\n",
        good.replace(VALID, f"{VALID}\n{VALID}"),
        f"gpgv: {good!r}",
    ):
        with pytest.raises(IntegrityError):
            signers(status)
    expired = good.replace("GOODSIG", "EXPKEYSIG")
    for end, fine in (("2", True), ("1", True), ("0", False)):
        status = f"{expired}[GNUPG:] KEYEXPIRED 9\n[GNUPG:] KEYEXPIRED {end}\n"
        if fine:
            assert signers(status, expired_since=True) == ("BB",)
        else:
            with pytest.raises(IntegrityError):
                signers(status, expired_since=True)
    with pytest.raises(IntegrityError):
        signers(expired, expired_since=True)


def test_a_missing_gpgv_is_an_error() -> None:
    with pytest.raises(IntegrityError, match="cannot verify"):
        by_gpgv("/nonexistent/gpgv", clearsigned(TEXT, GOOD), None, (GOOD.packets,))


def test_crc24_of_nothing_and_of_digits() -> None:
    assert crc24(b"") == 0xB704CE
    assert crc24(b"123456789") == 0x21CF02  # the catalogue's check value of CRC-24/OPENPGP


@settings(max_examples=examples(50))
@given(st.binary(min_size=1, max_size=300))
def test_armor_round_trip(data: bytes) -> None:
    packets = b"\xc6" + data
    assert dearmor(armor("PUBLIC KEY BLOCK", packets), "PUBLIC KEY BLOCK") == packets
    crlf = armor("PUBLIC KEY BLOCK", packets).replace(b"\n", b"\r\n")
    assert dearmor(crlf, "PUBLIC KEY BLOCK") == packets


def test_bad_armor() -> None:
    block = armor("PUBLIC KEY BLOCK", b"\xc6key")
    for bad in (
        b"",
        b"\n",
        block.replace(b"=", b"=A", 1),
        block.replace(b"PUBLIC", b"PRIVATE"),
        block[:-20],
        armor("SIGNATURE", b"\xc2sig"),
        block.replace(b"\n\n", b"\nno header here\n\n"),
    ):
        with pytest.raises(IntegrityError):
            dearmor(bad, "PUBLIC KEY BLOCK")


MESSAGE = clearsigned(TEXT, GOOD)


@settings(max_examples=examples(50))
@given(st.binary(max_size=200))
def test_any_bytes_around_a_message_are_refused_or_blank(data: bytes) -> None:
    message = MESSAGE
    check_clearsigned(message)
    for around in (data + message, message + data):
        if around.strip(b" \t\r\n") == message.strip() and around.startswith(b"-"):
            continue
        with pytest.raises(IntegrityError):
            check_clearsigned(around)
