"""The index of names, asked for one package."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.store.artifacts import commit
from buildit.store.cas import Store
from buildit.store.names import (
    IndexedBuild,
    NameIndex,
    builds_of,
    index_bytes,
    index_of,
    latest_builds,
    named,
)
from tests.unit.store.build import add_artifact, key

pytestmark = pytest.mark.unit


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def test_only_the_entries_of_the_package_are_read(store: Store) -> None:
    for name in ("www-servers/nginx", "nginx", "www-servers/lighttpd"):
        commit(store, add_artifact(store, name))
    # Unreadable as JSON and as text: whoever read it for another package would show it.
    for other in (store.root / "n" / "www-servers" / "lighttpd").iterdir():
        other.chmod(0o644)
        other.write_bytes(b"\xff")
    assert [entry.key for entry in builds_of(store, "www-servers/nginx")] == [
        key("www-servers/nginx")
    ]
    assert [entry.key for entry in builds_of(store, "nginx")] == [key("nginx")]
    assert builds_of(store, "www-servers/lighttpd") == ()


@pytest.mark.parametrize("name", ["", "..", "../../etc/x", "a/b/c", "nobody/built-it"])
def test_a_name_without_entries_has_no_builds(store: Store, name: str) -> None:
    assert builds_of(store, name) == ()


def test_what_the_store_lost_is_no_build(store: Store) -> None:
    artifact = add_artifact(store, "nginx")
    statement = commit(store, artifact).path
    statement.unlink()
    assert builds_of(store, "nginx") == ()


def test_an_entry_that_a_power_loss_emptied_is_written_again(store: Store) -> None:
    artifact = add_artifact(store, "nginx")
    commit(store, artifact)
    (entry,) = (store.root / "n" / "local" / "nginx").iterdir()
    good = entry.read_bytes()
    entry.chmod(0o644)
    entry.write_bytes(b"")
    assert builds_of(store, "nginx") == ()
    commit(store, artifact)
    assert entry.read_bytes() == good
    assert [found.key for found in builds_of(store, "nginx")] == [artifact.key]


def test_the_latest_builds_come_first_and_no_more_are_read(store: Store) -> None:
    artifact = add_artifact(store, "nginx")
    keys = [key(f"build {number}") for number in range(4)]
    for number, one in enumerate(keys):
        commit(store, replace(artifact, key=one))
        os.utime(store.root / "n" / "local" / "nginx" / f"{one}.json", (number, number))
    assert [found.key for found in latest_builds(store, "nginx", 3)] == keys[:0:-1]
    commit(store, artifact).path.unlink()
    assert [found.key for found in latest_builds(store, "nginx", 9)] == keys[::-1]
    assert latest_builds(store, "nobody/built-it", 3) == latest_builds(store, "..", 3) == ()


def test_one_build_that_is_no_text_does_not_hide_the_others() -> None:
    good, bad = (IndexedBuild(key("z"), text, "linux/amd64", (), ()) for text in ("1", "2\ud800"))
    content = index_bytes(NameIndex("libs/z", (bad, good)))
    assert index_of(content, "libs/z") == NameIndex("libs/z", (good,))
    assert index_of(index_bytes(NameIndex("libs/\ud800", (good,))), "libs/\ud800") is None


def test_an_entry_that_is_no_text_does_not_hide_the_others(store: Store) -> None:
    for name in ("one", "two"):
        commit(store, add_artifact(store, name))
    (path,) = (store.root / "n/local/two").iterdir()
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"two"', b'"\\ud800"'))
    assert [entry.name for entry in named(store)] == ["one"]
