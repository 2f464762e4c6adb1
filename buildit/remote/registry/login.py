"""Who we are to a registry: what `podman login` and `docker login` left, and their helpers
(containers-auth.json(5); docker's credential helper protocol)."""

from __future__ import annotations

import base64
import binascii
import errno
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from buildit.errors import UsageError
from buildit.home import home_of
from buildit.remote.registry.reference import Reference

_HELPER = re.compile(r"[a-z0-9-]+")
_LARGEST = 1 << 20
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
        known = helpers if isinstance(helpers, dict) else {}
        named = next(filter(None, map(known.get, reference.login_names)), None)
        helper = named or data.get("credsStore")
        for name in reference.login_names if helper else ():
            if found := _of_helper(str(helper), name, path):
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
    yield from reference.login_names
    yield f"https://{reference.host}"
    yield f"https://{reference.host}/v1/"


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
    hint = f"ask it yourself: echo {host} | {program} get; or log in without it"
    try:
        status, content = _asked(program, host)
    except OSError as error:
        message = f"{program} cannot be asked for the login of {host}: {error.strerror}"
        hint = "install it, or log in without it"
        raise UsageError(message, place=str(path), hint=hint) from error
    if status:
        said = content.decode("utf-8", "replace").strip()
        if "credentials not found" in said:
            return None
        message = f"{program} fails for {host}: {said[:200]}"
        raise UsageError(message, place=str(path), hint=hint)
    try:
        found = json.loads(content)
        user, secret = found["Username"], found["Secret"]
        if not (isinstance(user, str) and isinstance(secret, str)):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{program} gives no login for {host}"
        raise UsageError(message, place=str(path), hint=hint) from error
    return Login("" if user == "<token>" else user, secret)


def _asked(program: str, host: str) -> tuple[int, bytes]:
    """The exit status of a helper and what it says; it and its children are ended in time.

    Raises:
        OSError: it cannot be started, does not end, or says without end.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [program, "get"], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, process_group=0
    ) as process:
        late = threading.Timer(_SECONDS, os.killpg, (process.pid, signal.SIGKILL))
        late.start()
        try:
            answer, question = cast("BinaryIO", process.stdout), cast("BinaryIO", process.stdin)
            with suppress(BrokenPipeError):  # it need not read
                question.write(host.encode())
                question.close()
            content = answer.read(_LARGEST + 1)
            if len(content) <= _LARGEST:
                process.wait()
        finally:
            in_time = late.is_alive()
            late.cancel()
            if process.returncode is None:  # its number is still its own
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if not in_time:
        raise OSError(errno.ETIMEDOUT, f"no answer for {_SECONDS} seconds")
    if len(content) > _LARGEST:
        raise OSError(errno.EFBIG, "it says too much")
    return process.returncode, content
