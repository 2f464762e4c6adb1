"""`.aci.asc` by a real gpg with a key of its own, verified by gpg."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildit.errors import UsageError
from buildit.trust.openpgp import is_signed, public_key, sign_aci

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(shutil.which("gpg") is None, reason="needs gnupg"),
]


def gpg(home: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["gpg", "--homedir", str(home), "--batch", *argv],
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    home = Path("/tmp") / f"gpg-{tmp_path.name}"  # an agent's socket wants a short path
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    yield home
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)
    shutil.rmtree(home, ignore_errors=True)


def make_key(home: Path, name: str) -> str:
    quick = ("--passphrase", "", "--quick-generate-key", name, "ed25519", "sign", "never")
    gpg(home, *quick)
    listed = gpg(home, "--with-colons", "--list-keys", name).stdout
    return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))


def test_gpg_verifies_what_was_signed(home: Path, tmp_path: Path) -> None:
    fingerprint = make_key(home, "me@example.org")
    aci = tmp_path / "box.aci"
    aci.write_bytes(b"an image")
    signature = sign_aci(aci, fingerprint)
    assert signature == tmp_path / "box.aci.asc"
    assert signature.read_text().startswith("-----BEGIN PGP SIGNATURE-----")
    status = gpg(home, "--status-fd=1", "--verify", str(signature), str(aci)).stdout
    assert f"VALIDSIG {fingerprint}" in status
    assert is_signed(aci, signature.read_bytes(), public_key(fingerprint))


def test_a_signature_that_holds_is_kept_and_another_is_made_anew(
    home: Path, tmp_path: Path
) -> None:
    first, second = make_key(home, "me@example.org"), make_key(home, "you@example.org")
    aci = tmp_path / "box.aci"
    aci.write_bytes(b"an image")
    kept = sign_aci(aci, first).read_bytes()
    assert sign_aci(aci, first).read_bytes() == kept
    assert sign_aci(aci, second).read_bytes() != kept, "another key shall sign"
    aci.write_bytes(b"another image")
    assert not is_signed(aci, kept, public_key(first))
    again = sign_aci(aci, first).read_bytes()
    assert is_signed(aci, again, public_key(first))
    (tmp_path / "box.aci.asc").write_bytes(b"garbage")
    assert is_signed(aci, sign_aci(aci, first).read_bytes(), public_key(first))


def test_what_cannot_sign_says_so(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aci = tmp_path / "box.aci"
    aci.write_bytes(b"an image")
    with pytest.raises(UsageError, match="does not have the key") as caught:
        sign_aci(aci, "AB" * 20)
    assert "gpg -K" in (caught.value.hint or "")
    assert not (tmp_path / "box.aci.asc").exists()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(UsageError, match="gpg is not installed"):
            sign_aci(aci, "AB" * 20)
