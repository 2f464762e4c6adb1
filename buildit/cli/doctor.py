"""`buildit doctor`: findings as lines with a verdict each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from buildit.cli.options import JSON
from buildit.cli.screen import columns, give, printable
from buildit.errors import BuildError
from buildit.recipe.config import load_config
from buildit.sandbox.probe import Level, Probed, probe

_VERDICTS = {Level.FINE: "ok", Level.WEAK: "warn", Level.MISSING: "fail"}


def finding_lines(found: Sequence[Probed]) -> tuple[str, ...]:
    """A line for each finding, its remedy below it."""
    rows = columns([(_VERDICTS[one.level], one.subject, one.text) for one in found])
    lines: list[str] = []
    for line, one in zip(rows, found, strict=True):
        lines.append(line)
        if one.hint is not None and one.level is not Level.FINE:
            lines.append(printable(f"      hint: {one.hint}"))
    return tuple(lines)


def findings_plain(found: Sequence[Probed]) -> list[dict[str, object]]:
    return [{**asdict(one), "verdict": _VERDICTS[one.level]} for one in found]


def raise_for_findings(found: Sequence[Probed]) -> None:
    """Fail where something stops builds.

    Raises:
        BuildError: so it is.
    """
    missing = [one.subject for one in found if one.level is Level.MISSING]
    if missing:
        raise BuildError(
            f"builds cannot run here: {', '.join(missing)}", hint="the remedy of each is above"
        )


@click.command("doctor", short_help="Say whether this machine can build, and what to mend.")
@JSON
def doctor_verb(as_json: bool) -> None:
    """Look at everything that builds need of this machine, with the remedy of what is wrong."""
    found = probe(load_config(Path()).config.store)
    give(found, finding_lines, findings_plain, as_json=as_json)
    raise_for_findings(found)
