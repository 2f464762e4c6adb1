"""The words of `buildit run`, and who may be whom inside."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from buildit.cli.running import port_of, run_verb, variables_of, volume_of
from buildit.commands.run_image import PublishedPort
from buildit.errors import BuilditError, UsageError
from buildit.sandbox.container import Mounted
from buildit.sandbox.spaces import IdMap, subordinate

pytestmark = pytest.mark.unit


def test_volumes(tmp_path: Path) -> None:
    assert volume_of(f"{tmp_path}:/data") == Mounted(tmp_path, "/data")
    assert volume_of(f"{tmp_path}:/a//b/:ro") == Mounted(tmp_path, "/a/b", read_only=True)
    for text in ("", "/x", f"{tmp_path}:data", f"{tmp_path}:/", f"{tmp_path}:/a/../..", ":/a"):
        with pytest.raises(UsageError, match="not a volume"):
            volume_of(text)
    with pytest.raises(UsageError, match="not a volume"):
        volume_of(f"{tmp_path}:/a:rx")
    with pytest.raises(UsageError, match="there is nothing to mount"):
        volume_of(f"{tmp_path}/missing:/a")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("8080:80", PublishedPort("127.0.0.1", 8080, 80)),
        ("0.0.0.0:8080:80/tcp", PublishedPort("0.0.0.0", 8080, 80)),
        ("[::1]:8080:80", PublishedPort("::1", 8080, 80)),
    ],
)
def test_ports(text: str, wanted: PublishedPort) -> None:
    assert port_of(text) == wanted


@pytest.mark.parametrize("text", ["80", "80:", ":80", "0:80", "80:65536", "80:80/udp", "a:80:80"])
def test_no_ports(text: str) -> None:
    with pytest.raises(UsageError, match="no ports to publish"):
        port_of(text)


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIVEN", "here")
    monkeypatch.delenv("MISSING", raising=False)
    found = [*variables_of(("A=b=c", "A=", "GIVEN", "MISSING"))]
    assert found == [("A", "b=c"), ("A", ""), ("GIVEN", "here")]
    with pytest.raises(UsageError, match="not a variable"):
        [*variables_of(["=x"])]


def test_an_image_of_a_registry_is_pulled_first() -> None:
    told = CliRunner().invoke(run_verb, ["oci://example.org/x:1"])
    assert isinstance(told.exception, UsageError)
    assert told.exception.hint == "bring it here first: buildit pull oci://example.org/x:1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--network", "host", "--publish", "80:80"), "a network of its own"),
        (("--workdir", "tmp"), "not absolute"),
        ((), "cannot be read"),
    ],
)
def test_refused_before_anything_runs(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    told = CliRunner().invoke(run_verb, [*words, str(tmp_path / "missing.oci"), "--", "/bin/sh"])
    assert isinstance(told.exception, BuilditError)
    assert message in told.exception.message
    left = tmp_path / "cache/buildit-run"
    assert not left.exists() or [one for one in left.iterdir() if one.suffix != ".lock"] == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("other:1:65536\nme:100000:65536\n", (100000, 65536)),
        ("1000:200000:65536\n", (200000, 65536)),
        ("me:100000:10\nme:300000:70000\n", (300000, 70000)),
        ("me:100000:10\n", None),
        ("me:x:65536\n#\n", None),
        ("", None),
    ],
)
def test_a_range_of_subordinate_ids(text: str, wanted: tuple[int, int] | None) -> None:
    assert subordinate(text, "me", 1000) == wanted


def test_whom_a_map_has() -> None:
    several = IdMap(((0, 5, 1), (1, 1000, 10)), ((0, 5, 1), (1, 1000, 10)))
    assert several.several()
    assert several.has(10, 0)
    assert not several.has(11, 0)
    assert not IdMap(((33, 5, 1),), ((34, 5, 1),)).has(0, 34)
