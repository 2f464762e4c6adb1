"""A recipe evaluated for one version and one set of flags: no condition is left.

The typed recipe comes with the located nodes that it was read from, so that every error here still
names the line that the user wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from buildit.errors import RecipeError
from buildit.model.atom import Atom
from buildit.model.condition import (
    Requirement,
    check_flags,
    check_required,
    holds,
    parse_condition,
    parse_required,
)
from buildit.model.pathglob import path_matcher
from buildit.model.sourcename import name_of
from buildit.model.task import Group, User
from buildit.model.use import (
    Flag,
    FlagLayer,
    FlagValue,
    Setting,
    assignment_text,
    declare,
    flag_values,
    resolve_flags,
)
from buildit.plan.identity import OutputInput, RuleInput
from buildit.plan.steps import Phase
from buildit.recipe.leaf import id_of
from buildit.recipe.package import (
    ConditionalAtom,
    ConditionalItem,
    OutputSpec,
    Package,
    PatchSpec,
    Recipe,
    SourceSpec,
)
from buildit.recipe.yaml.node import Mapping as MappingNode
from buildit.recipe.yaml.node import Node, Sequence

_DEBIAN = "debian:"


@dataclass(frozen=True, slots=True)
class WantedPackage:
    """One dependency: `atom` of a tree package, or the name (with `=version`) of a .deb.

    Of a .deb: `depends` is whether an image takes its Depends with it, `without` are globs of its
    files that are left out.
    """

    role: str
    atom: Atom | None
    debian: str
    place: str
    depends: bool = True
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WantedPatch:
    """`written` is the path or URL as written, in the file `declared_in`."""

    written: str
    declared_in: str
    place: str
    spec: PatchSpec


@dataclass(frozen=True, slots=True)
class WantedSource:
    spec: SourceSpec
    declared_in: str
    place: str


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A package ready to be identified: only digests of files are still to be taken."""

    package: Package
    settings: Mapping[str, Setting]
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
    def flags(self) -> Mapping[str, FlagValue]:
        return flag_values(self.settings)

    def enabled(self) -> str:
        """The value of `USE`: enabled flags and choices, sorted, separated by blanks."""
        words = [
            f"{name}={value}" if isinstance(value, str) else name
            for name, value in self.flags.items()
            if value
        ]
        return " ".join(sorted(words))

    def flag_texts(self) -> tuple[str, ...]:
        return tuple(sorted(assignment_text(n, v) for n, v in self.flags.items()))


def written_at(node: Node, *path: str | int) -> str:
    """Where the node at `path` was written, or the nearest node above it."""
    for step in path:
        inner: Node | None = None
        if isinstance(node, MappingNode):
            inner = node.get(str(step))
        elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
            inner = node.items[step]
        if inner is None:
            break
        node = inner
    return str(node.place)


def declared_flags(package: Package) -> Mapping[str, Flag]:
    """The flags that a package declares.

    Raises:
        RecipeError: a declaration is wrong.
    """
    flags = []
    for name, spec in package.recipe.use.items():
        place = written_at(package.node, "use", name)
        default: FlagValue = spec.default
        if not spec.choices:
            if spec.default not in ("on", "off"):
                raise RecipeError(
                    f"the default of flag {name!r} is {spec.default!r}",
                    place=written_at(package.node, "use", name, "default"),
                    hint="write on or off, or give the flag `choices`",
                )
            default = spec.default == "on"
        flags.append(Flag(name, default, spec.choices, spec.description, place))
    return declare(flags)


def evaluate(package: Package, layers: tuple[FlagLayer, ...]) -> Evaluated:
    """Decide every condition of the package under its own layers and then `layers`.

    Raises:
        RecipeError: an unknown flag, a malformed condition, atom or rule.
        UnsatisfiableError: the flags break a rule of required-use.
    """
    declared = declared_flags(package)
    settings = resolve_flags(package.name, declared, _ordered(package.layers, layers))
    check_required(package.name, _requirements(package, declared), declared, settings)
    conditions = _Conditions(package, declared, flag_values(settings))
    recipe = package.recipe
    return Evaluated(
        package=package,
        settings=settings,
        sources=tuple(_sources(package)),
        patches=tuple(_patches(package, conditions)),
        wanted=tuple(_wanted(package, conditions)),
        configure=tuple(_configure(package, conditions)),
        overrides=_overrides(recipe),
        file_rules=tuple(
            RuleInput(
                rule.path,
                "" if rule.mode is None else f"{rule.mode:04o}",
                _owner(package, number),
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


def _owner(package: Package, number: int) -> str:
    """`uid:gid` of a rule of `files`; names are those that the recipe itself declares.

    Raises:
        RecipeError: at the owner's place, where it names another account or an impossible id.
    """
    recipe = package.recipe
    text = recipe.files[number].owner
    if text is None:
        return ""
    user, _, group = text.partition(":")
    uid = recipe.users[user].uid if user in recipe.users else _id(user)
    own = recipe.users[user].gid if user in recipe.users else _id(user)
    gid = own if not group else recipe.groups[group].gid if group in recipe.groups else _id(group)
    if uid is None or gid is None:
        declared = ", ".join(sorted({*recipe.users, *recipe.groups})) or "none"
        raise RecipeError(
            f"the owner {text!r} is none of this recipe's accounts",
            place=written_at(package.node, "files", number, "owner"),
            hint=f"write numbers, as 33:33, or declare it in `users` and `groups`; "
            f"declared: {declared}",
        )
    return f"{uid}:{gid}"


def _id(text: str) -> int | None:
    return 0 if text == "root" else id_of(text)


def _ordered(own: tuple[FlagLayer, ...], given: tuple[FlagLayer, ...]) -> tuple[FlagLayer, ...]:
    """DESIGN §2.2: base chain, config, container, the embedded package's `use`, command line."""
    chain = tuple(layer for layer in own if layer.name != "use")
    embedded = tuple(layer for layer in own if layer.name == "use")
    command = tuple(layer for layer in given if layer.name == "command line")
    outer = tuple(layer for layer in given if layer.name != "command line")
    return (*chain, *outer, *embedded, *command)


@dataclass(frozen=True, slots=True)
class _Conditions:
    package: Package
    declared: Mapping[str, Flag]
    flags: Mapping[str, FlagValue]

    def hold(self, text: str, *path: str | int) -> bool:
        place = written_at(self.package.node, *path)
        rule = parse_condition(text, place=place)
        check_flags(rule, {n: flag.choices for n, flag in self.declared.items()}, place=place)
        return holds(rule, self.flags)


def _requirements(package: Package, declared: Mapping[str, Flag]) -> tuple[Requirement, ...]:
    requirements = []
    for number, value in enumerate(package.recipe.required_use):
        place = written_at(package.node, "required-use", number)
        rule = parse_required(value, place=place)
        check_flags(rule, {name: flag.choices for name, flag in declared.items()}, place=place)
        requirements.append(Requirement(rule, place))
    return tuple(requirements)


def _sources(package: Package) -> Iterator[WantedSource]:
    listed = package.node.get("sources")
    for number, spec in enumerate(package.recipe.sources):
        item = listed.items[number] if isinstance(listed, Sequence) else package.node
        place = written_at(package.node, "sources", number)
        _check_source(spec, place)
        yield WantedSource(spec, item.place.file, place)


def _check_source(spec: SourceSpec, place: str) -> None:
    if not spec.unpack and spec.exclude:
        raise RecipeError(
            "`exclude` is for archives, and this source is not unpacked",
            place=place,
            hint="leave out `exclude:` or `unpack: no`",
        )
    if not (spec.name or name_of(spec.url)):
        raise RecipeError(
            f"the URL {spec.url} names no file", place=place, hint="write its `name:` too"
        )
    for glob in spec.exclude:
        path_matcher(glob, place=place)


def _patches(package: Package, conditions: _Conditions) -> Iterator[WantedPatch]:
    listed = package.node.get("patches")
    for written, item in package.recipe.patches.items():
        spec = PatchSpec(description=item) if isinstance(item, str) else item
        if spec.when is None or conditions.hold(spec.when, "patches", written, "when"):
            key = listed.key(written) if isinstance(listed, MappingNode) else None
            place = key.place if key else package.node.place
            yield WantedPatch(written, place.file, str(place), spec)


def _wanted(package: Package, conditions: _Conditions) -> Iterator[WantedPackage]:
    depends = package.recipe.depends
    for role, items in (("build", depends.build), ("link", depends.link), ("run", depends.run)):
        for number, item in enumerate(items):
            path = ("depends", role, number)
            text = item
            if isinstance(item, ConditionalAtom):
                if not conditions.hold(item.when, *path, "when"):
                    continue
                text = item.atom
            place = written_at(package.node, *path)
            yield wanted_package(role, str(text), place)


def wanted_package(role: str, text: str, place: str) -> WantedPackage:
    """A dependency from its text.

    Raises:
        RecipeError: it is neither an atom nor `debian:name[=version]`.
    """
    if text.startswith(_DEBIAN):
        return WantedPackage(role, None, text.removeprefix(_DEBIAN), place)
    return WantedPackage(role, Atom.parse(text, place=place), "", place)


def _configure(package: Package, conditions: _Conditions) -> Iterator[str]:
    for number, item in enumerate(package.recipe.configure):
        if isinstance(item, ConditionalItem):
            if conditions.hold(item.when, "configure", number, "when"):
                yield from (item.then,) if isinstance(item.then, str) else item.then
        else:
            yield item


def _overrides(recipe: Recipe) -> dict[Phase, str]:
    written = {
        Phase.PREPARE: recipe.steps.prepare,
        Phase.CONFIGURE: recipe.steps.configure,
        Phase.COMPILE: recipe.steps.compile,
        Phase.CHECK: recipe.steps.check,
        Phase.INSTALL: recipe.steps.install,
    }
    return {phase: text for phase, text in written.items() if text is not None}
