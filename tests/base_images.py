"""Images that somebody else made: layouts and archives whose layers Python's tarfile wrote."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TIME = 1_600_000_000
Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, content: bytes = b"", mode: int = 0o644, **more: Any) -> Member:
    """A file, or whatever `type` says; `more` are fields of TarInfo."""
    made = tarfile.TarInfo(name)
    made.size, made.mode, made.mtime = len(content), mode, TIME
    for key, value in more.items():
        setattr(made, key, value)
    return made, content


def folder(name: str, mode: int = 0o755, **more: Any) -> Member:
    return member(name, mode=mode, type=tarfile.DIRTYPE, **more)


def symbolic(name: str, target: str) -> Member:
    return member(name, mode=0o777, type=tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> Member:
    return member(name, type=tarfile.LNKTYPE, linkname=target)


def device(name: str) -> Member:
    return member(name, mode=0o666, type=tarfile.CHRTYPE, devmajor=1, devminor=3)


def tar(*members: Member) -> bytes:
    """In the order given, whatever that is."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as made:
        for one, content in members:
            made.addfile(one, io.BytesIO(content))
    return out.getvalue()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


PASSWD = b"root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:Web:/srv:/bin/sh\n"
GROUP = b"root:x:0:\nweb:x:102:\n"

PROGRAM = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack(
    "<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 0, 64, 0, 0
)
"""A static ELF program for x86-64, as far as its header says (gABI 4, "ELF Header")."""

BOTTOM = tar(
    folder("./"),
    folder("etc"),
    member("etc/passwd", PASSWD),
    member("etc/group", GROUP),
    folder("tmp", 0o1777),
    folder("usr"),
    folder("usr/bin"),
    member("usr/bin/z-app", PROGRAM, 0o755),
    hard_link("usr/bin/app", "usr/bin/z-app"),
    member("usr/bin/su", PROGRAM, 0o4755),
    folder("srv", uid=101, gid=102),
    member("srv/old", b"old"),
    folder("srv/gone"),
    member("srv/gone/x", b"x"),
    symbolic("srv/link", "old"),
)
TOP = tar(
    folder("srv", uid=101, gid=102),
    member("srv/.wh.old"),
    folder("srv/gone"),
    member("srv/gone/.wh..wh..opq"),
    member("srv/gone/y", b"y"),
    member("srv/new", b"new", 0o640, uid=101, gid=102),
)
SECTION = {
    "Cmd": ["-v"],
    "Entrypoint": ["app"],
    "Env": ["PATH=/bin:/usr/bin", "MODE=base"],
    "ExposedPorts": {"80/tcp": {}},
    "Volumes": {"/srv": {}},
    "User": "web",
    "WorkingDir": "/srv",
    "StopSignal": "SIGQUIT",
    "Healthcheck": {"Test": ["CMD-SHELL", "app ping"], "Interval": 1_500_000_000},
    "Labels": {"tier": "base", "org.opencontainers.image.version": "of the base"},
}


@dataclass(frozen=True)
class Foreign:
    """An image as it is to be written: plain layers, and what its config says."""

    layers: Sequence[bytes] = (BOTTOM, TOP)
    section: Mapping[str, Any] = field(default_factory=lambda: SECTION)
    arch: str = "amd64"

    def config(self) -> bytes:
        diff_ids = [f"sha256:{sha(one)}" for one in self.layers]
        rootfs = {"type": "layers", "diff_ids": diff_ids}
        document = {"os": "linux", "architecture": self.arch, "config": self.section}
        return json.dumps({**document, "rootfs": rootfs}).encode()

    def pack(self, layer: bytes) -> bytes:
        return gzip.compress(layer, mtime=0)

    def manifest(self) -> tuple[bytes, dict[str, bytes]]:
        """The manifest, and its blobs by their digests."""
        config, kind = self.config(), "application/vnd.oci.image"
        packed = [self.pack(one) for one in self.layers]
        blobs = {sha(one): one for one in (config, *packed)}

        def described(content: bytes, media: str) -> dict[str, object]:
            return {"mediaType": media, "digest": f"sha256:{sha(content)}", "size": len(content)}

        document = {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": described(config, f"{kind}.config.v1+json"),
            "layers": [described(one, f"{kind}.layer.v1.tar+gzip") for one in packed],
        }
        return json.dumps(document).encode(), blobs

    def layout(self, path: Path) -> Path:
        manifest, blobs = self.manifest()
        folder_of_blobs = path / "blobs/sha256"
        folder_of_blobs.mkdir(parents=True)
        for digest, content in {**blobs, sha(manifest): manifest}.items():
            (folder_of_blobs / digest).write_bytes(content)
        named = {"mediaType": "application/vnd.oci.image.manifest.v1+json"}
        named |= {"digest": f"sha256:{sha(manifest)}", "size": len(manifest)}  # type: ignore[dict-item]
        (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        return path

    def docker(self, path: Path) -> Path:
        """As `docker save` writes it."""
        config = self.config()
        names = [f"{sha(one)}/layer.tar" for one in self.layers]
        listed = [{"Config": f"{sha(config)}.json", "RepoTags": ["x:1"], "Layers": names}]
        layers = (member(*pair) for pair in zip(names, self.layers, strict=True))
        made = (member(f"{sha(config)}.json", config), *layers)
        path.write_bytes(tar(*made, member("manifest.json", json.dumps(listed).encode())))
        return path


def aci(path: Path, **more: Any) -> Path:
    """The tree of the lower layer as an ACI, its manifest last."""
    labels = [{"name": "os", "value": "linux"}, {"name": "arch", "value": "amd64"}]
    program = {"exec": ["/usr/bin/app"], "user": "web", "group": "102"}
    document = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.org/base"}
    manifest = json.dumps({**document, "labels": labels, "app": program, **more}).encode()
    members = [folder("rootfs")]
    with tarfile.open(fileobj=io.BytesIO(BOTTOM)) as lower:
        for one in lower:
            if one.name not in ("", "."):
                stream = lower.extractfile(one) if one.isreg() else None
                one.name = f"rootfs/{one.name}"
                if one.islnk():
                    one.linkname = f"rootfs/{one.linkname}"
                members.append((one, stream.read() if stream else b""))
    path.write_bytes(gzip.compress(tar(*members, member("manifest", manifest)), mtime=0))
    return path
