"""Why packages would be built: for each that is nowhere at hand, the closest build there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from buildit.cli.recipes import unknown_package
from buildit.cli.results import printable
from buildit.commands.forecast import Outlook, State, forecast
from buildit.commands.preparing import Prepared
from buildit.digest import key_uuid
from buildit.errors import UsageError
from buildit.model.task import Task
from buildit.recipe.container import CONTAINER_FILE
from buildit.remote.binhost.nearby import Closest, Nearby, Untrusted, untrusted_builds
from buildit.remote.binhost.remotes import Remotes
from buildit.store.cas import Store


@dataclass(frozen=True, slots=True)
class Why:
    """One package: where it would come from, and what is closest to it where it would be built."""

    node: Task
    state: State
    place: str
    closest: Closest | None
    strangers: tuple[Untrusted, ...] = ()


def split_words(words: tuple[str, ...]) -> tuple[Path, str | None]:
    """The directory (`.` where it is left out) and the package that the words name.

    Raises:
        UsageError: there is no container, or there are too many words.
    """
    if words and ((Path(words[0]) / CONTAINER_FILE).exists() or Path(words[0]).is_dir()):
        directory, rest = Path(words[0]), words[1:]
    else:
        directory, rest = Path(), words
    if len(rest) > 1:
        raise UsageError(f"{rest[1]!r} is one word too many", hint="buildit why [DIR] [PACKAGE]")
    if not (directory / CONTAINER_FILE).exists():
        raise UsageError(
            f"there is no {CONTAINER_FILE} in {directory}",
            hint="name the directory of a container first: buildit why containers/web/ nginx",
        )
    return directory, rest[0] if rest else None


def whys(prepared: Prepared, store: Store, remotes: Remotes, wanted: str | None) -> tuple[Why, ...]:
    """The packages of a plan that are nowhere at hand, or the one that is `wanted`.

    Raises:
        UsageError: the plan has no such package.
        StoreError: the store cannot be read.
    """
    plan = prepared.plan
    found = forecast(plan, store, remotes)
    hosts = tuple(remotes.binhosts())
    labels = {node.key: node.label for node in plan.tasks}
    nearby = Nearby(store, hosts, labels)
    chosen = _chosen(found.packages, wanted, plan.directory)
    found_why = (_why(one, nearby, explained=wanted is not None) for one in chosen)
    return tuple(
        replace(one, strangers=tuple(untrusted_builds(one.node, hosts)))
        if one.state is State.BUILD
        else one
        for one in found_why
    )


def _chosen(packages: tuple[Outlook, ...], wanted: str | None, place: str) -> tuple[Outlook, ...]:
    if wanted is None:
        return tuple(one for one in packages if one.state is State.BUILD)
    fitting = [one for one in packages if wanted in _spellings(one.node)]
    if len(fitting) != 1:
        raise unknown_package(wanted, tuple(one.node.name for one in packages), place)
    return tuple(fitting)


def _spellings(node: Task) -> tuple[str, ...]:
    short = node.name.rpartition("/")[2]
    return node.name, short, node.label, f"{short}-{node.version}", node.key, key_uuid(node.key)


def _why(one: Outlook, nearby: Nearby, *, explained: bool) -> Why:
    look = one.state is State.BUILD or (explained and one.state is State.UNNEEDED)
    return Why(one.node, one.state, one.why, nearby.closest(one.node) if look else None)


_PLACES: dict[State, Callable[[str], str]] = {
    State.STORE: lambda _: "it is in the local store",
    State.BINHOST: lambda name: f"it is on '{name}'",
    State.BUILD: lambda _: "no known place has it",
    State.UNPACK: lambda _: "it is a Debian package, to be unpacked",
    State.PERHAPS: lambda _: "it is a Debian package, unpacked where a file turns out to need it",
    State.UNNEEDED: lambda _: "it is not needed: what needs it is at hand",
}


def why_lines(found: tuple[Why, ...]) -> tuple[str, ...]:
    if not found:
        return ("Everything is at hand: nothing would be built.",)
    lines: list[str] = []
    for one in found:
        lines.append(f"{one.node.label}  {key_uuid(one.node.key)}")
        where = (
            "no place whose builder is trusted has it"
            if one.strangers
            else _PLACES[one.state](one.place)
        )
        lines.append(f"  {where}")
        lines += [f"  {stranger}" for stranger in one.strangers]
        if one.closest is not None:
            lines.append(f"  closest: {key_uuid(one.closest.key)} in {one.closest.place}")
            told = one.closest.differences or ("nothing differs: its artifact is incomplete",)
            lines += [f"    {text}" for text in told]
        elif one.state is State.BUILD and not one.strangers:
            lines.append("  and no place that lists names has a build of this package")
    return tuple(map(printable, lines))


def why_plain(found: tuple[Why, ...]) -> list[dict[str, object]]:
    return [
        {
            "name": one.node.name,
            "version": one.node.version,
            "key": one.node.key,
            "uuid": key_uuid(one.node.key),
            "state": one.state.value,
            "place": one.place,
            "closest": None if one.closest is None else asdict(one.closest),
            "strangers": [asdict(stranger) for stranger in one.strangers],
        }
        for one in found
    ]
