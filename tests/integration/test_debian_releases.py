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
- image: {type: oci}
"""


def test_a_package_of_the_tree_is_built_on_debian_13(seed: Seed, here: Path) -> None:
    """Of suites that this machine's apt sources do not name, beside a .deb of them."""
    program, box = seed.program, here / "box"
    write(box, {"container.yaml": CONTAINER})
    (box / "buildit.lock").write_text(seed.lock)  # of Debian 12
    done = program.run(str(box), "--output", str(here / "out")).good()
    (image,) = done.images()
    locked = (box / "buildit.lock").read_text()
    assert "deb toolchain/debian-13 gcc-14 14." in locked
    assert "toolchain/debian-12" not in locked
    shown = program.run("show", "sys-libs/zlib", cwd=box).good().out
    assert "libz.so.1" in shown
    library = "/usr/lib/x86_64-linux-gnu/libc.so.6"
    assert "2.41" in run_in(image, here / "libc", [library]).stdout
    ours = run_in(image, here / "jq", ["/usr/bin/jq", "-n", "20+22"])
    assert ours.stdout == "42\n"
