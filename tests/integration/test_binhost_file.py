"""The simplest binhost, a directory: what one store built, another takes and builds nothing.

Signed by a throw-away key. Whatever is wrong with it is refused by name, and built here instead.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from tests.integration.compare import first_difference
from tests.integration.program import Done, Program
from tests.integration.refusing import assert_whole
from tests.integration.seeds import Seed
from tests.integration.test_kill import signing_key
from tests.integration.world import CONFIG_YAML, Project

pytestmark = pytest.mark.sandbox

SIGNED_UP = """\
trees: [./tree]
repositories:
  - {{name: depot, upload-type: file, upload-path: {depot}}}
signing-key: {key}
"""
SIGNED_DOWN = """\
trees: [./tree]
repositories:
  - {{name: depot, download-type: file, download-path: {depot}}}
trust: {{allowed-signers: {signers}}}
"""
UNSIGNED = """\
trees: [./tree]
repositories:
  - {{name: depot, upload-type: file, upload-path: {depot}, download-type: file,
     download-path: {depot}, unsigned: {unsigned}}}
"""


def allowed(here: Path, *keys: Path) -> Path:
    """An allowed-signers file for our namespace (ssh-keygen(1), ALLOWED SIGNERS)."""
    lines = [f"builder {key.with_suffix('.pub').read_text()}" for key in keys]
    path = here / "allowed_signers"
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def depot(seed: Seed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A binhost that a signing builder filled: `depot`, with `id_ed25519` beside it."""
    place = tmp_path_factory.mktemp("depot")
    project = seed.new_project(place / "project")
    key = signing_key(place)
    project.config.write_text(SIGNED_UP.format(depot=place / "depot", key=key))
    program = seed.program.with_store(seed.new_store(place))
    program.run(str(project.box), "--output", str(place / "out")).good()
    pushed = program.run("push", str(project.box)).good()
    assert str(place / "depot") in pushed.out
    assert program.with_store(place / "depot").run("store", "verify").code == 0
    again = program.run("push", str(project.box), "--json").good()
    assert [one["blobs"] for one in json.loads(again.out)] == [0]
    return place


@pytest.fixture
def taker(seed: Seed, here: Path) -> Program:
    """With an empty store: not even a toolchain, so that a build would be noticed."""
    return seed.program.with_store(here / "store")


def own_copy(depot: Path, here: Path) -> Path:
    return Path(shutil.copytree(depot / "depot", here / "depot"))


def taking(seed: Seed, here: Path, config: str) -> Project:
    project = seed.new_project(here / "project")
    project.config.write_text(config)
    return project


def run(program: Program, project: Project, here: Path, seed: Seed) -> Done:
    done = program.run(str(project.box), "--output", str(here / "out")).good()
    difference = first_difference(seed.out, here / "out")
    assert difference is None, difference
    assert_whole(program, here)
    return done


def built_nothing(done: Done) -> bool:
    """Nor fetched any source or .deb; layers that come from the binhost are told of by package."""
    return not re.search(r"building|built in|unpacked|fetched \S+\.(tar|deb)", done.err)


def with_toolchain(seed: Seed, here: Path) -> Program:
    """For tests where something is built after all."""
    return seed.program.with_store(seed.new_store(here))


def test_signed_and_trusted(seed: Seed, here: Path, depot: Path, taker: Program) -> None:
    signers = allowed(here, depot / "id_ed25519")
    config = SIGNED_DOWN.format(depot=depot / "depot", signers=signers)
    project = taking(seed, here, config)
    project.box.joinpath("distfiles").unlink()
    done = run(taker, project, here, seed)
    assert built_nothing(done), done.err
    assert done.err.count("Found HASH in 'depot'...   [OK]") == 2
    assert not any((taker.store / "trees").iterdir()), "nothing had to be unpacked"


def test_the_way_with_nothing_to_do_ends_with_the_signers_time(
    seed: Seed, here: Path, depot: Path
) -> None:
    """What was taken under `valid-before` is not taken after it, also where no file changed."""
    until = time.strftime("%Y%m%d", time.gmtime(time.time() + 2 * 86400))
    public = (depot / "id_ed25519.pub").read_text()
    signers = here / "allowed_signers"
    signers.write_text(f'builder valid-before="{until}Z" {public}')
    config = SIGNED_DOWN.format(depot=depot / "depot", signers=signers)
    project = taking(seed, here, config)
    program = with_toolchain(seed, here)
    words = (str(project.box), "--output", str(here / "out"))
    assert built_nothing(program.run(*words).good())
    assert "Found HASH in the local store" in program.run(*words).good().err
    later = program.started_by("faketime", "-f", "+3d").run(*words).good()
    assert "app/hello, taken from 'depot' before, is not used" in later.err
    assert "app/hello-1.0: built in" in later.err


def test_unsigned_between_directories_of_this_machine(
    seed: Seed, here: Path, taker: Program
) -> None:
    """The shipped default: what this machine built, another store of this machine takes."""
    config = UNSIGNED.format(depot=here / "depot", unsigned="on")
    project = taking(seed, here, config)
    first = seed.program
    first.run(str(project.box), "--output", str(here / "first")).good()
    first.run("push", str(project.box)).good()
    done = run(taker, project, here, seed)
    assert built_nothing(done), done.err

    refusing = seed.new_store(here / "second")
    project.config.write_text(UNSIGNED.format(depot=here / "depot", unsigned="off"))
    shutil.rmtree(here / "out")
    done = run(seed.program.with_store(refusing), project, here, seed)
    assert "not signed" in done.err
    assert "app/hello-1.0: built in" in done.err


def test_key_that_nobody_allowed(seed: Seed, here: Path, depot: Path) -> None:
    other = signing_key(here)
    project = taking(
        seed, here, SIGNED_DOWN.format(depot=depot / "depot", signers=allowed(here, other))
    )
    done = run(with_toolchain(seed, here), project, here, seed)
    refusals = [line for line in done.err.splitlines() if line.startswith("warning: refused: ")]
    assert refusals
    assert all(str(depot / "depot/k") in line for line in refusals)
    assert "app/hello-1.0: built in" in done.err
    assert "Found HASH in 'depot'" not in done.err


def tampered_layer(depot: Path) -> None:
    """One bit of the largest blob: a layer of libc6."""
    path = max(depot.glob("blobs/sha256/*"), key=lambda blob: blob.stat().st_size)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncated_layer(depot: Path) -> None:
    path = max(depot.glob("blobs/sha256/*"), key=lambda blob: blob.stat().st_size)
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size - 1)


def missing_blobs(depot: Path) -> None:
    for path in depot.glob("blobs/sha256/*"):
        path.unlink()


def changed_statements(depot: Path) -> None:
    for path in depot.glob("k/*/*/*.json"):
        path.chmod(0o644)
        path.write_bytes(path.read_bytes().replace(b'"epoch"', b'"epocH"') + b" ")


def stripped_signatures(depot: Path) -> None:
    for path in depot.glob("k/*/*/*.sig"):
        path.unlink()


def swapped_statements(depot: Path) -> None:
    """A good, signed statement of one package under the keys of all others."""
    paths = sorted(depot.glob("k/*/*/*.json"))
    first, sign = paths[0].read_bytes(), Path(f"{paths[0]}.sig").read_bytes()
    for path in paths[1:]:
        for target, data in ((path, first), (Path(f"{path}.sig"), sign)):
            target.chmod(0o644)
            target.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        tampered_layer,
        truncated_layer,
        missing_blobs,
        changed_statements,
        stripped_signatures,
        swapped_statements,
    ],
)
def test_damage_is_named_and_built_around(
    seed: Seed, here: Path, depot: Path, damage: object
) -> None:
    assert callable(damage)
    copy = own_copy(depot, here)
    damage(copy)
    signers = allowed(here, depot / "id_ed25519")
    project = taking(seed, here, SIGNED_DOWN.format(depot=copy, signers=signers))
    done = run(with_toolchain(seed, here), project, here, seed)
    warnings = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    assert any(str(copy) in line for line in warnings), f"the bad object is not named\n{done.err}"
    assert "built in" in done.err or "unpacked in" in done.err


def test_publishing_needs_a_signature(seed: Seed, here: Path) -> None:
    project = taking(seed, here, UNSIGNED.format(depot=here / "depot", unsigned="off"))
    seed.program.run(str(project.box), "--output", str(here / "out")).good()
    done = seed.program.run("push", str(project.box))
    assert done.code == 2
    assert "not signed" in done.err
    assert "signing-key" in done.err
    assert list((here / "depot").glob("k/*/*/*")) == []


def test_configuration_without_a_binhost(seed: Seed, here: Path) -> None:
    project = taking(seed, here, CONFIG_YAML)
    done = seed.program.run("push", str(project.box))
    assert done.code == 2
    assert "upload-path" in done.err


def test_what_was_taken_is_dropped_with_its_builder(seed: Seed, here: Path, depot: Path) -> None:
    """Also by the quick way, which remembers that there is nothing to do."""
    signers = allowed(here, depot / "id_ed25519")
    project = taking(seed, here, SIGNED_DOWN.format(depot=depot / "depot", signers=signers))
    program = with_toolchain(seed, here)
    assert "Found HASH in 'depot'" in run(program, project, here, seed).err
    again = program.run(str(project.box), "--output", str(here / "out")).good()
    assert "Found HASH in the local store" in again.err
    signers.write_text("# nobody\n")
    done = run(program, project, here, seed)
    assert "app/hello, taken from 'depot' before, is not used: builder" in done.err
    assert "app/hello-1.0: built in" in done.err
    key = re.findall(r"HASH: (\S+)", done.err)[0]
    assert "taken from" not in program.run("show", key).good().out


def test_what_nobody_signed_is_not_signed_by_who_passes_it_on(
    seed: Seed, here: Path, taker: Program
) -> None:
    project = taking(seed, here, UNSIGNED.format(depot=here / "depot", unsigned="on"))
    seed.program.run(str(project.box), "--output", str(here / "first"), "--push").good()
    run(taker, project, here, seed)
    key = signing_key(here)
    project.config.write_text(
        UNSIGNED.format(depot=here / "depot", unsigned="on").replace(
            "repositories:\n",
            f"repositories:\n  - {{name: public, upload-type: file, upload-path: {here}/public}}\n",
        )
        + f"signing-key: {key}\n"
    )
    done = taker.run("push", str(project.box))
    assert done.code == 2
    assert "nobody signed the build, which was taken from 'depot'" in done.err
    assert not list((here / "public").glob("k/*/*/*"))
