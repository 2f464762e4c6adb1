"""The cells of docs/format-tools.md (tests/format_tools.py): one small image, made once in every
format, and taken by each tool in the way that the page says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from buildit.image.formats.table import FORMATS
from tests.engines import Engine, docker, podman
from tests.sandbox.test_images import run, shell_image, tool
from tests.unit.image.samples import BlobDirectory, emit, file

pytestmark = pytest.mark.sandbox

NAME, TAG = "localhost/shell:1.0-p1", "1.0-p1"
SAID = ("synced buildit /tmp\n", 7)
PROGRAM = ("/bin/sh", "/etc/start")
SCRIPT = b'read word < /etc/greeting; echo "$word $NAME $PWD"; exit 7\n'
WITH_DOCUMENTS = ("oci", "oci-archive", "docker-archive")
TREES = tuple(form for form in FORMATS if form not in WITH_DOCUMENTS)
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--network", "none")
TOLD = ("--user", "1000:0", "--env", "NAME=buildit", "--workdir", "/tmp")
HIDDEN = 'umount "$(findmnt -rno TARGET -t cgroup2 | head -1)" && exec "$@"'
"""crun refuses a hybrid cgroup tree (FORMATS 2.5): cgroup2 is hidden in a mount namespace."""


@dataclass(frozen=True, slots=True)
class Images:
    """Of each format the image; `trees` are what is in it, laid out; `bundles` are runtime bundles
    of those that say how they start, by umoci."""

    paths: Mapping[str, Path]
    references: Mapping[str, str]
    trees: Mapping[str, Path]
    bundles: Mapping[str, Path]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    if os.geteuid() != 0:
        pytest.skip("unpacking with owners and the engines need root")
    root = tmp_path_factory.mktemp("images")
    (root / "blobs").mkdir()
    blobs = BlobDirectory(root / "blobs")
    plain = shell_image(blobs)
    assert plain.app is not None
    start = blobs.layer("start", [file("etc/start", SCRIPT)])
    app = replace(plain.app, exec=PROGRAM)
    whole = replace(plain, layers=(*plain.layers, start), app=app)
    paths = {form: emit(replace(whole, format=form), blobs, root).path for form in FORMATS}
    references = {form: f"{form}:{paths[form]}" for form in WITH_DOCUMENTS}
    references["oci"] += f":{TAG}"
    with ExitStack() as mounts:
        bundles = {form: _bundle(form, references[form], root) for form in WITH_DOCUMENTS}
        trees = {form: _tree(form, paths[form], root / f"tree-{form}", mounts) for form in TREES}
        trees |= {form: bundle / "rootfs" for form, bundle in bundles.items()}
        yield Images(paths, references, trees, bundles)


def _bundle(form: str, reference: str, root: Path) -> Path:
    umoci, skopeo, bundle = tool("umoci"), tool("skopeo"), root / f"bundle-{form}"
    layout = reference.removeprefix("oci:")
    if form != "oci":
        layout = f"{root}/copy-{form}:v"
        run(skopeo, "copy", "--quiet", "--insecure-policy", reference, f"oci:{layout}")
    run(umoci, "unpack", "--image", layout, bundle)
    return bundle


def _tree(form: str, path: Path, tree: Path, mounts: ExitStack) -> Path:
    if form in ("lxc", "nspawn"):
        return path / "rootfs"
    tree.mkdir()
    if form == "squashfs":
        run("mount", "-o", "loop,ro", path, tree)
        mounts.callback(run, "umount", tree)
        return tree
    run("tar", "-C", tree, "--numeric-owner", "-xpf", path)
    return tree / "rootfs" if form == "aci" else tree


def outcome(argv: Sequence[str | Path], where: Path | None = None) -> tuple[str, int]:
    words = [str(word) for word in argv]
    done = subprocess.run(
        words, cwd=where, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == SAID[1], f"{words}: {done.stderr}"
    return done.stdout, done.returncode


# -- podman, docker, containerd, buildah


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with podman() as found:
        yield found


@pytest.mark.parametrize("form", TREES)
def test_podman_runs_a_tree(form: str, images: Images, engine: Engine, tmp_path: Path) -> None:
    tree = _writable(images.trees[form], tmp_path)  # it makes what it mounts upon
    done = engine.run(*TOLD, "--rootfs", str(tree), *PROGRAM)
    assert (done.stdout, done.returncode) == SAID, done.stderr


def _writable(tree: Path, place: Path) -> Path:
    copy = place / "tree"
    run("cp", "-a", tree, copy)
    return copy


@pytest.fixture(scope="module")
def daemon() -> Iterator[Engine]:
    with docker() as found:
        yield found


@pytest.mark.parametrize("form", [form for form in TREES if form != "rootfs"])
def test_docker_imports_a_tree(form: str, images: Images, daemon: Engine, tmp_path: Path) -> None:
    archive, name = tmp_path / "tree.tar", f"tree:{form}"
    run("tar", "-C", images.trees[form], "-cf", archive, ".")
    run(*daemon.argv, "import", archive, name)
    done = daemon.run(*TOLD, name, *PROGRAM)
    assert (done.stdout, done.returncode) == SAID, done.stderr


@pytest.fixture(scope="module")
def ctr() -> Iterator[tuple[str, ...]]:
    """ctr with a containerd of its own; a socket's path has at most 107 characters (unix(7))."""
    if os.geteuid() != 0:
        pytest.skip("containerd is run as root here")
    program, containerd = tool("ctr"), tool("containerd")
    with tempfile.TemporaryDirectory(prefix="containerd-", dir="/tmp") as name:
        root = Path(name)
        config = (
            f'version = 2\nroot = "{root}/root"\nstate = "{root}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{root}/socket"\n[ttrpc]\naddress = "{root}/ttrpc"\n'
        )
        (root / "config.toml").write_text(config)
        with (root / "log").open("wb") as log:
            process = subprocess.Popen(
                [containerd, "--config", root / "config.toml"], stdout=log, stderr=log
            )
            argv = (program, "--address", f"{root}/socket")
            try:
                end = time.monotonic() + 60
                while subprocess.run(
                    [*argv, "version"], capture_output=True, check=False
                ).returncode:
                    assert process.poll() is None, (root / "log").read_text()
                    assert time.monotonic() < end, (root / "log").read_text()
                    time.sleep(0.1)
                yield argv
            finally:
                process.terminate()
                process.wait(30)


@pytest.mark.parametrize("form", WITH_DOCUMENTS)
def test_containerd_runs_an_image(form: str, images: Images, ctr: tuple[str, ...]) -> None:
    if form == "oci":
        packing = ["tar", "-C", str(images.paths[form]), "-c", "."]
        packed = subprocess.run(packing, capture_output=True, check=True)
        subprocess.run([*ctr, "image", "import", "-"], input=packed.stdout, check=True)
    else:
        run(*ctr, "image", "import", images.paths[form])
    assert run(*ctr, "image", "ls", "-q").split() == [NAME]
    assert outcome([*ctr, "run", "--rm", NAME, f"image-{form}"]) == SAID
    run(*ctr, "image", "rm", NAME)


@pytest.mark.parametrize("form", TREES)
def test_containerd_runs_a_tree(
    form: str, images: Images, ctr: tuple[str, ...], tmp_path: Path
) -> None:
    tree = _writable(images.trees[form], tmp_path)
    told = ("--env", "NAME=buildit", "--cwd", "/tmp", "--rootfs")
    assert outcome([*ctr, "run", "--rm", *told, tree, f"tree-{form}", *PROGRAM]) == SAID


@pytest.fixture(scope="module")
def buildah() -> Iterator[tuple[str, ...]]:
    program = tool("buildah")
    with tempfile.TemporaryDirectory(prefix="buildah-", dir="/tmp") as name:
        place = ("--root", f"{name}/root", "--runroot", f"{name}/run", "--storage-driver", "vfs")
        argv = (program, *place)
        try:
            yield argv
        finally:
            run(*argv, "rm", "--all")
            run(*argv, "rmi", "--all", "--force")


@pytest.mark.parametrize("form", WITH_DOCUMENTS)
def test_buildah_runs_an_image(form: str, images: Images, buildah: tuple[str, ...]) -> None:
    made = run(*buildah, "from", images.references[form]).strip()
    shown = json.loads(run(*buildah, "images", "--json"))
    if form != "oci":  # that it calls after its directory
        assert [name for each in shown for name in each["names"]] == [NAME]
    assert outcome([*buildah, "run", "--isolation", "chroot", made, "--", *PROGRAM]) == SAID
    run(*buildah, "rm", made)
    run(*buildah, "rmi", "--all", "--force")


@pytest.mark.parametrize("form", TREES)
def test_buildah_adds_a_tree(form: str, images: Images, buildah: tuple[str, ...]) -> None:
    made = run(*buildah, "from", "scratch").strip()
    run(*buildah, "add", made, images.trees[form], "/")
    told = ("--user", "1000:0", "--env", "NAME=buildit", "--workingdir", "/tmp")
    assert outcome([*buildah, "run", "--isolation", "chroot", *told, made, "--", *PROGRAM]) == SAID
    run(*buildah, "rm", made)


# -- runc and crun: a bundle is a tree and config.json (OCI's runtime-spec)


def _config(bundle: Path, **changed: object) -> None:
    """Without what this machine cannot give: a terminal, limits above its own."""
    config = json.loads((bundle / "config.json").read_bytes())
    config["process"] |= {"terminal": False, **changed}
    config["process"].pop("rlimits", None)
    (bundle / "config.json").write_text(json.dumps(config))


def _run_bundle(runtime: str, bundle: Path) -> tuple[str, int]:
    argv: list[str | Path] = [
        tool(runtime),
        "--root",
        bundle.with_name("state"),
        "run",
        bundle.name,
    ]
    if runtime == "crun":
        argv = ["unshare", "-m", "--propagation", "private", "sh", "-c", HIDDEN, "sh", *argv]
    return outcome(argv, bundle)


def _of_umoci(form: str, images: Images, place: Path) -> Path:
    bundle = place / f"bundle-{form}-{os.getpid()}"
    shutil.copytree(images.bundles[form], bundle, symlinks=True)
    _config(bundle)
    return bundle


def _of_tree(runtime: str, form: str, images: Images, place: Path) -> Path:
    bundle = place / f"tree-{form}-{os.getpid()}"
    bundle.mkdir()
    subprocess.run([tool(runtime), "spec"], cwd=bundle, check=True)
    (bundle / "rootfs").mkdir()
    run("cp", "-aT", images.trees[form], bundle / "rootfs")
    told = {"args": PROGRAM, "cwd": "/tmp", "user": {"uid": 1000, "gid": 0}}
    _config(bundle, env=["NAME=buildit"], **told)
    return bundle


@pytest.mark.parametrize("form", WITH_DOCUMENTS)
def test_runc_runs_a_bundle(form: str, images: Images, tmp_path: Path) -> None:
    assert _run_bundle("runc", _of_umoci(form, images, tmp_path)) == SAID


@pytest.mark.parametrize("form", WITH_DOCUMENTS)
def test_crun_runs_a_bundle(form: str, images: Images, tmp_path: Path) -> None:
    assert _run_bundle("crun", _of_umoci(form, images, tmp_path)) == SAID


@pytest.mark.parametrize("form", TREES)
def test_runc_runs_a_tree(form: str, images: Images, tmp_path: Path) -> None:
    assert _run_bundle("runc", _of_tree("runc", form, images, tmp_path)) == SAID


@pytest.mark.parametrize("form", TREES)
def test_crun_runs_a_tree(form: str, images: Images, tmp_path: Path) -> None:
    assert _run_bundle("crun", _of_tree("crun", form, images, tmp_path)) == SAID


# -- LXC and systemd-nspawn


@pytest.mark.parametrize("form", WITH_DOCUMENTS)
def test_lxc_runs_an_image(form: str, images: Images, tmp_path: Path) -> None:
    for each in ("skopeo", "umoci", "jq"):
        tool(each)
    (tmp_path / "empty.conf").write_text("lxc.net.0.type = empty\n")
    (tmp_path / "lxc").mkdir()
    own = ("-P", tmp_path / "lxc", "-n", "one")
    image = ("--url", images.references[form], "--no-cache")
    run(tool("lxc-create"), *own, "-f", tmp_path / "empty.conf", "-t", "oci", "--", *image)
    assert outcome([tool("lxc-execute"), *own]) == SAID


@pytest.mark.parametrize("form", [form for form in TREES if form != "lxc"])
def test_lxc_runs_a_tree(form: str, images: Images, tmp_path: Path) -> None:
    tree = _writable(images.trees[form], tmp_path)
    lines = {
        "rootfs.path": f"dir:{tree}",
        "net.0.type": "empty",
        "mount.auto": "proc:mixed sys:ro",
        "init.uid": "1000",
        "init.gid": "0",
        "init.cwd": "/tmp",
        "environment": "NAME=buildit",
    }
    own = [word for key, value in lines.items() for word in ("-s", f"lxc.{key}={value}")]
    place = ("-P", tmp_path, "-n", f"tree-{form}")
    start: tuple[str | Path, ...] = (tool("lxc-execute"), *place, "-f", "/dev/null", *own, "--")
    assert outcome([*start, *PROGRAM]) == SAID


@pytest.mark.parametrize("form", [*WITH_DOCUMENTS, *(form for form in TREES if form != "nspawn")])
def test_nspawn_runs_a_tree(form: str, images: Images, tmp_path: Path) -> None:
    """As root: for others it asks `getent`, which the tree lacks."""
    tree = _writable(images.trees[form], tmp_path)  # it writes into it
    alone = ("--quiet", "--register=no", "--keep-unit", "--as-pid2")
    told = ("--setenv=NAME=buildit", "--chdir=/tmp")
    start: tuple[str | Path, ...] = (tool("systemd-nspawn"), *alone, "-D", tree, *told)
    assert outcome([*start, *PROGRAM]) == SAID
