"""Pages made from what lies in a binhost that is a directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildit.archive.contents import contents_blob
from buildit.digest import BuildKey, Digest, digest_bytes
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.model.card import Card, CardImage, CardPackage, card_bytes
from buildit.model.image import Emission
from buildit.model.plan import ContainerPlan, Node, PackageStep, Toolchain
from buildit.model.tree import Entry, Kind
from buildit.net.publishing import FilePublisher
from buildit.pipeline.cards import card, libraries
from buildit.pipeline.pages import refresh, site_of
from buildit.pipeline.settings import Repository
from buildit.store.artifacts import commit
from buildit.store.cas import Store
from buildit.store.page import Site

pytestmark = pytest.mark.unit

FILE = Digest("5" * 64)
SITE = Site("mine", "https://h.example/b")


def artifact(store: Store, name: str, version: str = "1.0", needs: str = "") -> Artifact:
    entries = [
        Entry(path="usr/lib/libx.so.1.2", kind=Kind.FILE, mode=0o755, digest=FILE),
        Entry(path="usr/lib/libx.so.1", kind=Kind.SYMLINK, mode=0o777, target="libx.so.1.2"),
        Entry(path="usr/share/libx.so.txt", kind=Kind.FILE, mode=0o644, digest=FILE),
    ]
    layer = f"{name} {version}".encode()
    output = Output(
        store.put_bytes(layer),
        len(layer),
        store.put_bytes(contents_blob(entries)),
        ("soname:liby.so",) if needs else (),
        {"soname:liby.so": f"{key(needs)}:{RUNTIME}"} if needs else {},
    )
    record = store.put_bytes(b"{}")
    return Artifact(key(name, version), name, version, "linux/amd64", {RUNTIME: output}, record)


def key(name: str, version: str = "1.0") -> BuildKey:
    return BuildKey(digest_bytes(f"{name} {version}".encode()))


class DirectoryShelf(FilePublisher):
    """A binhost that is a directory, and where that is."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.root = root


@pytest.fixture
def shelf(store: Store) -> DirectoryShelf:
    for version in ("1.9", "1.10"):
        made = artifact(store, "libs/greet", version)
        commit(store, made, "ab" * 32, lambda _: b"signature")
    commit(store, artifact(store, "libs/greet", "1.9"), "cd" * 32, lambda _: b"signature")
    return DirectoryShelf(store.root)


def put_card(shelf: DirectoryShelf, directory: str, version: str) -> None:
    greet = CardPackage(key("libs/greet", "1.10"), "libs/greet", "1.10", ("loud",), ("p.patch",))
    file = f"box-{version}-linux-amd64.aci"
    made = Card("box", version, "linux", "amd64", "Me", (greet,), (CardImage(file, "aci", 1, "x"),))
    target = shelf.root / "containers" / directory
    (target / f"box-{version}-linux-amd64").mkdir(parents=True)
    (target / file).write_bytes(b"aci")
    (target / f"box-{version}-linux-amd64.card.json").write_bytes(card_bytes(made))
    (target / f"box-{version}-linux-amd64.json").write_bytes(b'{"files": {}}')


def text(shelf: DirectoryShelf, path: str) -> str:
    return (shelf.root / path / "index.html").read_text()


def test_pages_of_all_directories(shelf: DirectoryShelf, tmp_path: Path) -> None:
    put_card(shelf, "box", "2")
    put_card(shelf, "box", "10")
    put_card(shelf, "h.example/deep", "1")
    assert refresh(shelf, SITE, tmp_path) == 5
    assert "2 containers, 1 package" in text(shelf, "")
    assert "containers/box/" in text(shelf, "")
    box = text(shelf, "containers/box")
    assert box.index("10 for linux/amd64") < box.index("2 for linux/amd64"), "the newest first"
    assert "libs/greet" in text(shelf, "containers/h.example/deep")
    greet = text(shelf, "n/libs/greet")
    assert greet.index(">1.10<") < greet.index(">1.9<")
    assert "loud" in greet, "what cards say of a key stands on the page of its package"
    assert "p.patch" in greet
    assert "abababababab" in greet
    assert "cdcdcdcdcdcd" in greet
    assert (shelf.root / "index.html").stat().st_mode & 0o777 == 0o644


def test_nothing_is_written_where_nothing_changes(shelf: DirectoryShelf, tmp_path: Path) -> None:
    refresh(shelf, SITE, tmp_path)
    before = (shelf.root / "index.html").stat()
    assert refresh(shelf, SITE, tmp_path) == 0
    assert (shelf.root / "index.html").stat().st_ino == before.st_ino
    (shelf.root / "index.html").unlink()
    assert refresh(shelf, SITE, tmp_path) == 1


def test_only_named_packages_pages_are_made(shelf: DirectoryShelf, tmp_path: Path) -> None:
    refresh(shelf, SITE, tmp_path, packages=("other/name",))
    assert not (shelf.root / "n/libs/greet/index.html").exists()
    assert "libs/greet" in text(shelf, "")


def test_what_is_malformed_is_left_out(shelf: DirectoryShelf, tmp_path: Path) -> None:
    directory = shelf.root / "n/libs/greet"
    (directory / f"{'1' * 64}.json").write_bytes(b"not json")
    (directory / f"{'2' * 64}.json").write_bytes(b'{"key":"x","name":"libs/greet","version":"6"}')
    (directory / f"{'3' * 64}.json").write_bytes(b"x" * (1 << 19))
    statement = next((shelf.root / "k").glob("*/*/*.json"))
    statement.write_bytes(b"garbled")
    put_card(shelf, "box", "1")
    bad = shelf.root / "containers/box/bad.card.json"
    bad.write_bytes(b"{}")
    refresh(shelf, SITE, tmp_path)
    assert ">6<" not in text(shelf, "")
    assert "1 container" in text(shelf, "")


def test_public_keys_are_discovered_where_they_lie(shelf: DirectoryShelf, tmp_path: Path) -> None:
    refresh(shelf, SITE, tmp_path)
    assert "pubkeys" not in text(shelf, "")
    (shelf.root / "pubkeys.asc").write_bytes(b"key")
    refresh(shelf, SITE, tmp_path)
    assert "https://h.example/b/pubkeys.asc" in text(shelf, "")


def test_the_address_is_that_of_the_web_server() -> None:
    web = Repository("mine", "https://h.example:8443/b/", "ssh://me@h.example/b", unsigned=False)
    assert site_of(web) == Site("mine", "https://h.example:8443/b")
    assert site_of(web).prefix == "h.example/b"
    assert site_of(Repository("here", "/srv/b", "/srv/b", unsigned=False)) == Site("here")


def test_the_card_of_a_container_that_was_built(store: Store, tmp_path: Path) -> None:
    greet, hello = artifact(store, "libs/greet"), artifact(store, "app/hello", needs="libs/greet")
    for one in (greet, hello):
        commit(store, one)
    nodes = (
        Node(greet.key, greet.name, "1.0", "", "", "linux/amd64"),
        Node(hello.key, hello.name, "1.0", "", "", "linux/amd64", patch_names=("p.patch",)),
        Node(key("dev-lang/perl"), "dev-lang/perl", "5.36", "", "", "linux/amd64"),
    )
    plan = ContainerPlan(
        "/box", "Me", "box", "1", "linux", "amd64",
        Toolchain("t", "linux/amd64", Digest("0" * 64), ()),
        nodes, (PackageStep(hello.key, "./pkgs/hello"),), (), None,
    )  # fmt: skip
    aci, oci = tmp_path / "box.aci", tmp_path / "box.oci"
    aci.write_bytes(b"12345")
    oci.mkdir()
    (oci / "oci-layout").write_bytes(b"123")
    emissions = (
        Emission(aci, "aci", Digest("9" * 64), "i"),
        Emission(oci, "oci", Digest("8" * 64), "i"),
    )
    made = card(plan, plan.node, store, emissions, {"app/hello": ("loud",)})
    assert [(p.name, p.inside, p.libraries) for p in made.packages] == [
        ("libs/greet", True, ("libx.so.1.2",)),
        ("app/hello", True, ("libx.so.1.2",)),
        ("dev-lang/perl", False, ()),
    ]
    assert made.packages[1].flags == ("loud",)
    assert made.packages[1].patches == ("p.patch",)
    assert made.images == (
        CardImage("box.aci", "aci", 5, "9" * 64),
        CardImage("box.oci", "oci", 3, ""),
    )
    assert libraries(contents_blob([])) == ()
