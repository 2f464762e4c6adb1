"""What makers and images ask of a plan, without the typed recipe: the task of a .deb, and the
runtime closure. Pure.

The closure is which outputs an image needs so that its files find all that they load. Followed are
the providers that each build really saw (recorded with the output), declared `run` dependencies,
and what a .deb only loads with dlopen as the toolchain declares it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from buildit.digest import BuildKey, Digest
from buildit.model import plan
from buildit.model.artifact import RUNTIME, Artifact
from buildit.model.plan import WHOLE, DebRef, DebView, OutputRef, RunNeed, RunTime, Task, Toolchain
from buildit.plan import identity

_NONE: Mapping[Digest, BuildKey] = {}
TaskOf = Callable[[BuildKey], Task]


def deb_task(
    deb: DebRef,
    toolchain: Toolchain,
    beside: tuple[DebRef, ...],
    rules: identity.Rules,
    view: DebView = WHOLE,
) -> Task:
    """The task of a Debian binary package, unpacked and split.

    `beside` are the further .debs that were chosen with it: what it needs is found in them, or in
    the toolchain. What its files do not say that they load is declared by the toolchain (`run`).
    `view` is what is taken of it.
    """
    others = tuple(sorted((d for d in beside if d != deb), key=lambda d: d.digest))
    group = (deb, *others)

    def recorded(one: DebRef, near: tuple[DebRef, ...], view: DebView = WHOLE) -> str:
        digests = tuple(sorted(other.digest for other in near if other != one))
        made = identity.deb_record(one.digest, toolchain.identity, digests, rules, view)
        return identity.record_text(made)

    loaded = toolchain.run.get(deb.name, ())
    run = [recorded(one, group) for one in others if one.name in loaded]
    run += [recorded(one, ()) for one in toolchain.debs if one.name in loaded]
    record = recorded(deb, group, view)
    return Task(
        key=identity.build_key(record),
        kind=identity.DEBIAN,
        name=f"debian:{deb.name}",
        version=deb.version,
        record=record,
        platform=toolchain.platform,
        inputs=plan.Inputs(debs=group),
        outputs={RUNTIME: RunTime(tuple(by_depends(identity.build_key(one)) for one in run))},
        about=plan.About(origin=deb.path),
        subject=deb.digest,
        partial=view != WHOLE,
    )


def by_depends(key: BuildKey) -> RunNeed:
    """What an output needs by its Depends."""
    return RunNeed(key, RUNTIME, "Depends")


@dataclass(frozen=True, slots=True)
class Closure:
    """The members, dependencies first, and for each but the roots who needs it, for what."""

    members: tuple[OutputRef, ...]
    why: Mapping[OutputRef, tuple[OutputRef, str]]


def closure(
    roots: tuple[OutputRef, ...],
    node: TaskOf,
    obtain: Callable[[Task], Artifact],
    views: Mapping[Digest, BuildKey] = _NONE,
) -> Closure:
    """The outputs that `roots` need at run time, themselves included.

    The order is a function of names alone: a member follows all that it needs, siblings go by
    name. `obtain` gives the artifact of a node that the closure reaches. `views` says which node
    stands for a .deb, by the .deb's digest, where an image leaves files of it out.
    """
    order: list[OutputRef] = []
    why: dict[OutputRef, tuple[OutputRef, str]] = {}
    seen: set[OutputRef] = set()
    # An explicit stack: a chain of dependencies may be deeper than Python's recursion.
    stack: list[tuple[OutputRef, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        member, done = stack.pop()
        if done:
            order.append(member)
        if done or member in seen:
            continue
        seen.add(member)
        stack.append((member, True))
        key, output = member
        needs = {
            (standing_for(node(needed), views), name): need
            for (needed, name), need in runtime_needs(node(key), output, obtain(node(key))).items()
        }
        for needed in sorted(needs, key=lambda m: (node(m[0]).name, m[1], m[0]), reverse=True):
            # Only what is not reached yet: so the chain of reasons leads to a root, in no circle.
            if needed not in seen:
                if needed not in roots:
                    why.setdefault(needed, (member, needs[needed]))
                stack.append((needed, False))
    return Closure(tuple(order), why)


def views_of(nodes: Iterable[Task]) -> dict[Digest, BuildKey]:
    """The nodes that leave files out of their .deb, by its digest."""
    return {node.subject: node.key for node in nodes if node.subject and node.partial}


def standing_for(node: Task, views: Mapping[Digest, BuildKey]) -> BuildKey:
    """The task that an image takes for another one: its view, where there is one."""
    return views.get(node.subject, node.key) if node.subject else node.key


def runtime_needs(node: Task, output: str, artifact: Artifact) -> dict[OutputRef, str]:
    """The outputs that one needs, as its build saw or declared it, each with its reason."""
    found = artifact.outputs.get(output)
    if found is None:
        return {}
    seen = [(provider, need) for need, provider in sorted(found.providers.items())]
    seen += [(provider, "declared: run") for provider in found.run]
    needs: dict[OutputRef, str] = {}
    for provider, why in seen:
        key, _, name = provider.partition(":")
        needs.setdefault((BuildKey(key) if key else node.key, name), why)
    for need in node.outputs[output].needs if output in node.outputs else ():
        needs.setdefault((need.key, need.output), need.why)
    needs.pop((node.key, output), None)
    return needs
