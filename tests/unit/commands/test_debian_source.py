"""Where the files of a Debian source are looked for before anything is resolved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from buildit.commands.debian_source import is_had
from buildit.commands.run import opened_run
from buildit.debian.sources import SourceFile
from buildit.digest import digest_bytes
from buildit.errors import FetchError
from buildit.events import silent
from buildit.model.config import Config, Directory, Repository
from buildit.remote.transport import LocalTransport, LocationError, SchemeTransport, Transport
from buildit.store.cas import Store
from tests.fakes import FakeTransport

pytestmark = pytest.mark.unit

DSC = b"Format: 3.0 (quilt)\n"
FILE = SourceFile("pool/main/x/x/x_1.dsc", len(DSC), digest_bytes(DSC))
MIRROR = f"https://example.org/debian/{FILE.path}"
BINHOST = f"binhost://hub/blobs/sha256/{FILE.digest}"
Served = Mapping[str, bytes | LocationError]


def had(store: Store, here: Path, served: Served) -> tuple[bool, list[str]]:
    """Whether the file is had, and which URLs were asked for it."""
    (here / "hub").mkdir()
    config = Config(
        store.root,
        1,
        mirrors={"debian": ("https://example.org/debian",)},
        distfiles=(str(here / "distfiles"),),
        repositories=(Repository("hub", Directory(str(here / "hub")), None),),
    )
    fake = FakeTransport(served)
    ways: dict[str, Callable[[], Transport]] = {
        "file": LocalTransport,
        "binhost": lambda: fake,
        "https": lambda: fake,
    }
    with opened_run(config, store, silent) as run:
        run.downloads._transport = SchemeTransport(ways)
        return is_had(FILE, "bookworm", run.downloads), [url for url, _ in fake.asked]


def test_what_the_store_has_is_asked_for_nowhere(store: Store, tmp_path: Path) -> None:
    store.put_bytes(DSC)
    assert had(store, tmp_path, {}) == (True, [])


@pytest.mark.parametrize("name", [FILE.name, FILE.digest])
def test_a_file_of_distfiles_is_no_hole(store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "distfiles").mkdir()
    (tmp_path / "distfiles" / name).write_bytes(DSC)
    assert had(store, tmp_path, {}) == (True, [])


def test_a_file_of_distfiles_with_another_size_is_passed_over(store: Store, tmp_path: Path) -> None:
    (tmp_path / "distfiles").mkdir()
    (tmp_path / "distfiles" / FILE.name).write_bytes(DSC[:-1])
    assert had(store, tmp_path, {}) == (False, [BINHOST, MIRROR])


def test_a_blob_of_a_binhost_is_no_hole(store: Store, tmp_path: Path) -> None:
    assert had(store, tmp_path, {BINHOST: DSC}) == (True, [BINHOST])


def test_a_binhost_that_cannot_be_asked_is_left_out(store: Store, tmp_path: Path) -> None:
    down = LocationError(BINHOST, "no route to host")
    assert had(store, tmp_path, {BINHOST: down, MIRROR: DSC}) == (True, [BINHOST, MIRROR])


def test_a_hole_is_one_and_a_mirror_that_cannot_be_asked_is_none(
    store: Store, tmp_path: Path
) -> None:
    assert had(store, tmp_path, {BINHOST: LocationError(BINHOST, "no route to host")}) == (
        False,
        [BINHOST, MIRROR],
    )
    (tmp_path / "hub").rmdir()
    with pytest.raises(FetchError, match="no route"):
        had(store, tmp_path, {MIRROR: LocationError(MIRROR, "no route to host")})
