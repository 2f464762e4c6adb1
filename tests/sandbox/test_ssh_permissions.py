"""What publishing over SSH does where permissions are in the way; as root too."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path

import pytest

from buildit.digest import digest_bytes
from buildit.errors import FetchError
from buildit.remote.binhost.protocols import Outgoing
from buildit.remote.binhost.ssh import SshRemote
from buildit.remote.sftp.login import SftpTransport
from buildit.remote.transport import ssh_address
from tests.servers import sshd

pytestmark = pytest.mark.sandbox
SERVER = "/usr/lib/openssh/sftp-server"


def outgoing(content: bytes) -> Outgoing:
    return Outgoing(digest_bytes(content), len(content), lambda: BytesIO(content))


@contextmanager
def powerless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshRemote]:
    """Publishes to `tmp_path/far`, through an SFTP server for which permissions count even if root
    runs the tests, and whose umask lets nobody else in."""
    dropped = "/usr/bin/setpriv --bounding-set -dac_override,-dac_read_search"
    program = f"{dropped} {SERVER}" if os.geteuid() == 0 else SERVER
    with (
        sshd(tmp_path / "sshd", subsystem=f"{program} -u 077") as strict,
        closing(SftpTransport()) as transport,
    ):
        monkeypatch.setenv("BUILDIT_SSH", strict.program)
        account = ssh_address(strict.url(tmp_path / "far"))
        yield SshRemote(account, transport, "a" * 16)


def test_a_place_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = tmp_path / "far"
    far.mkdir(mode=0o555)
    with powerless(tmp_path, monkeypatch) as publisher:
        with pytest.raises(
            FetchError, match=f"directory {re.escape(str(far))} cannot be written to"
        ) as caught:
            publisher.prepare()
        assert "own that directory" in str(caught.value.hint)
    assert list(far.iterdir()) == []


def test_directories_can_be_looked_into_whatever_the_umask_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with powerless(tmp_path, monkeypatch) as publisher:
        publisher.prepare()
        publisher.put([outgoing(b"one")], lambda _sent, _of: None)
        blob = tmp_path / "far/blobs/sha256" / digest_bytes(b"one")
        assert blob.stat().st_mode & 0o777 == 0o444
        assert {path.stat().st_mode & 0o777 for path in blob.parents[:3]} == {0o755}


def test_a_page_that_was_left_without_its_name_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are made read-only before they get their names: such a one cannot be written again."""
    page = tmp_path / "page"
    page.write_text("new")
    with powerless(tmp_path, monkeypatch) as publisher:
        publisher.prepare()
        left = Path("/", publisher.temporary("index.html"))
        left.write_text("old")
        left.chmod(0o444)
        publisher.write("index.html", page)
        assert (tmp_path / "far/index.html").read_text() == "new"
        assert not left.exists()


def test_a_page_that_cannot_get_its_name_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page"
    page.write_text("new")
    far = tmp_path / "far"
    with powerless(tmp_path, monkeypatch) as publisher:
        publisher.prepare()
        far.chmod(0o555)
        with pytest.raises(FetchError, match=r"refuses: index\.html: Permission denied"):
            publisher.write("index.html", page)
    assert list((far / "tmp").iterdir()) == []
