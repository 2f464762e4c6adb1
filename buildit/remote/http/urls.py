"""Which URLs we ask at all, and which redirects we follow; pure.

THREATS A6 and F3: a URL comes from recipes, configuration and servers; it may choose what is
asked, never how: no user names, no odd hosts, no other scheme, never from https down to http.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urljoin, urlsplit

from buildit.remote.transport import LocationError

MAX_URL = 4096
"""Longest URL in characters."""

_METADATA = ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")
"""Of clouds that do not use a link-local address for it."""
_LOOPBACK_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")


@dataclass(frozen=True, slots=True)
class Target:
    """A checked web URL: `host` in lower case, an IPv6 address without brackets."""

    url: str
    scheme: str
    host: str


def parse_target(url: str) -> Target:
    """Check one http or https URL.

    Raises:
        LocationError: another scheme, a user name, a host that is no name or address, a character
            that RFC 3986 does not allow, a link-local address (cloud metadata services).
    """
    if len(url) > MAX_URL:
        raise LocationError(f"{url[:80]}…", f"URL is longer than {MAX_URL} characters")
    if not _VISIBLE.fullmatch(url):
        hint = "percent-encode the path; write a foreign host name in its xn-- form"
        raise LocationError(
            ascii(url)[1:-1], "URL has a space, a control or a non-ASCII character", hint=hint
        )
    if "\\" in url:
        raise LocationError(url, "URL has a backslash", hint="percent-encode it as %5C")
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        _ = parts.port  # raises ValueError where it is no number below 65536
    except ValueError as error:
        raise LocationError(url, f"not a URL: {error}") from error
    if parts.scheme not in ("http", "https"):
        raise LocationError(url, f"URL scheme {parts.scheme!r} is refused", hint="use https")
    if "@" in parts.netloc:
        raise LocationError(
            hide_credentials(url), "URL holds a user name", hint="serve it without credentials"
        )
    if reason := _refused_host(host):
        raise LocationError(url, reason)
    return Target(url, parts.scheme, host)


def redirect(source: Target, location: str) -> Target:
    """Where a redirect from `source` leads.

    Raises:
        LocationError: it leads to another scheme (RFC 9110, 15.4 allows any; we do not), from
            https down to http, from elsewhere to this machine, or to no URL.
    """
    try:
        joined = urljoin(source.url, location)
    except ValueError as error:
        raise LocationError(source.url, f"redirects to no URL: {location[:80]!r}") from error
    try:
        target = parse_target(joined.partition("#")[0])
    except LocationError as error:
        raise LocationError(source.url, f"redirects to {error.place}: {error.reason}") from error
    if source.scheme == "https" and target.scheme != "https":
        raise LocationError(source.url, f"redirects from https down to {target.url}")
    if is_loopback(target.host) and not is_loopback(source.host):
        raise LocationError(source.url, f"redirects to this machine: {target.url}")
    return target


def hide_credentials(url: str) -> str:
    """The URL for people, without what stands before the host's `@`."""
    return re.sub(r"//[^/?#]*@", "//…@", url)


def is_loopback(host: str) -> bool:
    name = host.rstrip(".")
    # RFC 6761, 6.3, and what distributions have in /etc/hosts besides
    if name in _LOOPBACK_NAMES or name.endswith(".localhost"):
        return True
    address = as_address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def is_link_local(host: str) -> bool:
    """Whether it is a link-local address, or another one where clouds have their metadata."""
    address = as_address(host)
    return address is not None and (address.is_link_local or str(address) in _METADATA)


def as_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that `host` spells, an IPv4 one where it is mapped into IPv6 (RFC 4291, 2.5.5;
    RFC 6052, 2.1); None for names."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    low = int(address) & 0xFFFFFFFF
    compatible = int(address) >> 32 == 0 and low > 1  # :: and ::1 are addresses of their own
    mapped = address.ipv4_mapped is not None or compatible or address in _NAT64
    return ipaddress.IPv4Address(low) if mapped else address


@lru_cache(256)
def _refused_host(host: str) -> str:
    """Why a host is not asked; empty where it is. Thousands of URLs have the same one."""
    if as_address(host) is None:
        labels = host.split(".")
        if not _HOST.fullmatch(host) or len(host) > 253 or max(map(len, labels)) > 63:
            return f"{host!r} is not a host name or address"
        if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
            # inet_aton reads 2852039166, 0xa9fea9fe and 127.0.0.0x1 as addresses
            return f"{host!r} is not a dotted IPv4 address with four parts"
    return f"{host} is a link-local address" if is_link_local(host) else ""
