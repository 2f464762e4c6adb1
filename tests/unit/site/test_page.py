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
from buildit.remote.discovery import parse_page, targets_of
from buildit.site.catalogue import ContainerIndex, PublishedFile, Site
from buildit.site.pages import (
    MOST_ON_ROOT,
    category_page,
    container_page,
    containers_page,
    package_page,
    packages_page,
    root_page,
    sums,
)
from buildit.store.attest import fingerprint
from buildit.store.names import (
    INDEX_LIMIT,
    Attestation,
    ContainerEntry,
    ImageEntry,
    IndexedBuild,
    IndexedOutput,
    NameIndex,
    PackageEntry,
    index_bytes,
    index_of,
    parse_index,
)
from buildit.trust.ssh import builder_name
from buildit.trust.ssh import key_fingerprint as of_key
from tests.appc_client import images

pytestmark = pytest.mark.unit

KEY = BuildKey("a1" * 32)
BUILDER = "ab" * 32
SITE = Site("mysuperbinhost", "https://bin.example.org:8443/b", pubkeys=True)
NGINX = PackageEntry(
    KEY,
    "www-servers/nginx",
    "1.22.1",
    ("+ipv6", "-selinux", "tls=openssl"),
    ("patches/https-only.patch",),
    size=1_000_000,
    notes=("This patch denies all plain http requests",),
    description="A web server",
)
PERL = PackageEntry(BuildKey("b" * 64), "dev-lang/perl", "5.36", inside=False)
LIBC = PackageEntry(
    BuildKey("c" * 64),
    "debian:libc6",
    "2.36-9",
    libraries=("libc.so.6",),
    size=2_000_000,
    deb="d" * 64,
)
ACI = ImageEntry("nginx-1.22.1-p1-linux-amd64.aci", "aci", 31_400_000, "9f" * 32)
OCI = ImageEntry("nginx-1.22.1-p1-linux-amd64.oci", "oci", 81_400_000, "", f"sha256:{'8e' * 32}")
ENTRY = ContainerEntry(
    "nginx", "1.22.1-p1", "linux", "amd64", "Me", (NGINX, PERL, LIBC), (ACI, OCI)
)
SPEC = (
    PublishedFile(ACI.file, "9f" * 32, 5),
    PublishedFile(f"{ENTRY.title}/pkgs/nginx/patches/https-only.patch", "7" * 64, 5),
)
BOX = ContainerIndex(
    "nginx",
    (ENTRY,),
    frozenset({ACI.file, OCI.file, f"{ACI.file}.asc"}),
    published={ENTRY.title: SPEC},
)
BUILD = IndexedBuild(
    KEY,
    "1.22.1",
    "linux/amd64",
    (IndexedOutput("runtime", 1_500_000, 700_000, "5" * 64), IndexedOutput("dev", 10, 0, "6" * 64)),
    (Attestation(BUILDER, f"{BUILDER}.json", f"{BUILDER}.json.sig"),),
    NGINX,
    (("nginx", ENTRY.title),),
)
LISTED = NameIndex("www-servers/nginx", (BUILD,), ((BuildKey("b2" * 32), "1.9"),))
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


def named(name: str, *versions: str) -> NameIndex:
    return NameIndex(name, (), tuple((KEY, version) for version in versions))


def shown(build: IndexedBuild) -> str:
    return package_page(SITE, NameIndex("www-servers/nginx", (build,)))


def pages(site: Site, box: ContainerIndex, index: NameIndex) -> list[str]:
    """One of each kind, in the order of `NAMES`."""
    builders = sorted({said.builder for build in index.builds for said in build.attestations})
    return [
        root_page(site, (box,), (index,), builders),
        containers_page(site, (box,)),
        packages_page(site, (index,)),
        category_page(site, index.category, (index,)),
        container_page(site, box, frozenset({index.directory})),
        package_page(site, index),
    ]


def test_each_page_is_whole_html_without_scripts_or_anything_from_elsewhere() -> None:
    for page in pages(SITE, BOX, LISTED):
        found = Reader(page)
        assert not set(found.names) & {"script", "img", "link", "iframe", "form", "object", "base"}
        assert "url(" not in page
        assert "@import" not in page
        assert len(set(found.ids)) == len(found.ids)
        assert all(re.fullmatch(r"[A-Za-z0-9._/%#-]*", link) for link in found.links)


def test_each_page_is_made_for_everybody() -> None:
    """Language, title, landmarks, one first heading and no gap after it, heads with a scope."""
    titles = set()
    for page in pages(SITE, BOX, LISTED):
        found = Reader(page)
        by_name = dict(found.tags)
        assert by_name["html"]["lang"] == "en"
        assert by_name["meta"]
        assert {"main", "footer", "title"} <= set(found.names)
        assert ("nav" in found.names) == (page != pages(SITE, BOX, LISTED)[0])
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
    for page in pages(SITE, BOX, LISTED):
        (style,) = re.findall("<style>(.*?)</style>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        policy = (
            f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-{digest}'"
        )
        (said,) = [
            attrs["content"]
            for tag, attrs in Reader(page).tags
            if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
        ]
        assert said == policy
        assert page.index("Content-Security-Policy") < page.index("<style>")


def _luminance(colour: str) -> float:
    """WCAG 2.2, "relative luminance"."""
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_in_light_and_in_dark() -> None:
    (style,) = re.findall("<style>(.*?)</style>", packages_page(SITE, ()), re.S)
    themes = [
        dict(re.findall(r"--(\w+):#(\w+)", one)) for one in re.findall(r":root{[^}]*}", style)
    ]
    assert len(themes) == 3, "light, dark, and paper"
    for theme in (themes[0], themes[1]):
        for ink in ("ink", "soft", "link", "bad"):
            for back in ("back", "card", "tag"):
                a, b = sorted((_luminance(theme[ink]), _luminance(theme[back])))
                assert (b + 0.05) / (a + 0.05) >= 4.5, (ink, back)


def test_what_the_pages_say() -> None:
    root, _, packages, category, box, package = (
        Reader(page).text for page in pages(SITE, BOX, LISTED)
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
    for said in ("A web server", "https-only", "denies all plain", ENTRY.title):
        assert said in package


def test_a_fingerprint_is_that_of_the_key() -> None:
    public = bytes(range(51))
    assert fingerprint(builder_name(public)) == of_key(public)
    assert fingerprint("local") == "unsigned"


def test_builders_who_agree_and_who_do_not() -> None:
    second = Attestation("cd" * 32, f"{'cd' * 32}.json", "")
    agree = replace(BUILD, attestations=(*BUILD.attestations, second))
    assert "2 builders, the same bytes" in Reader(shown(agree)).text
    differ = replace(BUILD, attestations=(*BUILD.attestations, replace(second, same=False)))
    said = Reader(shown(differ)).text
    assert "not reproducible" in said
    assert "other bytes" in said
    taken = replace(
        BUILD, attestations=(*BUILD.attestations, replace(second, restated=BuildKey("e5" * 32)))
    )
    assert "2 builders" not in Reader(shown(taken)).text, "no vote"
    alone = Reader(shown(BUILD)).text
    assert "same bytes" not in alone


def test_a_build_that_was_taken_over_says_from_where() -> None:
    (said_first,) = BUILD.attestations
    restated = replace(BUILD, attestations=(replace(said_first, restated=BuildKey("e5" * 32)),))
    said = Reader(shown(restated)).text
    assert "not built again, the bytes are those of  e5e5e5e5-e5e5-8" in said


def test_what_is_not_known_is_not_said_to_be_none() -> None:
    older = tuple((BuildKey(f"{n}" * 64), "0.9") for n in range(7))
    index = NameIndex("www-servers/nginx", (replace(BUILD, details=None),), older)
    bare = Reader(package_page(SITE, index)).text
    assert "8 builds, newest version first" in bare
    assert bare.count("not known") == 2
    assert "7 older builds not shown" in bare
    plain = replace(NGINX, flags=(), patches=(), notes=())
    assert "not known" not in shown(replace(BUILD, details=plain))


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
    made = dict(zip(NAMES, pages(SITE, BOX, LISTED), strict=True))
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
    before = replace(ENTRY, version="1.22.0", images=())
    box = replace(BOX, entries=(ENTRY, before), older=("nginx-1.0-linux-amd64",))
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
    box = replace(BOX, entries=(replace(ENTRY, images=(evil,)),))
    assert "oci:&#39;$(touch x).oci&#39;" in container_page(SITE, box, frozenset())
    assert "curl" not in container_page(Site("here"), BOX, frozenset())


@pytest.mark.scale
def test_many_packages_are_listed_by_category() -> None:
    many = [named(f"c{n % 7}/p{n}", "1") for n in range(MOST_ON_ROOT + 1)]
    links = Reader(root_page(SITE, (), many, ())).links
    assert "n/c3/" in links
    assert not any(link.startswith("n/c3/p") for link in links)
    crowd = [named(f"c{n % 50}/p{n}", "1.1", "1.0") for n in range(10_000)]
    assert len(root_page(SITE, (), crowd, ())) < 30_000
    assert len(category_page(SITE, "c0", crowd[:: len(crowd) // 200])) < 60_000
    few = Reader(root_page(SITE, (), many[:-1], ())).links
    assert "n/c3/p3/" in few


def test_the_same_values_give_the_same_pages() -> None:
    assert pages(SITE, BOX, LISTED) == pages(SITE, BOX, LISTED)


def test_an_empty_binhost_has_pages_too() -> None:
    for page in (
        root_page(SITE, (), (), ()),
        containers_page(SITE, ()),
        packages_page(SITE, ()),
        category_page(SITE, "a", ()),
    ):
        assert " yet." in Reader(page).text
    assert "No build of it is here" in package_page(SITE, NameIndex("a/b"))
    assert "Nothing of it" in container_page(
        SITE, ContainerIndex("x", (), frozenset()), frozenset()
    )


# -- text of others

anything = st.text(st.characters(codec=None), max_size=40) | st.just(EVIL)


@given(anything)
def test_text_of_anybody_is_text(written: str) -> None:
    page = root_page(Site(written), (), (), ())
    (shown,) = re.findall("<h1>(.*?)</h1>", page, re.S)
    assert not set('<>"') & set(shown)
    assert not re.search(r"&(?!amp;|lt;|gt;|#34;|#39;)", shown)
    page.encode()
    # No control characters, none that turn the direction of what follows.
    assert not re.search("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", shown)


@pytest.mark.scale
@given(anything, anything, anything, anything)
def test_pages_of_hostile_values_stay_pages(a: str, b: str, c: str, d: str) -> None:
    package = PackageEntry(KEY, a, b, (c, f"-{d}"), (a,), True, 1, (c,), (d,), b, "d" * 64)
    image = ImageEntry(f"{a}-{b}-{c}-x.aci", "aci", 1, d, a)
    entry = ContainerEntry(a, b, c, d, a, (package, replace(package, deb="")), (image,))
    files = frozenset({image.file, f"{image.file}.asc", f"{d}.card.json"})
    spec = {entry.title: (PublishedFile(a, b, 1), PublishedFile(f"{entry.title}/{c}", d, 2))}
    box = ContainerIndex(a, (entry,), files, (d,), spec)
    build = IndexedBuild(
        KEY,
        b,
        c,
        (IndexedOutput(d, 1, 2, a),),
        (Attestation(a, b, c, False, KEY),),
        package,
        ((a, d),),
    )
    index = NameIndex(a, (build,), ((KEY, d),))
    for page in pages(replace(SITE, title=a), box, index):
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
    evil = replace(ENTRY, name="bin.example.org/b https://evil.example/", version="1")
    box = replace(
        BOX, entries=(replace(evil, images=(replace(ACI, file=file),)),), files=frozenset({file})
    )
    for tag in parse_page(container_page(SITE, box, frozenset()).encode()):
        assert "evil" not in tag.target
        assert tag.target.startswith(SITE.url)


def test_a_file_that_is_no_path_cannot_leave_the_host() -> None:
    for file in ("//evil.example/x.aci", "javascript:alert(1)", "https://evil.example/"):
        entry = replace(ENTRY, images=(replace(ACI, file=file),))
        box = replace(BOX, entries=(entry,), files=frozenset({file}))
        for link in Reader(container_page(SITE, box, frozenset())).links:
            assert urlsplit(urljoin("https://h/a/b/", link)).netloc == "h"
            assert unquote(urljoin("https://h/a/b/", link)).startswith("https://h/")


def test_sizes_of_strangers() -> None:
    output = IndexedOutput("runtime", 2**61, 999_499, "5" * 64)
    said = Reader(shown(replace(BUILD, outputs=(output,)))).text
    assert "2.3 EB" in said
    assert "999.5 kB" in said


# -- discovery


def test_app_container_clients_find_the_image_on_each_page_with_containers() -> None:
    labels = {"version": "1.22.1-p1", "os": "linux", "arch": "amd64"}
    name = "bin.example.org/b/containers/nginx"
    place = "https://bin.example.org:8443/b/containers/nginx/nginx-1.22.1-p1-linux-amd64.aci"
    made = pages(SITE, BOX, LISTED)
    for page in (made[0], made[1], made[4]):
        tags = parse_page(page.encode())
        assert images(tags, name, labels) == ((place, f"{place}.asc"),)
    for page in made:
        tags = parse_page(page.encode())
        assert targets_of(tags, "ac-discovery-pubkeys", name) == (f"{SITE.url}/pubkeys.asc",)
        assert targets_of(tags, "buildit-binhost", name) == (SITE.url,)


def test_a_container_with_a_host_qualified_name_is_found_by_it() -> None:
    file = "h.example-nginx-1.22.1-p1-linux-amd64.aci"
    entry = replace(ENTRY, name="h.example/nginx", images=(replace(ACI, file=file),))
    box = ContainerIndex("h.example/nginx", (entry,), frozenset({file}))
    labels = {"version": "1.22.1-p1", "os": "linux", "arch": "amd64"}
    tags = parse_page(container_page(SITE, box, frozenset()).encode())
    ((aci, _),) = images(tags, "h.example/nginx", labels)
    assert aci == f"{SITE.url}/containers/h.example/nginx/{file}"


def test_the_longest_prefix_comes_first() -> None:
    longer = replace(ENTRY, images=(replace(ACI, file="nginx-extra-1.22.1-p1-linux-amd64.aci"),))
    extra = ContainerIndex("nginx-extra", (longer,), frozenset({longer.images[0].file}))
    page = containers_page(SITE, (BOX, extra))
    labels = {"version": "1.22.1-p1", "os": "linux", "arch": "amd64"}
    name = "bin.example.org/b/containers/nginx-extra"
    aci, _ = images(parse_page(page.encode()), name, labels)[0]
    assert aci.endswith("/containers/nginx-extra/nginx-extra-1.22.1-p1-linux-amd64.aci")


def test_without_an_address_or_an_image_there_are_no_tags() -> None:
    for page in pages(Site("here"), BOX, LISTED):
        assert parse_page(page.encode()) == ()
    gone = replace(BOX, files=frozenset())
    tags = parse_page(container_page(replace(SITE, pubkeys=False), gone, frozenset()).encode())
    assert [tag.kind for tag in tags] == ["buildit-binhost"]


# -- indices and entries


def test_indices_survive_json() -> None:
    assert parse_index(ContainerEntry, index_bytes(ENTRY)) == ENTRY
    assert parse_index(PackageEntry, index_bytes(NGINX)) == NGINX
    restated = replace(BUILD.attestations[0], restated=KEY, same=False)
    builds = (replace(BUILD, attestations=(restated,)), replace(BUILD, details=None))
    index = replace(LISTED, builds=builds)
    assert index_of(index_bytes(index), index.name) == index
    assert index_of(index_bytes(index), "app/other") is None, "it says another name than its place"
    assert index_of(None, index.name) is None
    assert index_bytes(index) == index_bytes(index_of(index_bytes(index), index.name) or LISTED)


def test_an_index_says_who_has_stated_a_build() -> None:
    assert LISTED.keys == (KEY, "b2" * 32)
    assert LISTED.versions == ("1.22.1", "1.9")
    assert LISTED.builders_of(KEY) == (BUILDER,)
    assert LISTED.builders_of(BuildKey("b2" * 32)) == ()
    evil = replace(BUILD, attestations=(Attestation("../x", "../x.json", ""),))
    assert NameIndex("a/b", (evil,)).builders_of(KEY) == (), "no name of a file comes of it"


def test_an_entry_of_before_is_still_read() -> None:
    """Of a package's fields, those that came later may be missing."""
    plain = json.loads(index_bytes(ENTRY))
    for package in plain["packages"]:
        for name in ("notes", "description", "deb"):
            del package[name]
    for image in plain["images"]:
        del image["identifier"]
    found = parse_index(ContainerEntry, json.dumps(plain).encode())
    assert found is not None
    assert found.packages[0] == replace(NGINX, notes=(), description="")
    kept = json.loads(index_bytes(NGINX))
    del kept["inside"]
    assert parse_index(PackageEntry, json.dumps(kept).encode()) == NGINX


def garbled(content: bytes, *pairs: tuple[bytes, bytes]) -> list[bytes]:
    made = [content.replace(before, after, 1) for before, after in pairs]
    assert content not in made
    return made


HUGE = b'"size":1' + b"0" * 9999


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{}", b"[" * 99999, b"\xff", b'{"format":"1"}',
        *garbled(
            index_bytes(ENTRY),
            (b'"format":"1"', b'"format":"2"'),
            (b'"size":1000000', b'"size":"9"'),
            (b'"size":1000000', b'"size":-1'),
            (b'"size":1000000', b'"size":true'),
            (b'"size":1000000', b'"size":1' + b"0" * 400),
            (b'"size":1000000', HUGE),
            (b'"name":"nginx"', b'"name":7'),
            (b'"name":"nginx"', b'"name":"\\ud800"'),
            (b'"+ipv6"', b"[]"),
            (b'["libc.so.6"]', b'"libc.so.6"'),
            (b'["libc.so.6"]', b'{"libc.so.6":1}'),
            (b'"inside":false', b'"inside":0'),
            (b'"This patch', b'"","This patch'),
            (b'"author"', b'"writer"'),
            (KEY.encode(), b"../../../etc"),
            (b"d" * 64, b"d" * 63),
        ),
    ],
)  # fmt: skip
def test_what_is_no_entry(content: bytes) -> None:
    assert parse_index(ContainerEntry, content) is None


@pytest.mark.parametrize(
    "content",
    [
        b"", b"null", index_bytes(ENTRY), b" " * (INDEX_LIMIT + 1) + index_bytes(LISTED),
        *garbled(
            index_bytes(LISTED),
            (b'"builds":[', b'"builds":[[],'),
            (b'"older":[[', b'"older":[["x",'),
            (b'"same":true', b'"same":null'),
            (b'"packed":0', b'"packed":0.5'),
            (b'"restated":null', b'"restated":"x"'),
            (b'"inside":[["nginx",', b'"inside":[["nginx","",'),
            (b'"details":{', b'"details":{"more":1,'),
        ),
    ],
)  # fmt: skip
def test_what_is_no_index(content: bytes) -> None:
    assert index_of(content, LISTED.name) is None


@given(st.binary(max_size=40), st.integers(0, 4000))
def test_a_garbled_entry_is_none_or_can_be_shown(noise: bytes, at: int) -> None:
    for whole in (index_bytes(ENTRY), index_bytes(LISTED)):
        here = at % len(whole)
        content = whole[:here] + noise + whole[here + len(noise) :]
        entry = parse_index(ContainerEntry, content)
        if entry is not None:
            Reader(container_page(SITE, replace(BOX, entries=(entry,)), frozenset({"a/b"})))
        index = parse_index(NameIndex, content)
        if index is not None:
            Reader(package_page(SITE, index))
