"""What an output must not be: small rules, each of which gives findings with a stable id.

An `error` stops the build, a `warning` is reported. A recipe may waive a finding, by id and path,
with a reason. Rules look and never change anything.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

from buildit.archive.contents import TOP_LINKS
from buildit.digest import CHUNK
from buildit.errors import BuildError, UnsatisfiableError
from buildit.make.capture.needs import (
    AR_MAGIC,
    Listing,
    Look,
    Needs,
    Open,
    described,
    fault,
    is_meant,
    library_directories,
)
from buildit.model.artifact import RUNTIME
from buildit.model.globs import glob_of, path_matcher
from buildit.model.plan import Waiver
from buildit.model.platform import Platform
from buildit.model.tree import Entry, Kind
from buildit.model.words import yaml_word

_MOST_MEMBERS = 100_000
_PLACES = frozenset(("boot", "etc", "opt", "srv", "usr", "var"))
_NOT_OURS = ("usr/local/", "var/tmp/", "var/run/")
_MISSING_PROVIDER = "missing-provider"  # the id under which a need that nothing meets is waived
_WRONG_LIBRARY = re.compile(r"usr/(?:lib64/|lib/)(?:lib)?[^/]+\.so(?:\.[0-9][^/]*)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\udc80-\udcff]")
_OTHER_MODE = "install it with another mode"
_SEARCHABLE = re.compile(r"/usr/lib(?:/|$)|/usr/lib64(?:/|$)|/opt/")


@dataclass(frozen=True, slots=True)
class Finding:
    """`id` never changes its meaning; `path` is in the tree; `hint` is the next step.

    `declaration` is an item of `files:` that makes it right, where one does.
    """

    id: str
    path: str
    message: str
    hint: str
    declaration: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.message} [{self.id}]"


@dataclass(frozen=True)
class Subject:
    """One output to be checked, with what `looks` says of its files.

    `build_paths` are places that exist during the build only. `declared` are the paths whose mode
    the recipe gives.
    """

    output: str
    entries: tuple[Entry, ...]
    open: Open
    looked: Mapping[str, Look]
    platform: Platform
    build_paths: tuple[bytes, ...] = ()
    declared: frozenset[str] = frozenset()

    @cached_property
    def listing(self) -> Listing:
        return Listing(self.entries)

    def head(self, entry: Entry) -> bytes:
        """How a file begins that was worth a look."""
        return self.looked[entry.path].head if entry.path in self.looked else b""


Breaches = Iterator[tuple[str, str]]
"""What is wrong with an entry, and the next step."""


def findings(checked: Subject, waivers: Sequence[Waiver] = ()) -> tuple[Finding, ...]:
    """What no waiver covers, sorted by path and id.

    Raises:
        RecipeError: the glob of a waiver is malformed.
    """
    left: list[Finding] = []
    for rule, check in CHECKS.items():
        covers = _accepted(rule, waivers)
        for entry in checked.entries:
            declared = f"{{path: {yaml_path(entry.path)}, mode: {entry.mode:05o}}}"
            left += (
                Finding(rule, entry.path, *found, declared if check in _MODES else "")
                for found in check(checked, entry)
                if not covers(entry.path)
            )
    return tuple(sorted(left, key=lambda f: (f.path, f.id, f.message)))


def _accepted(rule: str, waivers: Sequence[Waiver]) -> Callable[[str], bool]:
    """Whether a waiver of this rule covers a path."""
    globs = [path_matcher(waiver.path) for waiver in waivers if waiver.check == rule]
    return lambda path: any(matches(path) for matches in globs)


def refuse(package: str, found: Sequence[Finding]) -> None:
    """Stop at findings that are errors: all but those of `WARNINGS`.

    Raises:
        BuildError: with every error as a detail, and the first one's next step as hint.
    """
    errors = [finding for finding in found if finding.id not in WARNINGS]
    if errors:
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        hint = f"{first.hint}; or, with a reason, {waiver_text(first.id, first.path)}"
        if first.declaration:
            declared = ", ".join(finding.declaration for finding in errors if finding.declaration)
            hint = f"{first.hint}, or declare it: files: [{declared}]"
        text = f"{package}: what was installed breaks a rule: {first.message}{more}"
        raise BuildError(text, place=first.path, hint=hint, details=tuple(map(str, errors)))


def refuse_unprovided(
    needs: Needs, found: Mapping[str, str], waivers: Sequence[Waiver], label: str
) -> None:
    """Refuse a runtime output with a need that no output meets, unless the recipe accepts it.

    `found` are the providers, `label` the package. Other outputs may need what nothing provides.

    Raises:
        UnsatisfiableError: it names the file and what it needs, and all others in the details.
    """
    accepted = _accepted(_MISSING_PROVIDER, waivers)
    missing = [
        (files[0], need)
        for need, files in needs.wanted.items()
        if need not in found and not all(map(accepted, files))
    ]
    if not missing:
        return
    path, need = missing[0]
    role = "link" if need.startswith("soname:") else "build"
    text = f"nothing that the build saw provides {described(need)}, which /{path} needs"
    hint = f"add the package that has it to depends.{role}, or do not install the file; where it "
    hint += f"is met otherwise, say so: {waiver_text(_MISSING_PROVIDER, path)}"
    details = tuple(f"/{file}: {described(need)}" for file, need in missing)
    raise UnsatisfiableError(text, place=label, hint=hint, details=details)


def waiver_text(rule: str, path: str) -> str:
    """What a recipe says to accept a finding, ready to copy but for the reason."""
    return f"waivers: [{{check: {rule}, path: {yaml_path(path)}, reason: ...}}]"


def yaml_path(path: str) -> str:
    """A glob that matches this path, as it can stand in a flow mapping of YAML."""
    return yaml_word(glob_of(path))


def library_directory(checked: Subject, entry: Entry) -> Breaches:
    """Libraries lie where Debian's linker and loader look first (DESIGN 2.4)."""
    if entry.kind is not Kind.DIRECTORY and _WRONG_LIBRARY.fullmatch(entry.path):
        right = library_directories(checked.platform)[0]
        yield f"a library outside /{right}", f"configure with --libdir=/{right}"


def search_path(checked: Subject, entry: Entry) -> Breaches:
    """DT_RUNPATH leads to directories of the system only, not to the build or the current one."""
    look = checked.looked.get(entry.path)
    for directory in look.elf.runpath if look and look.elf else ():
        expanded = directory.replace("${ORIGIN}", "$ORIGIN")
        if expanded.startswith("$ORIGIN"):
            origin = "/" + posixpath.dirname(entry.path)
            expanded = posixpath.normpath(origin + expanded.removeprefix("$ORIGIN"))
        if not _SEARCHABLE.match(posixpath.normpath(expanded)):
            hint = "link without -rpath, or with $ORIGIN or a directory below /usr/lib"
            yield f"libraries are searched for in {directory!r}", hint


def build_path(checked: Subject, entry: Entry) -> Breaches:
    """No file speaks of a place that exists during the build only."""
    if entry.kind is Kind.FILE and entry.size and checked.build_paths:
        with checked.open(entry) as stream:
            hits = contained(stream, checked.build_paths)
        for hit in hits:
            hint = "use -ffile-prefix-map, or strip the path in the install step"
            yield f"the build path {hit.decode()} inside", hint


def contained(stream: BinaryIO, needles: Sequence[bytes]) -> list[bytes]:
    """Which of the needles occur, in one pass that holds a chunk and an overlap."""
    missing, tail = list(needles), b""
    overlap = max(map(len, needles)) - 1
    while missing and (chunk := stream.read(CHUNK)):
        window = tail + chunk
        missing = [needle for needle in missing if needle not in window]
        tail = window[-overlap:] if overlap else b""
    return [needle for needle in needles if needle not in missing]


def interpreter(checked: Subject, entry: Entry) -> Breaches:
    """The kernel, and env after it, finds the interpreter of a program that is a script."""
    head = checked.head(entry)
    if not is_meant(head) or not entry.mode & 0o111:
        return
    message, hint = fault(head)
    inside = [p for p in checked.build_paths if head[2:].lstrip(b" \t").startswith(p)]
    if inside and not message:
        message = f"the interpreter below {inside[0].decode()} exists during the build only"
        hint = "name it by its absolute path below /usr/bin, or /bin/sh"
    if message:
        yield message, hint


def set_id(checked: Subject, entry: Entry) -> Breaches:
    """Set-id bits, of programs and directories, are declared, never an accident of the install."""
    if _undeclared(checked, entry, 0o6000):
        who = "its owner" if entry.mode & 0o4000 else "its group"
        directory = entry.kind is Kind.DIRECTORY
        what = f"gives what is made in it {who}" if directory else f"runs it as {who}"
        yield f"mode {entry.mode:04o}, which {what}, is not declared", _OTHER_MODE


def sticky(checked: Subject, entry: Entry) -> Breaches:
    """A sticky bit is declared; with a directory that all may write it is of that rule."""
    if _undeclared(checked, entry, 0o1000) and not entry.mode & 0o002:
        yield f"mode {entry.mode:04o} with the sticky bit is not declared", _OTHER_MODE


def world_writable(checked: Subject, entry: Entry) -> Breaches:
    """What everybody may write is declared, directories with the sticky bit, too."""
    if _undeclared(checked, entry, 0o002):
        yield f"mode {entry.mode:04o}, which lets all write, is not declared", _OTHER_MODE


def _undeclared(checked: Subject, entry: Entry, bits: int) -> bool:
    own = entry.kind in (Kind.FILE, Kind.DIRECTORY)
    return own and entry.mode & bits != 0 and entry.path not in checked.declared


def _place(_: Subject, entry: Entry) -> Breaches:
    """Files lie in /usr, /etc, /var, /opt, /srv and /boot; the rest belongs to the system."""
    top, below = entry.path.partition("/")[::2]
    merged = entry.kind is Kind.SYMLINK and not below and top in TOP_LINKS
    if entry.kind is Kind.DIRECTORY or merged:
        return
    if top not in _PLACES or not below or entry.path.startswith(_NOT_OURS):
        hint = "configure with --prefix=/usr --sysconfdir=/etc --localstatedir=/var"
        if "/perl" in entry.path or entry.path.endswith(("3pm", "perllocal.pod")):
            hint = "configure perl's modules for packages: perl Makefile.PL INSTALLDIRS=vendor"
        yield "a file where no package may install", hint


def development_in_runtime(checked: Subject, entry: Entry) -> Breaches:
    """Headers and static libraries are no part of what images take."""
    header = entry.path.startswith("usr/include/") and entry.kind is not Kind.DIRECTORY
    static = entry.path.endswith(".a") and entry.kind is Kind.FILE
    if checked.output == RUNTIME and (header or static):
        what = "a header" if header else "a static library"
        yield f"{what} in runtime", "leave it to the `dev` output: see `outputs:`"


def broken_link(checked: Subject, entry: Entry) -> Breaches:
    """A symlink is no loop. One that leaves the output is a need, which a provider must meet."""
    if entry.kind is Kind.SYMLINK and checked.listing.resolved(entry.path) is None:
        yield f"a link to {entry.target!r}, a loop", "remove the link, or let it name a file"


def link_target(checked: Subject, entry: Entry) -> Breaches:
    """A symlink names no place of the build, and climbs no further than to the root."""
    if entry.kind is not Kind.SYMLINK:
        return
    target = entry.target.encode("utf-8", "surrogateescape")
    inside = [p.decode() for p in checked.build_paths if target.startswith(p)]
    if inside:
        hint = f"link to {entry.target.removeprefix(inside[0]) or '/'!r}, without $DESTDIR"
        yield f"a link to {entry.target!r}, which exists during the build only", hint
    elif _climbs(entry):
        hint = "write it with fewer `../`, or absolute: where it is unpacked, it may lead out"
        yield f"a link to {entry.target!r}, which climbs above the root", hint


def _climbs(entry: Entry) -> bool:
    depth = 0 if entry.target.startswith("/") else entry.path.count("/")
    for part in entry.target.split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            return True
    return False


def _name(_: Subject, entry: Entry) -> Breaches:
    """Names are UTF-8 without control characters, for terminals, scanners and other systems."""
    if _CONTROL.search(last := entry.path.rpartition("/")[2]):
        yield f"the name {last!a} is not plain UTF-8", "rename it in the install step"


def archive_times(checked: Subject, entry: Entry) -> Breaches:
    """Members of static libraries carry no time and no owner (`ar D`, Debian's default)."""
    if not checked.head(entry).startswith(AR_MAGIC):
        return
    at = len(AR_MAGIC)
    with checked.open(entry) as stream:
        for _ in range(_MOST_MEMBERS):
            stream.seek(at)
            header = stream.read(60)  # ar(5)
            size = header[48:58].strip()
            if len(header) < 60 or not size.isdigit():
                return
            times_and_owners = (header[16:28], header[28:34], header[34:40])
            if any(field.strip() not in (b"", b"0") for field in times_and_owners):
                member = header[:16].decode(errors="replace").strip().rstrip("/") or "/"
                hint = "write it with `ar D` (ARFLAGS=Dcr)"
                yield f"member {member!r} has a time or an owner", hint
                return
            at += 60 + int(size) + int(size) % 2


CHECKS: Mapping[str, Callable[[Subject, Entry], Breaches]] = {
    "library-directory": library_directory,
    "search-path": search_path,
    "build-path": build_path,
    "interpreter": interpreter,
    "set-id": set_id,
    "sticky": sticky,
    "place": _place,
    "development-in-runtime": development_in_runtime,
    "broken-link": broken_link,
    "link-target": link_target,
    "world-writable": world_writable,
    "name": _name,
    "archive-times": archive_times,
}
WARNINGS = ("build-path", "archive-times")
_MODES = (set_id, sticky, world_writable)
