"""Signing statements with the user's SSH key, and judging those of others."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from buildit.errors import IntegrityError, RecipeError, UsageError
from buildit.pipeline.settings import Settings
from buildit.store.attest import LOCAL

if TYPE_CHECKING:
    from buildit.net.allowed_signers import AllowedSigner
    from buildit.net.sshkeys import SigningKey

NAMESPACE = "buildit-attestation-v1"


def signer(settings: Settings) -> tuple[str, Callable[[bytes], bytes] | None]:
    """The builder's name and its signing function; (`local`, None) without an SSH key.

    Raises:
        UsageError: the key cannot be used.
    """
    key = _own_key(settings)
    if key is None:
        return LOCAL, None
    from buildit.net.sshsig import builder_name, sign

    return builder_name(key.public), lambda data: sign(data, key, NAMESPACE).encode()


def accept(statement: bytes, signature: bytes | None, builder: str, settings: Settings) -> None:
    """Accept a statement signed by one's own key or by one of the allowed signers.

    Raises:
        IntegrityError: it is unsigned, by another key, or the signature does not hold.
        RecipeError: the allowed-signers file is malformed.
    """
    from buildit.net.sshsig import builder_name, verify

    if signature is None:
        raise IntegrityError(
            f"the statement of builder {builder[:12]} has no signature",
            hint="publish it again with `signing-key`",
        )
    text = signature.decode("ascii", "replace")
    signed = verify(statement, text, _allowed(settings), NAMESPACE, int(time.time()))
    if builder_name(signed.public) != builder:
        raise IntegrityError(
            f"the statement of builder {builder[:12]} is signed by another key",
            hint="take it from another binhost",
        )


def _own_key(settings: Settings) -> SigningKey | None:
    wanted = settings.signing_key
    if not wanted or wanted.startswith("gpg:"):
        return None
    from buildit.net.sshkeys import AgentKey, agent_keys, signing_key

    agent = Path(settings.ssh_agent) if settings.ssh_agent else None
    if not wanted.startswith("agent:"):
        return signing_key(Path(wanted), agent)
    if agent is None:
        raise UsageError(
            f"signing-key is {wanted}, and no agent runs",
            hint="start one: eval $(ssh-agent) && ssh-add",
        )
    for public in agent_keys(agent):
        if fingerprint(public) == wanted.removeprefix("agent:"):
            return AgentKey(agent, public)
    raise UsageError(f"the agent does not hold {wanted}", hint="see `ssh-add -l`")


def fingerprint(public: bytes) -> str:
    """As ssh-keygen -l prints it: SHA256 and unpadded base64 of the wire form."""
    digest = base64.b64encode(hashlib.sha256(public).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


def _allowed(settings: Settings) -> tuple[AllowedSigner, ...]:
    from buildit.net.allowed_signers import AllowedSigner, parse_allowed_signers

    allowed: tuple[AllowedSigner, ...] = ()
    if settings.allowed_signers:
        path = Path(settings.allowed_signers)
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"the allowed-signers file cannot be read: {error}",
                place=str(path),
                hint="name an OpenSSH allowed-signers file in `trust: {allowed-signers: …}`",
            ) from error
        allowed = parse_allowed_signers(text, str(path))
    own = _own_key(settings)
    if own is not None:
        allowed = (*allowed, AllowedSigner("self", own.public))
    return allowed
