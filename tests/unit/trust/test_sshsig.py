from __future__ import annotations

import base64
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from buildit.errors import BuilditError, IntegrityError, RecipeError, UsageError
from buildit.trust.signers import AllowedSigner, matches, parse_allowed_signers, verify_signature
from buildit.trust.ssh import (
    NAMESPACE,
    AgentKey,
    FileKey,
    Wire,
    agent_keys,
    builder_name,
    key_type,
    mpint,
    pack_strings,
    parse_public,
    sign,
    signing_key,
)

pytestmark = pytest.mark.unit

needs_openssh = pytest.mark.skipif(
    not shutil.which("ssh-keygen"), reason="openssh-client is not installed"
)
DATA = b"statement\n"
NOW = 1_800_000_000
Private = ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
MAKERS: dict[str, Callable[[], Private]] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
}


def write_key(folder: Path, kind: str, password: bytes = b"") -> Path:
    key = MAKERS[kind]()
    locked = BestAvailableEncryption(password) if password else NoEncryption()
    path = folder / f"id_{kind}"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, locked))
    path.chmod(0o600)
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    path.with_name(path.name + ".pub").write_bytes(line + b" comment\n")
    return path


def public_line(path: Path) -> str:
    return path.with_name(path.name + ".pub").read_text().strip()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    return {kind: write_key(folder, kind) for kind in MAKERS}


def keygen(*argv: str | Path, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["ssh-keygen", *argv], input=data, capture_output=True, check=False)


@pytest.mark.parametrize("kind", MAKERS)
def test_sign_and_verify(keys: dict[str, Path], kind: str) -> None:
    key = signing_key(keys[kind], None)
    allowed = parse_allowed_signers(f"ada@example.org {public_line(keys[kind])}", "allowed")
    signer = verify_signature(DATA, sign(DATA, key), allowed, NAMESPACE, NOW)
    assert signer.principals == "ada@example.org"
    assert builder_name(signer.public) == builder_name(key.public)


@needs_openssh
@pytest.mark.parametrize("kind", MAKERS)
def test_ssh_keygen_accepts_ours(keys: dict[str, Path], kind: str, tmp_path: Path) -> None:
    (tmp_path / "sig").write_text(sign(DATA, signing_key(keys[kind], None)))
    (tmp_path / "allowed").write_text(f"ada {public_line(keys[kind])}\n")
    common = ("-Y", "verify", "-f", tmp_path / "allowed", "-I", "ada", "-s", tmp_path / "sig")
    assert keygen(*common, "-n", NAMESPACE, data=DATA).returncode == 0
    assert keygen(*common, "-n", NAMESPACE, data=b"other").returncode != 0
    assert keygen(*common, "-n", "file", data=DATA).returncode != 0


@needs_openssh
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("hashed", ["sha256", "sha512"])
def test_we_accept_ssh_keygens(
    keys: dict[str, Path], kind: str, hashed: str, tmp_path: Path
) -> None:
    (tmp_path / "data").write_bytes(DATA)
    options = ("-n", NAMESPACE, "-O", f"hashalg={hashed}")
    done = keygen("-Y", "sign", "-f", keys[kind], *options, tmp_path / "data")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "data.sig").read_text()
    allowed = parse_allowed_signers(f"ada {public_line(keys[kind])}", "allowed")
    assert verify_signature(DATA, text, allowed, NAMESPACE, NOW).principals == "ada"


def rearmored(packed: bytes) -> str:
    body = base64.b64encode(packed).decode()
    return f"-----BEGIN SSH SIGNATURE-----\n{body}\n-----END SSH SIGNATURE-----\n"


def packed(text: str) -> bytes:
    return base64.b64decode("".join(text.splitlines()[1:-1]))


def accepts(text: str, allowed: Sequence[AllowedSigner]) -> bool:
    try:
        verify_signature(DATA, text, allowed, NAMESPACE, NOW)
    except IntegrityError:
        return False
    return True


def test_what_is_not_well_signed(keys: dict[str, Path]) -> None:
    key = signing_key(keys["ed25519"], None)
    other = signing_key(keys["p256"], None)
    allowed = parse_allowed_signers(f"ada {public_line(keys['ed25519'])}", "allowed")
    good = sign(DATA, key)
    blob = packed(good)
    foreign = pack_strings(other.public, NAMESPACE.encode(), b"", b"sha512")
    swapped = b"SSHSIG\0\0\0\1" + foreign + blob[-87:]
    md5 = blob.replace(pack_strings(b"sha512"), pack_strings(b"md5sum"))
    unknown = blob.replace(pack_strings(b"ssh-ed25519"), pack_strings(b"ssh-ed25518"))
    bad = {
        "stripped": "",
        "no armor": base64.b64encode(blob).decode(),
        "other key": sign(DATA, other),
        "other key's name on it": rearmored(swapped),
        "other namespace": sign(DATA, key, "file"),
        "truncated": rearmored(blob[:-1]),
        "trailing byte": rearmored(blob + b"\0"),
        "trailing text": good + "more\n",
        "text before": "more\n" + good,
        "unknown hash": rearmored(md5),
        "unknown algorithm": rearmored(unknown),
        "version 2": rearmored(blob.replace(b"\0\0\0\1", b"\0\0\0\2", 1)),
        "magic": rearmored(b"sshsig" + blob[6:]),
        "flipped bit": rearmored(blob[:-1] + bytes([blob[-1] ^ 1])),
        "too long": good.replace("\n", "\n" * 70_000, 1),
        "not base64": good.replace("U1NIU0lH", "U1NIU0l="),
    }
    assert accepts(good, allowed)
    passed = [name for name, text in bad.items() if accepts(text, allowed)]
    assert passed == []
    with pytest.raises(IntegrityError, match="bad SSH signature"):
        verify_signature(DATA + b"x", good, allowed, NAMESPACE, NOW)
    with pytest.raises(IntegrityError, match="not trusted"):
        verify_signature(DATA, good, (), NAMESPACE, NOW)
    with pytest.raises(IntegrityError, match="is for 'file'"):
        verify_signature(DATA, bad["other namespace"], allowed, NAMESPACE, NOW)


@given(st.integers(0, 2**32))
def test_no_flipped_bit_passes(seed: int) -> None:
    private = ed25519.Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
    raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    public = pack_strings(b"ssh-ed25519", raw)

    class Key:
        def __init__(self) -> None:
            self.public = public

        def sign(self, data: bytes) -> bytes:
            return pack_strings(b"ssh-ed25519", private.sign(data))

    line = f"ada ssh-ed25519 {base64.b64encode(public).decode()}"
    allowed = parse_allowed_signers(line, "allowed")
    blob = bytearray(packed(sign(DATA, Key())))
    reserved = 10 + len(
        pack_strings(public, NAMESPACE.encode())
    )  # its length field, signed as empty
    at = seed % (len(blob) * 8)
    if reserved <= at // 8 < reserved + 4:
        return
    blob[at // 8] ^= 1 << at % 8
    with pytest.raises(BuilditError):
        verify_signature(DATA, rearmored(bytes(blob)), allowed, NAMESPACE, NOW)


def test_an_rsa_signature_with_sha1_is_refused(keys: dict[str, Path]) -> None:
    key = signing_key(keys["rsa"], None)
    allowed = parse_allowed_signers(f"ada {public_line(keys['rsa'])}", "allowed")
    blob = packed(sign(DATA, key))
    old = blob.replace(pack_strings(b"rsa-sha2-512"), pack_strings(b"ssh-rsa"))
    with pytest.raises(IntegrityError):
        verify_signature(DATA, rearmored(old), allowed, NAMESPACE, NOW)


def test_a_short_rsa_key_is_refused(tmp_path: Path) -> None:
    short = rsa.generate_private_key(65537, 1024)
    path = tmp_path / "id_short"
    path.write_bytes(short.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    line = short.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    text = sign(DATA, FileKey(path, parse_public(line)))
    with pytest.raises(IntegrityError, match="1024 bits"):
        verify_signature(DATA, text, parse_allowed_signers(f"ada {line}", "a"), NAMESPACE, NOW)


def test_namespaces_and_times(keys: dict[str, Path]) -> None:
    line = public_line(keys["ed25519"])
    text = sign(DATA, signing_key(keys["ed25519"], None))

    def accepted(options: str) -> bool:
        allowed = parse_allowed_signers(f"ada {options} {line}", "allowed")
        return accepts(text, allowed)  # NOW is 2027-01-15 08:00 UTC

    assert accepted(f'namespaces="{NAMESPACE}"')
    assert accepted('namespaces="file,buildit-*"')
    assert not accepted('namespaces="file"')
    assert not accepted(f'namespaces="*,!{NAMESPACE}"')
    assert accepted('valid-after="20270115075959Z",valid-before="20270115080001Z"')
    assert not accepted('valid-after="202701150801Z"')
    assert not accepted('valid-before="20270115Z"')
    assert accepted('namespaces="buildit-*",valid-before="20990101"')
    assert accepted('VALID-AFTER="20200101"')


@pytest.mark.parametrize(
    "line",
    [
        "ada",
        "ada ssh-ed25519",
        "ada ssh-ed25519 %%%",
        "ada ssh-dss AAAAB3NzaC1kc3M=",
        "ada ssh-rsa {ed25519}",
        "ada cert-authority ssh-ed25519 {ed25519}",
        'ada cert-authority,namespaces="x" ssh-ed25519 {ed25519}',
        'ada namespaces="x",cert-authority ssh-ed25519 {ed25519}',
        'ada namespaces="x",namespaces="y" ssh-ed25519 {ed25519}',
        'ada verify-required="yes" ssh-ed25519 {ed25519}',
        "ada namespaces=x ssh-ed25519 {ed25519}",
        'ada namespaces="" ssh-ed25519 {ed25519}',
        'ada valid-after="tomorrow" ssh-ed25519 {ed25519}',
        'ada valid-after="20271301" ssh-ed25519 {ed25519}',
        'ada namespaces="x ssh-ed25519 {ed25519}',
    ],
)
def test_bad_lines_of_allowed_signers(keys: dict[str, Path], line: str) -> None:
    text = line.replace("{ed25519}", public_line(keys["ed25519"]).split()[1])
    with pytest.raises(RecipeError) as caught:
        parse_allowed_signers(f"# comment\n\n{text}\n", "trust/allowed")
    assert caught.value.place == "trust/allowed:3:1"


@pytest.mark.parametrize("mark", "\x0b\x0c\x1c\x1e\x85\u2028\u2029\r")
def test_only_a_newline_ends_a_line(keys: dict[str, Path], mark: str) -> None:
    """A key whose comment goes on unseen must not bring a second trusted key."""
    good, other = public_line(keys["ed25519"]), public_line(keys["rsa"])
    found = parse_allowed_signers(f"ada {good} ada@h{mark}* {other}\r\n", "allowed")
    assert [signer.principals for signer in found] == ["ada"]


def test_quoted_principals(keys: dict[str, Path]) -> None:
    line = f'"ada lovelace, bob" {public_line(keys["ed25519"])}'
    (signer,) = parse_allowed_signers(line, "allowed")
    assert signer.principals == "ada lovelace, bob"


def test_patterns() -> None:
    assert matches("abc", ("a?c",))
    assert matches("a.c", ("a.c",))
    assert not matches("abc", ("a.c",))
    assert not matches("abc", ("[a]bc",))
    assert not matches("abc", ())
    assert matches("a.b.c", ("a*b*c",))
    assert matches("abab", ("*ab",))
    assert matches("", ("*",))
    assert matches("aXbb", ("a?b*",))
    assert not matches("ab", ("a*b*b",))
    assert not matches("aaa", ("a*", "!*a*"))
    assert not matches("a" * 64, ("*a" * 30 + "b",)), "in no time, however many stars"


def test_keys_that_cannot_be_used(tmp_path: Path) -> None:
    locked = write_key(tmp_path, "ed25519", b"secret")
    with pytest.raises(UsageError, match="has a password"):
        signing_key(locked, None)
    with pytest.raises(UsageError, match="only through an agent"):
        signing_key(locked.with_name(locked.name + ".pub"), None)
    with pytest.raises(UsageError, match="cannot be read"):
        signing_key(tmp_path / "none", None)
    locked.chmod(0o644)
    with pytest.raises(UsageError, match="others may read"):
        signing_key(locked, None)
    (tmp_path / "junk").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\njunk\n")
    (tmp_path / "junk").chmod(0o600)
    with pytest.raises(UsageError, match="not an SSH private key"):
        signing_key(tmp_path / "junk", None)
    (tmp_path / "text").write_text("hello there")
    with pytest.raises(UsageError, match="neither an OpenSSH private key nor") as caught:
        signing_key(tmp_path / "text", None)
    assert caught.value.hint


def test_a_dead_agent(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not answer"):
        agent_keys(tmp_path / "none")
    with pytest.raises(UsageError, match="does not answer"):
        AgentKey(tmp_path / "none", pack_strings(b"ssh-ed25519", b"x" * 32)).sign(DATA)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "agent"
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    process.stdout.readline()  # it prints its variables once it listens
    yield path
    process.terminate()
    process.wait()
    process.stdout.close()


@needs_openssh
@pytest.mark.parametrize("kind", ["ed25519", "rsa", "p256"])
def test_signing_through_an_agent(keys: dict[str, Path], agent: Path, kind: str) -> None:
    public = keys[kind].with_name(keys[kind].name + ".pub")
    with pytest.raises(UsageError, match="does not hold this key"):
        signing_key(public, agent)
    environment = {**os.environ, "SSH_AUTH_SOCK": str(agent)}
    subprocess.run(["ssh-add", "-q", str(keys[kind])], env=environment, check=True)
    key = signing_key(public, agent)
    assert isinstance(key, AgentKey)
    allowed = parse_allowed_signers(f"ada {public_line(keys[kind])}", "allowed")
    assert verify_signature(DATA, sign(DATA, key), allowed, NAMESPACE, NOW).principals == "ada"


@needs_openssh
def test_a_locked_key_goes_through_the_agent(agent: Path, tmp_path: Path) -> None:
    locked = write_key(tmp_path, "ed25519", b"secret")
    with pytest.raises(UsageError, match="does not hold this key"):
        signing_key(locked, agent)


@given(st.lists(st.binary(max_size=20)))
def test_wire_round_trip(fields: list[bytes]) -> None:
    wire = Wire(pack_strings(*fields))
    assert [wire.string() for _ in fields] == fields
    wire.end()


@given(st.integers(0, 2**600))
def test_mpint_round_trip(value: int) -> None:
    assert Wire(pack_strings(mpint(value))).number() == value


@given(st.binary(max_size=60))
def test_any_bytes_as_a_key_are_refused_cleanly(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        key_type(data)


def test_an_empty_namespace_is_a_mistake_of_ours(keys: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        sign(DATA, signing_key(keys["ed25519"], None), "")
