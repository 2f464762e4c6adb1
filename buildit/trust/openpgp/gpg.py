"""OpenPGP signing by the user's own GnuPG and its agent: buildit never sees the secret key."""

from __future__ import annotations

import subprocess
from pathlib import Path

from buildit.errors import IntegrityError, UsageError
from buildit.trust.openpgp.verify import verify_detached

SECONDS = 300
"""The agent may have to ask the user for a password."""


def sign_detached(content: Path, fingerprint: str) -> bytes:
    """The armored signature over a file, by exactly this key.

    Raises:
        UsageError: gpg is not installed, or cannot sign with the key.
    """
    signature = _gpg(
        fingerprint,
        "--detach-sign",
        "--armor",
        f"--local-user={fingerprint}!",
        "--output=-",
        "--",
        str(content.absolute()),
    )
    if not signature.startswith(b"-----BEGIN PGP SIGNATURE-----"):
        raise _failed(fingerprint, "it gave no signature")
    return signature


def public_key(fingerprint: str) -> bytes:
    """The armored public key, without the names of those who certified it.

    Raises:
        UsageError: gpg is not installed, or does not have the key.
    """
    key = _gpg(fingerprint, "--armor", "--export-options=export-minimal", "--export", fingerprint)
    if not key:
        raise _failed(fingerprint, "it does not have the key")
    return key


def holds(content: Path, signature: bytes, key: bytes) -> bool:
    """Whether a signature over a file holds, by this very key."""
    try:
        return bool(verify_detached(content, signature, [key]))
    except IntegrityError:
        return False


def _gpg(fingerprint: str, *arguments: str) -> bytes:
    argv = ["gpg", "--batch", "--no-tty", "--no-auto-key-retrieve", *arguments]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
        )
    except FileNotFoundError:
        raise UsageError(
            "gpg is not installed, and signing-key names an OpenPGP key",
            hint="apt-get install gnupg, or take gpg: out of signing-key",
        ) from None
    except subprocess.TimeoutExpired:
        raise _failed(fingerprint, "nobody gave its password in time") from None
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise _failed(fingerprint, lines[-1] if lines else f"exit {done.returncode}")
    return done.stdout


def _failed(fingerprint: str, reason: str) -> UsageError:
    return UsageError(
        f"gpg cannot use the key {fingerprint}: {reason}",
        place="signing-key",
        hint=f"try: gpg --local-user {fingerprint} --clear-sign FILE; see the keys with gpg -K",
    )
