"""Pages made from what lies in a binhost that is a directory."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from buildit.archive.contents import contents_blob
from buildit.digest import BuildKey, Digest, digest_bytes
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.model.config import Directory
from buildit.model.image import Emission
from buildit.model.plan import About, ContainerPlan, PackageStep, PatchAbout, Task, Toolchain
from buildit.model.tree import Entry, Kind
from buildit.remote.binhost.directory import DirectoryRemote
from buildit.remote.transport import LocalTransport
from buildit.site.catalogue import MOST_ENTRIES, PAGE, Site, container_entry, libraries
from buildit.site.pages import (
    MOST_ROUNDS,
    name_site,
    package_page,
    refresh_pages,
    site_of,
    stated_site,
)
from buildit.store.artifacts import commit
from buildit.store.attest import fingerprint
from buildit.store.cas import Store
from buildit.store.names import (
    MOST_BUILDS,
    ContainerEntry,
    ImageEntry,
    NameIndex,
    PackageEntry,
    index_bytes,
    index_of,
    named,
)
from buildit.store.upkeep import collect
from buildit.trust.ssh import builder_name, parse_public, sign, signing_key
from tests.hosts import repository

pytestmark = pytest.mark.unit

FILE = Digest("5" * 64)
HOSTILE = {
    b"bad.card.json": b"{}",
    b"box-9\xff-linux-amd64.card.json": b"{}",
    b"box-99-linux-amd64.card.json": b"[" * 9999,
    b"box-98-linux-amd64.card.json": b"\0" * 300_000,
    b"other-1-linux-amd64.card.json": index_bytes(
        ContainerEntry("box", "77", "linux", "amd64", "Me")
    ),
}
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


class Place(DirectoryRemote):
    """A binhost that is a directory, and where that is."""

    def __init__(self, root: Path) -> None:
        super().__init__(Directory(str(root)), LocalTransport())
        self.root = root


@pytest.fixture
def place(store: Store) -> Place:
    for version in ("1.9", "1.10"):
        made = artifact(store, "libs/greet", version)
        commit(store, made, "ab" * 32, lambda _: b"signature")
    commit(store, artifact(store, "libs/greet", "1.9"), "cd" * 32, lambda _: b"signature")
    return Place(store.root)


def put_entry(place: Place, directory: str, version: str) -> None:
    greet = PackageEntry(key("libs/greet", "1.10"), "libs/greet", "1.10", ("+loud",), ("p.patch",))
    file = f"box-{version}-linux-amd64.aci"
    made = ContainerEntry(
        "box", version, "linux", "amd64", "Me", (greet,), (ImageEntry(file, "aci", 1, "x"),)
    )
    target = place.root / "containers" / directory
    (target / f"box-{version}-linux-amd64").mkdir(parents=True)
    (target / file).write_bytes(b"aci")
    (target / f"box-{version}-linux-amd64.card.json").write_bytes(index_bytes(made))
    (target / f"box-{version}-linux-amd64.json").write_bytes(b'{"files": {}}')


def text(place: Place, path: str) -> str:
    return (place.root / path / "index.html").read_text()


def test_pages_of_all_directories(place: Place) -> None:
    put_entry(place, "box", "2")
    put_entry(place, "box", "10")
    put_entry(place, "h.example/deep", "1")
    refresh_pages(place, SITE)
    made = {str(path.parent.relative_to(place.root)) for path in place.root.rglob(PAGE)}
    assert made == {
        ".", "containers", "containers/box", "containers/h.example/deep", "n", "n/libs",
        "n/libs/greet",
    }  # fmt: skip
    assert "2 containers, 1 package" in text(place, "")
    assert "containers/box/" in text(place, "")
    box = text(place, "containers/box")
    assert box.index("10 for linux/amd64") < box.index("2 for linux/amd64"), "the newest first"
    assert "libs/greet" in text(place, "containers/h.example/deep")
    greet = text(place, "n/libs/greet")
    assert greet.index(">1.10 <") < greet.index(">1.9 <")
    assert "loud" in greet, "what entries say of a key stands on the page of its package"
    assert "p.patch" in greet
    for builder in ("ab" * 32, "cd" * 32):
        assert fingerprint(builder) in greet
    assert (place.root / "index.html").stat().st_mode & 0o777 == 0o644


def test_nothing_is_written_where_nothing_changes(place: Place) -> None:
    put_entry(place, "box", "2")
    refresh_pages(place, SITE)
    before = {path: path.stat().st_ino for path in place.root.rglob("*") if path.is_file()}
    assert refresh_pages(place, SITE) == 0
    assert refresh_pages(place, SITE, ("libs/greet",)) == 0
    assert {p: p.stat().st_ino for p in place.root.rglob("*") if p.is_file()} == before
    (place.root / "index.html").unlink()
    assert refresh_pages(place, SITE) == 1


def test_only_named_packages_pages_are_made(place: Place) -> None:
    refresh_pages(place, SITE, packages=("other/name",))
    assert not (place.root / "n/libs/greet/index.html").exists()
    assert "libs/greet" in text(place, "")


def test_the_title_and_the_address_stay_what_they_were(place: Place) -> None:
    """Two publishers may call one binhost by two names, and know one address of it, or none."""
    refresh_pages(place, Site("here"))
    refresh_pages(place, Site("there", "https://h.example/b"))
    assert "<title>here</title>" in text(place, "")
    assert "buildit-binhost" in text(place, ""), "an address is better than none"
    assert refresh_pages(place, Site("elsewhere", "https://other.example")) == 0
    assert name_site(place, Site("new", "https://new.example")) > 0
    assert "<title>new</title>" in text(place, "")
    assert "https://new.example" in text(place, "n/libs/greet")
    assert stated_site(place) == Site("new", "https://new.example")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{}", b"x", b"[" * 99999, b'{"format":"2","title":"a","url":""}',
        b'{"format":"1","title":"","url":""}', b'{"format":"1","title":"\\ud800","url":""}',
        b'{"format":"1","title":"a","url":"http://h.example"}',
        b'{"format":"1","title":"a","url":"https://h.example/?x"}',
        b'{"format":"1","title":"a","url":"https://me@h.example/"}',
        b'{"format":"1","title":"a","url":"https://h.example/ https://evil.example"}',
        b'{"format":"1","title":"a","url":"https://h.example:x/"}',
        b'{"format":"1","title":"a","url":"https:///b"}',
        b'{"format":"1","title":"a","url":"javascript:alert(1)"}',
    ],
)  # fmt: skip
def test_bad_titles_and_addresses_are_replaced(place: Place, content: bytes) -> None:
    (place.root / "site.json").write_bytes(content)
    assert stated_site(place) is None
    refresh_pages(place, SITE)
    assert stated_site(place) == SITE


def test_what_is_malformed_is_left_out(place: Place) -> None:
    directory = place.root / "n/libs/greet"
    (directory / f"{'1' * 64}.json").write_bytes(b"not json")
    (directory / f"{'2' * 64}.json").write_bytes(b'{"key":"x","name":"libs/greet","version":"6"}')
    (directory / f"{'3' * 64}.json").write_bytes(b"x" * (1 << 19))
    entry = {"key": "4" * 64, "name": "../../evil", "version": "6"}
    (directory / f"{'4' * 64}.json").write_text(json.dumps(entry))
    entry = {"key": "5" * 64, "name": "libs/greet", "version": "\ud800"}
    (directory / f"{'5' * 64}.json").write_text(json.dumps(entry))
    (place.root / "n/li bs/x y").mkdir(parents=True)
    (place.root / os.fsdecode(b"n/\xff")).mkdir()
    (place.root / "builders").mkdir()
    (place.root / f"builders/{'a' * 64}.pub").write_bytes(b"ssh-ed25519 AAAA")
    statement = next((place.root / "k").glob("*/*/*.json"))
    statement.write_bytes(b"garbled")
    put_entry(place, "box", "1")
    for name, content in HOSTILE.items():
        path = place.root / "containers/box" / os.fsdecode(name)
        path.write_bytes(content)
    refresh_pages(place, SITE)
    assert ">6<" not in text(place, "")
    assert "evil" not in text(place, "")
    assert "1 container, 1 package, 0 builders" in text(place, "")
    assert refresh_pages(place, SITE) == 0


def test_a_list_of_files_holds_names_only(place: Place) -> None:
    """What wget and sha256sum are given of a hostile list."""
    put_entry(place, "box", "1")
    where, good = "containers/box/", {"sha256": "7" * 64, "size": 1}
    names = (
        "../x", "a/../../x", "-rf", "a\nb", "$(touch x)", "`x`", "a%2e", "/etc/passwd", "a?b", "",
        "https://evil.example/", "\ud800",
    )  # fmt: skip
    files = {f"{where}{name}": good for name in names}
    files |= {f"{where}bad": {"sha256": "x", "size": 1}, "elsewhere/x": good}
    files |= {f"{where}box-1.aci": good, f"{where}box 1/é.conf": good}
    listed = json.dumps({"files": files})
    (place.root / where / "box-1-linux-amd64.json").write_text(listed)
    refresh_pages(place, SITE)
    said = (place.root / where / "box-1-linux-amd64.sha256").read_text()
    assert said == f"{'7' * 64}  box 1/é.conf\n{'7' * 64}  box-1.aci\n"


def test_what_was_said_of_a_build_outlives_its_entry(place: Place) -> None:
    """The same version of the container is published anew, with another build."""
    put_entry(place, "box", "1")
    refresh_pages(place, SITE)
    (place.root / "containers/box/box-1-linux-amd64.card.json").unlink()
    refresh_pages(place, SITE)
    greet = text(place, "n/libs/greet")
    assert "loud" in greet
    assert "p.patch" in greet
    assert "box-1-linux-amd64" not in greet, "it is inside of nothing any more"


def test_what_was_deleted_leaves_the_pages(place: Place) -> None:
    put_entry(place, "box", "1")
    refresh_pages(place, SITE)
    for path in (place.root / "n/libs/greet").glob("*.json"):
        path.unlink()
    (place.root / "containers/box/box-1-linux-amd64.card.json").unlink()
    refresh_pages(place, SITE)
    assert "0 containers, 0 packages" in text(place, "")
    assert "No build of it is here" in text(place, "n/libs/greet")
    assert "Nothing of it is here" in text(place, "containers/box")
    assert "greet" not in text(place, "n/libs")


def test_old_entries_and_builds_are_not_read(place: Place) -> None:
    for version in range(MOST_ENTRIES + 3):
        put_entry(place, "box", str(version))
    bad = place.root / "containers/box/box-1-linux-amd64.card.json"
    bad.write_bytes(b"no entry, and never read")
    refresh_pages(place, SITE)
    box = text(place, "containers/box")
    assert f"({MOST_ENTRIES + 3} versions)" in box
    assert 'href="box-1-linux-amd64.card.json"' in box
    assert "14 for linux/amd64" in box


def test_of_many_builds_the_newest_are_read(store: Store, place: Place) -> None:
    made = [f"1.{n}" for n in range(MOST_BUILDS + 7)]
    for version in made:
        one = {
            "key": key("a/b", version),
            "name": "a/b",
            "version": version,
            "platform": "linux/amd64",
        }
        path = place.root / f"n/a/b/{one['key']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(one))
    for version in (made[0], made[-1]):
        commit(store, artifact(store, "a/b", version), "ab" * 32, lambda _: b"signature")
    refresh_pages(place, SITE)
    page = text(place, "n/a/b")
    assert f'id="{key("a/b", made[-1])}"' in page
    assert f'id="{key("a/b", made[0])}"' not in page
    assert "7 older builds not shown" in page


def index(place: Place, name: str) -> NameIndex:
    found = index_of((place.root / f"n/{name}/index.json").read_bytes(), name)
    assert found is not None
    return found


def test_the_index_says_what_the_page_shows(place: Place) -> None:
    put_entry(place, "box", "1")
    refresh_pages(place, SITE)
    found = index(place, "libs/greet")
    assert [one.version for one in found.builds] == ["1.10", "1.9"]
    assert found.builders_of(key("libs/greet", "1.9")) == ("ab" * 32, "cd" * 32)
    assert found.builders_of(key("libs/greet", "1.10")) == ("ab" * 32,)
    newest = found.builds[0]
    assert newest.details is not None
    assert newest.details.flags == ("+loud",)
    assert newest.inside == (("box", "box-1-linux-amd64"),)
    assert newest.outputs[0].name == RUNTIME
    page = (place.root / "n/libs/greet/index.html").read_text()
    assert package_page(SITE, found) == page, "a page is a view of the index and of nothing else"


def test_a_binhost_of_before_gets_its_indices_from_the_statements(place: Place) -> None:
    """There are entries and pages only; what the pages say is no source."""
    refresh_pages(place, SITE)
    before = index(place, "libs/greet")
    directory = place.root / "n/libs/greet"
    (directory / "index.json").unlink()
    (directory / PAGE).write_text("lies")
    assert refresh_pages(place, SITE) == 2
    assert index(place, "libs/greet") == before
    (directory / "index.json").write_bytes(b'{"format":"1","name":"libs/greet","builds":[]}')
    assert refresh_pages(place, SITE) == 1
    assert index(place, "libs/greet") == before


def test_an_index_stays_when_the_store_is_collected(store: Store, place: Place) -> None:
    refresh_pages(place, SITE)
    collect(store, frozenset({key("libs/greet", "1.10"), key("libs/greet", "1.9")}))
    assert len(index(place, "libs/greet").keys) == 2
    assert named(store)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_a_builder_s_public_key_comes_from_what_was_signed(
    store: Store, tmp_path: Path, kind: str
) -> None:
    key_file = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(key_file)], check=True)
    signing = signing_key(key_file, None)
    builder = builder_name(signing.public)
    commit(store, artifact(store, "a/b"), builder, lambda data: sign(data, signing).encode())
    forged = "cd" * 32
    commit(store, artifact(store, "a/c"), forged, lambda data: sign(data, signing).encode())
    place = Place(store.root)
    refresh_pages(place, SITE)
    (public,) = (store.root / "builders").iterdir()
    assert public.name == f"{builder}.pub"
    assert parse_public(public.read_text()) == signing.public
    said = subprocess.run(
        ["ssh-keygen", "-lf", str(public)], check=True, capture_output=True, text=True
    ).stdout
    assert said.split()[1] in text(place, "")
    public.write_text("another key\n")
    refresh_pages(place, SITE)
    assert parse_public(public.read_text()) == signing.public


def test_public_keys_are_discovered_where_they_lie(place: Place) -> None:
    refresh_pages(place, SITE)
    assert "pubkeys" not in text(place, "")
    (place.root / "pubkeys.asc").write_bytes(b"key")
    refresh_pages(place, SITE)
    assert "https://h.example/b/pubkeys.asc" in text(place, "")


# -- two publishers at once


@dataclass
class Overtaken:
    """A publisher before whose first write another one publishes, as often as `times`."""

    place: Place
    times: int
    done: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.place, name)

    def write(self, path: str, content: bytes | Path) -> None:
        if path == PAGE and self.done < self.times:
            self.done += 1
            put_entry(self.place, f"other{self.done}", "1")
            refresh_pages(self.place, SITE)
        self.place.write(path, content)


def test_who_writes_last_looks_again(place: Place) -> None:
    """Another one publishes between our reading and our writing: ours would be the last, and lack
    the other's container."""
    slow = Overtaken(place, 2)
    refresh_pages(slow, SITE)
    assert slow.done == 2
    assert "2 containers" in text(place, "")
    assert refresh_pages(place, SITE) == 0, "all is right already"


def test_looking_again_ends(place: Place) -> None:
    endless = Overtaken(place, 10**6)
    refresh_pages(endless, SITE)
    assert endless.done == MOST_ROUNDS


def test_the_address_is_that_of_the_web_server() -> None:
    web = repository("mine", "https://h.example:8443/b/", "ssh://me@h.example/b", unsigned=False)
    assert site_of(web) == Site("mine", "https://h.example:8443/b")
    assert site_of(web).prefix == "h.example/b"
    assert site_of(repository("here", "/srv/b", "/srv/b", unsigned=False)) == Site("here")


def test_the_entry_of_a_container_that_was_built(store: Store, tmp_path: Path) -> None:
    greet, hello = artifact(store, "libs/greet"), artifact(store, "app/hello", needs="libs/greet")
    for one in (greet, hello):
        commit(store, one)
    nodes = (
        Task(greet.key, "package", greet.name, "1.0", ""),
        Task(
            hello.key,
            "package",
            hello.name,
            "1.0",
            "",
            about=About(description="What", patches=(PatchAbout("p.patch", "Why"),)),
        ),
        Task(key("dev-lang/perl"), "package", "dev-lang/perl", "5.36", ""),
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
    made = container_entry(plan, plan.task, store, emissions, {"app/hello": ("loud",)})
    assert [(p.name, p.inside, p.libraries) for p in made.packages] == [
        ("libs/greet", True, ("libx.so.1.2",)),
        ("app/hello", True, ("libx.so.1.2",)),
        ("dev-lang/perl", False, ()),
    ]
    assert made.packages[1].flags == ("loud",)
    assert made.packages[1].patches == ("p.patch",)
    assert made.packages[1].notes == ("Why",)
    assert made.packages[1].description == "What"
    assert made.images == (
        ImageEntry("box.aci", "aci", 5, "9" * 64, "i"),
        ImageEntry("box.oci", "oci", 3, "", "i"),
    )
    assert libraries(contents_blob([])) == ()
