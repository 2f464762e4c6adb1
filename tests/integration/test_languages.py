"""Styles `go` and `cargo`: offline, of Debian's libraries or of `vendor/`; twice the same bytes."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.integration.seeds import Seed
from tests.integration.world import archive, sha256, write

CONTAINER = """\
- vars: {{name: tongue, version: 1}}
- package: {{atom: misc/{name}}}
- app: {{exec: [/usr/bin/{name}]}}
- image: {{type: oci}}
"""
TOML = """\
description: A TOML validator, of Debian's mirror
license: MIT
versions:
  1.2.0:
    sources:
      - url: mirror://debian/pool/main/g/golang-toml/golang-toml_1.2.0.orig.tar.xz
        sha256: 6d2c4df3fafa85b6d1437f1963dcd8a72e49cd167ed46fe950b309ca13ed3b50
depends: {build: [debian:golang-go]}
style: go
configure: [./cmd/tomlv]
"""
GO = {
    "go.mod": "module example.org/keys\n\ngo 1.19\n\nrequire github.com/BurntSushi/toml v1.0.0\n",
    "main.go": """\
package main

import (
	"fmt"
	"example.org/keys/inner"
	"github.com/BurntSushi/toml"
)

func main() {
	var found map[string]any
	if _, err := toml.Decode(inner.Text, &found); err != nil { panic(err) }
	fmt.Println("greeting:", found["greeting"])
}
""",
    "inner/inner.go": 'package inner\n\nconst Text = "greeting = \\"good day\\""\n',
}
VENDORED = {
    "modules.txt": "# github.com/BurntSushi/toml v1.0.0\n## explicit\ngithub.com/BurntSushi/toml\n",
    "github.com/BurntSushi/toml/toml.go": """\
package toml

func Decode(text string, into *map[string]any) (int, error) {
	*into = map[string]any{"greeting": "vendored"}
	return 0, nil
}
""",
}
RUST = {
    "Cargo.toml": '[package]\nname = "digits"\nversion = "1.0.0"\nedition = "2021"\n\n'
    '[dependencies]\nitoa = "1"\n',
    "src/main.rs": "fn main() { let mut b = itoa::Buffer::new(); "
    'println!("{} of {}", b.format(42u64), file!()); }\n',
}
CRATE = {
    ".cargo-checksum.json": '{"files": {}}',
    "Cargo.toml": '[package]\nname = "itoa"\nversion = "1.0.9"\n',
    "src/lib.rs": "pub struct Buffer; impl Buffer { pub fn new() -> Self { Buffer } "
    'pub fn format(&mut self, n: u64) -> String { format!("vendored {n}") } }\n',
}


def recipe(name: str, style: str, depends: str, *archives: tuple[str, str, bytes]) -> str:
    listed = "".join(
        f"      - {{url: https://example.org/{file}, sha256: {sha256(data)}, directory: {into}}}\n"
        for file, into, data in archives
    )
    return (
        f"description: {name}\nlicense: MIT\nversions:\n  1.0:\n    sources:\n{listed}"
        f"depends: {{build: [{depends}]}}\nstyle: {style}\n"
    )


def ran(seed: Seed, here: Path, name: str, text: str, **archives: bytes) -> bytes:
    """Build it twice, in two places, by more jobs and by one; what the program prints."""
    digests, image = [], here
    for turn in ("first", "second"):
        top = here / turn
        write(
            top,
            {
                ".buildit-config.yaml": f"trees: [{seed.project.root}/tree, ./tree]\n"
                "repositories: []\n",
                f"tree/misc/{name}/pkg.yaml": text,
                "box/container.yaml": CONTAINER.format(name=name),
            },
        )
        box = top / "box"
        (box / "distfiles").mkdir()
        for file in seed.distfiles.iterdir():
            (box / "distfiles" / file.name).symlink_to(file)
        for stem, data in archives.items():
            (box / "distfiles" / f"{stem}.tar.gz").write_bytes(data)
        lock = here / "first/box/buildit.lock"
        (box / "buildit.lock").write_text(lock.read_text() if lock.exists() else seed.lock)
        program = seed.program.with_store(seed.new_store(top))
        if turn == "second":
            program = program.started_by("taskset", "1")
        program.run(str(box), "--output", str(top / "out"), timeout=1500).good()
        (image,) = (top / "out").iterdir()
        digests.append((image / "index.json").read_bytes())
    assert digests[0] == digests[1]
    subprocess.run(
        ["umoci", "unpack", "--rootless", "--image", f"{image}:1", str(here / "root")],
        check=True,
        capture_output=True,
    )
    jail = ["bwrap", "--unshare-all", "--bind", str(here / "root/rootfs"), "/", f"/usr/bin/{name}"]
    done = subprocess.run(jail, capture_output=True, check=False)
    return done.stdout + done.stderr


def test_a_go_program_of_debians_mirror(seed: Seed, here: Path) -> None:
    assert b"tomlv toml-file" in ran(seed, here, "tomlv", TOML)


def test_go_with_debians_libraries(seed: Seed, here: Path) -> None:
    source = archive("keys-1", GO)
    depends = "debian:golang-go, debian:golang-github-burntsushi-toml-dev"
    text = recipe("keys", "go", depends, ("keys.tar.gz", ".", source))
    assert ran(seed, here, "keys", text, keys=source) == b"greeting: good day\n"


def test_go_with_a_vendor_archive(seed: Seed, here: Path) -> None:
    source, vendor = archive("keys-1", GO), archive("vendor", VENDORED)
    files = ("keys.tar.gz", ".", source), ("vendor.tar.gz", "vendor", vendor)
    text = recipe("keys", "go", "debian:golang-go", *files)
    assert ran(seed, here, "keys", text, keys=source, vendor=vendor) == b"greeting: vendored\n"


def test_rust_with_debians_libraries(seed: Seed, here: Path) -> None:
    source = archive("digits-1", RUST)
    text = recipe(
        "digits", "cargo", "debian:cargo, debian:librust-itoa-dev", ("digits.tar.gz", ".", source)
    )
    assert ran(seed, here, "digits", text, digits=source) == b"42 of src/main.rs\n"


def test_rust_with_a_vendor_archive(seed: Seed, here: Path) -> None:
    source, vendor = (
        archive("digits-1", RUST),
        archive("vendor", {f"itoa/{p}": t for p, t in CRATE.items()}),
    )
    files = ("digits.tar.gz", ".", source), ("vendor.tar.gz", "vendor", vendor)
    text = recipe("digits", "cargo", "debian:cargo", *files)
    printed = ran(seed, here, "digits", text, digits=source, vendor=vendor)
    assert printed == b"vendored 42 of src/main.rs\n"
