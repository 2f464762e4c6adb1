"""Dockerfiles of real shape over one local base: the same tree and the same config as buildah's.

Six of them, others for each commit; all with `BUILDIT_TEST_WHOLE=1`, which writes the table of
docs/dockerfiles.md where `BUILDIT_TEST_REPORT` names a file.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.dockerfile_cases import (
    Buildah,
    Case,
    ReadImage,
    all_cases,
    differences,
    read_layout,
)
from tests.integration.program import CHECKOUT
from tests.integration.seeds import Seed
from tests.integration.world import write
from tests.scale import WHOLE

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(os.geteuid() != 0, reason="buildah is run as root here"),
    pytest.mark.skipif(shutil.which("buildah") is None, reason="buildah is not installed"),
]

SAMPLE = 6
DEBS = "python3, python3-venv, gcc, libc6-dev, make, nginx-light, xz-utils, bzip2"
BASE = f"""\
- vars: {{name: base, version: 1}}
- from: {{suite: debian-12}}
- run:
    script: apt-get install -y --no-install-recommends {DEBS.replace(",", "")}
    debs: [{DEBS}]
- run: {{script: "groupadd -g 1500 crew; useradd -u 1500 -g crew -m -s /bin/bash sailor"}}
- env:
    PATH: /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    BASE_HOME: /srv/base
- cmd: [/bin/bash]
- image: {{type: oci}}
"""


def tried() -> list[Case]:
    """All of them, or some that are others with each commit."""
    every = all_cases()
    if WHOLE:
        return every
    argv = ["git", "-C", str(CHECKOUT), "rev-parse", "HEAD"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return random.Random(done.stdout.strip()).sample(every, SAMPLE)


def test_there_are_enough_of_them() -> None:
    assert len(all_cases()) >= 25


def test_the_same_image_as_buildahs(seed: Seed, here: Path, tmp_path: Path) -> None:
    write(here / "base", {"container.yaml": BASE})
    (layout,) = seed.program.run(str(here / "base"), "--output", str(here / "out")).good().images()
    base = read_layout(layout)
    buildah = Buildah(tmp_path)
    buildah.have(layout)
    found = {}
    for case in tried():
        ours = built(seed, case, case.lay(here / "ours" / case.name), layout)
        theirs = buildah.build(case, case.lay(here / "theirs" / case.name), base)
        found[case.name] = differences(case, ours, theirs)
    if report := os.environ.get("BUILDIT_TEST_REPORT"):
        rows = (f"| {name} | {'; '.join(told) or 'the same'} |\n" for name, told in found.items())
        Path(report).write_text("| Dockerfile | |\n|---|---|\n" + "".join(rows))
    assert {name: told for name, told in found.items() if told} == {}


def built(seed: Seed, case: Case, context: Path, layout: Path) -> ReadImage:
    """What buildit makes of a case."""
    words = ("--build-context", f"base=oci:{layout}", "--output", f"{context}.images")
    done = seed.program.run(str(context), *case.options, *words, cwd=context).good()
    (image,) = done.images()
    return read_layout(image)
