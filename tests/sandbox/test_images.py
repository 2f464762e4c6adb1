"""Emitted images read and run by tools that are not ours: skopeo, umoci, podman with runc, tar."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.digest import digest_bytes
from buildit.image.verify import verify
from buildit.model.image import App, Image, LayerKind, Port
from buildit.model.tree import Entry, Kind
from tests import appc
from tests.engines import podman
from tests.unit.image.samples import BlobDirectory, directory, emit, file, hard, link, nginx_layers
from tests.unit.image.samples import image as sample

pytestmark = pytest.mark.sandbox

SECONDS = 120
CODECS = ("none", "gzip", "zstd")


def tool(name: str) -> str:
    """The program, or a skip that says what is missing."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed (apt-get install {name})")
    return found


def run(*argv: str | Path) -> str:
    done = subprocess.run(
        [str(word) for word in argv], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


@pytest.fixture
def blobs(tmp_path: Path) -> BlobDirectory:
    root = tmp_path / "blobs"
    root.mkdir()
    return BlobDirectory(root)


def libraries(program: Path) -> list[tuple[Path, str]]:
    """What the dynamic linker says that the program loads: host path, path in the image."""
    found = []
    for line in run("ldd", program).splitlines():
        words = [word for word in line.split() if word.startswith("/")]
        if words:
            found.append((Path(words[0]).resolve(), words[0].lstrip("/")))
    return found


def shell_image(blobs: BlobDirectory, **more: object) -> Image:
    """An image that runs the host's dash: its program, its libraries, a layout and a sync."""
    dash = Path("/usr/bin/dash")
    if not dash.exists():
        pytest.skip("dash is not installed (apt-get install dash)")
    merged = {name: f"usr/{name}" for name in ("bin", "lib", "lib64")}
    layout = blobs.layer(
        "sys-apps/baselayout-1",
        [
            *(link(name, target) for name, target in merged.items()),
            *(directory(name) for name in ("dev", "etc", "proc", "sys", "usr", *merged.values())),
            directory("tmp", 0o1777),
            file("etc/passwd", b"root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n"),
            file("etc/group", b"root:x:0:\nuser:x:1000:\n"),
            file("etc/greeting", b"hello\n"),
        ],
    )
    needed = {"usr/bin/dash": dash.read_bytes()}
    for host, path in libraries(dash):
        needed[path if path.startswith("usr/") else f"usr/{path}"] = host.read_bytes()
    shell = blobs.layer(
        "app-shells/dash-0.5",
        [
            *(file(path, content, 0o755) for path, content in needed.items()),
            hard("usr/bin/sh", "usr/bin/dash", 0o755),
        ],
    )
    step = blobs.layer("sync", [file("etc/greeting", b"synced\n", 0o640)], LayerKind.STEP)
    whole = Image(
        name="shell",
        version="1.0-p1",
        os="linux",
        arch=os.uname().machine,
        layers=(layout, shell, step),
        epoch=1_700_000_000,
        format="oci",
        app=App(
            ("/bin/sh", "-c", 'read word < /etc/greeting; echo "$word $NAME $PWD"; exit 7'),
            user="1000",
            group="0",
            environment=(("NAME", "buildit"),),
            working_directory="/tmp",
            ports=(Port(80),),
        ),
    )
    return replace(whole, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", CODECS)
def test_podman_runs_the_image(codec: str, blobs: BlobDirectory, tmp_path: Path) -> None:
    layout = emit(shell_image(blobs, compress=codec), blobs, tmp_path / "out").path
    with podman() as program:
        done = program.run(f"oci:{layout}:1.0-p1")
    assert (done.stdout, done.returncode) == ("synced buildit /tmp\n", 7), done.stderr


def odd_image(blobs: BlobDirectory, codec: str) -> Image:
    """All that a tree may hold: odd names, attributes, hard links across layers, sticky modes."""
    package = blobs.layer(
        "p", [directory("d"), file("d/a", b"old"), hard("d/b", "d/a"), hard("d/c", "d/a")]
    )
    setuid = blobs.layer("q", [directory("q"), file("q/su", b"su", 0o4755, uid=7, gid=2_200_000)])
    step = blobs.layer("s", [file("d/a", b"new")], LayerKind.STEP)
    layers = (*nginx_layers(blobs), package, setuid, step)
    return sample(layers, "oci", compress=codec)


@pytest.mark.parametrize("codec", CODECS)
def test_skopeo_reads_and_copies_every_blob(
    codec: str, blobs: BlobDirectory, tmp_path: Path
) -> None:
    skopeo = tool("skopeo")
    emission = emit(odd_image(blobs, codec), blobs, tmp_path / "out")
    source = f"oci:{emission.path}:1.22.1-p1"
    seen = json.loads(run(skopeo, "inspect", source))
    assert seen["Digest"] == emission.identifier
    assert seen["Created"] == "2023-11-14T22:13:20Z"
    assert (seen["Os"], seen["Architecture"]) == ("linux", "amd64")
    config = json.loads(run(skopeo, "inspect", "--config", source))
    assert config["config"]["Entrypoint"][0] == "/usr/sbin/nginx"
    copy = tmp_path / "copy"
    run(skopeo, "copy", "--insecure-policy", "--preserve-digests", source, f"oci:{copy}:x")
    assert verify((emission.path, copy)).passed()


@pytest.mark.parametrize("codec", ["none", "gzip"])  # umoci 0.4.7 reads no zstd
def test_umoci_unpacks_the_tree_that_verify_saw(
    codec: str, blobs: BlobDirectory, tmp_path: Path
) -> None:
    umoci = tool("umoci")
    if os.geteuid() != 0:
        pytest.skip("unpacking with owners needs root")
    emission = emit(odd_image(blobs, codec), blobs, tmp_path / "out")
    bundle = tmp_path / "bundle"
    run(umoci, "unpack", "--image", f"{emission.path}:1.22.1-p1", bundle)
    report = verify((emission.path, bundle / "rootfs"))
    assert report.differences == ()
    assert report.passed()


def test_gnu_tar_unpacks_the_same_tree_from_the_aci(blobs: BlobDirectory, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("unpacking with owners needs root")
    whole = odd_image(blobs, "none")
    oci = emit(whole, blobs, tmp_path / "out").path
    aci = emit(replace(whole, format="aci"), blobs, tmp_path / "out").path
    assert appc.problems(aci) == []
    root = tmp_path / "unpacked"
    root.mkdir()
    attributes = ("--xattrs", "--xattrs-include=*")
    run("tar", "-C", root, "--numeric-owner", *attributes, "-xpf", aci)
    report = verify((aci, oci, root / "rootfs"))
    assert report.differences == ()
    assert report.passed()


def test_gzip_itself_reads_the_aci(blobs: BlobDirectory, tmp_path: Path) -> None:
    aci = emit(sample(nginx_layers(blobs), "aci"), blobs, tmp_path).path
    run("gzip", "--test", "--suffix", ".aci", aci)


def test_the_bytes_do_not_depend_on_the_process(blobs: BlobDirectory, tmp_path: Path) -> None:
    """Another umask, zone, locale, hash seed and directory; layers listed from fresh blobs."""
    whole = odd_image(blobs, "gzip")
    here = [
        emit(replace(whole, format=form), blobs, tmp_path / "here").identifier
        for form in ("oci", "aci")
    ]
    (tmp_path / "there").mkdir()
    program = (
        "import os, sys; os.umask(0o077)\n"
        "from pathlib import Path\n"
        "from dataclasses import replace\n"
        "from tests.unit.image.samples import emit\n"
        "from tests.sandbox.test_images import BlobDirectory, odd_image\n"
        "blobs = BlobDirectory(Path(sys.argv[1])); whole = odd_image(blobs, 'gzip')\n"
        "for form in ('oci', 'aci'):\n"
        "    print(emit(replace(whole, format=form), blobs, Path('out')).identifier)\n"
    )
    repository = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, str(blobs.root)],
        cwd=tmp_path / "there",
        env={
            "PYTHONPATH": str(repository),
            "PYTHONHASHSEED": "77",
            "TZ": "Asia/Tokyo",
            "LC_ALL": "C",
            "PATH": os.environ["PATH"],
        },
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.stdout.split() == here, done.stderr


def test_a_tree_of_another_digest_is_not_the_same(blobs: BlobDirectory, tmp_path: Path) -> None:
    whole = odd_image(blobs, "none")
    changed = blobs.layer("x", [file("d/a", b"now")], LayerKind.STEP)
    oci = emit(whole, blobs, tmp_path / "out").path
    aci = emit(
        replace(whole, layers=(*whole.layers, changed), format="aci"), blobs, tmp_path / "out"
    ).path
    report = verify((oci, aci))
    entry = Entry("d/a", Kind.FILE, 0o644, digest=digest_bytes(b"now"))
    assert [entry.path in line for line in report.differences] == [True]
