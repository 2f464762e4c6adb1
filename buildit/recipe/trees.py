"""Packages: from the directories of a tree and from beside a container to merged recipes.

An overlay says only what differs from its base: scalars replace, maps merge, lists append. A map
with verbs in the place of a list or map says otherwise: `{$prepend: […]}`, `{$append: […]}`,
`{$replace: …}`, `{$remove: […]}`. Every node keeps the place where it was written, so the merged
recipe still says where each leaf comes from.

Each document is read once. What was looked at is remembered, so that a later run can tell from
the files' stat that nothing changed.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildit.errors import RecipeError, UnsatisfiableError
from buildit.model.atom import Version, parse_name, suggested_name
from buildit.model.use import Assignment, FlagLayer, parse_assignment
from buildit.model.words import nearest
from buildit.recipe.package import (
    DebianBase,
    DebianSourcePackage,
    EmbeddedPackage,
    Package,
    Recipe,
    ToolchainPackage,
)
from buildit.recipe.schema import parse
from buildit.recipe.slices import Slices, read_slices
from buildit.recipe.template.render import render_tree
from buildit.recipe.yaml.node import Mapping, Node, Scalar, Sequence, shown_place
from buildit.recipe.yaml.read import load_yaml

PACKAGE_FILE = "pkg.yaml"
DEEPEST_CHAIN = 16

_VERBS = ("$prepend", "$append", "$replace", "$remove")
_KINDS = {Mapping: "map", Sequence: "list", Scalar: "value"}


def overlay(base: Node | None, over: Node) -> Node:
    """`over` laid upon `base`; upon nothing, `over` with its verbs carried out.

    Raises:
        RecipeError: the kinds differ, a verb does not fit, or `$remove` names what is not there.
    """
    match over:
        case Mapping() if verbs := _verbs(over):
            return _edited(base, over, verbs)
        case Mapping() if base is None or isinstance(base, Mapping):
            merged = {key.text: (key, value) for key, value in (base.items if base else ())}
            for key, value in over.items:
                before = merged.get(key.text)
                merged[key.text] = (key, overlay(before[1] if before else None, value))
            return replace(over, items=tuple(merged.values()))
        case Sequence() if base is None or isinstance(base, Sequence):
            return replace(over, items=(base.items if base else ()) + _items(over))
        case Scalar() if base is None or isinstance(base, Scalar):
            return over
    message = f"a {_KINDS[type(over)]} cannot be laid over the {_named(base)}"
    raise over.error(message, "write the same kind of value, or `{$replace: …}`")


def _verbs(node: Mapping) -> dict[str, Node]:
    """The verbs of a map.

    `$remove` may stand among a map's own keys; the other verbs stand only among verbs.
    """
    verbs = {key.text: value for key, value in node.items if key.text.startswith("$")}
    for key, _ in node.items:
        if key.text in verbs and key.text not in _VERBS:
            raise key.error(f"unknown verb {key.text!r}", f"the verbs are {', '.join(_VERBS)}")
    return verbs


def _edited(base: Node | None, over: Mapping, verbs: dict[str, Node]) -> Node:
    own = over.without(*verbs)
    if "$replace" in verbs:
        if len(verbs) > 1 or own.items:
            hint = "write everything into it, or use the other verbs without it"
            raise over.error("`$replace` stands alone", hint)
        return overlay(None, verbs["$replace"])
    only_removes = set(verbs) == {"$remove"}
    if isinstance(base, Sequence) or (base is None and not own.items and not only_removes):
        if own.items:
            hint = f"the verbs are {', '.join(_VERBS)}"
            raise over.error("verbs and other keys cannot be mixed over a list", hint)
        return _edited_list(base.items if base else (), over, verbs)
    if not only_removes or not isinstance(base, Mapping):
        what = f"the {_named(base)}" if base else "what the base does not have"
        hint = "lists take $prepend, $append, $replace and $remove; maps $replace and $remove"
        raise over.error(f"{', '.join(sorted(verbs))} cannot change {what}", hint)
    gone = _removed(verbs["$remove"], [key.text for key, _ in base.items])
    return overlay(base.without(*gone), own)


def _edited_list(items: tuple[Node, ...], over: Mapping, verbs: dict[str, Node]) -> Sequence:
    if "$remove" in verbs:
        present = [item.text for item in items if isinstance(item, Scalar)]
        gone = _removed(verbs["$remove"], present)
        items = tuple(i for i in items if not (isinstance(i, Scalar) and i.text in gone))
    before, after = (verbs.get(verb, Sequence((), over.place)) for verb in ("$prepend", "$append"))
    return Sequence(_items(before) + items + _items(after), over.place)


def _items(node: Node) -> tuple[Node, ...]:
    if not isinstance(node, Sequence):
        hint = "write the items in brackets: [x, y]"
        raise node.error(f"expected a list, found a {_KINDS[type(node)]}", hint)
    return tuple(overlay(None, item) for item in node.items)


def _removed(node: Node, present: list[str]) -> list[str]:
    """The names that `$remove` lists, each of which is there."""
    gone = []
    for name in _items(node):
        if not isinstance(name, Scalar):
            hint = "name keys or plain items; replace a list of conditions with `$replace`"
            raise name.error("`$remove` takes a list of names", hint)
        if name.text not in present:
            hint = f"it has: {', '.join(present) or 'nothing'}"
            raise name.error(f"nothing to remove: the base has no {name.text!r}", hint)
        gone.append(name.text)
    return gone


def _named(base: Node | None) -> str:
    return f"{_KINDS[type(base)]} at {base.place}" if base else "nothing"


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
            hint = "a container has one package of a name: base one of them on the other"
            message = f"{origin} and {first.origin} are both {package.name}"
            raise package.node.error(message, hint)
        return first

    def debian_base(self, directory: Path, origin: str) -> DebianBase | None:
        """Read the package beside a container where its base is a Debian source package.

        Raises:
            RecipeError: its document is wrong.
        """
        document = self._document(directory)
        base = document.get("base") if document else None
        if document is None or not isinstance(base, Scalar) or not base.text.startswith(_DEBIAN):
            return None
        name, _, version = base.text.removeprefix(_DEBIAN).partition("=")
        node = document
        for key, value in document.items:
            node = node.having(key.text, render_tree(value, {"name": name}))
        recipe = parse(node, DebianSourcePackage)
        return DebianBase(name, version, origin, recipe, node, str(directory))

    def versions(self, name: str, place: str) -> tuple[Version, ...]:
        """The versions of a package, newest first.

        Raises:
            UnsatisfiableError: no tree has the package.
        """
        if name in self._embedded:
            return (Version.parse(self._embedded[name].version),)
        return _versions(self._find(name, place)[1])

    def package(self, name: str, version: Version, place: str) -> Package:
        """One version of a package, merged.

        Raises:
            RecipeError: its document is wrong.
            UnsatisfiableError: no tree has the package.
        """
        if name in self._embedded:
            return self._embedded[name]
        if (name, version.text) not in self._packages:
            directory, document = self._find(name, place)
            chain = _of_tree(name, version.text, directory, document)
            self._packages[name, version.text] = self._package(chain, shown_place(directory))
        return self._packages[name, version.text]

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
            hint = "a toolchain has `style: toolchain` and a set of .debs in `debian:`"
            raise document.error(f"{name} is no toolchain", hint)
        return parse(document, ToolchainPackage)

    def slices(self) -> Slices:
        """The shares of Debian's packages that images take or leave.

        Raises:
            RecipeError: a table of a tree is wrong.
        """
        return read_slices(self.trees, self.consulted)

    def _package(self, chain: _Chain, origin: str) -> Package:
        variables = {"name": chain.name.rpartition("/")[2], "version": chain.version}
        node = chain.node
        for key, value in node.items:
            if key.text not in ("steps", "versions"):
                node = node.having(key.text, render_tree(value, variables))
        recipe, directories = parse(node, Recipe), tuple(map(str, chain.directories))
        return Package(chain.name, chain.version, origin, recipe, node, directories, chain.layers)

    def _chain(self, directory: Path, below: tuple[Path, ...], place: str) -> _Chain:
        """The merged chain of the embedded package in `directory`; `below` are based on it."""
        real = directory.resolve()
        if real in below or len(below) >= DEEPEST_CHAIN:
            names = " -> ".join(shown_place(path) for path in (*below, real))
            what = "a cycle" if real in below else f"more than {DEEPEST_CHAIN} links"
            hint = "let one of them begin with `base: category/name-version`"
            raise RecipeError(f"the chain of bases has {what}: {names}", place=place, hint=hint)
        document = self._document(directory)
        if document is None:
            message = f"there is no {PACKAGE_FILE} in {shown_place(directory)}"
            hint = "name the directory that holds it, relative to the file that names it"
            raise RecipeError(message, place=place, hint=hint)
        base = document.get("base")
        if base is None:
            raise _without_base(document)
        if not isinstance(base, Scalar):
            raise base.error("expected a package or a path")
        beneath = self._base(base, directory, (*below, real))
        own = document.without("base", "use", "version")
        _check_patches(beneath.node, own)
        merged = _laid(beneath.node, own, document)
        use = document.get("use")
        layer = _use_layer(use, "use" if not below else "base")
        if use is not None and layer is None:
            merged = _with_declarations(merged, beneath.node, use)
        version = _own_version(document) or beneath.version
        directories = (*beneath.directories, directory)
        layers = (*beneath.layers, layer) if layer else beneath.layers
        return _Chain(beneath.name, version, merged, directories, layers)

    def _base(self, base: Scalar, directory: Path, below: tuple[Path, ...]) -> _Chain:
        place = str(base.place)
        if base.text.startswith(("./", "../")):
            return self._chain(Path(os.path.normpath(directory / base.text)), below, place)
        if base.text.startswith(_DEBIAN):
            hint = "let the container's own package begin with it; it takes patches and options"
            raise base.error("a Debian source package cannot be the base of a base", hint)
        if base.text.startswith("gentoo:"):
            hint = "base it on a package of the tree, or on debian:NAME"
            raise base.error("this buildit cannot build from a gentoo source package yet", hint)
        name, version = parse_name(base.text, place=place)
        tree_directory, document = self._find(name, place)
        known = _versions(document)
        exact = next((one for one in known if version in (None, one)), None)
        if exact is None:
            hint = f"it has: {', '.join(map(str, known))}"
            raise UnsatisfiableError(f"{name} has no version {version}", place=place, hint=hint)
        return _of_tree(name, exact.text, tree_directory, document)

    def _find(self, name: str, place: str) -> tuple[Path, Mapping]:
        for tree in self.trees:
            directory = tree / name
            document = self._document(directory)
            if document is not None:
                return directory, document
        known, written = self.names(), suggested_name(name) or ""
        is_known = written.rpartition("-")[0] in known
        near = [written] if is_known else difflib.get_close_matches(name, known, 3)
        trees = ", ".join(map(shown_place, self.trees)) or "none"
        hint = f"did you mean {', '.join(near)}?" if near else f"trees: {trees}"
        raise UnsatisfiableError(f"no tree has a package {name!r}", place=place, hint=hint)

    def names(self) -> list[str]:
        """Every `category/name` of the trees, sorted."""
        found = (path.parts for tree in self.trees for path in tree.glob(f"*/*/{PACKAGE_FILE}"))
        return sorted({f"{category}/{name}" for *_, category, name, _ in found})

    def _document(self, directory: Path) -> Mapping | None:
        path = directory / PACKAGE_FILE
        if path not in self._documents:
            self.consulted.append(path)
            node = load_yaml(path) if os.path.lexists(path) else None
            if node is not None and not isinstance(node, Mapping):
                raise node.error("expected keys such as `description:`")
            self._documents[path] = node
        return self._documents[path]


_DEBIAN = "debian:"


def _laid(base: Mapping, over: Node, document: Mapping) -> Mapping:
    merged = overlay(base, over)
    if not isinstance(merged, Mapping):
        raise document.error("expected keys")
    return merged


def _without_base(document: Mapping) -> RecipeError:
    """What is wrong with an embedded package that has no `base`: often just its spelling."""
    known = EmbeddedPackage.keys()
    foreign = [key.text for key, _ in document.items if key.text not in known]
    meant = document.key(nearest("base", foreign) or "")
    hint = "begin with `base: category/name-version`, or move it into a tree"
    message = "the package has no base" + (f", but a key {meant.text!r}" if meant else "")
    return (meant or document).error(message, hint)


def _own_version(document: Mapping) -> str:
    """The version that an embedded package gives itself; empty where it keeps its base's."""
    node = document.get("version")
    if node is None:
        return ""
    if not isinstance(node, Scalar):
        raise node.error("expected a version", "such as `version: 1.22.1-r1`")
    return Version.parse(node.text, place=str(node.place)).text


def _versions(document: Mapping) -> tuple[Version, ...]:
    node = document.get("versions")
    if not isinstance(node, Mapping) or not node.items:
        hint = "write `versions: {1.2.3: {sources: [...]}}`"
        raise (node or document).error("the package has no versions", hint)
    found: dict[Version, Scalar] = {}
    for key, _ in node.items:
        version = Version.parse(key.text, place=str(key.place))
        first = found.setdefault(version, key)
        if first is not key:
            hint = f"the first is at {first.place}; keep one of them"
            raise key.error(f"{key.text} and {first.text} are the same version", hint)
    return tuple(sorted(found, reverse=True))


def _of_tree(name: str, version: str, directory: Path, document: Mapping) -> _Chain:
    versions = document.get("versions")
    own = versions.get(version) if isinstance(versions, Mapping) else None
    node = document.without("versions")
    if own is not None and own != Scalar("", own.place):
        node = _laid(node, own, document)
    return _Chain(name, version, node, (directory,))


def _check_patches(base: Mapping, own: Mapping) -> None:
    """Refuse a patch whose path the base has too: which file is meant could only be guessed."""
    mine, theirs = own.get("patches"), base.get("patches")
    if not isinstance(mine, Mapping) or not isinstance(theirs, Mapping):
        return
    gone = {one.text for one in mine.texts("$remove")}
    for key, _ in mine.items:
        first = theirs.key(key.text)
        if first is not None and key.text not in gone:
            hint = f"rename yours; or drop the base's first: $remove: [{key.text}]"
            where = f"the base's: {first.place}"
            raise key.error(f"the base has a patch {key.text!r} too", hint, where)


_SWITCHES = ("with", "without")
_SWITCHED = "write use: {with: [ipv6], without: [http2]}"


def _use_layer(node: Node | None, name: str) -> FlagLayer | None:
    """The flags that `use: {with: [...], without: [...]}` sets; None where it declares flags."""
    if not isinstance(node, Mapping) or not node.items:
        return None
    if not all(key.text in _SWITCHES and isinstance(value, Sequence) for key, value in node.items):
        return None
    assignments: list[Assignment] = []
    for key in _SWITCHES:
        for item in node.texts(key):
            wish = parse_assignment(item.text.lstrip("+"), str(item.place))
            if key == "without":
                if isinstance(wish.value, str) or not wish.value:
                    raise item.error(f"cannot disable {item.text!r}", "name just the flag")
                wish = Assignment(wish.flag, False, str(item.place))
            assignments.append(wish)
    return FlagLayer(name, tuple(assignments))


def _with_declarations(merged: Mapping, base: Mapping, use: Node) -> Mapping:
    """`merged` with the declarations of `use` laid over the base's."""
    if not isinstance(use, Mapping):
        raise use.error("expected flags to turn on and off", _SWITCHED)
    for key, _ in use.items:
        if key.text in _SWITCHES:
            message = f"`{key.text}` takes a list of flags, and stands beside no declarations"
            raise key.error(message, _SWITCHED)
    label = Scalar("use", use.items[0][0].place if use.items else use.place)
    laid = overlay(base.get("use"), use)
    return Mapping((*merged.without("use").items, (label, laid)), merged.place)
