"""What images hold, and whether they hold the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from buildit.cli.images import ls_verb, raise_for_report, report_lines, report_plain
from buildit.digest import digest_bytes
from buildit.errors import IntegrityError
from buildit.image.verify import Report, Verified
from tests.unit.image.samples import BlobDirectory, emit, image, nginx_layers

pytestmark = pytest.mark.unit


def seen(name: str, tree: str, *problems: str) -> Verified:
    return Verified(name, "oci", "sha256:x", digest_bytes(tree.encode()), 7, problems)


def test_equal_images_are_said_to_be_equal() -> None:
    found = Report((seen("a.aci", "t"), seen("b.oci", "t")), ())
    raise_for_report(found)
    lines = report_lines(found)
    assert lines[1].split() == ["a.aci", "oci", "7", f"sha256:{digest_bytes(b't')}"]
    assert lines[-1] == "All hold the same tree."
    assert report_plain(found)["passed"] is True


def test_different_images_fail_with_their_differences() -> None:
    found = Report((seen("a", "t"), seen("b", "u")), ("b: 'etc/x' is missing",))
    with pytest.raises(IntegrityError, match="1 differences") as caught:
        raise_for_report(found)
    assert caught.value.details == found.differences
    assert "All hold" not in report_lines(found)[-1]


def test_a_broken_image_fails_alone() -> None:
    found = Report((seen("a", "t", "bad \x1b[1mlabel"),), ())
    assert report_lines(found)[-1] == "a: bad ?[1mlabel"
    with pytest.raises(IntegrityError, match=r"be: 1 problem$"):
        raise_for_report(found)


@pytest.mark.parametrize(
    "form", ["aci", "docker-archive", "lxc", "nspawn", "oci", "rootfs", "squashfs"]
)
def test_ls_lists_any_image(form: str, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    blobs = BlobDirectory(tmp_path / "blobs")
    made = emit(image(nginx_layers(blobs), form), blobs, tmp_path / "out")
    told = CliRunner().invoke(ls_verb, [str(made.path)])
    assert told.exit_code == 0, told.output
    [line] = [line for line in told.output.splitlines() if line.endswith("  /usr/sbin/nginx")]
    assert line.split()[:2] == ["-rwxr-xr-x", "0:0"]
    again = CliRunner().invoke(ls_verb, [str(made.path), "--json"])
    assert f'"format": "{form}"' in again.output


def test_ls_of_a_damaged_image_lists_and_tells(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    blobs = BlobDirectory(tmp_path / "blobs")
    made = emit(image(nginx_layers(blobs), "oci"), blobs, tmp_path / "out")
    mark = made.path / "oci-layout"
    mark.write_text('{"imageLayoutVersion": "2.0.0"}')
    told = CliRunner().invoke(ls_verb, [str(made.path)])
    assert isinstance(told.exception, IntegrityError)
    assert "/usr/sbin/nginx" in told.output
