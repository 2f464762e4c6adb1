"""The values of secrets, read when a step needs them, and held in the memory of this process alone:
no other one inherits them, and nothing is written."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildit.errors import UsageError
from buildit.model.config import SecretSource
from buildit.model.secret import LARGEST, SECRET_ID, SHORTEST, not_given
from buildit.model.words import guess

_HOW = "write --secret id=ID,src=FILE or --secret id=ID,env=VARIABLE, as docker buildx does"


@dataclass(frozen=True, slots=True)
class GivenSecrets:
    """Where secrets are, by id: as the command line says, then as the configuration does."""

    sources: Mapping[str, SecretSource] = field(default_factory=dict)
    _values: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    def over(self, configured: Mapping[str, SecretSource]) -> GivenSecrets:
        """With those of the configuration that the command line does not give. What variables hold
        is taken out of the environment, before any process can inherit it."""
        found = replace(self, sources={**configured, **self.sources})
        for name, source in found.sources.items():
            if source.kind == "env" and (value := taken_variable(source.where)) is not None:
                self._values[name] = value
        return found

    def value(self, name: str) -> bytes:
        """Raises UsageError where it is not given, or cannot be read or used."""
        if name not in self._values:
            source = self.sources.get(name)
            self._values[name] = _read(name, source) if source else self._missing(name)
        return _checked(name, self._values[name])

    def _missing(self, name: str) -> bytes:
        try:
            return not_given(name)
        except UsageError as error:
            error.hint = f"{guess(name, sorted(self.sources))}{error.hint}"
            raise


def _read(name: str, source: SecretSource) -> bytes:
    if source.kind == "env":
        message = f"the secret {name!r} is needed, and the variable {source.where} is not set"
        raise UsageError(message, hint=f"export {source.where}, or name another variable or a file")
    try:
        with open(source.where, "rb") as stream:
            return stream.read(LARGEST + 1)
    except OSError as error:
        message = f"the secret {name!r} is needed, and {source.where} cannot be read"
        hint = "name a file that you can read"
        raise UsageError(f"{message}: {error.strerror}", hint=hint) from error


def _checked(name: str, value: bytes) -> bytes:
    if len(value) > LARGEST:
        hint = f"a secret has at most {LARGEST >> 10} KiB: give what opens the rest"
        raise UsageError(f"the secret {name!r} is too large", hint=hint)
    if len(value.strip()) < SHORTEST:
        hint = "what is so short lies in many a file by chance, and could not be kept out of them"
        raise UsageError(f"the secret {name!r} has fewer than {SHORTEST} bytes", hint=hint)
    return value


def parse_secrets(words: Sequence[str]) -> GivenSecrets:
    """What `--secret` says; relative paths are of the working directory.

    Raises:
        UsageError: it says something else, or one thing twice.
    """
    found: dict[str, SecretSource] = {}
    for word in words:
        pairs = [part.partition("=")[::2] for part in word.split(",")]
        said = dict(pairs)
        name = said.pop("id", "")
        kind = said.pop("type", "")
        path = said.pop("src", said.pop("source", ""))
        variable = said.pop("env", "")
        if not re.fullmatch(SECRET_ID, name) or len(pairs) != len({key for key, _ in pairs}):
            raise UsageError("--secret names no secret", hint=_HOW)
        if said or bool(path) == bool(variable) or kind not in ("", "file" if path else "env"):
            raise UsageError(f"--secret does not say where the secret {name!r} is", hint=_HOW)
        if name in found:
            raise UsageError(f"--secret gives {name!r} twice", hint="leave one of them out")
        where = (
            SecretSource("file", os.path.abspath(path)) if path else SecretSource("env", variable)
        )
        found[name] = where
    return GivenSecrets().over(found)


def taken_variable(name: str) -> bytes | None:
    """The value of a variable of the environment, which is then nowhere but in what is returned: no
    process that is started inherits it, nor does /proc/PID/environ show it any more (proc(5): that
    is the memory between `env_start` and `env_end`). None where it is not set."""
    value = os.environb.pop(name.encode(), None)
    if value is not None:
        with suppress(OSError, ValueError, IndexError):
            told = Path("/proc/self/stat").read_bytes().rpartition(b") ")[2].split()
            start, end = int(told[47]), int(told[48])
            block = ctypes.string_at(start, end - start) if start else b""
            at = b"\0".join((b"", block)).find(b"\0%b=%b\0" % (name.encode(), value))
            if at >= 0:
                ctypes.memset(start + at + len(name.encode()) + 1, ord("*"), len(value))
    return value
