"""P15: an image of many layers, pushed to a registry and pulled from it, against skopeo."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.room import Room, clear
from bench.tables import Table, Verdict, ahead, rows
from bench.timing import BenchError, Sample, Side, interleaved, process
from buildit.archive.tar.write import TarWriter
from buildit.digest import canonical, digest_bytes, oci_digest
from buildit.image.formats.oci import CONFIG_TYPE, INDEX_TYPE, LAYER_TYPE, LAYOUT, MANIFEST_TYPE
from buildit.model.tree import Entry, Kind
from tests.registries import Served, registry

LAYERS, LAYER = 80, 3_750_000
"""How many layers, and the bytes of the one file in each: nothing that shrinks."""


def measure(room: Room, rounds: int) -> Table:
    """P15: a new registry for each push, a new store and directory for each pull."""
    if shutil.which("skopeo") is None or shutil.which("docker-registry") is None:
        raise BenchError("skopeo or docker-registry is not installed: apt install them")
    image = _image(room.root / "registries")
    found: dict[str, list[Sample]] = {}
    place = _Place(room, image)
    try:
        found |= interleaved(place.sides("push", place.served_anew), rounds)
        place.served_anew()
        place.push_ours()
        found |= interleaved(place.sides("pull", place.emptied), rounds)
    finally:
        place.close()
    verdicts: list[Verdict] = []
    for what in ("push", "pull"):
        ours, theirs = f"buildit, {what}", f"skopeo, {what}"
        value = ahead(found, ours, theirs).value
        told = f"{ours}: speed, of that of {theirs}"
        verdicts.append(Verdict(told, value, "x", 0.9, at_least=True))
    remark = (
        f"docker-registry with TLS and a password on loopback; {LAYERS} plain layers of "
        f"{LAYER / 1e6:.2f} MB of noise. Each push goes to a new, empty registry; "
        "each pull writes a layout."
    )
    return Table("P15", "an image to and from a registry", rows(found), tuple(verdicts), (remark,))


@dataclass(slots=True)
class _Place:
    """What both sides work with."""

    room: Room
    image: Path
    served: Served | None = None
    _open: ExitStack = field(default_factory=ExitStack)

    @property
    def root(self) -> Path:
        return self.image.parent

    def sides(self, what: str, before: Callable[[], None]) -> tuple[Side, ...]:
        ours = self.push_ours if what == "push" else self.pull_ours
        theirs = self.push_theirs if what == "push" else self.pull_theirs
        named = ((f"buildit, {what}", ours), (f"skopeo, {what}", theirs))
        return tuple(Side(name, run, before) for name, run in named)

    def close(self) -> None:
        self._open.close()
        clear(self.root / "registry", self.root / "out", self.root / "store")

    def served_anew(self) -> None:
        """A registry that has nothing; skopeo remembers what lies where by host and port."""
        self.close()
        os.sync()
        self.served = self._open.enter_context(registry(self.root / "registry"))
        self.emptied()

    def emptied(self) -> None:
        assert self.served is not None
        assert self.served.certificates is not None
        clear(self.root / "out", self.root / "store")
        (self.root / "ca").mkdir(exist_ok=True)
        shutil.copy(self.served.certificates.authority, self.root / "ca/ca.crt")
        self.served.authentication(self.root)
        os.sync()

    def push_ours(self) -> Sample:
        return self._ours("push", str(self.image), f"oci://{self._name}")

    def pull_ours(self) -> Sample:
        return self._ours("pull", f"oci://{self._name}", "--output", str(self.root / "out"))

    def push_theirs(self) -> Sample:
        return self._theirs("--dest-cert-dir", f"oci:{self.image}:1", f"docker://{self._name}")

    def pull_theirs(self) -> Sample:
        return self._theirs("--src-cert-dir", f"docker://{self._name}", f"oci:{self.root}/out:1")

    @property
    def _name(self) -> str:
        assert self.served is not None
        return f"{self.served.host}/bench/image:1"

    def _ours(self, *words: str) -> Sample:
        known = {
            **self.room.environment(),
            "BUILDIT_STORE": f"{self.root}/store",
            "REGISTRY_AUTH_FILE": f"{self.root}/auth.json",
            "REQUESTS_CA_BUNDLE": f"{self.root}/ca/ca.crt",
        }
        argv = [*self.room.program, *words]
        return process(argv, cwd=self.root, log=self.room.log("registries.log"), env=known)

    def _theirs(self, certificates: str, *words: str) -> Sample:
        argv = ["skopeo", "copy", "--quiet", "--insecure-policy", "--preserve-digests"]
        argv += [certificates, f"{self.root}/ca", "--authfile", f"{self.root}/auth.json", *words]
        return process(argv, cwd=self.root, log=self.room.log("skopeo.log"))


def _image(place: Path) -> Path:
    """An OCI layout of layers of noise, made once."""
    layout = place / "image.oci"
    if (layout / "index.json").exists():
        return layout
    clear(place)
    place.mkdir(parents=True)
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)

    def kept(content: bytes, media_type: str) -> dict[str, object]:
        digest = digest_bytes(content)
        (blobs / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": oci_digest(digest), "size": len(content)}

    layers = [kept(_layer(place / "layer", number), LAYER_TYPE) for number in range(LAYERS)]
    diff_ids = [one["digest"] for one in layers]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": kept(canonical(config), CONFIG_TYPE),
        "layers": layers,
    }
    named = {"annotations": {"org.opencontainers.image.ref.name": "1"}}
    entry = {**kept(canonical(manifest), MANIFEST_TYPE), **named}
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]}
    (layout / "oci-layout").write_bytes(canonical(LAYOUT))
    (layout / "index.json").write_bytes(canonical(index))
    return layout


def _layer(path: Path, number: int) -> bytes:
    with path.open("wb") as stream:
        tar = TarWriter(stream)
        entry = Entry(f"file{number}", Kind.FILE, 0o644, size=LAYER)
        tar.add_file(entry, io.BytesIO(os.urandom(LAYER)))
        tar.finish()
    return path.read_bytes()
