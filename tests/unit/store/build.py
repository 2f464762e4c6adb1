"""Stores and artifacts for these tests."""

from __future__ import annotations

from pathlib import Path

from buildit.digest import BuildKey, digest_bytes
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.store.cas import Store


def key(name: str) -> BuildKey:
    return BuildKey(digest_bytes(f"key of {name}".encode()))


def add_artifact(store: Store, name: str, layer: bytes = b"", text: str = "") -> Artifact:
    """An artifact whose blobs are in the store; not committed."""
    content = layer or f"layer of {name}".encode()
    with store.batch() as batch:
        output = Output(
            diff_id=batch.put_bytes(content),
            size=len(content),
            contents=batch.put_bytes(f"contents of {name}".encode()),
            needs=("interp:/lib64/ld-linux-x86-64.so.2", "soname:libz.so.1"),
        )
        return Artifact(
            key=key(name),
            name=name,
            version="1.22.1",
            platform="linux/amd64",
            outputs={RUNTIME: output},
            record=batch.put_bytes(f"record of {name}".encode()),
            log=batch.put_bytes(f"log of {name} {text}".encode()),
            materials=((f"{name}.tar.gz", batch.put_bytes(f"source of {name}".encode())),),
            epoch=1_700_000_000,
        )


def leftovers(root: Path) -> list[str]:
    """Temporary entries, leases and per-key locks that nobody removed."""
    places = (root / "tmp", root / "leases", root / "locks")
    found = [path for place in places if place.is_dir() for path in place.iterdir()]
    return sorted(path.name for path in found if path.parent.name != "locks" or "-" in path.name)
