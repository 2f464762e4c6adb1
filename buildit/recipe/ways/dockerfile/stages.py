"""The stages of a Dockerfile: what each begins with, which of them a target needs. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from buildit.errors import RecipeError, UsageError
from buildit.model.words import guess, hint_of
from buildit.recipe.ways.dockerfile.mounts import mounted_from
from buildit.recipe.ways.dockerfile.parse import Dockerfile, Instruction, Stage
from buildit.recipe.ways.dockerfile.scope import Scope

SCRATCH = "scratch"
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Source:
    """Where files or a base come from: a stage of the file, or else what `image` names."""

    stage: Stage | None = None
    image: str = ""


def target_stage(found: Dockerfile, target: str) -> Stage:
    """The stage that is asked for by name or number, the last without one.

    Raises:
        UsageError: there is none of that name.
    """
    if not target:
        return found.stages[-1]
    stage = stage_named(found.stages, target)
    if stage is None:
        names = [one.shown for one in found.stages]
        message = f"there is no stage {target!r}, which --target asks for"
        raise UsageError(message, place=f"{found.file}:1:1", hint=hint_of(target, names))
    return stage


def stage_named(stages: tuple[Stage, ...], name: str) -> Stage | None:
    """The stage of a name or, where none has it, of a number; case does not count."""
    for one in reversed(stages):
        if one.name == name.lower():
            return one
    if _NUMBER.fullmatch(name) and int(name) < len(stages):
        return stages[int(name)]
    return None


def base_of(found: Dockerfile, stage: Stage, outer: Scope) -> Source:
    """What a stage begins with: an earlier stage, or an image; SCRATCH is nothing.

    Raises:
        RecipeError: a variable of the line is malformed, or leaves nothing.
    """
    name = outer.text(stage.begin, stage.base)
    if not name.strip():
        hint = "give the argument a value: ARG NAME=debian:12 before FROM, or --build-arg"
        raise stage.begin.error(f"FROM {stage.base} names no image: it is empty", hint)
    earlier = tuple(one for one in found.stages[: stage.number] if one.name)
    same = next((one for one in earlier if one.name == name.lower()), None)
    return Source(stage=same) if same is not None else Source(image=name)


def files_from(found: Dockerfile, one: Instruction, name: str) -> Source:
    """What `--from=` of COPY, or `from=` of a mount, names: a stage, or an image.

    Raises:
        RecipeError: it has a variable, or the number of no stage.
    """
    if "$" in name:
        hint = f"name a stage of it first: FROM {name} AS files"
        raise one.error(f"--from={name} may not have a variable", hint)
    stage = stage_named(found.stages, name)
    if stage is not None:
        return Source(stage=stage)
    if _NUMBER.fullmatch(name):
        last = len(found.stages) - 1
        hint = f"they are numbered from 0 to {last}; better name them: FROM … AS NAME"
        raise one.error(f"there is no stage {name}", hint)
    return Source(image=name)


def like_a_stage(found: Dockerfile, name: str) -> str:
    """A guess at the stage that was meant, where a name without path or tag is none; else empty."""
    names = [one.name for one in found.stages if one.name]
    return "" if set("/:@.") & set(name) else guess(name, names).strip()


def needed_stages(found: Dockerfile, stage: Stage, outer: Scope) -> tuple[Stage, ...]:
    """A stage and all that it needs of the file, each behind what it needs itself.

    Raises:
        RecipeError: stages need each other, with the whole circle; or as `files_from`.
    """
    done: dict[int, Stage] = {}
    way: dict[int, Instruction] = {}
    pending: list[tuple[Stage, list[tuple[Stage, Instruction]]]] = []

    def enter(one: Stage) -> None:
        pending.append((one, _needs(found, one, outer)[::-1]))

    enter(stage)
    while pending:
        now, needs = pending[-1]
        if not needs:
            pending.pop()
            way.pop(now.number, None)
            done[now.number] = now
            continue
        there, line = needs.pop()
        way[now.number] = line
        if there.number in way:
            chain = [*way][[*way].index(there.number) :]
            names = " needs ".join(found.stages[number].shown for number in (*chain, there.number))
            hint = "take one of the lines out: " + ", ".join(
                str(way[number].place.line) for number in chain
            )
            raise line.error(f"stages need each other: {names}", hint)
        if there.number not in done:
            enter(there)
    return tuple(done.values())


def _needs(found: Dockerfile, stage: Stage, outer: Scope) -> list[tuple[Stage, Instruction]]:
    """The stages that one needs itself, each with the line that says so."""
    base = base_of(found, stage, outer).stage
    needs = [(base, stage.begin)] if base is not None else []
    for one in stage.instructions:
        names = [name] if one.word == "COPY" and (name := one.flag("from")) else []
        if one.word == "RUN":
            names += mounted_from(one)
        for name in names:
            there = files_from(found, one, name).stage
            if there is not None:
                needs.append((there, one))
    return needs


def check_platform(stage: Stage, outer: Scope, target: str) -> None:
    """Refuse a stage for another platform than is built for.

    Raises:
        RecipeError: it is for another one.
    """
    said = outer.text(stage.begin, stage.platform) if stage.platform else target
    plain = said.removesuffix("/v8") if said.startswith("linux/arm64") else said
    if plain not in (target, target.partition("/")[2]):
        message = f"the stage is for {said or 'no platform'}, and {target} is built for"
        hint = "leave --platform out of FROM; all stages are of the platform that is built for"
        raise RecipeError(message, place=str(stage.begin.place), hint=hint)
