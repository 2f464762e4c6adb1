"""A recipe evaluated for one version and one set of flags: no condition is left.

The typed recipe comes with the located nodes that it was read from, so that every error here still
names the line that the user wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from buildit.digest import Digest
from buildit.errors import RecipeError
from buildit.model import condition, use
from buildit.model.accounts import Group, User
from buildit.model.atom import Atom
from buildit.model.globs import path_matcher
from buildit.model.plan import WHOLE, About, DebView, PatchAbout
from buildit.model.sources import PatchRef
from buildit.model.words import name_of
from buildit.plan.identity import OutputInput, RuleInput
from buildit.plan.steps import Phase
from buildit.recipe.leaf import id_of
from buildit.recipe.package import (
    DebianSourcePackage,
    GitSpec,
    OutputSpec,
    Package,
    PatchSpec,
    PathSpec,
    Recipe,
    SourceSpec,
)
from buildit.recipe.yaml.node import Node, follow


@dataclass(frozen=True, slots=True)
class WantedPackage:
    """One dependency: `atom` of a tree package, or the name (with `=version`) of a .deb.

    Of a .deb: `depends` is whether an image takes its Depends with it, `view` what it takes of it.
    """

    role: str
    atom: Atom | None
    debian: str
    place: str
    depends: bool = True
    view: DebView = WHOLE


@dataclass(frozen=True, slots=True)
class WantedPatch:
    """`written` is the path or URL as written, in the file `declared_in`."""

    written: str
    declared_in: str
    place: str
    spec: PatchSpec


@dataclass(frozen=True, slots=True)
class WantedSource:
    spec: SourceSpec | GitSpec | PathSpec
    declared_in: str
    place: str


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A package ready to be identified: only digests of files are still to be taken."""

    package: Package
    settings: Mapping[str, use.Setting]
    sources: tuple[WantedSource, ...]
    patches: tuple[WantedPatch, ...]
    wanted: tuple[WantedPackage, ...]
    configure: tuple[str, ...]
    overrides: Mapping[Phase, str]
    file_rules: tuple[RuleInput, ...]
    outputs: tuple[OutputInput, ...]
    users: tuple[User, ...]
    groups: tuple[Group, ...]

    @property
    def flags(self) -> Mapping[str, use.FlagValue]:
        return use.flag_values(self.settings)

    def enabled(self) -> str:
        """The value of `USE`: enabled flags and choices, sorted, separated by blanks."""
        on = (use.assignment_text(name, value) for name, value in self.flags.items() if value)
        return " ".join(sorted(word.removeprefix("+") for word in on))

    def flag_texts(self) -> tuple[str, ...]:
        return tuple(sorted(use.assignment_text(n, v) for n, v in self.flags.items()))


def about_of(
    origin: str, said: Recipe | DebianSourcePackage, patches: Iterable[WantedPatch]
) -> About:
    """What a recipe says to people."""
    applied = (
        PatchAbout(one.written, one.spec.description, one.spec.fixes, one.spec.upstream or "")
        for one in patches
    )
    texts = said.description or "", said.homepage or "", said.license or ""
    return About(origin, *texts, tuple(applied))


def refs_of(patches: Iterable[WantedPatch], digests: Iterable[Digest]) -> tuple[PatchRef, ...]:
    """Those patches that lie at URLs; `digests` are canonical, in the patches' order."""
    pairs = zip(patches, digests, strict=True)
    return tuple(PatchRef(p.written, d, p.spec.strip) for p, d in pairs if "://" in p.written)


def written_at(node: Node, *path: str | int) -> str:
    """Where the node at `path` was written, or the nearest node above it."""
    return str(follow(node, path)[0].place)


def declared_flags(package: Package) -> Mapping[str, use.Flag]:
    """The flags that a package declares.

    Raises:
        RecipeError: a declaration is wrong.
    """
    flags = []
    for name, spec in package.recipe.use.items():
        default: use.FlagValue = spec.default
        if not spec.choices:
            if spec.default not in ("on", "off"):
                message = f"the default of flag {name!r} is {spec.default!r}"
                place = written_at(package.node, "use", name, "default")
                hint = "write on or off, or give the flag `choices`"
                raise RecipeError(message, place=place, hint=hint)
            default = spec.default == "on"
        place = written_at(package.node, "use", name)
        flags.append(use.Flag(name, default, spec.choices, spec.description, place))
    return use.declare(flags)


def evaluate(package: Package, layers: tuple[use.FlagLayer, ...]) -> Evaluated:
    """Decide every condition of the package under its own layers and then `layers`.

    Raises:
        RecipeError: an unknown flag, a malformed condition, atom or rule.
        UnsatisfiableError: the flags break a rule of required-use.
    """
    declared = declared_flags(package)
    ordered = sorted((*package.layers, *layers), key=lambda layer: _LATE.get(layer.name, 0))
    settings = use.resolve_flags(package.name, declared, tuple(ordered))
    choices = {name: flag.choices for name, flag in declared.items()}
    recipe = package.recipe
    reading = _Reading(package, recipe, choices, use.flag_values(settings))
    condition.check_required(package.name, tuple(reading.requirements()), declared, settings)
    steps = {phase: getattr(recipe.steps, phase) for phase in Phase}
    return Evaluated(
        package=package,
        settings=settings,
        sources=tuple(reading.sources()),
        patches=tuple(reading.patches()),
        wanted=tuple(reading.wanted()),
        configure=tuple(reading.configure()),
        overrides={phase: text for phase, text in steps.items() if text is not None},
        file_rules=tuple(
            RuleInput(
                rule.path,
                "" if rule.mode is None else f"{rule.mode:04o}",
                "" if rule.owner is None else reading.owner(rule.owner, number),
                rule.capabilities,
            )
            for number, rule in enumerate(recipe.files)
        ),
        outputs=tuple(
            OutputInput(name, spec.paths, spec.optional == "yes")
            if isinstance(spec, OutputSpec)
            else OutputInput(name, spec, optional=True)
            for name, spec in recipe.outputs.items()
        ),
        users=tuple(
            User(name, spec.uid, spec.gid, spec.home, spec.shell, spec.comment)
            for name, spec in sorted(recipe.users.items())
        ),
        groups=tuple(
            Group(name, spec.gid, spec.members) for name, spec in sorted(recipe.groups.items())
        ),
    )


_LATE = {"use": 1, "command line": 2}
"""DESIGN §2.2: base chain, config, container, the embedded package's `use`, command line."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """A recipe as its flags have it; `choices` are those of its flags."""

    package: Package
    recipe: Recipe
    choices: Mapping[str, tuple[str, ...]]
    flags: Mapping[str, use.FlagValue]

    def place(self, *path: str | int) -> str:
        return written_at(self.package.node, *path)

    def hold(self, text: str, *path: str | int) -> bool:
        rule = condition.parse_condition(text, place=self.place(*path))
        condition.check_flags(rule, self.choices, place=self.place(*path))
        return condition.holds(rule, self.flags)

    def requirements(self) -> Iterator[condition.Requirement]:
        for number, value in enumerate(self.recipe.required_use):
            place = self.place("required-use", number)
            rule = condition.parse_required(value, place=place)
            condition.check_flags(rule, self.choices, place=place)
            yield condition.Requirement(rule, place)

    def sources(self) -> Iterator[WantedSource]:
        for number, spec in enumerate(self.recipe.sources):
            node, _, _ = follow(self.package.node, ("sources", number))
            if isinstance(spec, GitSpec):
                if spec.commit is None and spec.tag is None:
                    hint = "write `commit:`, 40 hex digits, or `tag:`, which the lock pins"
                    raise node.error("neither a commit nor a tag is named", hint)
            elif isinstance(spec, PathSpec):
                pass
            elif not spec.unpack and spec.exclude:
                message = "`exclude` is for archives, and this source is not unpacked"
                raise node.error(message, "leave out `exclude:` or `unpack: no`")
            elif not (spec.name or name_of(spec.url)):
                raise node.error(f"the URL {spec.url} names no file", "write its `name:` too")
            for glob in spec.exclude:
                path_matcher(glob, place=str(node.place))
            yield WantedSource(spec, node.place.file, str(node.place))

    def patches(self) -> Iterator[WantedPatch]:
        for written, item in self.recipe.patches.items():
            spec = PatchSpec(description=item) if isinstance(item, str) else item
            if spec.when is None or self.hold(spec.when, "patches", written, "when"):
                node, key, _ = follow(self.package.node, ("patches", written))
                place = (key or node).place
                yield WantedPatch(written, place.file, str(place), spec)

    def wanted(self) -> Iterator[WantedPackage]:
        for role in ("build", "link", "run"):
            for number, item in enumerate(getattr(self.recipe.depends, role)):
                path = ("depends", role, number)
                if isinstance(item, str):
                    yield wanted_package(role, item, self.place(*path))
                elif self.hold(item.when, *path, "when"):
                    yield wanted_package(role, item.atom, self.place(*path))

    def configure(self) -> Iterator[str]:
        for number, item in enumerate(self.recipe.configure):
            if isinstance(item, str):
                yield item
            elif self.hold(item.when, "configure", number, "when"):
                yield from (item.then,) if isinstance(item.then, str) else item.then

    def owner(self, text: str, number: int) -> str:
        """`uid:gid` of a rule of `files`; names are those that the recipe itself declares.

        Raises:
            RecipeError: at the owner's place, where it names another account or an impossible id.
        """
        users, groups = self.recipe.users, self.recipe.groups
        user, _, group = text.partition(":")
        uid, gid = (users[user].uid, users[user].gid) if user in users else (_id(user),) * 2
        if group:
            gid = groups[group].gid if group in groups else _id(group)
        if uid is None or gid is None:
            declared = ", ".join(sorted({*users, *groups})) or "none"
            message = f"the owner {text!r} is none of this recipe's accounts"
            hint = "write numbers, as 33:33, or declare it in `users` and `groups`; declared: "
            place = self.place("files", number, "owner")
            raise RecipeError(message, place=place, hint=hint + declared)
        return f"{uid}:{gid}"


def _id(text: str) -> int | None:
    return 0 if text == "root" else id_of(text)


def wanted_package(role: str, text: str, place: str) -> WantedPackage:
    """A dependency from its text.

    Raises:
        RecipeError: it is neither an atom nor `debian:name[=version]`.
    """
    if text.startswith("debian:"):
        return WantedPackage(role, None, text.removeprefix("debian:"), place)
    return WantedPackage(role, Atom.parse(text, place=place), "", place)
