"""OpenPGP verification by pysequoia, for machines without `gpgv`.

Sequoia's standard policy refuses weak hashes, and expired or revoked keys and signatures.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from buildit.errors import IntegrityError


def clearsigned(message: bytes, keys: Sequence[bytes]) -> tuple[bytes, tuple[str, ...]]:
    """The text that was signed, as Sequoia read it, and its signers' primary fingerprints.

    Raises:
        IntegrityError: no good signature by one of the keys.
    """
    import pysequoia

    now = datetime.now(UTC)
    # Sequoia judges a key as of the time that the signature states, which its maker chose
    certificates = [one for one in _parse(keys) if one.expiration is None or one.expiration > now]
    try:
        result = pysequoia.verify(bytes=message, store=lambda _ids: certificates)
    except Exception as error:  # it raises bare Exception for everything
        raise _refused(error) from error
    return bytes(result.bytes), _fingerprints(result)


def detached(content: Path, signature: bytes, keys: Sequence[bytes]) -> tuple[str, ...]:
    """The signers' primary fingerprints of a file; a key may have expired since.

    Raises:
        IntegrityError: no good signature by one of the keys.
    """
    import pysequoia

    certificates = _parse(keys)
    try:
        result = pysequoia.verify(
            file=str(content.absolute()),
            store=lambda _ids: certificates,
            signature=pysequoia.Sig.from_bytes(signature),
        )
    except Exception as error:  # it raises bare Exception for everything
        raise _refused(error) from error
    return _fingerprints(result)


def _parse(keys: Sequence[bytes]) -> list[Any]:
    from pysequoia import Cert

    try:
        return [certificate for key in keys for certificate in Cert.split_bytes(key)]
    except Exception as error:  # it raises bare Exception for everything
        raise IntegrityError(f"not an OpenPGP certificate: {error}") from error


def _refused(error: Exception) -> IntegrityError:
    reason = " ".join(str(error).partition("Stack backtrace")[0].split())
    return IntegrityError(
        f"no good OpenPGP signature: {reason}",
        hint="if the signer changed keys, check the new one by other means and add it",
    )


def _fingerprints(result: Any) -> tuple[str, ...]:  # noqa: ANN401  # pysequoia has no types
    found = tuple(dict.fromkeys(sig.certificate.upper() for sig in result.valid_sigs))
    if not found:
        raise IntegrityError("no good OpenPGP signature")
    return found
