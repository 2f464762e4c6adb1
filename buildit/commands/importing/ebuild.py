"""`import NAME-VERSION.ebuild`: a container directory with a tree of one package. The ebuild is
read; nothing of it runs here."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from buildit.commands.choose import shipped_trees
from buildit.commands.importing.directory import (
    ImportedContainer,
    check_free,
    new_container,
    planned_container,
)
from buildit.commands.importing.upstream import DISTFILES, Brought, Upstream, read_promises
from buildit.commands.run import Options, opened
from buildit.errors import RecipeError
from buildit.events import Reporter
from buildit.model.recipe import CONTAINER_FILE
from buildit.recipe.config import CONFIG_FILE, load_config
from buildit.recipe.gentoo import GentooNames, read_gentoo_names
from buildit.recipe.trees import PACKAGE_FILE, Catalog
from buildit.recipe.ways.ebuild.header import name_and_version
from buildit.recipe.ways.ebuild.needs import TreePackageFacts
from buildit.recipe.ways.ebuild.recipe import (
    Ebuild,
    EbuildFacts,
    WrittenRecipe,
    read_ebuild,
    written_recipe,
)
from buildit.recipe.yaml.node import read_text, shown_place
from buildit.recipe.yaml.write import Remarked, YamlData, yaml_text

OTHER_CATEGORY = "local"
"""The category of an ebuild that does not lie in CATEGORY/NAME/."""
_CATEGORY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9+_.-]*-[A-Za-z0-9+_.-]+|virtual")
_LARGEST_FILE = 16 << 20


def import_ebuild(
    path: Path, options: Options, images: tuple[str, ...], output: Path | None, report: Reporter
) -> ImportedContainer:
    """The container directory of an ebuild: its package in a tree of its own, with patches, files
    and pinned sources.

    Raises:
        RecipeError: it is no ebuild that can be read, or a file beside it is missing.
        UsageError: the directory is there.
        FetchError, IntegrityError: a source cannot be had, or is not what the Manifest says.
        StoreError: the directory cannot be written.
    """
    shown = shown_place(path)
    name, version = name_and_version(path.name, shown)
    target = output or Path(name)
    check_free(target)
    ebuild = read_ebuild(read_text(path, shown), path.name, name, version, _category(path, name))
    files = _files(path.parent / "files")
    config = load_config(options.directory).config
    trees = (*config.trees, *shipped_trees())
    names = read_gentoo_names(trees)
    near = (path.parent / "distfiles", Path(os.environ.get("DISTDIR") or DISTFILES))
    with opened(config, options, report) as run:
        source = names.sources.get(ebuild.name, name.lower())
        promised = read_promises(path.parent / "Manifest")
        upstream = Upstream(run.downloads, source, version.partition("-r")[0], near, promised)
        brought = upstream.bring(ebuild.distfiles)
    facts = EbuildFacts(
        tuple(one.source for one in brought),
        frozenset(files),
        _tree_facts(trees, shown),
        names.packages,
        _meanings(path.parent / "metadata.xml", names),
        _has_configure(brought),
    )
    written = written_recipe(ebuild, facts)
    texts = _texts(ebuild, written, images or ("oci",))
    package = f"pkgs/{ebuild.name}"
    with new_container(target, texts, shown) as directory:
        for kind, listed in (("patches", written.patches), ("files", written.files)):
            for inner in listed:
                _copy(files[inner], directory / package / kind / inner)
        for each in brought:
            if each.copy is not None:
                _copy(each.copy, directory / "distfiles" / each.source.name)
        remarks = (*_remarks(ebuild, written), *planned_container(directory, options, report))
        made = sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())
    return ImportedContainer(target, tuple(made), remarks)


def _category(path: Path, name: str) -> str:
    """The category that the path says: CATEGORY/NAME/NAME-1.ebuild."""
    package = path.absolute().parent
    category = package.parent.name
    return category if package.name == name and _CATEGORY.fullmatch(category) else OTHER_CATEGORY


def _files(directory: Path) -> dict[str, Path]:
    """The files of FILESDIR by their paths in it; a link counts where it leads to a file in it.

    Raises:
        RecipeError: a file is too large.
    """
    found: dict[str, Path] = {}
    if not directory.is_dir():
        return found
    root = directory.resolve()
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.resolve().is_relative_to(root):
            if path.stat().st_size > _LARGEST_FILE:
                hint = "what is so large is a source: give it a URL"
                message = f"a file of more than {_LARGEST_FILE >> 20} MiB"
                raise RecipeError(message, place=shown_place(path), hint=hint)
            found[path.relative_to(directory).as_posix()] = path
    return found


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


def _tree_facts(trees: tuple[Path, ...], place: str) -> dict[str, TreePackageFacts]:
    """What the trees have, by name: versions and flags of each package."""
    catalog = Catalog(trees)
    found: dict[str, TreePackageFacts] = {}
    for name in catalog.names():
        if name.startswith("toolchain/"):
            continue
        versions = catalog.versions(name, place)
        recipe = catalog.package(name, versions[0], place).recipe
        found[name] = TreePackageFacts(versions, frozenset(recipe.use))
    return found


def _meanings(path: Path, names: GentooNames) -> Mapping[str, str]:
    """What flags mean: by metadata.xml beside the ebuild, else by the table."""
    found = dict(names.flags)
    if not path.is_file():
        return found
    text = read_text(path, shown_place(path))
    if "<!ENTITY" in text:
        return found  # a document that defines its own words is none of Gentoo's
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - no entities, at most 1 MiB
    except ElementTree.ParseError:
        return found
    for flag in root.iter("flag"):
        meaning = " ".join("".join(flag.itertext()).split())
        if (name := flag.get("name")) and meaning:
            found[name] = meaning
    return found


def _has_configure(brought: tuple[Brought, ...]) -> bool | None:
    return "configure" in brought[0].members if brought else None


def _texts(ebuild: Ebuild, written: WrittenRecipe, images: tuple[str, ...]) -> dict[str, str]:
    """The files of the container directory that are made here."""
    name, version = ebuild.header.name, ebuild.header.version
    steps: list[YamlData] = [
        {"vars": {"name": name, "version": version}},
        {"package": {"atom": ebuild.name}},
        Remarked(("- entrypoint: [/usr/bin/PROGRAM]",)),
        *({"image": {"type": one}} for one in images),
    ]
    head = f"What `buildit import {ebuild.header.scope.file}` wrote; pkgs/ has how it is built."
    return {
        CONTAINER_FILE: yaml_text(Remarked((head,), steps)),
        CONFIG_FILE: yaml_text({"trees": ["./pkgs"]}),
        f"pkgs/{ebuild.name}/{PACKAGE_FILE}": written.text,
    }


def _remarks(ebuild: Ebuild, written: WrittenRecipe) -> tuple[str, ...]:
    """What is to be looked at, a line for each thing that was not taken over."""
    file = ebuild.header.scope.file
    return tuple(
        f"{file}:{one.line}: not taken over: {one.text.partition(chr(10))[0]}"
        f"{f' ({one.why})' if one.why else ''}"
        for one in written.unread
    )
