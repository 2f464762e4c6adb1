"""The task of a Debian binary package. Pure, and without the typed recipe: makers and closures know
.debs by it, too."""

from __future__ import annotations

from buildit.digest import BuildKey
from buildit.model import plan
from buildit.model.artifact import RUNTIME
from buildit.model.plan import DebRef, RunNeed, RunTime, Task, Toolchain
from buildit.plan import identity


def deb_task(
    deb: DebRef,
    toolchain: Toolchain,
    beside: tuple[DebRef, ...],
    rules: identity.Rules,
    without: tuple[str, ...] = (),
) -> Task:
    """The task of a Debian binary package, unpacked and split.

    `beside` are the further .debs that were chosen with it: what it needs is found in them, or in
    the toolchain. What its files do not say that they load is declared by the toolchain (`run`).
    `without` are globs of what is left out.
    """
    others = tuple(sorted((d for d in beside if d != deb), key=lambda d: d.digest))
    group = (deb, *others)

    def recorded(one: DebRef, near: tuple[DebRef, ...], without: tuple[str, ...] = ()) -> str:
        digests = tuple(sorted(other.digest for other in near if other != one))
        made = identity.deb_record(one.digest, toolchain.identity, digests, rules, without)
        return identity.record_text(made)

    loaded = toolchain.run.get(deb.name, ())
    run = [recorded(one, group) for one in others if one.name in loaded]
    run += [recorded(one, ()) for one in toolchain.debs if one.name in loaded]
    record = recorded(deb, group, without)
    return Task(
        key=identity.build_key(record),
        kind=identity.DEBIAN,
        name=f"debian:{deb.name}",
        version=deb.version,
        record=record,
        platform=toolchain.platform,
        inputs=plan.Inputs(debs=group),
        outputs={RUNTIME: RunTime(tuple(needed(identity.build_key(one)) for one in run))},
        about=plan.About(origin=deb.path),
        subject=deb.digest,
        partial=bool(without),
    )


def needed(key: BuildKey) -> RunNeed:
    """What an output needs by its Depends."""
    return RunNeed(key, RUNTIME, "Depends")
