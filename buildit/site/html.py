"""Parts of a page as HTML text: whatever others wrote stays text, and no link leaves the site.

Every function that takes a text escapes it; what is HTML already is called `cell`, `body` or
`html`. There is no JavaScript, and the page's own policy forbids any.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from html import escape
from urllib.parse import quote

from buildit.model import amount
from buildit.site.pagestyle import STYLE

POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-"
    f"{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
)
"""Content Security Policy level 3: nothing is loaded, nothing runs, and one style counts."""

_FOOTER = (
    "<footer>A view of what lies here, written by <code>buildit push</code>; "
    "<code>buildit pages</code> makes it anew.</footer>"
)
_UNSEEN = re.compile(
    # C0, C1 and DEL; marks, embeddings and isolates of direction (UAX 9); soft hyphens, joiners
    # and other text that shows nothing; line and paragraph separators; halves of pairs.
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_KINDS = {"#": ' class="n"', "+": ' class="c"', "-": ' class="v"', "=": ' class="s"'}


def text(written: str) -> str:
    """Text of anybody as HTML: escaped; white space is a blank, and what cannot be seen, or turns
    the direction of what follows, is a replacement character."""
    if written.isascii() and written.isprintable():
        return escape(written)  # most of it, and much faster
    plain = re.sub(r"[\t\n\r\x0b\x0c\x85\u2028\u2029]+", " ", written)
    return escape(_UNSEEN.sub("\ufffd", plain))


def href(path: str) -> str:
    """A relative link to a path, which can be no other scheme, host or query."""
    quoted = quote(path, errors="replace")
    return f".{quoted}" if quoted.startswith("/") else quoted


def anchor(name: str) -> str:
    """The id of a part of a page: the same for whoever links to it."""
    return re.sub(r"[^A-Za-z0-9._+~-]", "_", name)


def link(target: str, shown: str, part: str = "") -> str:
    """A link to `target`, a path relative to the page, or to a part of it."""
    hashed = f"#{anchor(part)}" if part else ""
    return f'<a href="{escape(href(target) if target else "")}{hashed}">{text(shown)}</a>'


def exact(written: str) -> str:
    """Text to copy, such as a hash: one click marks all of it."""
    return f"<code>{text(written)}</code>"


def commands(lines: Iterable[str]) -> str:
    """Lines to copy into a terminal or a file; with a keyboard they can be scrolled."""
    return f'<pre tabindex="0">{chr(10).join(map(text, lines))}</pre>'


def chips(texts: Iterable[str]) -> str:
    items = "".join(f"<li>{text(one)}</li>" for one in texts)
    return f'<ul class="tags">{items}</ul>' if items else ""


def flag_chips(flags: Iterable[str]) -> str:
    """Flags as a lock has them; the sign, and not colour alone, tells what is off."""
    items = [
        f'<li class="off">\u2212{text(one[1:])}</li>'
        if one.startswith("-")
        else f"<li>{text(one.removeprefix('+'))}</li>"
        for one in sorted(flags, key=lambda one: (one.startswith("-"), one))
    ]
    return f'<ul class="tags flags">{"".join(items)}</ul>' if items else ""


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML cells, the first of each row its head; a head that begins with `#` is of
    numbers, with `+` of sentences, with `-` of versions, with `=` of a word. On a phone each row is
    a block, and each cell says what it is."""
    names = [head.lstrip("#+-=") for head in heads]
    kinds = [_KINDS.get(head[:1], "") for head in heads]
    top = "".join(f'<th scope="col"{k}>{n}</th>' for n, k in zip(names, kinds, strict=True))
    lines = [
        "<table>",
        f'<caption class="hidden">{text(title)}</caption>',
        f"<thead><tr>{top}</tr></thead>",
        "<tbody>",
    ]
    for row in rows:
        cells = [f'<th scope="row">{row[0]}</th>']
        for name, kind, cell in zip(names[1:], kinds[1:], row[1:], strict=True):
            cells.append(f'<td{kind} data-l="{name}">{cell}</td>' if cell else "<td></td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</tbody>", "</table>"])


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Names with HTML beside them; a name without anything beside it is left out."""
    items = [f"<dt>{text(name)}</dt><dd>{cell}</dd>" for name, cell in rows if cell]
    return "\n".join(["<dl>", *items, "</dl>"]) if items else ""


def nothing(what: str) -> str:
    return f'<p class="soft">{text(what)}</p>'


def size(number: int) -> str:
    """A number of bytes; a stranger's card may hold any."""
    return amount.size(number, "EB")


def document(
    title: str,
    tags: Iterable[tuple[str, str]],
    trail: Sequence[tuple[str, str]],
    body: Iterable[str],
) -> str:
    """A whole page. `tags` are names and contents of further `meta` elements; `trail` leads from
    the first page to this one's directory: link and name."""
    crumbs = "".join(f"<li>{link(target, shown)}</li>" for target, shown in trail)
    here = f'<li aria-current="page">{text(title)}</li>'
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<meta name="referrer" content="no-referrer">',
        '<meta name="generator" content="buildit">',
        *(f'<meta name="{text(kind)}" content="{text(content)}">' for kind, content in tags),
        f"<title>{text(_title(title, trail))}</title>",
        f"<style>{STYLE}</style>",
        "</head>",
        "<body>",
        *([f'<nav aria-label="Where you are"><ol>{crumbs}{here}</ol></nav>'] if trail else []),
        "<main>",
        *body,
        "</main>",
        _FOOTER,
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _title(title: str, trail: Sequence[tuple[str, str]]) -> str:
    return f"{title} \u00b7 {trail[0][1]}" if trail else title
