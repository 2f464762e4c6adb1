"""Text for a terminal: what upstream, a recipe or a file name says must not drive it."""

from __future__ import annotations

from collections.abc import Sequence


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
