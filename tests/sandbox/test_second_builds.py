"""What a second build gives: new pages to browsers, the same bytes, the output of others gone."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError

import pytest

from buildit.commands.building import build
from buildit.commands.run import Options
from buildit.events import Event, Notice, Reporter, silent
from tests.planning import Checkout, checkout
from tests.servers import Nginx, certificates, nginx

pytestmark = pytest.mark.sandbox

CONTAINER = """\
- vars: {name: web, version: 1.0}
- sync: {src: www, dest: /srv/www, recursive: true}
- image: {type: oci}
- image: {type: aci}
"""


@dataclass(frozen=True, slots=True)
class Page:
    """What a browser keeps of a page."""

    modified: str
    etag: str


@dataclass(frozen=True, slots=True)
class Answer:
    """`page` is None where the answer has none."""

    status: int
    page: Page | None


def container(root: Path) -> Checkout:
    made = checkout(root)
    made.write(".buildit-config.yaml", "trees: [./pkgs]\nrepositories: []\n")
    made.write("container/container.yaml", CONTAINER)
    made.write("container/www/a.html", "<p>first</p>\n")
    made.write("container/www/b.html", "<p>other</p>\n")
    return made


def built(
    project: Checkout, output: Path, *, locked: bool = False, report: Reporter = silent
) -> Path:
    """Build the container; its ACI."""
    options = Options(project.container, output, offline=True, locked=locked)
    build(options, report, threading.Event())
    (aci,) = output.glob("*.aci")
    return aci


def unpacked(aci: Path, site: Path) -> None:
    """Put what an image has for the web where nginx serves it."""
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir()
    argv = ["tar", "-C", str(site), "--strip-components=3", "-xpf", str(aci), "rootfs/srv/www"]
    subprocess.run(argv, check=True)


def asked(server: Nginx, name: str, trust: ssl.SSLContext, kept: Page | None = None) -> Answer:
    """What a browser gets; with `kept` it asks whether that page is still the newest."""
    request = urllib.request.Request(f"{server.url}/{name}")
    if kept is not None:
        request.add_header("If-None-Match", kept.etag)
        request.add_header("If-Modified-Since", kept.modified)
    try:
        with urllib.request.urlopen(request, context=trust) as answer:
            return Answer(
                answer.status, Page(answer.headers["Last-Modified"], answer.headers["ETag"])
            )
    except HTTPError as error:
        with error:
            return Answer(error.code, None)


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDIT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("nginx", "umoci", "skopeo"):
        if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            pytest.skip(f"{name} is not installed (apt-get install {name})")


def test_a_changed_page_of_the_same_length_is_fetched_again(tmp_path: Path) -> None:
    project, site = container(tmp_path / "one"), tmp_path / "site"
    made = certificates(tmp_path / "tls")
    trust = ssl.create_default_context(cafile=str(made.authority))
    unpacked(built(project, tmp_path / "out"), site)
    with nginx(tmp_path / "nginx", site, made) as server:
        first = {name: asked(server, name, trust).page for name in ("a.html", "b.html")}
        assert asked(server, "a.html", trust, first["a.html"]).status == 304
        path = project.container / "www/a.html"
        status = path.stat()
        path.write_text("<p>third</p>\n")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as rsync -t or a checkout may
        assert path.stat().st_size == status.st_size
        unpacked(built(project, tmp_path / "out"), site)
        changed = asked(server, "a.html", trust, first["a.html"])
        assert changed.status == 200
        assert changed.page is not None
        assert first["a.html"] is not None
        assert changed.page.modified != first["a.html"].modified
        assert changed.page.etag != first["a.html"].etag
        assert asked(server, "b.html", trust, first["b.html"]).status == 304
        assert asked(server, "b.html", trust).page == first["b.html"]


def test_the_same_lock_gives_the_same_bytes_in_another_clone(tmp_path: Path) -> None:
    """The times of its files are of the clone; those in the image are of the lock."""
    project, clone = container(tmp_path / "one"), container(tmp_path / "clone")
    first = built(project, tmp_path / "out")
    shutil.copy(project.container / "buildit.lock", clone.container)
    for path in clone.container.rglob("*"):
        os.utime(path, (1_500_000_000, 1_500_000_000))
    second = built(clone, tmp_path / "again", locked=True)
    assert second.read_bytes() == first.read_bytes()
    layouts = [(tmp_path / out / "web-1.0-linux-amd64.oci") for out in ("out", "again")]
    subprocess.run(["diff", "-r", *layouts], check=True)


def remarks(project: Checkout, output: Path) -> list[str]:
    told: list[Event] = []
    built(project, output, report=told.append)
    return [each.message for each in told if isinstance(each, Notice) and each.warning]


def test_what_others_put_into_a_layout_is_not_lost_in_silence(tmp_path: Path) -> None:
    project, out = container(tmp_path / "one"), tmp_path / "out"
    built(project, out)
    layout = out / "web-1.0-linux-amd64.oci"
    page = project.container / "www/a.html"

    def umoci(*words: str) -> None:
        subprocess.run(["umoci", *words], check=True, capture_output=True)

    umoci("tag", "--image", f"{layout}:1.0", "stable")
    skopeo = [
        "skopeo",
        "copy",
        "-q",
        "--insecure-policy",
        f"oci:{layout}:1.0",
        f"oci:{layout}:copy",
    ]
    subprocess.run(skopeo, check=True)
    (layout / "notes").mkdir()
    (layout / "notes/one.txt").write_text("mine")
    page.write_text("<p>second</p>\n")
    assert remarks(project, out) == [
        f"{layout.name} is made anew, without the tag 'stable', the tag 'copy', 'notes'"
    ]
    page.write_text("<p>third</p>\n")
    assert remarks(project, out) == []  # nothing but our own
    umoci("config", "--image", f"{layout}:1.0", "--author", "somebody else")
    assert remarks(project, out) == [
        f"{layout.name} is made anew, without another image of the tag '1.0'"
    ]
    assert remarks(project, out) == []
