"""The pages of a binhost: what they show, where they link, and that text of others stays text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildit.digest import BuildKey
from buildit.remote.discovery import Image, Wanted, images, matching, parse_page
from buildit.site.card import (
    Card,
    CardImage,
    CardPackage,
    card_bytes,
    package_bytes,
    parse_card,
    parse_package,
)
from buildit.site.container_page import container_page, sums
from buildit.site.html import POLICY, size, table, text
from buildit.site.package_page import package_page
from buildit.site.page import (
    MOST_ON_ROOT,
    category_page,
    containers_page,
    packages_page,
    root_page,
)
from buildit.site.pagestyle import STYLE
from buildit.site.shown import (
    Build,
    Claim,
    Container,
    Listed,
    Part,
    Site,
    SpecFile,
)
from buildit.store.attest import fingerprint
from buildit.trust.sshsig import builder_name
from buildit.trust.sshsig import key_fingerprint as of_key

pytestmark = pytest.mark.unit

KEY = BuildKey("a1" * 32)
BUILDER = "ab" * 32
SITE = Site("mysuperbinhost", "https://bin.example.org:8443/b", pubkeys=True)
NGINX = CardPackage(
    KEY,
    "www-servers/nginx",
    "1.22.1",
    ("+ipv6", "-selinux", "tls=openssl"),
    ("patches/https-only.patch",),
    size=1_000_000,
    notes=("This patch denies all plain http requests",),
    description="A web server",
)
PERL = CardPackage("b" * 64, "dev-lang/perl", "5.36", inside=False)
LIBC = CardPackage(
    "c" * 64, "debian:libc6", "2.36-9", libraries=("libc.so.6",), size=2_000_000, deb="d" * 64
)
ACI = CardImage("nginx-1.22.1-p1-linux-amd64.aci", "aci", 31_400_000, "9f" * 32)
OCI = CardImage("nginx-1.22.1-p1-linux-amd64.oci", "oci", 81_400_000, "", f"sha256:{'8e' * 32}")
CARD = Card("nginx", "1.22.1-p1", "linux", "amd64", "Me", (NGINX, PERL, LIBC), (ACI, OCI))
SPEC = (
    SpecFile(ACI.file, "9f" * 32, 5),
    SpecFile(f"{CARD.stem}/pkgs/nginx/patches/https-only.patch", "7" * 64, 5),
)
BOX = Container(
    "nginx",
    (CARD,),
    frozenset({ACI.file, OCI.file, f"{ACI.file}.asc"}),
    published={CARD.stem: SPEC},
)
BUILD = Build(
    KEY,
    "1.22.1",
    "linux/amd64",
    (Part("runtime", 1_500_000, 700_000, "5" * 64), Part("dev", 10, 0, "6" * 64)),
    (Claim(BUILDER, f"{BUILDER}.json", f"{BUILDER}.json.sig"),),
    NGINX,
    (("nginx", CARD.stem),),
)
LISTED = Listed("www-servers/nginx", "www-servers/nginx", ("1.22.1", "1.9"))
EVIL = "\"><script>alert(1)</script>'&amp;{{x}}\n\u202ejavascript:alert(1)"
NAMES = ("", "containers/", "n/", "n/www-servers/", "containers/nginx/", "n/www-servers/nginx/")


class Reader(HTMLParser):
    """Every tag, link, id and text; unbalanced tags are errors."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.links += [value or "" for name, value in attrs if name == "href"]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        assert len(dict(attrs)) == len(attrs)
        assert not [name for name, _ in attrs if name.startswith("on") or name == "style"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += f"{data} "

    @property
    def names(self) -> list[str]:
        return [tag for tag, _ in self.tags]


def pages(site: Site, box: Container, build: Build, listed: Listed) -> list[str]:
    """One of each kind, in the order of `NAMES`."""
    builders = sorted({claim.builder for claim in build.claims})
    return [
        root_page(site, (box,), (listed,), builders),
        containers_page(site, (box,)),
        packages_page(site, (listed,)),
        category_page(site, listed.directory.partition("/")[0], (listed,)),
        container_page(site, box, frozenset({listed.directory})),
        package_page(site, listed, (build,)),
    ]


def test_each_page_is_whole_html_without_scripts_or_anything_from_elsewhere() -> None:
    for page in pages(SITE, BOX, BUILD, LISTED):
        found = Reader(page)
        assert not set(found.names) & {"script", "img", "link", "iframe", "form", "object", "base"}
        assert "url(" not in page
        assert "@import" not in page
        assert len(set(found.ids)) == len(found.ids)
        assert all(re.fullmatch(r"[A-Za-z0-9._/%#-]*", link) for link in found.links)


def test_each_page_is_made_for_everybody() -> None:
    """Language, title, landmarks, one first heading and no gap after it, heads with a scope."""
    titles = set()
    for page in pages(SITE, BOX, BUILD, LISTED):
        found = Reader(page)
        by_name = dict(found.tags)
        assert by_name["html"]["lang"] == "en"
        assert by_name["meta"]
        assert {"main", "footer", "title"} <= set(found.names)
        assert ("nav" in found.names) == (page != pages(SITE, BOX, BUILD, LISTED)[0])
        levels = [int(tag[1]) for tag in found.names if re.fullmatch(r"h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(b - a <= 1 for a, b in pairwise(levels))
        assert all(attrs.get("scope") for tag, attrs in found.tags if tag == "th")
        assert found.names.count("caption") == found.names.count("table")
        assert all(attrs.get("tabindex") == "0" for tag, attrs in found.tags if tag == "pre")
        titles.add(re.search("<title>(.*)</title>", page)[1])  # type: ignore[index]
    assert len(titles) == len(NAMES)


def test_the_policy_allows_the_one_style_and_nothing_else() -> None:
    for page in pages(SITE, BOX, BUILD, LISTED):
        (style,) = re.findall("<style>(.*?)</style>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert (
            f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-{digest}'"
        ) == POLICY
        (said,) = [
            attrs["content"]
            for tag, attrs in Reader(page).tags
            if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
        ]
        assert said == POLICY
        assert page.index("Content-Security-Policy") < page.index("<style>")


def _luminance(colour: str) -> float:
    """WCAG 2.2, "relative luminance"."""
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_in_light_and_in_dark() -> None:
    themes = [
        dict(re.findall(r"--(\w+):#(\w+)", one)) for one in re.findall(r":root{[^}]*}", STYLE)
    ]
    assert len(themes) == 3, "light, dark, and paper"
    for theme in (themes[0], themes[1]):
        for ink in ("ink", "soft", "link", "bad"):
            for back in ("back", "card", "tag"):
                a, b = sorted((_luminance(theme[ink]), _luminance(theme[back])))
                assert (b + 0.05) / (a + 0.05) >= 4.5, (ink, back)


def test_what_the_pages_say() -> None:
    root, _, packages, category, box, package = (
        Reader(page).text for page in pages(SITE, BOX, BUILD, LISTED)
    )
    assert "1 container, 1 package, 1 builder" in root
    assert "buildit DIR --discover=bin.example.org:8443/b" in root
    assert "download-path: bin.example.org:8443/b" in root
    assert f"{SITE.url}/builders/{BUILDER}.pub" in root
    assert fingerprint(BUILDER) in root
    assert "www-servers" in packages
    assert "1.9" in category
    for said in ("1.22.1-p1 for linux/amd64", "31.4 MB", "9f" * 32, "8e" * 32, "OpenPGP"):
        assert said in box
    for said in ("ipv6", "\u2212 selinux".replace(" ", ""), "tls=openssl", "libc.so.6", "d" * 64):
        assert said in box
    assert "Inside: 2 packages, 1 library, 3.0 MB unpacked" in box
    assert "This patch denies all plain http requests" in box
    assert "dev-lang/perl-5.36" in box
    for said in ("a1a1a1a1-a1a1-8a1a-", KEY, fingerprint(BUILDER), "1.5 MB", "700.0 kB", "5" * 64):
        assert said in package
    for said in ("A web server", "https-only", "denies all plain", CARD.stem):
        assert said in package


def test_a_fingerprint_is_that_of_the_key() -> None:
    public = bytes(range(51))
    assert fingerprint(builder_name(public)) == of_key(public)
    assert fingerprint("local") == "unsigned"


def test_builders_who_agree_and_who_do_not() -> None:
    second = Claim("cd" * 32, f"{'cd' * 32}.json", "")
    agree = replace(BUILD, claims=(*BUILD.claims, second))
    assert "2 builders, the same bytes" in Reader(package_page(SITE, LISTED, (agree,))).text
    differ = replace(BUILD, claims=(*BUILD.claims, replace(second, same=False)))
    said = Reader(package_page(SITE, LISTED, (differ,))).text
    assert "not reproducible" in said
    assert "other bytes" in said
    taken = replace(BUILD, claims=(*BUILD.claims, replace(second, restated=BuildKey("e5" * 32))))
    assert "2 builders" not in Reader(package_page(SITE, LISTED, (taken,))).text, "no vote"
    alone = Reader(package_page(SITE, LISTED, (BUILD,))).text
    assert "same bytes" not in alone


def test_a_build_that_was_taken_over_says_from_where() -> None:
    (claim,) = BUILD.claims
    restated = replace(BUILD, claims=(replace(claim, restated=BuildKey("e5" * 32)),))
    said = Reader(package_page(SITE, LISTED, (restated,))).text
    assert "not built again, the bytes are those of  e5e5e5e5-e5e5-8" in said


def test_what_is_not_known_is_not_said_to_be_none() -> None:
    bare = Reader(package_page(SITE, LISTED, (replace(BUILD, details=None),), hidden=7)).text
    assert bare.count("not known") == 2
    assert "7 older builds not shown" in bare
    plain = replace(NGINX, flags=(), patches=(), notes=())
    assert "not known" not in package_page(SITE, LISTED, (replace(BUILD, details=plain),))


def test_links_lead_where_the_layout_has_things() -> None:
    there = {
        *NAMES,
        f"builders/{BUILDER}.pub",
        f"k/a1/{KEY}/{BUILDER}.json",
        f"k/a1/{KEY}/{BUILDER}.json.sig",
        f"containers/nginx/{ACI.file}",
        f"containers/nginx/{ACI.file}.asc",
        f"containers/nginx/{SPEC[1].path}",
    }
    seen = set()
    made = dict(zip(NAMES, pages(SITE, BOX, BUILD, LISTED), strict=True))
    for name, page in made.items():
        for link in Reader(page).links:
            target = urlsplit(urljoin(f"https://h/{name}", link))
            path = target.path.removeprefix("/")
            assert path in there, f"{name}: {link}"
            assert not target.fragment or target.fragment in Reader(made[path]).ids
            seen.add(path)
    assert seen == there
    deep = Reader(container_page(SITE, replace(BOX, directory="example.org/x"), frozenset())).links
    assert {"../../../", "../../"} <= set(deep)
    assert not any("nginx/" in link for link in deep if "/n/" in link), "a package without a page"


def test_older_versions_of_a_container_can_be_opened() -> None:
    before = replace(CARD, version="1.22.0", images=())
    box = replace(BOX, cards=(CARD, before), older=("nginx-1.0-linux-amd64",))
    found = Reader(container_page(SITE, box, frozenset()))
    assert "Newest: 1.22.1-p1 by Me" in found.text
    assert "(3 versions)" in found.text
    summaries = re.findall("<summary>(.*?)</summary>", container_page(SITE, box, frozenset()))
    assert "1.22.0 for linux/amd64" in summaries
    assert "nginx-1.0-linux-amd64.card.json" in found.links


def test_the_commands_that_fetch_a_container_are_words_of_a_shell() -> None:
    page = container_page(SITE, BOX, frozenset())
    (block,) = re.findall("<pre[^>]*>(.*?)</pre>", page, re.S)
    assert "https://bin.example.org:8443/b/containers/nginx/nginx-1.22.1-p1-linux-amd64" in block
    assert "--cut-dirs=3 " in block
    assert f"gpg --verify {ACI.file}.asc {ACI.file}" in block
    assert sums(SPEC) == "".join(f"{one.digest}  {one.path}\n" for one in SPEC)
    evil = replace(OCI, file="$(touch x).oci")
    box = replace(BOX, cards=(replace(CARD, images=(evil,)),))
    assert "&#x27;oci:$(touch x).oci&#x27;" in container_page(SITE, box, frozenset())
    assert "curl" not in container_page(Site("here"), BOX, frozenset())


def test_many_packages_are_listed_by_category() -> None:
    many = [Listed(f"c{n % 7}/p{n}", f"c{n % 7}/p{n}", ("1",)) for n in range(MOST_ON_ROOT + 1)]
    links = Reader(root_page(SITE, (), many, ())).links
    assert "n/c3/" in links
    assert not any(link.startswith("n/c3/p") for link in links)
    crowd = [Listed(f"c{n % 50}/p{n}", f"c{n % 50}/p{n}", ("1.1", "1.0")) for n in range(10_000)]
    assert len(root_page(SITE, (), crowd, ())) < 30_000
    assert len(category_page(SITE, "c0", crowd[:: len(crowd) // 200])) < 60_000
    few = Reader(root_page(SITE, (), many[:-1], ())).links
    assert "n/c3/p3/" in few


def test_the_same_values_give_the_same_pages() -> None:
    assert pages(SITE, BOX, BUILD, LISTED) == pages(SITE, BOX, BUILD, LISTED)


def test_an_empty_binhost_has_pages_too() -> None:
    for page in (
        root_page(SITE, (), (), ()),
        containers_page(SITE, ()),
        packages_page(SITE, ()),
        category_page(SITE, "a", ()),
    ):
        assert " yet." in Reader(page).text
    assert "No build of it is here" in package_page(SITE, LISTED, ())
    assert "Nothing of it" in container_page(SITE, Container("x", (), frozenset()), frozenset())


# -- text of others

anything = st.text(st.characters(codec=None), max_size=40) | st.just(EVIL)


@given(anything)
def test_text_of_anybody_is_text(written: str) -> None:
    shown = text(written)
    assert not set('<>"') & set(shown)
    assert not re.search(r"&(?!amp;|lt;|gt;|quot;|#x27;)", shown)
    shown.encode()
    # No control characters, none that turn the direction of what follows.
    assert not re.search("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", shown)


@given(anything, anything, anything, anything)
def test_pages_of_hostile_values_stay_pages(a: str, b: str, c: str, d: str) -> None:
    package = CardPackage(KEY, a, b, (c, f"-{d}"), (a,), True, 1, (c,), (d,), b, d)
    image = CardImage(f"{a}-{b}-{c}-x.aci", "aci", 1, d, a)
    card = Card(a, b, c, d, a, (package, replace(package, deb="")), (image,))
    files = frozenset({image.file, f"{image.file}.asc", f"{d}.card.json"})
    spec = {card.stem: (SpecFile(a, b, 1), SpecFile(f"{card.stem}/{c}", d, 2))}
    box = Container(a, (card,), files, (d,), spec)
    build = Build(KEY, b, c, (Part(d, 1, 2, a),), (Claim(a, b, c, False, KEY),), package, ((a, d),))
    listed = Listed(a, b, (c, d))
    for page in pages(replace(SITE, title=a), box, build, listed):
        page.encode()
        found = Reader(page)
        assert not set(found.names) & {"script", "img", "link", "iframe", "form", "object", "base"}
        assert [tag for tag, _ in found.tags].count("style") == 1
        for link in found.links:
            target = urlsplit(urljoin("https://h.example/x/y/z/w/", link))
            assert (target.scheme, target.netloc, target.query) == ("https", "h.example", "")
        for tag in parse_page(page.encode()):
            assert tag.target.startswith(("https://bin.example.org:8443/b", SITE.url)), tag


def test_a_name_cannot_turn_discovery_elsewhere() -> None:
    file = "x-1-linux-amd64.aci"
    evil = replace(CARD, name="bin.example.org/b https://evil.example/", version="1")
    box = replace(
        BOX, cards=(replace(evil, images=(replace(ACI, file=file),)),), files=frozenset({file})
    )
    for tag in parse_page(container_page(SITE, box, frozenset()).encode()):
        assert "evil" not in tag.target
        assert tag.target.startswith(SITE.url)


def test_a_file_that_is_no_path_cannot_leave_the_host() -> None:
    for file in ("//evil.example/x.aci", "javascript:alert(1)", "https://evil.example/"):
        card = replace(CARD, images=(replace(ACI, file=file),))
        box = replace(BOX, cards=(card,), files=frozenset({file}))
        for link in Reader(container_page(SITE, box, frozenset())).links:
            assert urlsplit(urljoin("https://h/a/b/", link)).netloc == "h"
            assert unquote(urljoin("https://h/a/b/", link)).startswith("https://h/")


def test_parts() -> None:
    assert [size(n) for n in (0, 999, 1000, 999_499, 10**9, 2**61)] == [
        "0 B", "999 B", "1.0 kB", "999.5 kB", "1.0 GB", "2.3 EB",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="zip"):
        table("t", ("a", "b"), [("one",)])


# -- discovery


def test_app_container_clients_find_the_image_on_each_page_with_containers() -> None:
    labels = {"version": "1.22.1-p1", "os": "linux", "arch": "amd64"}
    wanted = Wanted("bin.example.org/b/containers/nginx", 8443, labels)
    place = "https://bin.example.org:8443/b/containers/nginx/nginx-1.22.1-p1-linux-amd64.aci"
    made = pages(SITE, BOX, BUILD, LISTED)
    for page in (made[0], made[1], made[4]):
        tags = parse_page(page.encode())
        assert images(tags, wanted) == (Image(place, f"{place}.asc"),)
    for page in made:
        tags = parse_page(page.encode())
        assert matching(tags, "ac-discovery-pubkeys", wanted) == (f"{SITE.url}/pubkeys.asc",)
        assert matching(tags, "buildit-binhost", wanted) == (SITE.url,)


def test_a_container_with_a_host_qualified_name_is_found_by_it() -> None:
    file = "h.example-nginx-1.22.1-p1-linux-amd64.aci"
    card = replace(CARD, name="h.example/nginx", images=(replace(ACI, file=file),))
    box = Container("h.example/nginx", (card,), frozenset({file}))
    labels = {"version": "1.22.1-p1", "os": "linux", "arch": "amd64"}
    tags = parse_page(container_page(SITE, box, frozenset()).encode())
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
    for page in pages(Site("here"), BOX, BUILD, LISTED):
        assert parse_page(page.encode()) == ()
    gone = replace(BOX, files=frozenset())
    tags = parse_page(container_page(replace(SITE, pubkeys=False), gone, frozenset()).encode())
    assert [tag.kind for tag in tags] == ["buildit-binhost"]


# -- cards


def test_cards_survive_json() -> None:
    assert parse_card(card_bytes(CARD)) == CARD
    assert parse_package(package_bytes(NGINX)) == NGINX
    assert parse_package(package_bytes(replace(NGINX, inside=False))) == NGINX


def test_a_card_of_before_is_still_read() -> None:
    """Of a package's fields, those that came later may be missing."""
    plain = json.loads(card_bytes(CARD))
    for package in plain["packages"]:
        for name in ("notes", "description", "deb"):
            del package[name]
    for image in plain["images"]:
        del image["identifier"]
    found = parse_card(json.dumps(plain).encode())
    assert found is not None
    assert found.packages[0] == replace(NGINX, notes=(), description="")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 99999,
        card_bytes(CARD).replace(b'"format":"1"', b'"format":"2"'),
        card_bytes(CARD).replace(b'"size":1000000', b'"size":"9"'),
        card_bytes(CARD).replace(b'"size":1000000', b'"size":-1'),
        card_bytes(CARD).replace(b'"size":1000000', b'"size":true'),
        card_bytes(CARD).replace(b'"size":1000000', b'"size":1' + b"0" * 400),
        card_bytes(CARD).replace(b'"size":1000000', b'"size":1' + b"0" * 9999),
        card_bytes(CARD).replace(b'"name":"nginx"', b'"name":7'),
        card_bytes(CARD).replace(b'"name":"nginx"', b'"name":"\\ud800"'),
        card_bytes(CARD).replace(b'"+ipv6"', b"[]"),
        card_bytes(CARD).replace(b'["libc.so.6"]', b'"libc.so.6"'),
        card_bytes(CARD).replace(b'["libc.so.6"]', b'{"libc.so.6":1}'),
        card_bytes(CARD).replace(b'"inside":false', b'"inside":0'),
        card_bytes(CARD).replace(b'"This patch', b'"","This patch'),
        card_bytes(CARD).replace(b'"author"', b'"writer"'),
        card_bytes(CARD).replace(KEY.encode(), b"../../../etc"),
        card_bytes(CARD).replace(b"d" * 64, b"d" * 63),
    ],
)
def test_what_is_no_card(content: bytes) -> None:
    assert content != card_bytes(CARD)
    assert parse_card(content) is None


@given(st.binary(max_size=40), st.integers(0, 4000))
def test_a_garbled_card_is_none_or_can_be_shown(noise: bytes, at: int) -> None:
    content = card_bytes(CARD)
    at %= len(content)
    card = parse_card(content[:at] + noise + content[at + len(noise) :])
    if card is not None:
        Reader(container_page(SITE, replace(BOX, cards=(card,)), frozenset({"a/b"})))
