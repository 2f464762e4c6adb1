"""Signing statements with the user's SSH key, and the list of those whose statements count."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from buildit.errors import IntegrityError, RecipeError, UsageError
from buildit.files import open_regular
from buildit.model.config import SigningKeys
from buildit.store.attest import LOCAL
from buildit.trust.sshkeys import AgentKey, SigningKey, agent_keys, signing_key
from buildit.trust.sshsig import (
    NAMESPACE,
    AllowedSigner,
    builder_name,
    key_fingerprint,
    parse_allowed_signers,
    sign,
)

LARGEST_LIST = 16 << 20
"""Bytes of an allowed-signers file; what has more is none."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Who a build is said by: the builder's name, and what signs statements; None signs nothing."""

    builder: str
    sign: Callable[[bytes], bytes] | None


UNSIGNED = Signer(LOCAL, None)


def signer(keys: SigningKeys) -> Signer:
    """Who signs with these keys; `UNSIGNED` without an SSH key.

    Raises:
        UsageError: the key cannot be used.
    """
    key = own_key(keys)
    if key is None:
        return UNSIGNED
    return Signer(builder_name(key.public), lambda data: sign(data, key, NAMESPACE).encode())


def own_key(keys: SigningKeys) -> SigningKey | None:
    """The user's SSH key; None where none is configured.

    Raises:
        UsageError: it cannot be used.
    """
    wanted = keys.ssh
    if not wanted or wanted.startswith("gpg:"):
        return None
    agent = Path(keys.agent) if keys.agent else None
    if not wanted.startswith("agent:"):
        return signing_key(Path(wanted), agent)
    if agent is None:
        raise UsageError(
            f"signing-key is {wanted}, and no agent runs",
            hint="start one: eval $(ssh-agent) && ssh-add",
        )
    for public in agent_keys(agent):
        if key_fingerprint(public) == wanted.removeprefix("agent:"):
            return AgentKey(agent, public)
    raise UsageError(f"the agent does not hold {wanted}", hint="see `ssh-add -l`")


def signers_of(path: Path) -> tuple[AllowedSigner, ...]:
    """The lines of an allowed-signers file.

    Raises:
        RecipeError: it cannot be read, or is malformed.
    """
    try:
        with open_regular(path, follow=True) as stream:
            # Bytes: a carriage return ends no line here, as it ends none for ssh-keygen.
            text = stream.read(LARGEST_LIST + 1).decode("utf-8")
        if len(text) > LARGEST_LIST:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    except (OSError, UnicodeDecodeError, IntegrityError) as error:
        raise RecipeError(
            f"the allowed-signers file cannot be read: {error}",
            place=str(path),
            hint="name an OpenSSH allowed-signers file in `trust: {allowed-signers: …}`, or make "
            "it: buildit trust add KEYFILE",
        ) from error
    return parse_allowed_signers(text, str(path))
