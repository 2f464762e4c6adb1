from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildit.remote.transport import LocationError, hide_credentials, parse_target, redirect

pytestmark = pytest.mark.unit

GOOD = [
    "https://example.org/a.tar.gz",
    "http://example.org:8080/a?x=y",
    "https://EXAMPLE.org./a%20b",
    "https://xn--bcher-kva.example/",
    "https://my_mirror.example.org/",
    "https://[2001:db8::1]:443/x",
    "https://192.0.2.7/x",
    "https://0x7f.example.org/x",
    "https://[64:ff9b::c000:207]/x",
]
BAD = [
    "",
    "a.tar.gz",
    "ftp://example.org/a",
    "file:///etc/passwd",
    "ext::sh -c id",
    "ssh://-oProxyCommand=id/x",
    "https://-oProxyCommand=id/x",
    "https://user:secret@example.org/",
    "https://@example.org/",
    "https:///path",
    "https://exa mple.org/",
    "https://example.org/a\r\nHost: evil",
    "https://example.org/\tx",
    "https://exämple.org/",
    "https://example.org:0x50/",
    "https://example.org:99999/",
    "https://exam$ple.org/",
    "https://example..org/",
    "https://[::1/",
    "https://169.254.169.254/latest",
    "https://[fe80::1]/",
    "https://[fe80::1%25eth0]/",
    "https://[::ffff:169.254.169.254]/",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://1.2.3/",
    "http://127.0.0.0x1/",
    "http://127.0x1/",
    "http://169.254.0xA9FE/",
    "http://1.0x/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[fd00:ec2::254]/",
    "http://100.100.100.200/latest",
    "https://example.org\\@evil.example/",
    "https://" + "a." * 200 + "org/",
    "https://" + "a" * 64 + ".org/",
    "https://example.org/" + "a" * 5000,
    "javascript:alert(1)",
    "HTTPS//example.org",
]


@pytest.mark.parametrize("url", GOOD)
def test_good_urls(url: str) -> None:
    assert parse_target(url).url == url


@pytest.mark.parametrize("url", BAD)
def test_bad_urls(url: str) -> None:
    with pytest.raises(LocationError) as caught:
        parse_target(url)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("start", "location", "end"),
    [
        ("https://example.org/a/b", "c", "https://example.org/a/c"),
        ("https://example.org/a", "//other.example/x#frag", "https://other.example/x"),
        ("http://example.org/a", "https://example.org/a", "https://example.org/a"),
        ("http://example.org/a", "http://other.example/", "http://other.example/"),
        ("http://127.0.0.1:1/a", "http://127.0.0.1:2/b", "http://127.0.0.1:2/b"),
    ],
)
def test_redirects_followed(start: str, location: str, end: str) -> None:
    assert redirect(parse_target(start), location).url == end


@pytest.mark.parametrize(
    "location",
    [
        "http://example.org/",
        "file:///etc/passwd",
        "ssh://example.org/",
        "gopher://example.org/",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://metadata.localhost./",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://ip6-localhost/",
        "https://localhost.localdomain./",
        "https://0.0.0.0/",
        "https://169.254.169.254/",
        "https://user:pw@example.org/",
        "https://[",
        "/a\x00b",
    ],
)
def test_redirects_refused(location: str) -> None:
    with pytest.raises(LocationError):
        redirect(parse_target("https://example.org/a"), location)


def test_credentials_are_hidden() -> None:
    assert hide_credentials("https://u:p@h/x@y") == "https://…@h/x@y"
    assert hide_credentials("https://h/x@y") == "https://h/x@y"


@given(st.text(max_size=40))
def test_any_text_is_checked_or_refused(text: str) -> None:
    for url in (text, f"https://{text}/"):
        try:
            target = parse_target(url)
        except LocationError:
            continue
        assert target.scheme in ("http", "https")
        assert target.host
        assert not target.host.startswith("-")
