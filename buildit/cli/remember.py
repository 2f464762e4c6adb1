"""What a successful build leaves for `cli.quick`: the lines of a run that finds everything."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from buildit.cli.quick import keep_run
from buildit.cli.results import printable
from buildit.cli.screen import lines
from buildit.commands import stamp
from buildit.commands.realise import LOCAL_STORE
from buildit.commands.run import Options
from buildit.commands.sync import own_of, watched
from buildit.errors import BuilditError
from buildit.events import Emitted, Event, Notice, Processing, Reused, Started
from buildit.model.image import Emission
from buildit.model.plan import ContainerPlan, from_json
from buildit.store.layout import BLOBS, key_directory


def remember(
    argv: Sequence[str], started: int, options: Options, emissions: Sequence[Emission]
) -> None:
    """Keep the run for a replay, where the plan left a stamp and there are images."""
    question = options.question("plan")
    kept = stamp.read(question)
    if kept is None or not emissions:
        return
    plan = from_json(kept["plan"])
    keys = frozenset(key for key, _ in plan.roots)
    text = [printable(line) for event in _events(plan, emissions) for line in lines(event, keys)]
    store = Path(kept["settings"]["store"])
    trust = kept["settings"]["trust"]
    lists = [trust["allowed_signers"], *trust["own_signers"].values()]
    trusted = [path for path in dict.fromkeys(lists) if path]
    keep_run(
        list(argv),
        started,
        question,
        [
            *(
                path
                for step in plan.takes
                for path in watched(Path(plan.directory), step, own_of(plan, options.output))
            ),
            *trusted,
        ],
        text,
        [str(emission.path) for emission in emissions],
        [str(key_directory(store.absolute(), key)) for key in keys],
        str(store.absolute() / BLOBS),
        _until(trusted),
    )


def _until(lists: Sequence[str]) -> int | None:
    """When the first line of the allowed-signers files ends to count that counts now."""
    if not lists:
        return None
    from buildit.trust.signing import signers_of

    now = time.time()
    ends = []
    for path in lists:
        try:
            ends += [line.valid_before for line in signers_of(Path(path))]
        except BuilditError:
            return 0  # a run that looks says what is wrong with it
    return min((end for end in ends if end is not None and end >= now), default=None)


def _events(plan: ContainerPlan, emissions: Sequence[Emission]) -> Iterator[Event]:
    yield Started(plan.label)
    for origin, key in plan.names:
        yield Processing(origin, plan.platform, key)
    for _, key in plan.names:
        yield Reused(key, plan.task(key).label, LOCAL_STORE)
    title = f"{plan.name}-{plan.version}"
    for emission in emissions:
        yield Emitted(title, emission.format, str(emission.path), emission.digest)
    yield from (Notice(notice) for emission in emissions for notice in emission.notices)
