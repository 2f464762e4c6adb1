"""The contract of remotes, for one in memory and for a directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from buildit.model.config import Https
from buildit.remote.binhost import binhost
from buildit.remote.binhost.protocols import (
    MEMBER_LIMIT,
    PACK_LIMIT,
    SignedStatement,
    members_of,
    pack_of,
)
from buildit.store.cas import Store
from buildit.trust.signers import Signer
from tests.fakes import MemoryRemote
from tests.hosts import BUILDER, accept, directory, sign
from tests.registries import MemoryRegistry, remembered
from tests.remote_contract import CONTRACT, There, made, on_disk

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("case", CONTRACT, ids=lambda case: case.__name__)
def test_a_directory(case: Callable[[There], None], tmp_path: Path) -> None:
    there = directory(tmp_path / "far")
    case(on_disk(there, there, tmp_path / "far", tmp_path))
    there.close()


@pytest.mark.parametrize("case", CONTRACT, ids=lambda case: case.__name__)
def test_one_in_memory(case: Callable[[There], None], tmp_path: Path) -> None:
    there = MemoryRemote(Https("https://far.example/b"))

    def asked() -> list[str]:
        found = list(there.transport.asked)
        there.transport.asked.clear()
        return found

    case(
        There(
            there, there.reading, there.files.__setitem__, there.files.__delitem__, asked, tmp_path
        )
    )


@pytest.mark.parametrize("api", [False, True])
@pytest.mark.parametrize("case", CONTRACT, ids=lambda case: case.__name__)
def test_a_registry(case: Callable[[There], None], tmp_path: Path, api: bool) -> None:
    case(remembered(MemoryRegistry(api), tmp_path))


def test_a_pack_has_what_is_small_and_fits() -> None:
    small = [bytes([number]) * MEMBER_LIMIT for number in range(5)]
    assert [content for _, content in members_of(pack_of(small))] == small[:3]
    assert len(pack_of(small)) <= PACK_LIMIT
    assert pack_of([b"one", b"x" * (MEMBER_LIMIT + 1)]) == b"", "one alone needs no pack"
    assert pack_of([b"one", b"one"]) == b""
    assert [content for _, content in members_of(pack_of([b"", b"\n"]))] == [b"", b"\n"]


class _Counted(MemoryRemote):
    def __init__(self) -> None:
        super().__init__(Https("https://far.example/b"))
        self.added: list[int] = []

    def add(self, statements: Sequence[SignedStatement]) -> list[str]:
        self.added.append(len(statements))
        return super().add(statements)


def test_the_packs_of_a_large_push_are_not_all_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binhost, "_PACKS_AT_ONCE", 2)
    counted = _Counted()
    with Store.open(tmp_path / "own") as store:
        keys = [made(store, name).key for name in ("nginx", "zlib", "pcre")]
        signer = Signer(BUILDER, sign)
        work = binhost.Push(store, counted, accept, signer=signer)
        assert work(keys).statements == 3
    assert counted.added == [2, 1]
