"""Amounts in words for people, on a terminal and on a page."""

from __future__ import annotations

from collections.abc import Sequence

UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def size(count: int, largest: str = "TB") -> str:
    """A number of bytes in decimal units, as disks and networks are sold: `1.2 MB`."""
    value = float(count)
    for unit in UNITS:
        if value < 999.5 or unit == largest:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("the last unit takes everything")


def some(names: Sequence[str], most: int = 3) -> str:
    """The first of a list in one line, and how many follow: `a, b, c and 2 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(number: int, what: str, many: str = "") -> str:
    """`1 package`, `2 packages`; `many` where the plural is another one than with an s."""
    return f"{number} {what if number == 1 else many or f'{what}s'}"
