"""Images in one file: the same tree as the layout's, named as each client reads it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.errors import RecipeError
from buildit.image.formats.table import format_of
from buildit.image.output import emitted_files
from buildit.image.verify import verify
from buildit.model.image import App, Port
from tests.unit.image.samples import BlobDirectory, emit, image, nginx_layers

pytestmark = pytest.mark.unit

EVERY = (
    ("oci", ""),
    ("oci-archive", ""),
    ("oci-archive", "gzip"),
    ("oci-archive", "zstd"),
    ("docker-archive", ""),
    ("rootfs", ""),
    ("rootfs", "gzip"),
    ("rootfs", "zstd"),
    ("lxc", ""),
    ("nspawn", ""),
    ("squashfs", ""),
    ("squashfs", "gzip"),
    ("squashfs", "xz"),
    ("squashfs", "none"),
    ("aci", ""),
)

PARTS = {"lxc": ("meta.tar.xz", "rootfs.tar.xz"), "nspawn": ("rootfs.nspawn", "rootfs.tar")}
"""What the digest of an image that is a directory is of."""


def test_all_formats_hold_one_tree(blobs: BlobDirectory, tmp_path: Path) -> None:
    paths = []
    for number, (form, compress) in enumerate(EVERY):
        wanted = replace(image(nginx_layers(blobs), form), compress=compress)
        paths.append(emit(wanted, blobs, tmp_path / str(number)).path)
    report = verify(paths)
    assert report.passed(), (report.differences, [one.problems for one in report.images])
    assert [one.format for one in report.images] == [form for form, _ in EVERY]


@pytest.mark.parametrize(("form", "compress"), EVERY)
def test_the_same_image_gives_the_same_bytes(
    form: str, compress: str, blobs: BlobDirectory, tmp_path: Path
) -> None:
    wanted = replace(image(nginx_layers(blobs), form), compress=compress)
    first, second = (emit(wanted, blobs, tmp_path / name) for name in "ab")
    assert replace(first, path=second.path) == second
    if form in PARTS:
        own = [one.name for one in emitted_files(first.path)]
        assert own == sorted(own)
        names = PARTS[form]
        assert {*own} == {*names, "config"} if form == "lxc" else {*own} == {*names}
        tree = (first.path / "rootfs").is_dir()
        assert tree == (os.geteuid() == 0)
        assert tree != any("only root can lay down" in one for one in first.notices)
        pair = [b"".join((one.path / n).read_bytes() for n in names) for one in (first, second)]
        assert pair[0] == pair[1]
        assert first.digest == hashlib.sha256(pair[0]).hexdigest()
    if first.path.is_file():
        content = first.path.read_bytes()
        assert content == second.path.read_bytes()
        assert first.digest == hashlib.sha256(content).hexdigest()
        assert first.path.stat().st_mode & 0o777 == 0o644
    assert sorted(p.name for p in first.path.parent.iterdir()) == [first.path.name]


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar if one.isfile()}  # type: ignore[union-attr]


def test_docker_reads_name_config_and_layers(blobs: BlobDirectory, tmp_path: Path) -> None:
    written = emit(image(nginx_layers(blobs), "docker-archive"), blobs, tmp_path)
    found = members(written.path)
    [described] = json.loads(found["manifest.json"])
    assert described["RepoTags"] == ["localhost/nginx-production:1.22.1-p1"]
    config = found[described["Config"]]
    assert written.identifier == f"sha256:{hashlib.sha256(config).hexdigest()}"
    diff_ids = [f"sha256:{hashlib.sha256(found[one]).hexdigest()}" for one in described["Layers"]]
    assert json.loads(config)["rootfs"]["diff_ids"] == diff_ids


def test_an_archive_is_called_by_its_whole_name(blobs: BlobDirectory, tmp_path: Path) -> None:
    """`podman load` takes `ref.name` for it, containerd its own annotation."""
    archive = emit(image(nginx_layers(blobs), "oci-archive"), blobs, tmp_path / "a")
    layout = emit(image(nginx_layers(blobs), "oci"), blobs, tmp_path / "b")
    [described] = json.loads(members(archive.path)["index.json"])["manifests"]
    name = "localhost/nginx-production:1.22.1-p1"
    assert set(described["annotations"].values()) == {name}
    assert archive.identifier == layout.identifier == described["digest"]


def test_file_names(blobs: BlobDirectory, tmp_path: Path) -> None:
    layers = nginx_layers(blobs)
    names = {
        emit(replace(image(layers, form), compress=codec), blobs, tmp_path / form / codec).path.name
        for form, codec in EVERY
    }
    ends = (
        "oci",
        "oci.tar",
        "docker.tar",
        "rootfs.tar",
        "rootfs.tar.gz",
        "rootfs.tar.zst",
        "lxc",
        "nspawn",
        "squashfs",
        "aci",
    )
    assert {name.partition("amd64.")[2] for name in names} == set(ends)


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        ("docker-archive", {"compress": "gzip"}, "docker load takes plain layers"),
        ("rootfs", {"content": "{}"}, "no manifest that `content` could be"),
        ("nspawn", {"content": "{}"}, "no manifest that `content` could be"),
        ("nspawn", {"app": App(("/bin/a", "b\nUser=root"))}, r"cannot hold 'b\\nUser=root'"),
        ("nspawn", {"app": App(("/bin/a", "b\\"))}, "before a quote"),
    ],
)
def test_what_a_format_cannot_be(
    form: str, change: dict[str, str], message: str, blobs: BlobDirectory, tmp_path: Path
) -> None:
    wanted = replace(image(nginx_layers(blobs), form), **change)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=message):
        emit(wanted, blobs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def lxc_lines(text: bytes) -> list[str]:
    return [line for line in text.decode().splitlines() if not line.startswith("#")]


def test_lxc_is_told_how_to_start(blobs: BlobDirectory, tmp_path: Path) -> None:
    app = App(
        ("/bin/sh", "-c", 'echo "a\\b"'),
        user="7",
        own_group="8",
        environment=(("A", "b c"),),
        working_directory="/tmp",
        stop_signal="SIGQUIT",
    )
    wanted = replace(image(nginx_layers(blobs), "lxc"), app=app)
    own = lxc_lines((emit(wanted, blobs, tmp_path).path / "config").read_bytes())
    assert {
        r"""lxc.execute.cmd = '"/bin/sh" "-c" 'echo "a\b"''""",
        "lxc.environment = A=b c",
        "lxc.init.uid = 7",
        "lxc.init.gid = 8",
        "lxc.init.cwd = /tmp",
        "lxc.signal.halt = SIGQUIT",
        "lxc.arch = x86_64",
        "lxc.rootfs.path = dir:/var/lib/lxc/nginx-production/rootfs",
    } <= set(own)
    assert not any("lxc.init.cmd" in line for line in own)
    assert [one for one in format_of(wanted).unspoken(wanted) if "lxc-execute" in one]
    both = replace(wanted, app=replace(app, exec=("/bin/echo", "'\"")))
    with pytest.raises(RecipeError, match="both kinds of quotes"):
        emit(both, blobs, tmp_path)
    broken = replace(wanted, app=replace(app, environment=(("A", "b\nlxc.include = /x"),)))
    with pytest.raises(RecipeError, match=r"lxc\.environment cannot hold a line break"):
        emit(broken, blobs, tmp_path)


def changed(path: Path, name: str, content: bytes | None) -> None:
    """Write a tar anew with one member's bytes, or without it."""
    with tarfile.open(path) as tar:
        pairs = [(one, tar.extractfile(one)) for one in tar]
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as new:
            for member, stream in pairs:
                if member.name == name and content is None:
                    continue
                data = content if member.name == name else stream.read() if stream else None
                member.size = len(data or b"")
                new.addfile(member, io.BytesIO(data) if data is not None else None)
    path.write_bytes(out.getvalue())


def test_what_was_changed_is_told(blobs: BlobDirectory, tmp_path: Path) -> None:
    layers = nginx_layers(blobs)
    docker = emit(image(layers, "docker-archive"), blobs, tmp_path).path
    whole, found = docker.read_bytes(), members(docker)
    [described] = json.loads(found["manifest.json"])
    layer, config = described["Layers"][0], described["Config"]

    def problems(path: Path) -> str:
        return " / ".join(verify([path]).images[0].problems)

    changed(docker, layer, found[described["Layers"][1]])
    assert "layer 0 is not of its diff_id" in problems(docker)
    docker.write_bytes(whole)
    changed(docker, layer, None)
    assert f"layer 0: {layer} cannot be read: No such file" in problems(docker)
    docker.write_bytes(whole)
    changed(docker, config, found[config] + b" ")
    assert "the config is not of the digest that names it" in problems(docker)
    for content in (b"[]", b"{}", b"[1]", b'[{"Config": 1}]', b"[", b"[" * 100_000):
        docker.write_bytes(whole)
        changed(docker, "manifest.json", content)
        assert "manifest.json" in problems(docker)
    docker.write_bytes(whole[:-4000])
    assert "truncated" in problems(docker)

    archive = emit(image(layers, "oci-archive"), blobs, tmp_path).path
    blob = max(members(archive).items(), key=lambda pair: len(pair[1]))[0]
    changed(archive, blob, None)
    assert "cannot be read" in problems(archive)

    tree = emit(replace(image(layers, "rootfs"), compress="gzip"), blobs, tmp_path).path
    tree.write_bytes(gzip.compress(gzip.decompress(tree.read_bytes())[:-700]))
    assert "it has no end mark" in problems(tree)


def test_nspawn_is_told_how_to_start(blobs: BlobDirectory, tmp_path: Path) -> None:
    app = App(
        exec=("/bin/sh", "-c", 'it\'s "one"'),
        user="www-data",
        group="adm",
        own_group="www-data",
        environment=(("A", "b c"),),
        working_directory="/tmp",
        ports=(Port(80), Port(53, "udp")),
        stop_signal="SIGQUIT",
    )
    wanted = replace(image(nginx_layers(blobs), "nspawn"), app=app)
    made = emit(wanted, blobs, tmp_path)
    assert (made.path / "rootfs.nspawn").read_text().splitlines()[1:] == [
        "[Exec]",
        "ProcessTwo=no",
        """Parameters='/bin/sh' '-c' 'it'"'"'s "one"'""",
        "Environment='A=b c'",
        "User=www-data",
        "WorkingDirectory=/tmp",
        "KillSignal=SIGQUIT",
    ]
    assert any("`getent`, which is not in it" in one for one in made.notices)
    assert list(format_of(wanted).unspoken(wanted)) == [
        "the nspawn image runs with www-data's own groups: nspawn can name no other",
        "the nspawn image publishes no port by itself: --network-veth --port=tcp:80 --port=udp:53",
    ]
