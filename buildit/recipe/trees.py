"""Packages: from the directories of a tree and from beside a container to merged recipes.

Each document is read once. What was looked at is remembered, so that a later run can tell from
the files' stat that nothing changed.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from pathlib import Path

from buildit.errors import RecipeError, UnsatisfiableError
from buildit.model.atom import parse_name
from buildit.model.nearest import nearest
from buildit.model.use import Assignment, FlagLayer, parse_assignment
from buildit.model.version import Version
from buildit.model.versionhint import suggested_name
from buildit.recipe.merge import overlay
from buildit.recipe.package import EmbeddedPackage, Package, Recipe, ToolchainPackage
from buildit.recipe.schema import parse
from buildit.recipe.template.render import render_tree
from buildit.recipe.yaml.node import Mapping, Scalar, Sequence, scalar_items
from buildit.recipe.yaml.read import load_yaml

PACKAGE_FILE = "pkg.yaml"
DEEPEST_CHAIN = 16
_NOT_RENDERED = ("steps", "versions")


def shown_place(path: Path) -> str:
    """The path as messages show it: relative to the working directory where it lies below."""
    text = os.path.relpath(path)
    return str(path) if text.startswith("..") else text


@dataclass(frozen=True, slots=True)
class _Chain:
    """A base chain merged so far. `version` is empty while no link has decided it."""

    name: str
    version: str
    node: Mapping
    directories: tuple[Path, ...]
    layers: tuple[FlagLayer, ...] = ()


@dataclass(slots=True)
class Catalog:
    """The packages that a container can see: its own first, then the trees in order."""

    trees: tuple[Path, ...]
    consulted: list[Path] = field(default_factory=list)
    _documents: dict[Path, Mapping | None] = field(default_factory=dict)
    _embedded: dict[str, Package] = field(default_factory=dict)
    _packages: dict[tuple[str, str], Package] = field(default_factory=dict)

    def embed(self, directory: Path, origin: str, place: str = "") -> Package:
        """Read the package beside a container; from now on it shadows the tree's of that name.

        `place` is where the container names it.

        Raises:
            RecipeError: a document of its base chain is wrong.
            UnsatisfiableError: a base names a package or version that no tree has.
        """
        package = self._package(self._chain(directory, (), place or shown_place(directory)), origin)
        first = self._embedded.setdefault(package.name, package)
        if first.directories != package.directories:
            raise RecipeError(
                f"{origin} and {first.origin} are both {package.name}",
                place=str(package.node.place),
                hint="a container has one package of a name: base one of them on the other",
            )
        return first

    def shadows(self, name: str) -> bool:
        return name in self._embedded

    def versions(self, name: str, place: str) -> tuple[Version, ...]:
        """The versions of a package, newest first.

        Raises:
            UnsatisfiableError: no tree has the package.
        """
        if name in self._embedded:
            return (Version.parse(self._embedded[name].version),)
        _, document = self._find(name, place)
        return _versions(document)

    def package(self, name: str, version: Version, place: str) -> Package:
        """One version of a package, merged.

        Raises:
            RecipeError: its document is wrong.
            UnsatisfiableError: no tree has the package.
        """
        if name in self._embedded:
            return self._embedded[name]
        found = self._packages.get((name, version.text))
        if found is None:
            directory, document = self._find(name, place)
            chain = _of_tree(name, version.text, directory, document)
            found = self._package(chain, shown_place(directory))
            self._packages[name, version.text] = found
        return found

    def toolchain(self, name: str, place: str) -> ToolchainPackage:
        """The named set of .debs that a chroot is made of.

        Raises:
            RecipeError: the document is wrong, or of another kind.
            UnsatisfiableError: no tree has it.
        """
        parse_name(name, place=place)
        _, document = self._find(name, place)
        style = document.get("style")
        if not isinstance(style, Scalar) or style.text != "toolchain":
            raise RecipeError(
                f"{name} is no toolchain",
                place=str(document.place),
                hint="a toolchain has `style: toolchain` and a set of .debs in `debian:`",
            )
        return parse(document, ToolchainPackage)

    def _package(self, chain: _Chain, origin: str) -> Package:
        variables = {"name": chain.name.rpartition("/")[2], "version": chain.version}
        items = tuple(
            (key, value if key.text in _NOT_RENDERED else render_tree(value, variables))
            for key, value in chain.node.items
        )
        node = Mapping(items, chain.node.place)
        recipe = parse(node, Recipe)
        return Package(
            name=chain.name,
            version=chain.version,
            origin=origin,
            recipe=recipe,
            node=node,
            directories=tuple(map(str, chain.directories)),
            layers=chain.layers,
        )

    def _chain(self, directory: Path, below: tuple[Path, ...], place: str) -> _Chain:
        """The merged chain of the embedded package in `directory`; `below` are based on it."""
        real = directory.resolve()
        if real in below or len(below) >= DEEPEST_CHAIN:
            names = " -> ".join(shown_place(path) for path in (*below, real))
            what = "a cycle" if real in below else f"more than {DEEPEST_CHAIN} links"
            raise RecipeError(
                f"the chain of bases has {what}: {names}",
                place=place,
                hint="let one of them begin with `base: category/name-version`",
            )
        document = self._document(directory)
        if document is None:
            raise RecipeError(
                f"there is no {PACKAGE_FILE} in {shown_place(directory)}",
                place=place,
                hint="name the directory that holds it, relative to the file that names it",
            )
        base = document.get("base")
        if base is None:
            raise _without_base(document)
        if not isinstance(base, Scalar):
            raise RecipeError("expected a package or a path", place=str(base.place))
        beneath = self._base(base, directory, (*below, real))
        own = document.without("base", "use", "version")
        _check_patches(beneath.node, own)
        merged = overlay(beneath.node, own)
        if not isinstance(merged, Mapping):
            raise RecipeError("expected keys", place=str(document.place))
        use = document.get("use")
        layer = _use_layer(use, "use" if not below else "base")
        if use is not None and layer is None:
            merged = _with_declarations(merged, beneath.node, use)
        return _Chain(
            beneath.name,
            _own_version(document) or beneath.version,
            merged,
            (*beneath.directories, directory),
            (*beneath.layers, *((layer,) if layer else ())),
        )

    def _base(self, base: Scalar, directory: Path, below: tuple[Path, ...]) -> _Chain:
        place = str(base.place)
        if base.text.startswith(("./", "../")):
            return self._chain(Path(os.path.normpath(directory / base.text)), below, place)
        if base.text.startswith(("debian:", "gentoo:")):
            kind = base.text.split(":", 1)[0]
            raise RecipeError(
                f"this buildit cannot build from a {kind} source package yet",
                place=place,
                hint="base it on a package of the tree, or take the binary: `package: {debian: …}`",
            )
        name, version = parse_name(base.text, place=place)
        tree_directory, document = self._find(name, place)
        known = _versions(document)
        if version is None:
            version = known[0]
        elif version not in known:
            raise UnsatisfiableError(
                f"{name} has no version {version}",
                place=place,
                hint=f"it has: {', '.join(map(str, known))}",
            )
        exact = next(one for one in known if one == version)
        return _of_tree(name, exact.text, tree_directory, document)

    def _find(self, name: str, place: str) -> tuple[Path, Mapping]:
        for tree in self.trees:
            directory = tree / name
            document = self._document(directory)
            if document is not None:
                return directory, document
        near = difflib.get_close_matches(name, self.names(), 3)
        written = suggested_name(name)
        if written is not None and written.rpartition("-")[0] in self.names():
            near = [written]
        raise UnsatisfiableError(
            f"no tree has a package {name!r}",
            place=place,
            hint=f"did you mean {', '.join(near)}?"
            if near
            else f"trees: {', '.join(shown_place(tree) for tree in self.trees) or 'none'}",
        )

    def names(self) -> list[str]:
        """Every `category/name` of the trees, sorted."""
        return sorted(
            {
                f"{path.parent.parent.name}/{path.parent.name}"
                for tree in self.trees
                for path in tree.glob(f"*/*/{PACKAGE_FILE}")
            }
        )

    def _document(self, directory: Path) -> Mapping | None:
        path = directory / PACKAGE_FILE
        if path not in self._documents:
            self.consulted.append(path)
            self._documents[path] = self._read(path)
        return self._documents[path]

    def _read(self, path: Path) -> Mapping | None:
        if not os.path.lexists(path):
            return None
        node = load_yaml(path, shown_place(path))
        if not isinstance(node, Mapping):
            raise RecipeError("expected keys such as `description:`", place=str(node.place))
        return node


def _without_base(document: Mapping) -> RecipeError:
    """What is wrong with an embedded package that has no `base`: often just its spelling."""
    known = EmbeddedPackage.keys()
    foreign = [key.text for key, _ in document.items if key.text not in known]
    meant = document.key(nearest("base", foreign) or "")
    return RecipeError(
        "the package has no base" + (f", but a key {meant.text!r}" if meant else ""),
        place=str(meant.place if meant else document.place),
        hint="begin with `base: category/name-version`, or move it into a tree",
    )


def _own_version(document: Mapping) -> str:
    """The version that an embedded package gives itself; empty where it keeps its base's."""
    node = document.get("version")
    if node is None:
        return ""
    if not isinstance(node, Scalar):
        raise RecipeError(
            "expected a version", place=str(node.place), hint="such as `version: 1.22.1-r1`"
        )
    return Version.parse(node.text, place=str(node.place)).text


def _versions(document: Mapping) -> tuple[Version, ...]:
    node = document.get("versions")
    if not isinstance(node, Mapping) or not node.items:
        raise RecipeError(
            "the package has no versions",
            place=str((node or document).place),
            hint="write `versions: {1.2.3: {sources: [...]}}`",
        )
    found: dict[Version, Scalar] = {}
    for key, _ in node.items:
        version = Version.parse(key.text, place=str(key.place))
        first = found.setdefault(version, key)
        if first is not key:
            raise RecipeError(
                f"{key.text} and {first.text} are the same version",
                place=str(key.place),
                hint=f"the first is at {first.place}; keep one of them",
            )
    return tuple(sorted(found, reverse=True))


def _of_tree(name: str, version: str, directory: Path, document: Mapping) -> _Chain:
    versions = document.get("versions")
    own = versions.get(version) if isinstance(versions, Mapping) else None
    node = document.without("versions")
    empty = own is None or (isinstance(own, Scalar) and not own.text)
    merged = node if own is None or empty else overlay(node, own)
    if not isinstance(merged, Mapping):
        raise RecipeError("expected keys", place=str(document.place))
    return _Chain(name, version, merged, (directory,))


def _check_patches(base: Mapping, own: Mapping) -> None:
    """Refuse a patch whose path the base has too: which file is meant could only be guessed."""
    mine, theirs = own.get("patches"), base.get("patches")
    if not isinstance(mine, Mapping) or not isinstance(theirs, Mapping):
        return
    removed = mine.get("$remove")
    gone = {one.text for one in scalar_items(removed, str(mine.place))}
    for key, _ in mine.items:
        first = theirs.key(key.text)
        if first is not None and key.text not in gone:
            raise RecipeError(
                f"the base has a patch {key.text!r} too",
                place=str(key.place),
                hint=f"rename yours; or drop the base's first: $remove: [{key.text}]",
                details=(f"the base's: {first.place}",),
            )


def _use_layer(node: object, name: str) -> FlagLayer | None:
    """The flags that `use: {with: [...], without: [...]}` sets; None where it declares flags."""
    if not isinstance(node, Mapping) or not node.items:
        return None
    if not all(
        key.text in ("with", "without") and isinstance(value, Sequence) for key, value in node.items
    ):
        return None
    assignments: list[Assignment] = []
    for key in ("with", "without"):
        for item in scalar_items(node.get(key), str(node.place)):
            place = str(item.place)
            wish = parse_assignment(item.text.lstrip("+"), place)
            if key == "without":
                if isinstance(wish.value, str) or not wish.value:
                    raise RecipeError(
                        f"cannot disable {item.text!r}", place=place, hint="name just the flag"
                    )
                wish = Assignment(wish.flag, False, place)
            assignments.append(wish)
    return FlagLayer(name, tuple(assignments))


def _with_declarations(merged: Mapping, base: Mapping, use: object) -> Mapping:
    """`merged` with the declarations of `use` laid over the base's."""
    if not isinstance(use, Mapping):
        place = use.place if isinstance(use, Scalar | Sequence) else merged.place
        raise RecipeError(
            "expected flags to turn on and off",
            place=str(place),
            hint="write use: {with: [ipv6], without: [http2]}",
        )
    for key, _ in use.items:
        if key.text in ("with", "without"):
            raise RecipeError(
                f"`{key.text}` takes a list of flags, and stands beside no declarations",
                place=str(key.place),
                hint="write use: {with: [ipv6], without: [http2]}",
            )
    laid = overlay(base.get("use"), use)
    label = Scalar("use", use.items[0][0].place if use.items else use.place)
    return Mapping((*merged.without("use").items, (label, laid)), merged.place)
