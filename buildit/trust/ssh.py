"""SSH keys, public ones in wire form, and what they sign: OpenSSH's signatures of files
(PROTOCOL.sshsig), as `ssh-keygen -Y sign` and `verify` make and read them.

Ed25519 (RFC 8709), ECDSA on the NIST curves (RFC 5656), RSA with SHA-2 (RFC 8332); nothing else. No
password is ever asked for: a key with one is used through the agent. The key inside a signature
says who claims to have signed; whom to believe is said elsewhere (`signers`).
"""

from __future__ import annotations

import base64
import hashlib
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from buildit.errors import IntegrityError, UsageError
from buildit.files import open_regular
from buildit.store.attest import fingerprint

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

NAMESPACE = "buildit-attestation-v1"
_MAGIC, _VERSION = b"SSHSIG", 1
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_ARMOR = re.compile(rf"{_BEGIN}\n([A-Za-z0-9+/=\n]+)\n{_END}\n?")
_HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}
_LONGEST_SIGNATURE = 1 << 16
"""Of a signature file, in characters."""
ED25519, RSA = "ssh-ed25519", "ssh-rsa"
_ECDSA = "ecdsa-sha2-nistp"
KEY_TYPES = (ED25519, RSA, *(f"{_ECDSA}{bits}" for bits in (256, 384, 521)))

_LEAST_RSA_BITS = 2048
_LARGEST_KEY = 1 << 20
_LARGEST_ANSWER = 1 << 18
_AGENT_SECONDS = 60.0
"""How long an agent may take: it may ask the user."""
_FAILURE, _IDENTITIES, _SIGN = 5, (11, 12), (13, 14)  # draft-ietf-sshm-ssh-agent, 6.1
_RSA_SHA2_512 = 4
_MAKE_ONE = "make one: ssh-keygen -t ed25519"


# -- the wire encoding (RFC 4251, 5) and public keys in it


def pack_strings(*fields: bytes) -> bytes:
    """Each field behind its length (RFC 4251, 5: string)."""
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def mpint(value: int) -> bytes:
    """RFC 4251, 5: mpint of a number that is not negative, without its length."""
    return value.to_bytes((value.bit_length() + 8) // 8, "big") if value else b""


@dataclass(slots=True)
class Wire:
    """Reads fields from the front.

    Raises:
        IntegrityError: from every method, where the bytes end too early.
    """

    rest: bytes

    def take(self, length: int) -> bytes:
        if length > len(self.rest):
            raise IntegrityError("SSH signature or key is cut off")
        head, self.rest = self.rest[:length], self.rest[length:]
        return head

    def uint32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        return self.take(self.uint32())

    def text(self) -> str:
        try:
            return self.string().decode("ascii")
        except UnicodeDecodeError as error:
            raise IntegrityError("SSH signature or key has a name that is not ASCII") from error

    def number(self) -> int:
        field = self.string()
        if field[:1] and field[0] & 0x80:
            raise IntegrityError("SSH key or signature with a negative number")
        return int.from_bytes(field, "big")

    def end(self) -> None:
        if self.rest:
            raise IntegrityError(f"{len(self.rest)} bytes too many in an SSH signature or key")


def parse_public(line: str) -> bytes:
    """The wire form of an OpenSSH public key: `type base64 [comment]`.

    Raises:
        IntegrityError: it is no such line, or of a type that is not supported.
    """
    fields = line.split()
    if len(fields) < 2:
        hint = "it is one line: ssh-ed25519 AAAA… whose"
        raise IntegrityError("not an OpenSSH public key", hint=hint)
    try:
        public = base64.b64decode(fields[1], validate=True)
    except ValueError as error:  # binascii.Error too; a letter that is not ASCII is the plain one
        raise IntegrityError(f"not an OpenSSH public key: {error}") from error
    if key_type(public) != fields[0]:
        raise IntegrityError(f"OpenSSH public key says {fields[0]} but holds {key_type(public)}")
    return public


def public_line(public: bytes) -> str:
    """The `type base64` line of a public key in wire form."""
    return f"{key_type(public)} {base64.b64encode(public).decode()}"


def key_type(public: bytes) -> str:
    """The type of a public key in wire form.

    Raises:
        IntegrityError: it is not a supported type.
    """
    name = Wire(public).text()
    if name not in KEY_TYPES:
        hint = f"use {ED25519}: ssh-keygen -t ed25519"
        raise IntegrityError(f"SSH key type {name!r} is not supported", hint=hint)
    return name


def check_by_key(public: bytes, signature: bytes, data: bytes) -> None:
    """Verify one signature, both in wire form.

    Raises:
        IntegrityError: it does not verify, is malformed, or of another algorithm than the key's.
    """
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    kind = key_type(public)
    wire = Wire(signature)
    algorithm, value = wire.text(), wire.string()
    wire.end()
    allowed = ("rsa-sha2-512", "rsa-sha2-256") if kind == RSA else (kind,)
    if algorithm not in allowed:
        raise IntegrityError(f"SSH signature algorithm {algorithm!r} does not fit a {kind} key")
    try:
        match load_ssh_public_key(public_line(public).encode()):
            case ed25519.Ed25519PublicKey() as key:
                key.verify(value, data)
            case rsa.RSAPublicKey() as key:
                bits = key.key_size
                if bits < _LEAST_RSA_BITS:
                    raise IntegrityError(f"RSA key of {bits} bits: {_LEAST_RSA_BITS} is least")
                digest = hashes.SHA512() if algorithm == "rsa-sha2-512" else hashes.SHA256()
                # RFC 8332, 3: signatures may come without leading zero bytes
                padded = value.rjust((bits + 7) // 8, b"\0")
                key.verify(padded, data, padding.PKCS1v15(), digest)
            case ec.EllipticCurvePublicKey() as key:
                pair = Wire(value)
                r, s = pair.number(), pair.number()
                pair.end()
                key.verify(utils.encode_dss_signature(r, s), data, _ecdsa(key.key_size))
            case _:
                raise ValueError(f"type {kind}")
    except InvalidSignature as error:
        reason = "bad SSH signature: the bytes are not those that were signed"
        raise IntegrityError(reason) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IntegrityError(f"SSH key cannot be used: {error}") from error


def _ecdsa(bits: int) -> ec.ECDSA:
    """With the hash that belongs to a curve (RFC 5656, 6.2.1)."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA({256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[bits])


def plain_signature(public: bytes, signature: bytes) -> bytes | None:
    """A signature in wire form as X.509 has it (RFC 8410; RFC 3279, 2.2.3), for those who know no
    SSH; None of a key whose hash they do not take: Ed25519 has none, others want SHA-256."""
    wire = Wire(signature)
    wire.string()
    value = wire.string()
    if key_type(public) == ED25519:
        return value
    if key_type(public) != f"{_ECDSA}256":
        return None
    from cryptography.hazmat.primitives.asymmetric import utils

    pair = Wire(value)
    return utils.encode_dss_signature(pair.number(), pair.number())


# -- private keys: in files, and held by an agent


class SigningKey(Protocol):
    """A key that can sign; `public` is its public half in wire form."""

    @property
    def public(self) -> bytes: ...

    def sign(self, data: bytes) -> bytes:
        """The signature in wire form. Raises UsageError when the key cannot be used."""


@dataclass(frozen=True, slots=True)
class FileKey:
    """The private key in the file `path`; read at each use, never kept."""

    path: Path
    public: bytes

    def sign(self, data: bytes) -> bytes:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

        match _load(self.path):
            case ed25519.Ed25519PrivateKey() as key:
                return pack_strings(ED25519.encode(), key.sign(data))
            case rsa.RSAPrivateKey() as key:
                value = key.sign(data, padding.PKCS1v15(), hashes.SHA512())
                return pack_strings(b"rsa-sha2-512", value)
            case ec.EllipticCurvePrivateKey() as key:
                r, s = utils.decode_dss_signature(key.sign(data, _ecdsa(key.key_size)))
                pair = pack_strings(mpint(r), mpint(s))
                return pack_strings(key_type(self.public).encode(), pair)
            case _:
                raise UsageError("SSH key type cannot sign", place=str(self.path))


@dataclass(frozen=True, slots=True)
class AgentKey:
    """A key that the agent behind the socket `agent` holds."""

    agent: Path
    public: bytes

    def sign(self, data: bytes) -> bytes:
        flags = _RSA_SHA2_512 if key_type(self.public) == RSA else 0
        body = pack_strings(self.public, data) + flags.to_bytes(4, "big")
        answer = Wire(_ask(self.agent, _SIGN, body))
        return answer.string()


def signing_key(path: Path, agent: Path | None) -> SigningKey:
    """The key that `path` names: a private key file, or a public one whose private half the
    agent holds. `agent` is its socket (`SSH_AUTH_SOCK`).

    Raises:
        UsageError: no such key, it has a password and no agent, others may read it.
    """
    text = _read(path)
    if b"PRIVATE KEY" not in text[:200]:
        return _agent_key(path, text, agent)
    if path.stat().st_mode & 0o077:
        raise UsageError("others may read this private key", place=str(path), hint="chmod 600 it")
    try:
        private = _load(path)
    except _LockedError as error:
        public = path.with_name(path.name + ".pub")
        if agent is None or not public.is_file():
            reason = "this private key has a password"
            hint = f"start ssh-agent, run `ssh-add {path}`, and keep {public.name} beside it"
            raise UsageError(reason, place=str(path), hint=hint) from error
        return _agent_key(public, _read(public), agent)
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    line = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return FileKey(path, _public(path, line))


def agent_keys(agent: Path) -> tuple[bytes, ...]:
    """The public keys (wire form) that an agent holds.

    Raises:
        UsageError: it does not answer.
    """
    answer = Wire(_ask(agent, _IDENTITIES, b""))
    count = min(answer.uint32(), 1000)
    named = [(answer.string(), answer.string()) for _ in range(count)]  # with a comment each
    return tuple(key for key, _ in named)


class _LockedError(Exception):
    """The private key has a password."""


def _agent_key(path: Path, text: bytes, agent: Path | None) -> AgentKey:
    public = _public(path, text)
    if agent is None:
        reason = "a public key signs only through an agent, and none runs"
        hint = "start ssh-agent and run ssh-add, or name the private key file"
        raise UsageError(reason, place=str(path), hint=hint)
    if public not in agent_keys(agent):
        hint = f"run `ssh-add {path.with_suffix('')}`"
        raise UsageError("the SSH agent does not hold this key", place=str(path), hint=hint)
    return AgentKey(agent, public)


def _read(path: Path) -> bytes:
    try:
        with open_regular(path, follow=True) as stream:
            return stream.read(_LARGEST_KEY)
    except (OSError, IntegrityError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.message
        reason = f"SSH key cannot be read: {reason}"
        raise UsageError(reason, place=str(path), hint=_MAKE_ONE) from error


def _public(path: Path, text: bytes) -> bytes:
    try:
        return parse_public(text.decode("utf-8", "replace"))
    except IntegrityError as error:
        reason = f"neither an OpenSSH private key nor a public one: {error.message}"
        raise UsageError(reason, place=str(path), hint=error.hint or _MAKE_ONE) from error


def _load(path: Path):  # type: ignore[no-untyped-def]  # noqa: ANN202  # the library's own union
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, ssh

    text = _read(path)
    try:
        if b"BEGIN OPENSSH PRIVATE KEY" in text:
            return ssh.load_ssh_private_key(text, None)
        return load_pem_private_key(text, None)
    except TypeError as error:  # what the library raises where a password is missing
        raise _LockedError from error
    except (ValueError, UnsupportedAlgorithm) as error:
        if "password" in str(error).lower():
            raise _LockedError from error
        reason = f"not an SSH private key: {error}"
        raise UsageError(reason, place=str(path), hint=_MAKE_ONE) from error


def _ask(agent: Path, codes: tuple[int, int], body: bytes) -> bytes:
    """One request and the body of its answer."""
    request, due = codes
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_AGENT_SECONDS)
            connection.connect(str(agent))
            connection.sendall(pack_strings(bytes([request]) + body))
            answer = _receive(connection, int.from_bytes(_receive(connection, 4), "big"))
    except OSError as error:
        reason = f"the SSH agent does not answer: {error.strerror or error}"
        hint = "start one and give it the key: eval $(ssh-agent) && ssh-add"
        raise UsageError(reason, place=str(agent), hint=hint) from error
    if answer[:1] != bytes([due]):
        refused = answer[:1] == bytes([_FAILURE])
        reason = "refused" if refused else "gave an unexpected answer"
        raise UsageError(f"SSH agent {reason}", place=str(agent), hint="look at `ssh-add -l`")
    return answer[1:]


def _receive(connection: socket.socket, length: int) -> bytes:
    if length > _LARGEST_ANSWER:
        raise OSError(f"answer of {length} bytes")
    received = b""
    while len(received) < length:
        chunk = connection.recv(length - len(received))
        if not chunk:
            raise OSError("connection ended")
        received += chunk
    return received


# -- signatures


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


@dataclass(frozen=True, slots=True)
class SshSignature:
    """What a signature file says; nothing of it holds before `check`."""

    public: bytes
    namespace: str
    hashed: str
    value: bytes

    def check(self, data: bytes) -> None:
        """Raises IntegrityError: the key did not sign these bytes."""
        check_by_key(self.public, self.value, _signed(data, self.namespace.encode(), self.hashed))


def parse_signature(signature: str, namespace: str) -> SshSignature:
    """The text of a `.sig` file.

    Raises:
        IntegrityError: it is malformed, or for another namespace.
    """
    armor = _ARMOR.fullmatch(signature.replace("\r\n", "\n")[: _LONGEST_SIGNATURE + 1])
    if armor is None or len(signature) > _LONGEST_SIGNATURE:
        raise IntegrityError("not an SSH signature")
    try:
        packed = base64.b64decode(armor[1].replace("\n", ""), validate=True)
    except ValueError as error:
        raise IntegrityError(f"damaged SSH signature: {error}") from error
    wire = Wire(packed)
    if wire.take(len(_MAGIC)) != _MAGIC or wire.uint32() != _VERSION:
        raise IntegrityError("not an SSH signature of version 1")
    public, stated = wire.string(), wire.text()
    wire.string()  # reserved: verifiers ignore it, and it is signed as empty
    hashed, value = wire.text(), wire.string()
    wire.end()
    if hashed not in _HASHES:
        raise IntegrityError(f"SSH signature with hash {hashed!r}; sha256 and sha512 are known")
    if stated != namespace:
        raise IntegrityError(f"SSH signature is for {stated!r}, not for {namespace!r}")
    return SshSignature(public, stated, hashed, value)


def claimed_key(data: bytes, signature: str, namespace: str) -> bytes | None:
    """The public key that did sign `data`, whether anybody believes it or not; None where none did.

    For messages only: a signature that holds says nothing about whom to trust.
    """
    try:
        said = parse_signature(signature, namespace)
        said.check(data)
    except IntegrityError:
        return None
    return said.public


def _signed(data: bytes, namespace: bytes, hashed: str) -> bytes:
    return _MAGIC + pack_strings(namespace, b"", hashed.encode(), _HASHES[hashed](data).digest())
