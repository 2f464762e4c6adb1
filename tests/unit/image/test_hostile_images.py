"""Images of strangers, in every format that `verify` and `ls` read: each is told what is wrong with
it, in the time and memory that its size allows (THREATS G1 to G7)."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
import random
import shutil
import signal
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.cli.images import entries_plain, entry_lines, report_lines
from buildit.errors import UsageError
from buildit.image import reading
from buildit.image.formats.table import FORMATS
from buildit.image.squash import layout as form
from buildit.image.squash.write import write_squashfs
from buildit.image.verify import read_image, verify
from buildit.model.tree import Entry, Kind, sort_key
from tests.unit.archive.hostile_tars import LIMITS, corpus
from tests.unit.archive.tarmaker import END
from tests.unit.archive.tarmaker import file as member
from tests.unit.image.samples import BlobDirectory, emit, image, nginx_layers

pytestmark = pytest.mark.unit

SECONDS = 60
"""Of one image, on a busy machine; what hangs takes for ever."""
MUTATIONS = 40


@contextmanager
def bounded(seconds: int = SECONDS) -> Iterator[None]:
    def late(*_: object) -> None:
        raise AssertionError(f"it takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def told(path: Path) -> tuple[str, ...]:
    """The problems of an image that is read, listed and reported, whatever is in it."""
    with bounded():
        try:
            found = read_image(path)
        except UsageError as error:
            return (error.message,)
        list(entry_lines(found))
        entries_plain(found)
        list(report_lines(verify([path])))
    return found.problems


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sound image of each format, and of some with a codec more."""
    root = tmp_path_factory.mktemp("made")
    (root / "blobs").mkdir()
    blobs = BlobDirectory(root / "blobs")
    layers = nginx_layers(blobs)
    more = [("oci", "gzip"), ("oci-archive", "zstd"), ("squashfs", "gzip"), ("squashfs", "none")]
    paths = {}
    for name, codec in (*((name, "") for name in FORMATS), *more):
        out = root / (codec or "own")
        paths[f"{name} {codec}".strip()] = emit(
            image(layers, name, compress=codec), blobs, out
        ).path
    return paths


CASES = (*FORMATS, "oci gzip", "oci-archive zstd", "squashfs gzip", "squashfs none")


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Bytes changed, cut off, doubled, or put in another place; more often at the start."""
    broken = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        end = chance.choice((len(broken), min(len(broken), 1024)))
        at = chance.randrange(end) if end else 0
        size = chance.choice((1, 4, 8, 512))
        what = chance.randrange(5)
        if what == 0:
            del broken[at:]
        elif what == 1:
            broken[at:at] = broken[at : at + size]
        elif what == 2:
            broken[at : at + size] = chance.choice((b"\xff", b"\0", b"9")) * size
        else:
            broken[at : at + 1] = bytes([chance.randrange(256)])
    return bytes(broken)


@pytest.mark.parametrize("case", CASES)
def test_a_mutated_image_is_read_or_refused(
    case: str, made: dict[str, Path], tmp_path: Path
) -> None:
    assert told(made[case]) == ()
    chance, found = random.Random(f"{case} of issue 10"), 0
    for number in range(MUTATIONS):
        path = tmp_path / f"{number}{made[case].suffix}"
        if made[case].is_dir():
            shutil.copytree(made[case], path, symlinks=True)
            shutil.rmtree(path / "rootfs", ignore_errors=True)
            files = sorted(one for one in path.rglob("*") if one.is_file())
        else:
            shutil.copy(made[case], path)
            files = [path]
        target = chance.choice(files)
        target.write_bytes(mutated(target.read_bytes(), chance))
        found += bool(told(path))
        if path.is_dir():
            shutil.rmtree(path)
    assert found > MUTATIONS // 4


def _rootfs(place: Path, tar: bytes) -> Path:
    path = place / "x.rootfs.tar"
    path.write_bytes(tar)
    return path


def _aci(place: Path, tar: bytes) -> Path:
    path = place / "x.aci"
    path.write_bytes(gzip.compress(tar, 1))
    return path


def _lxc(place: Path, tar: bytes) -> Path:
    path = place / "x.lxc"
    path.mkdir()
    (path / "meta.tar.xz").write_bytes(lzma.compress(END))
    (path / "rootfs.tar.xz").write_bytes(lzma.compress(tar, preset=0))
    return path


def _nspawn(place: Path, tar: bytes) -> Path:
    path = place / "x.nspawn"
    path.mkdir()
    (path / "rootfs.nspawn").write_bytes(b"[Exec]\n")
    (path / "rootfs.tar").write_bytes(tar)
    return path


def _oci(place: Path, tar: bytes) -> Path:
    return layout_of(place / "x.oci", [tar])


def _docker(place: Path, tar: bytes) -> Path:
    config = json.dumps(config_of([tar])).encode()
    manifest = [{"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["l.tar"]}]
    files = {"manifest.json": json.dumps(manifest).encode(), "c.json": config, "l.tar": tar}
    path = place / "x.docker.tar"
    path.write_bytes(b"".join(member(name.encode(), one) for name, one in files.items()) + END)
    return path


def config_of(layers: list[bytes]) -> dict[str, object]:
    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    return {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }


def layout_of(path: Path, layers: list[bytes]) -> Path:
    """An OCI layout whose layers are these, packed by gzip."""
    (path / "blobs" / "sha256").mkdir(parents=True)
    kind = "application/vnd.oci.image"

    def put(content: bytes, media: str) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        (path / "blobs" / "sha256" / digest).write_bytes(content)
        return {"mediaType": f"{kind}.{media}", "digest": f"sha256:{digest}", "size": len(content)}

    packed = {layer: gzip.compress(layer, 1, mtime=0) for layer in set(layers)}
    manifest = {
        "schemaVersion": 2,
        "config": put(json.dumps(config_of(layers)).encode(), "config.v1+json"),
        "layers": [put(packed[layer], "layer.v1.tar+gzip") for layer in layers],
    }
    described = put(json.dumps(manifest).encode(), "manifest.v1+json")
    index = {"schemaVersion": 2, "manifests": [described]}
    (path / "index.json").write_text(json.dumps(index))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return path


WRAPPED: dict[str, Callable[[Path, bytes], Path]] = {
    "rootfs": _rootfs,
    "aci": _aci,
    "lxc": _lxc,
    "nspawn": _nspawn,
    "oci": _oci,
    "docker-archive": _docker,
}
OF_UNPACKING = ("name too long", "exceeds the limit", *LIMITS)
"""What only a directory, or a smaller limit of the other tests, refuses."""
TARS = [one for one in corpus(b"/canary") if one.says not in OF_UNPACKING]


@pytest.mark.parametrize("form", WRAPPED)
def test_a_hostile_tar_is_refused_in_every_format(form: str, tmp_path: Path) -> None:
    """The corpus of the tar reader, as the tree or a layer."""
    silent = []
    for number, case in enumerate(TARS):
        place = tmp_path / str(number)
        place.mkdir()
        problems = told(WRAPPED[form](place, case.data))
        if case.says and not problems:
            silent.append(case.name)
    assert silent == []


def test_the_corpus_is_there() -> None:
    assert len([case for case in TARS if case.says]) > 60


# -- few bytes that ask for much: each is refused before the memory is taken


def squashfs(entries: list[Entry], codec: str = "none") -> bytearray:
    out = io.BytesIO()
    ordered = sorted(entries, key=sort_key)
    write_squashfs(ordered, lambda one: io.BytesIO(b"x" * one.size), 0, codec, out)
    return bytearray(out.getvalue())


def _deep() -> bytes:
    names = ["d"]
    for _ in range(400):
        names.append(f"{names[-1]}/d")
    return bytes(squashfs([Entry(name, Kind.DIRECTORY, 0o755) for name in names]))


def _long() -> bytes:
    names = ["n" * 200]
    for _ in range(40):
        names.append(f"{names[-1]}/{'n' * 200}")
    return bytes(squashfs([Entry(name, Kind.DIRECTORY, 0o755) for name in names]))


def _attribute_of_gigabytes() -> bytes:
    odd = Entry("f", Kind.FILE, 0o644, size=1, xattrs={"user.marker": b"value!"})
    broken = squashfs([odd])
    at = broken.index(b"marker") + len(b"marker")
    broken[at : at + 4] = b"\xff\xff\xff\xff"
    return bytes(broken)


def _file_of_terabytes() -> bytes:
    broken = squashfs([Entry("f", Kind.FILE, 0o644, size=form.BLOCK_SIZE * 3)])
    at = broken.index(form.WORD.pack(form.BLOCK_SIZE * 3))
    broken[at : at + 4] = b"\xff\xff\xff\xff"
    return bytes(broken)


def _one_listing_for_many() -> bytes:
    """Directories beside each other whose inodes name the listing of all of them."""
    entries = [Entry(f"d{n:04}", Kind.DIRECTORY, 0o755) for n in range(2000)]
    broken = squashfs(entries)
    head = form.SUPERBLOCK.unpack(broken[: form.SUPERBLOCK.size])
    block, offset = head[11] >> 16, head[11] & 0xFFFF
    root = head[15] + block + 2 + offset
    kind = form.INODE.unpack(broken[root : root + form.INODE.size])[0]
    assert kind == form.DIRECTORY
    fields = form.BASIC_DIRECTORY
    start = root + form.INODE.size
    listing = fields.unpack(broken[start : start + fields.size])
    at = head[15]
    while at < root - 2 * form.INODE.size:
        size = int.from_bytes(broken[at : at + 2], "little") & form.LARGEST_METADATA_SIZE
        for one in range(at + 2, at + 2 + size - 32, form.INODE.size + fields.size):
            place = one + form.INODE.size
            own = fields.unpack(broken[place : place + fields.size])
            broken[place : place + fields.size] = fields.pack(*listing[:4], own[4])
        at += 2 + size
    return bytes(broken)


def _greedy_xz() -> bytes:
    """A block that asks for a dictionary of 4 GiB (xz-file-format.txt, 5.3.1)."""
    entries = [Entry("same" * 40 + str(n), Kind.FILE, 0o644) for n in range(60)]
    broken = squashfs(entries, "xz")
    inodes = form.SUPERBLOCK.unpack(broken[: form.SUPERBLOCK.size])[15]
    block = inodes + 2 + 12
    header = bytearray(broken[block : block + 4 * (broken[block] + 1)])
    assert header[2:4] == b"\x21\x01"
    header[4] = 40
    header[-4:] = form.WORD.pack(zlib.crc32(header[:-4]))
    broken[block : block + len(header)] = header
    return bytes(broken)


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "deep": (_deep, "limit depth"),
    "long": (_long, "limit path_bytes"),
    "attribute": (_attribute_of_gigabytes, "attribute of 4294967295 bytes"),
    "file": (_file_of_terabytes, "squashfs"),
    "listing": (_one_listing_for_many, "squashfs"),
    "xz": (_greedy_xz, "emory"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_squashfs_that_asks_for_much_is_refused(case: str, tmp_path: Path) -> None:
    make, says = BOMBS[case]
    path = tmp_path / "x.squashfs"
    path.write_bytes(make())
    tracemalloc.start()
    try:
        (problem,) = told(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert says in problem
    assert peak < 100 << 20


def test_a_layer_named_often_is_not_read_for_ever(tmp_path: Path) -> None:
    """What is stored once counts once: ten bytes become no gigabytes by being named again."""
    layer = member(b"zeros", bytes(1 << 20)) + END
    assert told(layout_of(tmp_path / "few.oci", [layer] * 3)) == ()
    (problem,) = told(layout_of(tmp_path / "many.oci", [layer] * 300))
    assert "more than any engine mounts" in problem


def test_a_small_layer_over_a_large_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The large one had used up what all may have, and the small one was refused."""
    monkeypatch.setattr("buildit.image.reading.INFLATED", 1 << 16)
    large = member(b"large", random.Random(1).randbytes(1 << 20)) + END
    small = member(b"small", b"text " * 4000) + END
    assert told(layout_of(tmp_path / "x.oci", [large, small])) == ()


def test_paths_are_counted_over_all_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = replace(reading.FOREIGN, entries=50)
    monkeypatch.setattr(reading, "FOREIGN", fewer)
    layers = [
        b"".join(member(b"%d-%d" % (layer, n), b"") for n in range(30)) + END for layer in range(2)
    ]
    assert told(layout_of(tmp_path / "one.oci", layers[:1])) == ()
    assert told(layout_of(tmp_path / "two.oci", layers)) == ("the image has over 50 paths",)


def test_deletions_in_a_large_tree_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_SEARCHED", 100)
    large = b"".join(member(b"%d" % n, b"") for n in range(40)) + END
    layers = [large, *(member(b".wh.%d" % n, b"") + END for n in range(4))]
    assert told(layout_of(tmp_path / "three.oci", layers[:3])) == ()
    (problem,) = told(layout_of(tmp_path / "five.oci", layers))
    assert "layer 3 is one too many" in problem


@pytest.mark.parametrize("name", ["rootfs.tar.xz", "meta.tar.xz"])
@pytest.mark.parametrize("kind", ["fifo", "zeros", "outside"])
def test_files_of_a_directory_are_files(name: str, kind: str, tmp_path: Path) -> None:
    path = _lxc(tmp_path, member(b"a", b"a") + END)
    (path / name).unlink()
    if kind == "fifo":
        os.mkfifo(path / name)
    else:
        (path / name).symlink_to("/dev/zero" if kind == "zeros" else "/etc/passwd")
    assert told(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert told(tmp_path / "fifo") == ("it is neither a file nor a directory",)


def test_names_and_times_for_a_terminal(tmp_path: Path) -> None:
    """`ls` prints no escape of a stranger's, and no time that no calendar has is a traceback."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        odd = tarfile.TarInfo("\x1b]0;owned\x07\nname")
        odd.mtime = 10**17
        tar.addfile(odd)
    path = tmp_path / "x.tar"
    path.write_bytes(out.getvalue())
    found = read_image(path)
    shown = "".join(entry_lines(found))
    assert found.problems == () or not found.entries
    assert "\x1b" not in shown
    assert "\x07" not in shown
