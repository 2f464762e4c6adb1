"""Figures as data, as a table for people and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench.timing import Sample


@dataclass(frozen=True, slots=True)
class Row:
    """One side's figures: seconds of wall time, seconds of processor time, MiB, and how often."""

    side: str
    median: float
    minimum: float
    cpu: float
    peak: float
    runs: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """A figure beside its target; `figure` is `value` in words of a unit, such as a ratio."""

    what: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False

    @property
    def reached(self) -> bool | None:
        if self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True, slots=True)
class Table:
    """One benchmark: its rows, what follows from them, and remarks for the reader."""

    name: str
    title: str
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...]
    remarks: tuple[str, ...] = ()


def row(side: str, samples: Sequence[Sample]) -> Row:
    walls = [sample.seconds for sample in samples]
    return Row(
        side,
        median(walls),
        min(walls),
        median(sample.cpu for sample in samples),
        max(sample.peak for sample in samples),
        len(samples),
    )


def rows(found: Mapping[str, Sequence[Sample]]) -> tuple[Row, ...]:
    return tuple(row(name, samples) for name, samples in found.items())


def ratio(
    found: Mapping[str, Sequence[Sample]], ours: str, theirs: str, limit: float | None = None
) -> tuple[Verdict, ...]:
    """Our median over theirs, with the target; then minima and processor time, which say the same
    where the machine is quiet and more where it is not."""
    mine, other = row(ours, found[ours]), row(theirs, found[theirs])
    words = f"{ours} / {theirs}"
    return (
        Verdict(f"{words}, medians", mine.median / other.median, "x", limit),
        Verdict(f"{words}, minima", mine.minimum / other.minimum, "x"),
        Verdict(f"{words}, processor time", mine.cpu / max(other.cpu, 1e-6), "x"),
    )


def ahead(
    found: Mapping[str, Sequence[Sample]], ours: str, theirs: str, limit: float | None = None
) -> Verdict:
    """How many times faster our median is than theirs."""
    mine, other = row(ours, found[ours]), row(theirs, found[theirs])
    return Verdict(
        f"{ours}, ahead of {theirs}", other.median / mine.median, "x", limit, at_least=True
    )


def text(table: Table) -> str:
    """The table in Markdown."""
    lines = [
        f"## {table.name}: {table.title}",
        "",
        "| side | median | minimum | processor | peak memory | runs |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.side} | {seconds(r.median)} | {seconds(r.minimum)} | {seconds(r.cpu)} "
        f"| {r.peak:.0f} MiB | {r.runs} |"
        for r in table.rows
    ]
    lines += ["", "| figure | | target | |", "|---|---|---|---|"]
    lines += [_verdict(verdict) for verdict in table.verdicts]
    lines += [*(["", *(f"- {remark}" for remark in table.remarks)] if table.remarks else []), ""]
    return "\n".join(lines)


def _verdict(verdict: Verdict) -> str:
    sign = ">=" if verdict.at_least else "<="
    target = "" if verdict.limit is None else f"{sign} {verdict.limit:g} {verdict.unit}"
    word = {None: "", True: "reached", False: "**missed**"}[verdict.reached]
    return f"| {verdict.what} | {verdict.value:.3g} {verdict.unit} | {target} | {word} |"


def seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def plain(tables: Sequence[Table], machine: Mapping[str, str]) -> dict[str, Any]:
    """What results.json holds."""
    return {"machine": dict(machine), "tables": [asdict(table) for table in tables]}
