"""Gzip, copies, and outputs that replace what was there: the parts that touch files."""

from __future__ import annotations

import gzip
import io
import os
import signal
import subprocess
import sys
import threading
import zlib
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from buildit.archive.compress import GZIP_BLOCK, GzipWriter
from buildit.archive.contents import contents_blob
from buildit.archive.streams import run_all
from buildit.digest import digest_bytes
from buildit.errors import IntegrityError, RecipeError, StoreError
from buildit.image import layertar
from buildit.image.formats.table import rootfs_of
from buildit.image.layertar import Contents
from buildit.image.output import copy_blob, replacing_output
from buildit.model.image import LayerKind
from buildit.model.tree import Entry, Kind
from buildit.store.blobs import CorruptBlob
from tests.unit.image.samples import BlobDirectory, emit, file, image

pytestmark = pytest.mark.unit


def packed(content: bytes, threads: int, piece: int) -> bytes:
    out = io.BytesIO()
    with GzipWriter(out, threads=threads) as writer:
        for at in range(0, len(content), piece):
            writer.write(content[at : at + piece])
    return out.getvalue()


@pytest.mark.parametrize(
    "size", [0, 1, GZIP_BLOCK - 1, GZIP_BLOCK, GZIP_BLOCK + 1, 3 * GZIP_BLOCK + 17]
)
def test_gzip_is_the_same_for_any_threads_and_pieces(size: int) -> None:
    content = (b"some words that repeat, and a counter %d " * 7 % tuple(range(7))) * (size // 200)
    content = content.ljust(size, b".")[:size]
    one = packed(content, 1, 1 << 20)
    assert one == packed(content, 3, 1 << 20) == packed(content, 2, 70_001)
    assert gzip.decompress(one) == content
    decoder = zlib.decompressobj(31)
    assert decoder.decompress(one) == content
    assert (decoder.eof, decoder.unused_data) == (True, b"")  # one member, for simple readers
    assert one[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # no name, no time, no flags


def test_gzip_gives_the_error_of_its_output() -> None:
    class Full(io.RawIOBase):
        left = 10

        def write(self, chunk: bytes, /) -> int:  # type: ignore[override]
            if self.left <= 0:
                raise OSError(28, "No space left on device")
            self.left -= 10
            return min(10, len(chunk))

    with pytest.raises(OSError, match="No space"), GzipWriter(Full()) as writer:
        writer.write(os.urandom(GZIP_BLOCK * 8))


def test_a_copy_across_file_systems_has_all_bytes(blobs: BlobDirectory) -> None:
    content = os.urandom(3 << 20)
    digest = blobs.put(content)
    target = Path("/dev/shm") / f"buildit-copy-{os.getpid()}"
    try:
        copy_blob(blobs, digest, len(content), "x", target)
        assert target.read_bytes() == content
        assert target.stat().st_mode & 0o777 == 0o644
    finally:
        target.unlink(missing_ok=True)


def test_an_unknown_format_is_refused(blobs: BlobDirectory, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="unknown image format 'vhd'"):
        emit(image((), "vhd"), blobs, tmp_path)


@pytest.mark.parametrize("old", ["file", "directory", "link", "nothing"])
@pytest.mark.parametrize("new", ["file", "directory"])
def test_anything_is_replaced_by_anything(old: str, new: str, tmp_path: Path) -> None:
    target = tmp_path / "out" / "x[1]*"
    target.parent.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    if old == "file":
        target.write_text("old")
    elif old == "directory":
        (target / "deep").mkdir(parents=True)
        (target / "deep" / "old").touch()
    elif old == "link":
        target.symlink_to(outside)
    with replacing_output(target) as fresh:
        if new == "file":
            fresh.write_text("new")
        else:
            fresh.mkdir()
            (fresh / "new").touch()
    assert list(target.parent.iterdir()) == [target]
    assert not target.is_symlink()
    assert target.read_text() == "new" if new == "file" else (target / "new").exists()
    assert (outside / "kept").exists()


def half_written(target: Path, error: Exception) -> None:
    with replacing_output(target) as fresh:
        fresh.mkdir()
        (fresh / "half").write_text("half")
        raise error


def test_an_error_leaves_the_old_one_and_no_rest(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_text("old")
    for error, expected in ((OSError(28, "disk is full"), StoreError), (KeyError(), KeyError)):
        with pytest.raises(expected):
            half_written(target, error)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


KILLED = """
import sys, time
from pathlib import Path
from buildit.image.output import replacing_output
with replacing_output(Path(sys.argv[1])) as fresh:
    fresh.mkdir()
    (fresh / "half").write_text("half")
    print("here", flush=True)
    time.sleep(60)
"""


def test_a_killed_run_leaves_nothing_visible_and_the_next_sweeps(tmp_path: Path) -> None:
    target = tmp_path / "x"
    target.write_text("old")
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(target)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        with replacing_output(target) as fresh:  # another run meanwhile: leaves the first alone
            fresh.write_text("second")
        assert len(list(tmp_path.iterdir())) == 2
        process.send_signal(signal.SIGKILL)
    assert target.read_text() == "second"
    with replacing_output(target) as fresh:
        fresh.write_text("third")
    assert target.read_text() == "third"
    assert list(tmp_path.iterdir()) == [target]


def test_a_reader_that_fails_does_not_make_the_layer_corrupt(blobs: BlobDirectory) -> None:
    layer = blobs.layer("a", [file("x", b"content")])
    tree = rootfs_of(image((layer,), "rootfs"), blobs)
    (member,) = tree.members()
    contents = Contents(tree, blobs)
    with pytest.raises(ValueError, match="con"), contents.checked(member) as content:
        int(content.read(3))
    with contents.checked(member) as content:
        assert content.read() == b"content"
    wrong = replace(member, entry=replace(member.entry, digest=digest_bytes(b"other")))
    with pytest.raises(CorruptBlob, match="'x' in the layer of a"), contents.checked(wrong):
        pass


def test_a_listing_that_does_not_fit_its_layer_is_found(
    blobs: BlobDirectory, tmp_path: Path
) -> None:
    layer = blobs.layer("x", [file("f", b"content")])
    longer = Entry("f", Kind.FILE, 0o644, size=1000, digest=digest_bytes(b"c"))
    wrong = replace(layer, contents=blobs.put(contents_blob([longer])))
    with pytest.raises(IntegrityError, match="its contents say 2560"):
        emit(image((wrong,), "aci", app=None), blobs, tmp_path / "out")
    assert not [*(tmp_path / "out").glob("*")]


RACING = """
import sys
from pathlib import Path
from buildit.image.output import replacing_output
for number in range(60):
    with replacing_output(Path(sys.argv[1])) as fresh:
        fresh.mkdir()
        (fresh / "a").write_text(sys.argv[2])
        (fresh / "b").write_text(sys.argv[2])
"""


def test_two_runs_at_once_leave_one_whole_output(tmp_path: Path) -> None:
    target = tmp_path / "out" / "x"
    runs = [
        subprocess.Popen([sys.executable, "-c", RACING, str(target), word]) for word in ("1", "2")
    ]
    appeared = False
    while any(run.poll() is None for run in runs):
        there = target.exists()
        assert there or not appeared  # exchanged, so that it is never away again
        appeared = there
    assert [run.returncode for run in runs] == [0, 0]
    assert (target / "a").read_text() == (target / "b").read_text()
    assert list(target.parent.iterdir()) == [target]


def test_a_few_threads_give_results_in_order_and_the_first_failure() -> None:
    assert run_all([], 2) == []
    assert run_all([partial(pow, n, 2) for n in range(20)], 3) == [n * n for n in range(20)]
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        if number == 2:
            raise KeyError(number)

    with pytest.raises(KeyError):
        run_all([partial(work, n) for n in range(9)], 1)
    assert begun == [0, 1, 2]


def test_a_work_that_never_began_does_not_hide_the_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(threading.Event):
        """The first to look, which took up the first work, sees the failure of the second."""

        looked = False

        def is_set(self) -> bool:
            if not Late.looked:
                Late.looked = True
                self.wait(5)
            return super().is_set()

    def fail() -> None:
        raise KeyError

    monkeypatch.setattr("buildit.archive.streams.Event", Late)
    with pytest.raises(KeyError):
        run_all([lambda: None, fail], 2)


def test_where_files_of_a_base_lie_is_kept_for_the_next_run(
    blobs: BlobDirectory, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    texts = {"etc/a": b"a" * 700, "etc/b": b"b" * 10, "etc/\udcff": b"c"}
    layer = blobs.layer("base", [file(*pair) for pair in texts.items()], LayerKind.FROM)
    tree = rootfs_of(image((layer,), "rootfs"), blobs)

    def read() -> dict[str, bytes]:
        layertar._READ.clear()  # as in the next run
        contents = Contents(tree, blobs, kept)
        found = {}
        for path in texts:
            with closing(contents.open(tree.tree[path])) as stream:
                found[path] = stream.read()
        return found

    assert read() == texts
    (told,) = kept.iterdir()
    first = told.read_bytes()
    for said in (first, b"", b"[]", b'{"format":"1","paths":["etc/a"],"starts":["0"]}'):
        told.write_bytes(said)
        assert read() == texts
        assert told.read_bytes() == first
