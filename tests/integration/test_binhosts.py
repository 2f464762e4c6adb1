"""Two machines by the command line: one publishes over SSH, the other takes over HTTPS."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.program import Done, Program
from tests.integration.seeds import Seed, place
from tests.integration.world import Project, publishing
from tests.servers import Nginx, Sshd, certificates, keygen, nginx, sshd

pytestmark = pytest.mark.sandbox
NAME = "mysuperbinhost"


@dataclass(frozen=True)
class Far:
    """A binhost that the first machine has published to, and what that machine said."""

    server: Nginx
    ssh: Sshd
    root: Path
    key: Path
    authority: Path
    project: Project
    program: Program
    done: Done

    def images(self) -> dict[str, str]:
        return digests(self.done)

    def take(self, *further: str) -> str:
        """The configuration of who only takes."""
        return (
            "trees: [./tree]\ntrust: {allowed-signers: ./signers}\nrepositories:\n"
            + "".join(f"  - {line}\n" for line in further)
            + f"  - {{name: {NAME}, download-type: https, download-path: '{self.place}'}}\n"
        )

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server.port}/bin"

    def second(self, seed: Seed, here: Path, *further: str) -> tuple[Project, Program]:
        """Another machine: nothing in its store, no distfiles, the first one's key trusted."""
        project = seed.locked_project(here / "second")
        (project.box / "distfiles").unlink()
        project.config.write_text(self.take(*further))
        kind, public = Path(f"{self.key}.pub").read_text().split()[:2]
        (project.root / "signers").write_text(f"first@example.org {kind} {public}\n")
        program = seed.program.with_store(here / "store")
        return project, self.reaching(program)

    def reaching(self, program: Program) -> Program:
        return program.with_env(SSL_CERT_FILE=str(self.authority), BUILDIT_SSH=self.ssh.program)


def digests(done: Done) -> dict[str, str]:
    """Every file of the images."""
    found = {}
    for image in done.images():
        for path in sorted(image.rglob("*")) if image.is_dir() else [image]:
            if path.is_file():
                name = str(path.relative_to(image.parent))
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def keep_debs(seed: Seed, store: Path) -> None:
    """What the store of who fetched the toolchain has besides its tree."""
    blobs = store / "blobs/sha256"
    blobs.mkdir(parents=True)
    for path in seed.distfiles.glob("*.deb"):
        blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copyfile(path, blob)
        blob.chmod(0o444)


@pytest.fixture(scope="module")
def far(seed: Seed) -> Iterator[Far]:
    with place("far") as root, sshd(root / "ssh") as ssh:
        made = certificates(root / "tls")
        site = root / "site"
        site.mkdir()
        with nginx(root / "nginx", site, made) as server:
            key = keygen(root / "signing")
            project = seed.locked_project(root / "project")
            project.config.write_text(publishing(NAME, key, ssh, site, server))
            store = seed.new_store(root)
            keep_debs(seed, store)
            program = seed.program.with_store(store).with_env(
                SSL_CERT_FILE=str(made.authority), BUILDIT_SSH=ssh.program
            )
            words = (str(project.box), "--output", str(root / "out"), "--push")
            done = program.run(*words).good()
            yield Far(server, ssh, site / "bin", key, made.authority, project, program, done)


def test_the_screen_says_what_is_uploaded(far: Far) -> None:
    said = far.done.err.splitlines()
    assert f"Uploading packages to '{NAME}'   [OK]" in said
    assert f"Uploading container spec and image(s) to '{NAME}'   [OK]" in said
    folder = far.root / "containers/tiny"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert "tiny-1.0-p1-linux-amd64.aci" in names
    spec = "tiny-1.0-p1-linux-amd64"
    assert {
        f"{spec}/container.yaml",
        f"{spec}/buildit.lock",
        f"{spec}/pkgs/hello/pkg.yaml",
        f"{spec}/pkgs/hello/patches/polite.patch",
        f"{spec}/files/run.sh",
    } <= names
    assert list((far.root / "tmp").iterdir()) == []


def test_a_second_machine_builds_nothing(seed: Seed, far: Far, here: Path) -> None:
    project, program = far.second(seed, here)
    asked = len(far.server.requests())
    done = program.run(str(project.box), "--output", str(here / "out")).good()
    assert f"Found HASH in '{NAME}'...   [OK]" in done.err
    assert "building" not in done.err
    assert "unpacked" not in done.err
    assert digests(done) == far.images()
    blobs = [line for line in far.server.requests()[asked:] if "/blobs/" in line]
    assert blobs, "layers came from there"
    sources = {line.split()[1].rpartition("/")[2] for line in blobs}
    assert not sources & {
        hashlib.sha256(p.read_bytes()).hexdigest() for p in seed.distfiles.iterdir()
    }, "and no source or .deb"


def test_a_second_push_sends_nothing(far: Far) -> None:
    before = {path: path.stat().st_mtime_ns for path in far.root.rglob("*") if path.is_file()}
    done = far.program.run(
        "push", str(far.project.box), "--output", str(far.done.images()[0].parent)
    ).good()
    assert "0 new blobs, 0 new files, 0 B" in done.out
    after = {path: path.stat().st_mtime_ns for path in far.root.rglob("*") if path.is_file()}
    assert {path for path in after if "blobs" in path.parts} == {
        path for path in before if "blobs" in path.parts
    }


def test_sources_and_debs_come_from_there(seed: Seed, far: Far, here: Path) -> None:
    """Another flag, so that it must be built: upstream is not to be reached, no .deb is at hand."""
    project, program = far.second(seed, here)
    project.config.write_text(
        project.config.read_text() + "mirrors: {debian: ['https://127.0.0.1:1/debian']}\n"
    )
    project.edit(project.embedded, "use: {with: [loud]}", "use: {without: [loud]}")
    done = program.run(str(project.box), "--output", str(here / "out")).good()
    assert "app/hello-1.0: built" in done.err
    assert "libs/greet-1.0: building" not in done.err


def test_a_dead_host_costs_one_line(seed: Seed, far: Far, here: Path) -> None:
    dead = "{name: dead, download-type: https, download-path: '127.0.0.1:1/x'}"
    lost = "{name: lost, download-type: ssh, download-path: '127.0.0.1:1/x'}"
    project, program = far.second(seed, here, dead, lost)
    done = program.run(str(project.box), "--output", str(here / "out")).good()
    for name in ("dead", "lost"):
        assert done.err.count(f"'{name}'") == 1, done.err
        assert f"warning: '{name}' is left out" in done.err
    assert "building" not in done.err
    assert digests(done) == far.images()


def test_the_same_bytes_over_ssh(seed: Seed, far: Far, here: Path) -> None:
    project, program = far.second(seed, here)
    text = project.config.read_text()
    project.config.write_text(
        text.replace("download-type: https", "download-type: ssh").replace(
            far.place, f"127.0.0.1:{far.ssh.port}/{far.root}"
        )
    )
    done = program.run(str(project.box), "--output", str(here / "out")).good()
    assert "building" not in done.err
    assert digests(done) == far.images()


def test_nobodys_builds_are_trusted_by_themselves(seed: Seed, far: Far, here: Path) -> None:
    """Without the key of whoever published, nothing is taken, and the build goes on here."""
    project, program = far.second(seed, here)
    stranger = keygen(here / "stranger")
    kind, public = Path(f"{stranger}.pub").read_text().split()[:2]
    (project.root / "signers").write_text(f"stranger@example.org {kind} {public}\n")
    done = program.run(str(project.box), "--output", str(here / "out")).good()
    assert f"Found HASH in '{NAME}'" not in done.err
    assert "app/hello-1.0: built" in done.err
    assert digests(done) == far.images(), "and comes out the same"
    argv = ["ssh-keygen", "-l", "-f", f"{far.key}.pub"]
    fingerprint = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()[1]
    said = f"'{NAME}' has it, signed by {fingerprint}"
    assert done.err.count(said) == 1, f"why it was not taken, once\n{done.err}"
    assert done.err.count("who is not trusted here") == 1
    assert f"if you know this key: buildit trust add {fingerprint}" in done.err


def test_whom_one_does_not_trust_yet_is_named_with_the_command(
    seed: Seed, far: Far, here: Path
) -> None:
    project, program = far.second(seed, here)
    (project.root / "signers").write_text("# nobody yet\n")
    done = program.run("why", str(project.box), "hello").good()
    command = re.search(r"if you know this key: buildit (trust add SHA256:\S+)", done.out)
    assert command is not None, done.out
    words = (*command[1].split(), "--as", "first@example.org")
    added = program.run(*words, cwd=project.box)
    assert added.good().out.startswith("first@example.org is trusted now")
    done = program.run(str(project.box), "--output", str(here / "out")).good()
    assert f"Found HASH in '{NAME}'...   [OK]" in done.err
    assert "building" not in done.err


def test_offline_asks_nobody(seed: Seed, far: Far, here: Path) -> None:
    project, program = far.second(seed, here)
    asked = len(far.server.requests())
    done = program.run(str(project.box), "--output", str(here / "out"), "--offline")
    assert done.code == 4
    assert len(far.server.requests()) == asked
    program.run(str(project.box), "--output", str(here / "out")).good()
    again = program.run(str(project.box), "--output", str(here / "again"), "--offline").good()
    assert digests(again) == far.images()


def test_pushing_nowhere_says_what_to_write(seed: Seed, far: Far, here: Path) -> None:
    project, program = far.second(seed, here)
    done = program.run("push", str(project.box))
    assert done.code == 2
    assert "upload-path: user@host/path" in done.err


def test_what_was_built_before_there_was_a_key_can_be_published(
    seed: Seed, far: Far, here: Path
) -> None:
    project = seed.locked_project(here / "project")
    program = far.reaching(seed.program.with_store(seed.new_store(here)))
    program.run(str(project.box), "--output", str(here / "out")).good()
    where = f"    upload-type: file\n    upload-path: {here}/binhost\n"
    text = f"trees: [./tree]\nrepositories:\n  - name: near\n{where}"
    project.config.write_text(text)
    refused = program.run("push", str(project.box), "--output", str(here / "out"))
    assert refused.code == 2
    assert "set `signing-key: ~/.ssh/id_ed25519`" in refused.err
    project.config.write_text(f"{text}signing-key: {far.key}\n")
    program.run("push", str(project.box), "--output", str(here / "out")).good()
    second, taker = far.second(seed, here / "b")
    near = f"download-type: file, download-path: {here}/binhost"
    second.config.write_text(
        "trees: [./tree]\ntrust: {allowed-signers: ./signers}\n"
        f"repositories: [{{name: near, {near}}}]\n"
    )
    done = taker.run(str(second.box), "--output", str(here / "c")).good()
    assert "Found HASH in 'near'" in done.err
    assert "building" not in done.err


def test_an_early_cut_off_over_https(seed: Seed, far: Far, here: Path) -> None:
    """A library that comes out the same is rebuilt; what uses it comes from the binhost, which
    never saw its key."""
    project, program = far.second(seed, here)
    project.edit(
        project.recipe("libs/greet"),
        "style: make\n",
        "style: make\nenvironment: {COMMENT: changed}\n",
    )
    done = program.run(str(project.box), "--output", str(here / "out")).good()
    assert "libs/greet-1.0: built" in done.err
    assert f"app/hello-1.0: not rebuilt: taken from '{NAME}' as " in done.err
    assert digests(done) == far.images(), "and the images are the same"


@pytest.mark.parametrize(
    ("obstacle", "code", "said"),
    [
        ("key", 2, "set `signing-key: ~/.ssh/id_ed25519`"),
        ("host", 4, "publishing failed"),
        ("nowhere", 2, "upload-path: user@host/path"),
        ("secret", 2, "holds a private key, which would be published to 'mysuperbinhost'"),
    ],
)
def test_what_keeps_it_from_being_published_is_said_before_it_is_built(
    seed: Seed, far: Far, here: Path, obstacle: str, code: int, said: str
) -> None:
    project = seed.locked_project(here / "project")
    text = far.project.config.read_text()
    changes = {
        "key": (f"signing-key: {far.key}\n", ""),
        "host": (f"127.0.0.1:{far.ssh.port}/", "127.0.0.1:1/"),
        "nowhere": ("upload-type: ssh\n  upload-path: ", "# "),
        "secret": ("", ""),
    }
    project.config.write_text(text.replace(*changes[obstacle], 1))
    if obstacle == "secret":
        key = (here / "tls.pem", project.box / "files/tls.pem")
        shutil.copy(keygen(key[0]), key[1])
    program = far.reaching(seed.program.with_store(seed.new_store(here)))
    done = program.run(str(project.box), "--output", str(here / "out"), "--push")
    assert (done.code, "building" in done.err) == (code, False), done.err
    assert said in done.err
    assert not (here / "out").exists()


def test_a_secret_is_published_where_the_user_says_so(seed: Seed, far: Far, here: Path) -> None:
    project = seed.locked_project(here / "project")
    shutil.copy(keygen(here / "tls.pem"), project.box / "files/tls.pem")
    project.config.write_text(
        f"trees: [./tree]\nsigning-key: {far.key}\n"
        f"repository: {{name: near, upload-type: file, upload-path: {here}/near, secrets: yes}}\n"
    )
    program = seed.program.with_store(seed.new_store(here))
    program.run(str(project.box), "--output", str(here / "out"), "--push").good()
    assert (here / "near/containers/tiny/tiny-1.0-p1-linux-amd64/files/tls.pem").exists()


def test_openssh_verifies_what_was_published(far: Far, here: Path) -> None:
    """Without buildit: the words of docs/binhosts.md."""
    kind, public = Path(f"{far.key}.pub").read_text().split()[:2]
    signers = here / "allowed_signers"
    signers.write_text(f"you@example.org {kind} {public}\n")
    statements = sorted(far.root.glob("k/*/*/*.json"))
    assert statements
    for path in statements:
        said = path.read_bytes()
        argv = ["ssh-keygen", "-Y", "verify", "-f", str(signers), "-I", "you@example.org"]
        argv += ["-n", "buildit-attestation-v1", "-s", f"{path}.sig"]
        good, bad = (
            subprocess.run(argv, input=text, capture_output=True, check=False).returncode
            for text in (said, said + b"\n")
        )
        assert good == 0, path
        assert bad != 0, path
        statement = json.loads(said)
        assert statement["_type"] == "https://in-toto.io/Statement/v1"
        assert statement["predicateType"] == "https://slsa.dev/provenance/v1"


def test_a_key_with_a_passphrase_signs_through_the_agent(seed: Seed, far: Far, here: Path) -> None:
    key, public = here / "locked", here / "locked.pub"
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(key)]
    subprocess.run(make, check=True)
    project = seed.locked_project(here / "project")
    project.config.write_text(
        f"trees: [./tree]\nsigning-key: {key}\n"
        f"repository: {{name: near, upload-type: file, upload-path: {here}/near}}\n"
    )
    program = seed.program.with_store(seed.new_store(here))
    words = (str(project.box), "--output", str(here / "out"), "--push")
    alone = program.with_env(SSH_AUTH_SOCK=str(here / "none")).run(*words)
    assert alone.code == 2
    assert "ssh-add" in alone.err
    assert "building" not in alone.err
    answer = here / "answer"
    answer.write_text("#!/bin/sh\necho secret\n")
    answer.chmod(0o700)
    socket = here / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    try:
        asking = {"SSH_AUTH_SOCK": str(socket), "SSH_ASKPASS": str(answer)}
        environment = {**os.environ, **asking, "SSH_ASKPASS_REQUIRE": "force"}
        while not socket.exists():
            time.sleep(0.01)
        subprocess.run(["ssh-add", "-q", str(key)], env=environment, check=True)
        program.with_env(SSH_AUTH_SOCK=str(socket)).run(*words).good()
    finally:
        agent.kill()
        agent.wait()
    text = public.read_text().split()[1]
    builder = hashlib.sha256(base64.b64decode(text)).hexdigest()
    assert {path.name for path in (here / "near").glob("k/*/*/*.json")} == {f"{builder}.json"}
