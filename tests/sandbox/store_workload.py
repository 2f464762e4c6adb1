"""Everything that writes to a store, once; killed at any moment and run again, it ends the same.

`python store_workload.py ROOT BINHOST small|whole`
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from buildit.archive.tar.write import write_tar
from buildit.digest import BuildKey, digest_bytes
from buildit.errors import StoreError
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.model.tree import Entry, Kind
from buildit.store.artifacts import commit, lookup
from buildit.store.cas import Store
from buildit.store.names import FailedBuild, keep_failure
from buildit.store.upkeep import add_root, collect
from tests.hosts import FileBinhost

REPOSITORY = Path(__file__).parents[2]
BUILDER = "ab" * 32
CLEAR_ERROR = 7
"""Exit code for a StoreError with place and hint."""


def sign(content: bytes) -> bytes:
    return b"signed " + digest_bytes(content).encode()


def accept(content: bytes, signature: bytes | None, builder: str) -> None:
    """This test's own directory is trusted."""


def key(name: str) -> BuildKey:
    return BuildKey(digest_bytes(name.encode()))


def layer(name: str) -> bytes:
    out = io.BytesIO()
    entries = (
        Entry("usr", Kind.DIRECTORY, 0o755, 1),
        Entry(f"usr/{name}", Kind.SYMLINK, 0o777, 1, target="/usr"),
    )
    write_tar(entries, lambda _: io.BytesIO(), out)
    return out.getvalue()


def build(store: Store, name: str, text: str) -> Artifact:
    """Two blobs, or so many that they share one sync, and what an artifact needs besides."""
    with store.batch() as batch:
        content = layer(text)
        output = Output(batch.put_bytes(content), len(content), batch.put_bytes(b"contents"))
        return Artifact(
            key(name), f"test/{name}", "1", "linux/amd64", {RUNTIME: output},
            record=batch.put_bytes(f"record of {name}".encode()),
        )  # fmt: skip


def small(store: Store) -> None:
    with store.key_lock(key("nginx")):
        if lookup(store, key("nginx")) is None:
            commit(store, build(store, "nginx", "nginx"))


def whole(store: Store, binhost: Path) -> None:
    small(store)
    with store.batch() as batch:
        for number in range(18):
            batch.put_bytes(b"blob %d" % number)
    for text in ("zlib", "another"):
        commit(store, build(store, "zlib", text), BUILDER, sign)
    artifact = build(store, "nginx", "nginx")
    store.tree(artifact.outputs[RUNTIME].diff_id)
    store.named_tree("merged", lambda path: (path / "usr").mkdir())
    failure = store.scratch("build")
    (failure / "log").write_text("failed")
    keep_failure(store, FailedBuild(key("x"), "x", "1", "compile", "1", failure / "log", failure))
    FileBinhost(binhost, accept, unsigned=True).push(key("nginx"), store)
    add_root(store, store.root, [key("nginx"), key("zlib"), key("x"), "merged"])
    store.set_aside(store.put_bytes(b"corrupt"))
    store.put_bytes(b"garbage")


def run(root: Path, binhost: Path) -> None:
    """The whole of it, then the collection of what it left, as two processes would."""
    with Store.open(root) as store:
        whole(store, binhost)
    with Store.open(root) as store:
        collect(store, [*artifacts_kept(), artifact_tree(store)])


def artifacts_kept() -> list[str]:
    return [key("nginx"), key("zlib")]


def artifact_tree(store: Store) -> str:
    found = lookup(store, key("nginx"))
    return "" if found is None else found.outputs[RUNTIME].diff_id


if __name__ == "__main__":
    try:
        if sys.argv[3] == "small":
            with Store.open(Path(sys.argv[1])) as opened:
                small(opened)
        else:
            run(Path(sys.argv[1]), Path(sys.argv[2]))
    except StoreError as failure:
        sys.exit(CLEAR_ERROR if failure.place and failure.hint else 1)
