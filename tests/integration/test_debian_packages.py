"""Debian's packages in images and as build tools; what an image needs so that its program starts.

The whole table is `python -m tests.debian_in_images`; here a sample of it is drawn by the commit.
"""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import pytest

from buildit.archive.contents import merged_path
from buildit.archive.deb import read_control
from buildit.debian.fixups import ALTERNATIVES
from buildit.make.scripts.instead import ROOT
from buildit.make.scripts.read import script_rules
from buildit.make.scripts.registered import Alternative, chosen_links
from tests.debian_in_images import JOBS, Job, run_in, try_out
from tests.integration.compare import content, tree
from tests.integration.refusing import RECIPE, refusal
from tests.integration.seeds import Seed
from tests.integration.world import archive, sha256, write

pytestmark = pytest.mark.sandbox

QUICK = (
    "busybox-static",
    "bash",
    "coreutils",
    "tar",
    "gzip",
    "tini",
    "jq",
    "sqlite3",
    "file",
    "zstd",
    "unzip",
    "net-tools",
    "socat",
    "lua5.4",
)
"""Those whose Depends are few: a sample costs seconds."""


def sample() -> list[Job]:
    """One that once was refused, and two others, other ones at every commit. (python3, which was
    too, runs in the test of `style: python`.)"""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, check=False, cwd=Path(__file__).parent
    )
    chosen = random.Random(done.stdout)
    names = {"tzdata", *chosen.sample(QUICK, 2)}
    return [job for job in JOBS if job.name in names]


_TWELVE = """
    nginx apache2 haproxy redis-server memcached mosquitto dnsmasq openssh-server postgresql-15
    chrony git ca-certificates
"""
TWELVE = tuple(_TWELVE.split())
"""Servers that answer and tools that do something: what their scripts would have made is there."""


@pytest.mark.parametrize("name", TWELVE)
def test_what_servers_need_of_their_scripts_is_in_the_image(
    name: str, seed: Seed, here: Path
) -> None:
    (job,) = (job for job in JOBS if job.name == name)
    program = seed.program
    outcome = try_out(job, here, (program.python, "-m", "buildit"), program.env, seed.lock)
    assert outcome.error == ""


@pytest.mark.parametrize("job", sample(), ids=lambda job: job.name)
def test_a_package_enters_an_image_and_runs(job: Job, seed: Seed, here: Path) -> None:
    program = seed.program
    outcome = try_out(job, here, (program.python, "-m", "buildit"), program.env, seed.lock)
    assert outcome.error == ""


def container(seed: Seed, here: Path, steps: str, files: dict[str, str] | None = None) -> Path:
    box = here / "box"
    write(box, {"container.yaml": f"- vars: {{name: x, version: 1}}\n{steps}", **(files or {})})
    (box / "buildit.lock").write_text(seed.lock)
    return box


def test_what_is_left_out_of_a_package_is_not_in_the_image(seed: Seed, here: Path) -> None:
    step = "- package: {debian: tini, without: [usr/bin/tini-static, usr/share/doc/**]}\n"
    box = container(seed, here, f"{step}- image: {{type: oci}}\n")
    (image,) = seed.program.run(str(box), "--output", str(here / "out")).good().images()
    paths = set(tree(image))
    assert "usr/bin/tini" in paths
    assert not paths & {"usr/bin/tini-static", "usr/share/doc/tini/copyright"}
    assert {"lib64", "lib", "bin"} <= paths
    done = run_in(image, here / "bundle", ["/bin/tini", "--version"])
    assert done.stdout.startswith("tini version")


def test_scanners_see_each_deb_by_its_true_name(seed: Seed, here: Path) -> None:
    """dpkg-query reads the entries as its own database; dpkg-deb says what the .debs say."""
    box = container(seed, here, "- package: {debian: tini}\n- image: {type: oci}\n")
    (image,) = seed.program.run(str(box), "--output", str(here / "out")).good().images()
    place = "var/lib/dpkg/status.d/"
    names = {path.removeprefix(place) for path in tree(image) if path.startswith(place)}
    database = here / "dpkg"
    (database / "updates").mkdir(parents=True)
    (database / "info").mkdir()
    entries = (content(image, place + name).decode() for name in sorted(names))
    text = "".join(f"{one}Status: install ok installed\n\n" for one in entries)
    (database / "status").write_text(text)
    shown = "${Package} ${Version} ${Architecture} ${source:Package} ${source:Version}\\n"

    def said(*words: str) -> set[str]:
        done = subprocess.run([*words], capture_output=True, check=True, text=True)
        return {*done.stdout.splitlines()}

    read = said("dpkg-query", f"--admindir={database}", "-W", f"--showformat={shown}")
    debs = [line.split(" ") for line in (box / "buildit.lock").read_text().splitlines()]
    blobs = [seed.program.store / "blobs/sha256" / w[8] for w in debs if w[0] == "deb"]
    true = {
        one for blob in blobs for one in said("dpkg-deb", "-W", f"--showformat={shown}", str(blob))
    }
    assert read == {one for one in true if one.split(" ")[0] in names}
    assert {one.split(" ")[0] for one in read} == names >= {"tini", "libc6", "gcc-12-base"}
    assert any(one.startswith("libc6 ") and " glibc " in one for one in read)


def test_links_of_the_toolchain_are_those_that_its_packages_register(seed: Seed) -> None:
    """Its short table, a part of every key, says what update-alternatives would."""
    top = seed.program.store / "trees" / seed.toolchain
    lines = [line.split(" ") for line in seed.lock.splitlines()]
    registered: list[Alternative] = []
    for words in (words for words in lines if words[0] == "deb"):
        with (seed.program.store / "blobs/sha256" / words[8]).open("rb") as deb:
            control = read_control(deb, words[2])
        registered += script_rules(words[2], control, {}, lambda _: "", ROOT).alternatives
    chosen = chosen_links(registered, lambda path: (top / merged_path(path[1:])).exists())
    said = {name: Path(path).name for name, path in chosen.values() if name in ALTERNATIVES}
    made = {name: top / "usr/bin" / name for name in ALTERNATIVES}
    assert said == {name: at.readlink().name for name, at in made.items() if name in said}
    assert {"awk", "c++", "cc", "fakeroot"} <= {*said}
    # of Debian's, `faked` and `sh` are no alternatives
    assert {name for name, at in made.items() if at.is_symlink()} - {*said} <= {"faked", "sh"}


def test_an_own_program_runs_without_a_base_layout(seed: Seed, here: Path) -> None:
    (image,) = seed.out.glob("*.oci")
    links = {path: member.linkname for path, member in tree(image).items() if "/" not in path}
    assert links["lib64"] == "usr/lib64"
    assert links["bin"] == "usr/bin"
    done = run_in(image, here / "bundle", ["/usr/bin/hello"])
    assert done.stdout.startswith("good day, ") or "reader" in done.stdout, done


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("#!/bin/sh\n", "its interpreter /bin/sh cannot be started: /bin does not exist in it"),
        ("#!/usr/bin/env python3\n", "its interpreter /usr/bin/env cannot be started"),
        ("#!/srv/x\r\n", "carriage return"),
        ("", "neither an ELF program nor a script"),
    ],
)
def test_a_synced_program_that_cannot_start_is_refused(
    script: str, said: str, seed: Seed, here: Path
) -> None:
    steps = "- sync: {src: x, dest: /srv/x, chmod: 0755}\n- app: {exec: [/srv/x]}\n"
    images = "- image: {type: oci}\n- image: {type: aci}\n"
    box = container(seed, here, steps + images, {"x": script})
    found = refusal(seed.program.run(str(box), "--output", str(here / "out")), RECIPE)
    assert said in found.message
    assert "the image runs /srv/x, but" in found.message
    assert not list((here / "out").glob("*")) if (here / "out").exists() else True


PROGRAMS = """
    TZ=Europe/Berlin date; LC_ALL=C.UTF-8 ls -l /; getent passwd root || true
    printf '\\351' | iconv -f latin1 -t utf-8; printf x | iconv -f cp1252 -t utf-16
    python3 -c 'import codecs, time; print(codecs.encode("x", "utf-16"), time.ctime())'
"""


def test_no_default_of_slices_leaves_out_what_a_program_opens(seed: Seed, here: Path) -> None:
    """Programs run in an image with whole packages; nothing that they open is missing in the image
    as it is by default. That the watch sees such a file, a rare character set shows."""
    names = ("tzdata", "coreutils", "dash", "libc-bin", "python3-minimal")
    steps = "".join(f"- package: {{debian: {name}}}\n" for name in names)
    images = {}
    write(here, {"whole/.buildit-config.yaml": "trees: [./tree]\nrepositories: []\n"})
    write(here, {"whole/tree/debian/slices.yaml": "packages: {libc6: {}, tzdata: {}}\n"})
    for name in ("whole", "default"):
        box = container(seed, here / name, f"{steps}- image: {{type: oci}}\n")
        (images[name],) = (
            seed.program.run(str(box), "--output", str(here / name / "out")).good().images()
        )
    gone = set(tree(images["whole"])) - set(tree(images["default"]))
    assert len([path for path in gone if "/gconv/" in path]) > 200

    def opened(name: str, script: str) -> set[str]:
        watch = ["strace", "-f", "-qq", "-z", "-e", "trace=%file", "-o", str(here / name)]
        shell = ["/bin/sh", "-ec", script]
        done = run_in(images["whole"], here / f"{name}-bundle", shell, watch=watch)
        assert done.returncode == 0, done.stderr
        paths = re.findall(r'"(/[^"]+)"', (here / name).read_text())
        return {re.sub("^(s?bin|lib(32|64)?)/", r"usr/\1/", path.strip("/")) for path in paths}

    programs = opened("usual", PROGRAMS)
    assert {"usr/bin/date", "usr/share/zoneinfo/Europe/Berlin"} <= programs
    assert any(path.endswith("gconv/ISO8859-1.so") for path in programs)
    # what is read because it lies in a directory, and names the tables that are left out with it
    listed = {path for path in gone if path.endswith("/gconv-modules-extra.conf")}
    assert programs & gone <= listed
    rare = opened("rare", "printf x | iconv -f IBM037 -t utf-8")
    assert {path.rpartition("/")[2] for path in rare & gone - listed} == {"IBM037.so"}


MESON = {
    "meson.build": "project('hi', 'c')\nexecutable('hi', 'hi.c', install: true)\n",
    "hi.c": '#include <stdio.h>\nint main(void) { puts("hi by meson"); return 0; }\n',
}
PYTHON = {
    "pyproject.toml": """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "hey"
version = "1.0"
[project.scripts]
hey = "hey:main"
[tool.setuptools]
py-modules = ["hey"]
""",
    "hey.py": "import json\n\ndef main():\n    print(json.dumps(['hey by python']))\n",
}
RECIPE_YAML = """\
description: A small program
license: Apache-2.0
versions:
  1.0:
    sources: [{{url: https://example.org/{name}-1.0.tar.gz, sha256: {digest}}}]
style: {style}
depends: {depends}
"""


def test_meson_and_python_build_with_debians_tools(seed: Seed, here: Path) -> None:
    """Their tools are links and scripts across many packages."""
    python = "python3-build, debian:python3-installer, debian:python3-setuptools"
    packages = {
        "hi": (MESON, "meson", "{build: [debian:meson, debian:ninja-build]}"),
        "hey": (
            PYTHON,
            "python",
            f"{{build: [debian:{python}, debian:python3-wheel], run: [debian:python3]}}",
        ),
    }
    steps = "".join(f"- package: {{atom: app/{name}}}\n" for name in packages)
    box = container(seed, here, f"{steps}- app: {{exec: [/usr/bin/hey]}}\n- image: {{type: oci}}\n")
    write(here, {".buildit-config.yaml": "trees: [./tree]\nrepositories: []\n"})
    (box / "distfiles").mkdir()
    for name, (files, style, depends) in packages.items():
        content = archive(f"{name}-1.0", files)
        (box / f"distfiles/{name}-1.0.tar.gz").write_bytes(content)
        digest = sha256(content)
        recipe = RECIPE_YAML.format(name=name, digest=digest, style=style, depends=depends)
        write(here, {f"tree/app/{name}/pkg.yaml": recipe})
    (image,) = seed.program.run(str(box), "--output", str(here / "out")).good().images()
    assert run_in(image, here / "one", ["/usr/bin/hi"]).stdout == "hi by meson\n"
    done = run_in(image, here / "two", ["/usr/bin/hey"])
    assert done.stdout == '["hey by python"]\n', done
