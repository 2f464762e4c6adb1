"""Random stacks of layers, as the kernel's overlayfs, umoci and GNU tar see them.

Layers of packages leave directories out or give them other attributes, layers of steps repeat
what lies below. What we emit must be one tree to all of them, and what `verify` says of any stack
(whiteouts included) must be what the kernel and umoci make of it.

    BUILDIT_STACKS=2000 pytest tests/sandbox/test_layer_stacks.py
"""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.digest import digest_bytes
from buildit.errors import RecipeError
from buildit.image.formats.oci import LayerPlace, write_layers
from buildit.image.merge import MergedTree, Overlay, merge, with_parents
from buildit.image.reading import SeenTree, read_directory, read_entries
from buildit.image.verify import verify
from buildit.model.image import Layer, LayerKind
from buildit.model.tree import Entry, Kind, sort_key
from tests.unit.image.samples import EPOCH, BlobDirectory, emit
from tests.unit.image.samples import image as sample

pytestmark = pytest.mark.sandbox

STACKS = int(os.environ.get("BUILDIT_STACKS", "30"))
NAMES = ("a", "b", "c")
MODES = (0o755, 0o755, 0o700, 0o1777, 0o2775)
OWNERS = ((0, 0), (0, 0), (7, 8))
Files = list[tuple[Entry, bytes]]


@pytest.fixture(autouse=True)
def _as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting an overlay and unpacking with owners needs root")


def commit() -> str:
    """Another sample for each commit, the same one for each run of it."""
    argv = ("git", "-C", str(Path(__file__).parents[2]), "rev-parse", "HEAD")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def randomly(word: str) -> Iterator[random.Random]:
    for number in range(STACKS):
        yield random.Random(f"{word} {number} {commit() if STACKS < 1000 else ''}")


def node(chance: random.Random, path: str, files: Sequence[str]) -> tuple[Entry, bytes]:
    uid, gid = chance.choice(OWNERS)
    entry = Entry(path, Kind.FILE, 0o644, EPOCH + chance.randrange(3), uid, gid)
    match chance.choice("ddddfflh"):
        case "d":
            return replace(entry, kind=Kind.DIRECTORY, mode=chance.choice(MODES)), b""
        case "l":
            return replace(entry, kind=Kind.SYMLINK, mode=0o777, target=chance.choice(NAMES)), b""
        case "h" if files:
            return replace(entry, kind=Kind.HARDLINK, target=chance.choice(files)), b""
    content = chance.choice((b"", b"1", b"22"))
    return replace(entry, size=len(content), digest=digest_bytes(content)), content


def nodes(chance: random.Random) -> Files:
    """The entries of one layer; some of the directories above are left out."""
    made: dict[str, tuple[Entry, bytes]] = {}
    for _ in range(chance.randrange(1, 6)):
        path = "/".join(chance.choice(NAMES) for _ in range(chance.randrange(1, 4)))
        above = ["/".join(path.split("/")[:n]) for n in range(1, path.count("/") + 1)]
        beneath = any(each.startswith(f"{path}/") for each in made)
        if any(made[p][0].kind is not Kind.DIRECTORY for p in above if p in made):
            continue
        files = [p for p, (e, _) in made.items() if e.kind is Kind.FILE and p < path]
        found = node(chance, path, files)
        if found[0].kind is not Kind.DIRECTORY and beneath:
            continue
        if found[0].kind is Kind.HARDLINK:  # of one inode
            like = made[found[0].target][0]
            found = (
                replace(like, path=path, kind=Kind.HARDLINK, target=like.path, size=0, digest=None),
                b"",
            )
        made.setdefault(path, found)
    return [pair for pair in made.values() if _whole(pair[0], made)]


def _whole(entry: Entry, made: dict[str, tuple[Entry, bytes]]) -> bool:
    return entry.kind is not Kind.HARDLINK or made[entry.target][0].kind is Kind.FILE


def stack(chance: random.Random, blobs: BlobDirectory) -> list[tuple[Layer, list[Entry]]]:
    """Layers that merge without a clash: of packages and of steps."""
    overlay = Overlay(merged=MergedTree(5))
    made: list[tuple[Layer, list[Entry]]] = []
    for number in range(chance.randrange(2, 7)):
        kind = chance.choice((LayerKind.PACKAGE, LayerKind.STEP))
        found = nodes(chance)
        contents = {entry.path: content for entry, content in found}
        entries = [entry for entry, _ in found]
        if kind is LayerKind.STEP:
            new = Entry("", Kind.DIRECTORY, 0o755, mtime=5)
            try:
                entries = list(with_parents(entries, overlay.entries(), new))
            except RecipeError:
                continue
        pairs = [(entry, contents.get(entry.path, b"")) for entry in entries]
        layer = blobs.layer(f"{kind} {number}", pairs, kind)
        layers = [*(each for each, _ in made), layer]
        try:
            merge(layers, [*(each for _, each in made), entries], EPOCH)
        except RecipeError:
            continue
        overlay.lay(layer, entries)
        made.append((layer, entries))
    return made


@contextmanager
def overlaid(layers: Sequence[Path], root: Path) -> Iterator[Path]:
    """The kernel's view of unpacked layers, bottom first."""
    if len(layers) == 1:
        yield layers[0]
        return
    target = root / "mount"
    target.mkdir()
    lower = ":".join(str(path) for path in reversed(layers))
    subprocess.run(
        ["mount", "-t", "overlay", "-o", f"ro,lowerdir={lower}", "overlay", target], check=True
    )
    try:
        yield target
    finally:
        subprocess.run(["umount", target], check=True)


def unpacked(tar: Path, target: Path) -> Path:
    """One layer, unpacked by GNU tar."""
    target.mkdir(exist_ok=True)
    subprocess.run(["tar", "-C", target, "--numeric-owner", "-xpf", tar], check=True)
    return target


def told(entries: Sequence[Entry] | None) -> dict[str, object]:
    """What `stat` says of each path; hard links by the first name of their inode."""
    assert entries is not None
    return {
        e.path: (e.kind, f"{e.mode:o}", e.uid, e.gid, e.mtime, e.target, e.digest) for e in entries
    }


def test_what_is_emitted_is_one_tree_to_all(tmp_path: Path) -> None:
    for number, chance in enumerate(randomly("ours")):
        root = tmp_path / str(number)
        (root / "blobs").mkdir(parents=True)
        blobs = BlobDirectory(root / "blobs")
        made = stack(chance, blobs)
        if not made:
            continue
        layers = tuple(layer for layer, _ in made)
        listings = [sorted(entries, key=sort_key) for _, entries in made]
        rootfs = merge(layers, listings, EPOCH)
        whole = Entry("", Kind.DIRECTORY, 0o755, mtime=EPOCH)
        wanted = told((whole, *(member.entry for member in rootfs.members())))
        (root / "oci").mkdir()
        budget = chance.choice((100, 2, 3))
        written = write_layers(rootfs, EPOCH, LayerPlace(blobs, root / "oci", "none"), budget)
        tree = SeenTree()
        for each in written:
            with (root / "oci" / each.digest).open("rb") as stream:
                tree.lay([entry for entry, _ in read_entries(stream, "layer")])
        places = [
            unpacked(root / "oci" / each.digest, root / f"layer-{n}")
            for n, each in enumerate(written)
        ]
        with overlaid(places, root) as mount:
            shown = told(read_directory(mount).entries)
        assert shown == wanted, number
        assert told(tree.entries()) == wanted, number
        assert tree.problems == [], number
        together = root / "together"
        for each in written:
            unpacked(root / "oci" / each.digest, together)
        assert {p: d for p, d in told(read_directory(together).entries).items() if _leaf(d)} == {
            p: d for p, d in wanted.items() if _leaf(d)
        }, number  # GNU tar does not set a directory's time back when it adds to it
        shutil.rmtree(root)


def _leaf(details: object) -> bool:
    return isinstance(details, tuple) and details[0] is not Kind.DIRECTORY


def test_both_formats_and_umoci_hold_that_tree(tmp_path: Path) -> None:
    if shutil.which("umoci") is None:
        pytest.skip("umoci is not installed (apt-get install umoci)")
    for number, chance in enumerate(randomly("ours")):
        if number >= STACKS // 5:
            break
        root = tmp_path / str(number)
        (root / "blobs").mkdir(parents=True)
        blobs = BlobDirectory(root / "blobs")
        made = stack(chance, blobs)
        if not made:
            continue
        whole = sample(tuple(layer for layer, _ in made), "oci", app=None)
        oci = emit(whole, blobs, root).path
        aci = emit(replace(whole, format="aci"), blobs, root).path
        bundle = root / "bundle"
        argv = ["umoci", "unpack", "--image", f"{oci}:1.22.1-p1", str(bundle)]
        subprocess.run(argv, check=True, capture_output=True)
        unpacked(aci, root / "aci")
        report = verify((aci, oci, bundle / "rootfs", root / "aci/rootfs"))
        assert report.passed(), (number, report)


# -- foreign stacks: what `verify` says of them is what the kernel and umoci show


def foreign(chance: random.Random) -> list[Files]:
    layers = []
    for _ in range(chance.randrange(2, 5)):
        layer = nodes(chance)
        paths = {entry.path for entry, _ in layer}
        paths |= {path[:at] for path in paths for at, c in enumerate(path) if c == "/"}
        for _ in range(chance.randrange(3)):
            above = "/".join(chance.choice(NAMES) for _ in range(chance.randrange(2)))
            name = chance.choice((".wh..wh..opq", *(f".wh.{name}" for name in NAMES)))
            gone = f"{above}/{name[4:]}".lstrip("/")
            leaf = [e.path for e, _ in layer if e.kind is not Kind.DIRECTORY]
            if gone in paths or any(above == p or above.startswith(f"{p}/") for p in leaf):
                continue
            path = f"{above}/{name}".lstrip("/")
            if path == ".wh..wh..opq" or f".wh.{above}" in paths:
                continue  # the kernel has no opaque root, and nothing lies in what is deleted
            layer.append((Entry(path, Kind.FILE, 0o644, EPOCH, digest=digest_bytes(b"")), b""))
            paths |= {path, above}
        layers.append(list({entry.path: (entry, content) for entry, content in layer}.values()))
    return layers


def as_overlay(layer: Files, target: Path) -> Path:
    """A layer as podman and docker lay it out; a directory without an entry has time 0."""
    target.mkdir(mode=0o755)
    own = {entry.path for entry, _ in layer}
    entries = sorted(layer, key=lambda pair: pair[0].path)
    directories = [e for e, _ in entries if e.kind is Kind.DIRECTORY]
    for entry, content in entries:
        path = target / entry.path
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        name = path.name
        if name == ".wh..wh..opq":
            os.setxattr(path.parent, "trusted.overlay.opaque", b"y")
        elif name.startswith(".wh."):
            os.mknod(path.with_name(name[4:]), 0o020000, 0)
        elif entry.kind is Kind.DIRECTORY:
            path.mkdir(exist_ok=True)
        elif entry.kind is Kind.SYMLINK:
            path.symlink_to(entry.target)
        elif entry.kind is Kind.HARDLINK:
            path.hardlink_to(target / entry.target)
            continue
        else:
            path.write_bytes(content)
        if not name.startswith(".wh.") and entry.kind is not Kind.DIRECTORY:
            _dressed(path, entry)
    for path in sorted(target.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink() and str(path.relative_to(target)) not in own:
            os.utime(path, (0, 0))
    for entry in reversed(directories):
        _dressed(target / entry.path, entry)
    os.utime(target, (0, 0))
    return target


def listed(mount: Path) -> list[Entry]:
    """All nodes; a whiteout of nothing is a name that is listed, and nothing is there."""
    found: list[Entry] = []
    inodes: dict[int, str] = {}
    for path in (mount, *sorted(mount.rglob("*"), key=lambda each: each.relative_to(mount).parts)):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        name = "" if path == mount else str(path.relative_to(mount))
        entry = Entry(
            name,
            Kind.DIRECTORY,
            status.st_mode & 0o7777,
            int(status.st_mtime),
            status.st_uid,
            status.st_gid,
        )
        if path.is_symlink():
            entry = replace(entry, kind=Kind.SYMLINK, target=str(path.readlink()))
        elif not path.is_dir():
            first = inodes.setdefault(status.st_ino, name)
            entry = (
                replace(entry, kind=Kind.FILE, digest=digest_bytes(path.read_bytes()))
                if first == name
                else replace(entry, kind=Kind.HARDLINK, target=first)
            )
        found.append(entry)
    return found


def _dressed(path: Path, entry: Entry) -> None:
    os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
    if entry.kind is not Kind.SYMLINK:
        path.chmod(entry.mode)
    os.utime(path, (entry.mtime, entry.mtime), follow_symlinks=False)


def test_verify_sees_any_stack_as_the_kernel_does(tmp_path: Path) -> None:
    differing = 0
    for number, chance in enumerate(randomly("foreign")):
        root = tmp_path / str(number)
        root.mkdir()
        layers = foreign(chance)
        tree = SeenTree()
        for layer in layers:
            tree.lay([entry for entry, _ in layer])
        entries = tree.entries()
        places = [as_overlay(layer, root / f"layer-{n}") for n, layer in enumerate(layers)]
        with overlaid(places, root) as mount:
            shown = told(listed(mount))
        paths = tree.merged.tree.keys() | tree.merged.stated.keys()
        directories = [entry for path in paths if (entry := tree.shown(path)) is not None]
        view = told([*directories, *(each for each in entries if each.kind is not Kind.DIRECTORY)])
        assert view == shown, (number, layers)
        differing += bool(tree.problems)
        shutil.rmtree(root)
    assert differing  # such stacks are met


def test_what_umoci_unpacks_otherwise_than_an_overlay_is_a_problem(tmp_path: Path) -> None:
    """Where `verify` finds no problem in a stack, umoci leaves the tree that the kernel shows."""
    if shutil.which("umoci") is None:
        pytest.skip("umoci is not installed (apt-get install umoci)")
    asked = 0
    for number, chance in enumerate(randomly("foreign")):
        layers = foreign(chance)
        tree = SeenTree()
        for layer in layers:
            tree.lay([entry for entry, _ in layer])
        entries = tree.entries()
        if tree.problems or asked >= max(3, STACKS // 10):
            continue
        asked += 1
        root = tmp_path / str(number)
        root.mkdir()
        image_of(layers, root)
        argv = ["umoci", "unpack", "--image", f"{root / 'oci'}:x", str(root / "bundle")]
        subprocess.run(argv, check=True, capture_output=True)
        for entry in entries:
            if entry.path and not entry.mtime:  # of no layer: the time of unpacking
                os.utime(root / "bundle/rootfs" / entry.path, (0, 0))
        left = told(read_directory(root / "bundle/rootfs").entries)
        assert {**left, "": 0} == {**told(entries), "": 0}, (number, layers)
        shutil.rmtree(root)
    assert asked


def image_of(layers: Sequence[Files], root: Path) -> None:
    """A layout of layers as they are, without whatever our emitters would do."""
    tars = []
    for number, layer in enumerate(layers):
        path = root / f"{number}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for entry, content in sorted(layer, key=lambda pair: pair[0].path):
                tar.addfile(_member(entry, content), io.BytesIO(content))
        tars.append(path)
    subprocess.run(["umoci", "init", "--layout", root / "oci"], check=True, capture_output=True)
    subprocess.run(
        ["umoci", "new", "--image", f"{root / 'oci'}:x"], check=True, capture_output=True
    )
    for path in tars:
        argv = ["umoci", "raw", "add-layer", "--image", f"{root / 'oci'}:x", str(path)]
        subprocess.run(argv, check=True, capture_output=True)


def _member(entry: Entry, content: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(entry.path)
    member.mode, member.mtime, member.size = entry.mode, entry.mtime, len(content)
    member.uid, member.gid, member.linkname = entry.uid, entry.gid, entry.target
    member.type = {
        Kind.FILE: tarfile.REGTYPE,
        Kind.DIRECTORY: tarfile.DIRTYPE,
        Kind.SYMLINK: tarfile.SYMTYPE,
        Kind.HARDLINK: tarfile.LNKTYPE,
    }[entry.kind]
    return member


def test_podman_with_overlay_storage_shows_that_tree(tmp_path: Path) -> None:
    """The whole tree, `stat` included, but for `/`: podman makes that itself."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed (apt-get install podman)")
    (tmp_path / "blobs").mkdir()
    blobs = BlobDirectory(tmp_path / "blobs")
    made = next(found for chance in randomly("ours") if len(found := stack(chance, blobs)) > 2)
    whole = sample(tuple(layer for layer, _ in made), "oci", app=None)
    oci = emit(whole, blobs, tmp_path).path
    rootfs = merge(whole.layers, [entries for _, entries in made], EPOCH)
    wanted = told([member.entry for member in rootfs.members()])
    with tempfile.TemporaryDirectory(prefix="podman-", dir="/tmp") as short:
        own = ("--root", f"{short}/root", "--runroot", f"{short}/run", "--tmpdir", f"{short}/tmp")
        podman = ("podman", *own, "--storage-driver", "overlay", "--runtime", "runc")

        def asked(*words: str) -> str:
            done = subprocess.run([*podman, *words], capture_output=True, text=True, check=True)
            return done.stdout.strip()

        identifier = asked("pull", "--quiet", f"oci:{oci}:1.22.1-p1")
        try:
            shown = told(read_directory(Path(asked("image", "mount", identifier))).entries)
        finally:
            asked("image", "unmount", "--force", identifier)
            asked("rmi", "--all", "--force")
            subprocess.run(["umount", f"{short}/root/overlay"], check=False, capture_output=True)
    assert {**shown, "": 0} == {**wanted, "": 0}
