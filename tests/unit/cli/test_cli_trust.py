"""`buildit trust` and `trust add`, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from buildit.trust.ssh import builder_name, key_fingerprint, public_line, signing_key
from tests.unit.cli.conftest import Command
from tests.unit.trust.test_sshsig import write_key

pytestmark = pytest.mark.unit

CONFIG = Path(".buildit-config.yaml")


@pytest.fixture
def ada(tmp_path: Path) -> Path:
    folder = tmp_path / "ada"
    folder.mkdir()
    return write_key(folder, "ed25519")


def public(key: Path) -> bytes:
    return signing_key(key, None).public


def test_nobody_is_trusted_at_first(command: Command) -> None:
    said = command("trust")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("Nobody is trusted: what binhosts have is not used")


def test_a_key_file_is_added_to_one_s_own_list(command: Command, ada: Path, tmp_path: Path) -> None:
    said = command("trust", "add", f"{ada}.pub", "--as", "ada@example.org")
    mine = tmp_path / ".config/buildit/allowed_signers"
    print_of = key_fingerprint(public(ada))
    assert said.code == 0
    assert said.out == f"ada@example.org is trusted now: {print_of}\nin {mine}\n"
    assert mine.read_text() == (
        f'ada@example.org namespaces="buildit-attestation-v1" {public_line(public(ada))}\n'
    )
    shown = command("trust").out
    assert f"{builder_name(public(ada))[:12]}  {print_of}  ada@example.org" in shown
    assert "\nOne is enough.\n" in shown
    again = command("trust", "add", f"{ada}.pub")
    assert "ada@example.org was trusted already" in again.out
    assert len(mine.read_text().splitlines()) == 1


def test_the_configured_list_is_the_one_that_grows(command: Command, ada: Path) -> None:
    CONFIG.write_text(
        "trust:\n  allowed-signers: signers\n  packages: [{match: dev-libs/*, need: 2}]\n"
    )
    Path("signers").write_text(f"# ours\nbob@x {public_line(public(ada))}x")
    said = command("trust", "add", f"{ada}.pub")
    assert said.code == 2, "a list that is malformed is not made longer"
    Path("signers").write_text("# ours")
    said = command("trust", "add", f"{ada}.pub")
    lines = Path("signers").read_text().splitlines()
    assert lines[0] == "# ours"
    assert lines[1].startswith("comment namespaces="), "the comment of the key names its owner"
    assert "dev-libs/*: 2 of them must say the same" in command("trust").out


def test_a_key_that_was_seen_is_named_by_its_fingerprint(
    command: Command, ada: Path, tmp_path: Path
) -> None:
    command("trust")
    seen = tmp_path / "store/cache/signers"
    builder = builder_name(public(ada))
    (seen / f"{builder}.pub").write_text(public_line(public(ada)) + "\n")
    print_of = key_fingerprint(public(ada))
    assert f"Not trusted, and seen on a binhost:\n  {print_of}" in command("trust").out
    said = command("trust", "add", print_of)
    assert f"builder-{builder[:12]} is trusted now" in said.out
    assert "Not trusted" not in command("trust").out
    assert "was trusted already" in command("trust", "add", builder[:16]).out


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nothing.pub", "no public key file, and no fingerprint"),
        ("SHA256:" + "x" * 43, "no key that was seen is called"),
        ("a" * 64, "no key that was seen is called"),
        ("garbage", "no SSH public key"),
    ],
)
def test_what_cannot_be_trusted(command: Command, what: str, message: str) -> None:
    Path("garbage").write_text("this is no key\n")
    said = command("trust", "add", what)
    assert said.code == 2
    assert message in said.err
    assert "hint: " in said.err


def test_a_private_key_is_not_taken(command: Command, ada: Path) -> None:
    said = command("trust", "add", str(ada))
    assert said.code == 2
    assert f"name its public half: {ada}.pub" in said.err


def test_a_name_is_a_name(command: Command, ada: Path) -> None:
    said = command("trust", "add", f"{ada}.pub", "--as", 'x" cert-authority')
    assert said.code == 2
    assert "cannot name a builder" in said.err


def test_lines_that_do_not_count_say_why(command: Command, ada: Path) -> None:
    CONFIG.write_text(
        "trust: {allowed-signers: signers}\n"
        "repositories:\n"
        "  - {name: far, download-type: https, download-path: h/b, allowed-signers: theirs}\n"
    )
    key = public_line(public(ada))
    Path("signers").write_text(
        f'git@x namespaces="git" {key}\nold@x valid-before="20200102Z" {key}\n'
    )
    Path("theirs").write_text(f"them@x {key}\n")
    said = command("trust").out
    assert "not for builds: its namespaces leave out buildit-attestation-v1" in said
    assert "until 2020-01-02 00:00 UTC" in said
    assert "for repository far only" in said
    plain = json.loads(command("trust", "--json").out)
    assert [one["who"] for one in plain["people"]] == ["git@x", "old@x", "them@x"]


def test_one_s_own_key_is_trusted(command: Command, ada: Path) -> None:
    CONFIG.write_text(f"signing-key: {ada}\n")
    assert f"{key_fingerprint(public(ada))}  yourself" in command("trust").out
