"""The pages of a real binhost, served by nginx and looked at by headless Chromium."""

from __future__ import annotations

import html
import re
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin
from urllib.request import urlopen

import pytest

from buildit.digest import BuildKey, canonical, digest_bytes
from buildit.model.artifact import RUNTIME, Artifact, Encoding, Output
from buildit.site.catalogue import Site
from buildit.site.pages import refresh_pages
from buildit.store.artifacts import commit
from buildit.store.cas import Store
from buildit.store.names import ContainerEntry, ImageEntry, PackageEntry, index_bytes
from buildit.trust.ssh import SigningKey, builder_name, sign, signing_key
from tests.browser import PROGRAM, Browser, browser
from tests.hosts import directory
from tests.servers import Nginx, certificates, keygen, nginx

pytestmark = pytest.mark.sandbox

TYPES = "types { text/html html; text/plain json; }"
LONG = "a-name-without-any-place-to-break-it" * 6
EVIL = '"><script>console.log(1)</script><img src=https://evil.example/x>\u202e&amp;'
PHONE, DESK = 390, 1280
PAPER = 718
"""CSS pixels between the margins of A4."""
BETWEEN = (320, 768, 961)


@dataclass(frozen=True)
class Served:
    """A binhost with all that pages can show, and its pages by their path."""

    server: Nginx
    authority: Path
    root: Path

    @property
    def pages(self) -> list[str]:
        found = sorted(self.root.rglob("index.html"))
        return [f"{path.parent.relative_to(self.root)}/".removeprefix("./") for path in found]

    def get(self, url: str) -> bytes:
        trust = ssl.create_default_context(cafile=str(self.authority))
        with urlopen(url, context=trust) as answer:
            content: bytes = answer.read()
        return content


def signing(key: SigningKey) -> Callable[[bytes], bytes]:
    return lambda content: sign(content, key).encode()


def fill(root: Path, keys: Path) -> None:
    """Two builders who agree once and differ once, three packages, two containers."""
    signers = [signing_key(keygen(keys / name), None) for name in ("ada", "ben")]
    made: list[PackageEntry] = []
    with Store.open(root) as store:
        record = store.put_bytes(b"{}")
        for name, version in (("app/web", "1.0"), ("app/web", "1.10"), (f"libs/{LONG[:100]}", "3")):
            key = BuildKey(digest_bytes(f"{name} {version}".encode()))
            for number, key_of in enumerate(signers):
                content = f"{name} {number if version == '1.0' else ''}".encode()
                layer = store.put_bytes(content)
                output = Output(
                    layer, len(content), record, encodings=(Encoding("zstd", record, 9),)
                )
                one = Artifact(key, name, version, "linux/amd64", {RUNTIME: output}, record)
                commit(store, one, builder_name(key_of.public), signing(key_of))
            flags = ("+ssl", "-selinux", *(f"-{LONG[:30]}{n}" for n in range(20)))
            made.append(
                PackageEntry(
                    key, name, version, flags, ("p/a.patch", EVIL), True, 10**9,
                    (f"{LONG}.so.1", "libweb.so.1"), ("Mends a thing", LONG), EVIL,
                )
            )  # fmt: skip
    deb = "d" * 64
    made.append(PackageEntry(BuildKey(deb), "debian:libc6", "2.36-9+deb12u9", size=9, deb=deb))
    made.append(PackageEntry(BuildKey("e" * 64), EVIL, LONG, inside=False))
    for name, version in (("web", "1.0-p1"), ("web", "1.0-p2"), (LONG[:60], EVIL.replace("/", ""))):
        folder = root / "containers" / name
        stem = f"{name}-{version}-linux-amd64"
        (folder / stem / "p").mkdir(parents=True)
        (folder / stem / "p/a.patch").write_text("patch")
        (folder / f"{stem}.aci").write_bytes(b"aci")
        (folder / f"{stem}.aci.asc").write_bytes(b"signature")
        images = (
            ImageEntry(f"{stem}.aci", "aci", 3, "9" * 64),
            ImageEntry(f"{stem}.oci", "oci", 10**7, "", f"sha256:{'8' * 64}"),
        )
        entry = ContainerEntry(name, version, "linux", "amd64", EVIL, tuple(made), images)
        (folder / f"{stem}.card.json").write_bytes(index_bytes(entry))
        listed = {
            f"containers/{name}/{file}": {"sha256": digest_bytes(content), "size": len(content)}
            for file, content in ((f"{stem}.aci", b"aci"), (f"{stem}/p/a.patch", b"patch"))
        }
        (folder / f"{stem}.json").write_bytes(canonical({"files": listed}))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    here = tmp_path_factory.mktemp("pages")
    here.chmod(0o755)
    site = here / "site"
    site.mkdir()
    fill(site / "bin", here)
    made = certificates(here / "tls")
    with nginx(here / "nginx", site, made, TYPES) as server:
        publisher = directory(site / "bin")
        refresh_pages(publisher, Site("mine", f"{server.url}/bin"))
        publisher.close()
        yield Served(server, made.authority, site / "bin")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not installed: the pages are not looked at")
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def test_every_page_on_a_phone_and_on_a_desk(served: Served, tab: Browser) -> None:
    assert len(served.pages) == 9
    pictures = {}
    for page in served.pages:
        url = f"{served.server.url}/bin/{page}"
        for width in (PHONE, DESK):
            for scheme in ("light", "dark"):
                seen = tab.visit(url, width, scheme=scheme)
                assert seen.messages == (), "nothing is refused by the policy, nothing runs"
                assert seen.requests == (url,), "a page is one file"
                assert seen.width <= width, f"{page} must be scrolled sideways at {width}"
                assert seen.title
                pictures[page, width, scheme] = seen.picture
        for width in BETWEEN:
            assert tab.visit(url, width).width <= width, f"{page} at {width}"
    for page in served.pages:
        for width in (PHONE, DESK):
            assert pictures[page, width, "light"] != pictures[page, width, "dark"]


def test_pages_on_paper(served: Served, tab: Browser) -> None:
    for page in served.pages:
        seen = tab.visit(f"{served.server.url}/bin/{page}", PAPER, media="print")
        assert seen.messages == ()
        assert seen.width <= PAPER


def test_the_browser_would_tell(served: Served, tab: Browser) -> None:
    """What the other tests look for is seen where it is there."""
    bad = served.root / "bad.html"
    policy = "default-src 'none'"
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    bad.write_text(f'{meta}<style>p{{color:red}}</style><p style="width:2000px">wide</p>')
    try:
        seen = tab.visit(f"{served.server.url}/bin/bad.html", PHONE)
    finally:
        bad.unlink()
    assert seen.messages
    bad.write_text('<p style="width:2000px">wide</p><img src="x.png">')
    try:
        seen = tab.visit(f"{served.server.url}/bin/bad.html", PHONE)
    finally:
        bad.unlink()
    assert seen.width > PHONE
    assert f"{served.server.url}/bin/x.png" in seen.requests


class Links(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: set[str] = set()
        self.feed(page)

    def handle_starttag(self, _: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name == "href"]
        self.ids |= {value or "" for name, value in attrs if name == "id"}


def test_every_link_leads_somewhere(served: Served) -> None:
    """From the first page on, whatever is linked is there; a fragment is an id of its page."""
    start = f"{served.server.url}/bin/"
    pending, pages, seen = [start], {}, {start}
    fragments = []
    while pending:
        url = pending.pop()
        content = served.get(url)
        if not url.endswith("/"):
            continue
        pages[url] = Links(content.decode())
        for link in pages[url].found:
            target, fragment = urldefrag(urljoin(url, link))
            assert target.startswith(start)
            fragments += [(target, fragment)] if fragment else []
            if target not in seen:
                seen.add(target)
                pending.append(target)
    reached = {url.removeprefix(start) for url in pages}
    assert reached == {"" if page == "./" else page for page in served.pages}
    assert len(seen) > 25
    for target, fragment in fragments:
        assert unquote(fragment) in pages[target].ids


def test_the_commands_of_a_container_s_page_fetch_all_of_it(served: Served, tmp_path: Path) -> None:
    for tool in ("curl", "wget"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    page = served.get(f"{served.server.url}/bin/containers/web/").decode()
    block = html.unescape(re.findall("<pre[^>]*>(.*?)</pre>", page, re.S)[0])
    script = block[: block.index("gpg --verify web-1.0-p2-linux-amd64.aci.asc")]
    assert "1.0-p2" in script
    (tmp_path / "wgetrc").write_text(f"ca_certificate = {served.authority}\n")
    (tmp_path / "get").mkdir()
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path / "get",
        env={
            "PATH": "/usr/bin:/bin",
            "CURL_CA_BUNDLE": str(served.authority),
            "WGETRC": str(tmp_path / "wgetrc"),
        },
        check=True,
    )
    found = {
        str(p.relative_to(tmp_path / "get")) for p in (tmp_path / "get").rglob("*") if p.is_file()
    }
    stem = "web-1.0-p2-linux-amd64"
    assert found == {f"{stem}.sha256", f"{stem}.aci", f"{stem}/p/a.patch"}
