"""From what a build installed to its outputs: normalised, split, scanned, checked, packed once.

Which output each file belongs to, ordered glob rules say; the first match wins. What no rule takes
is `runtime`. A link-time `.so` is told from a plugin by what lies beside it, a library's `*-config`
and an object file by what is in them (`needed_at_run_time`).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import BinaryIO, cast

from buildit.archive.admit import parents
from buildit.archive.streams import Content
from buildit.errors import BuildError
from buildit.make.capture.checks import Finding, Subject, contained, findings, refuse, yaml_path
from buildit.make.capture.elf import MalformedElf, read_elf
from buildit.make.capture.needs import Look, Needs, Open, Sight, looks, needs_of, providers
from buildit.make.capture.normalise import LIMITS, Change, InstalledTree, normalised, open_content
from buildit.make.layer import put_layer
from buildit.model.artifact import RUNTIME, Output
from buildit.model.config import Limits
from buildit.model.globs import path_matcher
from buildit.model.plan import Waiver
from buildit.model.platform import Platform
from buildit.model.tree import Entry, Kind, sort_key
from buildit.model.words import some
from buildit.plan.identity import OutputInput, RuleInput
from buildit.plan.steps import BUILD_DIRECTORY
from buildit.store.blobs import Batch

_BUILD_PATHS = tuple(f"{BUILD_DIRECTORY}/{one}".encode() for one in ("src", "out"))
CAPTURE = "capture"
"""The part of a log that says what is not as it was installed."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Installed:
    """What the package `label` installed: entries by output, what each needs, and what is not as it
    was installed.

    `open` gives the content of a file, `declared` are the paths whose mode the recipe gives,
    `looked` what the content of files says.
    """

    open: Open
    platform: Platform
    label: str
    outputs: Mapping[str, tuple[Entry, ...]]
    needs: Mapping[str, Needs]
    changes: tuple[Change, ...]
    declared: frozenset[str]
    looked: Mapping[str, Look]

    def refuse_empty(self, output_rules: Sequence[OutputInput]) -> None:
        """Refuse a package of nothing, unless `outputs: {runtime: {optional: yes}}` says it is
        meant.

        Raises:
            BuildError: nothing was installed.
        """
        meant = any(r.name == RUNTIME and r.optional and not r.paths for r in output_rules)
        if not meant and not any(self.outputs.values()):
            hint = "install into $DESTDIR, or declare it: outputs: {runtime: {optional: yes}}"
            text = "the package is empty: nothing was installed"
            raise BuildError(text, place=self.label, hint=hint)

    def told(self, *, loud: bool = False) -> tuple[str, ...]:
        """What is not as it was installed, one line a kind; `loud`: only what may not be meant."""
        lines = told(change for change in self.changes if change.loud or not loud)
        others = [name for name, entries in self.outputs.items() if entries and name != RUNTIME]
        if others and not self.outputs[RUNTIME]:
            lines += (f"an image gets nothing of it: everything is in {', '.join(others)}",)
        return lines

    def check(self, waivers: Sequence[Waiver]) -> tuple[Finding, ...]:
        """What the rules find in the outputs and no waiver covers; warnings are returned.

        Raises:
            BuildError: a finding is an error.
            RecipeError: the glob of a waiver is malformed.
        """
        found: list[Finding] = []
        for name, entries in self.outputs.items():
            files = (entry.path for entry in entries if entry.kind is Kind.FILE)
            looked = {path: self.looked[path] for path in files if path in self.looked}
            facts = name, entries, self.open, looked, self.platform, _BUILD_PATHS, self.declared
            found += findings(Subject(*facts), waivers)
        refuse(self.label, found)
        return tuple(found)

    def providers(self, beyond: Callable[[], Sight]) -> dict[str, dict[str, str]]:
        """Providers by output; `beyond` is what the build saw besides what it installed: listing
        that is for what needs something."""
        outputs, platform = self.outputs, self.platform
        return {
            name: providers(needs, name, outputs, beyond(), platform) if needs.wanted else {}
            for name, needs in self.needs.items()
        }

    def pack(self, found: Mapping[str, Mapping[str, str]], batch: Batch) -> dict[str, Output]:
        """Write each output as one layer, and its contents; `found` are the providers."""
        outputs = {}
        for name, entries in self.outputs.items():
            met = dict(sorted(found[name].items()))
            # Links of others on the way to what is needed are needed as well.
            every = tuple(sorted({*self.needs[name].wanted, *met}))
            packed = put_layer(batch, entries, lambda entry: cast(Content, self.open(entry)))
            outputs[name] = replace(packed, needs=every, providers=met)
        return outputs


def capture(
    tree: InstalledTree,
    file_rules: Sequence[RuleInput],
    output_rules: Sequence[OutputInput],
    epoch: int,
    platform: Platform,
    label: str,
    limits: Limits = LIMITS,
) -> Installed:
    """Look at what was installed, without packing anything; `label` is the package.

    Raises:
        RecipeError: a rule is malformed.
        BuildError: something was installed that no artifact can hold, or a rule fits nothing.
    """
    with readable():
        claimed = claims(output_rules)
        found = normalised(tree, file_rules, epoch, place=label, claimed=claimed, limits=limits)

    def content(entry: Entry) -> BinaryIO:
        return open_content(tree, entry.path)

    at_run_time = needed_at_run_time(found.entries, content)
    outputs = split_outputs(found.entries, output_rules, at_run_time)
    looked = looks((entry for entries in outputs.values() for entry in entries), content)
    needs = {name: needs_of(entries, looked, platform) for name, entries in outputs.items()}
    changes = sorted((*found.changes, *moves(found.entries, outputs, output_rules)))
    return Installed(
        content, platform, label, outputs, needs, tuple(changes), found.declared, looked
    )


@contextmanager
def readable() -> Iterator[None]:
    """Say what the system says of an installed tree.

    Raises:
        BuildError: in the place of any OSError.
    """
    try:
        yield
    except OSError as error:
        text = f"what was installed cannot be read: {error.strerror}"
        raise BuildError(text, place=str(error.filename or "")) from error


def told(changes: Iterable[Change]) -> tuple[str, ...]:
    """One line a kind of change."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for change in changes:
        kinds.setdefault((change.what, change.keep), []).append(change.path)
    lines = []
    for (what, keep), paths in kinds.items():
        shown = some([path if path.isprintable() else ascii(path) for path in paths], _SHOWN)
        kept = ", ".join(map(yaml_path, paths[:_SHOWN]))
        lines.append(f"{what}: {shown}" + (f"; to keep: {keep % kept}" if keep else ""))
    return tuple(lines)


# -- which output a file belongs to

DEV, DOC, LOCALE, DEBUG = "dev", "doc", "locale", "debug"

_LINK_DIRECTORY = re.compile(r"usr/lib(?:64|/[^/]+-linux-[^/]+)?")
_CONFIG = re.compile(r"usr/bin/[^/]+-config")
_OBJECT = re.compile(r"usr/lib/.+\.o")
_ASKED = tuple(f"--{word}".encode() for word in ("cflags", "cxxflags", "ldflags", "libs"))
_RELOCATABLE, _BPF = 1, 247  # ET_REL, EM_BPF (gABI 4)
_PRIVATE = re.compile(r".+\.[aco]|usr/bin/[^/]+-config")
_VERSIONED = re.compile(r".+\.so\.[0-9].*|.+-[0-9][0-9.]*\.so")


_USUAL = {
    # licences must go wherever the files go
    RUNTIME: """
        usr/share/doc/**/copyright* usr/share/doc/**/COPYING* usr/share/doc/**/COPYRIGHT*
        usr/share/doc/**/LICEN[CS]E* usr/share/doc/**/NOTICE* usr/share/licenses/**
    """,
    DEBUG: "usr/lib/debug/** usr/src/debug/**",
    DEV: """
        usr/include/** **/*.a **/*.la usr/lib/**/*.[cho]
        usr/lib/**/pkgconfig/** usr/lib64/pkgconfig/** usr/share/pkgconfig/**
        usr/lib/**/cmake/** usr/share/cmake/** usr/share/*/cmake/**
        usr/share/aclocal/** usr/share/gir-1.0/** usr/share/vala/** usr/bin/*-config
    """,
    LOCALE: "usr/share/locale/**",
    # lintian's and doc-base's are words for Debian's own tools
    DOC: """
        usr/share/man/** usr/share/info/** usr/share/doc/** usr/share/gtk-doc/** usr/share/help/**
        usr/man/** usr/doc/** usr/share/lintian/** usr/share/doc-base/**
    """,
}
_USUAL_RULES = tuple(OutputInput(n, tuple(g.split()), optional=True) for n, g in _USUAL.items())


def needed_at_run_time(
    entries: Sequence[Entry], open_: Callable[[Entry], BinaryIO]
) -> frozenset[str]:
    """Paths whose names look like development, and whose content does not.

    `usr/bin/x-config` that answers no `--cflags` or `--libs` is a program like others. An object
    file that no linker of this system takes (BPF, or no ELF at all) is data of some program.
    """
    found = set()
    links = []
    for entry in entries:
        config = _CONFIG.fullmatch(entry.path) is not None
        if entry.kind is Kind.DIRECTORY or not (config or _OBJECT.fullmatch(entry.path)):
            continue
        if entry.kind is Kind.FILE:
            with open_(entry) as stream:
                if not (contained(stream, _ASKED) if config else _linkable(stream)):
                    found.add(entry.path)
        else:
            base = "" if entry.kind is Kind.HARDLINK else posixpath.dirname(entry.path)
            target = posixpath.normpath(posixpath.join("/", base, entry.target)).lstrip("/")
            links.append((entry.path, target))
    known = {entry.path for entry in entries}
    for path, target in links:
        if target in found or (target in known and not _CONFIG.fullmatch(target)):
            found.add(path)
    return frozenset(found)


def _linkable(stream: BinaryIO) -> bool:
    with suppress(MalformedElf):
        elf = read_elf(stream)
        return elf is not None and elf.type == _RELOCATABLE and elf.machine.number != _BPF
    return False


def split_outputs(
    entries: Iterable[Entry],
    recipe_rules: Sequence[OutputInput] = (),
    at_run_time: frozenset[str] = frozenset(),
) -> Mapping[str, tuple[Entry, ...]]:
    """Every output with its entries in the order of layers; `runtime` is there even when empty.

    `at_run_time` are paths that no usual rule takes: see `needed_at_run_time`.

    A recipe's rules come before the usual ones. A directory is in each output that has something
    below it; an empty one goes where its rule says. A hard link whose first name went elsewhere
    becomes a file of its own.

    Raises:
        BuildError: an output of the recipe that must have something in it is empty.
        RecipeError: a glob is malformed.
    """
    own, usual = _compiled(recipe_rules), _compiled(_USUAL_RULES)
    ordered = sorted(entries, key=sort_key)
    others = [entry for entry in ordered if entry.kind is not Kind.DIRECTORY]
    inhabited = {above for entry in others for above in parents(entry.path)}
    siblings: dict[str, set[str]] = {}
    for directory, _, last in (entry.path.rpartition("/") for entry in ordered):
        if ".so." in last:
            siblings.setdefault(directory, set()).add(last)
    outputs: dict[str, list[Entry]] = {RUNTIME: []}
    firsts: dict[tuple[str, str], Entry] = {}
    for entry in ordered:
        if entry.path in inhabited:
            continue
        name = _first(own, entry.path)
        if name is None and _links_a_library(entry, siblings):
            name = DEV
        if name is None and entry.path not in at_run_time:
            name = _first(usual, entry.path)
        name = name or RUNTIME
        outputs.setdefault(name, []).append(_own(entry, name, firsts))
    for rule in recipe_rules:
        if not rule.optional and not outputs.get(rule.name):
            text = f"the output {rule.name!r} is empty: nothing matches {', '.join(rule.paths)}"
            hint = "correct `outputs:` of the recipe, or say `optional: yes` there"
            raise BuildError(text, hint=hint)
    for found in outputs.values():
        inside = {entry.path for entry in found}
        above = {path for entry in found for path in parents(entry.path)} - inside
        found += [one for one in ordered if one.kind is Kind.DIRECTORY and one.path in above]
    return {name: tuple(sorted(found, key=sort_key)) for name, found in sorted(outputs.items())}


def moves(
    entries: Iterable[Entry],
    outputs: Mapping[str, Sequence[Entry]],
    recipe_rules: Sequence[OutputInput] = (),
) -> Iterator[Change]:
    """What splitting did that the author of a recipe may not have meant.

    Not the usual headers, libraries and documents: what lies deeper, as data or plugins of some
    program do, and went to `dev` by its name alone.
    """
    own = _compiled(recipe_rules)
    linked = {entry.path for entry in entries if entry.kind is Kind.HARDLINK}
    for name, parts in outputs.items():
        for entry in parts:
            directory = entry.path.rpartition("/")[0]
            if entry.kind is Kind.FILE and entry.path in linked:
                yield Change("hard link made a file: another output has the rest", entry.path)
            if name != DEV or not _PRIVATE.fullmatch(entry.path) or _first(own, entry.path):
                continue
            meant = _LINK_DIRECTORY.fullmatch(directory) or entry.path.startswith("usr/include/")
            config = entry.kind is Kind.FILE and directory == "usr/bin"
            if not meant and not config and entry.kind is not Kind.DIRECTORY:
                keep = "outputs: {runtime: [%s]}"
                yield Change("put in `dev`, which images lack", entry.path, keep, loud=True)


def claims(recipe_rules: Sequence[OutputInput]) -> Callable[[str], bool]:
    """A test of paths that a recipe's rules name, other than by what takes everything below."""
    named = [matches for _, matches in _compiled(recipe_rules)]
    globs = (glob for rule in recipe_rules for glob in rule.paths)
    exact = [path_matcher(glob) for glob in globs if glob.rpartition("/")[2].strip("*")]
    return lambda path: any(matches(path) for matches in (named if path.endswith(".la") else exact))


def _compiled(rules: Sequence[OutputInput]) -> Sequence[tuple[str, Callable[[str], bool]]]:
    return [(rule.name, path_matcher(glob)) for rule in rules for glob in rule.paths]


def _first(rules: Sequence[tuple[str, Callable[[str], bool]]], path: str) -> str | None:
    return next((name for name, matches in rules if matches(path)), None)


def _own(entry: Entry, output: str, firsts: dict[tuple[str, str], Entry]) -> Entry:
    """The entry as it can stand in its output alone; `firsts` are the first names seen so far.

    A hard link parted from its first name becomes a file; later links in that output name it.
    """
    if entry.kind is Kind.FILE:
        firsts["", entry.path] = firsts[output, entry.path] = entry
    if entry.kind is not Kind.HARDLINK:
        return entry
    if first := firsts.get((output, entry.target)):
        return replace(entry, target=first.path)
    alone = replace(firsts["", entry.target], path=entry.path)
    firsts[output, entry.target] = alone
    return alone


def _links_a_library(entry: Entry, siblings: Mapping[str, set[str]]) -> bool:
    """Whether this is what `-lNAME` finds: a symlink to, or a script beside, a versioned library.

    Only where the linker looks: `.so` files deeper down are plugins, whatever they link to.
    """
    directory, _, name = entry.path.rpartition("/")
    if not name.endswith(".so") or not _LINK_DIRECTORY.fullmatch(directory):
        return False
    if entry.kind is Kind.SYMLINK:
        return _VERSIONED.fullmatch(entry.target.rpartition("/")[2]) is not None
    return any(other.startswith(f"{name}.") for other in siblings.get(directory, ()))
