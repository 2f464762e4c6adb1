"""Two releases of Debian beside each other: everything else here is built on 12."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.debian_in_images import run_in
from tests.integration.seeds import Seed
from tests.integration.world import write

pytestmark = pytest.mark.sandbox

CONTAINER = """\
- vars: {name: thirteen, version: 1}
- toolchain: toolchain/debian-13
- package: {atom: sys-libs/zlib}
- package: {debian: jq}
- package: {type: embedded, path: ./pkgs/hostname}
- image: {type: oci}
"""
PATCH = """\
--- a/hostname.c
+++ b/hostname.c
@@ -500,5 +500,5 @@
 \t\t\tfile = optarg;
 \t\t\tbreak;
 \t\tcase 'V':
-\t\t\tprintf("hostname %s\\n", VERSION);
+\t\t\tprintf("our hostname %s\\n", VERSION);
 \t\t\treturn 0;
"""
HOSTNAME = "base: debian:hostname=3.25\npatches: {ours.patch: Says whose it is}\n"


def test_everything_of_a_container_is_of_debian_13(seed: Seed, here: Path) -> None:
    """A package of the tree, a .deb and a patched source, which is a native one, of suites that
    this machine's apt sources do not name."""
    program, box = seed.program, here / "box"
    recipe = {"pkgs/hostname/pkg.yaml": HOSTNAME, "pkgs/hostname/ours.patch": PATCH}
    write(box, {"container.yaml": CONTAINER, **recipe})
    (box / "buildit.lock").write_text(seed.lock)  # of Debian 12
    done = program.run(str(box), "--output", str(here / "out")).good()
    (image,) = done.images()
    locked = (box / "buildit.lock").read_text()
    assert "deb toolchain/debian-13 gcc-14 14." in locked
    assert "toolchain/debian-12" not in locked
    assert "deb debian-source:hostname hostname_3.25.dsc 3.25 source trixie " in locked
    shown = program.run("show", "sys-libs/zlib", cwd=box).good().out
    assert "libz.so.1" in shown
    library = "/usr/lib/x86_64-linux-gnu/libc.so.6"
    assert "2.41" in run_in(image, here / "libc", [library]).stdout
    ours = run_in(image, here / "jq", ["/usr/bin/jq", "-n", "20+22"])
    assert ours.stdout == "42\n"
    patched = run_in(image, here / "hostname", ["/usr/bin/hostname", "--version"])
    assert patched.stdout == "our hostname 3.25\n"
