"""A Debian root as a base, and the .debs of `run` steps: which they are, pinned in the lock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from buildit.commands.choose import Choice, wrong_at
from buildit.commands.pins import Answer, locked_answer, request_digest
from buildit.commands.run import Downloads
from buildit.errors import FetchError, UnsatisfiableError
from buildit.model.plan import ContainerPlan, DebRef, RunStep
from buildit.plan.evaluate import written_at
from buildit.plan.identity import SUITE
from buildit.recipe.container import LoadedStep

_ROOT = ("apt", "usr-is-merged")
"""What a root has besides all that is essential or of priority `required`: what mmdebstrap calls
minbase. init-system-helpers would bring usrmerge, which only converts what is not merged."""


def pin_suite(choice: Choice, name: str, place: str, downloads: Downloads) -> tuple[str, Answer]:
    """The .debs of the root of a suite, and who asks for them in the lock.

    Raises:
        FetchError, IntegrityError: they had to be chosen, and no apt source of this machine serves
            the suite.
        UnsatisfiableError: they do not fit together.
    """
    suites, asker = choice.chroot.debian.suites, f"{SUITE}:{name}"
    request = request_digest((*suites, "", SUITE))
    locked = locked_answer(choice, asker, request)
    if locked is not None:
        return asker, Answer(request, locked)
    from buildit.debian.select import select

    try:
        with downloads.debian().open_indices(suites, choice.target.debian) as indices:
            wanted = (*indices.essential(), *indices.required(), *_ROOT)
            debs = select(dict.fromkeys(wanted), indices)
            return asker, Answer(request, debs, dict(indices.dates))
    except (FetchError, UnsatisfiableError) as error:
        error.details = (f"wanted for the suite {name}", *error.details)
        error.place = error.place or place
        raise


def with_debs(
    plan: ContainerPlan,
    choice: Choice,
    answers: Mapping[str, Answer],
    base: Mapping[str, Answer] | None,
    downloads: Downloads,
) -> tuple[ContainerPlan, Mapping[str, Answer]]:
    """The plan, with the .debs that apt finds in its `run` steps: those that they name with all
    that they depend on beyond those of the `base`. And all answers by who asked, for the lock.

    Raises:
        FetchError, IntegrityError, UnsatisfiableError: they had to be chosen, and could not be.
    """
    found = {**answers, **(base or {})}
    below = [deb for answer in (base or {}).values() for deb in answer.debs]
    each: list[tuple[DebRef, ...]] = []
    for step in choice.container.steps:
        if step.spec.run is None:
            continue
        if names := tuple(sorted(set(step.spec.run.debs))):
            asker = f"run:{','.join(names)}"
            if asker not in found:
                found[asker] = _step_answer(choice, asker, names, below, step, downloads)
            each.append(found[asker].debs)
        else:
            each.append(())
    following = iter(each)  # each of these steps is one of the plan's
    steps = (
        replace(one, debs=next(following)) if isinstance(one, RunStep) else one
        for one in plan.steps
    )
    return replace(plan, steps=tuple(steps)), found


def _step_answer(
    choice: Choice,
    asker: str,
    names: tuple[str, ...],
    base: Sequence[DebRef],
    step: LoadedStep,
    downloads: Downloads,
) -> Answer:
    suites, place = choice.chroot.debian.suites, written_at(step.node, "run", "debs")
    request = request_digest((*suites, "", *names, "", *sorted(deb.digest for deb in base)))
    named = {one.partition("=")[0] for one in names}
    in_base = named <= {deb.name for deb in base}
    locked = locked_answer(choice, asker, request, empty=in_base)
    if locked is not None:
        return Answer(request, locked)
    from buildit.debian.select import select

    known = {deb.digest for deb in base}
    # what is in the base counts as chosen, in the version that the suites have now
    wanted = (*names, *(deb.name for deb in base if deb.name not in named))
    try:
        with downloads.debian().open_indices(suites, choice.target.debian) as indices:
            chosen = select(wanted, indices)
            further = tuple(deb for deb in chosen if deb.digest not in known)
            return Answer(request, further, dict(indices.dates))
    except (FetchError, UnsatisfiableError) as error:
        error.place = place
        raise


def check_steps(choice: Choice) -> None:
    """Refuse `ids: one` where packages' own scripts run, which make users and give them files.

    Raises:
        RecipeError: a step has it.
    """
    steps = choice.container.steps
    has_suite = any(step.spec.from_ is not None and step.spec.from_.suite for step in steps)
    for step in steps:
        spec = step.spec.run
        if spec is None or spec.ids != "one" or not (has_suite or spec.debs):
            continue
        why = "packages of `debs` make users" if spec.debs else "a Debian root has many users"
        message = f"{why}, and with `ids: one` there is root alone: the first chown would fail"
        raise wrong_at(step, message, "leave `ids` out", "run", "ids")
