"""The pages of a binhost: what they show, where they link, and that text of others stays text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from buildit.digest import BuildKey
from buildit.model.card import Card, CardImage, CardPackage, card_bytes, parse_card
from buildit.net.discovery import Image, Wanted, images, matching, parse_page
from buildit.store.page import (
    Build,
    Container,
    Site,
    container_page,
    containers_page,
    package_page,
    root_page,
)

pytestmark = pytest.mark.unit

KEY = BuildKey("a1" * 32)
SITE = Site("mysuperbinhost", "https://bin.example.org:8443/b", pubkeys=True)
NGINX = CardPackage(
    KEY, "www-servers/nginx", "1.22.1", ("ipv6", "-selinux"), ("patches/https-only.patch",), True, 9
)
PERL = CardPackage("b" * 64, "dev-lang/perl", "5.36", inside=False)
LIBC = CardPackage("c" * 64, "debian:libc6", "2.36-9", libraries=("libc.so.6",), size=2_000_000)
ACI = CardImage("nginx-1.22.1-p1-linux-amd64.aci", "aci", 31_400_000, "9f" * 32)
OCI = CardImage("nginx-1.22.1-p1-linux-amd64.oci", "oci", 81_400_000, "")
CARD = Card("nginx", "1.22.1-p1", "linux", "amd64", "Me", (NGINX, PERL, LIBC), (ACI, OCI))
BOX = Container("nginx", (CARD,), frozenset({ACI.file, OCI.file, f"{ACI.file}.asc"}))
BUILD = Build(KEY, "1.22.1", "linux/amd64", 1_500_000, ("ab" * 32,), (f"{'ab' * 32}.json",), NGINX)
EVIL = "\"><script>alert(1)</script>'&amp;{{x}}"


class Reader(HTMLParser):
    """Every tag, link and text; unbalanced tags are errors."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name == "href"]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += f"{data} "


def pages(site: Site, box: Container, build: Build, name: str) -> list[str]:
    return [
        root_page(site, (box,), {name: [build.version]}),
        containers_page(site, (box,)),
        container_page(site, box),
        package_page(site, name, (build,)),
    ]


def test_each_page_is_whole_html_without_scripts_or_anything_from_elsewhere() -> None:
    for page in pages(SITE, BOX, BUILD, "www-servers/nginx"):
        found = Reader(page)
        assert not found.tags & {"script", "img", "link", "iframe", "form", "object"}
        assert "url(" not in page
        assert "@import" not in page
        assert all(re.fullmatch(r"(\.\./)*[A-Za-z0-9._/%-]*", link) for link in found.links)
        assert '<meta name="viewport"' in page


def test_what_the_pages_say() -> None:
    root, _, box, package = (
        Reader(page).text for page in pages(SITE, BOX, BUILD, "www-servers/nginx")
    )
    assert "1 container, 1 package" in root
    assert "buildit DIR --discover=bin.example.org:8443/b" in root
    assert "download-path: bin.example.org:8443/b" in root
    for said in ("1.22.1-p1 for linux/amd64", "31.4 MB", "9f" * 32, "OpenPGP signature"):
        assert said in box
    for said in ("ipv6", "-selinux", "patches/https-only.patch", "libc.so.6", "dev-lang/perl-5.36"):
        assert said in box
    for said in ("a1a1a1a1-a1a1-8a1a-", "abababababab", "1.5 MB", "-selinux", "https-only"):
        assert said in package


def test_links_lead_where_the_layout_has_things() -> None:
    root, listing, box, package = (
        Reader(page).links for page in pages(SITE, BOX, BUILD, "www-servers/nginx")
    )
    assert {"containers/nginx/", "n/www-servers/nginx/"} <= set(root)
    assert {"../", "nginx/"} == set(listing)
    assert {"../../", "../", ACI.file, f"{ACI.file}.asc", "../../n/www-servers/nginx/"} <= set(box)
    assert not any("debian" in link for link in box), "a Debian package has no page"
    assert OCI.file not in box, "an OCI layout is a directory, which a web server may not list"
    assert f"../../../k/a1/{KEY}/{'ab' * 32}.json" in package
    deep = Reader(container_page(SITE, replace(BOX, directory="example.org/x"))).links
    assert {"../../../", "../../", "../../../n/www-servers/nginx/"} <= set(deep)


def test_the_same_data_gives_the_same_pages() -> None:
    once = pages(SITE, BOX, BUILD, "www-servers/nginx")
    assert once == pages(SITE, BOX, BUILD, "www-servers/nginx")


def test_text_of_others_stays_text() -> None:
    package = CardPackage(KEY, EVIL, EVIL, (EVIL,), (EVIL,), True, 1, (EVIL,))
    image = CardImage(f"{EVIL}-{EVIL}-{EVIL}-x.aci", "aci", 1, EVIL)
    card = Card(EVIL, EVIL, EVIL, EVIL, EVIL, (package,), (image,))
    box = Container(EVIL, (card,), frozenset({image.file, f"{image.file}.asc"}))
    build = Build(KEY, EVIL, EVIL, 1, (EVIL,), (EVIL,), package)
    for page in pages(replace(SITE, title=EVIL), box, build, EVIL):
        assert not Reader(page).tags & {"script"}


def test_an_empty_binhost_has_pages_too() -> None:
    for page in (
        root_page(SITE, (), {}),
        containers_page(SITE, ()),
        package_page(SITE, "a/b", ()),
        container_page(SITE, Container("x", (), frozenset())),
    ):
        assert " yet." in Reader(page).text


# -- discovery


def test_app_container_clients_find_the_image_on_each_page_with_containers() -> None:
    labels = {"version": "1.22.1-p1", "os": "linux", "arch": "amd64"}
    wanted = Wanted("bin.example.org/b/containers/nginx", 8443, labels)
    place = "https://bin.example.org:8443/b/containers/nginx/nginx-1.22.1-p1-linux-amd64.aci"
    for page in pages(SITE, BOX, BUILD, "www-servers/nginx")[:3]:
        tags = parse_page(page.encode())
        assert images(tags, wanted) == (Image(place, f"{place}.asc"),)
        assert matching(tags, "ac-discovery-pubkeys", wanted) == (f"{SITE.url}/pubkeys.asc",)
        assert matching(tags, "buildit-binhost", wanted) == (SITE.url,)


def test_a_container_with_a_host_qualified_name_is_found_by_it() -> None:
    file = "h.example-nginx-1.22.1-p1-linux-amd64.aci"
    card = replace(CARD, name="h.example/nginx", images=(replace(ACI, file=file),))
    box = Container("h.example/nginx", (card,), frozenset({file}))
    labels = {"version": "1.22.1-p1", "os": "linux", "arch": "amd64"}
    tags = parse_page(container_page(SITE, box).encode())
    (image,) = images(tags, Wanted("h.example/nginx", None, labels))
    assert image.aci == f"{SITE.url}/containers/h.example/nginx/{file}"


def test_the_longest_prefix_comes_first() -> None:
    longer = replace(CARD, images=(replace(ACI, file="nginx-extra-1.22.1-p1-linux-amd64.aci"),))
    extra = Container("nginx-extra", (longer,), frozenset({longer.images[0].file}))
    page = containers_page(SITE, (BOX, extra))
    labels = {"version": "1.22.1-p1", "os": "linux", "arch": "amd64"}
    wanted = Wanted("bin.example.org/b/containers/nginx-extra", None, labels)
    first = images(parse_page(page.encode()), wanted)[0]
    assert first.aci.endswith("/containers/nginx-extra/nginx-extra-1.22.1-p1-linux-amd64.aci")


def test_without_an_address_or_an_image_there_are_no_tags() -> None:
    for page in pages(Site("here"), BOX, BUILD, "a/b"):
        assert parse_page(page.encode()) == ()
    gone = replace(BOX, files=frozenset())
    tags = parse_page(container_page(replace(SITE, pubkeys=False), gone).encode())
    assert [tag.kind for tag in tags] == ["buildit-binhost"]


# -- cards


def test_cards_survive_json() -> None:
    assert parse_card(card_bytes(CARD)) == CARD


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 99999,
        card_bytes(CARD).replace(b'"format":"1"', b'"format":"2"'),
        card_bytes(CARD).replace(b'"size":9', b'"size":"9"'),
        card_bytes(CARD).replace(b'"name":"nginx"', b'"name":7'),
        card_bytes(CARD).replace(b'"ipv6"', b"[]"),
        card_bytes(CARD).replace(b'"author"', b'"writer"'),
        card_bytes(CARD).replace(KEY.encode(), b"../../../etc"),
    ],
)
def test_what_is_no_card(content: bytes) -> None:
    assert content != card_bytes(CARD)
    assert parse_card(content) is None
