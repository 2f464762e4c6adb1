"""`plan`, `lock` and `why`: what a build of a container would do, what it may move, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click

from buildit.cli import options
from buildit.cli.options import DIR, DISCOVER, LOCKED, OFFLINE, ONE_PLATFORM, USE, Requested
from buildit.cli.screen import columns, give, printable
from buildit.codec import to_plain
from buildit.commands.forecast import Forecast, Outlook, State, forecast
from buildit.commands.run import (
    LOCK_FILE,
    Options,
    Prepared,
    Run,
    Unbuilt,
    lock,
    prepare,
    prepared_each,
    run_of,
)
from buildit.digest import BuildKey, key_uuid
from buildit.errors import UsageError
from buildit.events import Notice, Reporter
from buildit.model.plan import ContainerPlan, FromStep, PackageStep, RunStep, Task
from buildit.model.recipe import CONTAINER_FILE
from buildit.model.words import counted, guess, size
from buildit.plan.lock import Section
from buildit.recipe.ways.find import find_stack, has_recipe, named_recipe
from buildit.remote.binhost.nearby import Closest, Nearby, Untrusted, untrusted_builds
from buildit.remote.binhost.remotes import Remotes
from buildit.store.cas import Store

EVERYTHING = "*"
TOOLCHAIN = "toolchain"

_STATES = {
    State.STORE: ("in the local store", "it is in the local store"),
    State.BINHOST: ("in '{}'", "it is on '{}'"),
    State.BUILD: ("to build: {}", "no known place has it"),
    State.UNPACK: ("to unpack", "it is a Debian package, to be unpacked"),
    State.TAKE: ("to take in", "its layers are not taken in yet"),
    State.PERHAPS: (
        "to unpack where a file turns out to need it",
        "it is a Debian package, unpacked where a file turns out to need it",
    ),
    State.UNNEEDED: (
        "not needed: what needs it is at hand",
        "it is not needed: what needs it is at hand",
    ),
}
"""Where a package would come from, in the words of `plan` and of `why`."""


def plan_lines(plan: ContainerPlan, found: Forecast, stage: str = "") -> tuple[str, ...]:
    """One line a package, dependencies first, then what would be fetched; `stage` is the one of
    its recipe that it is a plan of."""
    rows = [
        (one.node.label, key_uuid(one.node.key), _STATES[one.state][0].format(one.why))
        for one in found.packages
    ]
    kept = [
        printable(f"  /{path} ({mode:04o}) of {one.node.label}")
        for one in found.packages
        for path, mode in one.set_ids
    ]
    debs = [one.size for one in found.fetches if one.size is not None]
    fetched = [f"To fetch: {counted(len(found.fetches), 'file')}"] if found.fetches else []
    fetched += [printable(f"  {one.name}") for one in found.fetches if one.size is None]
    if debs:
        fetched.append(f"  {counted(len(debs), '.deb')} ({size(sum(debs))})")
    packages = sum(task.inputs.image is None for task in plan.tasks)
    title = f"{plan.label}, the stage {stage}," if stage else plan.label
    head = f"{title} for {plan.platform}: {counted(packages, 'package')}"
    kept = ["Set-id bits are kept:", *kept] if kept else []
    return (printable(head), *columns(rows, "  "), *kept, *step_lines(plan, found), *fetched)


_OVER_UNBUILT = "known when what is below is built"


@dataclass(frozen=True, slots=True)
class _Step:
    """A listed step: its number, key and state, the last two empty for one that has no task or
    whose key is not known yet."""

    number: int
    kind: str
    text: str
    place: str
    key: str = ""
    state: str = ""


def _steps(plan: ContainerPlan, found: Forecast) -> Iterator[_Step]:
    runs = sum(isinstance(step, RunStep) for step in plan.steps)
    looked = {"run": iter(found.runs[:runs]), "test": iter(found.runs[runs:])}
    states = {one.node.key: one.state.value for one in found.packages}
    layers = [*plan.steps]
    for number, one in enumerate(plan.listed, 1):
        layer = layers.pop(0) if layers and layers[0].step == one.kind else None
        key, state = "", ""
        if one.kind in looked:
            key, there = next(looked[one.kind], ("", False))
            state = State.STORE.value if there else "to run" if key else _OVER_UNBUILT
        elif isinstance(layer, FromStep | PackageStep):
            key, state = layer.key, states.get(layer.key, "")
        yield _Step(number, one.kind, one.text, one.place, key, state)


def _step_state(state: str) -> str:
    known = {one.value: text[0] for one, text in _STATES.items()}
    return known.get(state, state).partition(" '")[0].partition(":")[0]


def step_lines(plan: ContainerPlan, found: Forecast) -> tuple[str, ...]:
    """All steps in their order, each with its number, its place, and the key and state of what it
    is made by; and what of them a later step says anew."""
    rows = []
    for one in _steps(plan, found):
        key = key_uuid(BuildKey(one.key)) if one.key else ""
        rows.append((str(one.number), one.kind, one.text, one.place, key, _step_state(one.state)))
    steps = columns(rows, "  ")
    over = [(one.key, one.value, one.place, f"not: {one.later}") for one in plan.said if one.later]
    lines = ("Steps:", *steps) if steps else ()
    return (*lines, "A later step says otherwise:", *columns(over, "  ")) if over else lines


def plan_plain(plan: ContainerPlan, found: Forecast) -> dict[str, object]:
    """Everything, with the records."""
    first = None if plan.begins_with is None else plan.begins_with.key
    base = [_base_plain(one) for one in found.packages if one.node.key == first]
    return {
        "label": plan.label,
        "platform": plan.platform,
        "toolchain": {"name": plan.toolchain.name, "identity": plan.toolchain.identity},
        **({"from": base[0]} if base else {}),
        "packages": [
            {
                **_about(one.node, one.state),
                "origin": one.node.about.origin,
                "why": one.why,
                "directories": list(one.node.directories),
                "dependencies": to_plain(one.node.inputs.dependencies),
                "run": [need.key for need in one.node.run_needs()],
                "set_ids": {path: f"{mode:04o}" for path, mode in one.set_ids},
                "record": json.loads(one.node.record),
            }
            for one in found.packages
            if one.node.inputs.image is None
        ],
        "fetch": to_plain(found.fetches),
        "steps": to_plain(tuple(_steps(plan, found))),
        "said": to_plain(plan.said),
    }


def _base_plain(one: Outlook) -> dict[str, object]:
    image = one.node.inputs.image
    return {
        "key": one.node.key,
        "state": one.state.value,
        "reference": image and image.reference,
        "digest": image and image.digest,
        "set_ids": {path: f"{mode:04o}" for path, mode in one.set_ids},
        "record": json.loads(one.node.record),
    }


def _plans_plain(plans: Sequence[_Foreseen], waiting: Sequence[str] = ()) -> dict[str, object]:
    """That of the first platform, with those of the others in `further`, if there are any, and what
    is known later in `waiting`."""
    said = [
        {**plan_plain(plan, found), **({"stage": stage} if stage else {})}
        for plan, found, stage in plans
    ]
    first, *others = said
    return {
        **first,
        **({"further": others} if others else {}),
        **({"waiting": list(waiting)} if waiting else {}),
    }


def _about(node: Task, state: State) -> dict[str, object]:
    return options.told_of(node.name, node.version, node.key, state.value)


def announce(prepared: Prepared, report: Reporter) -> None:
    """Say what a build would change in the lock, without writing it.

    Raises:
        UnsatisfiableError: under `--locked`, where anything would change.
    """
    pins = prepared.pins
    if prepared.options.locked:
        lock(prepared, report)
    elif pins.platform not in pins.lock.sections:
        report(Notice(f"nothing is locked for {pins.platform} yet: a build writes {LOCK_FILE}"))
    else:
        for line in pins.moved():
            report(Notice(f"lock would change: {line}"))


def _forecast(prepared: Prepared, run: Run) -> Forecast:
    plan = prepared.plan
    found = forecast(plan, run.store, run.remotes)
    if not plan.tests and not any(isinstance(step, RunStep) for step in plan.steps):
        return found
    from buildit.commands.stepping import run_keys

    return replace(found, runs=run_keys(plan, run.store, run.remotes, prepared.taken))


@click.command("plan", short_help="Say what a build of DIR would do, and why.")
@options.of_container(DIR, USE, LOCKED, OFFLINE, DISCOVER, ONE_PLATFORM)
def plan_verb(asked: Requested) -> None:
    """Say what a build of DIR would do: packages, their keys, what is fetched; of a stack for each
    of its containers. Builds nothing."""
    with asked.screen() as screen:
        found: list[_Foreseen] = []
        waiting: list[str] = []
        for one in _prepared(asked.options, screen, waiting):
            prepared = one.with_synced()
            for remark in prepared.plan.remarks:
                screen(Notice(remark))
            announce(prepared, screen)
            with run_of(prepared, screen) as run:
                stage = prepared.options.recipe.stage
                found.append((prepared.plan, _forecast(prepared, run), stage))
    give(
        found,
        lambda plans: (*(line for plan in plans for line in plan_lines(*plan)), *waiting),
        partial(_plans_plain, waiting=waiting),
        as_json=asked.as_json,
    )


_Foreseen = tuple[ContainerPlan, Forecast, str]
"""A plan, what a build of it would do, and the stage of the recipe that it is of."""


def _prepared(asked: Options, report: Reporter, waiting: list[str]) -> Iterator[Prepared]:
    """The plans of a container, or of all that are built for a stack; `waiting` grows by what is
    only known once others are built."""
    if find_stack(asked.directory, asked.recipe) is None:
        yield from _prepared_below(asked, report, waiting, set())
        return
    from buildit.cli.stacks import each_container

    for one in each_container(asked):
        yield from _prepared_below(one, report, waiting, set())


def _prepared_below(
    asked: Options, report: Reporter, waiting: list[str], seen: set[tuple[Path, str]]
) -> Iterator[Prepared]:
    """The plans of a container; where containers or stages below it are not built, theirs."""
    try:
        yield from prepared_each(asked, report)
    except Unbuilt as error:
        names: dict[str, None] = {}
        for one in error.every():
            stage = one.asked.recipe.stage
            names[f"the stage {stage}" if stage else str(one.asked.directory)] = None
            if (one.asked.directory, stage) not in seen:
                seen.add((one.asked.directory, stage))
                yield from _prepared_below(one.asked, report, waiting, seen)
        own = f"the stage {asked.recipe.stage}" if asked.recipe.stage else str(asked.directory)
        waiting.append(printable(f"{own}: known once these are built: {', '.join(names)}"))


def split_words(given: Options, words: tuple[str, ...]) -> tuple[Options, tuple[str, ...]]:
    """With the container that the first of the words names (`.` where it is left out) by its
    directory or its recipe, and the names behind it."""
    if words:
        directory, recipe = named_recipe(Path(words[0]), given.recipe)
        named = recipe != given.recipe or has_recipe(directory, recipe)
        if named or find_stack(directory, recipe) is not None:
            return replace(given, directory=directory, recipe=recipe), words[1:]
    return given, words


def relock(
    given: Options, words: tuple[str, ...], report: Reporter, *, update: bool
) -> dict[str, object]:
    """Write the lock of a container; `words` are its directory, if first, and what may move.

    Returns the lock's path and what moved, in words.

    Raises:
        UsageError: names without `--update`, or a name that the container does not have.
        BuilditError: see `run.prepare` and `run.lock`.
    """
    given, names = split_words(given, words)
    if names and not update:
        hint = f"name one, or let it move: buildit lock --update {names[0]}"
        raise UsageError(f"{names[0]!r} is not the directory of a container", hint=hint)
    chosen = (names or (EVERYTHING,)) if update else ()
    return relocked(replace(given, update=chosen), names, report)


def relocked(asked: Options, names: tuple[str, ...], report: Reporter) -> dict[str, object]:
    """As `relock`, of one container; `names` are what must be able to move."""
    directory = asked.directory
    moved: list[str] = []
    for one in prepared_each(asked, report):
        prepared = one.with_synced()
        _check_names(names, prepared.pins.section, directory)
        lock(prepared, report)
        several = len(prepared.plan.platforms) > 1
        prefix = f"{prepared.plan.platform}: " if several else ""
        moved += [f"{prefix}{line}" for line in prepared.pins.moved()]
    return {"lock": str(directory / LOCK_FILE), "changes": moved}


def _check_names(names: tuple[str, ...], section: Section, directory: Path) -> None:
    packages = [package.name for package in section.packages]
    patches = [patch.name for patch in section.patches if patch.raw is not None]
    further = (*section.debs, *section.images, *section.facts)
    known = tuple(dict.fromkeys((TOOLCHAIN, *packages, *patches, *further)))
    for name in names:
        if name not in (EVERYTHING, *known):
            told = f"the lock has nothing called {name!r} that could move"
            hint = f"{guess(name, known)}it has: {', '.join(known)}"
            raise UsageError(told, place=str(directory / LOCK_FILE), hint=hint)


@click.command("lock", short_help="Write DIR/buildit.lock; with --update, move what is remote.")
@options.of_container(USE, LOCKED, OFFLINE, ONE_PLATFORM)
@click.argument("words", metavar="[DIR] [NAME...]", nargs=-1)
@click.option("--update", is_flag=True, help="Let NAMEs move; without a NAME, everything.")
def lock_verb(asked: Requested, words: tuple[str, ...], update: bool) -> None:
    """Write DIR/buildit.lock (DIR is `.` where it is left out).

    A NAME is a package (category/name), `toolchain`, the URL of a patch, a base in a registry, or a
    fact of a manifest.
    """
    given, names = split_words(asked.options, words)
    is_stack = find_stack(given.directory, given.recipe) is not None
    with asked.screen() as screen:
        if is_stack:
            from buildit.cli.stacks import relock_stack

            done = relock_stack(given, names, screen, update=update)
        else:
            done = (relock(asked.options, words, screen, update=update),)
    give(
        done,
        lambda locks: (str(one["lock"]) for one in locks),
        lambda locks: [*map(dict, locks)] if is_stack else dict(locks[0]),
        as_json=asked.as_json,
    )


@dataclass(frozen=True, slots=True)
class Why:
    """One package: where it would come from, and what is closest to it where it would be built."""

    node: Task
    state: State
    place: str
    closest: Closest | None
    strangers: tuple[Untrusted, ...] = ()


def _asked_about(given: Options, words: tuple[str, ...]) -> tuple[Options, str | None]:
    """With the container (`.` where it is left out), and the package that the words name.

    Raises:
        UsageError: there is no container, or there are too many words.
    """
    given, rest = split_words(given, words)
    if rest == words and words and Path(words[0]).is_dir():
        given, rest = replace(given, directory=Path(words[0])), words[1:]
    if len(rest) > 1:
        raise UsageError(f"{rest[1]!r} is one word too many", hint="buildit why [DIR] [PACKAGE]")
    if not has_recipe(given.directory, given.recipe):
        hint = "name the directory of a container first: buildit why containers/web/ nginx"
        raise UsageError(f"there is no {CONTAINER_FILE} in {given.directory}", hint=hint)
    return given, rest[0] if rest else None


def _whys(plan: ContainerPlan, store: Store, remotes: Remotes, wanted: str | None) -> Iterator[Why]:
    """The packages of a plan that are nowhere at hand, or the one that is `wanted`.

    Raises:
        UsageError: the plan has no such package.
        StoreError: the store cannot be read.
    """
    packages = forecast(plan, store, remotes).packages
    if wanted is None:
        chosen = tuple(one for one in packages if one.state is State.BUILD)
    else:
        chosen = tuple(one for one in packages if _is_called(wanted, one.node))
        if len(chosen) != 1:
            names = tuple(one.node.name for one in packages if one.node.inputs.image is None)
            raise options.unknown_package(wanted, names, plan.directory)
    hosts = tuple(remotes.binhosts())
    nearby = Nearby(store, hosts, {node.key: node.label for node in plan.tasks})
    for one in chosen:
        lacking = one.state is State.BUILD
        near = lacking or (wanted is not None and one.state is State.UNNEEDED)
        closest = nearby.closest(one.node) if near else None
        strangers = tuple(untrusted_builds(one.node, hosts)) if lacking else ()
        yield Why(one.node, one.state, one.why, closest, strangers)


def _is_called(word: str, node: Task) -> bool:
    return word in (*options.spellings(node.name, node.version), node.key, key_uuid(node.key))


def why_lines(found: tuple[Why, ...]) -> tuple[str, ...]:
    if not found:
        return ("Every package is at hand: none would be built. Of steps, see `buildit plan`.",)
    lines: list[str] = []
    for one in found:
        lines.append(f"{one.node.label}  {key_uuid(one.node.key)}")
        place = _STATES[one.state][1].format(one.place)
        lines.append(f"  {'no place whose builder is trusted has it' if one.strangers else place}")
        lines += [f"  {stranger}" for stranger in one.strangers]
        if one.closest is not None:
            lines.append(f"  closest: {key_uuid(one.closest.key)} in {one.closest.place}")
            told = one.closest.differences or ("nothing differs: its artifact is incomplete",)
            lines += [f"    {text}" for text in told]
        elif one.state is State.BUILD and not one.strangers:
            lines.append("  and no place that lists names has a build of this package")
    return tuple(map(printable, lines))


def _why_plain(one: Why) -> dict[str, object]:
    about = {**_about(one.node, one.state), "place": one.place}
    return {**about, "closest": to_plain(one.closest), "strangers": to_plain(one.strangers)}


@click.command("why", short_help="Say why packages of DIR would be built, not reused.")
@options.of_container(USE, LOCKED, OFFLINE, DISCOVER, ONE_PLATFORM)
@click.argument("words", metavar="[DIR] [PACKAGE]", nargs=-1)
def why_verb(asked: Requested, words: tuple[str, ...]) -> None:
    """Say why packages of DIR (`.` where it is left out) would be built, or about PACKAGE.

    For each that no place has: the closest build in the local store and on binhosts that list
    names, and what differs (a flag, a patch, a dependency, the toolchain). Builds nothing.
    """
    options_of, wanted = _asked_about(asked.options, words)
    with asked.screen() as screen:
        prepared = prepare(options_of, screen)
        with run_of(prepared, screen) as run:
            found = tuple(_whys(prepared.plan, run.store, run.remotes, wanted))
    give(found, why_lines, lambda all_: [*map(_why_plain, all_)], as_json=asked.as_json)
