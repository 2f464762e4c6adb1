"""The user's own command: discovery by a host-qualified name, publishing, and a second machine that
knows nothing but the name and whom to trust."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildit.remote.discovery import Sought
from buildit.remote.fetch import web_transport
from buildit.remote.transport import read_small
from tests import appc_client
from tests.integration.program import Done, Program
from tests.integration.seeds import Seed, place
from tests.integration.world import Project, publishing
from tests.servers import Nginx, certificates, keygen, nginx, sshd

pytestmark = pytest.mark.sandbox
NAME = "mysuperbinhost"
LABELS = {"version": "1.0-p1", "os": "linux", "arch": "amd64"}


@dataclass(frozen=True)
class World:
    """What the first machine did with the user's command."""

    server: Nginx
    site: Path
    authority: Path
    key: Path
    first: Program
    project: Project
    done: Done

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    @property
    def discover(self) -> str:
        return f"--discover={self.host}/bin/containers"

    def second(self, seed: Seed, here: Path, *, trusting: bool = True) -> tuple[Project, Program]:
        """Another user, with a home and a store of their own, and no repository configured."""
        project = seed.locked_project(here / "second")
        (project.box / "distfiles").unlink()
        project.config.write_text("trees: [./tree]\nrepositories: []\n")
        (here / "home").mkdir()
        program = seed.program.with_store(here / "store").with_env(
            HOME=str(here / "home"), SSL_CERT_FILE=str(self.authority)
        )
        if trusting:
            words = ("trust", "add", f"{self.key}.pub", "--as", "first@example.org")
            program.run(*words, cwd=project.root).good()
        return project, program


def digests(done: Done) -> dict[str, str]:
    return {
        image.name: hashlib.sha256(image.read_bytes()).hexdigest()
        for image in done.images()
        if image.is_file()
    }


@pytest.fixture(scope="module")
def world(seed: Seed) -> Iterator[World]:
    with place("discovery") as root, sshd(root / "ssh") as ssh:
        made = certificates(root / "tls")
        site = root / "site"
        site.mkdir()
        with nginx(root / "nginx", site, made) as server:
            key = keygen(root / "signing")
            project = seed.locked_project(root / "project")
            project.config.write_text(publishing(NAME, key, ssh, site, server))
            program = seed.program.with_store(seed.new_store(root)).with_env(
                SSL_CERT_FILE=str(made.authority), BUILDIT_SSH=ssh.program
            )
            done = program.run(
                f"{project.box}/",
                f"--discover=127.0.0.1:{server.port}/bin/containers,push=True",
                "--output",
                str(root / "out"),
            ).good()
            yield World(server, site / "bin", made.authority, key, program, project, done)


def test_the_user_s_command_publishes_to_what_is_configured(world: World) -> None:
    said = world.done.err.splitlines()
    assert f"warning: no binhost is discovered at {world.host}/bin/containers" in said
    assert f"Uploading packages to '{NAME}'   [OK]" in said
    assert f"Uploading container spec and image(s) to '{NAME}'   [OK]" in said
    assert (world.site / "index.html").is_file()
    assert (world.site / "containers/tiny/index.html").is_file()
    assert (world.site / "n/app/hello/index.html").is_file()


def test_a_second_machine_builds_nothing_by_the_name_alone(
    seed: Seed, world: World, here: Path
) -> None:
    project, program = world.second(seed, here)
    done = program.run(str(project.box), world.discover, "--output", str(here / "out")).good()
    place_of = f"https://{world.host}/bin"
    assert f"discovered a binhost for 127.0.0.1/bin/containers: {place_of}" in done.err
    assert "Found HASH in '127.0.0.1'...   [OK]" in done.err
    assert "building" not in done.err
    assert digests(done) == digests(world.done)
    assert any("ac-discovery=1" in line for line in world.server.requests())


def test_discovery_brings_no_trust(seed: Seed, world: World, here: Path) -> None:
    project, program = world.second(seed, here, trusting=False)
    done = program.run("plan", str(project.box), world.discover).good()
    assert "nobody's builds are trusted" in done.err
    assert "in '127.0.0.1'" not in done.out
    program.run("trust", "add", f"{world.key}.pub", cwd=project.root).good()
    done = program.run("plan", str(project.box), world.discover).good()
    assert "in '127.0.0.1'" in done.out
    assert "to build" not in done.out


def test_why_names_the_closest_build_of_the_binhost(seed: Seed, world: World, here: Path) -> None:
    project, program = world.second(seed, here)
    project.edit(project.embedded, "use: {with: [loud]}", "use: {without: [loud]}")
    done = program.run("why", str(project.box), "hello", world.discover).good()
    lines = done.out.splitlines()
    assert lines[0].startswith("app/hello-1.0  ")
    assert lines[1] == "  no known place has it"
    assert lines[2].startswith("  closest: ")
    assert lines[2].endswith(" in '127.0.0.1'")
    assert "LOUD" in lines[3]


def test_app_container_clients_find_what_was_published(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(world.authority))
    transport = web_transport()
    try:
        for name in ("containers/tiny", "containers/tiny/tiny"):
            wanted = Sought(f"127.0.0.1/bin/{name}", world.server.port)
            places = [next(appc_client.walked(wanted, LABELS, transport))]
            if name.endswith("tiny/tiny"):
                places.append(appc_client.simple(wanted, LABELS)[0])
            (image,) = (digests(world.done)).values()
            for place_of in places:
                served = read_small(transport, place_of, 1 << 28)
                assert hashlib.sha256(served).hexdigest() == image
    finally:
        transport.close()


def test_publishing_again_sends_nothing_and_changes_no_page(world: World) -> None:
    before = {p: p.stat().st_mtime_ns for p in world.site.rglob("*") if p.is_file()}
    out = world.done.images()[0].parent
    done = world.first.run(
        str(world.project.box), f"{world.discover},push=True", "--output", str(out)
    ).good()
    assert f"Uploading packages to '{NAME}'   [OK]" in done.err
    assert {p: p.stat().st_mtime_ns for p in world.site.rglob("*") if p.is_file()} == before


def test_publishing_nowhere_is_refused_before_anything_is_built(
    seed: Seed, world: World, here: Path
) -> None:
    project, program = world.second(seed, here)
    done = program.run(str(project.box), f"{world.discover},push=True")
    assert done.code == 2
    assert "no place to publish to is configured" in done.err
    assert "building" not in done.err


def test_two_builders_must_agree(seed: Seed, world: World, here: Path) -> None:
    """The first machine's binhost, and another builder's directory."""
    bob = keygen(here / "bob")
    theirs = seed.locked_project(here / "theirs")
    theirs.config.write_text(
        f"trees: [./tree]\nsigning-key: {bob}\n"
        f"repository: {{name: bobs, upload-type: file, upload-path: {here}/bobs}}\n"
    )
    (here / "bobs-store").mkdir()
    builder = seed.program.with_store(seed.new_store(here / "bobs-store"))
    builder.run(str(theirs.box), "--push", "--output", str(here / "b")).good()
    project, program = world.second(seed, here)
    rule = "trust: {packages: [{match: app/*, need: 2}]}\n"
    project.config.write_text("trees: [./tree]\nrepositories: []\n" + rule)
    alone = program.run("plan", str(project.box), world.discover).good()
    assert "app/hello-1.0" in alone.out
    assert [line for line in alone.out.splitlines() if "to build" in line]
    program.run("trust", "add", f"{bob}.pub", "--as", "bob@example.org", cwd=project.root).good()
    both = f"--discover=file://{here}/bobs"
    done = program.run(str(project.box), world.discover, both, "--output", str(here / "out")).good()
    assert "building" not in done.err
    assert "app/hello-1.0: " not in done.err, "it came from a binhost"
    assert digests(done) == digests(world.done)


def test_the_published_image_is_signed_where_an_openpgp_key_is_configured(
    seed: Seed, here: Path
) -> None:
    if shutil.which("gpg") is None:
        pytest.skip("needs gnupg")
    home = here / "gpg"
    home.mkdir(mode=0o700)
    base = ["gpg", "--homedir", str(home), "--batch", "--passphrase", ""]
    subprocess.run([*base, "--quick-generate-key", "me@x", "ed25519", "sign", "never"], check=True)
    listed = subprocess.run(
        [*base, "--with-colons", "--list-keys"], check=True, capture_output=True, text=True
    ).stdout
    print_of = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))
    project = seed.locked_project(here / "project")
    key = keygen(here / "signing")
    project.config.write_text(
        f"trees: [./tree]\nsigning-key: [{key}, gpg:{print_of}]\n"
        f"repository: {{name: here, upload-type: file, upload-path: {here}/bin}}\n"
    )
    program = seed.program.with_store(seed.new_store(here)).with_env(GNUPGHOME=str(home))
    program.run(str(project.box), "--push", "--output", str(here / "out")).good()
    folder = here / "bin/containers/tiny"
    (aci,) = folder.glob("*.aci")
    status = subprocess.run(
        [*base, "--status-fd=1", "--verify", f"{aci}.asc", aci], capture_output=True, check=True
    ).stdout
    assert f"VALIDSIG {print_of}" in status.decode()
    assert (here / "bin/pubkeys.asc").read_text().startswith("-----BEGIN PGP PUBLIC KEY BLOCK")
    assert "OpenPGP signature" in (folder / "index.html").read_text()
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)
