"""`.aci.asc` beside each `.aci`, where `signing-key` names an OpenPGP key."""

from __future__ import annotations

import os
from pathlib import Path

from buildit.errors import StoreError
from buildit.trust.openpgp.gpg import holds, public_key, sign_detached

__all__ = ["public_key", "sign_aci", "signature_of"]


def signature_of(aci: Path) -> Path:
    """Where App Container clients look for a file's signature."""
    return aci.with_name(f"{aci.name}.asc")


def sign_aci(aci: Path, fingerprint: str) -> Path:
    """Sign an .aci; a signature that is there and holds is kept, for its time is part of it.

    Raises:
        UsageError: gpg cannot sign with the key.
        StoreError: the signature cannot be written.
    """
    target = signature_of(aci)
    key = public_key(fingerprint)
    if target.is_file() and holds(aci, target.read_bytes(), key):
        return target
    signature = sign_detached(aci, fingerprint)
    fresh = target.with_name(f".{target.name}.new-{os.getpid()}")
    try:
        fresh.write_bytes(signature)
        fresh.replace(target)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise StoreError(
            f"the signature cannot be written: {error.strerror}",
            place=str(target),
            hint="look at the permissions and the free space there",
        ) from error
    return target
