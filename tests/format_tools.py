"""Which tools take which format, and how: the rows of docs/format-tools.md, each cell with the test
that runs it or the reason why Debian 12's version of the tool cannot.

    .venv/bin/python -m tests.format_tools > docs/format-tools.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

VERSIONS = {
    "podman": "podman 4.3.1",
    "docker": "docker 20.10.24",
    "containerd": "containerd 1.6.20 (`ctr`)",
    "skopeo": "skopeo 1.9.3",
    "umoci": "umoci 0.4.7",
    "buildah": "buildah 1.28.2",
    "runc": "runc 1.1.5",
    "crun": "crun 1.8.1",
    "lxc": "LXC 5.0.2",
    "nspawn": "systemd-nspawn 252",
    "unsquashfs": "squashfs-tools 4.5.1",
    "actool": "the rules of actool 0.8.11, as tests/appc.py has them",
}
"""The tools by their column."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a tool takes a format. `test` is the pytest id of what runs it; without one it cannot,
    and `how` says why. `first` is what has to be done to the image before, "" where it is taken as
    it is."""

    how: str
    test: str = ""
    first: str = ""


TABLE = "tests/sandbox/test_format_table.py"
TOOLS = "tests/sandbox/test_formats_tools.py"
IMAGES = "tests/sandbox/test_images.py"
LAYOUT = "oci-archive:FILE oci:COPY:v"
_NO_TREES = "it knows images, not trees"
_NO_ACI = "it knows no App Container images"
_SQUASHFS = "reads squashfs only"
_ACI = "judges App Container images only"
BUNDLE = "umoci unpack --image COPY:v BUNDLE"


def _images(form: str, reference: str) -> Mapping[str, Way]:
    """What takes all images of OCI's and docker's making alike; `reference` as containers-image
    writes it."""
    copied = "" if form == "oci" else f"skopeo copy {reference} oci:COPY:v"
    bundle = f"{copied}; {BUNDLE}" if copied else BUNDLE.replace("COPY:v", "DIR:VERSION")
    return {
        "buildah": Way(f"buildah from {reference}", f"{TABLE}::test_buildah_runs_an_image[{form}]"),
        "runc": Way("runc run NAME", f"{TABLE}::test_runc_runs_a_bundle[{form}]", bundle),
        "crun": Way("crun run NAME", f"{TABLE}::test_crun_runs_a_bundle[{form}]", bundle),
        "lxc": Way(
            f"lxc-create -n NAME -t oci -- --url {reference} --no-cache; lxc-execute -n NAME",
            f"{TABLE}::test_lxc_runs_an_image[{form}]",
        ),
        "nspawn": Way(
            "systemd-nspawn -D BUNDLE/rootfs --as-pid2 PROGRAM",
            f"{TABLE}::test_nspawn_runs_a_tree[{form}]",
            bundle,
        ),
        "unsquashfs": Way(_SQUASHFS),
        "actool": Way(_ACI),
    }


def _trees(form: str, first: str, tree: str = "TREE") -> Mapping[str, Way]:
    """What takes a tree, which `first` lays into `TREE`, or lies in the image."""

    def test(name: str) -> str:
        return f"{TABLE}::{name}[{form}]"

    return {
        "podman": Way(
            f"podman run --rootfs {tree} PROGRAM", test("test_podman_runs_a_tree"), first
        ),
        "docker": Way(
            f"tar -C {tree} -c . | docker import - NAME:VERSION",
            test("test_docker_imports_a_tree"),
            first,
        ),
        "containerd": Way(
            f"ctr run --rm --rootfs {tree} ID PROGRAM", test("test_containerd_runs_a_tree"), first
        ),
        "skopeo": Way(_NO_TREES),
        "umoci": Way("it reads layouts of OCI only"),
        "buildah": Way(
            f"buildah add $(buildah from scratch) {tree} /", test("test_buildah_adds_a_tree"), first
        ),
        "runc": Way("a bundle of its own: runc spec", test("test_runc_runs_a_tree"), first),
        "crun": Way("a bundle of its own: crun spec", test("test_crun_runs_a_tree"), first),
        "lxc": Way(
            f"lxc-execute -n NAME -s lxc.rootfs.path=dir:{tree} -- PROGRAM",
            test("test_lxc_runs_a_tree"),
            first,
        ),
        "nspawn": Way(
            f"systemd-nspawn -D {tree} --as-pid2 PROGRAM", test("test_nspawn_runs_a_tree"), first
        ),
        "unsquashfs": Way(_SQUASHFS),
        "actool": Way(_ACI),
    }


_UMOCI_DIRECTORY = "it reads layouts in directories only"
_NO_OCI = "`docker load` of 20.10 takes docker archives only (`blobs/json: no such file`)"
WAYS: Mapping[str, Mapping[str, Way]] = {
    "oci": {
        **_images("oci", "oci:DIR:VERSION"),
        "podman": Way("podman run oci:DIR:VERSION", f"{IMAGES}::test_podman_runs_the_image[none]"),
        "docker": Way(_NO_OCI),
        "containerd": Way(
            "tar -C DIR -c . | ctr image import -; ctr run NAME:VERSION ID",
            f"{TABLE}::test_containerd_runs_an_image[oci]",
        ),
        "skopeo": Way(
            "skopeo copy oci:DIR:VERSION …",
            f"{IMAGES}::test_skopeo_reads_and_copies_every_blob[none]",
        ),
        "umoci": Way(
            "umoci unpack --image DIR:VERSION BUNDLE",
            f"{IMAGES}::test_umoci_unpacks_the_tree_that_verify_saw[none]",
        ),
    },
    "oci-archive": {
        **_images("oci-archive", "oci-archive:FILE"),
        "podman": Way("podman load -i FILE", f"{TOOLS}::test_podman_loads[oci-archive-]"),
        "docker": Way(_NO_OCI),
        "containerd": Way(
            "ctr image import FILE; ctr run NAME:VERSION ID",
            f"{TABLE}::test_containerd_runs_an_image[oci-archive]",
        ),
        "skopeo": Way(
            "skopeo copy oci-archive:FILE …", f"{TOOLS}::test_skopeo_reads_archives[oci-archive]"
        ),
        "umoci": Way(f"{_UMOCI_DIRECTORY}: `skopeo copy {LAYOUT}`"),
    },
    "docker-archive": {
        **_images("docker-archive", "docker-archive:FILE"),
        "podman": Way("podman load -i FILE", f"{TOOLS}::test_podman_loads[docker-archive-]"),
        "docker": Way("docker load -i FILE", f"{TOOLS}::test_docker_loads"),
        "containerd": Way(
            "ctr image import FILE; ctr run NAME:VERSION ID",
            f"{TABLE}::test_containerd_runs_an_image[docker-archive]",
        ),
        "skopeo": Way(
            "skopeo copy docker-archive:FILE …",
            f"{TOOLS}::test_skopeo_reads_archives[docker-archive]",
        ),
        "umoci": Way(f"{_UMOCI_DIRECTORY}: `skopeo copy docker-archive:FILE oci:COPY:v`"),
    },
    "aci": {
        **_trees("aci", "tar --numeric-owner -xpf FILE"),
        "skopeo": Way(_NO_ACI),
        "actool": Way(
            "actool validate FILE", f"{IMAGES}::test_gnu_tar_unpacks_the_same_tree_from_the_aci"
        ),
    },
    "rootfs": {
        **_trees("rootfs", "tar -C TREE --numeric-owner -xpf FILE"),
        "podman": Way("podman import FILE NAME:VERSION", f"{TOOLS}::test_podman_runs_a_tree"),
        "docker": Way("docker import FILE NAME:VERSION", f"{TOOLS}::test_docker_loads"),
    },
    "lxc": {
        **_trees("lxc", "", "DIR/rootfs"),
        "lxc": Way(
            "lxc-create -n NAME -t local -- --metadata DIR/meta.tar.xz --fstree DIR/rootfs.tar.xz; "
            "lxc-execute -n NAME",
            f"{TOOLS}::test_lxc_creates_and_executes",
        ),
    },
    "nspawn": {
        **_trees("nspawn", "", "DIR/rootfs"),
        "nspawn": Way(
            "systemd-nspawn -D DIR/rootfs", f"{TOOLS}::test_nspawn_runs_the_tree_with_its_settings"
        ),
    },
    "squashfs": {
        **_trees("squashfs", "mount -o loop,ro FILE TREE"),
        "unsquashfs": Way(
            "unsquashfs -d TREE FILE", f"{TOOLS}::test_the_kernel_and_unsquashfs_see_the_tree[zstd]"
        ),
    },
}
"""Ways by format and tool."""

_HEAD = """\
# Formats and tools

Which tools of Debian 12 take which format of an `image` step. Made from the rows of
`tests/format_tools.py`, each of which names the test that runs it; **yes** is as it is, **first**
after the step that its section below has, **no** for the reason given there.
"""
_NAMES = """
Every tool that keeps images shows `localhost/NAME:VERSION` after loading one: podman, buildah,
docker and containerd of an archive; containerd of a layout, too. podman and buildah call what they
take from a layout in a directory after that directory, whatever is in it: load an `oci-archive`
where the name matters. umoci and skopeo know a layout's image by its tag, `VERSION`.

A tree says nothing of its program, user and environment: who starts it tells them. That of `lxc`
and `nspawn` images lies in `DIR/rootfs` where root made them, else in the archive beside it, to be
unpacked first. Such a DIR has mode 0700, since the tree's set-id programs are for nobody on the
host; LXC with an `lxc.idmap` needs an x there for its first id. systemd-nspawn writes into a tree:
give it a copy where that matters. It asks `getent` in the tree for a user other than root. An ACI
of `split: yes` is laid together with those that it depends on by an executor of App Container only;
Debian has none, the tests have a renderer of their own (`tests/appc_render.py`).
`lxc-create -t oci` loses the quotes in the words of `exec`; a script in the image has none to lose.
umoci unpacks no layers of zstd.
"""


def _cell(way: Way) -> str:
    if not way.test:
        return "no"
    return "first" if way.first else "yes"


def rendered() -> Iterator[str]:
    """The lines of docs/format-tools.md."""
    yield _HEAD
    yield f"| | {' | '.join(VERSIONS)} |"
    yield f"|---|{'---|' * len(VERSIONS)}"
    for form, ways in WAYS.items():
        yield f"| [{form}](#{form}) | {' | '.join(_cell(ways[tool]) for tool in VERSIONS)} |"
    yield f"\nTried with {', '.join(VERSIONS.values())}."
    yield _NAMES.rstrip()
    for form, ways in WAYS.items():
        yield f"\n## {form}\n\n| tool | how | test |\n|---|---|---|"
        for tool in VERSIONS:
            way = ways[tool]
            steps = "; ".join(filter(None, (way.first, way.how)))
            said = f"`{steps}`" if way.test else f"no: {way.how}"
            yield f"| {tool} | {said.replace('|', chr(92) + '|')} | {_shown(way.test)} |"


def _shown(test: str) -> str:
    path, _, name = test.partition("::")
    return f"`{path.rpartition('/')[2]}::{name}`" if test else ""


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in rendered())
