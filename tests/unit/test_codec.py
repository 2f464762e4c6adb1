"""The codec: every kind there and back, and strict about everything else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildit.codec import CodecError, decode, encode, from_plain, to_plain
from buildit.digest import BuildKey, Digest

pytestmark = pytest.mark.unit

HEX = "0123456789abcdef" * 4


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Leaf:
    name: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class Sync:
    src: str
    step: Literal["sync"] = "sync"


@dataclass(frozen=True, slots=True)
class Package:
    key: BuildKey
    step: Literal["package"] = "package"


@dataclass(frozen=True, slots=True)
class Whole:
    digest: Digest
    leaves: tuple[Leaf, ...] = ()
    pair: tuple[str, int] = ("", 0)
    names: frozenset[str] = frozenset()
    run: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    colour: Colour = Colour.RED
    place: Path = Path()
    ratio: float = 0.5
    flag: bool = False
    deep: Whole | None = None
    steps: tuple[Sync | Package, ...] = ()
    either: str | int | tuple[str, ...] | None = None
    other: str = ""


WHOLE = Whole(
    Digest(HEX),
    (Leaf("a", 3), Leaf("b")),
    ("x", 2),
    frozenset({"q", "p"}),
    {"one": ("two", "three")},
    Colour.BLUE,
    Path("/srv/x"),
    1.25,
    True,
    Whole(Digest(HEX), either=("a",)),
    (Sync("etc"), Package(BuildKey(HEX))),
    7,
    "said",
)


def test_a_value_of_every_kind_comes_back() -> None:
    assert decode(Whole, encode(WHOLE)) == WHOLE
    assert from_plain(Whole, json.loads(json.dumps(to_plain(WHOLE)))) == WHOLE


def test_the_bytes_are_canonical() -> None:
    assert encode(Leaf("a", 3)) == b'{"name":"a","size":3}'
    assert to_plain(WHOLE)["other"] == "said"
    assert to_plain(WHOLE)["names"] == ["p", "q"]
    assert encode(Whole(Digest(HEX), names=frozenset("abc"))) == encode(
        Whole(Digest(HEX), names=frozenset("cba"))
    )


def test_what_has_a_default_may_be_missing() -> None:
    assert decode(Whole, f'{{"digest":"{HEX}"}}') == Whole(Digest(HEX))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"digest": "00"}, "digest: '00' is not a SHA-256 digest"),
        ({"digest": HEX.upper()}, "digest: "),
        ({"digest": None}, "digest: None is not a SHA-256 digest"),
        ({"leaves": [{"name": "a"}, {"name": 3}]}, "leaves[1].name: it is not text"),
        ({"leaves": [{"size": 3}]}, "leaves[0].name: it is missing"),
        ({"leaves": [{"name": "a", "Size": 3}]}, "leaves[0].Size: it is not known"),
        ({"leaves": [{"name": "a", "size": True}]}, "leaves[0].size: it is not a whole number"),
        ({"leaves": [{"name": "a", "size": 1.0}]}, "leaves[0].size: it is not a whole number"),
        ({"leaves": {}}, "leaves: it is not a list"),
        ({"pair": ["x"]}, "pair: it does not have 2 members"),
        ({"pair": ["x", "y"]}, "pair[1]: it is not a whole number"),
        ({"names": ["a", "a"]}, "names: a member stands twice"),
        ({"run": {"one": [1]}}, "run.one[0]: it is not text"),
        ({"run": []}, "run: it is not a map"),
        ({"colour": "green"}, "colour: 'green' is no Colour"),
        ({"colour": []}, "colour: [] is no Colour"),
        ({"place": 3}, "place: it is not text"),
        ({"ratio": float("inf")}, "ratio: it is not a number"),
        ({"ratio": 10**400}, "ratio: it is not a number"),
        ({"ratio": True}, "ratio: it is not a number"),
        ({"flag": 1}, "flag: it is not true or false"),
        ({"deep": 3}, "deep: it is not a map or null"),
        ({"deep": {}}, "deep.digest: it is missing"),
        ({"steps": [{"step": "run"}]}, "steps[0].step: 'run' is none of package, sync"),
        ({"steps": [{"step": ["sync"]}]}, "steps[0].step: ['sync'] is none of package, sync"),
        ({"steps": [{"step": "sync"}]}, "steps[0].src: it is missing"),
        ({"either": {}}, "either: it is not text or a whole number or a list or null"),
        ({"further": "x"}, "further: it is not known"),
    ],
)
def test_other_data_is_refused_with_its_path(change: dict[str, object], said: str) -> None:
    with pytest.raises(CodecError) as caught:
        from_plain(Whole, {"digest": HEX, **change})
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"\xff", b'{"digest":', b"[" * 100_000]
)
def test_what_is_no_such_document_is_refused(text: bytes) -> None:
    with pytest.raises(CodecError):
        decode(Whole, text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.scale
@given(st.dictionaries(st.sampled_from(sorted(to_plain(WHOLE))), JSON))
def test_any_data_is_read_or_refused(change: dict[str, object]) -> None:
    try:
        found = from_plain(Whole, {**to_plain(WHOLE), **change})
    except CodecError:
        return
    assert from_plain(Whole, to_plain(found)) == found


def test_types_that_cannot_be_told_apart_are_a_fault_of_the_program() -> None:
    with pytest.raises(TypeError):
        from_plain(tuple[str | Path, ...], [])
    with pytest.raises(TypeError):
        from_plain(tuple[Leaf | Whole, ...], [])
    with pytest.raises(TypeError):
        from_plain(bytes, "x")
    with pytest.raises(TypeError):
        to_plain(b"x")


def test_it_needs_little() -> None:
    program = "import sys, buildit.codec\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"pydantic", "msgspec", "subprocess", "socket"}
    assert {name for name in loaded if name.startswith("buildit.")} == {
        "buildit.codec",
        "buildit.digest",
    }
