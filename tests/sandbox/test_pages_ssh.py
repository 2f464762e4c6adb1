"""Pages written over SSH by several publishers at once: in the end they show what all published."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from buildit.digest import BuildKey, digest_bytes
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.remote.binhost.binhost import Push
from buildit.remote.binhost.ssh import SshRemote
from buildit.remote.sftp.login import SftpTransport
from buildit.remote.transport import ssh_address
from buildit.site.catalogue import PAGE, Site
from buildit.site.pages import refresh_pages
from buildit.store.artifacts import commit
from buildit.store.cas import Store
from buildit.store.names import ContainerEntry, PackageEntry, index_bytes, index_of
from tests.hosts import directory
from tests.servers import Sshd, sshd

pytestmark = pytest.mark.sandbox

PUBLISHERS = 3
CONTAINERS = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("pages-sshd")) as started:
        yield started


@contextmanager
def publisher(server: Sshd, far: Path, store: Store, number: int) -> Iterator[SshRemote]:
    transport = SftpTransport()
    try:
        account = ssh_address(server.url(far))
        made = SshRemote(account, transport, f"{number:016x}")
        made.prepare()
        yield made
    finally:
        transport.close()


def build(store: Store, name: str, builder: str) -> Artifact:
    record = store.put_bytes(b"{}")
    layer = store.put_bytes(name.encode())
    output = Output(layer, len(name), record)
    key = BuildKey(digest_bytes(name.encode()))
    made = Artifact(key, name, "1.0", "linux/amd64", {RUNTIME: output}, record)
    commit(store, made, builder, lambda _: b"signature")
    return made


@dataclass
class Slow:
    """A publisher that has looked, and writes its first page only when the others are done."""

    way: SshRemote
    looked: threading.Event
    go_on: threading.Event

    def __getattr__(self, name: str) -> Any:
        return getattr(self.way, name)

    def write(self, path: str, content: bytes | Path) -> None:
        if path == PAGE and not self.looked.is_set():
            self.looked.set()
            assert self.go_on.wait(60)
        self.way.write(path, content)


def publish(server: Sshd, far: Path, root: Path, number: int) -> None:
    """One after the other, as `buildit push` does: builds, the entry, then the pages."""
    builder = f"{number:064x}"
    site = Site(f"called {number}", "https://h.example/b")
    with Store.open(root / "store") as store, publisher(server, far, store, number) as way:
        shared = build(store, "libs/shared", builder)
        for count in range(CONTAINERS):
            own = build(store, f"app/p{number}-{count}", builder)
            push = Push(store, way, lambda _content, _signature, _builder: None)
            push((shared.key, own.key))
            packages = tuple(PackageEntry(one.key, one.name, "1.0") for one in (shared, own))
            entry = ContainerEntry(f"box{number}-{count}", "1", "linux", "amd64", "Me", packages)
            way.write(f"containers/{entry.name}/{entry.title}.card.json", index_bytes(entry))
            refresh_pages(way, site, (shared.name, own.name))


@pytest.fixture
def far(tmp_path: Path, server: Sshd, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUILDIT_SSH", server.program)
    directory(tmp_path / "far").missing({})
    return tmp_path / "far"


def test_publishers_at_once_leave_pages_that_show_everything(
    server: Sshd, far: Path, tmp_path: Path
) -> None:
    failed: list[Exception] = []

    def work(number: int) -> None:
        try:
            publish(server, far, tmp_path / str(number), number)
        except Exception as error:  # noqa: BLE001 - told by the test itself
            failed.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(PUBLISHERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    root = (far / PAGE).read_text()
    assert f"{PUBLISHERS * CONTAINERS} containers, {PUBLISHERS * CONTAINERS + 1} packages" in root
    listed = (far / "containers/index.html").read_text()
    shared = (far / "n/libs/shared/index.html").read_text()
    index = index_of((far / "n/libs/shared/index.json").read_bytes(), "libs/shared")
    assert index is not None
    assert len(index.builds[0].inside) == PUBLISHERS * CONTAINERS
    for number in range(PUBLISHERS):
        assert f"{number:064x}.json" in shared
        assert f"{number:064x}" in index.builders_of(index.keys[0])
        for count in range(CONTAINERS):
            assert f'href="box{number}-{count}/"' in listed
            assert (far / f"n/app/p{number}-{count}/index.html").exists()
    assert list((far / "tmp").iterdir()) == [], "nothing half-written stays"
    # Whoever looks after it finds nothing to mend, but what the title was settled as in the race.
    near = directory(far)
    refresh_pages(near, Site("x"))
    assert refresh_pages(near, Site("x")) == 0
    near.close()


def test_who_looked_before_the_others_and_writes_after_them(
    server: Sshd, far: Path, tmp_path: Path
) -> None:
    """The pages of the slow one lack what the others published: it is the last to write, and so
    it must look again."""
    looked, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        (tmp_path / "slow").mkdir()
        with Store.open(tmp_path / "slow/store") as store, publisher(server, far, store, 9) as way:
            refresh_pages(Slow(way, looked, go_on), Site("slow"))

    slow = threading.Thread(target=slowly)
    slow.start()
    assert looked.wait(60)
    publish(server, far, tmp_path / "quick", 1)
    assert f"{CONTAINERS} containers" in (far / PAGE).read_text()
    go_on.set()
    slow.join()
    assert f"{CONTAINERS} containers" in (far / PAGE).read_text()
