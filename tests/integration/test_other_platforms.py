"""A C package, really built and run for a platform that is not this machine's, beside its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from buildit.model.platform import EMULATIONS, PLATFORMS, build_platform
from buildit.sandbox.probe import no_emulation
from tests.integration.seeds import Seed
from tests.integration.world import CONFIG_YAML, write

pytestmark = pytest.mark.sandbox

HERE = build_platform(os.uname().machine)
OTHER = next(one for one in PLATFORMS.values() if one != HERE)
MACHINES = {"amd64": "Advanced Micro Devices X86-64", "arm64": "AArch64"}
HELLO = """\
#include <stdio.h>
#include <sys/utsname.h>
int main(void)
{
    struct utsname here;
    uname(&here);
    printf("good day from %s\\n", here.machine);
    return 0;
}
"""
RECIPE = """\
description: Says which machine it runs on
license: MIT
versions: {1.0: {}}
style: custom
steps:
  compile: cc -O2 -o hello "$FILES/hello.c"
  install: |
    mkdir -p "$DESTDIR/usr/bin" "$DESTDIR/usr/share/hello"
    cp hello "$DESTDIR/usr/bin/"
    ./hello > "$DESTDIR/usr/share/hello/said"
    sh -c 'uname -m; echo "$0"' argument >> "$DESTDIR/usr/share/hello/said"
"""
CONTAINER = f"""\
- vars: {{name: hello, version: 1.0}}
- platforms: [{HERE}, {OTHER}]
- package: {{atom: app/hello}}
- sync: {{src: ./note, dest: /etc/note}}
- app: {{exec: [/usr/bin/hello], environment: {{BUILT_FOR: "{{{{ arch }}}}"}}}}
- image: {{type: oci}}
- image: {{type: oci-archive}}
- image: {{type: rootfs}}
"""
# the interpreter is registered as a sandbox does it, in namespaces of this command alone
RUN = """\
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
printf %s "$1" >/proc/sys/fs/binfmt_misc/register
exec chroot "$2" /usr/bin/hello
"""


def ran(*argv: str | Path) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_c_package_is_built_for_another_platform_beside_this_one(seed: Seed, here: Path) -> None:
    if problem := no_emulation():
        pytest.skip(f"this kernel emulates no other platform: {problem}")
    box, out, tree = here / "box", here / "out", "tree/app/hello"
    write(here, {f"{tree}/pkg.yaml": RECIPE, f"{tree}/files/hello.c": HELLO, "box/note": "x\n"})
    write(here, {".buildit-config.yaml": CONFIG_YAML, "box/container.yaml": CONTAINER})
    (box / "buildit.lock").write_text(seed.lock)
    done = seed.program.run(str(box), "--output", str(out))
    if "lists no main/binary-" in done.err:
        pytest.skip(f"the mirror has no packages for another platform: {done.err}")
    images = done.good().images()
    stem = "hello-1.0-linux"
    several = [out / f"{stem}-multi.oci", out / f"{stem}-multi.oci.tar"]
    trees = [out / f"{stem}-{one.arch}.rootfs.tar" for one in (HERE, OTHER)]
    assert images == [*several, *trees]
    sections = [line for line in (box / "buildit.lock").read_text().splitlines() if line[0] == "["]
    assert sections == sorted(f"[{one}]" for one in (HERE, OTHER))
    verified = json.loads(seed.program.run("verify", *map(str, images), "--json").good().out)
    assert verified["passed"]
    assert len({one["root"] for one in verified["images"]}) == 2
    for one, tar in zip((HERE, OTHER), trees, strict=True):
        _looks_right(several, tar, one.arch, here / one.arch)
    _runs(seed, here / OTHER.arch)
    _again_the_same(seed, here, trees[1])


def _looks_right(several: list[Path], tar: Path, arch: str, root: Path) -> None:
    """As skopeo, umoci, tar and readelf see what is for an architecture."""
    for reference in (f"oci:{several[0]}:1.0", f"oci-archive:{several[1]}"):
        shown = json.loads(ran("skopeo", "inspect", "--override-arch", arch, reference))
        assert (shown["Architecture"], shown["Env"]) == (arch, [f"BUILT_FOR={arch}"])
    copy, unpacked = root / "copy", root / "unpacked"
    root.mkdir()
    words = ("skopeo", "copy", "-q", "--insecure-policy", "--override-arch", arch)
    ran(*words, f"oci:{several[0]}:1.0", f"oci:{copy}:1.0")
    ran("umoci", "unpack", "--rootless", "--image", f"{copy}:1.0", unpacked)
    (root / "rootfs").mkdir()
    ran("tar", "-C", root / "rootfs", "-xf", tar)
    ran("diff", "-r", "--no-dereference", unpacked / "rootfs", root / "rootfs")
    header = ran("readelf", "-h", root / "rootfs/usr/bin/hello")
    assert f"Machine:                           {MACHINES[arch]}" in header
    machine = PLATFORMS[f"linux/{arch}"].machine
    said = (root / "rootfs/usr/share/hello/said").read_text()
    assert said == f"good day from {machine}\n{machine}\nargument\n"


def _runs(seed: Seed, root: Path) -> None:
    (qemu,) = seed.program.store.glob("trees/emulator-*/usr/bin/qemu-*")
    registration = EMULATIONS[str(OTHER)].registration(str(qemu))
    isolated = ("unshare", "--user", "--map-root-user", "--mount-proc", "--pid", "--fork")
    said = ran(*isolated, "sh", "-ec", RUN, "run", registration, root / "rootfs")
    assert said == f"good day from {OTHER.machine}\n"


def _again_the_same(seed: Seed, here: Path, first: Path) -> None:
    """A second build of everything, in a store that has the toolchains and the emulator alone."""
    store = seed.new_store(here)
    trees, box = seed.program.store / "trees", str(here / "box")
    planned = seed.program.run("plan", box, "--platform", str(OTHER), "--json").good().out
    toolchain = json.loads(planned)["toolchain"]["identity"]
    for path in (*trees.glob(f"{toolchain}*"), *trees.glob("emulator-*")):
        ran("cp", "-al", path, store / "trees")
    seen = ("--platform", str(OTHER), "--locked", "--output", str(here / "again"))
    done = seed.program.with_store(store).run(box, *seen).good()
    assert "building" in done.err
    alone = here / "again" / f"hello-1.0-linux-{OTHER.arch}.oci"
    assert alone in done.images()
    assert (here / "again" / first.name).read_bytes() == first.read_bytes()
