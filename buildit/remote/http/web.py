"""HTTP and HTTPS: single files by `net.http_session`, many small ones by `net.bulk`.

`requests`, which the former imports in a tenth of a second, is loaded when the first file needs it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildit.remote.http.bulk import Pace, bodies
from buildit.remote.transport import Response

if TYPE_CHECKING:
    from buildit.remote.http.session import HttpSession

AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
"""Where Debian's ca-certificates are; SSL_CERT_FILE names another file, as for OpenSSL."""
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that come first, as `requests` has it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds to connect, for all headers of one answer, and of one window in which the body must
    move `least` bytes; how many redirects are followed."""

    connect: float = 10.0
    headers: float = 20.0
    window: float = 20.0
    least: int = 20 * 1024
    redirects: int = 5


class WebTransport:
    """Connections that are kept, shared by all threads."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._made: HttpSession | None = None
        self._guard = threading.Lock()

    def close(self) -> None:
        if self._made is not None:
            self._made.close()

    def get(self, url: str, offset: int, cap: int) -> AbstractContextManager[Response]:
        return self._session().get(url, offset, cap)

    def bulk(self, wanted: Sequence[tuple[str, int]]) -> Iterator[bytes | None]:
        """The bodies of small files of one server, each with the most bytes that it may have, in
        their order. None, or an early end, says that `get` should be asked, which knows more."""
        if _names_proxies() and self._proxied(wanted[0][0]):
            return iter(())
        bundle = next((value for name in _BUNDLES if (value := os.environ.get(name))), None)
        pace = Pace(self._limits.connect, self._limits.window)
        return bodies(wanted, bundle or authorities(), pace)

    def _session(self) -> HttpSession:
        with self._guard:
            if self._made is None:
                from buildit.remote.http.session import HttpSession

                self._made = HttpSession(self._limits)
            return self._made

    def _proxied(self, url: str) -> bool:
        from buildit.remote.http.session import has_proxy

        return has_proxy(url)


def authorities() -> str | None:
    """The machine's own certificate authorities, as curl has them; None where there are none, and
    a library's own are taken."""
    path = os.environ.get("SSL_CERT_FILE") or AUTHORITIES
    return path if os.path.exists(path) else None


def _names_proxies() -> bool:
    names = {name.lower() for name, value in os.environ.items() if value}
    return any(name.endswith("_proxy") and name != "no_proxy" for name in names)
