"""Whether an image's program starts, over layers made for it; nothing is run here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.commands.starting import ImageTree, check_starts, image_tree, remarks, waived_needs
from buildit.digest import BuildKey, Digest
from buildit.errors import RecipeError
from buildit.image.formats.table import rootfs_of, start_of
from buildit.image.layertar import Contents
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.model.image import App, Image, LayerKind
from buildit.model.platform import PLATFORMS
from buildit.model.tree import Entry
from tests.unit.image.samples import BlobDirectory, file, hard, image, link
from tests.unit.make.elves import elf

pytestmark = pytest.mark.unit

LOADER = "/lib64/ld-linux-x86-64.so.2"
LIBDIR = "usr/lib/x86_64-linux-gnu"
Pairs = Iterable[tuple[Entry, bytes]]
MERGED = [link("lib64", "usr/lib64"), link("lib", "usr/lib"), link("bin", "usr/bin")]
LIBC = [
    file(f"{LIBDIR}/libc.so.6", elf(soname="libc.so.6")),
    file(f"{LIBDIR}/ld.so", elf(soname="ld-linux-x86-64.so.2"), 0o755),
    link("usr/lib64/ld-linux-x86-64.so.2", "../lib/x86_64-linux-gnu/ld.so"),
]
PROGRAM = file("usr/bin/x", elf(needed=("libc.so.6",), interp=LOADER), 0o755)
STATIC = elf()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobDirectory:
    return BlobDirectory(tmp_path)


def tree(blobs: BlobDirectory, packages: Pairs, synced: Pairs = ()) -> ImageTree:
    layers = [blobs.layer("packages", packages)]
    if synced:
        layers.append(blobs.layer("sync files", synced, LayerKind.STEP))
    rootfs = rootfs_of(Image("x", "1", "linux", "amd64", tuple(layers), 0, "oci"), blobs)
    return image_tree(rootfs, Contents(rootfs, blobs), PLATFORMS["linux/amd64"])


def check(
    found: ImageTree,
    program: str = "/usr/bin/x",
    environment: Mapping[str, str] | None = None,
    waived: tuple[str, ...] = (),
) -> None:
    check_starts(found, program, environment or {}, waived, "container.yaml:4:3")


def problem(found: ImageTree, program: str = "/usr/bin/x", **environment: str) -> str:
    with pytest.raises(RecipeError) as caught:
        check(found, program, environment)
    assert caught.value.place == "container.yaml:4:3"
    assert "- package: {debian: NAME}" in (caught.value.hint or "")
    return caught.value.message.partition(", but ")[2]


def test_a_program_with_its_loader_and_libraries_starts(blobs: BlobDirectory) -> None:
    check(tree(blobs, [PROGRAM, *LIBC, *MERGED]))
    check(tree(blobs, [file("x", STATIC, 0o755)]), "/x")


def test_a_loader_must_be_where_the_program_says(blobs: BlobDirectory) -> None:
    """What an image without the links of merged /usr lacks: podman says "no such file"."""
    lacking = f"the loader of /usr/bin/x, {LOADER}, does not exist in it"
    assert problem(tree(blobs, [PROGRAM, *LIBC])) == lacking
    assert problem(tree(blobs, [PROGRAM, *LIBC, link("lib64", "usr/lib")])) == lacking
    check(tree(blobs, [PROGRAM, *LIBC]), waived=(f"interp:{LOADER}",))


def test_every_library_is_looked_for(blobs: BlobDirectory) -> None:
    deep = file(f"{LIBDIR}/liba.so.1", elf(soname="liba.so.1", needed=("libdeep.so.2",)))
    program = file("usr/bin/x", elf(needed=("liba.so.1",), interp=LOADER), 0o755)
    lacking = tree(blobs, [program, deep, *LIBC, *MERGED])
    assert problem(lacking) == (
        f"/{LIBDIR}/liba.so.1 needs the library libdeep.so.2, which is not in it"
    )
    check(lacking, waived=("soname:libdeep.so.2",))
    found = file("opt/x/libdeep.so.2", elf(soname="libdeep.so.2"))
    there = tree(blobs, [program, deep, found, *LIBC, *MERGED])
    assert "libdeep.so.2" in problem(there)
    check(there, environment={"LD_LIBRARY_PATH": "/opt/y:/opt/x"})
    cached = tree(blobs, [program, deep, found, file("etc/ld.so.cache", b"?"), *LIBC, *MERGED])
    check(cached)


def test_private_directories_are_those_of_the_tree(blobs: BlobDirectory) -> None:
    own = elf(needed=("libp.so",), interp=LOADER, runpath="$ORIGIN/../lib/own")
    packages = [file("usr/bin/x", own, 0o755), *LIBC, *MERGED]
    assert "libp.so" in problem(tree(blobs, packages))
    check(tree(blobs, [*packages, file("usr/lib/own/libp.so", elf(soname="libp.so"))]))


def test_links_and_hard_links_are_followed(blobs: BlobDirectory) -> None:
    packages = [PROGRAM, hard("usr/bin/y", "usr/bin/x", 0o755), *LIBC, *MERGED]
    packages.append(link("usr/bin/z", "/bin/y"))
    check(tree(blobs, packages), "/usr/bin/y")
    check(tree(blobs, packages), "/bin/z")


def test_the_interpreter_of_a_script_must_start_too(blobs: BlobDirectory) -> None:
    script = file("usr/bin/x", b"#!/bin/sh -e\n", 0o755)
    assert problem(tree(blobs, [script])) == (
        "its interpreter /bin/sh cannot be started: /bin does not exist in it"
    )
    shell = [link("usr/bin/sh", "dash"), file("usr/bin/dash", PROGRAM[1], 0o755), *MERGED]
    assert "the loader of /usr/bin/dash" in problem(tree(blobs, [script, *shell]))
    check(tree(blobs, [script, *shell, *LIBC]))
    check(tree(blobs, [script, *MERGED]), waived=("path:/bin/sh",))


def test_env_looks_along_the_path_of_the_app(blobs: BlobDirectory) -> None:
    script = file("usr/bin/x", b"#!/usr/bin/env tool\n", 0o755)
    env, tool = file("usr/bin/env", STATIC, 0o755), file("opt/bin/tool", STATIC, 0o755)
    found = tree(blobs, [script, env, tool])
    assert "/usr/bin/tool does not exist" in problem(found)
    check(found, environment={"PATH": "/bin:/opt/bin"})
    absolute = file("usr/bin/x", b"#!/usr/bin/env /usr/bin/tool\n", 0o755)
    found = tree(blobs, [absolute, env, tool])
    assert "/usr/bin/tool does not exist" in problem(found, PATH="/opt/bin")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is neither an ELF program nor a script that begins with `#!`"),
        (b"echo hi\n", "is neither an ELF program nor a script that begins with `#!`"),
        (b"#!/bin/sh\r\n", "carriage return"),
        (b"\xef\xbb\xbf#!/bin/sh\n", "byte order mark"),
        (elf(machine=183), "is a program for"),
        (b"\x7fELF\x02\x01broken", "is damaged"),
        (b"#!/usr/bin/x\n", "is a script whose interpreter is a script"),
    ],
)
def test_what_no_kernel_starts(content: bytes, said: str, blobs: BlobDirectory) -> None:
    assert said in problem(tree(blobs, [file("usr/bin/x", content, 0o755), *MERGED]))


def test_a_program_of_the_smaller_machine_runs_where_its_loader_is(blobs: BlobDirectory) -> None:
    small = file("usr/bin/x", elf(machine=3, wide=False, interp="/lib/ld-linux.so.2"), 0o755)
    assert "/lib/ld-linux.so.2, does not exist" in problem(tree(blobs, [small]))
    check(tree(blobs, [small, file("lib/ld-linux.so.2", b"x", 0o755)]))


def test_a_program_that_is_not_there_is_answered_with_those_like_it(blobs: BlobDirectory) -> None:
    names = ("usr/bin/nc.openbsd", "usr/lib/jvm/bin/nc", "usr/bin/ncal", "usr/share/nc")
    found = tree(blobs, [*(file(name, STATIC, 0o755) for name in names), link("bin", "usr/bin")])
    with pytest.raises(RecipeError) as caught:
        check(found, "/bin/nc")
    hint = caught.value.hint or ""
    assert hint.startswith("correct `exec` (/usr/bin/nc.openbsd, /usr/lib/jvm/bin/nc is there), or")


# -- what an image runs


def aci_image(blobs: BlobDirectory, form: str, content: str) -> Image:
    return replace(image((blobs.layer("x", [PROGRAM]),), form), app=None, content=content)


def started_by(image: Image) -> tuple[str, Mapping[str, str]] | None:
    start = start_of(image)
    return None if start.program is None else (start.program, start.environment)


def test_the_program_is_that_of_the_app_or_of_the_users_own_manifest(blobs: BlobDirectory) -> None:
    app = App(exec=("/x", "-d"), environment=(("PATH", "/opt"),))
    assert started_by(replace(aci_image(blobs, "oci", ""), app=app)) == ("/x", {"PATH": "/opt"})
    assert started_by(aci_image(blobs, "oci", "")) is None
    config = {"config": {"Entrypoint": ["/x"], "Env": ["A=b=c"]}}
    assert started_by(aci_image(blobs, "oci", json.dumps(config))) == ("/x", {"A": "b=c"})
    program = {"exec": ["/x"], "user": "0", "group": "0"}
    manifest = {
        "acKind": "ImageManifest",
        "acVersion": "0.8.11",
        "name": "example.org/x",
        "app": {**program, "environment": [{"name": "A", "value": "b"}]},
    }
    assert started_by(aci_image(blobs, "aci", json.dumps(manifest))) == ("/x", {"A": "b"})
    for broken in ("{", "[]", '{"app": 1}', '{"app": {"exec": []}}', '{"config": 3}'):
        for form in ("aci", "oci"):
            with pytest.raises(RecipeError):
                started_by(aci_image(blobs, form, broken))


# -- remarks


def artifact(name: str, needs: tuple[str, ...], **providers: str) -> Artifact:
    digest = Digest("0" * 64)
    given = {f"path:/{path}": provider for path, provider in providers.items()}
    output = Output(digest, 1, digest, needs, given)
    return Artifact(BuildKey(digest), name, "1", "linux/amd64", {RUNTIME: output}, digest)


def test_debs_that_lack_something_are_told_in_one_line(blobs: BlobDirectory) -> None:
    found = tree(blobs, [PROGRAM, *MERGED])
    rsync = artifact("debian:rsync", ("path:/bin/x", "path:/usr/bin/python3", "soname:liby.so"))
    tar = artifact("debian:tar", ("path:/usr/sbin/rmt",))
    whole = artifact("debian:x", ("path:/bin/x",))
    [line] = remarks(found, [(rsync, RUNTIME), (tar, RUNTIME), (whole, RUNTIME)])
    assert line == (
        "not in the image, though files of Debian's packages name it: debian:rsync: "
        "/usr/bin/python3, the library liby.so, and for 1 further package "
        "(`buildit log debian:rsync` names the files, `without:` leaves files out)"
    )
    assert list(remarks(found, [(whole, RUNTIME)])) == []


def test_synced_programs_are_looked_at_too(blobs: BlobDirectory) -> None:
    synced = [
        file("srv/run.sh", b"#!/bin/bash\n", 0o755),
        file("srv/data.sh", b"#!/bin/nothing\n", 0o644),
        file("srv/tool", elf(needed=("libmine.so", "libc.so.6"), interp=LOADER), 0o755),
    ]
    assert list(remarks(tree(blobs, [*LIBC, *MERGED], synced), [])) == [
        "/srv/run.sh needs /bin/bash, which is nowhere in the image",
        "/srv/tool needs the library libmine.so, which is nowhere in the image",
    ]
    found = file("opt/libmine.so", elf(soname="libmine.so"))  # by LD_LIBRARY_PATH, perhaps
    assert len(list(remarks(tree(blobs, [*LIBC, *MERGED, found], synced), []))) == 1
    many = [file(f"srv/{number}", b"#!/bin/bash\n", 0o755) for number in range(7)]
    lines = list(remarks(tree(blobs, LIBC, many), []))
    assert len(lines) == 6
    assert lines[-1] == "and 2 more needs of synced programs"


def test_what_a_recipe_accepts_is_waived() -> None:
    own = artifact("x/app", ("path:/a", "path:/b"), b="k:runtime")
    assert waived_needs([own]) == {"path:/a"}
