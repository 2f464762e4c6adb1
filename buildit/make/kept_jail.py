"""The sandbox of a failed build, kept beside its tree, so that `buildit shell` enters the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from buildit.digest import canonical
from buildit.errors import UsageError
from buildit.make.build_directory import BuildDirectory
from buildit.plan.steps import Step
from buildit.sandbox.jail import Jail

_FILE = "jail.json"


@dataclass(frozen=True, slots=True)
class KeptJail:
    """What was run where: the jail, and the command of each phase."""

    jail: Jail
    commands: Mapping[str, tuple[str, ...]]


def keep_jail(room: BuildDirectory, env: Mapping[str, str], steps: Sequence[Step]) -> None:
    """Note the jail in the work directory, outside of what the build itself can write."""
    commands = {step.phase.value: list(step.argv) for step in steps}
    facts = {"commands": commands, "env": dict(env), "lowers": list(room.lowers)}
    (room.work / _FILE).write_bytes(canonical(facts))


def read_jail(room: BuildDirectory) -> KeptJail:
    """The jail of the room of a failed build; the room's `lowers` count for nothing.

    Raises:
        UsageError: the build failed before it had a sandbox.
    """
    try:
        facts = json.loads((room.work / _FILE).read_bytes())
        env = {str(name): str(value) for name, value in facts["env"].items()}
        lowers = tuple(map(str, facts["lowers"]))
        commands = {name: tuple(map(str, argv)) for name, argv in facts["commands"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            "the build failed before its sandbox was made: there is nothing to enter",
            place=room.label,
            hint=f"see `buildit log`; what is left of it is in {room.work}",
        ) from error
    kept = BuildDirectory(room.work, room.trees, lowers, room.label, room.limits, room.stop)
    return KeptJail(kept.jail(env), commands)
