"""What every remote must do, whatever it is: run for one in memory, a directory, a web server, a
directory behind SSH and a registry. A web server takes nothing: what it serves is put there as into
a directory. A registry has statements and blobs, and no other files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import pytest

from buildit.digest import Digest, digest_bytes
from buildit.errors import FetchError, IntegrityError
from buildit.model.artifact import RUNTIME, Artifact
from buildit.model.config import Https, Oci
from buildit.remote.binhost.binhost import CODEC, Binhost, Push, Pushed, needed
from buildit.remote.binhost.protocols import (
    MEMBER_LIMIT,
    PACK,
    PACK_LIMIT,
    Outgoing,
    Remote,
    SignedStatement,
    WantedBlob,
    pack_of,
    unheard,
)
from buildit.store.artifacts import commit, lookup
from buildit.store.attest import SIZE_LIMIT, statement_bytes
from buildit.store.cas import Store
from buildit.store.upkeep import check_store
from buildit.trust.signers import Signer
from tests.hosts import BUILDER, accept, sign
from tests.unit.store.build import add_artifact


@dataclass(frozen=True)
class There:
    """One place: `remote` publishes to it, `reader` takes from it; `lay` puts bytes there as no
    publisher would, and `drop` takes a file away. `asked` are the paths that were read."""

    remote: Remote
    reader: Remote
    lay: Callable[[str, bytes], None]
    drop: Callable[[str], None]
    asked: Callable[[], list[str]]
    tmp: Path

    @contextmanager
    def store(self, name: str) -> Iterator[Store]:
        with Store.open(self.tmp / name) as store:
            yield store

    def push(
        self, store: Store, *artifacts: Artifact, compressed: bool = False, codec: str = CODEC
    ) -> Pushed:
        signer = Signer(BUILDER, sign)
        work = Push(store, self.remote, accept, False, signer, compressed=compressed, codec=codec)
        return work([one.key for one in artifacts])

    def binhost(self) -> Binhost:
        return Binhost("there", self.reader, accept, (BUILDER,))


def made(store: Store, name: str, layer: bytes = b"") -> Artifact:
    artifact = add_artifact(store, name, layer)
    commit(store, artifact, BUILDER, sign)
    return artifact


def outgoing(content: bytes) -> Outgoing:
    return Outgoing(digest_bytes(content), len(content), lambda: BytesIO(content))


def blob(digest: Digest) -> str:
    return f"blobs/sha256/{digest}"


def blobs_come_as_they_went(there: There) -> None:
    contents = [b"", b"one", b"two" * 100_000]
    sizes = {digest_bytes(one): len(one) for one in contents}
    assert there.remote.missing(sizes) == sizes.keys()
    sent: list[tuple[int, int]] = []
    there.remote.put([outgoing(one) for one in contents], lambda *one: sent.append(one))
    assert sent[-1][0] <= sent[-1][1] == sum(sizes.values())
    assert there.remote.missing(sizes) == frozenset()
    gone = digest_bytes(b"gone")
    assert there.remote.missing({**sizes, gone: 4}) == {gone}
    with there.store("taken") as store, store.batch() as batch:
        wanted = [WantedBlob(digest, size, size) for digest, size in sizes.items()]
        wanted.append(WantedBlob(gone, None, 100, optional=True))
        assert there.reader.get(wanted, store, batch) == 3
    with there.store("taken") as store:
        assert [store.read(digest_bytes(one)) for one in contents] == contents


def a_blob_that_is_missing_is_an_error(there: There) -> None:
    gone = WantedBlob(digest_bytes(b"gone"), None, 100)
    with (
        there.store("taken") as store,
        pytest.raises(FetchError, match="not all"),
        store.batch() as batch,
    ):
        there.reader.get([gone], store, batch)


def other_bytes_are_refused_and_not_kept(there: There) -> None:
    right, other = b"right bytes", b"other bytes"
    there.remote.put([outgoing(right)], unheard)
    for wrong in (other, right[:-1], right + b"x", b""):
        there.lay(blob(digest_bytes(right)), wrong)
        with there.store("taken") as store:
            wanted = WantedBlob(digest_bytes(right), len(right), len(right))
            with pytest.raises(IntegrityError, match="wrong bytes"), store.batch() as batch:
                there.reader.get([wanted], store, batch)
            assert not store.has(digest_bytes(right))


def a_blob_of_another_size_is_missing_and_mended(there: There) -> None:
    content = b"what was cut by a power loss" * 100
    digest = digest_bytes(content)
    there.remote.put([outgoing(content)], unheard)
    there.lay(blob(digest), content[:100])
    assert there.remote.missing({digest: len(content)}) == {digest}


def what_is_larger_than_allowed_is_not_taken(there: There) -> None:
    content = b"x" * 5000
    there.remote.put([outgoing(content)], unheard)
    with there.store("taken") as store:
        wanted = WantedBlob(digest_bytes(content), None, 4000, optional=True)
        with pytest.raises(IntegrityError, match="more than the 4000"), store.batch() as batch:
            there.reader.get([wanted], store, batch)


def statements_are_found_by_key_and_name(there: There) -> None:
    with there.store("own") as store:
        artifact = made(store, "nginx")
        there.push(store, artifact)
    name = f"{BUILDER}.json"
    found = there.reader.of([(artifact.key, name), (artifact.key, "cd.json")])
    content = statement_bytes(artifact, BUILDER)
    assert found == [(content, sign(content)), None]
    assert there.remote.of([(artifact.key, name)]) == found[:1]


def a_second_statement_is_kept_beside_the_first(there: There) -> None:
    with there.store("own") as store, there.store("other") as other:
        first, second = made(store, "nginx"), made(other, "nginx", b"another layer")
        assert there.push(store, first).differs == ()
        (path,) = there.push(other, second).differs
    assert path.endswith(f"{digest_bytes(statement_bytes(second, BUILDER))}.json")
    with there.store("taken") as taken:
        assert there.binhost().pull(first.key, taken) == first


def a_signature_that_does_not_hold_is_replaced(there: There) -> None:
    with there.store("own") as store:
        artifact = made(store, "nginx")
        there.push(store, artifact)
        content = statement_bytes(artifact, BUILDER)
        beside = f"{SignedStatement(artifact, BUILDER, content, None).path}.sig"
        there.lay(beside, b"left by another")
        there.push(store, artifact)
    assert there.reader.read([beside], 1000) == [sign(content)]


def a_statement_that_is_too_large_is_refused(there: There) -> None:
    with there.store("own") as store:
        artifact = made(store, "nginx")
        there.push(store, artifact)
    path = SignedStatement(artifact, BUILDER, b"", None).path
    there.lay(path, b" " * (SIZE_LIMIT + 1))
    with there.store("taken") as taken, pytest.raises(IntegrityError):
        there.binhost().pull(artifact.key, taken)


def views_are_replaced(there: There) -> None:
    views = there.remote
    if isinstance(views.address, Oci):
        with pytest.raises(FetchError, match="a registry keeps no pages"):
            views.write("index.html", b"")
        assert there.reader.read(["index.html"], 100) == [None]
        return
    assert there.reader.read(["n/a/b/index.json"], 100) == [None]
    views.write("n/a/b/index.json", b"first")
    (there.tmp / "page").write_bytes(b"second, longer")
    views.write("n/a/b/index.json", there.tmp / "page")
    views.write("index.html", b"")
    paths = ["n/a/b/index.json", "gone", "index.html"]
    assert there.reader.read(paths, 100) == [b"second, longer", None, b""]
    assert there.reader.read(paths[:1], 13) == [None], "a larger one is none of ours"
    assert views.names(["n/a/b", "n/a", "none"]) == [("index.json",), ("b",), ()]


def a_push_is_pulled_whole(there: There) -> None:
    with there.store("own") as store, there.store("taken") as taken:
        artifacts = [made(store, name, b"a layer\n" * 5000) for name in ("nginx", "zlib")]
        codec = "gzip" if isinstance(there.remote.address, Oci) else CODEC
        done = there.push(store, *artifacts, compressed=True, codec=codec)
        assert (done.statements, done.differs) == (2, ())
        again = there.push(store, *artifacts, compressed=True, codec=codec)
        assert (again.blobs, again.statements, again.sent) == (0, 0, 0)
        for artifact in artifacts:
            found = there.binhost().pull(artifact.key, taken)
            assert found is not None
            plain = replace(found.outputs[RUNTIME], encodings=())
            assert replace(found, outputs={RUNTIME: plain}) == artifact
            assert artifact.log is not None
            assert taken.read(artifact.log).startswith(b"log of")
        assert check_store(taken).faults == ()


def the_small_blobs_come_in_one_pack(there: There) -> None:
    with there.store("own") as store, there.store("taken") as taken:
        artifact = made(store, "nginx")
        there.push(store, artifact)
        there.asked()
        assert there.binhost().pull(artifact.key, taken) == artifact
    output = artifact.outputs[RUNTIME]
    small = {artifact.record, output.contents, artifact.log}
    asked = there.asked()
    if not there.binhost().lists:
        assert any(path.endswith(PACK) for path in asked)
        assert not any(path.endswith(str(one)) for path in asked for one in small)


def a_pack_may_be_large(there: There) -> None:
    """Larger than what an SFTP server takes in one packet."""
    log = bytes(range(256)) * (MEMBER_LIMIT // 256 - 1)
    with there.store("own") as store, there.store("taken") as taken:
        artifact = replace(made(store, "nginx"), log=store.put_bytes(log))
        digests = [want.digest for want in needed(artifact)]
        there.remote.put([outgoing(store.read(one)) for one in digests], unheard)
        content = statement_bytes(artifact, BUILDER)
        pack = pack_of([log, log[::-1], store.read(artifact.record)])
        statement = SignedStatement(artifact, BUILDER, content, sign(content), pack)
        assert there.remote.add([statement]) == []
        assert there.reader.read([statement.path + PACK], PACK_LIMIT) == [pack]
        assert there.binhost().pull(artifact.key, taken) == artifact
        assert taken.has(digest_bytes(log))


def a_pack_is_never_believed(there: There) -> None:
    with there.store("own") as store:
        artifact = made(store, "nginx")
        there.push(store, artifact)
        right = store.read(artifact.record)
    pack = SignedStatement(artifact, BUILDER, b"", None).path + PACK
    head = f"{artifact.record} {len(right)}\n".encode()
    spoiled = (
        b"",
        b"\0" * 1000,
        head + right[::-1],  # other bytes under the record's name
        head[:-4] + b"9999999\n" + right,  # a member that goes on behind the end
        b"0" * 64 + b" -1\n" + right,
        pack_of([b"strange", b"other", right]),
        b"x" * (PACK_LIMIT + 1),
    )
    for number, content in enumerate(spoiled):
        there.lay(pack, content)
        with there.store(f"taken{number}") as taken:
            assert there.binhost().pull(artifact.key, taken) == artifact
            assert check_store(taken).faults == ()
            assert not taken.has(digest_bytes(b"strange")), "nothing comes that was not wanted"


def a_binhost_of_before_is_read_and_pushed_to(there: There) -> None:
    """Without packs, which pushes made none of before."""
    with there.store("own") as store, there.store("taken") as taken:
        old, new = made(store, "nginx"), made(store, "zlib")
        there.push(store, old)
        there.drop(SignedStatement(old, BUILDER, b"", None).path + PACK)
        assert there.push(store, old, new).statements == 1
        for artifact in (old, new):
            assert there.binhost().pull(artifact.key, taken) == artifact
            assert lookup(taken, artifact.key) == artifact


def what_only_reads_takes_nothing(there: There) -> None:
    if isinstance(there.reader.address, Https):
        for publish in (
            lambda: there.reader.write("index.html", b""),
            lambda: there.reader.put([outgoing(b"x")], unheard),
            lambda: there.reader.missing({}),
            lambda: there.reader.add([]),
        ):
            with pytest.raises(FetchError, match="published to a web server"):
                publish()


CONTRACT: tuple[Callable[[There], None], ...] = (
    blobs_come_as_they_went,
    a_blob_that_is_missing_is_an_error,
    other_bytes_are_refused_and_not_kept,
    a_blob_of_another_size_is_missing_and_mended,
    what_is_larger_than_allowed_is_not_taken,
    statements_are_found_by_key_and_name,
    a_second_statement_is_kept_beside_the_first,
    a_signature_that_does_not_hold_is_replaced,
    a_statement_that_is_too_large_is_refused,
    views_are_replaced,
    a_push_is_pulled_whole,
    the_small_blobs_come_in_one_pack,
    a_pack_may_be_large,
    a_pack_is_never_believed,
    a_binhost_of_before_is_read_and_pushed_to,
    what_only_reads_takes_nothing,
)


def on_disk(remote: Remote, reader: Remote, root: Path, tmp: Path) -> There:
    """A place whose files are below `root` of this machine."""

    def lay(path: str, content: bytes) -> None:
        (root / path).unlink(missing_ok=True)
        (root / path).write_bytes(content)
        (root / path).chmod(0o644)

    asked: list[str] = []
    return There(remote, reader, lay, lambda path: (root / path).unlink(), lambda: asked, tmp)
