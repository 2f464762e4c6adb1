"""What a build leaves in its room, and what archives put there, never leads to the host."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from buildit.digest import Digest
from buildit.errors import BuildError, IntegrityError, RecipeError
from buildit.make.build_directory import BuildDirectory
from buildit.model.config import Limits
from buildit.model.sources import SourceRef
from buildit.plan.identity import BuildInputs, SourceInput
from buildit.store.cas import Store
from tests.making import inputs

pytestmark = pytest.mark.unit


@pytest.fixture
def room(tmp_path: Path) -> BuildDirectory:
    (tmp_path / "work/build/out").mkdir(parents=True)
    place = tmp_path / "work"
    return BuildDirectory(place, tmp_path, ("tools",), "a/b-1", Limits(), threading.Event())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


def link_to_the_host(out: Path, host: Path) -> None:
    out.symlink_to(host)


def link_within(out: Path, _: Path) -> None:
    (out.parent / "src").mkdir()
    out.symlink_to("src")


def gone(_out: Path, _: Path) -> None:
    return


def a_file(out: Path, _: Path) -> None:
    out.write_text("x")


@pytest.mark.parametrize("act", [link_to_the_host, link_within, gone, a_file])
def test_a_destination_that_the_build_replaced_is_refused(
    act: Callable[[Path, Path], None], room: BuildDirectory, tmp_path: Path
) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (host / "secret").write_text("secret")
    out = room.work / "build/out"
    out.rmdir()
    act(out, host)
    with pytest.raises(BuildError, match="replaced /build/out") as caught, room.installed():
        pytest.fail("it was opened")
    assert caught.value.hint


def test_what_was_installed_is_seen(room: BuildDirectory) -> None:
    (room.work / "build/out/usr").mkdir()
    with room.installed() as tree:
        assert [path for path, _ in tree.walk()] == ["usr"]


def put_tar(store: Store, *members: tarfile.TarInfo) -> Digest:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return store.put_bytes(packed.getvalue())


def file(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = 1
    return member


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def record(*sources: SourceInput) -> BuildInputs:
    return inputs(sources=sources)


def test_sources_meet_in_one_tree(room: BuildDirectory, store: Store) -> None:
    (room.work / "build/out").rmdir()
    first = SourceInput(put_tar(store, file("one/a"), file("one/vendor/b")), ".", 1)
    second = SourceInput(put_tar(store, file("two/c")), "vendor", 1)
    room.lay_out(record(first, second), store)
    found = sorted(path.name for path in (room.work / "build/src").rglob("*") if path.is_file())
    assert found == ["a", "b", "c"]


def test_a_source_never_goes_through_a_link_of_another(room: BuildDirectory, store: Store) -> None:
    (room.work / "build/out").rmdir()
    first = SourceInput(put_tar(store, file("one/lib/a"), link("one/vendor", "lib")), ".", 1)
    second = SourceInput(put_tar(store, file("two/c")), "vendor", 1)
    with pytest.raises(IntegrityError, match="link or file of an earlier source") as caught:
        room.lay_out(record(first, second), store)
    assert "directory:" in (caught.value.hint or "")
    assert not (room.work / "build/src/lib/c").exists()


def test_no_directory_is_made_behind_a_link_of_an_earlier_source(
    room: BuildDirectory, store: Store, tmp_path: Path
) -> None:
    (room.work / "build/out").rmdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    first = SourceInput(put_tar(store, file("one/a"), link("one/x", str(outside))), ".", 1)
    second = SourceInput(put_tar(store, file("two/c")), "x/y", 1)
    with pytest.raises(IntegrityError):
        room.lay_out(record(first, second), store)
    assert list(outside.iterdir()) == []


def test_an_error_names_the_package_the_file_and_where_it_is_from(
    room: BuildDirectory, store: Store
) -> None:
    (room.work / "build/out").rmdir()
    digest = put_tar(store, file("README"))
    named = SourceRef("x-1.tar.gz", digest, ("https://example.org/x-1.tar.gz",))
    with pytest.raises(RecipeError) as caught:
        room.lay_out(record(SourceInput(digest, ".", 1)), store, (named,))
    assert caught.value.place == "a/b-1: x-1.tar.gz"
    assert caught.value.details == ("source: https://example.org/x-1.tar.gz",)


def test_the_log_tells_what_was_got_over_and_the_epoch_is_1980_at_least(
    room: BuildDirectory, store: Store
) -> None:
    (room.work / "build/out").rmdir()
    digest = put_tar(store, file("one/a"), link("one/l", "/etc/passwd"))
    tool = store.put_bytes(b"#!/bin/sh")
    taken = SourceInput(tool, "bin", 0, "tool.sh", unpack=False)
    named = (SourceRef("x-1.tar.gz", digest, ()), SourceRef("tool.sh", tool, ()))
    epoch = room.lay_out(record(SourceInput(digest, ".", 1), taken, taken), store, named)
    assert epoch == 315532800
    log: list[bytes] = []
    room.write_log(log.append)
    assert b"".join(log).decode() == (
        "=== sources\n"
        "x-1.tar.gz: link 'l' leads to '/etc/passwd', out of the source: kept\n"
        "tool.sh: 'tool.sh' replaces that of an earlier source\n"
    )
    assert (room.work / "build/src/bin/tool.sh").read_bytes() == b"#!/bin/sh"
