"""docs/own-program.md: its example is copied from the page, built, and its program run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.integration.seeds import Seed
from tests.pages import CHECKOUT, write

PAGE = "docs/own-program.md"
PLACEHOLDER = "PASTE-WHAT-DIGEST-PRINTED"


def test_the_pages_example_builds_and_runs(seed: Seed, here: Path) -> None:
    write(PAGE, here)
    (here / "hello/distfiles").mkdir()
    page = (CHECKOUT / PAGE).read_text("utf-8")
    commands = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0].splitlines()
    subprocess.run(commands[0].split(), cwd=here, check=True)
    program, *words = commands[1].split()
    assert program == "buildit"
    printed = seed.program.run(*words, cwd=here).good().out
    (digest,) = re.findall(r"\b[0-9a-f]{64}\b", printed)
    recipe = here / "hello/pkgs/misc/hello/pkg.yaml"
    recipe.write_text(recipe.read_text().replace(PLACEHOLDER, digest))
    (here / "hello/buildit.lock").write_text(seed.lock)
    done = seed.program.run(str(here / "hello"), "--output", str(here / "out"), timeout=600).good()
    (image,) = done.images()
    assert image.name == "hello-1.0-linux-amd64.oci"
    root = here / "root"
    argv = ["umoci", "unpack", "--rootless", "--image", f"{image}:1.0", str(root)]
    subprocess.run(argv, check=True, capture_output=True)
    jail = ["bwrap", "--unshare-all", "--bind", str(root / "rootfs"), "/", "/usr/bin/hello"]
    ran = subprocess.run(jail, capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.returncode) == ("hello, dear reader\n", 0), ran.stderr
