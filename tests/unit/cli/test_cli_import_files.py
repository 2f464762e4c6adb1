"""`buildit import FILE`: what is written, and how bad files are refused. Nothing asks a network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Command

pytestmark = pytest.mark.unit

DOCKERFILE = """\
FROM scratch AS files
COPY a.txt /
ARG UNUSED=1
NONSENSE here
FROM scratch
COPY --from=files /a.txt /b.txt
ENV BRACES={{x}}
CMD ["/b"]
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "app"
    directory.mkdir()
    (directory / "a.txt").write_text("a\n")
    (directory / "Dockerfile").write_text(DOCKERFILE)
    return directory


def test_a_dockerfile_becomes_containers_beside_it(command: Command, app: Path) -> None:
    done = command("import", "app/Dockerfile", "--offline")
    assert done.code == 0, done.err
    assert done.out == "app\n"
    assert "not taken over: NONSENSE here" in done.err
    assert "build it: buildit app" in done.err
    text = (app / "container.yaml").read_text()
    assert "from: {container: ../app-files}" in text
    assert "BRACES: \"{{ '{{' }}x}}\"" in text
    stage = (app.parent / "app-files" / "container.yaml").read_text()
    assert "# Dockerfile:3: ARG UNUSED=1" in stage
    assert (app.parent / "app-files" / "a.txt").read_text() == "a\n"
    again = command("import", "app/Dockerfile", "--offline")
    assert again.code == 2
    assert "is there already" in again.err


def test_all_or_nothing(command: Command, app: Path) -> None:
    (app.parent / "app-files").mkdir()
    (app.parent / "app-files" / "kept").touch()
    done = command("import", "app/Dockerfile", "--offline")
    assert done.code == 2
    assert not (app / "container.yaml").exists()
    assert not any(name.startswith(".buildit") for name in os.listdir(app.parent))


def test_with_output_the_files_go_along(command: Command, app: Path) -> None:
    done = command("import", "app/Dockerfile", "--offline", "--output", "made")
    assert done.code == 0, done.err
    assert (app.parent / "made" / "a.txt").read_text() == "a\n"
    assert not (app / "container.yaml").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x-1.ebuild", b"\0\1", "x-1.ebuild is no text"),
        ("x-1.ebuild", b"EAPI=8\nX='", "the quote that begins here never ends"),
        ("x-1.ebuild", b"EAPI=8\n\xff", "byte 0xff is not UTF-8"),
        ("thing.ebuild", b"EAPI=8\n", "is no name of an ebuild"),
        ("x_1.dsc", b"Format: 1.0\n", "this is no .dsc: it has no field Source"),
        ("x_1.dsc", b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: X\n\nSource: x\n", "never begins"),
        ("x_1.dsc", b"Source: xy\nVersion: 1\nChecksums-Sha256:\n abc 1 x\n", "not a file of"),
        ("Dockerfile", b"RUN true\n", "FROM"),
        ("notes.txt", b"hello\n", "notes.txt is nothing that can be imported"),
    ],
)
def test_bad_files_are_named(
    command: Command, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    path = tmp_path / "box" / name
    path.parent.mkdir()
    path.write_bytes(content)
    done = command("import", str(path), "--offline")
    assert done.code == 2, done.err
    assert said in done.err
    assert os.listdir(path.parent) == [name]


def test_what_is_no_file_is_named(command: Command, tmp_path: Path) -> None:
    for path in (tmp_path / "gone.ebuild", tmp_path):
        done = command("import", str(path), "--offline")
        assert done.code == 2
        assert "Traceback" not in done.err
