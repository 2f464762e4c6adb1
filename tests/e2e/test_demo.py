"""The demo: the same bytes from two builds, and images with exactly what they should hold."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pytest
import yaml

from tests import appc
from tests.e2e.demo import NAME, TAG, Demo
from tests.integration.compare import content, digests, first_difference, tree
from tests.integration.program import CHECKOUT

pytestmark = pytest.mark.e2e

LIBRARIES = "usr/lib/x86_64-linux-gnu"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def test_screen_reads_as_the_transcript(demo: Demo) -> None:
    """Progress on stderr, and nothing but the images' paths on stdout."""
    lines = demo.done.err.splitlines()
    assert lines[0] == "Building Sysadmin42/nginx-production-1.22.1-p1"
    assert lines[1] == "Processing package from './pkgs/nginx' for linux/amd64."
    assert re.fullmatch(f"HASH: {UUID}", lines[2])
    assert [line for line in lines if line.startswith("Packaging")] == [
        "Packaging nginx-production-1.22.1-p1 as ACI...   [OK]",
        "Packaging nginx-production-1.22.1-p1 as OCI...   [OK]",
    ]
    assert demo.done.images() == [demo.aci, demo.oci]
    if "built in" in demo.done.err:
        assert "Can't find HASH in any known location..." in lines
        assert "Defaulting to local build...   [OK]" in lines


def test_lock_that_was_written_holds(demo: Demo) -> None:
    done = demo.program.run(str(demo.box), "--output", str(demo.out), "--locked").good()
    assert done.images() == [demo.aci, demo.oci]


def test_two_builds_are_bit_identical(demo: Demo, second: Demo) -> None:
    for name in ("dev-libs/openssl", "dev-libs/pcre2", "sys-libs/zlib", "www-servers/nginx"):
        assert re.search(rf"{name}-\S+: built in", second.done.err), f"{name} was not built"
    assert first_difference(demo.out, second.out) is None
    assert demo.done.err.splitlines()[2] == second.done.err.splitlines()[2]
    locks = [(one.box / "buildit.lock").read_text() for one in (demo, second)]
    assert locks[0] == locks[1], "the lock changed, outputs included"
    assert {path.lstat().st_uid for path in second.out.rglob("*")} == {65534}


def test_nothing_to_do_replays(demo: Demo) -> None:
    before = digests(demo.out)
    done = demo.program.run(str(demo.box), "--output", str(demo.out)).good()
    assert "built in" not in done.err
    assert done.images() == [demo.aci, demo.oci]
    assert digests(demo.out) == before


def test_verify_says_that_both_hold_one_tree(demo: Demo) -> None:
    done = demo.program.run("verify", str(demo.aci), str(demo.oci)).good()
    roots = set(re.findall(r"[0-9a-f]{64}", done.out))
    assert len(roots) == 1, done.out


def test_verify_sees_one_changed_byte(demo: Demo, here: Path) -> None:
    copy = here / demo.oci.name
    subprocess.run(["cp", "-r", str(demo.oci), str(copy)], check=True)
    blob = max((copy / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[len(data) // 3] ^= 4
    blob.write_bytes(data)
    done = demo.program.run("verify", str(copy))
    assert done.code == 5
    assert "is not of the digest" in f"{done.out}{done.err}"
    assert demo.program.run("verify", str(demo.aci), str(copy)).code == 5


def test_aci_meets_the_specification(demo: Demo) -> None:
    assert appc.problems(demo.aci) == []


def test_skopeo_and_umoci_read_the_layout(demo: Demo, here: Path) -> None:
    source = f"oci:{demo.oci}:{TAG}"
    inspected = subprocess.run(
        ["skopeo", "inspect", source], capture_output=True, text=True, check=True
    )
    seen = json.loads(inspected.stdout)
    assert (seen["Os"], seen["Architecture"]) == ("linux", "amd64")
    bundle = here / "bundle"
    argv = ["umoci", "unpack", "--image", f"{demo.oci}:{TAG}", str(bundle)]
    subprocess.run(argv, capture_output=True, check=True)
    root = bundle / "rootfs"
    for path, entry in tree(demo.oci).items():
        found = root / path
        assert found.is_symlink() == entry.issym(), path
        if entry.isreg():
            assert (found.stat().st_size, found.stat().st_mode & 0o7777) == (
                entry.size,
                entry.mode,
            ), path


def test_image_holds_exactly_what_it_should(demo: Demo) -> None:
    entries = tree(demo.oci)
    files = {path for path, entry in entries.items() if not entry.isdir()}
    programs = {
        path
        for path in files
        if entries[path].isreg() and entries[path].mode & 0o111 and ".so" not in path
    }
    assert programs == {"usr/sbin/nginx"}
    libraries = {
        path.removeprefix(f"{LIBRARIES}/").partition(".so")[0]
        for path in files
        if path.startswith(LIBRARIES) and "/gconv/" not in path
    }
    own = {"libcrypto", "libssl", "libpcre2-8", "libz"}
    debian = {"libcrypt", "libgcc_s", "ld-linux-x86-64"}
    glibc = set(debs_files(demo, "libc6"))
    rest = {name for name in libraries - own - debian if f"{LIBRARIES}/{name}" not in glibc}
    rest = {name for name in rest if not any(f"/{name}.so" in path for path in glibc)}
    assert own | debian <= libraries
    assert rest == set(), "libraries that nobody needs"
    for path in files:
        assert not re.search(r"\.(a|la|h|pc|cmake)$|/man/|/info/|/locale/|/include/", path), path
        assert not path.startswith(("usr/lib/gcc", "usr/lib/debug", "usr/src")), path
    assert {path for path in files if path.startswith("usr/share/doc/")} >= {
        "usr/share/doc/libc6/copyright",
        "usr/share/doc/libcrypt1/copyright",
    }
    synced = ("etc/nginx/nginx.conf", "srv/www/index.html", "etc/nginx/tls/README")
    for path in synced:
        assert entries[path].mode == 0o644


def test_the_image_is_below_twelve_megabytes(demo: Demo) -> None:
    unpacked = sum(entry.size for entry in tree(demo.oci).values() if entry.isreg())
    stored = sum(path.stat().st_size for path in (demo.oci / "blobs/sha256").iterdir())
    assert max(unpacked, stored) < 12e6


def test_accounts_and_modes(demo: Demo) -> None:
    passwd = content(demo.oci, "etc/passwd").decode()
    assert "nginx:x:101:101:nginx:/var/lib/nginx:/usr/sbin/nologin\n" in passwd
    assert passwd.startswith("root:x:0:0:")
    entries = tree(demo.oci)
    assert entries["tmp"].mode == 0o1777
    assert {(entry.uid, entry.gid) for entry in entries.values()} == {(0, 0)}
    assert not [path for path, entry in entries.items() if entry.mode & 0o6000]


def debs_files(demo: Demo, name: str) -> dict[str, str]:
    """SHA-256 of the regular files of a locked .deb, by path under merged /usr.

    Read by dpkg-deb, which shares no code with us.
    """
    blob = demo.program.store / "blobs/sha256" / demo.debs()[name]
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    packed = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", str(blob)], capture_output=True, check=True
    ).stdout
    found = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        for member in tar:
            if member.isreg():
                stream = tar.extractfile(member)
                assert stream is not None
                path = re.sub(r"^\./(lib|lib64|bin|sbin)/", r"usr/\1/", member.name)
                digest = hashlib.sha256(stream.read()).hexdigest()
                found[path.removeprefix("./")] = digest
    return found


def in_a_slice_that_is_off(name: str, path: str) -> bool:
    """Whether the table of the tree leaves a path of a .deb out by default."""
    table = yaml.safe_load((CHECKOUT / "pkgs/debian/slices.yaml").read_text())["packages"]

    def fits(globs: Sequence[str]) -> bool:
        return any(PurePosixPath(path).match(glob) for glob in globs)

    slices = [one for one in table.get(name, {}).values() if one["default"] is False]
    return any(fits(one["paths"]) and not fits(one.get("but", ())) for one in slices)


@pytest.mark.parametrize("name", ["libc6", "libgcc-s1", "libcrypt1"])
def test_files_of_debian_are_those_of_the_locked_deb(demo: Demo, name: str) -> None:
    theirs = debs_files(demo, name)
    entries = tree(demo.oci)
    ours = {path for path in theirs if path in entries and entries[path].isreg()}
    assert any(".so" in path for path in ours)
    for path in sorted(ours):
        assert hashlib.sha256(content(demo.oci, path)).hexdigest() == theirs[path], path
    left_out = {path for path in set(theirs) - ours if ".so" in path}
    sliced = {path for path in theirs if ".so" in path and in_a_slice_that_is_off(name, path)}
    assert left_out == sliced, "libraries of the .deb that are missing"


def test_names_of_the_images(demo: Demo) -> None:
    assert sorted(path.name for path in demo.out.iterdir()) == [f"{NAME}.aci", f"{NAME}.oci"]
