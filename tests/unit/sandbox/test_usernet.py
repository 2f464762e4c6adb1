"""Which network an inside gets, and what of this machine it must not reach."""

from __future__ import annotations

import os
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from buildit.errors import UnsatisfiableError
from buildit.sandbox import usernet
from buildit.sandbox.usernet import UserNetwork, local_addresses, no_user_network, user_network

pytestmark = pytest.mark.unit

FIB_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
     +-- 192.0.2.0/24 2 0 2
        |-- 192.0.2.0
           /24 link UNICAST
        |-- 192.0.2.7
           /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
           /32 host LOCAL
     |-- 198.51.100.0
        /24 host LOCAL
Id 100:
     |-- 0.0.0.0
        /0 host LOCAL
Local:
  +-- 10.0.2.0/24 2 0 2
     |-- 10.0.2.15
        /32 host LOCAL
     |-- 192.0.2.7
        /32 host LOCAL
"""


def test_the_machines_own_addresses_are_those_of_all_interfaces() -> None:
    assert [*local_addresses(FIB_TRIE)] == [
        *("192.0.2.7", "192.0.2.255", "198.51.100.0/24", "10.0.2.15")
    ]
    here = [*local_addresses(Path("/proc/net/fib_trie").read_text())]
    assert not any(one.startswith("127.") for one in here)


def test_who_answers_for_names_is_the_third_of_the_network() -> None:
    assert UserNetwork("/x", "10.219.72.0/24", ()).resolver == "10.219.72.3"


def test_what_is_missing_is_said_with_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usernet, "PROGRAM", "no-such-program")
    assert no_user_network() == ("no-such-program is not installed", "apt install no-such-program")
    with pytest.raises(UnsatisfiableError) as error:
        user_network()
    assert error.value.message == (
        "there is no user-mode network here: no-such-program is not installed"
    )
    assert error.value.hint == "apt install no-such-program"
    monkeypatch.setattr(usernet, "PROGRAM", "sh")
    monkeypatch.setattr(usernet, "TUN", "/dev/no-such-tun")
    assert no_user_network() == (
        "/dev/no-such-tun is not there",
        "modprobe tun; in a container, --device /dev/net/tun",
    )
    monkeypatch.setattr(usernet, "TUN", "/dev/null")
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    monkeypatch.setattr(os, "access", lambda path, _mode: path != "/dev/null")
    problem = no_user_network()
    assert problem is not None
    assert problem[0] == "/dev/null is closed to this user"
    monkeypatch.setattr(os, "access", lambda _path, _mode: True)
    assert no_user_network() is None
    found = user_network()
    taken = [*local_addresses(Path("/proc/net/fib_trie").read_text())]
    assert not any(IPv4Network(one).overlaps(IPv4Network(found.network)) for one in taken)
    assert list(found.own) == taken
