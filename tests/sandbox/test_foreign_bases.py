"""Bases that umoci made and skopeo pushed to Debian's docker-registry, and what stands over them in
all eight formats, as umoci, GNU tar, unsquashfs and skopeo see it."""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from buildit.cli.images import ls_verb, pull_verb, verify_verb
from buildit.commands.building import build
from buildit.commands.run import Options, read_lock
from buildit.errors import BuilditError, FetchError, IntegrityError
from buildit.events import Event, Notice, Reporter, silent
from buildit.image.verify import read_image, verify
from tests.base_images import Foreign, folder, member, sha, tar
from tests.engines import podman
from tests.planning import PLATFORM, Checkout, checkout
from tests.registries import Served, registry
from tests.sandbox.test_images import run, tool
from tests.sandbox.test_layer_engines import Seen, seen
from tests.sandbox.test_run_steps import programs

pytestmark = pytest.mark.sandbox

FORMATS = ("aci", "oci", "oci-archive", "docker-archive", "rootfs", "lxc", "squashfs", "nspawn")


@dataclass(frozen=True)
class World:
    project: Checkout
    served: Served
    layout: Path

    def write(self, first: str, *steps: str, types: tuple[str, ...] = ("oci",)) -> None:
        images = [f"- image: {{type: {one}}}" for one in types]
        begin = "- vars: {name: web, version: 1.0}"
        text = "\n".join((begin, f"- from: {first}", *steps, *images))
        self.project.write("container/container.yaml", text + "\n")

    def build(self, report: Reporter = silent, **more: Any) -> dict[str, Path]:
        base = Options(self.project.container, self.project.root / "out")
        options = replace(base, **more)
        return {one.format: one.path for one in build(options, report, threading.Event())}

    def forget(self) -> None:
        """As another machine: the files and the lock, and nothing of the store."""
        shutil.rmtree(self.project.root / "store")

    def push(self, tag: str, source: str, *words: str) -> str:
        """The digest under which skopeo left it."""
        to = f"docker://{self.served.host}/base:{tag}"
        copy = (tool("skopeo"), "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false")
        run(*copy, *words, source, to)
        seen = run(tool("skopeo"), "inspect", "--raw", "--tls-verify=false", to)
        return str(json.loads(seen)["config"]["digest"]) if "config" in json.loads(seen) else ""


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers by umoci, and one by GNU tar with an opaque directory over them."""
    if os.geteuid() != 0:
        pytest.skip("devices and owners need root")
    root = tmp_path_factory.mktemp("foreign")
    layout, umoci = root / "layout", tool("umoci")
    run(umoci, "init", "--layout", layout)
    run(umoci, "new", "--image", f"{layout}:1")
    entries, texts = programs()
    first = (
        *(member(path, content, 0o755) for path, content in texts.items()),
        *(folder(one.path) for one in entries if one.path not in texts and not one.target),
    )
    (root / "programs.tar").write_bytes(tar(*first))
    links = [(one.path, one.target) for one in entries if one.target]
    for step in (_first, _second):
        bundle = root / step.__name__
        run(umoci, "unpack", "--image", f"{layout}:1", bundle)
        step(bundle / "rootfs", root / "programs.tar", links)
        run(umoci, "repack", "--image", f"{layout}:1", bundle)
    top = tar(folder("srv"), folder("srv/opaque", 0o750, gid=8), member("srv/opaque/.wh..wh..opq"))
    (root / "top.tar").write_bytes(top)
    run(umoci, "raw", "add-layer", "--image", f"{layout}:1", root / "top.tar")
    return layout


def _first(tree: Path, packed: Path, links: list[tuple[str, str]]) -> None:
    run("tar", "-C", tree, "-xpf", packed)
    for path, target in links:
        (tree / path).symlink_to(target)
    for name in ("srv/d", "srv/opaque/in", "run", "tmp"):
        (tree / name).mkdir(parents=True)
    (tree / "tmp").chmod(0o1777)
    for name, mode in (
        ("a", 0o640),
        ("gone", 0o600),
        ("d/x", 0o644),
        ("su", 0o4755),
        ("sg", 0o2755),
    ):
        (tree / "srv" / name).write_text(name)
        os.chown(tree / "srv" / name, 7, 8)
        (tree / "srv" / name).chmod(mode)
    os.link(tree / "srv/a", tree / "srv/b")
    os.mknod(tree / "srv/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mkfifo(tree / "srv/fifo")


def _second(tree: Path, *_: object) -> None:
    (tree / "srv/gone").unlink()
    (tree / "srv/b").unlink()
    os.link(tree / "srv/a", tree / "srv/c")  # a second name for what lies in the layer below
    shutil.rmtree(tree / "srv/d")
    (tree / "srv/d").write_text("a file now")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with registry(tmp_path_factory.mktemp("registry") / "r", secure=False) as found:
        yield found


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: Served, layout: Path) -> World:
    monkeypatch.setenv("BUILDIT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("HOME", str(tmp_path))
    project = checkout(tmp_path)
    project.write(".buildit-config.yaml", "trees: [./pkgs]\nrepositories: []\n")
    return World(project, served, layout)


DELETING = """- run:
   script: |
     rm /srv/a; rm -r /srv/opaque; mkdir -p /srv/opaque/new; echo 1 > /srv/opaque/new/f
     rm /usr/bin/touch; chmod 0700 /srv/d"""
STEP_WROTE = ("srv/opaque/new/f",)


def test_what_is_deleted_is_gone_in_every_format(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.push("1", f"oci:{world.layout}:1")
    world.write(f"{{oci: 'docker://{world.served.host}/base:1'}}", DELETING, types=FORMATS)
    told: list[Event] = []
    paths = world.build(told.append)
    said = [one.message for one in told if isinstance(one, Notice)]
    assert any("left out" in one and "srv/null" in one and "srv/fifo" in one for one in said)
    assert verify(tuple(paths.values())).passed()
    assert len({names(path) for path in paths.values()}) == 1
    there = f"docker://{world.served.host}/ours:1"
    copy = (tool("skopeo"), "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false")
    run(*copy, f"oci:{paths['oci']}:1.0", there)
    monkeypatch.chdir(tmp_path)
    pulled = CliRunner().invoke(pull_verb, [there, "--output", "pulled"], catch_exceptions=False)
    assert pulled.exit_code == 0, pulled.output
    same = [str(paths["oci"]), *map(str, (tmp_path / "pulled").iterdir())]
    assert "same tree" in CliRunner().invoke(verify_verb, same).output
    shown = CliRunner().invoke(ls_verb, [same[1]], catch_exceptions=False).output
    assert "/srv/su" in shown
    assert "/srv/a\n" not in shown
    run(tool("umoci"), "unpack", "--image", f"{world.layout}:1", tmp_path / "base")
    base = tmp_path / "base/rootfs"
    for name in ("srv/null", "srv/fifo", "srv/a", "usr/bin/touch"):
        (base / name).unlink()
    shutil.rmtree(base / "srv/opaque")
    (base / "srv/opaque/new").mkdir(parents=True)
    (base / "srv/opaque/new/f").write_text("1\n")
    (base / "srv/d").chmod(0o700)
    wanted = without_times(base)
    assert (wanted["srv/su"][1:4], wanted["srv/c"][1:4]) == (("0o4755", 7, 8), ("0o640", 7, 8))
    for form, path in paths.items():
        tree = TREES[form](path, tmp_path / f"tree-{form}")
        assert without_times(tree) == wanted, form


def names(path: Path) -> tuple[str, ...]:
    """As `buildit ls` has them."""
    reading = read_image(path)
    assert reading.problems == ()
    return tuple(one.path for one in reading.entries or () if one.path)


def without_times(root: Path) -> Seen:
    """Those of directories are whose who deletes in them; and what the step wrote is of now."""
    return {
        path: (*details[:4], None, *details[5:])
        if details[0] == "d" or path in STEP_WROTE
        else details
        for path, details in seen(root).items()
    }


def _by_umoci(image: str, place: Path) -> Path:
    run(tool("umoci"), "unpack", "--image", image, place)
    return place / "rootfs"


def _by_skopeo(kind: str) -> Callable[[Path, Path], Path]:
    def laid(path: Path, place: Path) -> Path:
        copy = f"{place}-copy:1"
        run(tool("skopeo"), "copy", "--quiet", "--insecure-policy", f"{kind}:{path}", f"oci:{copy}")
        return _by_umoci(copy, place)

    return laid


def _by_tar(path: Path, place: Path) -> Path:
    place.mkdir()
    run("tar", "-C", place, "--numeric-owner", "-xpf", path)
    return place / "rootfs" if path.suffix == ".aci" else place


def _by_unsquashfs(path: Path, place: Path) -> Path:
    run(tool("unsquashfs"), "-quiet", "-no-progress", "-dest", place, path)
    return place


TREES: dict[str, Callable[[Path, Path], Path]] = {
    "oci": lambda path, place: _by_umoci(f"{path}:1.0", place),
    "oci-archive": _by_skopeo("oci-archive"),
    "docker-archive": _by_skopeo("docker-archive"),
    "rootfs": _by_tar,
    "aci": _by_tar,
    "squashfs": _by_unsquashfs,
    "lxc": lambda path, _: path / "rootfs",
    "nspawn": lambda path, _: path / "rootfs",
}


REBUILT = """\
FROM localhost/first:1
RUN rm /srv/a && rm -r /srv/opaque && mkdir /srv/opaque && touch /srv/opaque/y && chown 7:8 /srv/sg
RUN rm -r /srv/opaque /srv/d && mkdir /srv/d && ln /srv/su /srv/d/su && chmod 6755 /srv/d/su
"""


def test_podman_built_and_pushed_it_and_sees_the_same(world: World, tmp_path: Path) -> None:
    """Deletions as its overlay has them, opaque directories among them, in Docker's media types."""
    (tmp_path / "Containerfile").write_text(REBUILT)
    with podman() as engine:
        engine.load(f"oci:{world.layout}:1", "localhost/first:1")
        build = ("build", "--quiet", "--isolation", "chroot", "--layers")
        run(*engine.argv, *build, "--ulimit", "nofile=1024:1024", "-t", "made:1", tmp_path)
        to = f"docker://{world.served.host}/base:podman"
        run(*engine.argv, "push", "--quiet", "--tls-verify=false", "--format", "v2s2", "made:1", to)
        world.write(f"{{oci: '{to}'}}")
        path = world.build()["oci"]
        engine.load(f"oci:{path}:1.0", "localhost/ours:1")
        trees = [
            without_times(Path(run(*engine.argv, "image", "mount", name).strip()))
            for name in ("localhost/made:1", "localhost/ours:1")
        ]
    wanted, found = ({one: tree[one] for one in tree if one != "srv/null"} for tree in trees)
    wanted.pop("srv/fifo", None)
    assert found == wanted
    assert (found["srv/d/su"][1], found["srv/su"][1]) == ("0o6755", "0o6755")
    assert "srv/opaque" not in found


def test_the_digest_of_the_lock_counts(world: World) -> None:
    first = world.push("moves", f"oci:{world.layout}:1")
    world.write(f"{{oci: 'docker://{world.served.host}/base:moves'}}")
    world.build()
    lock = (world.project.container / "buildit.lock").read_bytes()
    ((_, pinned),) = read_lock(world.project.container).section(str(PLATFORM)).images.items()
    other = Foreign((tar(folder("srv"), member("srv/other", b"x")),), {})
    second = world.push("moves", f"oci:{other.layout(world.project.root / 'other')}")
    assert first != second
    world.forget()
    assert "srv/su" in names(world.build(locked=True)["oci"])
    assert (world.project.container / "buildit.lock").read_bytes() == lock
    assert names(world.build(update=("*",))["oci"]) == ("srv", "srv/other")
    # back at the old lock, whose image is gone from everywhere
    (world.project.container / "buildit.lock").write_bytes(lock)
    world.forget()
    place = "docker/registry/v2/repositories/base/_manifests/revisions/sha256"
    shutil.rmtree(world.served.storage / place / pinned)
    with pytest.raises(FetchError) as error:
        world.build()
    assert "base:moves" in str(error.value)
    assert "container.yaml:2:" in str(error.value.place)
    assert "lock --update" in str(error.value.hint)


def test_a_damaged_layer_leaves_nothing(world: World) -> None:
    image = Foreign((tar(folder("srv"), member("srv/damaged", b"x" * 5000)),), {})
    world.push("damaged", f"oci:{image.layout(world.project.root / 'image')}")
    (layer,) = [name for name, one in image.manifest()[1].items() if one[:2] == b"\x1f\x8b"]
    world.served.put_blob(layer, image.manifest()[1][layer][:-9] + b"x" * 9)  # type: ignore[arg-type]
    world.write(f"{{oci: 'docker://{world.served.host}/base:damaged'}}")
    with pytest.raises(BuilditError) as error:
        world.build()
    assert isinstance(error.value, IntegrityError | FetchError)
    assert layer not in os.listdir(world.project.root / "store/blobs/sha256")


def test_platforms(world: World) -> None:
    images = {arch: Foreign((tar(member(arch, b"x")),), {}, arch) for arch in ("arm64", "amd64")}
    root = world.project.root / "index"
    documents = []
    for arch, one in images.items():
        one.layout(root / arch)
        found = json.loads((root / arch / "index.json").read_text())["manifests"][0]
        documents.append({**found, "platform": {"os": "linux", "architecture": arch}})
        shutil.copytree(root / arch / "blobs", root / "whole/blobs", dirs_exist_ok=True)
    shutil.copy(root / "arm64/oci-layout", root / "whole")
    kind = "application/vnd.oci.image.index.v1+json"
    index = {"schemaVersion": 2, "mediaType": kind, "manifests": documents}
    content = json.dumps(index).encode()
    (root / "whole/blobs/sha256" / sha(content)).write_bytes(content)
    named = {"mediaType": kind, "digest": f"sha256:{sha(content)}", "size": len(content)}
    outer = {"schemaVersion": 2, "manifests": [named]}
    (root / "whole/index.json").write_text(json.dumps(outer))
    world.push("index", f"oci:{root / 'whole'}", "--all")
    world.push("arm", f"oci:{root / 'arm64'}", "--override-arch", "arm64")
    world.write(f"{{oci: 'oci://{world.served.host}/base:index'}}")
    assert names(world.build()["oci"]) == ("amd64",)
    world.write(f"{{oci: 'oci://{world.served.host}/base:arm'}}")
    with pytest.raises(IntegrityError, match="linux/arm64, not for linux/amd64") as error:
        world.build()
    assert "container.yaml:2:" in str(error.value.place)
