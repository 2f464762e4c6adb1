from __future__ import annotations

import pytest

from buildit.errors import UsageError
from buildit.remote.discovery import (
    PAGE_LIMIT,
    Sought,
    Tag,
    discover,
    pages_of,
    parse_page,
    parse_place,
    template_url,
)
from buildit.remote.transport import LocationError
from tests.fakes import FakeTransport

pytestmark = pytest.mark.unit

LABELS = {"version": "1.22.1", "os": "linux", "arch": "amd64"}
NAME = "example.com/containers/nginx"
ENDPOINT = (
    '<meta name="ac-discovery" '
    'content="example.com https://dl.example.com/{name}-{version}-{os}-{arch}.{ext}">'
)
KEYS = '<meta name="ac-discovery-pubkeys" content="example.com https://example.com/keys.asc">'
BINHOST = (
    '<meta name="buildit-binhost" content="example.com/containers https://bin.example.com/b/">'
)


def page(*tags: str) -> bytes:
    return f"<!doctype html><html><head>{''.join(tags)}</head><body>Hello</body></html>".encode()


def at(path: str) -> str:
    return f"https://example.com{path}?ac-discovery=1"


# -- the pure core


@pytest.mark.parametrize(
    ("text", "name", "port"),
    [
        ("example.com", "example.com", None),
        ("example.com/containers", "example.com/containers", None),
        ("Example.COM/Containers/", "example.com/Containers", None),
        ("localhost:8443/a/b", "localhost/a/b", 8443),
        ("10.0.0.1:1/x", "10.0.0.1/x", 1),
    ],
)
def test_a_place(text: str, name: str, port: int | None) -> None:
    assert parse_place(text) == Sought(name, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/x",
        "https://example.com/x",
        "example.com//x",
        "user@example.com/x",
        "-oProxyCommand=x/y",
        "example.com/a b",
        "example.com/../x",
        "example.com/./x",
        "example.com:0/x",
        "example.com:65536/x",
        "example.com:/x",
        "example.com/x?y",
        "exämple.com/x",
        "example.com/x\n",
        "example.com" + "/x" * 17,
    ],
)
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_place(text)
    assert caught.value.hint


def test_the_pages_walk_up_to_the_bare_host() -> None:
    assert list(pages_of(Sought("example.com/a/b", 8443))) == [
        "https://example.com:8443/a/b?ac-discovery=1",
        "https://example.com:8443/a?ac-discovery=1",
        "https://example.com:8443?ac-discovery=1",
    ]


def test_tags_of_a_page_in_their_order() -> None:
    text = page(
        ENDPOINT,
        "<META NAME=buildit-binhost CONTENT='a.b   https://c.d/?x=1&amp;y=2 '>",
        '<meta name="viewport" content="width=device-width">',
        '<meta name="ac-discovery" content="onlyaprefix">',
        '<meta name="ac-discovery">',
        '<meta name="ac-discovery" name="viewport" content="x https://first.wins/">',
        "<!-- <meta name='ac-discovery' content='in a comment'> -->",
        '<script>\'<meta name="ac-discovery" content="in a script">\'</script>',
    )
    assert parse_page(text) == (
        Tag(
            "ac-discovery",
            "example.com",
            "https://dl.example.com/{name}-{version}-{os}-{arch}.{ext}",
        ),
        Tag("buildit-binhost", "a.b", "https://c.d/?x=1&y=2"),
        Tag("ac-discovery", "x", "https://first.wins/"),
    )


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"<![", b"<!DOCTYPE [<", b"<meta" * 1000])
def test_a_page_that_is_none_has_no_tags(text: bytes) -> None:
    assert parse_page(text) == ()


def test_at_most_so_many_tags_of_a_page_count() -> None:
    assert len(parse_page(page(*([ENDPOINT] * 5000)))) == 256


@pytest.mark.parametrize(
    ("template", "url"),
    [
        ("https://h/{name}-{version}.{ext}", f"https://h/{NAME}-1.22.1.aci"),
        ("https://h/{os}/{arch}", "https://h/linux/amd64"),
        ("https://h/{flavour}/{os}", None),
        ("https://h/{}", None),
        ("https://h/{os", None),
        ("https://h/os}", None),
    ],
)
def test_templates(template: str, url: str | None) -> None:
    assert template_url(template, {**LABELS, "name": NAME, "ext": "aci"}) == url


def test_a_label_cannot_bring_a_variable_of_its_own() -> None:
    values = {**LABELS, "version": "{os}"}
    assert template_url("https://h/{version}", values) is None


# -- asking


def test_a_binhost_from_the_name_s_own_page() -> None:
    second = '<meta name="buildit-binhost" content="example.com https://b.example.com/{name}">'
    unknown = '<meta name="buildit-binhost" content="example.com https://b.example.com/{os}">'
    body = page(ENDPOINT, KEYS, BINHOST, unknown, second)
    transport = FakeTransport({at("/containers/nginx"): body, at(""): page(second)})
    found, _ = discover(Sought(NAME), transport)
    assert found == ["https://bin.example.com/b", f"https://b.example.com/{NAME}"]
    assert [url for url, _ in transport.asked] == [at("/containers/nginx")]


def test_a_page_with_tags_for_images_alone_is_walked_past() -> None:
    transport = FakeTransport(
        {
            at("/containers/nginx"): page(ENDPOINT, KEYS),
            at("/containers"): page(BINHOST),
            at(""): page(BINHOST.replace("bin.", "never.")),
        }
    )
    found, refused = discover(Sought(NAME), transport)
    assert (found, refused) == (["https://bin.example.com/b"], [])
    assert len(transport.asked) == 2


@pytest.mark.parametrize(
    "answer",
    [
        LocationError("u", "not found (HTTP 404)", absent=True),
        LocationError("u", "server error (HTTP 500)", transient=True),
        page(),
        page(BINHOST.replace("example.com/containers", "other.example")),
        b"x" * (PAGE_LIMIT + 1),
    ],
    ids=["404", "500", "no tag", "another prefix", "too long"],
)
def test_a_page_of_no_use_is_walked_past(answer: bytes | LocationError) -> None:
    transport = FakeTransport({at("/containers"): answer, at(""): page(BINHOST)}, chunk=1 << 16)
    found, _ = discover(Sought("example.com/containers"), transport)
    assert found == ["https://bin.example.com/b"]
    assert len(transport.asked) == 2


def test_a_prefix_is_compared_as_text() -> None:
    tag = '<meta name="buildit-binhost" content="example.com/cont https://b.example.com">'
    transport = FakeTransport({at("/containers"): page(tag)})
    assert discover(Sought("example.com/containers"), transport)[0]


def test_a_dead_host_is_asked_once() -> None:
    dead = LocationError("u", "connection refused", unreachable=True)
    transport = FakeTransport({at("/a/b"): dead, at(""): page(BINHOST)})
    found, refused = discover(Sought("example.com/a/b"), transport)
    assert found == []
    assert len(transport.asked) == 1
    assert "connection refused" in refused[0]


@pytest.mark.parametrize(
    "url",
    [
        "http://bin.example.com/b",
        "file:///etc",
        "/etc",
        "ssh://root@bin.example.com/",
        "https://user@bin.example.com/",
        "https://127.0.0.1/b",
        "https://localhost/b",
        "https://169.254.169.254/latest",
        "javascript:alert(1)",
    ],
)
def test_a_page_chooses_among_web_servers_only(url: str) -> None:
    tag = f'<meta name="buildit-binhost" content="example.com {url}">'
    found, refused = discover(Sought("example.com"), FakeTransport({at(""): page(tag)}))
    assert (found, len(refused)) == ([], 1)


def test_a_page_of_this_machine_may_name_this_machine() -> None:
    tag = '<meta name="buildit-binhost" content="localhost https://localhost:8443/b">'
    transport = FakeTransport({"https://localhost:8443?ac-discovery=1": page(tag)})
    assert discover(Sought("localhost", 8443), transport) == (["https://localhost:8443/b"], [])


@pytest.mark.parametrize("end", ["?x=1", "#there", "/?"])
def test_a_binhost_has_a_path_and_no_more(end: str) -> None:
    tag = f'<meta name="buildit-binhost" content="example.com https://bin.example.com/b{end}">'
    found, refused = discover(Sought("example.com"), FakeTransport({at(""): page(tag)}))
    assert found == []
    assert any("no root of a binhost has a query" in reason for reason in refused)


def test_a_page_of_other_names_says_whose_it_is() -> None:
    tag = '<meta name="buildit-binhost" content="example.com/binhost https://bin.example.com/b">'
    found, refused = discover(Sought("example.com/containers"), FakeTransport({at(""): page(tag)}))
    assert found == []
    said = "its binhosts are for example.com/binhost, and what is below"
    assert any(said in reason for reason in refused)
