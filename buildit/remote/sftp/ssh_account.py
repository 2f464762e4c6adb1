"""Reads the address of a directory behind SSH out of a URL."""

from __future__ import annotations

from buildit.model.address import Ssh, parse_ssh
from buildit.remote.transport import LocationError

Account = Ssh


def parse_account(text: str) -> Ssh:
    """Read `user@host:port/path`, with or without `ssh://`; two slashes begin an absolute path.

    Raises:
        LocationError: it is not that.
    """
    found = parse_ssh(text)
    if found is None:
        raise LocationError(
            text, "not a directory behind SSH", hint="write user@host/path or user@host:port//path"
        )
    return found
