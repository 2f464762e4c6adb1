"""What each leaf accepts, and what it says to the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildit.recipe import leaf
from buildit.recipe.leaf import LeafError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("0644", 0o644),
        ("0o644", 0o644),
        ("04755", 0o4755),
        ("00", 0),
        ("u=rw,go=r", 0o644),
        ("a=rx,u=rwx", 0o755),
        ("u=rwxs,go=rx", 0o4755),
        ("a=rwxt", 0o1777),
    ],
)
def test_modes(text: str, mode: int) -> None:
    assert leaf.parse_mode(text) == mode


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("420", "write 0644, which is 420 as a decimal number"),
        ("493", "write 0755"),
        ("644", "write 0644"),
        ("0888", "write it as in 0644"),
        ("", "write it as in 0644"),
        ("-rw-r--r--", "write it as in 0644"),
        ("0100644", "write it as in 0644"),
    ],
)
def test_modes_that_could_mean_two_things(text: str, hint: str) -> None:
    with pytest.raises(LeafError, match="octal mode with a leading 0") as caught:
        leaf.parse_mode(text)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(hint)


@given(st.integers(0, 0o7777))
def test_every_octal_mode_round_trips(mode: int) -> None:
    assert leaf.parse_mode(f"0{mode:o}") == leaf.parse_mode(f"0o{mode:o}") == mode


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "yes", "on", "On"])
def test_on(text: str) -> None:
    assert leaf.parse_flag(text) is True


@pytest.mark.parametrize("text", ["false", "False", "no", "NO", "off"])
def test_off(text: str) -> None:
    assert leaf.parse_flag(text) is False


@pytest.mark.parametrize("text", ["", "y", "n", "1", "0", "tRUE", "maybe", " on"])
def test_neither(text: str) -> None:
    with pytest.raises(LeafError, match="expected on or off"):
        leaf.parse_flag(text)


@pytest.mark.parametrize(
    ("text", "path"),
    [(".", "."), ("./pkgs/nginx", "pkgs/nginx"), ("a//b/", "a/b"), ("a/./b", "a/b"), ("…", "…")],
)
def test_relative_paths(text: str, path: str) -> None:
    assert leaf.relative_path(text) == path


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "/etc/shadow", "..", "../x", "a/../../b", "a/..", "~/x", "~root"),
        *("a\0b", "a\nb", "a\x1bb", "x" * 256, "a/" * 3000),
    ],
)
def test_unsafe_relative_paths(text: str) -> None:
    with pytest.raises(LeafError):
        leaf.relative_path(text)


@given(st.text(max_size=40))
def test_a_relative_path_never_leaves_its_directory(text: str) -> None:
    try:
        path = leaf.relative_path(text)
    except LeafError:
        return
    assert not path.startswith("/")
    assert ".." not in path.split("/")
    assert leaf.relative_path(path) == path


def test_image_paths() -> None:
    assert leaf.image_path("/etc//nginx/./nginx.conf") == "/etc/nginx/nginx.conf"
    assert leaf.image_path("/srv/") == "/srv/"
    assert leaf.image_path("/") == "/"
    for text in ("etc", "", "/a/../b", "//../x"):
        with pytest.raises(LeafError):
            leaf.image_path(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://nginx.org/download/nginx-1.22.1.tar.gz",
        "http://example.org:8080/a?b=c#d",
        "mirror://debian/pool/main/n/nginx/nginx_1.22.1.orig.tar.gz",
        "https://[::1]/x",
    ],
)
def test_source_urls(text: str) -> None:
    assert leaf.source_url(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "nginx.tar.gz", "file:///etc/passwd", "ftp://example.org/x", "ext::sh -c x"),
        *("ssh://-oProxyCommand=x/y", "https://-oProxyCommand=x/", "https://", "https:///x"),
        *(
            "https://user:secret@example.org/",
            "https://example.org/a b",
            "https://example.org/\r\n",
        ),
        *("https://exämple.org/", "javascript://x", "https://example.org\n", "https://a..-/"),
    ],
)
def test_refused_urls(text: str) -> None:
    with pytest.raises(LeafError):
        leaf.source_url(text)


@pytest.mark.parametrize("text", ["1", "1.22.1", "1.10", "3.0.2a", "1.0_rc1", "2_p3-r4", "08"])
def test_versions(text: str) -> None:
    assert leaf.version(text) == text


@pytest.mark.parametrize("text", ["", "v1", "1.22.1-p1", "1..2", "1.", "1 ", "1\n", "٣"])
def test_refused_versions(text: str) -> None:
    with pytest.raises(LeafError, match="expected a version"):
        leaf.version(text)


def test_package_names() -> None:
    for text in ("www-servers/nginx", "dev-libs/pcre2", "x11-libs/gtk+", "a/b-1xx"):
        assert leaf.package_name(text) == text
    for text in ("nginx", "a/b/c", "/x", "a/", "-a/b", "a/-b", "a b/c", ""):
        with pytest.raises(LeafError, match="expected category/name"):
            leaf.package_name(text)
    with pytest.raises(LeafError) as caught:
        leaf.package_name("www-servers/nginx-1.22.1")
    assert caught.value.hint == "write www-servers/nginx"


def test_sha256_takes_both_spellings_and_only_lower_case() -> None:
    digest = "0a" * 32
    assert leaf.sha256(digest) == leaf.sha256(f"sha256:{digest}") == digest
    with pytest.raises(LeafError) as caught:
        leaf.sha256(digest.upper())
    assert caught.value.hint == f"write it in lower case: {digest}"
    for text in ("", digest[:-1], digest + "0", "md5:" + digest, digest + "\n"):
        with pytest.raises(LeafError):
            leaf.sha256(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1048576", 1 << 20), ("512M", 512 << 20), ("4G", 4 << 30), ("2GiB", 2 << 30)],
)
def test_sizes(text: str, size: int) -> None:
    assert leaf.parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("60", 60)]
)
def test_durations(text: str, seconds: int) -> None:
    assert leaf.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2 h", "h", "-1", "1.5G", "1x", "1e3", "2hours", "9" * 30])
def test_refused_sizes_and_durations(text: str) -> None:
    with pytest.raises(LeafError, match="expected a size"):
        leaf.parse_size(text)
    with pytest.raises(LeafError, match="expected a duration"):
        leaf.parse_duration(text)


def test_numbers_and_names() -> None:
    assert leaf.whole_number("0") == 0
    assert leaf.whole_number("65535") == 65535
    for text in ("", "01", "+1", "-1", "1_000", "1.0", "٣", "9" * 19):
        with pytest.raises(LeafError):
            leaf.whole_number(text)
    assert leaf.port(443) == 443
    assert leaf.numeric_id(0) == 0
    for value in (0, 65536):
        with pytest.raises(LeafError):
            leaf.port(value)
    with pytest.raises(LeafError):
        leaf.numeric_id(2**32 - 1)
    assert leaf.flag_name("http2") == "http2"
    assert leaf.identifier("LD_X") == "LD_X"
    assert leaf.account_name("www-data") == "www-data"
    for check, text in (
        (leaf.flag_name, "-x"),
        (leaf.identifier, "1a"),
        (leaf.account_name, "Root"),
    ):
        with pytest.raises(LeafError):
            check(text)


def test_text_and_lines() -> None:
    assert leaf.is_text("a\nb") == "a\nb"
    assert leaf.is_line("a b") == "a b"
    for text in ("", "  ", "\n"):
        with pytest.raises(LeafError, match="found nothing"):
            leaf.is_text(text)
    with pytest.raises(LeafError, match="found several"):
        leaf.is_line("a\nb")
