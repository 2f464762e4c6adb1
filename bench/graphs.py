"""The same synthetic graph for each builder, as text: package i needs 2i+1 and 2i+2. Pure.

`salt` makes each round's packages new, so that nothing of an earlier round can be reused.
"""

from __future__ import annotations

from collections.abc import Mapping

SYSTEM = "x86_64-linux"


def needs(number: int, count: int) -> tuple[int, ...]:
    """The packages that package `number` of `count` is built with."""
    return tuple(n for n in (2 * number + 1, 2 * number + 2) if n < count)


def name(number: int) -> str:
    return f"p{number:04d}"


def recipes(count: int, salt: str) -> dict[str, str]:
    """pkg.yaml of each package by its path in a tree; each installs one small file."""
    return {f"bench/{name(i)}/pkg.yaml": _recipe(i, count, salt) for i in range(count)}


def _recipe(number: int, count: int, salt: str) -> str:
    depends = [f"    - bench/{name(n)}" for n in needs(number, count)]
    lines = [f"description: Package {number}", "versions:", "  1.0: {}", "style: custom"]
    if depends:
        lines += ["depends:", "  build:", *depends]
    lines += [
        "steps:",
        "  install: |",
        '    mkdir -p "$DESTDIR/usr/share/bench"',
        f'    echo "{salt}" > "$DESTDIR/usr/share/bench/{name(number)}"',
    ]
    return "\n".join(lines) + "\n"


def container(title: str, atoms: tuple[str, ...], steps: str = "", image: str = "oci") -> str:
    """container.yaml that takes packages of a tree, further steps, and emits one image."""
    packages = "".join(f"- package: {{atom: {atom}}}\n" for atom in atoms)
    return (
        f"- vars: {{author: Bench, name: {title}, version: '1'}}\n"
        f"{packages}{steps}- image: {{type: {image}}}\n"
    )


def config(store: str, binhost: str) -> str:
    """.buildit-config.yaml: its own store and tree, and a binhost to take from where given."""
    lines = [f"store: {store}", "jobs: 2", "trees: [./pkgs]"]
    if binhost:
        lines += ["repository:", "  name: earlier", "  download-type: file"]
        lines += [f"  download-path: {binhost}", "  unsigned: on"]
    return "\n".join(lines) + "\n"


def nix(count: int, salt: str) -> str:
    """The graph as raw derivations: no nixpkgs, no fetching, one shell each."""
    lines = ["let", f'  system = "{SYSTEM}";']
    lines.append(
        "  make = name: needs: derivation { inherit name system needs; "
        f'builder = "/bin/sh"; args = [ "-c" "echo {salt} > $out" ]; }};'
    )
    for i in range(count):
        inner = " ".join(name(n) for n in needs(i, count))
        lines.append(f'  {name(i)} = make "{name(i)}" [ {inner} ];')
    lines.append(f"in {name(0)}")
    return "\n".join(lines) + "\n"


def make(count: int) -> str:
    """The graph as a makefile of stamp files."""
    rules = [f"all: {name(0)}.done"]
    for i in range(count):
        inner = " ".join(f"{name(n)}.done" for n in needs(i, count))
        rules.append(f"{name(i)}.done: {name(i)}.in {inner}\n\techo built > $@")
    return "\n".join(rules) + "\n"


def ninja(count: int) -> str:
    """The graph as a ninja file of stamp files."""
    rules = ["rule build\n  command = echo built > $out"]
    for i in range(count):
        inner = " ".join(f"{name(n)}.done" for n in needs(i, count))
        rules.append(f"build {name(i)}.done: build {name(i)}.in {inner}")
    return "\n".join(rules) + f"\ndefault {name(0)}.done\n"


def inputs(count: int) -> Mapping[str, str]:
    """The input files that make and ninja look at."""
    return {f"{name(i)}.in": f"{i}\n" for i in range(count)}


def data_recipe(number: int, size: int, piece: int) -> str:
    """A package of real, badly compressible bytes: `size` bytes of the compiler in files of
    `piece` bytes, each package from another place."""
    return "\n".join(
        (
            f"description: Data {number}",
            "versions:",
            "  1.0: {}",
            "style: custom",
            "steps:",
            "  install: |",
            f'    mkdir -p "$DESTDIR/usr/share/blob{number:03d}"',
            f'    cd "$DESTDIR/usr/share/blob{number:03d}"',
            "    cc1=$(gcc -print-prog-name=cc1)",
            f"    for part in $(seq 1 {max(1, size // COMPILER)}); do",
            f'      tail -c +$(({number + 2} * 20011 + part)) "$cc1"',
            f"    done | head -c {size} | split -a 4 -b {piece} - f",
            "",
        )
    )


COMPILER = 20 << 20
"""Bytes of cc1 that there are at least after the place where a package begins."""


def everything(atoms: tuple[str, ...]) -> str:
    """A package that brings others into the image."""
    lines = ["description: All", "versions:", "  1.0: {}", "style: custom", "depends:", "  run:"]
    lines += [f"    - {atom}" for atom in atoms]
    lines += ["steps:", "  install: |", '    mkdir -p "$DESTDIR/usr/share/data"']
    lines += ['    echo all > "$DESTDIR/usr/share/data/all"']
    return "\n".join(lines) + "\n"
