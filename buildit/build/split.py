"""Which output each installed file belongs to: ordered glob rules, the first match wins.

What no rule takes is `runtime`. A link-time `.so` is told from a plugin by what lies beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from buildit.errors import BuildError
from buildit.model.artifact import RUNTIME
from buildit.model.pathglob import path_matcher
from buildit.model.tree import Entry, Kind, sort_key

SPLITTER = "1"
"""Version of the rules; a part of every build key."""

DEV, DOC, LOCALE, DEBUG = "dev", "doc", "locale", "debug"

_LINK_DIRECTORY = re.compile(r"usr/lib(?:64|/[^/]+-linux-[^/]+)?")
_VERSIONED = re.compile(r".+\.so\.[0-9].*|.+-[0-9][0-9.]*\.so")


@dataclass(frozen=True, slots=True)
class OutputRule:
    """Files that match one of `globs` go to the output `name`.

    A rule of a recipe that is not `optional` must leave its output with something in it.
    """

    name: str
    globs: tuple[str, ...]
    optional: bool = True


DEFAULT_RULES = (
    OutputRule(
        RUNTIME,  # licences must go wherever the files go
        (
            "usr/share/doc/**/copyright*",
            "usr/share/doc/**/COPYING*",
            "usr/share/doc/**/COPYRIGHT*",
            "usr/share/doc/**/LICEN[CS]E*",
            "usr/share/doc/**/NOTICE*",
            "usr/share/licenses/**",
        ),
    ),
    OutputRule(DEBUG, ("usr/lib/debug/**", "usr/src/debug/**")),
    OutputRule(
        DEV,
        (
            "usr/include/**",
            "**/*.a",
            "**/*.la",
            "usr/lib/**/*.[cho]",
            "usr/lib/**/pkgconfig/**",
            "usr/lib64/pkgconfig/**",
            "usr/share/pkgconfig/**",
            "usr/lib/**/cmake/**",
            "usr/share/cmake/**",
            "usr/share/*/cmake/**",
            "usr/share/aclocal/**",
            "usr/share/gir-1.0/**",
            "usr/share/vala/**",
            "usr/bin/*-config",
        ),
    ),
    OutputRule(LOCALE, ("usr/share/locale/**",)),
    OutputRule(
        DOC,
        (
            "usr/share/man/**",
            "usr/share/info/**",
            "usr/share/doc/**",
            "usr/share/gtk-doc/**",
            "usr/share/help/**",
            "usr/man/**",
            "usr/doc/**",
            "usr/share/lintian/**",  # words for Debian's own checker
            "usr/share/doc-base/**",
        ),
    ),
)


def split(
    entries: Iterable[Entry], recipe_rules: Sequence[OutputRule] = ()
) -> Mapping[str, tuple[Entry, ...]]:
    """Every output with its entries in the order of layers; `runtime` is there even when empty.

    A recipe's rules come before the usual ones. A directory is in each output that has something
    below it; an empty one goes where its rule says. A hard link whose first name went elsewhere
    becomes a file of its own.

    Raises:
        BuildError: an output of the recipe that must have something in it is empty.
        RecipeError: a glob is malformed.
    """
    ordered = sorted(entries, key=sort_key)
    outputs = _parted(ordered, recipe_rules)
    for rule in recipe_rules:
        if not rule.optional and not outputs.get(rule.name):
            raise BuildError(
                f"the output {rule.name!r} is empty: nothing matches {', '.join(rule.globs)}",
                hint="correct `outputs:` of the recipe, or say `optional: yes` there",
            )
    return {
        name: tuple(sorted((*found, *_parents(ordered, found)), key=sort_key))
        for name, found in sorted(outputs.items())
    }


def _parted(ordered: Sequence[Entry], recipe_rules: Sequence[OutputRule]) -> dict[str, list[Entry]]:
    """The entries by output, without the directories that others lie in."""
    own, usual = _compiled(recipe_rules), _compiled(DEFAULT_RULES)
    siblings = _siblings(ordered)
    inhabited = {parent for e in ordered if e.kind is not Kind.DIRECTORY for parent in _above(e)}
    outputs: dict[str, list[Entry]] = {RUNTIME: []}
    firsts: dict[tuple[str, str], Entry] = {}
    for entry in ordered:
        if entry.path in inhabited:
            continue
        name = _first(own, entry.path)
        if name is None and _links_a_library(entry, siblings):
            name = DEV
        name = name or _first(usual, entry.path) or RUNTIME
        outputs.setdefault(name, []).append(_own(entry, name, firsts))
    return outputs


def _compiled(rules: Sequence[OutputRule]) -> Sequence[tuple[str, Callable[[str], bool]]]:
    return [(rule.name, path_matcher(glob)) for rule in rules for glob in rule.globs]


def _first(rules: Sequence[tuple[str, Callable[[str], bool]]], path: str) -> str | None:
    return next((name for name, matches in rules if matches(path)), None)


def _above(entry: Entry) -> Iterator[str]:
    path = entry.path
    while path := path.rpartition("/")[0]:
        yield path


def _parents(ordered: Sequence[Entry], found: Sequence[Entry]) -> Iterator[Entry]:
    """The directories that the entries of one output lie in."""
    inside = {entry.path for entry in found}
    above = {path for entry in found for path in _above(entry)} - inside
    return (entry for entry in ordered if entry.kind is Kind.DIRECTORY and entry.path in above)


def _own(entry: Entry, output: str, firsts: dict[tuple[str, str], Entry]) -> Entry:
    """The entry as it can stand in its output alone; `firsts` are the first names seen so far.

    A hard link parted from its first name becomes a file; later links in that output name it.
    """
    if entry.kind is Kind.FILE:
        firsts["", entry.path] = firsts[output, entry.path] = entry
    if entry.kind is not Kind.HARDLINK:
        return entry
    first = firsts.get((output, entry.target))
    if first is not None:
        return replace(entry, target=first.path)
    alone = replace(firsts["", entry.target], path=entry.path)
    firsts[output, entry.target] = alone
    return alone


def _siblings(entries: Sequence[Entry]) -> Mapping[str, frozenset[str]]:
    names: dict[str, set[str]] = {}
    for entry in entries:
        directory, _, name = entry.path.rpartition("/")
        if ".so." in name:
            names.setdefault(directory, set()).add(name)
    return {directory: frozenset(found) for directory, found in names.items()}


def _links_a_library(entry: Entry, siblings: Mapping[str, frozenset[str]]) -> bool:
    """Whether this is what `-lNAME` finds: a symlink to, or a script beside, a versioned library.

    Only where the linker looks: `.so` files deeper down are plugins, whatever they link to.
    """
    directory, _, name = entry.path.rpartition("/")
    if not name.endswith(".so") or not _LINK_DIRECTORY.fullmatch(directory):
        return False
    if entry.kind is Kind.SYMLINK:
        target = entry.target.rpartition("/")[2]
        return _VERSIONED.fullmatch(target) is not None
    return any(other.startswith(f"{name}.") for other in siblings.get(directory, ()))
