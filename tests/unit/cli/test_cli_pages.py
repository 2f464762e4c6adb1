"""`buildit pages`: the views of a binhost, made anew by whoever looks after it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from buildit.digest import BuildKey, digest_bytes
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.store.artifacts import commit
from buildit.store.cas import Store
from tests.unit.cli.conftest import Command

pytestmark = pytest.mark.unit

CONFIG = Path(".buildit-config.yaml")


@pytest.fixture
def binhost(tmp_path: Path) -> Path:
    root = tmp_path / "binhost"
    with Store.open(root) as store:
        record = store.put_bytes(b"{}")
        for name in ("app/a", "app/b"):
            layer = store.put_bytes(name.encode())
            output = Output(layer, len(name), record)
            key = BuildKey(digest_bytes(name.encode()))
            one = Artifact(key, name, "1.0", "linux/amd64", {RUNTIME: output}, record)
            commit(store, one, "ab" * 32, lambda _: b"signature")
    return root


def test_pages_of_a_directory(command: Command, binhost: Path) -> None:
    said = command("pages", str(binhost))
    assert (said.code, said.err) == (0, "")
    assert said.out == f"{binhost}  9 files written\n"
    assert "<title>binhost</title>" in (binhost / "index.html").read_text()
    assert command("pages", str(binhost)).out == f"{binhost}  0 files written\n"
    (binhost / "n/app/a/index.html").unlink()
    shutil.rmtree(binhost / "n/app/b")
    assert "2 packages" in (binhost / "index.html").read_text()
    assert json.loads(command("pages", str(binhost), "--json").out)["written"] == 4
    assert "1 package," in (binhost / "index.html").read_text()
    assert (binhost / "n/app/a/index.html").exists()


def test_title_and_address_are_kept(command: Command, binhost: Path) -> None:
    url = "https://h.example:8443/b"
    said = json.loads(
        command("pages", str(binhost), "--title", "A <b>", "--url", f"{url}/", "--json").out
    )
    assert (said["title"], said["url"], said["path"]) == ("A <b>", url, str(binhost))
    page = (binhost / "index.html").read_text()
    assert "<title>A &lt;b&gt;</title>" in page
    assert f'<meta name="buildit-binhost" content="h.example/b {url}">' in page
    assert command("pages", str(binhost)).out.endswith("  0 files written\n")


def test_a_repository_of_the_configuration(command: Command, binhost: Path) -> None:
    CONFIG.write_text(
        f"repository: {{name: mine, upload-type: file, upload-path: {binhost}, "
        "download-type: https, download-path: h.example/b}\n"
    )
    assert command("pages", "mine").out == f"{binhost}  9 files written\n"
    page = (binhost / "index.html").read_text()
    assert "<title>mine</title>" in page
    assert "download-path: h.example/b" in page
    assert command("pages", str(binhost)).out == f"{binhost}  0 files written\n", "the same place"


def test_what_is_no_binhost_is_left_alone(command: Command, tmp_path: Path) -> None:
    CONFIG.write_text("repository: {name: far, download-type: https, download-path: h.example/b}\n")
    (tmp_path / "empty").mkdir()
    for word, hint in (
        (str(tmp_path / "empty"), "buildit-store.json"),
        ("far", "upload-path"),
        ("nowhere", "repositories: far"),
    ):
        said = command("pages", word)
        assert (said.code, said.out) == (2, "")
        assert hint in said.err
    assert list((tmp_path / "empty").iterdir()) == []


BAD = (
    "http://h.example", "https://", "https://h/?q", "https://h/#f", "https://u@h/", "h",
    "https://h/a b", "https://h:x/",
)  # fmt: skip


@pytest.mark.parametrize("url", BAD)
def test_an_address_that_pages_cannot_have(command: Command, binhost: Path, url: str) -> None:
    said = command("pages", str(binhost), "--url", url)
    assert said.code == 2
    assert "https://" in said.err
    assert not (binhost / "index.html").exists()
