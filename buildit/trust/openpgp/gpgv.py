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
_Report = dict[str, list[list[str]]]
"""What was said of one signature: status word -> the values of each line with it."""
_WEAK = {"1", "2", "3"}  # RFC 9580, 9.5: MD5, SHA-1, RIPEMD-160
_WORTHLESS = {
    "EXPSIG": "the signature has expired",
    "EXPKEYSIG": "the key has expired",
    "REVKEYSIG": "the key was revoked",
    "ERRSIG": "the signature cannot be checked",
    "NO_PUBKEY": "made by a key that is not trusted here",
}


def signers(status: str, *, expired_since: bool = False) -> tuple[str, ...]:
    """The primary keys' fingerprints of all good signatures.

    A signature is good when GOODSIG and VALIDSIG name it, nothing else was said of it, and its
    hash is not weak. Others beside it do not count, but a bad one spoils the whole. With
    `expired_since`, a key that expired after it made the signature counts as well.

    Raises:
        IntegrityError: no signature is good, or one is bad.
    """
    reports: list[_Report] = [{}]
    for line in status.splitlines():
        tag, _, rest = line.partition(" ")
        word, _, values = rest.partition(" ")
        if tag != "[GNUPG:]":
            continue
        if word == "NEWSIG":
            reports.append({})
        reports[-1].setdefault(word, []).append(values.split())
    if any("BADSIG" in report for report in reports):
        raise IntegrityError("bad OpenPGP signature: the bytes are not those that were signed")
    good = [report for report in reports if _is_good(report, expired_since=expired_since)]
    if not good:
        raise IntegrityError(
            f"no good OpenPGP signature: {_reason(reports)}",
            hint="if the signer changed keys, check the new one by other means and add it",
        )
    return tuple(dict.fromkeys(report["VALIDSIG"][0][9] for report in good))


def _is_good(report: _Report, *, expired_since: bool) -> bool:
    valid = report.get("VALIDSIG", [])
    if len(valid) != 1 or len(valid[0]) < 10 or valid[0][7] in _WEAK:
        return False
    said = _WORTHLESS.keys() & report.keys()
    if said == {"EXPKEYSIG"} and expired_since:
        ends = [values[0] for values in report.get("KEYEXPIRED", []) if values]
        return bool(ends) and all(int(valid[0][2]) <= int(end) for end in ends)
    return "GOODSIG" in report and not said


def _reason(reports: list[_Report]) -> str:
    said = [
        f"{text} ({report[word][0][0]})" if report[word][0] else text
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
    """The signers of a file; a key may have expired since (see `openpgp.verify_detached`).

    Raises:
        IntegrityError: see `signers`.
    """
    with tempfile.TemporaryDirectory(prefix="buildit-gpgv-") as home:
        folder = Path(home)
        (folder / "signature").write_bytes(signature)
        names = [str(folder / "signature"), str(content.absolute())]
        return signers(_run(program, folder, keyring, names), expired_since=True)


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
