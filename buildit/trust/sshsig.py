"""SSH signatures of files (OpenSSH's PROTOCOL.sshsig), as `ssh-keygen -Y sign` and `verify` do; and
OpenSSH's allowed-signers files, which say whose count.

The key inside a signature says who claims to have signed; only the allowed-signers list says whom
to believe. `verify_signature` returns the match or raises: an error is never a pass.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from buildit.errors import IntegrityError, RecipeError
from buildit.store.attest import fingerprint
from buildit.trust.sshkeys import (
    KEY_TYPES,
    SigningKey,
    Wire,
    check_by_key,
    pack_strings,
    parse_public,
)

NAMESPACE = "buildit-attestation-v1"

_MAGIC, _VERSION = b"SSHSIG", 1
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_ARMOR = re.compile(rf"{_BEGIN}\n([A-Za-z0-9+/=\n]+)\n{_END}\n?")
_HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}
_LONGEST_SIGNATURE = 1 << 16
"""Of a signature file, in characters."""
_OPTION = re.compile(r'([A-Za-z-]+)(?:="((?:[^"\\]|\\.)*)")?(?:,|$)')
_LINE = re.compile(
    r'("[^"]*"|[^ \t\r]+)[ \t\r]+((?:[^\s"]|"(?:[^"\\]|\\.)*")+)[ \t\r]+(\S.*)', re.DOTALL
)
_BLANKS = " \t\r"
"""What separates words of a line for ssh-keygen (misc.c, WHITESPACE); others are part of them."""
_TIME = re.compile(r"(\d{8})(\d{4})?(\d{2})?(Z?)")


# -- signatures


@dataclass(frozen=True, slots=True)
class SignedBy:
    """Who signed: the principals of the line that allows it, and the key in wire form."""

    principals: str
    public: bytes

    @property
    def builder(self) -> str:
        return builder_name(self.public)


def builder_name(public: bytes) -> str:
    """A builder's name in the store: SHA-256 of its SSH public key's wire form, in hex."""
    return hashlib.sha256(public).hexdigest()


def key_fingerprint(public: bytes) -> str:
    """As ssh-keygen -l prints it: SHA256 and unpadded base64 of the wire form."""
    return fingerprint(builder_name(public))


def sign(data: bytes, key: SigningKey, namespace: str = NAMESPACE) -> str:
    """Sign; the armored text of a `.sig` file.

    Raises:
        UsageError: the key cannot be used.
        ValueError: the namespace is empty.
    """
    if not namespace:
        raise ValueError("PROTOCOL.sshsig: the namespace must not be empty")
    signature = key.sign(_signed(data, namespace.encode(), "sha512"))
    fields = pack_strings(key.public, namespace.encode(), b"", b"sha512", signature)
    text = base64.b64encode(_MAGIC + _VERSION.to_bytes(4, "big") + fields).decode()
    lines = [text[at : at + 70] for at in range(0, len(text), 70)]
    return "\n".join([_BEGIN, *lines, _END, ""])


def verify_signature(
    data: bytes, signature: str, allowed: Sequence[AllowedSigner], namespace: str, at: int
) -> SignedBy:
    """Who of `allowed` signed `data` for `namespace`; `at` is now, in seconds since 1970.

    Raises:
        IntegrityError: the signature is malformed, of other bytes or for another namespace, or its
            key is not allowed, not for this namespace, or not at this time.
    """
    public, stated, hashed, value = _parse(signature)
    if stated != namespace:
        raise IntegrityError(f"SSH signature is for {stated!r}, not for {namespace!r}")
    # first whether we would believe this key at all, then whether it did sign
    line = _allowed_line(public, allowed, namespace, at)
    check_by_key(public, value, _signed(data, namespace.encode(), hashed))
    return SignedBy(line.principals, public)


def claimed_key(data: bytes, signature: str, namespace: str) -> bytes | None:
    """The public key that did sign `data`, whether anybody believes it or not; None where none did.

    For messages only: a signature that holds says nothing about whom to trust.
    """
    try:
        public, stated, hashed, value = _parse(signature)
        if stated != namespace:
            return None
        check_by_key(public, value, _signed(data, namespace.encode(), hashed))
    except IntegrityError:
        return None
    return public


def _allowed_line(
    public: bytes, allowed: Sequence[AllowedSigner], namespace: str, at: int
) -> AllowedSigner:
    lines = [line for line in allowed if line.public == public]
    if not lines:
        raise IntegrityError(
            f"signed by a key that is not trusted (builder {builder_name(public)[:12]})",
            hint="add its public key to the allowed-signers file if you trust it",
        )
    covering = [line for line in lines if line.covers(namespace)]
    if not covering:
        raise IntegrityError(f"the signer's key is not allowed for {namespace!r}")
    for line in covering:
        if line.counts_at(at):
            return line
    raise IntegrityError("the signer's key is not valid at this time")


def _parse(signature: str) -> tuple[bytes, str, str, bytes]:
    """Public key, namespace, hash and inner signature."""
    armor = _ARMOR.fullmatch(signature.replace("\r\n", "\n")[: _LONGEST_SIGNATURE + 1])
    if armor is None or len(signature) > _LONGEST_SIGNATURE:
        raise IntegrityError("not an SSH signature")
    try:
        packed = base64.b64decode(armor[1].replace("\n", ""), validate=True)
    except binascii.Error as error:
        raise IntegrityError(f"damaged SSH signature: {error}") from error
    wire = Wire(packed)
    if wire.take(len(_MAGIC)) != _MAGIC or wire.uint32() != _VERSION:
        raise IntegrityError("not an SSH signature of version 1")
    public, namespace = wire.string(), wire.text()
    wire.string()  # reserved: verifiers ignore it, and it is signed as empty
    hashed, value = wire.text(), wire.string()
    wire.end()
    if hashed not in _HASHES:
        raise IntegrityError(f"SSH signature with hash {hashed!r}; sha256 and sha512 are known")
    return public, namespace, hashed, value


def _signed(data: bytes, namespace: bytes, hashed: str) -> bytes:
    return _MAGIC + pack_strings(namespace, b"", hashed.encode(), _HASHES[hashed](data).digest())


# -- allowed-signers files (ssh-keygen(1), ALLOWED SIGNERS): whom signatures may be from


@dataclass(frozen=True, slots=True)
class AllowedSigner:
    """One line: a key (wire form), whose it is, for which namespaces (patterns; empty for all) and
    when (seconds since 1970, both ends within) it counts."""

    principals: str
    public: bytes
    namespaces: tuple[str, ...] = ()
    valid_after: int | None = None
    valid_before: int | None = None

    def covers(self, namespace: str) -> bool:
        return not self.namespaces or matches(namespace, self.namespaces)

    def counts_at(self, seconds: int) -> bool:
        early = self.valid_after is not None and seconds < self.valid_after
        late = self.valid_before is not None and seconds > self.valid_before
        return not early and not late


def parse_allowed_signers(text: str, place: str) -> tuple[AllowedSigner, ...]:
    """All lines of a file; `place` is its name, for errors.

    Raises:
        RecipeError: a line that cannot be understood, or names a certificate authority, which is
            not supported: a line that is not understood never widens or narrows trust in silence.
    """
    # As ssh-keygen reads it: what other programs take for the end of a line is part of a comment,
    # and must not begin a line that trusts one more key.
    lines = (
        (number, line.lstrip(" \t").rstrip(_BLANKS))
        for number, line in enumerate(text.split("\n"), 1)
    )
    return tuple(
        _parse_line(line, f"{place}:{number}:1")
        for number, line in lines
        if line and not line.startswith("#")
    )


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """ssh_config(5), PATTERNS: `*` and `?`; a pattern that begins with `!` and fits says no."""
    found = False
    for pattern in patterns:
        first, *rest = map(_literal, pattern.removeprefix("!").split("*"))
        # each piece as early as it can be, never later: many stars cost no more than one
        between = "".join(f"(?>.*?{piece})" for piece in rest[:-1])
        regex = f"{first}{between}.*{rest[-1]}" if rest else first
        if re.fullmatch(regex, name, re.DOTALL):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _literal(text: str) -> str:
    return "".join("." if char == "?" else re.escape(char) for char in text)


def _parse_line(line: str, place: str) -> AllowedSigner:
    fields = _LINE.fullmatch(line)
    if fields is None:
        raise RecipeError("not `principals [options] type key`", place=place)
    principals, second, rest = fields[1].strip('"'), fields[2], fields[3]
    _check_principals(principals, place)
    options: dict[str, str | None] = {}
    if second not in KEY_TYPES and "=" not in second and second.lower() != "cert-authority":
        rest = f"{second} {rest}"  # a key type that parse_public shall name
    elif second in KEY_TYPES:
        rest = f"{second} {rest}"
    else:
        options = _parse_options(second, place)
    try:
        public = parse_public(rest)
    except IntegrityError as error:
        raise RecipeError(error.message, place=place, hint=error.hint) from error
    namespaces = options.get("namespaces")
    return AllowedSigner(
        principals,
        public,
        tuple(part.strip() for part in namespaces.split(",")) if namespaces else (),
        _seconds(options.get("valid-after"), place),
        _seconds(options.get("valid-before"), place),
    )


def _check_principals(principals: str, place: str) -> None:
    """Refuse names that look like others: two that people cannot tell apart are one builder."""
    for char in principals:
        if unicodedata.category(char).startswith(("C", "Z")) and char != " ":
            raise RecipeError(
                f"a principal has the character U+{ord(char):04X}, which nobody can see",
                place=place,
                hint="write names of letters, digits and . _ - @ +",
            )
    if not any(part.strip(" !") for part in principals.split(",")):
        raise RecipeError("the line names nobody", place=place, hint="write `name@host KEY`")


def _parse_options(text: str, place: str) -> dict[str, str | None]:
    options: dict[str, str | None] = {}
    at = 0
    while at < len(text):
        option = _OPTION.match(text, at)
        if option is None:
            raise RecipeError(f"cannot read the options {text!r}", place=place)
        name, value = option[1].lower(), option[2]
        if name == "cert-authority":
            raise RecipeError(
                "certificate authorities are not supported",
                place=place,
                hint="list the signers' own keys",
            )
        if name not in ("namespaces", "valid-after", "valid-before") or not value:
            raise RecipeError(f"unknown option {name!r}, or one without a value", place=place)
        if name in options:
            raise RecipeError(f"option {name!r} stands there twice", place=place)
        options[name] = value
        at = option.end()
    return options


def _seconds(text: str | None, place: str) -> int | None:
    """`YYYYMMDD[HHMM[SS]][Z]` as seconds since 1970; local time without the Z."""
    if text is None:
        return None
    found = _TIME.fullmatch(text)
    try:
        if found is None:
            raise ValueError(text)
        digits = found[1] + (found[2] or "0000") + (found[3] or "00")
        moment = datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError as error:
        hint = "write YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with a Z for UTC"
        raise RecipeError(f"not a time: {text!r}", place=place, hint=hint) from error
    if found[4]:
        return int(moment.timestamp())
    return int(time.mktime((*moment.timetuple()[:8], -1)))
