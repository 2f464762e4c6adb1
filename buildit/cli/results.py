"""Results on stdout: lines for people and pipes, or one JSON document.

What upstream, a recipe or a file name says must not drive a terminal: `printable` and `columns`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

_Result = TypeVar("_Result")


def printable(text: str) -> str:
    """`text` with control, format and undecodable characters shown as `?`, tabs as blanks."""
    return "".join(c if c.isprintable() else " " if c == "\t" else "?" for c in text)


def columns(rows: Sequence[tuple[str, ...]], indent: str = "") -> tuple[str, ...]:
    """Rows of equal length as lines with aligned columns, two blanks between them."""
    if not rows:
        return ()
    shown = [tuple(printable(cell) for cell in row) for row in rows]
    widths = [max(len(row[at]) for row in shown) for at in range(len(shown[0]))]
    return tuple(
        (indent + "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True))).rstrip()
        for row in shown
    )


def give(
    found: _Result,
    lines: Callable[[_Result], Iterable[str]],
    plain: Callable[[_Result], object],
    *,
    as_json: bool,
) -> None:
    """Give the result of a verb: as the JSON of `plain`, or as `lines`."""
    if as_json:
        say_json(plain(found))
    else:
        say(lines(found))


def say(lines: Iterable[str]) -> None:
    """Write lines; the caller has made foreign text printable, or wants its bytes."""
    _write("".join(f"{line}\n" for line in lines))


def say_json(value: object) -> None:
    _write(f"{json.dumps(value, indent=2)}\n")


def finish() -> None:
    """Have everything written.

    Raises:
        StoreError: stdout takes it not.
        BrokenPipeError: nobody reads it any more.
    """
    _write("")


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        if not text:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        from buildit.cli.failing import unwritable

        raise unwritable(error) from error
