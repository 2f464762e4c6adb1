"""The closest build of a package, in the store and on binhosts that list names."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildit.digest import BuildKey
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.model.config import Https
from buildit.model.plan import Task
from buildit.plan.identity import build_key, record_text
from buildit.remote.binhost.binhost import Binhost
from buildit.remote.binhost.nearby import Nearby, untrusted_builds
from buildit.store.artifacts import commit
from buildit.store.cas import Store
from buildit.store.names import Attestation, IndexedBuild, NameIndex, index_bytes
from tests.fakes import MemoryRemote
from tests.hosts import FileBinhost, accept

pytestmark = pytest.mark.unit


def node(version: str = "1.0", use: str = "", name: str = "app/hello", **more: object) -> Task:
    record = record_text(
        {"name": name, "version": version, "environment": {"USE": use}, "steps": [], **more}
    )
    return Task(build_key(record), "package", name, version, record)


def built(store: Store, one: Task) -> Artifact:
    output = Output(store.put_bytes(b"layer"), 5, store.put_bytes(b"contents"))
    record = store.put_bytes(one.record.encode())
    artifact = Artifact(one.key, one.name, one.version, "linux/amd64", {RUNTIME: output}, record)
    commit(store, artifact)
    return artifact


class Web(MemoryRemote):
    """A binhost behind a web server: indices and records by path."""

    def __init__(self, name: str = "far", *, dead: bool = False) -> None:
        super().__init__(Https("https://far.example"))
        self.transport.dead = dead
        self.host = Binhost(name, self, lambda *_: None)

    def publish(self, *nodes: Task) -> None:
        said = Attestation("ab" * 32, f"{'ab' * 32}.json", f"{'ab' * 32}.json.sig")
        builds = [IndexedBuild(one.key, one.version, "linux/amd64", (), (said,)) for one in nodes]
        index = NameIndex(nodes[0].name, tuple(builds))
        self.files[f"n/{nodes[0].name}/index.json"] = index_bytes(index)
        for one in nodes:
            self.files[f"blobs/sha256/{one.key}"] = one.record.encode()


def nearby(store: Store, *hosts: Web, labels: dict[BuildKey, str] | None = None) -> Nearby:
    return Nearby(store, tuple(one.host for one in hosts), labels or {})


def test_the_build_with_the_fewest_differences(store: Store) -> None:
    near, far = node(use="ipv6"), node("0.9", use="-x y z")
    built(store, near)
    built(store, far)
    built(store, node(name="app/other"))
    found = nearby(store).closest(node(use="ipv6 ssl"))
    assert found is not None
    assert (found.key, found.place) == (near.key, "the local store")
    assert found.differences == ("flags -ssl -> +ssl",)


def test_nothing_is_close_where_nothing_is_named(store: Store) -> None:
    assert nearby(store, Web(), Web(dead=True)).closest(node()) is None


def test_a_web_server_lists_names_in_its_index(store: Store) -> None:
    built(store, node("0.5", use="a b c"))
    web, near = Web(), node(use="ipv6")
    web.publish(near, node("0.8", use="q"))
    found = nearby(store, Web(dead=True), web).closest(node())
    assert found is not None
    assert (found.key, found.place) == (near.key, "'far'")
    assert found.differences == ("flags +ipv6 -> -ipv6",)


def test_a_binhost_of_before_lists_names_on_its_page(store: Store) -> None:
    """Before there were indices, the page of a package linked to its statements, newest first."""
    web, near, other = Web(), node(use="ipv6"), node("0.8", use="q")
    web.publish(near, other)
    name = f"n/{near.name}"
    del web.files[f"{name}/index.json"]
    places = [f"../../../k/{one.key[:2]}/{one.key}/" for one in (near, other)]
    links = "".join(
        f'<a href="{place}">files</a> <a href="{place}{builder * 32}.json">statement</a>'
        for place in places
        for builder in ("ab", "cd")
    )
    web.files[f"{name}/index.html"] = f"<!doctype html><p>{links}".encode()
    found = nearby(store, web).closest(node())
    assert found is not None
    assert (found.key, found.place) == (near.key, "'far'")
    web.files[f"k/{near.key[:2]}/{near.key}/{'cd' * 32}.json"] = b"{}"
    list(untrusted_builds(near, [web.host]))
    asked = [path for path in web.transport.asked if path.startswith("k/")]
    assert asked == [f"k/{near.key[:2]}/{near.key}/{one * 32}.json" for one in ("ab", "cd")] + [
        f"k/{near.key[:2]}/{near.key}/{'cd' * 32}.json.sig"
    ]


def test_a_directory_lists_names_itself(store: Store, tmp_path: Path) -> None:
    with Store.open(tmp_path / "host") as other:
        near = built(other, node(use="ipv6"))
    host = FileBinhost(tmp_path / "host", accept).binhost
    found = Nearby(store, (host,), {}).closest(node())
    assert found is not None
    assert (found.key, found.place) == (near.key, "'test'")


def test_a_record_that_is_not_its_key_s_is_not_read(store: Store) -> None:
    web, near = Web(), node(use="ipv6")
    web.publish(near)
    web.files[f"blobs/sha256/{near.key}"] = node(use="something else").record.encode()
    assert nearby(store, web).closest(node()) is None
    web.files[f"blobs/sha256/{near.key}"] = b"[" * 100
    assert nearby(store, web).closest(node()) is None


def test_only_so_many_builds_are_looked_at(store: Store) -> None:
    web = Web()
    web.publish(*(node(f"1.{number}") for number in range(500)))
    nearby(store, web).closest(node("2.0"))
    assert len(web.transport.asked) == 21


def test_dependencies_are_named_by_plan_store_or_their_records(store: Store) -> None:
    old = node(name="libs/z", version="1.2")
    new = node(name="libs/z", version="1.3")
    web = Web()
    web.files[f"blobs/sha256/{old.key}"] = old.record.encode()
    earlier = node(dependencies=[{"key": old.key, "outputs": ["dev"]}])
    built(store, earlier)
    wanted = node(dependencies=[{"key": new.key, "outputs": ["dev"]}])
    found = nearby(store, web, labels={new.key: "libs/z-1.3"}).closest(wanted)
    assert found is not None
    assert found.differences == ("libs/z-1.2 -> libs/z-1.3",)
