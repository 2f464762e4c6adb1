"""Who provides what an output needs: the provider that the build really saw. Pure.

Looked for in order: the build's own outputs, its dependencies nearest first (of all of them the
runtime outputs before the headers, which no image wants), the toolchain; never "some package in
the world" (PEERS §4.7). Links are followed from package to package: each that lies on the way is a
need of its own, whose provider is that of the link.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from buildit.archive.links import way
from buildit.errors import UnsatisfiableError
from buildit.make.capture.checks import waiver_text
from buildit.make.capture.needs import MERGED, Needs, Target, is_kernels, need_paths
from buildit.model.artifact import RUNTIME
from buildit.model.tree import Entry

MISSING_PROVIDER = "missing-provider"
"""The id under which a recipe waives a need that no output meets."""


@dataclass(frozen=True, slots=True)
class Visible:
    """What a build sees of one output: `name` is `<key>:<output>`, or `:<output>` of its own."""

    name: str
    entries: Iterable[Entry]


class Sight:
    """Several outputs as one tree; of two with one path the first counts."""

    __slots__ = ("_found",)

    def __init__(self, visible: Iterable[Visible]) -> None:
        self._found: dict[str, tuple[Entry, str]] = {}
        for one in visible:
            for entry in one.entries:
                self._found.setdefault(entry.path, (entry, one.name))

    def at(self, path: str) -> tuple[Entry, str] | None:
        """The entry of a path without leading slash, and the output that has it."""
        return self._found.get(path)


def dependencies_sight(visible: Sequence[Visible], toolchain: Iterable[Visible]) -> Sight:
    """What a build sees besides its own outputs; `visible` are its dependencies, nearest first."""
    ordered = sorted(visible, key=lambda one: not one.name.endswith(f":{RUNTIME}"))
    return Sight((*ordered, *toolchain))


def providers(
    needs: Needs, output: str, outputs: Mapping[str, Iterable[Entry]], beyond: Sight, target: Target
) -> dict[str, str]:
    """For each need that is met, the output that does: `<key>:<output>`, or `:<output>` of the
    build's own. A link that is passed on the way and is another's is in the answer too, as
    `path:/…`.

    `outputs` are those of the build, of which `output` has the needs.
    """
    names = (output, *(name for name in outputs if name != output))
    own = Sight(Visible(f":{name}", outputs.get(name, ())) for name in names)
    found: dict[str, str] = {}
    for need in needs.wanted:
        places = need_paths(need, target, needs.directories.get(need, ()))
        passed = next((steps for one in places if (steps := _steps(one, own, beyond))), ())
        for met, owner in _answers(need, passed, f":{output}").items():
            found.setdefault(met, owner)
    return found


def _steps(path: str, own: Sight, beyond: Sight) -> tuple[tuple[str, str], ...]:
    """The links that a path passes and what it ends at, each with its owner; none where the end
    is in neither sight. What the kernel makes at run time needs no owner."""

    def at(one: str) -> tuple[Entry, str] | None:
        return own.at(one) or beyond.at(one)

    def entry_at(one: str) -> Entry | None:
        found = at(one)
        return None if found is None else found[0]

    walked = way(path, entry_at, MERGED)
    if walked.end is None:
        return ()
    places = walked.links
    if walked.end and not is_kernels(walked.end):
        places = (*places, walked.end)
    owned = [(place, found[1]) for place in places if (found := at(place)) is not None]
    return tuple(owned) if len(owned) == len(places) else ()


def _answers(need: str, steps: Sequence[tuple[str, str]], own: str) -> dict[str, str]:
    """Who meets a need, and who has the links on the way to it."""
    if not steps:
        return {}
    end, owner = next((step for step in reversed(steps) if step[1] != own), steps[-1])
    answers = {f"path:/{path}": other for path, other in steps if other not in (own, owner)}
    answers[f"path:/{end}" if need in answers else need] = owner
    return answers


def check_provided(
    needs: Needs, found: Mapping[str, str], output: str, label: str, accepted: Callable[[str], bool]
) -> None:
    """Refuse a runtime output with a need that no output meets; others may have some.

    `accepted` says whether the recipe accepts a path's need as unmet.

    Raises:
        UnsatisfiableError: it names the file and what it needs, and all others in the details.
    """
    if output != RUNTIME:
        return
    missing = [
        (files[0], need)
        for need, files in needs.wanted.items()
        if need not in found and not all(accepted(path) for path in files)
    ]
    if not missing:
        return
    path, need = missing[0]
    raise UnsatisfiableError(
        f"nothing that the build saw provides {described(need)}, which /{path} needs",
        place=label,
        hint=_hint(need, path),
        details=tuple(f"/{file}: {described(need)}" for file, need in missing),
    )


def _hint(need: str, path: str) -> str:
    """What would help, in words that work when copied."""
    library = need.startswith("soname:")
    role = "link" if library else "build"
    return (
        f"add the package that has it to depends.{role}, or do not install the file; where it is "
        f"met otherwise, say so: {waiver_text(MISSING_PROVIDER, path)}"
    )


def described(need: str) -> str:
    """A need in words: `the library libz.so.1`, `/bin/sh`."""
    kind, _, name = need.partition(":")
    words = {"soname": "the library ", "interp": "the loader ", "path": ""}
    return f"{words.get(kind, '')}{name}"
