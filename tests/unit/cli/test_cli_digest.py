"""`buildit digest`: what it prints is what a recipe needs."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
import yaml

from buildit.cli.recipes import source_lines
from buildit.commands.fetching import Described
from buildit.digest import digest_bytes
from tests.integration.web import served
from tests.unit.archive import tarmaker
from tests.unit.cli.conftest import Command

pytestmark = pytest.mark.unit

END = tarmaker.END
GOOD = gzip.compress(tarmaker.file(b"x-1/a") + tarmaker.file(b"x-1/b", mtime=1_500_000_000) + END)
FLAT = tarmaker.file(b"a") + tarmaker.symlink(b"l", b"/etc")
FILES = {
    "x-1.tar.gz": GOOD,
    "flat.tar": FLAT,
    "tool.sh": b"#!/bin/sh\n",
    "odd name.7z": b"7z\xbc\xaf\x27\x1c" + bytes(99),
}


@pytest.fixture
def files(command: Command) -> tuple[str, ...]:
    for name, data in FILES.items():
        Path(name).write_bytes(data)
    return tuple(FILES)


def test_what_it_prints_can_be_copied(command: Command, files: tuple[str, ...]) -> None:
    said = command("digest", *files)
    assert said.code == 0
    assert yaml.safe_load(said.out) == {
        "sources": [
            {"url": "https://WHERE/x-1.tar.gz", "sha256": digest_bytes(GOOD)},
            {"url": "https://WHERE/flat.tar", "sha256": digest_bytes(FLAT), "strip": 0},
            {"url": "https://WHERE/tool.sh", "sha256": digest_bytes(FILES["tool.sh"])},
            {
                "url": "https://WHERE/odd name.7z",
                "sha256": digest_bytes(FILES["odd name.7z"]),
                "unpack": False,
            },
        ]
    }
    for text in (
        f"# {len(GOOD)} bytes; tar, gzip, 2 members in x-1/, newest of 2020-09-13",
        "# the archive has no end mark",
        "# 10 bytes; file\n",
        "cannot be unpacked: it is a 7z archive",
    ):
        assert text in said.out


def test_a_name_of_digits_stays_a_text() -> None:
    url = "https://example.org/?id=1"
    one = Described("123456789012", url, digest_bytes(b"x"), 1, None, "no archive")
    [entry] = yaml.safe_load("\n".join(source_lines((one,))))["sources"]
    assert entry["name"] == "123456789012"


def test_as_json(command: Command, files: tuple[str, ...]) -> None:
    good, flat, tool, odd = json.loads(command("digest", "--json", *files).out)
    assert good == {
        "name": "x-1.tar.gz",
        "url": None,
        "sha256": digest_bytes(GOOD),
        "size": len(GOOD),
        "unpack": True,
        "strip": 1,
        "kind": "tar, gzip",
        "members": 2,
        "top": "x-1",
        "newest": 1_600_000_000,
        "remarks": [],
    }
    assert (flat["strip"], flat["top"], len(flat["remarks"])) == (0, "", 1)
    assert (tool["kind"], odd["unpack"]) == ("file", False)


def test_what_is_no_file(command: Command) -> None:
    os.mkfifo("pipe")
    for name in ("absent", "pipe", ".", "ftp://example.org/x"):
        said = command("digest", name)
        assert said.code == 2
        assert "no such file" in said.err
    assert command("digest").code == 2


def test_plain_http_is_refused_and_nothing_else_is_asked(command: Command) -> None:
    said = command("digest", "http://example.org/x-1.tar.gz")
    assert said.code == 4
    assert "http is refused" in said.err
    assert "buildit digest FILE" in said.err


def test_a_url_is_kept_for_the_build(command: Command, tmp_path: Path) -> None:
    with served({"x-1.tar.gz": GOOD}) as url:
        Path(".buildit-config.yaml").write_text(f"mirrors: {{near: [{url}]}}\n")
        said = command("digest", "mirror://near/x-1.tar.gz")
        asked = command("digest", f"{url}/x-1.tar.gz")
    assert said.code == asked.code == 0, said.err
    assert "url: mirror://near/x-1.tar.gz\n" in said.out
    assert "http" not in said.out, "the machine's own server is no risk"
    assert (tmp_path / "store/blobs/sha256" / digest_bytes(GOOD)).exists()
    assert command("digest", "mirror://far/x").code == 2
