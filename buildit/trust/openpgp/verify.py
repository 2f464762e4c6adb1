"""OpenPGP signatures: who signed these bytes, by keys that the caller trusts, or an error.

`gpgv` verifies where it is installed, else pysequoia. Trust comes from the keys handed over alone,
never from ~/.gnupg or the machine's keyrings. Of a clear-signed message only the text that the
verifier gave back may be read: then nobody parses other bytes than were verified.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from buildit.errors import IntegrityError
from buildit.trust.openpgp import gpgv, sequoia
from buildit.trust.openpgp.armor import check_clearsigned, dearmor


@dataclass(frozen=True, slots=True)
class Signed:
    """What was signed, and the upper-case hex fingerprints of the primary keys that did."""

    text: bytes
    fingerprints: tuple[str, ...]


def verify_clearsigned(message: bytes, keys: Sequence[bytes]) -> Signed:
    """Verify one clear-signed message, such as InRelease.

    `keys` are certificates, each armored or binary, one or several to a file.

    Raises:
        IntegrityError: no good signature by one of the keys, a bad one, not exactly one message,
            no keys, or no program that could verify.
    """
    check_clearsigned(message)
    certificates = _certificates(keys)
    if program := shutil.which("gpgv"):
        text, found = gpgv.clearsigned(program, message, b"".join(certificates))
    else:
        _need_sequoia()
        text, found = sequoia.clearsigned(message, certificates)
    return Signed(text, found)


def verify_detached(content: Path, signature: bytes, keys: Sequence[bytes]) -> tuple[str, ...]:
    """The fingerprints of the primary keys that signed the file `content`.

    A key that has expired counts for what it signed before: a release does not become worse with
    time. (A clear-signed index must be fresh, so there it does not count.) Revoked keys never do.

    Raises:
        IntegrityError: as `verify_clearsigned`.
    """
    packets = dearmor(signature, "SIGNATURE")
    certificates = _certificates(keys)
    if program := shutil.which("gpgv"):
        return gpgv.detached(program, content, packets, b"".join(certificates))
    _need_sequoia()
    return sequoia.detached(content, packets, certificates)


def _certificates(keys: Sequence[bytes]) -> tuple[bytes, ...]:
    if not keys:
        raise IntegrityError("no OpenPGP key is trusted for this signature")
    return tuple(dearmor(key, "PUBLIC KEY BLOCK") for key in keys)


def _need_sequoia() -> None:
    if find_spec("pysequoia") is None:
        raise IntegrityError(
            "cannot verify an OpenPGP signature: neither gpgv nor pysequoia is installed",
            hint="apt-get install gpgv, or pip install 'buildit[gpg]'",
        )
