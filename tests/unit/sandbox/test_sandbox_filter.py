"""The system call filter, run on an interpreter of classic BPF."""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildit.errors import BuildError
from buildit.sandbox.jail import ABSENT, FILTERED, REFUSED, filter_program

pytestmark = pytest.mark.unit

ALLOW = 0x7FFF0000
I386 = 0x40000003


def numbers(machine: str, calls: Mapping[str, tuple[int | None, ...]]) -> set[int]:
    *_, place = FILTERED[machine]
    return {number for both in calls.values() if (number := both[place]) is not None}


@cache
def program(machine: str) -> tuple[tuple[int, int, int, int], ...]:
    return tuple(struct.iter_unpack("<HBBI", filter_program(machine)))


def verdict(machine: str, number: int, *args: int, audit: int | None = None) -> int:
    """What the kernel would answer: ALLOW, or the errno of a refusal."""
    arch = FILTERED[machine][0] if audit is None else audit
    values = (*args, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<iIQ6Q", number, arch, 0, *(value & (2**64 - 1) for value in values))
    code, place, register = program(machine), 0, 0
    while True:
        kind, yes, no, constant = code[place]
        place += 1
        if kind == 0x20:
            (register,) = struct.unpack_from("<I", data, constant)
        elif kind == 0x15:
            place += yes if register == constant else no
        elif kind == 0x35:
            place += yes if register >= constant else no
        else:
            assert kind == 0x06
            return constant if constant == ALLOW else constant & 0xFFFF


@pytest.mark.parametrize("machine", sorted(FILTERED))
def test_what_is_listed_is_refused(machine: str) -> None:
    assert {verdict(machine, n) for n in numbers(machine, ABSENT)} == {errno.ENOSYS}
    assert {verdict(machine, n) for n in numbers(machine, REFUSED)} == {errno.EPERM}


def test_both_lists_name_the_same_calls_everywhere() -> None:
    lacking = {name for name, both in {**ABSENT, **REFUSED}.items() if None in both}
    assert lacking == {"iopl", "ioperm"}  # x86 only


@pytest.mark.parametrize("machine", sorted(FILTERED))
def test_sockets_only_of_families_that_namespaces_confine(machine: str) -> None:
    number = FILTERED[machine][1]
    allowed = {family for family in range(64) if verdict(machine, number, family) == ALLOW}
    assert allowed == {1, 2, 10, 16}
    assert verdict(machine, number, 40) == errno.EAFNOSUPPORT
    assert verdict(machine, number, 40 | 1 << 32) == errno.EAFNOSUPPORT


@pytest.mark.parametrize("machine", sorted(FILTERED))
def test_nobody_types_into_the_terminal(machine: str) -> None:
    number = FILTERED[machine][2]
    for request in (0x5412, 0x541C, 0x5412 | 1 << 32):  # the kernel takes the low half
        assert verdict(machine, number, 0, request) == errno.EPERM
    assert verdict(machine, number, 0x5412, 0x5401) == ALLOW


def test_other_machines_programs_find_nothing() -> None:
    assert verdict("x86_64", 20, audit=I386) == errno.ENOSYS
    assert verdict("x86_64", 0x40000000 | 250) == errno.ENOSYS
    assert verdict("x86_64", -1) == errno.ENOSYS


@given(st.sampled_from(sorted(FILTERED)), st.integers(0, 600))
def test_everything_else_is_allowed(machine: str, number: int) -> None:
    listed = numbers(machine, ABSENT) | numbers(machine, REFUSED) | {FILTERED[machine][1]}
    assert (verdict(machine, number) == ALLOW) == (number not in listed)


def test_jumps_and_length_suit_the_kernel() -> None:
    for machine in FILTERED:
        code = program(machine)
        assert len(code) <= 4096
        for place, (kind, yes, no, _) in enumerate(code):
            assert place + 1 + max(yes, no) < len(code) or kind == 0x06


def test_an_unknown_machine_is_no_silent_fall_back() -> None:
    with pytest.raises(BuildError, match="riscv64") as caught:
        filter_program("riscv64")
    assert "x86_64" in str(caught.value.hint)
