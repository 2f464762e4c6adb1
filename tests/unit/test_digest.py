from __future__ import annotations

import hashlib
import inspect
import io
import json
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit import errors
from buildit.digest import (
    CHUNK,
    BuildKey,
    canonical,
    digest_bytes,
    digest_file,
    digest_stream,
    is_hex64,
    key_uuid,
    oci_digest,
    parse_digest,
    uuid_prefix,
)
from buildit.errors import BuilditError
from tests.scale import examples

pytestmark = pytest.mark.unit

HEX64 = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def test_canonical_is_sorted_ascii_without_blanks() -> None:
    assert canonical({"b": ["ä", 1], "a": None}) == b'{"a":null,"b":["\\u00e4",1]}'


@settings(max_examples=examples(30))
@given(JSON)
def test_canonical_gives_equal_data_back(value: object) -> None:
    assert json.loads(canonical(value)) == value


@settings(max_examples=examples(30))
@given(st.dictionaries(st.text(), st.integers()))
def test_canonical_does_not_see_the_order_of_keys(value: dict[str, int]) -> None:
    assert canonical(dict(reversed(value.items()))) == canonical(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_canonical_refuses_what_is_no_json_number(value: object) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical(value)


def test_canonical_refuses_what_is_no_json() -> None:
    with pytest.raises(TypeError):
        canonical({"a": b"bytes"})


def test_digests_of_bytes_streams_and_files_agree(tmp_path: Path) -> None:
    data = b"x" * (CHUNK + 1)
    (tmp_path / "f").write_bytes(data)
    expected = hashlib.sha256(data).hexdigest()
    assert digest_bytes(data) == digest_stream(io.BytesIO(data)) == expected
    assert digest_file(tmp_path / "f") == expected
    assert oci_digest(digest_bytes(b"")) == f"sha256:{hashlib.sha256().hexdigest()}"


@settings(max_examples=examples(30))
@given(HEX64)
def test_a_digest_is_read_with_and_without_its_prefix(text: str) -> None:
    assert is_hex64(text)
    assert parse_digest(text) == parse_digest(f"sha256:{text}") == text


@pytest.mark.parametrize(
    "text", ["", "sha256:", "0" * 63, "0" * 65, "A" * 64, "0" * 64 + "\n", "sha512:" + "0" * 64]
)
def test_what_is_no_digest_is_refused(text: str) -> None:
    assert not is_hex64(text)
    with pytest.raises(ValueError, match="not a SHA-256"):
        parse_digest(text)


@settings(max_examples=examples(30))
@given(HEX64)
def test_the_uuid_of_a_key_is_version_8_and_leads_back(key: str) -> None:
    text = key_uuid(BuildKey(key))
    value = uuid.UUID(text)
    assert (value.version, value.variant) == (8, uuid.RFC_4122)
    assert uuid_prefix(text) == key[:30]
    assert uuid_prefix(text.upper()) == key[:30]


def test_a_uuid_holds_the_first_122_bits() -> None:
    assert key_uuid(BuildKey("f" * 64)) == "ffffffff-ffff-8fff-bfff-ffffffffffff"
    last = f"{1 << (256 - 122):064x}"
    assert key_uuid(BuildKey(last)) == "00000000-0000-8000-8000-000000000001"
    beyond = f"{1 << (255 - 122):064x}"
    assert key_uuid(BuildKey(beyond)) == "00000000-0000-8000-8000-000000000000"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "86c8ef43",
        str(uuid.UUID(int=0)),
        "86c8ef43-f4a4-49ba-a0ee-92900211c7b6",
        # 32 digits are the prefix of a key, whatever they look like as a UUID.
        "86c8ef43f4a489baa0ee92900211c7b6",
        "{86c8ef43-f4a4-89ba-a0ee-92900211c7b6}",
        "urn:uuid:86c8ef43-f4a4-89ba-a0ee-92900211c7b6",
    ],
)
def test_only_a_whole_version_8_uuid_names_keys(text: str) -> None:
    assert uuid_prefix(text) is None


# -- errors


def kinds() -> list[type[BuilditError]]:
    return [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, BuilditError)
    ]


def test_every_error_exits_with_the_code_that_the_module_documents() -> None:
    documented = {}
    for line in (errors.__doc__ or "").splitlines():
        words = line.split()
        if words[-2:-1] == ["exit"] and words[-1].isdigit():
            documented[words[1]] = int(words[-1])
    assert {k.__name__: k.exit_code for k in kinds() if k is not BuilditError} == documented
    assert all(issubclass(kind, BuilditError) for kind in kinds())


def test_an_error_shows_its_place_first() -> None:
    error = errors.RecipeError("no", place="f:1:2", hint="do", details=("a", "b"))
    assert str(error) == "f:1:2: no"
    assert (error.message, error.place, error.hint, error.details) == (
        "no",
        "f:1:2",
        "do",
        ("a", "b"),
    )
    assert str(errors.RecipeError("no")) == "no"
