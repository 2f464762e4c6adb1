"""Where the sources and patches of a package are, and what pins them."""

from __future__ import annotations

from dataclasses import dataclass

from buildit.digest import Digest


@dataclass(frozen=True, slots=True)
class Signature:
    """An upstream OpenPGP signature of a source: where it is, and blobs of the keys accepted."""

    urls: tuple[str, ...]
    keys: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class GitRef:
    """What is taken of a git repository: a commit (40 hex digits, "" where only the tag is known),
    by a tag where there is one ("" for none), with or without its submodules."""

    commit: str
    tag: str = ""
    submodules: bool = True


@dataclass(frozen=True, slots=True)
class SourceRef:
    """A source archive: the name and places are for fetching, the digest is its identity.

    With `git`, `urls` are repositories, and the archive is the canonical tar of the commit. With
    `path`, an absolute one of this machine, it is that of a directory, which planning made.
    """

    name: str
    digest: Digest
    urls: tuple[str, ...]
    signature: Signature | None = None
    git: GitRef | None = None
    path: str = ""

    @property
    def places(self) -> tuple[str, ...]:
        """Where it is, for people and bills of materials (SPDX 2.3, 7.7: `git+https://…@COMMIT`)."""
        if self.git is None:
            return self.urls
        return tuple(f"git+{url}@{self.git.commit or self.git.tag}" for url in self.urls)


@dataclass(frozen=True, slots=True)
class PatchRef:
    """A patch that lies at a URL: any bytes whose canonical form has `digest` will do."""

    url: str
    digest: Digest
    strip: int
