"""The file names of sources: what a URL says, and what a name says of its file."""

from __future__ import annotations

ARCHIVES = (".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".tlz", ".zip", ".gem", ".crate")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz", ".lzma", ".Z")


def name_of(url: str) -> str:
    """The last part of a URL's path, as it is written; "" where it has none."""
    path = url.partition("?")[0].partition("#")[0].rstrip("/")
    return path.rpartition("/")[2] if "/" in path.partition("://")[2] else ""


def names_archive(name: str) -> bool:
    """Whether a file of this name can only be an archive: if it holds anything else, it is wrong.

    Where the name leaves it open, a source that is no archive is taken as one file of that name.
    """
    return without_codec(name).lower().endswith(ARCHIVES)


def without_codec(name: str) -> str:
    """`foo.gz` is `foo`; a name that is all suffix stays."""
    end = next((end for end in COMPRESSED if name.endswith(end)), "")
    return name.removesuffix(end) or name
