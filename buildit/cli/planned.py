"""A forecast as lines and as JSON data. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict

from buildit.cli.results import columns, printable
from buildit.commands.forecast import Forecast, Outlook, State
from buildit.digest import key_uuid
from buildit.model.amount import counted, size
from buildit.model.plan import ContainerPlan


def plan_lines(plan: ContainerPlan, found: Forecast) -> tuple[str, ...]:
    """One line a package, dependencies first, then what would be fetched."""
    rows = [(one.node.label, key_uuid(one.node.key), _state(one)) for one in found.packages]
    debs = [one for one in found.fetches if one.size is not None]
    others = [one for one in found.fetches if one.size is None]
    fetched = [f"To fetch: {counted(len(found.fetches), 'file')}"] if found.fetches else []
    fetched += [printable(f"  {one.name}") for one in others]
    if debs:
        fetched.append(f"  {counted(len(debs), '.deb')} ({size(sum(d.size or 0 for d in debs))})")
    head = f"{plan.label} for {plan.platform}: {counted(len(plan.tasks), 'package')}"
    return (printable(head), *columns(rows, "  "), *fetched)


def _state(one: Outlook) -> str:
    match one.state:
        case State.STORE:
            return "in the local store"
        case State.BINHOST:
            return f"in '{one.why}'"
        case State.BUILD:
            return f"to build: {one.why}"
        case State.UNPACK:
            return "to unpack"
        case State.PERHAPS:
            return "to unpack where a file turns out to need it"
        case State.UNNEEDED:
            return "not needed: what needs it is at hand"


def plan_plain(plan: ContainerPlan, found: Forecast) -> dict[str, object]:
    """Everything, with the records."""
    return {
        "label": plan.label,
        "platform": plan.platform,
        "toolchain": {"name": plan.toolchain.name, "identity": plan.toolchain.identity},
        "packages": [
            {
                "name": one.node.name,
                "version": one.node.version,
                "key": one.node.key,
                "uuid": key_uuid(one.node.key),
                "origin": one.node.about.origin,
                "state": one.state.value,
                "why": one.why,
                "dependencies": [asdict(dependency) for dependency in one.node.inputs.dependencies],
                "run": [need.key for need in one.node.run_needs()],
                "record": json.loads(one.node.record),
            }
            for one in found.packages
        ],
        "fetch": [asdict(lacking) for lacking in found.fetches],
    }
