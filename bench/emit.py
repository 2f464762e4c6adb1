"""One image of layers that lie in a directory, as a process of its own: `bench.emit FORMAT DIR`;
`bench.emit FORMAT DIR LAYERS SIZE` makes the layers first, and nothing else."""

from __future__ import annotations

import io
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import buildit.commands.run  # noqa: F401 - a run's process has all of this in memory
from buildit.archive.contents import contents_blob
from buildit.archive.tar.write import TarWriter
from buildit.digest import Digest, digest_bytes, digest_file
from buildit.image.formats.table import emit_all
from buildit.model.image import Image, Layer
from buildit.model.tree import Entry, Kind

SMALL, LARGE = 40_000, 30_000_000
LISTED = "layers.json"


def store(place: Path, layers: int, size: int) -> None:
    """Blobs of so many layers of `size` bytes each, and their list."""
    place.mkdir(parents=True)
    made = [_layer(place, number, size) for number in range(layers)]
    (place / LISTED).write_text(json.dumps([asdict(one) for one in made]))


def _layer(place: Path, number: int, size: int) -> Layer:
    plain, entries = place / "plain", []
    with plain.open("wb") as out:
        tar = TarWriter(out)
        for path, content in _files(number, size):
            entry = Entry(path, Kind.FILE, 0o644, size=len(content))
            digest = tar.add_file(entry, io.BytesIO(content))
            entries.append(replace(entry, digest=digest))
        tar.finish()
    digest, listing = digest_file(plain), contents_blob(entries)
    plain.rename(place / digest)
    contents = digest_bytes(listing)
    (place / contents).write_bytes(listing)
    return Layer(digest, (place / digest).stat().st_size, f"bench/p{number}-1 (runtime)", contents)


def _files(number: int, size: int) -> Iterator[tuple[str, bytes]]:
    """A large file, then small ones; of twenty one has bytes at random, the rest is text."""
    chance = random.Random(number)
    yield f"mixed{number:03d}/a", b"%d lines of text\n" % number * (LARGE // 16)
    for at in range((size - LARGE) // SMALL):
        line = b"file %d of %d\n" % (at, number)
        content = chance.randbytes(SMALL) if at % 20 == 0 else line * (SMALL // len(line))
        yield f"mixed{number:03d}/f{at:05d}", content


def main(form: str, place: Path) -> None:
    listed = json.loads((place / LISTED).read_bytes())
    names = ("diff_id", "size", "title", "contents")
    layers = tuple(Layer(**{name: one[name] for name in names}) for one in listed)
    image = Image("mixed", "1", "linux", "amd64", layers, 1, form)

    def blob(digest: Digest) -> Path:
        return place / digest

    emit_all((image,), blob, place / "out")


if __name__ == "__main__":
    if len(sys.argv) > 3:
        store(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        main(sys.argv[1], Path(sys.argv[2]))
