"""Allowed-signers files as ssh-keygen reads them, and files that are none: errors, and no wait."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from buildit.errors import BuilditError, IntegrityError, RecipeError, UsageError
from buildit.events import silent
from buildit.model.config import Trust
from buildit.remote.binhost.remotes import Remotes
from buildit.remote.sftp.client import Sftp
from buildit.remote.sftp.login import ssh_program
from buildit.remote.transport import LocationError
from buildit.store.cas import Store
from buildit.trust.policy import Policy
from buildit.trust.signers import signers_of
from buildit.trust.ssh import NAMESPACE, parse_public, signing_key

pytestmark = pytest.mark.unit

needs_openssh = pytest.mark.skipif(
    not shutil.which("ssh-keygen"), reason="openssh-client is not installed"
)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a key, some data and its signature, all by OpenSSH."""
    here = tmp_path_factory.mktemp("signed")
    for argv in (
        ("-q", "-t", "ed25519", "-N", "", "-C", "", "-f", "key"),
        ("-q", "-Y", "sign", "-n", NAMESPACE, "-f", "key", "data"),
    ):
        (here / "data").write_bytes(b"x")
        subprocess.run(["ssh-keygen", *argv], cwd=here, check=True, capture_output=True)
    return here


LINES = (
    "a@x {key}",
    "a@x\t{key}",
    "  a@x {key}",
    "a@x {key}\r",
    "# x\r a@x {key}",
    "#a@x {key}",
    "\r# x\na@x {key}",
    "b@x {key} c\ra@x {key}",
    "b@x {key} c\u2028a@x {key}",
    "# x\x0ba@x {key}",
    "a@x,b@x {key}",
    '"a@x" {key}',
)


@needs_openssh
@pytest.mark.parametrize("line", LINES)
def test_a_line_trusts_whom_ssh_keygen_trusts(signed: Path, tmp_path: Path, line: str) -> None:
    key = " ".join((signed / "key.pub").read_text().split()[:2])
    allowed = tmp_path / "allowed"
    allowed.write_bytes(line.replace("{key}", key).encode() + b"\n")
    argv: list[str | Path] = [
        "ssh-keygen",
        "-Y",
        "verify",
        "-f",
        allowed,
        "-I",
        "a@x",
        "-n",
        NAMESPACE,
    ]
    argv += ["-s", signed / "data.sig"]
    theirs = subprocess.run(argv, input=b"x", capture_output=True, check=False).returncode == 0
    try:
        ours = any("a@x" in one.principals.split(",") for one in signers_of(allowed))
    except RecipeError:
        ours = False
    assert ours <= theirs, "we trust whom ssh-keygen does not"
    if "\r#" not in line:
        assert ours == theirs


@pytest.mark.parametrize(
    "mark", ["\u200b", "\u200d", "\ufeff", "\u2060", "\u202e", "\u00ad", "\x01"]
)
def test_a_name_with_what_nobody_sees_is_refused(signed: Path, tmp_path: Path, mark: str) -> None:
    key = (signed / "key.pub").read_text()
    for line in (f"a@x{mark} {key}", f"{mark}a@x {key}"):
        (tmp_path / "allowed").write_text(line, "utf-8")
        with pytest.raises(RecipeError):
            signers_of(tmp_path / "allowed")


@pytest.mark.parametrize("line", [", {key}", '"" {key}', "!, {key}"])
def test_a_line_that_names_nobody_is_refused(signed: Path, tmp_path: Path, line: str) -> None:
    (tmp_path / "allowed").write_text(line.replace("{key}", (signed / "key.pub").read_text()))
    with pytest.raises(RecipeError, match="names nobody"):
        signers_of(tmp_path / "allowed")


def test_what_is_no_file_is_an_error_and_no_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    for path in (tmp_path / "fifo", tmp_path / "link", tmp_path, Path("/dev/zero")):
        with pytest.raises(RecipeError, match="cannot be read"):
            signers_of(path)
        with pytest.raises(UsageError, match="cannot be read"):
            signing_key(path, None)


@pytest.mark.parametrize(
    "text", ["ssh-ed25519 AAAAé x", "ssh-ed25519 \uff12\uff12 x", "é é", "ssh-rsa \ud800"]
)
def test_letters_that_no_key_has_are_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(IntegrityError, match="not an OpenSSH public key"):
        parse_public(text)
    (tmp_path / "allowed").write_text(f"a@x {text}\n", "utf-8", "surrogatepass")
    with pytest.raises(BuilditError):
        signers_of(tmp_path / "allowed")


def test_a_copied_store_has_upload_names_of_its_own(tmp_path: Path) -> None:
    def token(root: Path) -> str:
        with Store.open(root) as store:
            policy = Policy(Trust(), store, silent)
            with Remotes((), policy, store, silent)._token("ssh://h/x") as found:
                return found

    first = token(tmp_path / "one")
    assert token(tmp_path / "one") == first
    subprocess.run(["cp", "-a", tmp_path / "one", tmp_path / "two"], check=True)
    assert token(tmp_path / "two") != first
    assert token(tmp_path / "one") == first


@pytest.mark.parametrize("text", ['ssh "', "ssh 'x", "ssh \\"])
def test_a_command_that_is_badly_quoted_is_a_mistake_of_the_user(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be read as a command"):
        ssh_program({"BUILDIT_SSH": text})


def test_a_server_that_says_no_more_costs_seconds_and_one_that_writes_may_take_its_time() -> None:
    waits: list[bool] = []

    class Mute:
        def __init__(self) -> None:
            self.greeted = False

        def send(self, data: bytes, *, patient: bool) -> None:
            assert data
            waits.append(patient)

        def receive(self, *, patient: bool) -> bytes:
            waits.append(patient)
            if not self.greeted:
                self.greeted = True
                return bytes((0, 0, 0, 5, 2, 0, 0, 0, 3))
            raise LocationError("far", "no answer")

        def ended(self) -> LocationError:
            return LocationError("far", "it ended")

        def close(self) -> None: ...

    session = Sftp(Mute())
    steps = ((session.status, False), (session.remove, True), (session.status, True))
    for step, patient in steps:
        waits.clear()
        with pytest.raises(LocationError):
            step("f")
        assert waits == [patient, patient]
