from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.archive.contents import contents_blob, parse_contents, root_digest
from buildit.digest import canonical, digest_bytes
from buildit.errors import IntegrityError
from buildit.model.tree import Entry, Kind, sort_key
from tests.scale import examples

pytestmark = pytest.mark.unit

FILE = Entry("bin/sh", Kind.FILE, 0o4755, 12, 1, 2, 3, digest=digest_bytes(b"abc"),
             xattrs={"security.capability": b"\x01\xff"})  # fmt: skip
ENTRIES = (
    Entry("bin", Kind.DIRECTORY, 0o755),
    FILE,
    Entry("bin/ash", Kind.HARDLINK, 0o755, target="bin/sh"),
    Entry("raw\udcff", Kind.SYMLINK, 0o777, -1, target="\udcfe\u00e9"),
)


def test_golden() -> None:
    digest = digest_bytes(b"abc")
    assert (
        contents_blob([FILE, ENTRIES[0]])
        == (
            '{"entries":[{"kind":"directory","mode":"0755","mtime":0,"path":"bin"},'
            '{"gid":2,"kind":"file","mode":"4755","mtime":12,"path":"bin/sh",'
            f'"sha256":"{digest}","size":3,"uid":1,'
            '"xattrs":{"security.capability":"01ff"}}],"format":1}'
        ).encode()
    )


def test_round_trip_in_any_order() -> None:
    blob = contents_blob(ENTRIES)
    assert contents_blob(ENTRIES[::-1]) == blob
    assert parse_contents(blob) == tuple(sorted(ENTRIES, key=sort_key))


@given(st.lists(st.sampled_from(ENTRIES), unique_by=lambda entry: entry.path))
@settings(max_examples=examples(15))
def test_every_subset_comes_back(entries: list[Entry]) -> None:
    assert parse_contents(contents_blob(entries)) == tuple(sorted(entries, key=sort_key))


def test_root_digest_sees_every_field() -> None:
    changes: list[Entry] = [
        replace(FILE, path="bin/zsh"),
        replace(FILE, mode=0o755),
        replace(FILE, mtime=13),
        replace(FILE, uid=0),
        replace(FILE, gid=0),
        replace(FILE, size=4),
        replace(FILE, digest=digest_bytes(b"abd")),
        replace(FILE, xattrs={}),
        replace(FILE, xattrs={"security.capability": b"\x01"}),
        Entry("bin/sh", Kind.SYMLINK, 0o777, 12, 1, 2, target="a"),
        Entry("bin/sh", Kind.SYMLINK, 0o777, 12, 1, 2, target="b"),
        Entry("bin/sh", Kind.HARDLINK, 0o777, 12, 1, 2, target="b"),
        Entry("bin/sh", Kind.DIRECTORY, 0o777, 12, 1, 2),
    ]
    digests = {root_digest([entry]) for entry in [FILE, *changes]}
    assert len(digests) == len(changes) + 1


def test_a_file_without_digest_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="digest"):
        contents_blob([replace(FILE, digest=None)])


ROW = {"kind": "directory", "mode": "0755", "mtime": 0, "path": "bin"}
FILE_ROW = {**ROW, "kind": "file", "size": 3, "sha256": "0" * 64}


def listing(*rows: object) -> bytes:
    return canonical({"entries": rows, "format": 1})


def test_the_rows_below_are_sound_before_they_are_bent() -> None:
    assert len(parse_contents(listing(ROW))) == len(parse_contents(listing(FILE_ROW))) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b'{"entries":3,"format":1}',
        b'{"entries":[],"format":2}',
        b'{"entries":[],"format":1}\n',
        json.dumps({"entries": [ROW], "format": 1}).encode(),
        listing(ROW, ROW),
        listing({**ROW, "path": "b"}, {**ROW, "path": "a"}),
        listing({**ROW, "path": "../a"}),
        listing({**ROW, "path": "/a"}),
        listing({**ROW, "path": "a/"}),
        listing({**ROW, "path": ""}),
        listing({**ROW, "path": 3}),
        listing({**ROW, "kind": "device"}),
        listing({**ROW, "mode": "755"}),
        listing({**ROW, "mode": "99"}),
        listing({**ROW, "mode": "17777"}),
        listing({**ROW, "mode": 493}),
        listing({**ROW, "mtime": "0"}),
        listing({**ROW, "mtime": True}),
        listing({**ROW, "mtime": 0.5}),
        listing({**ROW, "extra": 1}),
        listing({**ROW, "uid": 0, "gid": 0}),
        listing({**ROW, "uid": -1, "gid": 0}),
        listing({**ROW, "xattrs": {"a": "xyz"}}),
        listing({**ROW, "xattrs": []}),
        listing({**ROW, "size": 0}),
        listing({**FILE_ROW, "size": -1}),
        listing({**FILE_ROW, "sha256": "0"}),
        listing({**FILE_ROW, "target": "a"}),
        listing({**ROW, "kind": "symlink"}),
        listing("bin"),
        b"[" * 100_000,
    ],
)
def test_damaged_listing(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="listing of contents is damaged") as caught:
        parse_contents(data)
    assert caught.value.hint
