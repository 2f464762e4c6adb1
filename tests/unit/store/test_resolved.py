"""Early cut-off: the second identity, its entries, and artifacts said of another key."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.digest import BuildKey, Digest, canonical, digest_bytes
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.plan.identity import build_key, record_text, resolved_key
from buildit.store.artifacts import (
    commit,
    entry_bytes,
    entry_name,
    lookup,
    parse_entry,
    pointed_to,
    resolved_of,
    restated_for,
)
from buildit.store.cas import Store
from buildit.store.upkeep import collect

pytestmark = pytest.mark.unit

LIB_A, LIB_B = BuildKey("a" * 64), BuildKey("b" * 64)
BYTES, OTHER = Digest("1" * 64), Digest("2" * 64)
DEB = BuildKey("d" * 64)


def record(library: BuildKey, **more: object) -> str:
    return record_text(
        {
            "scheme": "1",
            "type": "package",
            "name": "app/hello",
            "dependencies": [{"key": library, "outputs": ["dev", "runtime"]}],
            **more,
        }
    )


def at_hand(library: BuildKey, diff_id: Digest = BYTES) -> dict[BuildKey, dict[str, Digest]]:
    return {library: {"runtime": diff_id}}


def built(store: Store, text: str, library: BuildKey = LIB_A) -> Artifact:
    """An artifact in the store, not committed."""
    layer = b"layer of hello"
    return Artifact(
        key=build_key(text),
        name="app/hello",
        version="1.0",
        platform="linux/amd64",
        outputs={
            RUNTIME: Output(
                store.put_bytes(layer),
                len(layer),
                store.put_bytes(b"contents"),
                ("interp:/lib/ld.so", "path:/bin/sh", "soname:libgreet.so.1"),
                {
                    "interp:/lib/ld.so": f"{DEB}:runtime",
                    "path:/bin/sh": ":dev",
                    "soname:libgreet.so.1": f"{library}:runtime",
                },
            )
        },
        record=store.put_bytes(text.encode()),
        resolved=at_hand(library),
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def test_other_keys_with_the_same_bytes_give_the_same_resolved_key() -> None:
    first = resolved_key(record(LIB_A), at_hand(LIB_A))
    assert first is not None
    assert resolved_key(record(LIB_B), at_hand(LIB_B)) == first
    assert str(first) not in (build_key(record(LIB_A)), build_key(record(LIB_B)))


@pytest.mark.parametrize(
    "other",
    [
        resolved_key(record(LIB_A), at_hand(LIB_A, OTHER)),
        resolved_key(record(LIB_A, version="2"), at_hand(LIB_A)),
        resolved_key(record(LIB_A), {LIB_A: {"dev": BYTES}}),
        resolved_key(record(LIB_A), {LIB_A: {"runtime": BYTES, "dev": BYTES}}),
    ],
)
def test_whatever_else_differs_gives_another(other: Digest | None) -> None:
    assert other != resolved_key(record(LIB_A), at_hand(LIB_A))


def test_outputs_that_a_build_does_not_see_do_not_count() -> None:
    more = {LIB_A: {"runtime": BYTES, "doc": OTHER}}
    assert resolved_key(record(LIB_A), more) == resolved_key(record(LIB_A), at_hand(LIB_A))


def test_what_has_no_dependencies_or_not_all_at_hand_has_none() -> None:
    assert resolved_key(record(LIB_A), {}) is None
    assert resolved_key(record_text({"type": "debian", "sha256": "x"}), {}) is None
    assert resolved_key(record_text({"type": "package", "dependencies": []}), {}) is None


def test_the_domain_is_its_own() -> None:
    """The text that is hashed is no record, so no key can be mistaken for a resolved key."""
    data = json.loads(record(LIB_A))
    data["dependencies"] = [{"runtime": BYTES}]
    found = resolved_key(record(LIB_A), at_hand(LIB_A))
    assert found == digest_bytes(b"buildit-resolved-1\n" + canonical(data))
    assert found != digest_bytes(canonical(data))


def test_a_commit_enters_the_resolved_key_and_a_collection_removes_it(store: Store) -> None:
    artifact = built(store, record(LIB_A))
    commit(store, artifact)
    resolved = resolved_key(record(LIB_A), at_hand(LIB_A))
    assert resolved is not None
    path = store.root / entry_name(resolved, "local")
    assert path.read_bytes() == entry_bytes(artifact.key)
    assert list(pointed_to(store.root, resolved)) == [artifact.key]
    store.close()
    with Store.open(store.root) as again:
        collect(again, keep=[artifact.key])
        assert path.exists()
        collect(again)
        assert not path.parent.parent.exists()


def test_an_entry_is_only_what_it_should_be(store: Store) -> None:
    resolved = Digest("c" * 64)
    directory = (store.root / entry_name(resolved, "local")).parent
    directory.mkdir(parents=True)
    (directory / "local.json").write_bytes(b"not json")
    (directory / f"{'e' * 64}.json").write_bytes(entry_bytes(LIB_A))
    (directory / "stranger.json").write_bytes(entry_bytes(LIB_B))
    (directory / f"{'f' * 64}.json").symlink_to("/etc/passwd")
    (directory / f"{'0' * 64}.json").mkdir()
    assert list(pointed_to(store.root, resolved)) == [LIB_A]
    assert list(pointed_to(store.root, Digest("3" * 64))) == []
    for content in (b"", b"[]", b'{"key": 1}', b'{"key": "../../x"}', b"[" * 9999):
        assert parse_entry(content) is None


def test_a_build_said_of_another_key(store: Store) -> None:
    old, new = record(LIB_A), record(LIB_B)
    artifact = built(store, old)
    commit(store, artifact)
    digest = store.put_bytes(new.encode())
    made = restated_for(artifact, old, build_key(new), digest, new, at_hand(LIB_B))
    assert made.key == build_key(new)
    assert made.restated == artifact.key
    assert made.resolved == at_hand(LIB_B)
    providers = made.outputs[RUNTIME].providers
    assert providers == {
        "interp:/lib/ld.so": f"{DEB}:runtime",
        "path:/bin/sh": ":dev",
        "soname:libgreet.so.1": f"{LIB_B}:runtime",
    }
    assert made.outputs[RUNTIME].diff_id == artifact.outputs[RUNTIME].diff_id
    commit(store, made)
    assert lookup(store, made.key) == made
    assert resolved_of(made, new) == resolved_of(artifact, old)
    resolved = resolved_of(artifact, old)
    assert resolved is not None
    assert list(pointed_to(store.root, resolved)) == [artifact.key], "what repeats has no entry"
    third = record(BuildKey("c" * 64))
    again = restated_for(made, new, build_key(third), digest, third, at_hand(BuildKey("c" * 64)))
    assert again.restated == artifact.key


def test_a_record_that_is_not_the_key_s_gives_no_resolved_key(store: Store) -> None:
    artifact = built(store, record(LIB_A))
    assert resolved_of(artifact, record(LIB_B)) is None
    assert resolved_of(replace(artifact, key=LIB_B), record(LIB_A)) is None
    assert resolved_of(replace(artifact, key=BuildKey(digest_bytes(b"[]"))), "[]") is None


def test_an_entry_that_a_power_loss_emptied_is_written_again(store: Store) -> None:
    text = record(LIB_A)
    artifact = built(store, text)
    commit(store, artifact)
    resolved = resolved_key(text, artifact.resolved)
    assert resolved is not None
    path = store.root / entry_name(resolved, "local")
    path.chmod(0o644)
    path.write_bytes(b"")
    assert list(pointed_to(store.root, resolved)) == []
    commit(store, artifact)
    assert path.read_bytes() == entry_bytes(artifact.key)
