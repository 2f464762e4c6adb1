"""Small Debian archives for tests: .debs, indices, and a release signed by a throw-away key."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.openpgp_maker import Key, clearsigned

DATE = "Sat, 11 Jul 2026 10:16:37 UTC"
NOW = 1_783_765_000 + 3600
"""An hour after DATE."""


def _ar_member(name: str, content: bytes) -> bytes:
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
    return head + content + b"\n" * (len(content) % 2)


def _tar(members: Sequence[tarfile.TarInfo], contents: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(contents.get(member.name, b"")))
    return lzma.compress(buffer.getvalue())


def make_deb(
    name: str,
    files: Mapping[str, str | bytes],
    *,
    mode: int = 0o644,
    fields: str = "",
    nodes: Sequence[tarfile.TarInfo] = (),
    **control: str,
) -> bytes:
    """A .deb: path -> content; a text that begins with `->` is a symbolic link; `…/` a directory.

    Paths in a `bin` directory are programs. `fields` are further lines of its control file, what
    else is given are further control members by name: `postinst="…"`.
    """
    members: list[tarfile.TarInfo] = [*nodes]
    contents: dict[str, bytes] = {}
    for path, content in files.items():
        member = tarfile.TarInfo(f"./{path.rstrip('/')}")
        member.mtime = 1_600_000_000
        member.mode = 0o755 if "bin/" in path else mode
        if path.endswith("/"):
            member.type, member.mode = tarfile.DIRTYPE, 0o755
        elif isinstance(content, str) and content.startswith("->"):
            member.type, member.linkname = tarfile.SYMTYPE, content[2:]
        else:
            contents[member.name] = content.encode() if isinstance(content, str) else content
            member.size = len(contents[member.name])
        members.append(member)
    first = f"Package: {name}\nVersion: 1\nArchitecture: amd64\n{fields}"
    said = {f"./{key}": text.encode() for key, text in {"control": first, **control}.items()}
    controls = [tarfile.TarInfo(key) for key in said]
    for one in controls:
        one.size = len(said[one.name])
    return b"!<arch>\n" + b"".join(
        _ar_member(member, content)
        for member, content in (
            ("debian-binary", b"2.0\n"),
            ("control.tar.xz", _tar(controls, said)),
            ("data.tar.xz", _tar(members, contents)),
        )
    )


def paragraph(name: str, version: str = "1.0", **fields: str) -> str:
    """One paragraph of a Packages file; `pre_depends="a"` gives `Pre-Depends: a`."""
    stated = {
        "architecture": "amd64",
        "filename": f"pool/main/{name[0]}/{name}/{name}_{version.replace(':', '%3a')}_amd64.deb",
        "size": "1000",
        "sha256": hashlib.sha256(f"{name} {version}".encode()).hexdigest(),
        "description": "something\n more of it\n .\n end",
    }
    lines = [f"Package: {name}", f"Version: {version}"]
    for field_name, value in {**stated, **fields}.items():
        lines.append(f"{field_name.replace('_', '-').title()}: {value}")
    return "\n".join(lines) + "\n"


def source_paragraph(name: str, version: str = "1.0-1", **fields: str) -> str:
    """One paragraph of a Sources file, of a 3.0 (quilt) package; `build_depends="a"` gives
    `Build-Depends: a`."""
    plain = version.partition(":")[2] or version
    files = (
        f"{name}_{plain.partition('-')[0]}.orig.tar.gz",
        f"{name}_{plain}.debian.tar.xz",
        f"{name}_{plain}.dsc",
    )
    stated = {
        "format": "3.0 (quilt)",
        "binary": name,
        "architecture": "any",
        "package_list": f"\n {name} deb utils optional arch=any",
        "directory": f"pool/main/{name[0]}/{name}",
        "checksums_sha256": "".join(
            f"\n {hashlib.sha256(file.encode()).hexdigest()} 1000 {file}" for file in files
        ),
    }
    lines = [f"Package: {name}", f"Version: {version}"]
    for field_name, value in {**stated, **fields}.items():
        lines.append(f"{field_name.replace('_', '-').title()}: {value}")
    return "\n".join(lines) + "\n"


@dataclass(slots=True)
class Archive:
    """A suite with one component, as `{url: bytes}` below `uri`."""

    uri: str = "https://deb.example/debian"
    suite: str = "stable"
    codename: str = "bookworm"
    origin: str = "Debian"
    key: Key = field(default_factory=Key)
    date: str = DATE
    valid_until: str = ""
    by_hash: bool = True
    components: str = "main"
    packages: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def plain(self) -> bytes:
        return "\n".join(self.packages).encode()

    def release(self, files: Mapping[str, bytes]) -> str:
        lines = [
            f"Origin: {self.origin}",
            "Label: Debian",
            f"Suite: {self.suite}",
            f"Codename: {self.codename}",
            f"Date: {self.date}",
            *([f"Valid-Until: {self.valid_until}"] if self.valid_until else []),
            *(["Acquire-By-Hash: yes"] if self.by_hash else []),
            "Architectures: all amd64 arm64",
            f"Components: {self.components}",
            "MD5Sum:",
            " d41d8cd98f00b204e9800998ecf8427e 0 nothing",
            "SHA256:",
            *(f" {hashlib.sha256(b).hexdigest()} {len(b)} {p}" for p, b in files.items()),
        ]
        return "\n".join(lines) + "\n"

    def urls(self) -> dict[str, bytes]:
        """All that a mirror serves."""
        plain = {
            "main/binary-amd64/Packages": self.plain,
            "main/source/Sources": "\n".join(self.sources).encode(),
        }
        packed = {f"{name}.xz": lzma.compress(content) for name, content in plain.items()}
        base = f"{self.uri}/dists/{self.codename}"
        release = self.release(plain | packed)
        served = {f"{base}/InRelease": clearsigned(release, self.key)}
        for name, content in packed.items():
            served[f"{base}/{name}"] = content
            if self.by_hash:
                digest = hashlib.sha256(content).hexdigest()
                served[f"{base}/{name.rpartition('/')[0]}/by-hash/SHA256/{digest}"] = content
        return served
