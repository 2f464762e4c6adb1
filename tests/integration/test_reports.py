"""A second hunt: inputs in the shape of public reports that `shared/cases` does not have.

Each case names the report. They were written before they were tried; what they showed stands in
docs/hunt.md. One build takes all archives, one all patches, one all of what builds leave.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.program import Done
from tests.integration.seeds import Seed
from tests.integration.world import archive, sha256, write

TIME = 1_600_000_000


@dataclass(frozen=True, slots=True)
class Tried:
    """A container with one package of ours, and how its build ended."""

    root: Path
    done: Done

    def unpacked(self) -> Path:
        """The image's root, as umoci unpacks it."""
        target = self.root / "unpacked"
        (image,) = self.done.good().images()
        argv = ["umoci", "unpack", "--image", f"{image}:1", str(target)]
        subprocess.run(argv, check=True, capture_output=True)
        return target / "rootfs"


def build(
    seed: Seed,
    root: Path,
    recipe: str,
    *,
    files: Mapping[str, bytes] | None = None,
    texts: Mapping[str, str] | None = None,
    steps: str = "",
) -> Tried:
    """Build `t/p` from `recipe`, with `files` in `distfiles/`, and an image with it."""
    box = root / "box"
    write(
        root,
        {
            ".buildit-config.yaml": "trees: [./tree]\nrepositories: []\n",
            "tree/t/p/pkg.yaml": recipe,
            "box/container.yaml": "- vars: {author: T, name: tried, version: '1'}\n"
            f"- package: {{atom: t/p}}\n{steps}- image: {{type: oci}}\n",
            "box/buildit.lock": seed.lock,
            **{f"tree/t/p/{path}": text for path, text in (texts or {}).items()},
        },
    )
    (box / "distfiles").mkdir()
    for one in seed.distfiles.iterdir():
        (box / "distfiles" / one.name).symlink_to(one)
    for name, data in (files or {}).items():
        (box / "distfiles" / name).write_bytes(data)
    done = seed.program.run(str(box), "--output", str(root / "out"), timeout=600)
    return Tried(root, done)


def tar(members: list[tarfile.TarInfo | tuple[str, bytes, int]]) -> bytes:
    """A plain tar; a tuple is a file with its mode."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as made:
        for one in members:
            if isinstance(one, tarfile.TarInfo):
                made.addfile(one)
                continue
            info = tarfile.TarInfo(one[0])
            info.size, info.mode, info.mtime = len(one[1]), one[2], TIME
            made.addfile(info, io.BytesIO(one[1]))
    return out.getvalue()


def directory(name: str, **more: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, TIME
    for key, value in more.items():
        setattr(info, key, value)
    return info


def zipped(members: list[tuple[str, bytes, int, int]]) -> bytes:
    """A zip of (name, content, unix mode, system that made it: 0 DOS, 3 Unix)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name, content, mode, system in members:
            info = zipfile.ZipInfo(name, (2020, 9, 13, 12, 26, 40))
            info.create_system = system
            info.external_attr = mode << 16
            made.writestr(info, content)
    return out.getvalue()


# --- archives ---

ARCHIVES: dict[str, bytes] = {
    # termux-packages#1548: names that begin with ./ (tsocks)
    "dotslash.tar.gz": gzip.compress(
        tar([directory("./tsocks-1.8/"), ("./tsocks-1.8/a.c", b"a", 0o644)]), mtime=0
    ),
    # termux-packages#1548: no members for directories (binutils, attr)
    "nodirs.tar": tar([("b-1/config/guess", b"g", 0o755), ("b-1/Makefile", b"m", 0o644)]),
    # haikuporter#49: foreign owners, read-only directories and files
    "owners.tar": tar(
        [directory("o-1", uid=70000, gid=70000, mode=0o555), ("o-1/ro", b"r", 0o444)]
    ),
    # libarchive#382: the x bit of a zip made on Unix is kept
    "unix.zip": zipped(
        [("u-1/build.sh", b"#!/bin/sh\n", 0o100755, 3), ("u-1/t", b"t", 0o100644, 3)]
    ),
    # bazel#2074: attributes of a zip that says it was made on DOS
    "dos.zip": zipped([("d-1/run.sh", b"#!/bin/sh\n", 0o100555, 0)]),
}
# oi-userland#9222: a compressed file that is no archive
SINGLE = gzip.compress(b"just data\n", mtime=0)


def test_archives(seed: Seed, here: Path) -> None:
    sources = "".join(
        f"      - {{url: 'https://example.org/{name}', sha256: {sha256(data)},"
        f" directory: {name}}}\n"
        for name, data in {**ARCHIVES, "single.dat.gz": SINGLE}.items()
    )
    recipe = (
        "description: archives\nversions:\n  1:\n    sources:\n" + sources + "steps:\n"
        "  install: |\n    mkdir -p $DESTDIR/usr/share/p\n"
        "    find . -mindepth 1 -printf '%p %y %m\\n' | sort >$DESTDIR/usr/share/p/list\n"
    )
    tried = build(seed, here, recipe, files={**ARCHIVES, "single.dat.gz": SINGLE})
    listed = (tried.unpacked() / "usr/share/p/list").read_text().splitlines()
    found = {line.split()[0]: tuple(line.split()[1:]) for line in listed}
    assert found["./dotslash.tar.gz/a.c"] == ("f", "644")
    assert found["./nodirs.tar/config/guess"] == ("f", "755")
    assert found["./nodirs.tar/Makefile"] == ("f", "644")
    assert found["./owners.tar/ro"][0] == "f"
    assert found["./unix.zip/build.sh"] == ("f", "755")
    assert found["./unix.zip/t"] == ("f", "644")
    assert found["./dos.zip/run.sh"][0] == "f"
    assert found["./single.dat.gz/single.dat"] == ("f", "644")


def test_a_seven_zip_named_zip_is_said_to_be_one(seed: Seed, here: Path) -> None:
    """vpin-studio#24: an archive whose name lies about its kind, and which is not read."""
    data = b"7z\xbc\xaf\x27\x1c" + b"\0" * 60
    recipe = (
        "description: 7z\nversions:\n  1:\n    sources:\n"
        f"      - {{url: 'https://example.org/x.zip', sha256: {sha256(data)}}}\n"
    )
    done = build(seed, here, recipe, files={"x.zip": data}).done
    assert done.code in (2, 5)
    assert "x.zip" in done.err
    assert "7-Zip" in done.err or "7z" in done.err
    assert "fetch it again" not in done.err


# --- patches ---

BASE = {
    "frontend/app.py": "app\n" * 20,
    "frontend/util.py": "util\n" * 20,
    "README.md": "readme\n",
    "setup.py": "".join(f"line {n}\n" for n in range(1, 15)) + "readme = README.md\n\nend\n",
    "package.json": "{\n  readme: README.md\n}\n",
    "keep.txt": "keep\n",
}
PURE_RENAMES = """\
From 0f25b4b28954df4ea8ed489acbaa31265a1fafbe Mon Sep 17 00:00:00 2001
Subject: [PATCH] move frontend

---
 {frontend => nn}/app.py  | 0
 {frontend => nn}/util.py | 0
 2 files changed, 0 insertions(+), 0 deletions(-)
 rename {frontend => nn}/app.py (100%)
 rename {frontend => nn}/util.py (100%)

diff --git a/frontend/app.py b/nn/app.py
similarity index 100%
rename from frontend/app.py
rename to nn/app.py
diff --git a/frontend/util.py b/nn/util.py
similarity index 100%
rename from frontend/util.py
rename to nn/util.py
"""
RENAMED_AND_CHANGED = """\
diff --git a/README.md b/docs dir/not-readme.txt
similarity index 97%
rename from README.md
rename to docs dir/not-readme.txt
index 7ff824b..b5b7bf7 100644
--- a/README.md
+++ b/docs dir/not-readme.txt
@@ -1 +1,2 @@
 readme
+A
"""
NO_CONTEXT = """\
--- a/setup.py\t2024-06-06 14:05:11.000000000 -0500
+++ b/setup.py\t2024-06-22 11:27:13.931633400 -0500
@@ -15 +15 @@
-readme = README.md
+readme = README.rst

--- a/package.json\t2024-06-06 14:05:11.000000000 -0500
+++ b/package.json\t2024-06-22 11:27:13.931633400 -0500
@@ -2 +2 @@
-  readme: README.md
+  readme: README.rst
"""
NEW_WITHOUT_NULL = """\
--- a/whisper/peer.go
+++ b/whisper/peer.go
@@ -0,0 +1,2 @@
+package whisper
+// new
"""
MNEMONIC = """\
diff --git i/keep.txt w/keep.txt
index 2fa992c..9a0c6a1 100644
--- i/keep.txt
+++ w/keep.txt
@@ -1 +1 @@
-keep
+kept
"""
PATCHES = {
    "renames.patch": PURE_RENAMES,  # rattler-build#1960, LibreELEC#1936
    "changed.patch": RENAMED_AND_CHANGED,  # patch-package#518, with a blank in the name
    "nocontext.patch": NO_CONTEXT,  # rattler-build#1690
    "new.patch": NEW_WITHOUT_NULL,  # status-go#647
    "mnemonic.patch": MNEMONIC,  # llvm-premerge-checks#203
}


def patched(names: list[str]) -> str:
    data = archive("p-1", BASE)
    listed = "".join(f"  patches/{name}: one\n" for name in names)
    return (
        "description: patches\nversions:\n  1:\n    sources:\n"
        f"      - {{url: 'https://example.org/p-1.tar.gz', sha256: {sha256(data)}}}\n"
        f"patches:\n{listed}steps:\n  install: |\n"
        "    mkdir -p $DESTDIR/usr/share/p\n    cp -a . $DESTDIR/usr/share/p/\n"
    )


def test_patches(seed: Seed, here: Path) -> None:
    tried = build(
        seed,
        here,
        patched(list(PATCHES)),
        files={"p-1.tar.gz": archive("p-1", BASE)},
        texts={f"patches/{name}": text for name, text in PATCHES.items()},
    )
    tree = tried.unpacked() / "usr/share/p"
    found = {
        str(path.relative_to(tree)): path.read_text() for path in tree.rglob("*") if path.is_file()
    }
    assert found == {
        "nn/app.py": BASE["frontend/app.py"],
        "nn/util.py": BASE["frontend/util.py"],
        "docs dir/not-readme.txt": "readme\nA\n",
        "setup.py": BASE["setup.py"].replace("README.md", "README.rst"),
        "package.json": BASE["package.json"].replace("README.md", "README.rst"),
        "keep.txt": "kept\n",
        "whisper/peer.go": "package whisper\n// new\n",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # patchloom#2101: a rename without git's header is not guessed
        ("--- a/keep.txt\n+++ b/other.txt\n@@ -1 +1 @@\n-keep\n+kept\n", ["keep.txt", "other.txt"]),
        # texmacs-win-builder#4: a file that is there already, as the patch makes it
        ("--- /dev/null\n+++ b/keep.txt\n@@ -0,0 +1 @@\n+keep\n", ["keep.txt", "already"]),
        # rattler-build#1690, its first form: the blank line counted as context is missing
        (NO_CONTEXT.replace("-15 +15", "-15,2 +15,2").replace("\n\n", "\n"), ["p.patch", "hunk"]),
    ],
)
def test_patches_that_cannot_be_had(text: str, words: list[str], seed: Seed, here: Path) -> None:
    done = build(
        seed,
        here,
        patched(["p.patch"]),
        files={"p-1.tar.gz": archive("p-1", BASE)},
        texts={"patches/p.patch": text},
    ).done
    assert done.code in (1, 2), done.err
    for word in words:
        assert word in done.err


# --- what builds leave ---

LEFT = {
    "lib.c": "int answer(void) { return 42; }\n",
    "main.c": "int answer(void);\nint main(void) { return answer() == 42 ? 0 : 1; }\n",
    "Makefile": """\
install:
	$(CC) $(CFLAGS) -g -c lib.c
	ar rcs libanswer.a lib.o
	$(CC) $(CFLAGS) -g -o prog main.c libanswer.a
	mkdir -p $(DESTDIR)/usr/bin $(DESTDIR)/usr/lib/p
	install -s -m 0755 prog $(DESTDIR)/usr/bin/stripped-already
	install -m 0755 prog $(DESTDIR)/usr/bin/prog
	install -m 0555 prog $(DESTDIR)/usr/bin/read-only
	install -m 0644 libanswer.a $(DESTDIR)/usr/lib/
	head -c 200 prog > $(DESTDIR)/usr/lib/p/cut-off.bin
	printf '\\177ELF but no more' > $(DESTDIR)/usr/lib/p/no-elf
	printf '#!/bin/sh\\necho flags\\n' > $(DESTDIR)/usr/bin/krb5-config
	chmod 0755 $(DESTDIR)/usr/bin/krb5-config
""",
}


def test_what_a_build_leaves(seed: Seed, here: Path) -> None:
    """manylinux#119, patchelf#10: odd ELF files survive; jwt27/build-gcc#22: a stripped static
    library still links; rdup#4: `install -s`; heimdal#237: a program named krb5-config.
    """
    data = archive("p-1", LEFT)
    recipe = (
        "description: left\nversions:\n  1:\n    sources:\n"
        f"      - {{url: 'https://example.org/p-1.tar.gz', sha256: {sha256(data)}}}\n"
        "outputs: {runtime: [usr/lib/libanswer.a, usr/bin/krb5-config]}\nstyle: make\n"
        "waivers: [{check: development-in-runtime, path: usr/lib/libanswer.a, reason: asked}]\n"
    )
    tried = build(seed, here, recipe, files={"p-1.tar.gz": data})
    root = tried.unpacked()
    assert (root / "usr/lib/p/no-elf").read_bytes() == b"\x7fELF but no more"
    assert (root / "usr/lib/p/cut-off.bin").stat().st_size == 200
    assert stat.S_IMODE((root / "usr/bin/read-only").stat().st_mode) == 0o555
    assert (root / "usr/bin/krb5-config").exists()
    for name in ("prog", "stripped-already", "read-only"):
        shown = subprocess.run(
            ["readelf", "-S", str(root / "usr/bin" / name)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert ".debug_info" not in shown
    main = here / "main.c"
    main.write_text(LEFT["main.c"])
    linked = ["gcc", "-o", str(here / "linked"), str(main), str(root / "usr/lib/libanswer.a")]
    subprocess.run(linked, check=True)
    assert subprocess.run([str(here / "linked")], check=False).returncode == 0


# --- images ---

PLAIN = "description: base\nversions:\n  1: {}\nsteps:\n  install: |\n"


def test_images(seed: Seed, here: Path) -> None:
    """moby#25501: a synced tree over directories of the image, its own closed to others;
    https-portal#265: files that a umask made writable for the group; openshift-docs#1141: a
    directory that any user may write to.
    """
    write(here, {"box/over/usr/lib/x.txt": "x\n", "box/group.conf": "c\n"})
    (here / "box/over/usr").chmod(0o700)
    (here / "box/group.conf").chmod(0o664)
    install = "    mkdir -p $DESTDIR/usr/lib $DESTDIR/tmp\n    echo l > $DESTDIR/usr/lib/l\n"
    tried = build(
        seed,
        here,
        PLAIN + install,
        steps="- sync: {src: ./over, dest: /, recursive: yes}\n"
        "- sync: {src: ./group.conf, dest: /etc/group.conf}\n"
        "- directories: [{path: /data, mode: 01777},"
        " {path: /state, owner: '1000:0', mode: 0770}]\n",
    )
    root = tried.unpacked()
    modes = {
        path: stat.S_IMODE((root / path).stat().st_mode)
        for path in ("", "usr", "usr/lib", "etc/group.conf", "data", "state")
    }
    assert modes == {
        "": 0o755,
        "usr": 0o755,
        "usr/lib": 0o755,
        "etc/group.conf": 0o644,
        "data": 0o1777,
        "state": 0o770,
    }
    if os.geteuid() == 0:
        assert (root / "state").stat().st_uid == 1000


def test_a_program_without_its_loader_is_refused(seed: Seed, here: Path) -> None:
    """prometheus-libvirt-exporter#87, moby#14972, runc#2153: a copied dynamic program."""
    (here / "box").mkdir()
    program = here / "box/exporter"
    source = here / "e.c"
    source.write_text("int main(void) { return 0; }\n")
    subprocess.run(["gcc", "-o", str(program), str(source)], check=True)
    write(
        here,
        {
            ".buildit-config.yaml": "repositories: []\n",
            "box/container.yaml": "- vars: {author: T, name: tried, version: '1'}\n"
            "- sync: {src: ./exporter, dest: /exporter}\n"
            "- app: {exec: [/exporter]}\n- image: {type: oci}\n",
        },
    )
    done = seed.program.run(str(here / "box"), "--output", str(here / "out"), timeout=600)
    assert done.code in (2, 3), done.err
    assert "/exporter" in done.err
    assert "ld-linux-x86-64.so.2" in done.err or "/lib64" in done.err
    assert not list(here.glob("out/*"))


def test_a_static_program_alone_is_an_image(seed: Seed, here: Path) -> None:
    """fluidattacks/makes#1388, the other side: what needs no loader needs no package."""
    (here / "box").mkdir()
    source = here / "e.c"
    source.write_text('#include <stdio.h>\nint main(void) { puts("static"); return 0; }\n')
    subprocess.run(["gcc", "-static", "-o", str(here / "box/exporter"), str(source)], check=True)
    write(
        here,
        {
            ".buildit-config.yaml": "repositories: []\n",
            "box/container.yaml": "- vars: {author: T, name: tried, version: '1'}\n"
            "- sync: {src: ./exporter, dest: /exporter}\n"
            "- app: {exec: [/exporter]}\n- image: {type: oci}\n",
        },
    )
    done = seed.program.run(str(here / "box"), "--output", str(here / "out"), timeout=600)
    root = Tried(here, done).unpacked()
    ran = subprocess.run([str(root / "exporter")], capture_output=True, text=True, check=True)
    assert ran.stdout == "static\n"
    index = json.loads((done.images()[0] / "index.json").read_text())
    assert index["manifests"]
