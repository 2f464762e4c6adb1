"""Dependencies of an ebuild as those of a recipe: packages of the trees where they have them, else
Debian's by a table; what neither has is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from buildit.errors import RecipeError
from buildit.model.accounts import group_id, user_id
from buildit.model.atom import Atom, Version
from buildit.recipe.ways.ebuild.depend import (
    AllIn,
    AnyIn,
    FlagSet,
    GentooAtom,
    Item,
    Spec,
    When,
    parse_gentoo_atom,
    parse_spec,
    spec_rows,
)
from buildit.recipe.ways.ebuild.header import Header, Unread
from buildit.recipe.ways.ebuild.scripts import constant_flag

BUILD, LINK, RUN = "build", "link", "run"
_FIELDS = {"BDEPEND": BUILD, "DEPEND": LINK, "RDEPEND": RUN, "PDEPEND": RUN}

ECLASS_NEEDS: Mapping[str, tuple[str, ...]] = {
    "autotools": ("debian:autoconf", "debian:automake", "debian:libtool"),
    "cmake": ("debian:cmake",),
    "cmake-multilib": ("debian:cmake",),
    "meson": ("debian:meson", "debian:ninja-build"),
    "meson-multilib": ("debian:meson", "debian:ninja-build"),
    "distutils-r1": ("debian:python3", "debian:python3-build", "debian:python3-installer"),
    "go-module": ("debian:golang-go",),
    "cargo": ("debian:cargo",),
}
"""What an eclass adds to BDEPEND, as our styles need it."""


_BACKENDS: Mapping[str, tuple[str, ...]] = {
    "setuptools": ("debian:python3-setuptools", "debian:python3-wheel"),
    "flit": ("debian:flit",),
    "hatchling": ("debian:python3-hatchling",),
    "poetry": ("debian:python3-poetry-core",),
}
"""What distutils-r1 builds with, by DISTUTILS_USE_PEP517."""


@dataclass(frozen=True, slots=True)
class DebianNames:
    """What Debian has in the place of a package of Gentoo's: to build with it, and to run."""

    dev: tuple[str, ...] = ()
    run: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TreePackageFacts:
    """What a tree has of a package: its versions and flags."""

    versions: tuple[Version, ...]
    flags: frozenset[str]


@dataclass(slots=True)
class EbuildNeeds:
    """Atoms by field (`build`, `link`, `run`), each with the flags that it stands under; users and
    groups by id."""

    atoms: dict[str, dict[str, list[FlagSet]]] = field(
        default_factory=lambda: {BUILD: {}, LINK: {}, RUN: {}}
    )
    users: dict[str, int] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    unread: list[Unread] = field(default_factory=list)

    def add(self, kind: str, atom: str, given: FlagSet) -> None:
        known = self.atoms[kind].setdefault(atom, [])
        if () in known or given in known:
            return
        self.atoms[kind][atom] = [()] if not given else [*known, given]


def read_needs(
    header: Header,
    flags: frozenset[str],
    tree: Mapping[str, TreePackageFacts],
    debian: Mapping[str, DebianNames],
) -> EbuildNeeds:
    """The dependencies of an ebuild by what the trees and Debian have.

    Raises:
        RecipeError: a dependency is malformed.
    """
    reading = _Reading(header, flags, tree, debian)
    for eclass in header.eclasses:
        for atom in ECLASS_NEEDS.get(eclass, ()):
            reading.needs.add(BUILD, atom, ())
    if "distutils-r1" in header.eclasses:
        backend = _BACKENDS.get(header.scope.text("DISTUTILS_USE_PEP517") or "setuptools", ())
        for atom in backend:
            reading.needs.add(BUILD, atom, ())
        reading.needs.add(RUN, "debian:python3", ())
    linked = reading.rows_of("DEPEND")
    for name in _FIELDS:
        for given, spec in linked if name == "DEPEND" else reading.rows_of(name):
            if name == "RDEPEND" and (given, spec) in linked:
                continue  # what is linked is found in the files, with where it came from
            reading.take(name, given, spec)
    return reading.needs


@dataclass(slots=True)
class _Reading:
    header: Header
    flags: frozenset[str]
    tree: Mapping[str, TreePackageFacts]
    debian: Mapping[str, DebianNames]
    needs: EbuildNeeds = field(default_factory=EbuildNeeds)

    def place(self, name: str) -> str:
        return f"{self.header.scope.file}:{self.header.lines.get(name, 1)}"

    def told(self, name: str, text: str, why: str) -> None:
        row = Unread(self.header.lines.get(name, 1), text, f"in {name}: {why}")
        if row not in self.needs.unread:
            self.needs.unread.append(row)

    def rows_of(self, name: str) -> list[tuple[FlagSet, Spec]]:
        text = self.header.scope.text(name)
        return [*spec_rows(parse_spec(text, self.place(name)))]

    def given(self, name: str, condition: FlagSet, what: str) -> FlagSet | None:
        """The flags that a row really stands under; None where it never does."""
        found: list[tuple[str, bool]] = []
        for flag, on in condition:
            if (known := constant_flag(flag)) is not None:
                if known != on:
                    return None
            elif flag not in self.flags:
                self.told(name, what, f"the flag {flag!r} is none of IUSE")
                return None
            elif (flag, not on) in found:
                return None
            else:
                found.append((flag, on))
        return tuple(dict.fromkeys(found))

    def take(self, name: str, condition: FlagSet, spec: Spec) -> None:
        given = self.given(name, condition, _shown(spec))
        if given is None:
            return
        if isinstance(spec, AnyIn):
            for choice in spec.items:
                inner = [*spec_rows((choice,))]
                if inner and all(self.mapped(name, one) is not None for _, one in inner):
                    for further, one in inner:
                        self.take(name, (*given, *further), one)
                    return
            self.told(name, _shown(spec), "neither a tree nor the table has one of them")
            return
        atoms = self.mapped(name, spec)
        if atoms is None:
            why = "neither a tree nor the table of Debian's names has it"
            self.told(name, _shown(spec), why)
            return
        for atom in atoms:
            self.needs.add(_FIELDS[name], atom, given)

    def mapped(self, name: str, spec: Spec) -> tuple[str, ...] | None:
        """The atoms in the place of one of Gentoo's; none where nothing is needed for it, None
        where it is not known."""
        if not isinstance(spec, Item):
            return None
        atom = parse_gentoo_atom(spec.text, self.place(name))
        category, _, short = atom.name.partition("/")
        if atom.blocks or category == "sec-policy":
            return ()  # no image of ours has another version of it, or a policy
        if category == "virtual" and short.startswith("perl-"):
            return ("debian:perl",)
        if category == "acct-user":
            self.needs.users[short] = user_id(short)
            self.needs.groups.setdefault(short, group_id(short))
            return ()
        if category == "acct-group":
            self.needs.groups[short] = group_id(short)
            return ()
        known = self.tree.get(atom.name)
        if known is not None and (made := _of_tree(atom, known, self.flags)) is not None:
            return (made,)
        names = self.debian.get(atom.name)
        if names is None:
            return None
        kind = _FIELDS[name]
        if kind == LINK:
            return tuple(f"debian:{one}" for one in names.dev or names.run)
        if kind == RUN and names.dev and not names.run:
            return ()  # a library: the files that need it say so
        return tuple(f"debian:{one}" for one in names.run or names.dev)


def _of_tree(atom: GentooAtom, known: TreePackageFacts, flags: frozenset[str]) -> str | None:
    """The atom as our trees know it: without a slot, and with the flags that the package has; None
    where no version fits."""
    sign = "" if not atom.version else "=" if atom.operator in ("=", "=*") else atom.operator
    star = "*" if atom.operator == "=*" else ""
    version = f"-{atom.version}{star}" if atom.version else ""
    use = [one for one in atom.use if _flag_of(one) in known.flags and _is_own(one, flags)]
    shown = f"[{','.join(use)}]" if use else ""
    text = f"{sign}{atom.name}{version}{shown}"
    try:
        parsed = Atom.parse(text)
    except RecipeError:
        return None
    fits = any(parsed.matches_version(atom.name, one) for one in known.versions)
    return text if fits else None


def _flag_of(text: str) -> str:
    return text.strip("!-").partition("(")[0].rstrip("?=")


def _is_own(text: str, flags: frozenset[str]) -> bool:
    """Whether a demand speaks of no flag of the package's own that is not there."""
    return text[-1] not in "?=" or _flag_of(text) in flags


def _shown(spec: Spec) -> str:
    match spec:
        case Item(text=text):
            return text
        case AnyIn(items=items):
            return f"|| ( {' '.join(map(_shown, items))} )"
        case AllIn(items=items):
            return f"( {' '.join(map(_shown, items))} )"
        case When(flag=flag, off=off, items=items):
            return f"{'!' if off else ''}{flag}? ( {' '.join(map(_shown, items))} )"
