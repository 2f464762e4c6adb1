"""`buildit doctor`: findings as lines with a verdict each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from buildit.cli.printable import columns, printable
from buildit.errors import BuildError
from buildit.recipe.config import load_config
from buildit.sandbox.probe import Finding, Level

VERDICTS = {Level.FINE: "ok", Level.WEAK: "warn", Level.MISSING: "fail"}


def own_store_place() -> Path:
    """Where the store of the working directory is or would be.

    Raises:
        RecipeError: the configuration is wrong, which is the first thing to mend.
    """
    return load_config(Path(), os.environ).config.store


def finding_lines(found: Sequence[Finding]) -> tuple[str, ...]:
    """A line for each finding, its remedy below it."""
    rows = columns([(VERDICTS[one.level], one.subject, one.text) for one in found])
    lines: list[str] = []
    for line, one in zip(rows, found, strict=True):
        lines.append(line)
        if one.hint is not None and one.level is not Level.FINE:
            lines.append(printable(f"      hint: {one.hint}"))
    return tuple(lines)


def findings_plain(found: Sequence[Finding]) -> list[dict[str, object]]:
    return [{**asdict(one), "verdict": VERDICTS[one.level]} for one in found]


def raise_for_findings(found: Sequence[Finding]) -> None:
    """Fail where something stops builds.

    Raises:
        BuildError: so it is.
    """
    missing = [one.subject for one in found if one.level is Level.MISSING]
    if missing:
        raise BuildError(
            f"builds cannot run here: {', '.join(missing)}",
            hint="the remedy of each is above",
        )
