"""What gives a secret away: its bytes, in the forms that programs write them in, and how a stream
is searched for them, or freed of them. Pure.

A form is the value without white space around it; each of its lines that is long enough; both as
JSON text; the whole in hexadecimal digits, percent-encoded and in base64 (at each of its three
alignments, URL-safe too, also in lines as base64(1) and xxd(1) write them); and the hexadecimal
digests of it. Compressed or encrypted it is not found.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import quote_from_bytes

from buildit.errors import UsageError

SHORTEST = 6
"""Bytes of a secret: what is shorter lies in many a file by chance."""

LARGEST = 500 << 10
"""Bytes of a secret, as BuildKit has it."""

MASK = b"***"

SECRET_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"  # noqa: S105 - a pattern
"""What a secret may be called: its name is that of a file."""

_SHORTEST_LINE = 12
_ARMOUR = b"-----"
_DIGESTS = ("md5", "sha1", "sha256", "sha512")


def not_given(name: str) -> bytes:
    """Raises UsageError: nobody gives the secret of that id."""
    hint = f"give it: --secret id={name},src=FILE (or env=VARIABLE), or in .buildit-config.yaml: "
    hint += f"secrets: {{{name}: {{file: PATH}}}}"
    raise UsageError(f"the secret {name!r} is needed, and not given", hint=hint)


@dataclass(frozen=True, slots=True)
class Secret:
    """`name` is its id."""

    name: str
    value: bytes = field(repr=False)


def forms_of(value: bytes) -> frozenset[bytes]:
    """All forms of a value, none of them empty."""
    bare = value.strip()
    found = {bare, *_lines(bare)}
    found |= {_as_json(one) for one in found}
    for whole in {bare, value}:
        found |= {*_encoded(whole)}
        found |= {hashlib.new(name, whole).hexdigest().encode() for name in _DIGESTS}
    return frozenset(one for one in found if len(one) >= SHORTEST)


def _lines(bare: bytes) -> Iterator[bytes]:
    """The lines of a value that can be told from others: those around a key are known to all."""
    if b"\n" in bare:
        lines = (line.strip() for line in bare.split(b"\n"))
        yield from (one for one in lines if len(one) >= _SHORTEST_LINE and one[:5] != _ARMOUR)


def _as_json(text: bytes) -> bytes:
    return json.dumps(text.decode("utf-8", "surrogateescape"))[1:-1].encode()


def _encoded(whole: bytes) -> Iterator[bytes]:
    digits = whole.hex().encode()
    yield from (digits, digits.upper())
    yield from (digits[at : at + 60] for at in range(0, len(digits), 60))  # xxd -p
    quoted = quote_from_bytes(whole, safe="").encode()
    yield quoted
    yield re.sub(rb"%[0-9A-F]{2}", lambda found: found[0].lower(), quoted)
    for alignment in range(3):
        # what depends on the bytes before and behind it is left out
        coded = base64.b64encode(bytes(alignment) + whole)
        start = (0, 2, 3)[alignment]
        end = len(coded) if (alignment + len(whole)) % 3 == 0 else coded.index(b"=") - 1
        yield from (coded[start:end], coded[start:end].translate(_URL_SAFE))
    yield from (one for one in base64.encodebytes(whole).split() if len(one) >= _SHORTEST_LINE)


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


@dataclass(frozen=True)
class Secrets:
    """The secrets that one step is given."""

    given: tuple[Secret, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.given)

    @cached_property
    def forms(self) -> tuple[tuple[bytes, str], ...]:
        """Every form, the longest first, and whose it is."""
        found = {form: one.name for one in self.given for form in forms_of(one.value)}
        return tuple(sorted(found.items(), key=lambda item: (-len(item[0]), item)))

    @cached_property
    def longest(self) -> int:
        return max((len(form) for form, _ in self.forms), default=0)

    def found_in(self, data: bytes) -> str | None:
        """The id of a secret that is there; None where none is."""
        return next((name for form, name in self.forms if form in data), None)

    def masked(self, text: str) -> str:
        """Text with `***` in the place of every form."""
        if not self.given:
            return text
        masker = Masker(self)
        data = text.encode("utf-8", "surrogateescape")
        return (masker.mask(data) + masker.rest()).decode("utf-8", "surrogateescape")


NO_SECRETS = Secrets()


@dataclass(slots=True)
class Finder:
    """Looks through a stream, whatever pieces it comes in."""

    secrets: Secrets
    _tail: bytes = b""

    def feed(self, data: bytes) -> str | None:
        """The id of a secret of which the last byte is in this piece."""
        seen = self._tail + data
        self._tail = seen[-self.secrets.longest + 1 :] if self.secrets.longest > 1 else b""
        return self.secrets.found_in(seen)


@dataclass(slots=True)
class Masker:
    """Puts `***` in the place of every form in a stream, whatever pieces it comes in; what may be
    the beginning of one is held back."""

    secrets: Secrets
    _held: bytes = b""
    _told: int = 0
    """Of what is held, the bytes that `***` already stands for."""

    def mask(self, data: bytes) -> bytes:
        """What can be shown by now."""
        return self._cut(self._held + data, final=False)

    def rest(self) -> bytes:
        """What was held back to the end."""
        return self._cut(self._held, final=True)

    def _cut(self, seen: bytes, *, final: bool) -> bytes:
        hidden = _united([(0, self._told), *_places(seen, self.secrets.forms)])
        end = len(seen) if final else self._begun(seen)
        out, at, told = [], 0, max(0, self._told - end)
        for start, stop in hidden:
            if start >= end:
                break
            out.append(seen[at:start])
            if start or not self._told:
                out.append(MASK)
            at = stop
            told = max(0, stop - end)
        out.append(seen[at:end])
        self._held, self._told = seen[end:], told
        return b"".join(out)

    def _begun(self, seen: bytes) -> int:
        """Where the longest end of what was seen begins that some form begins with."""
        tail = max(0, len(seen) - self.secrets.longest + 1)
        found = len(seen)
        for form, _ in self.secrets.forms:
            at = max(tail, len(seen) - len(form) + 1)
            while (at := seen.find(form[:1], at)) >= 0 and at < found:
                if form.startswith(seen[at:]):
                    found = at
                at += 1
        return found


def _places(seen: bytes, forms: Sequence[tuple[bytes, str]]) -> Iterator[tuple[int, int]]:
    for form, _ in forms:
        at = -1
        while (at := seen.find(form, at + 1)) >= 0:
            yield at, at + len(form)


def _united(places: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Stretches that overlap as one; without empty ones."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(one for one in places if one[0] < one[1]):
        if found and start < found[-1][1]:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        else:
            found.append((start, stop))
    return found
