"""What a recipe finds in its chroot, and what it is told of what it does not find."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from tests.integration.program import Program
from tests.integration.refusing import BUILD, refused
from tests.integration.seeds import Seed
from tests.integration.world import Project, write

pytestmark = pytest.mark.sandbox

BOX = """\
- vars: {author: Tester, name: box, version: 1}
- package: {atom: app/notes}
- image: {type: aci}
"""


@pytest.fixture
def program(seed: Seed, here: Path) -> Program:
    return seed.program.with_store(seed.new_store(here))


def box(seed: Seed, root: Path, recipe: str) -> Project:
    """A container of one package without sources."""
    project = seed.new_project(root)
    text = f"description: d\nlicense: Apache-2.0\nversions: {{1.0: {{}}}}\n{recipe}"
    write(project.root, {"tree/app/notes/pkg.yaml": text, "box/container.yaml": BOX})
    return project


FAKED = r"""
style: custom
fakeroot: yes
steps:
  install: |
    to="$DESTDIR/usr/share/case"
    install -d -o root -g root "$to" "$DESTDIR/var/lib/x"
    echo a >a
    install -o root -g root -m 0444 a "$to/read only"
    install -m 0555 a "$to/program"
    ln -s program "$to/link"
    chown 101:102 "$DESTDIR/var/lib/x"
    { id -u; stat -c '%u %g' "$DESTDIR/var/lib/x"; } >"$to/seen"
    { hostname; hostname -f; getent hosts buildit localhost
      perl -le 'print join ".", unpack "C4", scalar gethostbyname $_ for qw(buildit localhost)'
      getent services https; getent protocols udp
    } | tr -s ' ' >"$to/names"
"""


def test_an_install_phase_under_fakeroot(seed: Seed, program: Program, here: Path) -> None:
    """Owners are simulated and told; modes are as installed, though fakeroot lets its own write."""
    project = box(seed, here / "project", FAKED)
    done = program.run(str(project.box), "--output", str(here / "out")).good()
    assert "the install gave /var/lib/x to 101:102" in done.err
    assert '{path: var/lib/x, owner: "101:102"}' in done.err
    with tarfile.open(done.images()[0]) as image:
        inside = {member.name.removeprefix("rootfs/"): member for member in image}
        case = "usr/share/case"
        modes = {name: inside[f"{case}/{name}"].mode for name in ("read only", "program")}
        owners = {(member.uid, member.gid) for member in inside.values()}

        def text(name: str) -> str:
            stream = image.extractfile(inside[f"{case}/{name}"])
            assert stream is not None
            return stream.read().decode()

        assert modes == {"read only": 0o444, "program": 0o555}
        assert owners == {(0, 0)}
        assert text("seen") == "0\n101 102\n"
        assert text("names").splitlines() == [
            "buildit",
            "buildit",
            "::1 buildit",
            "::1 localhost",
            "127.0.0.1",
            "127.0.0.1",
            "https 443/tcp",
            "udp 17 UDP",
        ]


LACKING = {
    "a program": ("style: cmake\n", "no program cmake", "depends: {build: [debian:cmake]}"),
    "a module": (
        "style: custom\nsteps: {install: perl -e 'use XML::Parser'}\n",
        "no module XML::Parser",
        "debian:libxml-parser-perl",
    ),
    "configure": ("style: autotools\n", "there is no ./configure", "style:"),
    "a Makefile": ("style: make\n", "there is no Makefile", "style:"),
    "root": (
        "style: custom\nsteps: {install: 'touch x; install -o root x $DESTDIR'}\n",
        "cannot give files away",
        "fakeroot: yes",
    ),
    "devices": (
        "style: custom\nfakeroot: yes\nsteps: {install: 'mknod $DESTDIR/null c 1 3'}\n",
        "/null is a device",
        "leave it out",
    ),
}


def test_what_a_phase_lacks_is_said(seed: Seed, program: Program, here: Path) -> None:
    """Each as what it is, and never as a fault of the sandbox or of the machine."""
    for number, (recipe, reason, hint) in enumerate(LACKING.values()):
        found = refused(program, box(seed, here / f"project{number}", recipe), BUILD)
        assert reason in found.message, found
        assert hint in found.hint, found
        assert "sandbox" not in f"{found.message}{found.hint}"
