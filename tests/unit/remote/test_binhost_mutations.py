"""Random changes to what a binhost serves, really signed: none is accepted. 2 000 are the whole."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildit.digest import digest_bytes
from buildit.errors import BuilditError, FetchError, IntegrityError
from buildit.model.artifact import RUNTIME, Artifact
from buildit.remote.binhost.binhost import compress
from buildit.store.artifacts import commit, lookup, statement_paths
from buildit.store.cas import Store
from buildit.store.upkeep import check_store
from buildit.trust.signers import AllowedSigner, verify_signature
from buildit.trust.ssh import NAMESPACE, builder_name, sign, signing_key
from tests.hosts import FileBinhost
from tests.scale import WHOLE
from tests.unit.store.build import add_artifact

pytestmark = pytest.mark.unit
COUNT = 2000 if WHOLE else 250
NOW = 1_800_000_000


class World:
    """A binhost with two signed artifacts, and a policy that believes one key."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.key = signing_key(_key_file(root / "key"), None)
        self.builder = builder_name(self.key.public)
        self.allowed = (AllowedSigner("me", self.key.public),)
        self.host = FileBinhost(root / "host", self.accept)
        self.artifacts: list[Artifact] = []
        with Store.open(root / "first") as store:
            for name in ("nginx", "zlib"):
                artifact = add_artifact(store, name, f"a layer of {name}\n".encode() * 3000)
                packed, files = compress(artifact, store, store.scratch(name))
                for path in files.values():
                    store.put_bytes(path.read_bytes())
                commit(store, packed, self.builder, self.sign)
                self.host.push(packed.key, store)
                self.artifacts.append(packed)
        self.files = sorted(p for p in self.host.root.rglob("*") if p.is_file() and _matters(p))
        self.good = {path: path.read_bytes() for path in self.files}
        for path in self.files:
            path.chmod(0o644)

    def sign(self, content: bytes) -> bytes:
        return sign(content, self.key).encode()

    def accept(self, content: bytes, signature: bytes | None, builder: str) -> None:
        if signature is None:
            raise IntegrityError("not signed")
        text = signature.decode("ascii", "replace")
        signer = verify_signature(content, text, self.allowed, NAMESPACE, NOW)
        if builder_name(signer.public) != builder:
            raise IntegrityError("another key")

    def owner(self, path: Path) -> Artifact:
        """The artifact that a file is of."""

        def names(artifact: Artifact) -> set[str]:
            output = artifact.outputs[RUNTIME]
            forms = {form.digest for form in output.encodings}
            return {artifact.key, artifact.record, output.diff_id, output.contents, *forms}

        return next(one for one in self.artifacts if names(one) & set(path.parts))

    def restore(self) -> None:
        for path, content in self.good.items():
            path.write_bytes(content)


def _matters(path: Path) -> bool:
    """Statements, signatures, and blobs other than logs and sources, which nobody need take."""
    if "/k/" in str(path):
        return True
    return "/blobs/" in str(path) and not path.read_bytes().startswith((b"log of", b"source of"))


def _key_file(path: Path) -> Path:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    path.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)
    return path


Change = Callable[[bytes, random.Random, World], bytes]


def flip_bit(data: bytes, rng: random.Random, _: World) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def cut(data: bytes, rng: random.Random, _: World) -> bytes:
    return data[: rng.randrange(len(data))]


def lengthen(data: bytes, rng: random.Random, _: World) -> bytes:
    return data + rng.randbytes(rng.randint(1, 5000))


def drop(data: bytes, rng: random.Random, _: World) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 40) :]


def repeat(data: bytes, rng: random.Random, _: World) -> bytes:
    at, size = rng.randrange(len(data)), rng.randint(1, 40)
    return data[:at] + data[at : at + size] * 2 + data[at + size :]


def digits(data: bytes, rng: random.Random, _: World) -> bytes:
    """Another hex digit or number somewhere: still JSON, still well formed."""
    places = [at for at, byte in enumerate(data) if chr(byte) in "0123456789abcdef"]
    at = rng.choice(places) if places else 0
    return data[:at] + rng.choice(b"0123456789abcdef").to_bytes() + data[at + 1 :]


def another(_: bytes, rng: random.Random, world: World) -> bytes:
    """The bytes of another object of the same binhost."""
    return world.good[rng.choice(world.files)]


def noise(data: bytes, rng: random.Random, _: World) -> bytes:
    return rng.randbytes(len(data))


CHANGES: tuple[Change, ...] = (flip_bit, cut, lengthen, drop, repeat, digits, another, noise)


@pytest.fixture(scope="module")
def world(place: Path) -> World:
    return World(place / "world")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """In memory where that is possible: every accepted pull syncs."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path_factory.mktemp("mutations")
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="buildit-mutations-") as name:
        yield Path(name)


def test_the_world_is_sound(world: World, tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        for artifact in world.artifacts:
            assert artifact.outputs[RUNTIME].encodings
            assert world.host.pull(artifact.key, store) == artifact


@pytest.mark.scale
def test_no_change_is_accepted(world: World, place: Path) -> None:
    rng = random.Random(20261121)
    done = refused = 0
    with Store.open(place / "store") as store:
        while done < COUNT:
            path = rng.choice(world.files)
            data = rng.choice(CHANGES)(world.good[path], rng, world)
            if data == world.good[path]:
                continue
            done += 1
            path.write_bytes(data)
            artifact = world.owner(path)
            try:
                taken = world.host.pull(artifact.key, store)
            except (IntegrityError, FetchError):
                refused += 1
                assert lookup(store, artifact.key) is None, (path, data)
            else:
                # What was changed is the plain form, which was not needed.
                assert taken == artifact, (path, data)
                for output in artifact.outputs.values():
                    assert digest_bytes(store.read(output.diff_id)) == output.diff_id
                forget(store)
            path.write_bytes(world.good[path])
        assert check_store(store).faults == ()
    assert refused > COUNT * 0.7


def forget(store: Store) -> None:
    """Make the store as it was."""
    for path in (*store.blobs.iterdir(), *(p for p in (store.root / "k").rglob("*.*"))):
        path.unlink()


def test_files_under_each_others_names(world: World, tmp_path: Path) -> None:
    """Whole statements swapped with their signatures: right bytes, wrong place."""
    one, two = (statement_paths(world.host.root, a.key)[0] for a in world.artifacts)
    for suffix in ("", ".sig"):
        first, second = Path(f"{one}{suffix}"), Path(f"{two}{suffix}")
        first.write_bytes(world.good[second])
        second.write_bytes(world.good[first])
    try:
        with Store.open(tmp_path / "store") as store:
            for artifact in world.artifacts:
                with pytest.raises(BuilditError, match="speaks of key"):
                    world.host.pull(artifact.key, store)
    finally:
        world.restore()
