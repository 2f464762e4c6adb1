"""OpenPGP signatures: who signed these bytes, by keys that the caller trusts, or an error.

`gpgv` verifies where it is installed, judged by its status lines (GnuPG's doc/DETAILS) and never by
its exit code; else pysequoia, whose standard policy refuses weak hashes. Trust comes from the keys
handed over alone, never from ~/.gnupg or the machine's keyrings. Of a clear-signed message only the
text that the verifier gave back may be read: then no other bytes are parsed than were verified.

The user's own GnuPG and its agent sign: buildit never sees the secret key.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from buildit.errors import IntegrityError, StoreError, UsageError
from buildit.files import replacing

_BLOCK = re.compile(
    rb"^-----BEGIN PGP ([A-Z ]+)-----[ \t]*\n(.*?)^-----END PGP \1-----[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
_HEADER = re.compile(rb"[A-Za-z][A-Za-z-]*: ?[^\n]*")
_CLEAR_BEGIN = b"-----BEGIN PGP SIGNED MESSAGE-----"
_SIG_BEGIN = b"-----BEGIN PGP SIGNATURE-----"
_SIG_END = b"-----END PGP SIGNATURE-----"
_VERIFYING, _SIGNING = 60, 300
"""Seconds; GnuPG's agent may have to ask the user for a password."""
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
_CHANGED_KEYS = "if the signer changed keys, check the new one by other means and add it"


@dataclass(frozen=True, slots=True)
class SignedText:
    """What was signed, and the upper-case hex fingerprints of the primary keys that did."""

    text: bytes
    fingerprints: tuple[str, ...]


# -- verifying


def verify_clearsigned(message: bytes, keys: Sequence[bytes]) -> SignedText:
    """Verify one clear-signed message, such as InRelease.

    `keys` are certificates, each armored or binary, one or several to a file.

    Raises:
        IntegrityError: no good signature by one of the keys, a bad one, not exactly one message,
            no keys, or no program that could verify.
    """
    check_clearsigned(message)
    return _verified(message, None, keys)


def verify_detached(content: Path, signature: bytes, keys: Sequence[bytes]) -> tuple[str, ...]:
    """The fingerprints of the primary keys that signed the file `content`.

    A key that has expired counts for what it signed before: a release does not become worse with
    time. (A clear-signed index must be fresh, so there it does not count.) Revoked keys never do.

    Raises:
        IntegrityError: as `verify_clearsigned`.
    """
    return _verified(dearmor(signature, "SIGNATURE"), content, keys).fingerprints


def _verified(data: bytes, content: Path | None, keys: Sequence[bytes]) -> SignedText:
    if not keys:
        raise IntegrityError("no OpenPGP key is trusted for this signature")
    certificates = [dearmor(key, "PUBLIC KEY BLOCK") for key in keys]
    if program := shutil.which("gpgv"):
        return by_gpgv(program, data, content, certificates)
    if find_spec("pysequoia") is None:
        reason = "cannot verify an OpenPGP signature: neither gpgv nor pysequoia is installed"
        raise IntegrityError(reason, hint="apt-get install gpgv, or pip install 'buildit[gpg]'")
    return by_sequoia(data, content, certificates)


def by_gpgv(
    program: str, data: bytes, content: Path | None, certificates: Sequence[bytes]
) -> SignedText:
    """Verify `data`: a clear-signed message, or the signature of the file `content`. `gpgv` gets a
    keyring file and a home of its own.

    Raises:
        IntegrityError: see `signers`.
    """
    with tempfile.TemporaryDirectory(prefix="buildit-gpgv-") as home:
        given, keyring, text = (Path(home, name) for name in ("given", "keys.gpg", "text"))
        given.write_bytes(data)
        keyring.write_bytes(b"".join(certificates))
        argv = [program, "--homedir", home, "--keyring", str(keyring), "--status-fd=1"]
        if content is None:
            argv += ["--output", str(text), "--", str(given)]
        else:
            argv += ["--", str(given), str(content.absolute())]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": home}
        try:
            result = _run(argv, _VERIFYING, environment)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise IntegrityError(f"cannot verify a signature: {error}") from error
        status = result.stdout.decode("utf-8", "replace")
        found = signers(status, expired_since=content is not None)
        if content is not None:
            return SignedText(b"", found)
        if status.count("[GNUPG:] PLAINTEXT ") > 1 or not text.is_file():
            raise IntegrityError("not one clear-signed OpenPGP message")
        return SignedText(text.read_bytes(), found)


def _run(
    argv: list[str], seconds: int, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, env=env, timeout=seconds, check=False
    )


def signers(status: str, *, expired_since: bool = False) -> tuple[str, ...]:
    """The primary keys' fingerprints of all good signatures that `gpgv` tells of.

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
        raise _not_good(f": {_reason(reports)}")
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


def by_sequoia(data: bytes, content: Path | None, certificates: Sequence[bytes]) -> SignedText:
    """As `by_gpgv`, by Sequoia.

    Raises:
        IntegrityError: no good signature by one of the keys.
    """
    import pysequoia

    # Everything that Sequoia raises is a bare Exception.
    try:
        known = [one for key in certificates for one in pysequoia.Cert.split_bytes(key)]
    except Exception as error:
        raise IntegrityError(f"not an OpenPGP certificate: {error}") from error
    try:
        if content is None:
            # It judges a key as of the time that the signature states, which its maker chose.
            now = datetime.now(UTC)
            known = [one for one in known if one.expiration is None or one.expiration > now]
            result = pysequoia.verify(bytes=data, store=lambda _ids: known)
        else:
            signature = pysequoia.Sig.from_bytes(data)
            result = pysequoia.verify(
                file=str(content.absolute()), store=lambda _ids: known, signature=signature
            )
    except Exception as error:
        reason = " ".join(str(error).partition("Stack backtrace")[0].split())
        raise _not_good(f": {reason}") from error
    found = tuple(dict.fromkeys(sig.certificate.upper() for sig in result.valid_sigs))
    if not found:
        raise _not_good("")
    return SignedText(bytes(result.bytes or b"") if content is None else b"", found)


def _not_good(reason: str) -> IntegrityError:
    return IntegrityError(f"no good OpenPGP signature{reason}", hint=_CHANGED_KEYS)


# -- outer shapes: ASCII armor (RFC 9580, 6.2) and clear-signed text (7)


def crc24(data: bytes) -> int:
    """The checksum of an armored block (RFC 9580, 6.1.1)."""
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc


def dearmor(data: bytes, block: str) -> bytes:
    """The packets of a file that is armored or already binary; several blocks are joined.

    `block` is what must be inside, such as `PUBLIC KEY BLOCK` or `SIGNATURE`.

    Raises:
        IntegrityError: another kind of block, damaged base64 or a wrong checksum, no packets.
    """
    if data[:1] and data[0] & 0x80:  # RFC 9580, 4.2: the first bit of every packet is one
        return data
    text = data.replace(b"\r\n", b"\n")
    packets = b"".join(_packets(match, block) for match in _BLOCK.finditer(text))
    if not packets:
        raise IntegrityError(f"no OpenPGP {block.lower()} in {len(data)} bytes of key or signature")
    return packets


def _packets(match: re.Match[bytes], block: str) -> bytes:
    kind = match[1].decode()
    if kind != block:
        raise IntegrityError(f"OpenPGP {kind.lower()} where a {block.lower()} is due")
    lines = [line.rstrip() for line in match[2].split(b"\n")]
    blank = lines.index(b"") if b"" in lines else -1
    if blank > 0 and not all(_HEADER.fullmatch(line) for line in lines[:blank]):
        raise IntegrityError("damaged armor: something else stands where headers are due")
    body = [line for line in lines[blank + 1 :] if line]
    checksum = b""
    if body and len(body[-1]) == 5 and body[-1].startswith(b"="):
        checksum = body.pop()[1:]
    try:
        packets = base64.b64decode(b"".join(body), validate=True)
        stated = int.from_bytes(base64.b64decode(checksum, validate=True), "big")
    except binascii.Error as error:
        raise IntegrityError(f"damaged armor of an OpenPGP {block.lower()}: {error}") from error
    if checksum and stated != crc24(packets):
        raise IntegrityError(f"damaged armor of an OpenPGP {block.lower()}: wrong checksum")
    return packets


def check_clearsigned(message: bytes) -> None:
    """Refuse whatever two readers could read differently (CVE-2016-1252): one message, whole.

    Raises:
        IntegrityError: not exactly one clear-signed message with nothing before or behind it.
    """
    lines = [line.rstrip(b" \t\r") for line in message.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    marks = [at for at, line in enumerate(lines) if line.startswith(b"-----")]
    expected = [_CLEAR_BEGIN, _SIG_BEGIN, _SIG_END]
    if [lines[at] for at in marks] != expected or marks[0] != 0 or marks[2] != len(lines) - 1:
        raise IntegrityError("not one whole clear-signed OpenPGP message")
    blank = lines.index(b"") if b"" in lines[: marks[1]] else 0
    if not blank or not all(line.startswith(b"Hash: ") for line in lines[1:blank]):
        raise IntegrityError("clear-signed message with a header other than Hash")
    if any(line.startswith(b"-") and line[:2] != b"- " for line in lines[blank : marks[1]]):
        raise IntegrityError("clear-signed message with a line that is not dash-escaped")


# -- signing


def public_key(fingerprint: str) -> bytes:
    """The armored public key, without the names of those who certified it.

    Raises:
        UsageError: gpg is not installed, or does not have the key.
    """
    key = _gpg(fingerprint, "--armor", "--export-options=export-minimal", "--export", fingerprint)
    if not key:
        raise _unusable(fingerprint, "it does not have the key")
    return key


def sign_aci(aci: Path, fingerprint: str) -> Path:
    """Sign an .aci, by exactly this key: the path of its `.aci.asc`, where App Container clients
    look for it. A signature that is there and holds is kept, for its time is part of it.

    Raises:
        UsageError: gpg is not installed, or cannot sign with the key.
        StoreError: the signature cannot be written.
    """
    target = aci.with_name(f"{aci.name}.asc")
    key = public_key(fingerprint)
    if target.is_file() and is_signed(aci, target.read_bytes(), key):
        return target
    options = ("--detach-sign", "--armor", f"--local-user={fingerprint}!", "--output=-")
    signature = _gpg(fingerprint, *options, "--", str(aci.absolute()))
    if not signature.startswith(_SIG_BEGIN):
        raise _unusable(fingerprint, "it gave no signature")
    try:
        with replacing(target) as stream:
            stream.write(signature)
    except OSError as error:
        reason = f"the signature cannot be written: {error.strerror}"
        hint = "look at the permissions and the free space there"
        raise StoreError(reason, place=str(target), hint=hint) from error
    return target


def is_signed(content: Path, signature: bytes, key: bytes) -> bool:
    """Whether a signature over a file holds, by this very key."""
    try:
        return bool(verify_detached(content, signature, [key]))
    except IntegrityError:
        return False


def _gpg(fingerprint: str, *arguments: str) -> bytes:
    argv = ["gpg", "--batch", "--no-tty", "--no-auto-key-retrieve", *arguments]
    try:
        done = _run(argv, _SIGNING)
    except FileNotFoundError:
        reason = "gpg is not installed, and signing-key names an OpenPGP key"
        hint = "apt-get install gnupg, or take gpg: out of signing-key"
        raise UsageError(reason, hint=hint) from None
    except subprocess.TimeoutExpired:
        raise _unusable(fingerprint, "nobody gave its password in time") from None
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise _unusable(fingerprint, lines[-1] if lines else f"exit {done.returncode}")
    return done.stdout


def _unusable(fingerprint: str, reason: str) -> UsageError:
    reason = f"gpg cannot use the key {fingerprint}: {reason}"
    hint = f"try: gpg --local-user {fingerprint} --clear-sign FILE; see the keys with gpg -K"
    return UsageError(reason, place="signing-key", hint=hint)
