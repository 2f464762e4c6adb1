"""The record of a Debian source: what is written is read, and each field is in the key."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from buildit.digest import Digest
from buildit.errors import IntegrityError
from buildit.model.platform import PLATFORMS
from buildit.plan.identity import (
    DebianSourceInputs,
    NamedDigest,
    PatchInput,
    Rules,
    build_key,
    read_record,
    read_source_record,
    record_text,
)

A, B = Digest("a" * 64), Digest("b" * 64)
AMD64, ARM64 = PLATFORMS["linux/amd64"], PLATFORMS["linux/arm64"]
INPUTS = DebianSourceInputs(
    name="jq",
    version="1.6-2.1",
    suffix="+buildit1",
    build_platform=AMD64,
    target_platform=AMD64,
    files=(NamedDigest("jq_1.6-2.1.dsc", A), NamedDigest("jq_1.6.orig.tar.gz", B)),
    patches=(PatchInput(A, 1),),
    profiles=("nodoc",),
    options=("nocheck",),
    configure=("--without-oniguruma",),
    debs=(A, B),
    beside=(A,),
    toolchain=B,
    chroot="1",
    rules=Rules("1", "1", "1", "1", "1", "1"),
)
OTHERS: dict[str, Any] = {
    "build_platform": ARM64,
    "target_platform": ARM64,
    "files": (NamedDigest("jq_1.6-2.1.dsc", B),),
    "patches": (PatchInput(A, 0),),
    "debs": (A,),
    "beside": (),
    "toolchain": A,
    "rules": Rules("1", "1", "1", "2", "1", "1"),
}


def test_what_is_written_is_read() -> None:
    assert read_source_record(record_text(INPUTS.record())) == INPUTS


@pytest.mark.parametrize("name", [field.name for field in fields(DebianSourceInputs)])
def test_each_field_changes_the_key(name: str) -> None:
    value = getattr(INPUTS, name)
    other = OTHERS.get(name, (*value, "x") if isinstance(value, tuple) else f"{value}x")
    changed = replace(INPUTS, **{name: other})
    assert build_key(record_text(changed.record())) != build_key(record_text(INPUTS.record()))


def test_a_record_of_another_kind_is_refused() -> None:
    with pytest.raises(IntegrityError, match="type 'debian-source'"):
        read_record(record_text(INPUTS.record()))
