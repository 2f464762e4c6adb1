"""The contract of remotes, for a real sshd and for a real nginx with TLS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.model.config import Https
from buildit.remote.binhost.directory import ReadOnly
from buildit.remote.binhost.ssh import SshRemote
from buildit.remote.sftp.login import SftpTransport
from buildit.remote.transport import ssh_address
from buildit.remote.web import WebTransport
from tests.hosts import directory, readable
from tests.remote_contract import CONTRACT, There, on_disk
from tests.servers import Nginx, Sshd, certificates, nginx, sshd

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Nginx, Path]]:
    here = tmp_path_factory.mktemp("web")
    here.chmod(0o755)
    (here / "site").mkdir()
    made = certificates(here / "tls")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            patch.delenv(name, raising=False)
        patch.setenv("SSL_CERT_FILE", str(made.authority))
        with nginx(here / "nginx", here / "site", made) as running:
            yield running, here / "site"


@pytest.mark.parametrize("case", CONTRACT, ids=lambda case: case.__name__)
def test_behind_ssh(
    case: Callable[[There], None], server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDIT_SSH", server.program)
    far = tmp_path / "a place" / "it's"
    account = ssh_address(server.url(far))
    with closing(SftpTransport()) as transport:
        there = SshRemote(account, transport, "a" * 16)
        there.prepare()
        case(_counted(on_disk(there, readable(account, transport), far, tmp_path)))


@pytest.mark.parametrize("case", CONTRACT, ids=lambda case: case.__name__)
def test_a_web_server(
    case: Callable[[There], None], web: tuple[Nginx, Path], tmp_path: Path
) -> None:
    running, site = web
    root = site / f"bin {case.__name__}"
    with closing(directory(root)) as local, closing(WebTransport()) as transport:
        address = Https(f"{running.url}/{root.name.replace(' ', '%20')}")
        reader = readable(address, transport, jobs=8)
        seen = len(running.requests())

        def asked() -> list[str]:
            return [request.split()[1] for request in running.requests()[seen:]]

        case(replace(on_disk(local, reader, root, tmp_path), asked=asked))
        if case.__name__ == "the_small_blobs_come_in_one_pack":
            assert sum(".pack" in path for path in asked()) == 1


def _counted(there: There) -> There:
    """With the paths that its transport is asked for."""
    found: list[str] = []
    reading = there.reader
    assert isinstance(reading, ReadOnly)
    inner = reading.transport.get

    class Counting:
        def get(self, url: str, offset: int, cap: int) -> object:
            found.append(url)
            return inner(url, offset, cap)

        def close(self) -> None:
            """The fixture does."""

    reader = ReadOnly(reading.address, Counting(), jobs=reading.jobs)  # type: ignore[arg-type]
    return replace(there, reader=reader, asked=lambda: found)
