"""Who we are to a registry: what `podman login` and `docker login` left, and their helpers
(containers-auth.json(5); docker's credential helper protocol)."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from buildit.errors import UsageError
from buildit.home import home_of
from buildit.remote.registry.reference import Reference

_HELPER = re.compile(r"[a-z0-9-]+")
_LARGEST = 1 << 20
_DOCKER_HUB = ("docker.io", "registry-1.docker.io", "index.docker.io")
_SECONDS = 30


@dataclass(frozen=True, slots=True, repr=False)
class Login:
    """A name and its password; without a name, a token that a realm exchanges."""

    user: str
    secret: str

    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()


def login_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where logins are kept, the first that knows a registry counts."""
    home = home_of(environ)
    found = []
    if named := environ.get("REGISTRY_AUTH_FILE"):
        found.append(Path(named))
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        found.append(Path(runtime, "containers/auth.json"))
    if home is not None:
        config = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
        found.append(Path(config, "containers/auth.json"))
    if docker := environ.get("DOCKER_CONFIG") or (f"{home}/.docker" if home is not None else ""):
        found.append(Path(docker, "config.json"))
    return tuple(found)


def login_of(reference: Reference, environ: Mapping[str, str]) -> Login | None:
    """The login for a repository; None where nobody has logged in.

    Raises:
        UsageError: a file cannot be read, or a helper fails.
    """
    for path in login_files(environ):
        data = _read(path)
        helpers = data.get("credHelpers")
        named = helpers.get(reference.host) if isinstance(helpers, dict) else None
        helper = named or data.get("credsStore")
        if helper and (found := _of_helper(str(helper), reference.host, path)):
            return found
        auths = data.get("auths")
        for key in _keys(reference):
            entry = auths.get(key) if isinstance(auths, dict) else None
            if isinstance(entry, dict) and (found := _of_entry(entry, key, path)):
                return found
    return None


def _keys(reference: Reference) -> Iterator[str]:
    """The most exact first: a repository's own, those above it, the host's."""
    parts = reference.name.split("/")
    for count in range(len(parts), 0, -1):
        yield "/".join((reference.host, *parts[:count]))
    yield reference.host
    yield f"https://{reference.host}"
    yield f"https://{reference.host}/v1/"
    if reference.host in _DOCKER_HUB:
        yield "https://index.docker.io/v1/"


def _read(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST)
    except FileNotFoundError:
        return {}
    except OSError as error:
        hint = "log in again: podman login HOST"
        reason = f"logins cannot be read: {error.strerror}"
        raise UsageError(reason, place=str(path), hint=hint) from error
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"is not JSON: {error}", place=str(path)) from error
    if not isinstance(data, dict):
        raise UsageError("is no object of JSON", place=str(path))
    return data


def _of_entry(entry: Mapping[str, object], key: str, path: Path) -> Login | None:
    if isinstance(token := entry.get("identitytoken"), str) and token:
        return Login("", token)
    auth = entry.get("auth")
    if not isinstance(auth, str) or not auth:
        return None
    try:
        user, colon, secret = base64.b64decode(auth, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeError) as error:
        hint = f"log in again: podman login {key}"
        raise UsageError(
            f"the login for {key} is not base64", place=str(path), hint=hint
        ) from error
    return Login(user, secret.rstrip("\0")) if colon else None


def _of_helper(name: str, host: str, path: Path) -> Login | None:
    """What `docker-credential-NAME get` says of a host; None where it knows none."""
    if _HELPER.fullmatch(name) is None:
        message = f"{name!r} is no name of a credential helper"
        raise UsageError(message, place=str(path), hint="letters, digits and - are")
    program = f"docker-credential-{name}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=host.encode(),
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            env={**os.environ},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or f"no answer for {_SECONDS} seconds"
        message = f"{program} cannot be asked for the login of {host}: {reason}"
        raise UsageError(
            message, place=str(path), hint="install it, or log in without it"
        ) from error
    if done.returncode:
        said = done.stdout.decode("utf-8", "replace").strip()
        if "credentials not found" in said:
            return None
        raise UsageError(f"{program} fails for {host}: {said[:200]}", place=str(path))
    try:
        found = json.loads(done.stdout[:_LARGEST])
        user, secret = str(found["Username"]), str(found["Secret"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{program} gives no login for {host}", place=str(path)) from error
    return Login("" if user == "<token>" else user, secret)
