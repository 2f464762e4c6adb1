"""A binhost in Debian's docker-registry, with TLS and a password: the contract of remotes, garbage
collection, and what foreign clients make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from buildit.model.config import Oci
from buildit.remote.registry.client import Registry
from buildit.remote.registry.login import Login
from buildit.remote.registry.reference import parse_reference
from buildit.remote.web import WebTransport
from tests.registries import PASSWORD, USER, Served, registry, registry_there
from tests.remote_contract import CONTRACT, There

pytestmark = pytest.mark.sandbox

LOGIN = Login(USER, PASSWORD)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with registry(tmp_path_factory.mktemp("binhost") / "r") as found:
        yield found


@pytest.fixture
def web(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebTransport]:
    assert served.certificates is not None
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(served.certificates.authority))
    with closing(WebTransport()) as found:
        yield found


@pytest.mark.parametrize("case", CONTRACT, ids=lambda case: case.__name__)
def test_the_contract(
    case: Callable[[There], None], served: Served, web: WebTransport, tmp_path: Path
) -> None:
    address = Oci(served.host, f"contract/{case.__name__}")
    client = Registry(web, parse_reference(str(address)), lambda _: LOGIN)
    case(registry_there(client, address, served.put_blob, tmp_path))
