"""Signing with the user's own SSH key: a private key file, or a running agent.

No password is ever asked for: a key with one is used through the agent.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from buildit.errors import IntegrityError, UsageError
from buildit.store.durable import open_regular
from buildit.trust.sshwire import ED25519, RSA, Wire, key_type, mpint, pack, parse_public

SECONDS = 60.0
"""How long an agent may take: it may ask the user."""
LARGEST_KEY = 1 << 20
MAX_ANSWER = 1 << 18
_FAILURE, _IDENTITIES, _SIGN = 5, (11, 12), (13, 14)  # draft-ietf-sshm-ssh-agent, 6.1
_RSA_SHA2_512 = 4


class SigningKey(Protocol):
    """A key that can sign; `public` is its public half in wire form."""

    @property
    def public(self) -> bytes: ...

    def sign(self, data: bytes) -> bytes:
        """The signature in wire form. Raises UsageError when the key cannot be used."""
        ...


@dataclass(frozen=True, slots=True)
class FileKey:
    """The private key in the file `path`; read at each use, never kept."""

    path: Path
    public: bytes

    def sign(self, data: bytes) -> bytes:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

        key = _load(self.path)
        match key:
            case ed25519.Ed25519PrivateKey():
                return pack(ED25519.encode(), key.sign(data))
            case rsa.RSAPrivateKey():
                value = key.sign(data, padding.PKCS1v15(), hashes.SHA512())
                return pack(b"rsa-sha2-512", value)
            case ec.EllipticCurvePrivateKey():
                digest = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
                r, s = decode_dss_signature(key.sign(data, ec.ECDSA(digest[key.key_size])))
                return pack(key_type(self.public).encode(), pack(mpint(r), mpint(s)))
            case _:
                raise UsageError("SSH key type cannot sign", place=str(self.path))


@dataclass(frozen=True, slots=True)
class AgentKey:
    """A key that the agent behind the socket `agent` holds."""

    agent: Path
    public: bytes

    def sign(self, data: bytes) -> bytes:
        flags = _RSA_SHA2_512 if key_type(self.public) == RSA else 0
        body = pack(self.public, data) + flags.to_bytes(4, "big")
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
            raise UsageError(
                "this private key has a password",
                place=str(path),
                hint=f"start ssh-agent, run `ssh-add {path}`, and keep {public.name} beside it",
            ) from error
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
    keys: list[bytes] = []
    for _ in range(min(answer.uint32(), 1000)):
        keys.append(answer.string())
        answer.string()
    return tuple(keys)


class _LockedError(Exception):
    """The private key has a password."""


def _agent_key(path: Path, text: bytes, agent: Path | None) -> AgentKey:
    public = _public(path, text)
    if agent is None:
        raise UsageError(
            "a public key signs only through an agent, and none runs",
            place=str(path),
            hint="start ssh-agent and run ssh-add, or name the private key file",
        )
    if public not in agent_keys(agent):
        raise UsageError(
            "the SSH agent does not hold this key",
            place=str(path),
            hint=f"run `ssh-add {path.with_suffix('')}`",
        )
    return AgentKey(agent, public)


def _read(path: Path) -> bytes:
    try:
        with open_regular(path, follow=True) as stream:
            return stream.read(LARGEST_KEY)
    except (OSError, IntegrityError) as error:
        hint = "make one: ssh-keygen -t ed25519"
        reason = error.strerror if isinstance(error, OSError) else error.message
        raise UsageError(f"SSH key cannot be read: {reason}", place=str(path), hint=hint) from error


def _public(path: Path, text: bytes) -> bytes:
    try:
        return parse_public(text.decode("utf-8", "replace"))
    except IntegrityError as error:
        raise UsageError(
            f"neither an OpenSSH private key nor a public one: {error.message}",
            place=str(path),
            hint=error.hint or "make one: ssh-keygen -t ed25519",
        ) from error


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
        raise UsageError(
            f"not an SSH private key: {error}",
            place=str(path),
            hint="make one: ssh-keygen -t ed25519",
        ) from error


def _ask(agent: Path, codes: tuple[int, int], body: bytes) -> bytes:
    """One request and the body of its answer."""
    request, due = codes
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(SECONDS)
            connection.connect(str(agent))
            connection.sendall(pack(bytes([request]) + body))
            answer = _receive(connection, int.from_bytes(_receive(connection, 4), "big"))
    except OSError as error:
        raise UsageError(
            f"the SSH agent does not answer: {error.strerror or error}",
            place=str(agent),
            hint="start one and give it the key: eval $(ssh-agent) && ssh-add",
        ) from error
    if answer[:1] != bytes([due]):
        refused = answer[:1] == bytes([_FAILURE])
        reason = "refused" if refused else "gave an unexpected answer"
        raise UsageError(f"SSH agent {reason}", place=str(agent), hint="look at `ssh-add -l`")
    return answer[1:]


def _receive(connection: socket.socket, length: int) -> bytes:
    if length > MAX_ANSWER:
        raise OSError(f"answer of {length} bytes")
    received = b""
    while len(received) < length:
        chunk = connection.recv(length - len(received))
        if not chunk:
            raise OSError("connection ended")
        received += chunk
    return received
