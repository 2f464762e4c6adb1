"""The option --discover: its grammar, and what it adds to the settings."""

from __future__ import annotations

import pytest

from buildit.errors import UsageError
from buildit.events import Event, Notice
from buildit.model.config import Repository, parse_address
from buildit.remote.discovery import (
    DiscoverOption,
    Sought,
    parse_discover,
    publishes,
    with_discovered,
)
from tests.fakes import FakeTransport
from tests.hosts import repository

pytestmark = pytest.mark.unit

OWN = repository("mine", "https://mine.example/b", "ssh://me@mine.example/b")


@pytest.mark.parametrize(
    ("text", "wanted", "address", "push"),
    [
        ("h.example/containers", Sought("h.example/containers"), "", False),
        ("h.example/containers,push=True", Sought("h.example/containers"), "", True),
        ("h.example:8443/c,push=no", Sought("h.example/c", 8443), "", False),
        ("file:///srv/b,push=true", None, "/srv/b", True),
        ("/srv/b", None, "/srv/b", False),
        ("/srv/a?b#c", None, "/srv/a?b#c", False),
        ("file:///srv/a%20b%23", None, "/srv/a b#", False),
        ("ssh://me@h.example:2222/b,push=1", None, "ssh://me@h.example:2222/b", True),
        ("ssh://h.example//abs", None, "ssh://h.example//abs", False),
        ("https://h.example/b/", None, "https://h.example/b", False),
    ],
)
def test_the_grammar(text: str, wanted: Sought | None, address: str, push: bool) -> None:
    assert parse_discover(text) == DiscoverOption(
        text, wanted, parse_address(address) if address else None, push
    )


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("h/c,pusch=True", "'pusch=True' says nothing here", "did you mean push=True?"),
        ("h/c,push", "'push' says nothing here", "push=True"),
        ("h/c,", "'' says nothing here", "--discover="),
        ("h/c,push=maybe", "push is 'maybe'", "push=True or push=False"),
        ("h/c,push=True,push=True", "push stands there twice", "once"),
        ("", "no place to discover from", "HOST/PATH"),
        ("http://h/c", "no place to discover from", "without a scheme"),
        ("ssh://-oProxyCommand=x/b", "no place over SSH", "ssh://user@host/path"),
        ("https://u@h/b", "no web address", "https://host/path"),
        ("https:///b", "no web address", "https://host/path"),
        ("file://other/b", "no directory", "file:///srv/binhost"),
        ("file:b", "no directory", "file:///srv/binhost"),
        ("https://[::1", "no web address", "https://host/path"),
        ("https://[x]/b", "no web address", "https://host/path"),
        ("https://h:99999/b", "no web address", "https://host/path"),
        ("https://h/a b", "no web address", "https://host/path"),
        ("https://h/a\nb", "no web address", "https://host/path"),
        ("https://h/\x1b[2J", "no web address", "https://host/path"),
        ("https://-h/b", "no web address", "https://host/path"),
        ("https://h/b?", "no web address", "https://host/path"),
        ("https://h/b#", "no web address", "https://host/path"),
        ("https://169.254.169.254/b", "no web address", "https://host/path"),
        ("ssh://h:99999/b", "no place over SSH", "ssh://user@host/path"),
        ("ssh://h/../b", "no place over SSH", "ssh://user@host/path"),
        ("ssh://h/a\nb", "no place over SSH", "ssh://user@host/path"),
        ("file:///srv/a?b", "no directory", "%3F"),
        ("file:///srv/a#b", "no directory", "%23"),
        ("file:///srv/%00", "no directory", "file:///srv/binhost"),
        ("file://[::1/srv", "no directory", "file:///srv/binhost"),
        ("/srv/a\0b", "no directory", "file:///srv/binhost"),
        ("//h.example/b", "no directory", "file:///srv/binhost"),
        ("-oProxyCommand=x", "no place to discover from", "HOST/PATH"),
        ("h\n", "no place to discover from", "HOST/PATH"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_discover(text)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def page(*binhosts: str) -> bytes:
    """The page of `h.example` that names these."""
    tag = '<meta name="buildit-binhost" content="h.example {}">'
    return "".join(tag.format(url) for url in binhosts).encode()


def added(
    *texts: str, known: tuple[Repository, ...] = (OWN,), found: bytes | None = None
) -> tuple[tuple[Repository, ...], list[str]]:
    told: list[Event] = []
    pages = {f"https://h.example/{name}?ac-discovery=1": found for name in "xy" if found}
    result = with_discovered(known, texts, FakeTransport(pages), told.append)
    return result, [event.message for event in told if isinstance(event, Notice)]


def test_places_come_first_in_the_order_given() -> None:
    found = page("https://a.example/b", "https://c.example/b")
    known, told = added("h.example/x", "file:///srv/b", found=found)
    assert known == (
        repository("a.example", "https://a.example/b", ""),
        repository("c.example", "https://c.example/b", ""),
        repository("b", "/srv/b", ""),
        OWN,
    )
    assert told[0] == "discovered a binhost for h.example/x: https://a.example/b"


def test_a_place_that_is_known_already_is_not_asked_twice() -> None:
    known, _ = added("h.example/x", "h.example/y", found=page(str(OWN.download)))
    assert known == (OWN,)


def test_two_places_never_have_one_name() -> None:
    known, _ = added("file:///a/mine", "file:///b/mine")
    assert [one.name for one in known] == ["mine-2", "mine-3", "mine"]


def test_finding_nothing_is_told_of_and_harmless() -> None:
    known, told = added("h.example")
    assert known == (OWN,)
    reason = "https://h.example?ac-discovery=1: not found (HTTP 404)"
    assert told == ["no binhost is discovered at h.example", f"  {reason}"]


def test_a_page_never_says_where_to_publish() -> None:
    found, option = page("https://a.example/b"), "h.example/x,push=True"
    known, _ = added(option, found=found)
    assert [one.upload for one in known] == [None, OWN.upload]
    added("h.example/x", known=(), found=found)
    with pytest.raises(UsageError, match="no place to publish to is configured") as caught:
        added(option, known=(), found=found)
    assert "upload-type: ssh" in (caught.value.hint or "")
    shipped = repository("local", "/home/bin", "/home/bin", unsigned=True)
    with pytest.raises(UsageError, match="no place to publish to is configured"):
        added(option, known=(shipped,), found=found)
    served = repository("www", "https://h.example/b", "/srv/www/b")
    assert added(option, known=(shipped, served), found=found)


def test_a_run_asks_pages_unless_it_is_offline() -> None:
    tag = b'<meta name="buildit-binhost" content="h.example https://h.example/b">'
    transport = FakeTransport({"https://h.example/c?ac-discovery=1": tag})
    told = list[Event]()
    assert len(with_discovered((OWN,), ("h.example/c",), transport, told.append)) == 2
    assert with_discovered((OWN,), ("h.example/c",), None, told.append) == (OWN,)
    assert any(isinstance(event, Notice) and "--offline" in event.message for event in told)
    assert with_discovered((OWN,), (), None, told.append) == (OWN,)
    assert publishes(("h/c", "h/d,push=True"))
    assert not publishes(("h/c",))


@pytest.mark.parametrize(
    ("text", "upload"),
    [
        ("file:///srv/b,push=True", "/srv/b"),
        ("file:///srv/b", ""),
        ("ssh://me@h.example/b,push=True", "ssh://me@h.example/b"),
        ("https://h.example/b,push=True", ""),
    ],
)
def test_a_place_that_the_user_names_may_be_published_to(text: str, upload: str) -> None:
    known, _ = added(text)
    assert str(known[0].upload or "") == upload
