"""The certificate bundle of ca-certificates, as update-ca-certificates(8) and `openssl rehash` make
it: one file of all, a link to each, and links by the hash of each subject, where OpenSSL looks."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress

from buildit.archive.beneath import Root

SHIPPED, _PLACE = "usr/share/ca-certificates/mozilla", "etc/ssl/certs"
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_STRINGS = (0x0C, 0x13, 0x14, 0x16, 0x1A, 0x1C, 0x1E)
"""UTF8, Printable, Teletex, IA5, Visible, Universal and BMP strings (X.680, 8.4)."""
_ENCODINGS = {0x1E: "utf-16-be", 0x1C: "utf-32-be", 0x14: "latin-1"}


def certificate_files(tree: Root) -> Iterator[tuple[str, bytes | str]]:
    """Paths with a file's content, or with a link's text. Sorted by name, in C order; each
    certificate ends with a newline."""
    names = sorted(name for name in tree.listdir(SHIPPED) if name.endswith(".crt"))
    bundle, hashes = b"", set()
    for name in names:
        with tree.open_file(f"{SHIPPED}/{name}") as stream:
            content = stream.read().rstrip(b"\n") + b"\n"
        bundle += content
        link = re.sub(r"[ (),]", "_", name.removesuffix(".crt")) + ".pem"
        yield f"{_PLACE}/{link}", f"/{SHIPPED}/{name}"
        found = _PEM.search(content)
        with suppress(ValueError, IndexError):
            if found is not None:
                subject = subject_hash(base64.b64decode(found[1]))
                number = next(n for n in range(len(names)) if (subject, n) not in hashes)
                hashes.add((subject, number))
                yield f"{_PLACE}/{subject:08x}.{number}", link
    yield f"{_PLACE}/ca-certificates.crt", bundle


def subject_hash(certificate: bytes) -> int:
    """X509_NAME_hash(3) of a DER certificate's subject: the first four bytes, little-endian, of the
    SHA-1 over its canonical form, where strings are UTF-8 in lower case with single blanks.

    Raises:
        ValueError, IndexError: it is no certificate.
    """
    (_, whole), *_ = _elements(certificate)
    (_, signed), *_ = _elements(whole)
    fields = [one for one in _elements(signed) if one[0] != 0xA0]  # RFC 5280, 4.1: the version
    subject = b"".join(
        _element(kind, b"".join(map(_attribute, _elements(part))))
        for kind, part in _elements(fields[4][1])
    )
    digest = hashlib.sha1(subject, usedforsecurity=False).digest()
    return int.from_bytes(digest[:4], "little")


def _attribute(attribute: tuple[int, bytes]) -> bytes:
    name, (kind, value) = _elements(attribute[1])
    if kind in _STRINGS:
        text = value.decode(_ENCODINGS.get(kind, "utf-8"))
        words = " ".join(re.split(r"[ \t\n\v\f\r]+", text.strip(" \t\n\v\f\r")))
        lower = "".join(sign.lower() if sign.isascii() else sign for sign in words)
        kind, value = 0x0C, lower.encode()
    return _element(attribute[0], _element(*name) + _element(kind, value))


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """Tags and contents of DER (X.690, 8.1), side by side."""
    found, at = [], 0
    while at < len(data):
        kind, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            count = length & 0x7F
            length, at = int.from_bytes(data[at : at + count]), at + count
        if at + length > len(data):
            raise ValueError("it is truncated")
        found.append((kind, data[at : at + length]))
        at += length
    return found


def _element(kind: int, value: bytes) -> bytes:
    if len(value) < 0x80:
        return bytes((kind, len(value))) + value
    size = len(value).to_bytes((len(value).bit_length() + 7) // 8)
    return bytes((kind, 0x80 | len(size))) + size + value
