"""A Debian root of exact .debs against mmdebstrap's, and packages that apt installs over it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.debian_in_images import run_in
from tests.integration.program import Program
from tests.integration.seeds import Seed
from tests.integration.world import write

pytestmark = pytest.mark.sandbox

ROOT = "- vars: {name: root, version: 1}\n- from: {suite: debian-12}\n"
CHECKS = "dpkg --audit; dpkg -V; apt-get check -qq"

_MORE = """
    etc/apt/preferences.d/no-usrmerge etc/apt/sources.list etc/dpkg/dpkg.cfg.d/99mmdebstrap
    etc/fstab etc/hostname etc/resolv.conf run/lock var/cache/apt/archives/lock
    var/lib/apt/extended_states var/lib/apt/lists/lock var/lib/dpkg/arch
    etc/.pwd.lock etc/group- etc/passwd-
"""
ONLY_BOOTSTRAPPED = frozenset(_MORE.split())
"""What mmdebstrap leaves besides, with all of /dev: of the machine, of its own run, of apt's, and
what no layer of a step has."""

OTHERWISE = {
    "etc/shadow": "content",  # the day
    "var/cache/apt/archives/partial": "owner",
    "var/lib/apt/lists/partial": "owner",
    "var/lib/dpkg/status-old": "content",
    **dict.fromkeys(
        [
            f"var/cache/debconf/{name}.dat{old}"
            for name in ("config", "templates")
            for old in ("", "-old")
        ],
        "content",
    ),
}
"""What differs: those that apt gives to its user when it fetches, and what debconf was asked."""


@dataclass(frozen=True)
class Seen:
    """A path of a tree, as somebody else's reader of archives has it."""

    kind: bytes
    mode: int
    owner: tuple[int, int]
    content: str


def tree(path: Path) -> dict[str, Seen]:
    found: dict[str, Seen] = {}
    with tarfile.open(path) as tar:
        for one in tar:
            name = one.name.lstrip("./").rstrip("/")
            if not name or name.startswith("dev/"):
                continue
            owner = one.uid, one.gid
            if one.isreg():
                content = tar.extractfile(one)
                assert content is not None
                text = hashlib.sha256(content.read()).hexdigest()
                found[name] = Seen(one.type, one.mode, owner, text)
            elif one.islnk():
                found[name] = found[one.linkname.lstrip("./")]
            else:
                mode = 0 if one.issym() else one.mode
                found[name] = Seen(one.type, mode, owner, one.linkname)
    return found


def built(program: Program, box: Path, steps: str, form: str = "rootfs") -> Path:
    write(box, {"container.yaml": f"{ROOT}{steps}- image: {{type: {form}}}\n"})
    done = program.run(str(box), "--output", str(box.parent / f"out-{box.name}")).good()
    (image,) = done.images()
    return image


def bootstrapped(path: Path) -> Path:
    """What mmdebstrap makes of the same suites, without usrmerge, which only converts roots."""
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)"]
    told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    uris = {suite: uri for uri, suite in (line.split() for line in told.splitlines())}
    lines = [f"deb {uri} {name} main" for name, uri in uris.items() if name.startswith("bookworm")]
    pin = "Package: usrmerge\\nPin: release *\\nPin-Priority: -1\\n"
    where = '"$1/etc/apt/preferences.d'
    setup = f'mkdir -p {where}"; printf "{pin}" > {where}/no-usrmerge"'
    words = ["mmdebstrap", "--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io"]
    words += ["--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", f"--setup-hook={setup}"]
    words += ["--include=usr-is-merged", "bookworm", str(path), *lines]
    memory = {"TMPDIR": "/dev/shm"} if os.path.isdir("/dev/shm") else {}
    subprocess.run(words, env={**os.environ, **memory}, check=True, timeout=600)
    return path


@pytest.mark.skipif(os.geteuid() != 0, reason="mmdebstrap is run as root")
def test_a_root_is_mmdebstraps_but_for_a_list(seed: Seed, here: Path) -> None:
    assert shutil.which("mmdebstrap"), "scripts/test installs mmdebstrap"
    ours = tree(built(seed.program, here / "root", ""))
    theirs = tree(bootstrapped(here / "theirs.tar"))
    assert theirs.keys() - ours.keys() == ONLY_BOOTSTRAPPED
    assert ours.keys() - theirs.keys() == set()
    different = {}
    for path in ours.keys() & theirs.keys():
        if ours[path].content != theirs[path].content:
            different[path] = "content"
        elif ours[path] != theirs[path]:
            different[path] = "owner"
    assert different == OTHERWISE
    locked = (here / "root/buildit.lock").read_text()
    assert "deb suite:debian-12 base-files 12" in locked
    again = seed.program.run(str(here / "root"), "--output", str(here / "again"), "--json").good()
    assert "dpkg" not in again.err, "found by key, nothing runs"


def layers(image: Path) -> list[str]:
    """The diff_ids of an OCI layout's one image."""

    def blob(digest: str) -> dict[str, object]:
        found = json.loads((image / "blobs" / digest.replace(":", "/")).read_bytes())
        assert isinstance(found, dict)
        return found

    index = json.loads((image / "index.json").read_bytes())
    manifest = json.dumps(blob(index["manifests"][0]["digest"]))
    config = json.dumps(blob(json.loads(manifest)["config"]["digest"]))
    return list(json.loads(config)["rootfs"]["diff_ids"])


INSTALL = """- run:
    script: |
      {checks}
      apt-get install -y nginx-light sudo cron
      {checks}
      /usr/sbin/policy-rc.d && exit 9 || [ $? = 101 ]
    debs: [nginx-light, sudo, cron]
    env: {{ROUND: '{round}'}}
"""


def test_apt_installs_offline_and_twice_the_same(seed: Seed, here: Path) -> None:
    images = [
        built(seed.program, here / f"web{n}", INSTALL.format(checks=CHECKS, round=n), "oci")
        for n in (1, 2)
    ]
    first, second = map(layers, images)
    assert first == second
    words = (
        "dpkg-query -W -f='${Status} ' cron; ls /run /usr/sbin/policy-rc.d 2>/dev/null; nginx -v"
    )
    done = run_in(images[0], here / "look", ["/bin/sh", "-c", words])
    assert done.stdout.split() == ["install", "ok", "installed", "/run:"]
    assert "nginx/1.22" in done.stderr
    locked = (here / "web1/buildit.lock").read_text()
    assert "deb run:cron,nginx-light,sudo nginx-light 1.22" in locked


def test_what_a_base_has_is_not_laid_again(seed: Seed, here: Path) -> None:
    steps = (
        "- package: {debian: bash}\n- package: {debian: jq}\n- run: {script: 'dpkg -V; jq -n 1'}\n"
    )
    write(here / "box", {"container.yaml": f"{ROOT}{steps}- image: {{type: oci}}\n"})
    done = seed.program.run(str(here / "box"), "--output", str(here / "out")).good()
    assert "debian:bash: the base has it already" in done.err
    assert "debian:jq: dpkg of the base does not know it" in done.err
    (image,) = done.images()
    # the root, its configuration, jq with two libraries, and directories on top
    assert len(layers(image)) == 6


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("- run: {script: x, ids: one}\n", "a Debian root has many users"),
        ("- run: {script: x, debs: [nginx-lihgt]}\n", "no suite has a package nginx-lihgt"),
        ("- run: {script: x, debs: [nginx-light=0]}\n", "no suite has nginx-light (= 0)"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(
    steps: str, said: str, seed: Seed, here: Path
) -> None:
    write(here / "box", {"container.yaml": f"{ROOT}{steps}- image: {{type: oci}}\n"})
    done = seed.program.run(str(here / "box"), "--output", str(here / "out"))
    assert done.code != 0
    assert said in done.err
    assert "container.yaml:3:" in done.err
    assert "step:run" not in done.err


def test_debs_need_apt_below(seed: Seed, here: Path) -> None:
    text = "- vars: {name: x, version: 1}\n- package: {debian: busybox-static}\n"
    text += "- run: {script: x, debs: [jq]}\n- image: {type: oci}\n"
    write(here / "box", {"container.yaml": text})
    done = seed.program.run(str(here / "box"), "--output", str(here / "out"))
    assert done.code != 0
    assert "`debs` are for apt, and no layer below has it" in done.err
    assert "container.yaml:3:" in done.err
