"""Layers, images and a directory of blobs for the tests of the image room."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.archive.contents import contents_blob
from buildit.archive.tar.write import write_tar
from buildit.digest import Digest, digest_bytes
from buildit.image.formats.table import emit_all
from buildit.image.output import BlobPath
from buildit.model.image import App, Emission, Image, Layer, LayerKind, Port, Volume
from buildit.model.tree import Entry, Kind, sort_key

EPOCH = 1_700_000_000
NET_RAW = b"\x01\0\0\x02\0\x20\0\0" + bytes(12)
"""cap_net_raw, effective, as linux/capability.h lays it out (VFS_CAP_REVISION_2)."""


@dataclass(frozen=True, slots=True)
class BlobDirectory:
    """A directory of blobs by digest: all of a store that emitters see."""

    root: Path

    def __call__(self, digest: Digest) -> Path:
        return self.root / digest

    def put(self, content: bytes) -> Digest:
        digest = digest_bytes(content)
        self(digest).write_bytes(content)
        return digest

    def layer(
        self, title: str, files: Iterable[tuple[Entry, bytes]], kind: LayerKind = LayerKind.PACKAGE
    ) -> Layer:
        pairs = sorted(files, key=lambda pair: sort_key(pair[0]))
        contents = {entry.path: content for entry, content in pairs}
        out = io.BytesIO()
        entries = [entry for entry, _ in pairs]
        write_tar(entries, lambda entry: io.BytesIO(contents[entry.path]), out)
        tar = out.getvalue()
        return Layer(self.put(tar), len(tar), title, self.put(contents_blob(entries)), kind)


def file(path: str, content: bytes = b"", mode: int = 0o644, **more: object) -> tuple[Entry, bytes]:
    entry = Entry(
        path, Kind.FILE, mode, mtime=EPOCH, size=len(content), digest=digest_bytes(content)
    )
    return replace(entry, **more), content  # type: ignore[arg-type]


def directory(path: str, mode: int = 0o755, **more: object) -> tuple[Entry, bytes]:
    return replace(Entry(path, Kind.DIRECTORY, mode, mtime=EPOCH), **more), b""  # type: ignore[arg-type]


def link(path: str, target: str) -> tuple[Entry, bytes]:
    return Entry(path, Kind.SYMLINK, 0o777, mtime=EPOCH, target=target), b""


def hard(path: str, target: str, mode: int = 0o644) -> tuple[Entry, bytes]:
    return Entry(path, Kind.HARDLINK, mode, mtime=EPOCH, target=target), b""


def app() -> App:
    return App(
        exec=("/usr/sbin/nginx", "-g", "daemon off;"),
        user="www-data",
        group="www-data",
        environment=(("LANG", "C.UTF-8"), ("EMPTY", "")),
        working_directory="/srv",
        ports=(Port(80), Port(443, name="https"), Port(53, "udp")),
        volumes=(Volume("/var/lib/nginx"), Volume("/srv", "site", read_only=True)),
        stop_signal="SIGQUIT",
    )


def nginx_layers(blobs: BlobDirectory) -> tuple[Layer, ...]:
    """A base layout, a package with a hard link and odd names, and a synced file over it."""
    layout = blobs.layer(
        "sys-apps/baselayout-1",
        [
            directory("etc"),
            file("etc/group", b"root:x:0:\nwww-data:x:33:\n"),
            file("etc/passwd", b"root:x:0:0::/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n"),
            link("lib", "usr/lib"),
            link("sbin", "usr/sbin"),
            directory("tmp", 0o1777),
            directory("usr"),
            directory("usr/lib"),
            directory("usr/sbin"),
        ],
    )
    package = blobs.layer(
        "www-servers/nginx-1.22.1",
        [
            directory("etc"),
            directory("etc/nginx"),
            file("etc/nginx/nginx.conf", b"worker_processes 1;\n"),
            file("usr/sbin/nginx", b"\x7fELF" + b"n" * 5000, 0o755),
            hard("usr/sbin/nginx-1.22.1", "usr/sbin/nginx", 0o755),
            file("usr/share/nginx/" + "long/" * 30 + "é name\n.txt", b"x" * 513),
            file("usr/share/nginx/html/\udcff.html", b"not UTF-8"),
            file("usr/bin/ping", b"ping", 0o755, xattrs={"security.capability": NET_RAW}),
        ],
    )
    sync = blobs.layer(
        "sync ./files/nginx.conf",
        [file("etc/nginx/nginx.conf", b"error_log stderr;\n", 0o600, uid=33, gid=33)],
        LayerKind.STEP,
    )
    return layout, package, sync


def image(layers: tuple[Layer, ...], form: str, **more: object) -> Image:
    whole = Image(
        name="nginx-production",
        version="1.22.1-p1",
        os="linux",
        arch="amd64",
        layers=layers,
        epoch=EPOCH,
        format=form,
        app=app(),
        author="Sysadmin42 <sys@example.org>",
        labels=(("tier", "front"),),
        annotations=(("org.opencontainers.image.url", "https://example.org/nginx"),),
        place="containers/nginx/container.yaml:9:5",
    )
    return replace(whole, **more)  # type: ignore[arg-type]


def emit(one: Image, blobs: BlobPath, output: Path) -> Emission:
    """One image as a file or directory of `output`."""
    return emit_all((one,), blobs, output)[0]
