"""What is fetched before a build: from `distfiles/`, without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildit.commands.fetching import InputFetcher
from buildit.commands.run import opened_run
from buildit.digest import BuildKey, Digest, digest_bytes
from buildit.errors import FetchError, IntegrityError
from buildit.events import silent
from buildit.model.config import Config
from buildit.model.plan import DebRef, Inputs, Task, Toolchain
from buildit.model.sources import PatchRef, Signature, SourceRef
from buildit.store.cas import Store

pytestmark = pytest.mark.unit

KEY = BuildKey("1" * 64)


def deb(directory: Path, name: str) -> DebRef:
    """A .deb that lies in distfiles/."""
    content = f"the bytes of {name}".encode()
    (directory / f"{name}_1_amd64.deb").write_bytes(content)
    path = f"pool/{name}_1_amd64.deb"
    return DebRef(name, "1", "amd64", "bookworm", path, len(content), digest_bytes(content))


@pytest.fixture
def distfiles(tmp_path: Path) -> Path:
    made = tmp_path / "distfiles"
    made.mkdir()
    return made


@pytest.fixture
def toolchain(distfiles: Path) -> Toolchain:
    debs = (deb(distfiles, "gcc"), deb(distfiles, "libc6"))
    return Toolchain("toolchain/x", "linux/amd64", Digest("7" * 64), debs)


def fetching(store: Store, distfiles: Path) -> InputFetcher:
    settings = Config(
        store.root,
        1,
        mirrors={"debian": ("https://example.org/debian",)},
        distfiles=(str(distfiles),),
    )
    with opened_run(settings, store, silent, offline=True) as run:
        return InputFetcher(store, run.downloads)


def brought(store: Store, *debs: DebRef) -> list[str]:
    return [one.name for one in debs if store.has(one.digest)]


def test_unpacking_a_deb_brings_the_toolchain_that_it_is_compared_with(
    store: Store, distfiles: Path, toolchain: Toolchain
) -> None:
    m4 = deb(distfiles, "m4")
    fetching(store, distfiles).bring(
        (Task(KEY, "debian", "debian:m4", "1", "{}", inputs=Inputs(debs=(m4,))),), toolchain
    )
    assert brought(store, m4, *toolchain.debs) == ["m4", "gcc", "libc6"]


def test_a_build_beside_a_deb_brings_the_deb_where_the_toolchain_is_there(
    store: Store, distfiles: Path, toolchain: Toolchain
) -> None:
    store.named_tree(toolchain.identity, lambda tree: (tree / "usr").mkdir())
    m4, sigsegv = deb(distfiles, "m4"), deb(distfiles, "libsigsegv2")
    nodes = (
        Task(KEY, "debian", "debian:m4", "1", "{}", inputs=Inputs(debs=(m4, sigsegv))),
        Task(BuildKey("2" * 64), "package", "x/app", "1", "{}"),
    )
    fetching(store, distfiles).bring(nodes, toolchain)
    assert brought(store, m4, sigsegv, *toolchain.debs) == ["m4", "libsigsegv2"]


def test_a_toolchain_that_was_not_filled_to_its_end_is_fetched_again(
    store: Store, distfiles: Path, toolchain: Toolchain
) -> None:
    (store.root / "trees" / toolchain.identity).mkdir(parents=True)
    fetching(store, distfiles).bring((Task(KEY, "package", "x/app", "1", "{}"),), toolchain)
    assert brought(store, *toolchain.debs) == ["gcc", "libc6"]


def test_a_deb_that_is_nowhere_names_the_next_step(
    store: Store, distfiles: Path, toolchain: Toolchain
) -> None:
    (distfiles / "gcc_1_amd64.deb").unlink()
    with pytest.raises(FetchError, match=r"gcc_1_amd64\.deb is gone from every mirror") as caught:
        fetching(store, distfiles).bring((Task(KEY, "package", "x/app", "1", "{}"),), toolchain)
    assert "buildit lock --update toolchain" in (caught.value.hint or "")


def test_a_source_comes_from_distfiles_by_name_or_digest(
    store: Store, distfiles: Path, toolchain: Toolchain
) -> None:
    digest = digest_bytes(b"source")
    (distfiles / digest).write_bytes(b"source")
    source = SourceRef("app.tgz", digest, ("https://example.org/app.tgz",))
    node = Task(KEY, "package", "x/app", "1", "{}", inputs=Inputs(sources=(source,)))
    fetching(store, distfiles).bring((node,), toolchain)
    assert store.has(digest)


def test_a_signature_comes_from_distfiles_too(
    store: Store, distfiles: Path, toolchain: Toolchain
) -> None:
    digest = digest_bytes(b"source")
    (distfiles / "app.tgz").write_bytes(b"source")
    (distfiles / "app.tgz.asc").write_bytes(b"no signature at all")
    signature = Signature(("https://example.org/app.tgz.asc",), (store.put_bytes(b"a key"),))
    source = SourceRef("app.tgz", digest, ("https://example.org/app.tgz",), signature)
    node = Task(KEY, "package", "x/app", "1", "{}", inputs=Inputs(sources=(source,)))
    with pytest.raises(IntegrityError, match=r"the upstream signature of app\.tgz does not hold"):
        fetching(store, distfiles).bring((node,), toolchain)


def test_a_pinned_patch_may_come_from_anywhere(
    store: Store, distfiles: Path, toolchain: Toolchain
) -> None:
    """Its canonical form proves it, so http is not refused before it is asked."""
    patch = PatchRef("http://example.org/a.patch", Digest("5" * 64), 1)
    node = Task(KEY, "package", "x/app", "1", "{}", inputs=Inputs(patches=(patch,)))
    with pytest.raises(FetchError) as caught:
        fetching(store, distfiles).bring((node,), toolchain)
    [line] = caught.value.details
    assert "digest" not in line
    assert "not asked (--offline)" in line
