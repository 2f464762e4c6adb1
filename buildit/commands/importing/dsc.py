"""`import NAME_VERSION.dsc`: a container directory that builds the Debian source in exactly this
version, with a place for patches on top of Debian's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from buildit.commands.importing.directory import (
    ImportedContainer,
    check_free,
    new_container,
    planned_container,
)
from buildit.commands.run import Downloads, Options, opened
from buildit.debian.dsc import SourceControl, read_dsc
from buildit.debian.sources import SourceCandidate
from buildit.errors import IntegrityError, UnsatisfiableError
from buildit.events import Reporter
from buildit.model.recipe import CONTAINER_FILE
from buildit.recipe.config import load_config
from buildit.recipe.trees import PACKAGE_FILE
from buildit.recipe.yaml.node import read_text, shown_place
from buildit.recipe.yaml.write import Remarked, YamlData, yaml_text

RELEASES: Mapping[str, tuple[str, ...]] = {
    "toolchain/debian-12": ("bookworm", "bookworm-updates", "bookworm-security"),
    "toolchain/debian-13": ("trixie", "trixie-updates", "trixie-security"),
}
"""Whose source packages can be built, by the toolchain that they are built with."""
_BESIDE = ("-dev", "-doc", "-dbg", "-dbgsym", "-udeb")
_LARGEST = 4 << 20


def import_dsc(
    path: Path, options: Options, images: tuple[str, ...], output: Path | None, report: Reporter
) -> ImportedContainer:
    """The container directory of a .dsc.

    Raises:
        RecipeError: it is no .dsc.
        UnsatisfiableError: no suite has the source in this version.
        IntegrityError: the archive's has other files.
        UsageError: the directory is there.
        FetchError, StoreError: the archive cannot be asked, the directory cannot be written.
    """
    shown = shown_place(path)
    control = read_dsc(read_text(path, shown, _LARGEST), shown)
    target = output or Path(control.name)
    check_free(target)
    config = load_config(options.directory).config
    with opened(config, options, report) as run:
        toolchain, source = _in_archive(control, run.downloads, shown)
    made = tuple(one.name for one in source.packages if one.kind == "deb") or control.binaries
    texts = _texts(path.name, control, toolchain, made, images or ("oci",))
    with new_container(target, texts, shown) as directory:
        (directory / "pkgs" / control.name / "patches").mkdir()
        remarks = planned_container(directory, options, report)
        files = sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())
    return ImportedContainer(target, tuple(files), remarks)


def _in_archive(
    control: SourceControl, downloads: Downloads, place: str
) -> tuple[str, SourceCandidate]:
    """The source package in the archive that has the files of a .dsc, and its toolchain.

    Raises:
        UnsatisfiableError: no suite has this version.
        IntegrityError: it has other files.
    """
    others: list[str] = []
    for toolchain, suites in RELEASES.items():
        with downloads.debian().open_sources(suites) as sources:
            found = sources.offered(control.name)
        for one in found:
            if one.version != control.version:
                others.append(f"{one.version} ({one.suite})")
                continue
            listed = {file.name: file.digest for file in one.files}
            wrong = [name for name, d in control.files.items() if listed.get(name) != d]
            if wrong:
                message = f"the archive's {one.name} {one.version} has another {wrong[0]}"
                hint = f"what is built is the archive's: compare, or write base: {one.place}"
                raise IntegrityError(message, place=place, hint=hint)
            return toolchain, one
    message = f"no suite of the apt sources has {control.name} {control.version}"
    there = ", ".join(dict.fromkeys(others))
    hint = f"there is {there}" if there else "name a mirror that has it in the apt sources"
    raise UnsatisfiableError(message, place=place, hint=hint)


def _texts(
    file: str,
    control: SourceControl,
    toolchain: str,
    made: tuple[str, ...],
    images: tuple[str, ...],
) -> dict[str, str]:
    """The files of the container directory."""
    taken = _taken(control, made)
    left = [one for one in made if one not in taken]
    step: dict[str, YamlData] = {"type": "embedded", "path": f"./pkgs/{control.name}"}
    step["packages"] = [*taken]
    told = (f"It makes as well: {', '.join(left)}.",) if left else ()
    version = control.version.partition(":")[2] or control.version
    steps: list[YamlData] = [
        {"vars": {"name": control.name, "version": version}},
        Remarked(told, {"package": step}) if told else {"package": step},
        Remarked(("- entrypoint: [/usr/bin/PROGRAM]",)),
        *({"image": {"type": one}} for one in images),
    ]
    package: dict[str, YamlData] = {
        "base": f"debian:{control.name}={control.version}",
        "toolchain": toolchain,
    }
    hints = Remarked(
        (
            "On top of Debian's own patches, in order:",
            "patches:",
            "  patches/NAME.patch: What it does",
            "Build profiles and options of debian/rules, and switches of the configure step:",
            "use: {without: [doc]}",
            "configure: [--disable-…]",
        )
    )
    head = f"What `buildit import {file}` wrote"
    return {
        CONTAINER_FILE: yaml_text(Remarked((f"{head}; buildit.lock has every file.",), steps)),
        f"pkgs/{control.name}/{PACKAGE_FILE}": yaml_text(
            Remarked((f"{head}.",), {**package, "": hints})
        ),
    }


def _taken(control: SourceControl, made: tuple[str, ...]) -> tuple[str, ...]:
    """What the image takes: the package of the source's name, else all but headers and manuals."""
    if control.name in made:
        return (control.name,)
    usual = tuple(one for one in made if not one.endswith(_BESIDE))
    return usual or made
