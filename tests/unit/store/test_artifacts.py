from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.digest import Digest, digest_bytes, key_uuid
from buildit.errors import StoreError, UsageError
from buildit.model.artifact import RUNTIME
from buildit.store.artifacts import (
    Found,
    Miss,
    commit,
    examine,
    lookup,
    origin_of,
    origin_path,
    place_statement,
    signature_path,
    statement_paths,
)
from buildit.store.attest import LOCAL, statement_bytes
from buildit.store.cas import Store
from buildit.store.names import (
    FailedBuild,
    find,
    find_failure,
    forget_failure,
    keep_failure,
    name_at,
    name_place,
    named,
)
from buildit.store.upkeep import check_store
from tests.unit.store.build import add_artifact, key, leftovers

pytestmark = pytest.mark.unit
BUILDER = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def signed(content: bytes) -> bytes:
    return b"signature of " + digest_bytes(content).encode()


def test_commit_then_look_up_from_another_process(store: Store) -> None:
    artifact = add_artifact(store, "www-servers/nginx")
    assert lookup(store, artifact.key) is None
    placed = commit(store, artifact)
    assert placed.differs_from is None
    assert placed.path.name == "local.json"
    assert commit(store, artifact) == placed
    store.close()
    assert lookup(Store.open(store.root), artifact.key) == artifact
    assert leftovers(store.root) == []


def test_a_miss_has_a_reason(store: Store) -> None:
    artifact = add_artifact(store, "nginx")
    assert examine(store, artifact.key) == Miss(("no build of it is in the store",))
    commit(store, artifact)
    layer = store.path(artifact.outputs[RUNTIME].diff_id)
    layer.chmod(0o644)
    layer.write_bytes(b"short")
    assert "has 5 bytes" in reason(store, "nginx")
    layer.unlink()
    assert "is missing" in reason(store, "nginx")


@pytest.mark.parametrize("what", ["contents", "record"])
def test_an_artifact_without_its_parts_is_a_miss(store: Store, what: str) -> None:
    artifact = add_artifact(store, "nginx")
    commit(store, artifact)
    parts = {"contents": artifact.outputs[RUNTIME].contents, "record": artifact.record}
    store.path(parts[what]).unlink()
    assert what in reason(store, "nginx")


def test_a_missing_log_is_no_miss(store: Store) -> None:
    artifact = add_artifact(store, "nginx")
    commit(store, artifact)
    assert artifact.log is not None
    store.path(artifact.log).unlink()
    assert lookup(store, artifact.key) == artifact


def test_nothing_is_committed_before_its_blobs(store: Store) -> None:
    artifact = replace(add_artifact(store, "nginx"), record=Digest("0" * 64))
    with pytest.raises(StoreError, match=r"record 0{64} is missing"):
        commit(store, artifact)
    assert not (store.root / "k" / artifact.key[:2]).exists()


def test_what_does_not_suit_is_a_miss_with_that_reason(store: Store) -> None:
    artifact = add_artifact(store, "nginx")
    commit(store, artifact)
    found = examine(store, artifact.key, lambda _: "another zlib was used")
    assert found == Miss(("local.json: another zlib was used",))


def test_a_signature_lies_beside_its_statement(store: Store) -> None:
    artifact = add_artifact(store, "nginx")
    path = commit(store, artifact, BUILDER, signed).path
    assert path.name == f"{BUILDER}.json"
    assert signature_path(path).read_bytes() == signed(path.read_bytes())
    signature_path(path).unlink()
    commit(store, artifact, BUILDER, signed)
    assert signature_path(path).read_bytes() == signed(path.read_bytes())


@pytest.mark.parametrize("builder", [LOCAL, BUILDER])
def test_builder_and_key_go_together(store: Store, builder: str) -> None:
    artifact = add_artifact(store, "nginx")
    with pytest.raises(ValueError, match="does not go with"):
        commit(store, artifact, builder, signed if builder == LOCAL else None)


def test_a_different_statement_is_kept_beside_and_reported(store: Store) -> None:
    first = add_artifact(store, "nginx", b"one")
    second = add_artifact(store, "nginx", b"two")
    path = commit(store, first, BUILDER, signed).path
    placed = commit(store, second, BUILDER, signed)
    assert placed.differs_from == path
    assert placed.path.name == f"{BUILDER}.{digest_bytes(placed.path.read_bytes())}.json"
    assert signature_path(placed.path).read_bytes() == signed(placed.path.read_bytes())
    assert commit(store, second, BUILDER, signed) == placed
    assert lookup(store, first.key) == first
    store.path(first.outputs[RUNTIME].diff_id).unlink()
    assert lookup(store, first.key) == second, "the other is still whole"


def test_own_statements_come_first(store: Store) -> None:
    mine, theirs = add_artifact(store, "nginx", b"mine"), add_artifact(store, "nginx", b"theirs")
    commit(store, theirs, "00" * 32, signed)
    commit(store, mine)
    assert lookup(store, mine.key) == mine


def test_what_was_built_here_comes_before_what_was_taken(store: Store) -> None:
    taken, built = add_artifact(store, "nginx", b"taken"), add_artifact(store, "nginx", b"built")
    content = statement_bytes(taken, "00" * 32)
    place_statement(store, taken, "00" * 32, content, signed(content), origin="depot")
    found = examine(store, taken.key)
    assert isinstance(found, Found)
    assert (found.artifact, found.origin) == (taken, "depot")
    commit(store, built, BUILDER, signed)
    found = examine(store, taken.key)
    assert isinstance(found, Found)
    assert (found.artifact, found.origin) == (built, "")
    doubted = examine(store, taken.key, believed=lambda one: "no" if one.origin else None)
    assert isinstance(doubted, Found)
    assert doubted.artifact == built


def test_what_was_taken_and_then_built_here_is_ones_own(store: Store) -> None:
    artifact = add_artifact(store, "nginx")
    content = statement_bytes(artifact, LOCAL)
    place_statement(store, artifact, LOCAL, content, None, origin="depot")
    assert [path.name for path in statement_paths(store.root, artifact.key)] == ["local.json"]
    assert check_store(store).faults == ()
    commit(store, artifact)
    found = examine(store, artifact.key)
    assert isinstance(found, Found)
    assert found.origin == ""
    place_statement(store, artifact, LOCAL, content, None, origin="depot")
    assert origin_of(found.path) == "", "taking it again takes nothing away"
    origin_path(found.path).write_text("")
    assert origin_of(found.path) == "elsewhere"
    found.path.unlink()
    assert [fault.reason for fault in check_store(store).faults] == [
        "it was left by a commit that was cut short before its statement"
    ]


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 100])
def test_a_garbled_statement_is_a_miss_and_healed_by_commit(store: Store, content: bytes) -> None:
    artifact = add_artifact(store, "nginx")
    path = commit(store, artifact).path
    path.chmod(0o644)
    path.write_bytes(content)
    assert "refused" in reason(store, "nginx")
    assert commit(store, artifact).differs_from is None
    assert lookup(store, artifact.key) == artifact


def test_a_statement_under_another_name_is_refused(store: Store) -> None:
    artifact = add_artifact(store, "nginx")
    path = commit(store, artifact).path
    path.rename(path.with_name(f"{BUILDER}.json"))
    assert "does not belong" in reason(store, "nginx")


def test_a_statement_that_is_a_link_or_fifo_is_not_read(store: Store, tmp_path: Path) -> None:
    artifact = add_artifact(store, "nginx")
    path = commit(store, artifact).path
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    assert isinstance(examine(store, artifact.key), Miss)
    path.unlink()
    os.mkfifo(path)
    assert isinstance(examine(store, artifact.key), Miss)


def test_find_by_prefix_and_uuid(store: Store) -> None:
    artifact = add_artifact(store, "nginx")
    commit(store, artifact)
    assert find(store, artifact.key) == artifact.key
    assert find(store, artifact.key[:8].upper()) == artifact.key
    assert find(store, key_uuid(artifact.key)) == artifact.key
    for text in ("", artifact.key[:7], "nginx-xx", "../../etc", artifact.key + "0", "*" * 8):
        with pytest.raises(UsageError, match="neither"):
            find(store, text)
    with pytest.raises(UsageError, match="no build"):
        find(store, key("zlib")[:8])


def test_an_ambiguous_prefix_lists_the_keys(store: Store) -> None:
    for last in "01":
        (store.root / "k" / "aa" / ("a" * 63 + last)).mkdir(parents=True)
    with pytest.raises(UsageError, match="2 builds") as caught:
        find(store, "a" * 10)
    assert len(caught.value.details) == 2
    assert find(store, "a" * 63 + "1") == "a" * 63 + "1"


def test_the_name_index(store: Store) -> None:
    known = ["debian-source:nginx", "nginx", "www-servers/nginx"]
    for name in (*known, "debian:nginx", "../../etc/x", "a/b/c", "/etc/x", "..", "x/.."):
        commit(store, add_artifact(store, name))
    assert [entry.name for entry in named(store)] == known
    assert [name_at(name_place(name) or "") for name in known] == known
    garbled = next((store.root / "n" / "www-servers" / "nginx").iterdir())
    garbled.chmod(0o644)
    garbled.write_bytes(b"{")
    assert [entry.name for entry in named(store)] == known[:2]


def test_a_failure_keeps_log_and_tree(store: Store) -> None:
    work = store.scratch("build")
    (work / "config.log").write_text("no compiler")
    log = store.scratch("log") / "build.log"
    log.write_text("configure failed")
    failure = FailedBuild(key("nginx"), "nginx", "1.22.1", "configure", "exit 1", log, work)
    assert find_failure(store, failure.key) is None
    kept = keep_failure(store, failure)
    store.close()
    again = Store.open(store.root)
    assert find_failure(again, failure.key) == kept
    assert kept.log.read_text() == "configure failed"
    assert kept.work is not None
    assert (kept.work / "config.log").read_text() == "no compiler"
    assert find(again, failure.key[:8]) == failure.key
    keep_failure(again, replace(failure, log=kept.log, work=None, message="exit 2"))
    second = find_failure(again, failure.key)
    assert second is not None
    assert (second.message, second.work) == ("exit 2", None)
    forget_failure(again, failure.key)
    forget_failure(again, failure.key)
    assert find_failure(again, failure.key) is None
    again.close()
    assert leftovers(again.root) == []


def reason(store: Store, name: str) -> str:
    found = examine(store, key(name))
    assert isinstance(found, Miss)
    assert len(found.reasons) == 1
    return found.reasons[0]
