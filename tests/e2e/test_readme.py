"""The README's own container is one that starts: its blocks are copied, built, run and asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.e2e.demo import Demo
from tests.engines import podman
from tests.pages import files, write

pytestmark = pytest.mark.e2e


def test_the_readmes_container_starts(demo: Demo, here: Path) -> None:
    write("README.md", here)
    (here / "web/distfiles").symlink_to(demo.box / "distfiles")
    shutil.copy(demo.box / "buildit.lock", here / "web")
    done = demo.program.run(str(here / "web"), "--output", str(here / "out"), timeout=900).good()
    oci = here / "out/web-1.22.1-p1-linux-amd64.oci"
    assert oci in done.images()
    with podman() as program:
        web = program.start("readme", f"oci:{oci}").answers("http://localhost:8080/")
        shown = web.curl("-i", "http://localhost:8080/").stdout.replace("\r\n", "\n")
        assert "\nServer: mine/1.22.1\n" in shown
        assert shown.endswith("\n\nIt works.\n")
        assert web.stop() == 0


def test_the_readmes_debian_container_tests_itself(demo: Demo, here: Path) -> None:
    write("README.md", here)
    asked = (str(here / "app"), "--output", str(here / "out"))
    done = demo.program.run(*asked, timeout=900).good()
    oci = here / "out/app-1.0-linux-amd64.oci"
    assert oci in done.images()
    with podman() as program:
        web = program.start("readme-debian", f"oci:{oci}").answers("http://localhost/")
        assert web.curl("http://localhost/").stdout == "It works.\n"
    page = here / "app/container.yaml"
    page.write_text(page.read_text().replace("contains: It works", "contains: It fails"))
    failed = demo.program.run(*asked, timeout=900)
    assert failed.code == 1
    assert "It works." in failed.err  # what was got instead


def test_the_readme_shows_the_whole_container() -> None:
    assert set(files("README.md")) == {
        "web/pkgs/nginx/pkg.yaml",
        "web/pkgs/nginx/patches/name.patch",
        "web/container.yaml",
        "web/files/nginx.conf",
        "app/container.yaml",
    }
