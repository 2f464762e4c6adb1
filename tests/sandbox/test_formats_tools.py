"""Every format in every tool that takes it: the words and the status of the program that runs, and
the name that the tool shows."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.image.verify import verify
from tests.engines import docker, podman
from tests.sandbox.test_images import SECONDS, odd_image, run, shell_image, tool
from tests.unit.image.samples import BlobDirectory, emit

pytestmark = pytest.mark.sandbox

SAID = ("synced buildit /tmp\n", 7)
NAME = "localhost/shell:1.0-p1"
START = ("/bin/sh", "-c", 'read word < /etc/greeting; echo "$word $NAME $PWD"; exit 7')
"""What a tree alone does not say of its start."""


@pytest.fixture
def blobs(tmp_path: Path) -> BlobDirectory:
    (tmp_path / "blobs").mkdir()
    return BlobDirectory(tmp_path / "blobs")


def made(blobs: BlobDirectory, form: str, out: Path, compress: str = "") -> Path:
    return emit(shell_image(blobs, format=form, compress=compress), blobs, out).path


@pytest.mark.parametrize(
    ("form", "compress"),
    [("oci-archive", ""), ("oci-archive", "gzip"), ("oci-archive", "zstd"), ("docker-archive", "")],
)
def test_podman_loads(form: str, compress: str, blobs: BlobDirectory, tmp_path: Path) -> None:
    path = made(blobs, form, tmp_path / "out", compress)
    with podman() as program:
        run(*program.argv, "load", "--quiet", "--input", path)
        shown = json.loads(run(*program.argv, "images", "--format", "json"))
        done = program.run(NAME)
    assert [name for each in shown for name in each["Names"]] == [NAME]
    assert (done.stdout, done.returncode) == SAID, done.stderr


def test_docker_loads(blobs: BlobDirectory, tmp_path: Path) -> None:
    path = made(blobs, "docker-archive", tmp_path / "out")
    tree = made(blobs, "rootfs", tmp_path / "out", "gzip")
    with docker() as program:
        run(*program.argv, "load", "--quiet", "--input", path)
        names = run(*program.argv, "images", "--format", "{{.Repository}}:{{.Tag}}")
        done = program.run(NAME)
        run(*program.argv, "import", tree, "tree:1")
        told = ("--user", "1000:0", "--env", "NAME=buildit", "--workdir", "/tmp", "tree:1")
        of_tree = program.run(*told, *START)
    assert names.split() == [NAME]
    assert (done.stdout, done.returncode) == SAID, done.stderr
    assert (of_tree.stdout, of_tree.returncode) == SAID, of_tree.stderr


def test_podman_runs_a_tree(blobs: BlobDirectory, tmp_path: Path) -> None:
    tree = made(blobs, "rootfs", tmp_path / "out")
    with podman() as program:
        run(*program.argv, "import", "--quiet", tree, "tree:1")
        told = ("--user", "1000:0", "--env", "NAME=buildit", "--workdir", "/tmp", "tree:1")
        done = program.run(*told, *START)
    assert (done.stdout, done.returncode) == SAID, done.stderr


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_skopeo_reads_archives(form: str, blobs: BlobDirectory, tmp_path: Path) -> None:
    skopeo = tool("skopeo")
    layout = emit(odd_image(blobs, ""), blobs, tmp_path / "out")
    archive = emit(replace(odd_image(blobs, ""), format=form), blobs, tmp_path / "out")
    seen = json.loads(run(skopeo, "inspect", f"{form}:{archive.path}"))
    assert seen["Created"] == "2023-11-14T22:13:20Z"
    copy = tmp_path / "copy"
    run(skopeo, "copy", "--insecure-policy", f"{form}:{archive.path}", f"oci:{copy}:x")
    assert verify((layout.path, archive.path, copy)).passed()
    if form == "oci-archive":
        assert seen["Digest"] == archive.identifier == layout.identifier
    else:
        config = run(skopeo, "inspect", "--raw", f"{form}:{archive.path}")
        assert json.loads(config)["config"]["digest"] == archive.identifier


def test_gnu_tar_unpacks_the_tree(blobs: BlobDirectory, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("unpacking with owners needs root")
    wanted = odd_image(blobs, "")
    tree = emit(replace(wanted, format="rootfs", compress="zstd"), blobs, tmp_path / "out").path
    layout = emit(wanted, blobs, tmp_path / "out").path
    root = tmp_path / "unpacked"
    root.mkdir()
    attributes = ("--xattrs", "--xattrs-include=*", "--numeric-owner")
    subprocess.run(["tar", "-C", root, *attributes, "-xpf", tree], check=True)
    report = verify((layout, tree, root))
    assert report.passed(), report


def test_lxc_creates_and_executes(blobs: BlobDirectory, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("lxc-create as root")
    tool("lxc-execute")
    image = made(blobs, "lxc", tmp_path / "out")
    assert image.stat().st_mode & 0o777 == 0o700  # set-id programs of the tree are root's to run
    place, empty = tmp_path / "lxc", tmp_path / "empty.conf"
    place.mkdir()
    empty.write_text("lxc.net.0.type = empty\n")
    pair = ("--metadata", image / "meta.tar.xz", "--fstree", image / "rootfs.tar.xz")
    run("lxc-create", "-P", place, "-n", "one", "-f", empty, "-t", "local", "--", *pair)
    done = subprocess.run(
        ["lxc-execute", "-P", str(place), "-n", "one"], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == SAID, done.stderr
    assert verify((image,)).passed()
    own: list[str | Path] = [
        "-f",
        image / "config",
        "-s",
        f"lxc.rootfs.path=dir:{image / 'rootfs'}",
    ]
    done = ended("lxc-execute", "-P", place, "-n", "two", *own)
    assert (done.stdout, done.returncode) == SAID, done.stderr
    # lxc-start gives 0 whatever the program gives, and takes no words with blanks from a config
    words = ("--", *START)
    done = ended("lxc-start", "-F", "-P", place, "-n", "three", *own, *words)
    assert done.stdout.replace("\r\n", "\n") == SAID[0], done.stderr


def ended(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    """A program that ended by itself, however."""
    words = [str(word) for word in argv]
    return subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)


def test_nspawn_runs_the_tree_with_its_settings(blobs: BlobDirectory, tmp_path: Path) -> None:
    """A copy: nspawn writes into the tree (var/log, etc/resolv.conf)."""
    if os.geteuid() != 0:
        pytest.skip("systemd-nspawn as root")
    nspawn = tool("systemd-nspawn")
    odd = emit(replace(odd_image(blobs, ""), format="nspawn"), blobs, tmp_path / "out").path
    layout = emit(odd_image(blobs, ""), blobs, tmp_path / "out").path
    assert verify((layout, odd)).passed()
    (odd / "rootfs/etc/group").write_bytes(b"changed")
    assert any("'etc/group'" in one for one in verify((odd,)).images[0].problems)
    words = ("a b", "it's", 'say "x"', "back\\slash", "", "both ' and \"", "$HOME", "%n;#")
    script = 'read word < /etc/greeting; echo "$word $NAME $PWD"; printf "<%s>" "$@"; exit 7'
    plain = shell_image(blobs, format="nspawn")
    assert plain.app is not None
    environment = (("NAME", "build it's"),)
    program = ("/bin/sh", "-c", script, "sh", *words)
    app = replace(plain.app, exec=program, user="0", environment=environment)
    image = emit(replace(plain, app=app), blobs, tmp_path / "shell").path
    assert image.stat().st_mode & 0o777 == 0o700  # set-id programs of the tree are root's to run
    copy = tmp_path / "copy"
    run("cp", "-a", image, copy)
    flags = ("-q", "--register=no", "--keep-unit", "--console=pipe")
    done = ended(nspawn, *flags, "-D", copy / "rootfs")
    said = "synced build it's /tmp\n" + "".join(f"<{word}>" for word in words)
    assert (done.stdout, done.returncode) == (said, 7), done.stderr


@pytest.mark.parametrize("named", [None, "SIGQUIT"])
def test_nspawn_passes_the_signal_on(
    named: str | None, blobs: BlobDirectory, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("systemd-nspawn as root")
    plain = shell_image(blobs, format="nspawn")
    assert plain.app is not None
    script = (
        "trap 'echo term; exit 5' TERM; trap 'echo quit; exit 6' QUIT; echo up; while :; do :; done"
    )
    app = replace(plain.app, exec=("/bin/sh", "-c", script), user="0", stop_signal=named)
    image = emit(replace(plain, app=app), blobs, tmp_path).path
    argv = [tool("systemd-nspawn"), "-q", "--register=no", "--keep-unit", "--console=pipe"]
    process = subprocess.Popen(
        [*argv, "-D", image / "rootfs"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.terminate()
        said, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert (said, process.returncode) == (("quit\n", 6) if named else ("term\n", 5))


@pytest.mark.parametrize("codec", ["zstd", "gzip", "xz", "none"])
def test_the_kernel_and_unsquashfs_see_the_tree(
    codec: str, blobs: BlobDirectory, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting and unpacking with owners need root")
    unsquashfs = tool("unsquashfs")
    wanted = odd_image(blobs, "")
    image = emit(replace(wanted, format="squashfs", compress=codec), blobs, tmp_path / "out").path
    tree = emit(replace(wanted, format="rootfs", compress=""), blobs, tmp_path / "out").path
    run(unsquashfs, "-quiet", "-d", tmp_path / "unpacked", image)
    place = tmp_path / "mounted"
    place.mkdir()
    run("mount", "-o", "loop,ro", image, place)
    try:
        report = verify((tree, image, tmp_path / "unpacked", place))
    finally:
        run("umount", place)
    assert report.passed(), report
