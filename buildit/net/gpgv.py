"""OpenPGP verification by GnuPG's `gpgv`, judged by its status lines and never by its exit code.

Only the keys handed over count: `gpgv` gets a keyring file and a home of its own.
Status lines: GnuPG's doc/DETAILS.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from buildit.errors import IntegrityError

SECONDS = 60
_WEAK = {"1", "2", "3"}  # RFC 9580, 9.5: MD5, SHA-1, RIPEMD-160
_WORTHLESS = {
    "EXPSIG": "the signature has expired",
    "EXPKEYSIG": "the key has expired",
    "REVKEYSIG": "the key was revoked",
    "ERRSIG": "the signature cannot be checked",
    "NO_PUBKEY": "made by a key that is not trusted here",
}


def signers(status: str) -> tuple[str, ...]:
    """The primary keys' fingerprints of all good signatures.

    A signature is good when GOODSIG and VALIDSIG name it, nothing else was said of it, and its
    hash is not weak. Others beside it do not count, but a bad one spoils the whole.

    Raises:
        IntegrityError: no signature is good, or one is bad.
    """
    reports: list[dict[str, list[str]]] = [{}]
    for line in status.splitlines():
        tag, _, rest = line.partition(" ")
        word, _, values = rest.partition(" ")
        if tag != "[GNUPG:]":
            continue
        if word == "NEWSIG":
            reports.append({})
        reports[-1][word] = values.split()
    if any("BADSIG" in report for report in reports):
        raise IntegrityError("bad OpenPGP signature: the bytes are not those that were signed")
    found = tuple(dict.fromkeys(key for report in reports if (key := _signer(report))))
    if not found:
        raise IntegrityError(
            f"no good OpenPGP signature: {_reason(reports)}",
            hint="if the signer changed keys, check the new one by other means and add it",
        )
    return found


def _signer(report: dict[str, list[str]]) -> str:
    valid = report.get("VALIDSIG", [])
    if "GOODSIG" not in report or len(valid) < 10 or not _WORTHLESS.keys().isdisjoint(report):
        return ""
    return "" if valid[7] in _WEAK else valid[9]


def _reason(reports: list[dict[str, list[str]]]) -> str:
    said = [
        f"{text} ({report[word][0]})" if report[word] else text
        for report in reports
        for word, text in _WORTHLESS.items()
        if word in report and not (word == "ERRSIG" and "NO_PUBKEY" in report)
    ]
    if not said and any("GOODSIG" in report for report in reports):
        return "its hash is MD5, SHA-1 or RIPEMD-160"
    return "; ".join(dict.fromkeys(said)) or "there is none"


def clearsigned(program: str, message: bytes, keyring: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The text that was signed, as `gpgv` read it, and its signers.

    Raises:
        IntegrityError: see `signers`.
    """
    with tempfile.TemporaryDirectory(prefix="buildit-gpgv-") as home:
        folder = Path(home)
        (folder / "message").write_bytes(message)
        output = folder / "text"
        status = _run(program, folder, keyring, ["--output", str(output), str(folder / "message")])
        found = signers(status)
        if status.count("[GNUPG:] PLAINTEXT ") > 1 or not output.is_file():
            raise IntegrityError("not one clear-signed OpenPGP message")
        return output.read_bytes(), found


def detached(program: str, content: Path, signature: bytes, keyring: bytes) -> tuple[str, ...]:
    """The signers of a file.

    Raises:
        IntegrityError: see `signers`.
    """
    with tempfile.TemporaryDirectory(prefix="buildit-gpgv-") as home:
        folder = Path(home)
        (folder / "signature").write_bytes(signature)
        names = [str(folder / "signature"), str(content.absolute())]
        return signers(_run(program, folder, keyring, names))


def _run(program: str, home: Path, keyring: bytes, arguments: list[str]) -> str:
    (home / "keys.gpg").write_bytes(keyring)
    argv = [program, "--homedir", str(home), "--keyring", str(home / "keys.gpg"), "--status-fd=1"]
    split = len(arguments) - (2 if "--output" not in arguments else 1)
    argv += [*arguments[:split], "--", *arguments[split:]]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": str(home)}
    try:
        result = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise IntegrityError(f"cannot verify a signature: {error}") from error
    return result.stdout.decode("utf-8", "replace")
