from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from buildit.archive.beneath import Root
from buildit.make.capture.elf import machine_of
from buildit.make.package import Stripping, put_lists, restore_modes, strip_argv, to_strip
from buildit.model.config import Limits
from buildit.model.platform import PLATFORMS

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a compiler"),
]

SOURCE = "int answer(void) { return 42; }\nint main(void) { return answer() - 42; }\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with symbols and debug information, by the names that gcc gave them."""
    place = tmp_path_factory.mktemp("made")
    (place / "x.c").write_text(SOURCE)
    gcc(place, "-o", "pie", "x.c")
    gcc(place, "-no-pie", "-o", "fixed", "x.c")
    gcc(place, "-static", "-o", "static", "x.c")
    gcc(place, "-shared", "-fPIC", "-o", "lib.so", "x.c")
    gcc(place, "-c", "-o", "x.o", "x.c")
    subprocess.run(["ar", "rcU", "lib.a", "x.o"], cwd=place, check=True)
    (place / "bpf.o").write_bytes((place / "x.o").read_bytes())
    with (place / "bpf.o").open("r+b") as stream:
        stream.seek(18)
        stream.write(b"\xf7\0")
    return place


def gcc(place: Path, *words: str) -> None:
    subprocess.run(["gcc", "-g", "-O1", *words], cwd=place, check=True)


def put(dest: Path, source: Path, path: str, mode: int = 0o755, more: bytes = b"") -> Path:
    target = dest / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes() + more)
    target.chmod(mode)
    return target


def stripped(dest: Path, scratch: Path) -> Stripping:
    """Strip a tree as a build does, with the command moved to where the test may write."""
    with Root.open(dest) as root:
        found = to_strip(root, machine_of(PLATFORMS["linux/amd64"]), Limits())
        put_lists(found, scratch)
        argv = [
            word.replace("/build/out", str(dest))
            .replace("/input", str(scratch))
            .replace("/build/home", str(scratch))
            for word in strip_argv(found)
        ]
        subprocess.run(argv, check=True, cwd="/")
        restore_modes(root, found)
    return found


def sections(path: Path) -> str:
    done = subprocess.run(["readelf", "-SW", str(path)], capture_output=True, text=True, check=True)
    return done.stdout


def test_each_kind_loses_what_it_may(tmp_path: Path, made: Path) -> None:
    dest = tmp_path / "out"
    for name in ("pie", "fixed", "static"):
        put(dest, made / name, f"usr/bin/{name}")
    library = put(dest, made / "lib.so", "usr/lib/libx.so.1.2", 0o644)
    archive = put(dest, made / "lib.a", "usr/lib/libx.a", 0o644)
    stripped(dest, tmp_path / "scratch")
    for name in ("pie", "fixed", "static"):
        assert ".symtab" not in sections(dest / "usr/bin" / name)
        assert ".debug_info" not in sections(dest / "usr/bin" / name)
        assert subprocess.run([dest / "usr/bin" / name], check=False).returncode == 0
    assert ".dynsym" in sections(library)
    assert ".symtab" not in sections(library)
    assert ".comment" not in sections(library)
    assert ".symtab" in sections(archive)
    assert ".debug_info" not in sections(archive)
    member = archive.read_bytes()[8 + 60 :]
    assert b"0           0     0" in member[:200], "no time and no owner in its members"
    (tmp_path / "y.c").write_text("int answer(void); int main(void) { return answer() - 42; }\n")
    # an archive that has a main of its own would hide this one: take the function alone
    subprocess.run(["gcc", "-c", "y.c"], cwd=tmp_path, check=True)
    gcc(tmp_path, "-o", "y", "y.o", "-Wl,--allow-multiple-definition", str(archive))
    assert subprocess.run([tmp_path / "y"], check=False).returncode == 0


def test_what_is_left_alone(tmp_path: Path, made: Path) -> None:
    dest = tmp_path / "out"
    alone = [
        put(dest, made / "x.o", "usr/lib/crt9.o"),
        put(dest, made / "bpf.o", "usr/lib/bpf/x.o"),
        put(dest, made / "pie", "usr/bin/self-extracting", more=b"PAYLOAD" * 99),
        put(dest, made / "pie", "usr/lib/debug/usr/bin/x"),
        put(dest, made / "pie", "usr/share/data", 0o644),
        put(dest, made / "lib.a", "usr/lib/go.a", 0o644),
        put(dest, made / "x.c", "usr/bin/script"),
    ]
    before = [path.read_bytes() for path in alone]
    found = stripped(dest, tmp_path / "scratch")
    assert not found.files
    assert [path.read_bytes() for path in alone] == before


def test_modes_links_and_names_stay(tmp_path: Path, made: Path) -> None:
    dest = tmp_path / "out"
    modes = {"suid": 0o4755, "read-only": 0o555, "shut": 0o111, "a b'\n": 0o700, "group": 0o2755}
    for name, mode in modes.items():
        put(dest, made / "pie", f"usr/bin/{name}", mode)
    put(dest, made / "x.c", "usr/bin/text", 0o111)
    os.link(dest / "usr/bin/suid", dest / "usr/bin/zz")
    os.symlink("suid", dest / "usr/bin/link")
    (dest / "usr/bin").chmod(0o555)
    size = (made / "pie").stat().st_size
    found = stripped(dest, tmp_path / "scratch")
    assert len(found.files["program"]) == len(modes)
    for name, mode in {**modes, "text": 0o111, ".": 0o555}.items():
        status = (dest / "usr/bin" / name).stat()
        assert stat.S_IMODE(status.st_mode) == mode, name
        assert name in ("text", ".") or status.st_size < size, name
    assert (dest / "usr/bin/suid").stat().st_nlink == 2
    assert (dest / "usr/bin/link").is_symlink()
    (dest / "usr/bin").chmod(0o755)


def test_the_same_bytes_every_time(tmp_path: Path, made: Path) -> None:
    results = []
    for number in range(2):
        dest = tmp_path / str(number)
        put(dest, made / "lib.a", "usr/lib/libx.a")
        put(dest, made / "pie", "usr/bin/x")
        os.utime(dest / "usr/lib/libx.a", (number, number))
        stripped(dest, tmp_path / f"scratch{number}")
        results.append([(dest / path).read_bytes() for path in ("usr/lib/libx.a", "usr/bin/x")])
    assert results[0] == results[1]


def test_no_strip_is_said(tmp_path: Path, made: Path) -> None:
    put(tmp_path, made / "pie", "usr/bin/x")
    with Root.open(tmp_path) as root:
        argv = strip_argv(to_strip(root, machine_of(PLATFORMS["linux/amd64"]), Limits()))
    done = subprocess.run(
        ["/bin/sh", *argv[1:]], env={"PATH": "/nowhere"}, capture_output=True, check=False
    )
    assert done.returncode == 127
