"""Words for people, and for what they write: amounts, the name that was probably meant, texts as
YAML takes them, the file names of sources. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence

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


_SHOWN = 12


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`; None where none is like it."""
    import difflib

    folded = {one.lower().replace("_", "-"): one for one in sorted(known, reverse=True)}
    close = difflib.get_close_matches(name.lower().replace("_", "-")[:100], folded, n=1)
    return folded[close[0]] if close else None


def guess(name: str, known: Iterable[str], form: str = "{}") -> str:
    """The beginning of a hint: the known name that was probably meant, empty where none is like."""
    meant = nearest(name, known)
    return f"did you mean {form.format(meant)}? " if meant else ""


def hint_of(name: str, known: Collection[str]) -> str:
    """A hint: the nearest name, if there is one, and the names that are valid."""
    if not known:
        return "nothing can be named here"
    listed = list(known)[:_SHOWN]
    rest = len(known) - len(listed)
    names = ", ".join(listed) + (f" and {rest} more" if rest > 0 else "")
    return f"{guess(name, known, '{!r}')}valid here: {names}"


_PLAIN = re.compile(r"(?:--?)?[A-Za-z0-9/.+_][A-Za-z0-9/._=+%@^~:-]*(?<!:)")


def yaml_word(text: str) -> str:
    """The text as one scalar: bare where it can mean nothing else, else quoted."""
    plain = _PLAIN.fullmatch(text) and text.lower() != "null"
    return text if plain else json.dumps(text, ensure_ascii=False)


ARCHIVES = (".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".tlz", ".zip", ".gem", ".crate")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz", ".lzma", ".Z")


def name_of(url: str) -> str:
    """The last part of a URL's path, as it is written; "" where it has none."""
    path = url.partition("?")[0].partition("#")[0].rstrip("/")
    return path.rpartition("/")[2] if "/" in path.partition("://")[2] else ""


def names_archive(name: str) -> bool:
    """Whether a file of this name can only be an archive: if it holds anything else, it is wrong.

    Where the name leaves it open, a source that is no archive is taken as one file of that name.
    """
    return without_codec(name).lower().endswith(ARCHIVES)


def without_codec(name: str) -> str:
    """`foo.gz` is `foo`; a name that is all suffix stays."""
    end = next((end for end in COMPRESSED if name.endswith(end)), "")
    return name.removesuffix(end) or name
