"""Styles `go` and `cargo`: offline, of Debian's libraries and of `vendor/`; twice the same bytes.

A language is one container of two programs, in one store: its compiler is half a gigabyte. Rust is
built where all is tried, with `BUILDIT_TEST_WHOLE=1`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.debian_in_images import run_in
from tests.integration.compare import first_difference
from tests.integration.seeds import Seed
from tests.integration.world import archive, sha256, write
from tests.scale import WHOLE

pytestmark = pytest.mark.sandbox

CONTAINER = """\
- vars: {name: tongue, version: 1}
- package: {atom: misc/ours}
- package: {atom: misc/vendored}
- image: {type: oci}
"""
GO = {
    "go.mod": "module example.org/NAME\n\ngo 1.19\n\nrequire github.com/rivo/uniseg v0.4.2\n",
    "main.go": """\
package main

import (
	"example.org/NAME/inner"
	"github.com/rivo/uniseg"
)

func main() { println(inner.Text, uniseg.GraphemeClusterCount("good day")) }
""",
    "inner/inner.go": 'package inner\n\nconst Text = "signs:"\n',
}
GO_VENDORED = {
    "modules.txt": "# github.com/rivo/uniseg v0.4.2\n## explicit; go 1.18\n"
    "github.com/rivo/uniseg\n",
    "github.com/rivo/uniseg/count.go": "package uniseg\n\n"
    "func GraphemeClusterCount(text string) int { return 1000 + len(text) }\n",
}
RUST = {
    "Cargo.toml": '[package]\nname = "NAME"\nversion = "1.0.0"\nedition = "2021"\n\n'
    '[dependencies]\nitoa = "1"\n',
    "src/main.rs": "fn main() { let mut b = itoa::Buffer::new(); "
    'println!("{} of {}", b.format(42u64), file!()); }\n',
}
RUST_VENDORED = {
    "itoa/.cargo-checksum.json": '{"files": {}}',
    "itoa/Cargo.toml": '[package]\nname = "itoa"\nversion = "1.0.9"\n',
    "itoa/src/lib.rs": "pub struct Buffer; impl Buffer { pub fn new() -> Self { Buffer } "
    'pub fn format(&mut self, n: u64) -> String { format!("vendored {n}") } }\n',
}

LANGUAGES = [
    pytest.param(
        "go",
        ("debian:golang-go", "debian:golang-github-rivo-uniseg-dev"),
        GO,
        GO_VENDORED,
        ("signs: 8\n", "signs: 1008\n"),
        id="go",
    ),
    pytest.param(
        "cargo",
        ("debian:cargo", "debian:librust-itoa-dev"),
        RUST,
        RUST_VENDORED,
        ("42 of src/main.rs\n", "vendored 42 of src/main.rs\n"),
        id="rust",
    ),
]


def recipe(style: str, depends: str, sources: dict[str, bytes]) -> str:
    listed = "".join(
        f"      - {{url: https://example.org/{name}.tar.gz, sha256: {sha256(data)}, "
        f"directory: {'vendor' if name == 'libraries' else '.'}}}\n"
        for name, data in sources.items()
    )
    return (
        f"description: A program\nlicense: MIT\nversions:\n  1.0:\n    sources:\n{listed}"
        f"depends: {{build: [{depends}]}}\nstyle: {style}\n"
    )


def project(
    seed: Seed, top: Path, style: str, tools: tuple[str, str], files: dict[str, str], vendor: bytes
) -> Path:
    """A program `ours` of Debian's library, the second of `tools`, and one that is `vendored`."""
    ours, vendored = (
        archive(f"{name}-1", {path: text.replace("NAME", name) for path, text in files.items()})
        for name in ("ours", "vendored")
    )
    with_vendor = {"vendored": vendored, "libraries": vendor}
    write(
        top,
        {
            ".buildit-config.yaml": f"trees: [{seed.project.root}/tree, ./tree]\n"
            "repositories: []\n",
            "tree/misc/ours/pkg.yaml": recipe(style, ", ".join(tools), {"ours": ours}),
            "tree/misc/vendored/pkg.yaml": recipe(style, tools[0], with_vendor),
            "box/container.yaml": CONTAINER,
            "box/buildit.lock": seed.lock,
        },
    )
    distfiles = top / "box/distfiles"
    distfiles.mkdir()
    for file in seed.distfiles.iterdir():
        (distfiles / file.name).symlink_to(file)
    for name, data in (("ours", ours), *with_vendor.items()):
        (distfiles / f"{name}.tar.gz").write_bytes(data)
    return top / "box"


@pytest.mark.parametrize(
    ("style", "tools", "files", "vendor", "printed"), LANGUAGES if WHOLE else LANGUAGES[:1]
)
def test_offline_and_twice_the_same_bytes(
    seed: Seed,
    here: Path,
    style: str,
    tools: tuple[str, str],
    files: dict[str, str],
    vendor: dict[str, str],
    printed: tuple[str, str],
) -> None:
    """The second time by one job, in other work directories, nothing of the first at hand."""
    box = project(seed, here, style, tools, files, archive("vendor", vendor))
    program = seed.program.with_store(seed.new_store(here))
    for jobs in ("2", "1"):
        done = program.run(str(box), "--output", str(here / jobs), "--jobs", jobs).good()
        assert all(f"misc/{name}-1.0: built in" in done.err for name in ("ours", "vendored"))
        for said in program.store.glob("k/*/*/local.json"):
            if b'"name":"misc/' in said.read_bytes():
                shutil.rmtree(said.parent)
    assert first_difference(here / "2", here / "1") is None
    (image,) = (here / "1").iterdir()
    for name, text in zip(("ours", "vendored"), printed, strict=True):
        ran = run_in(image, here / name, [f"/usr/bin/{name}"])
        assert ran.stdout + ran.stderr == text
