"""The `<meta>` tags of a web page, in one pass; pure.

The library's parser takes hours for a hostile page of a megabyte: it looks for the end of each tag
again from every `<`. Here no byte is looked at twice: what is never closed ends the page, as in
browsers (HTML, 13.2.5 Tokenization). Whatever else a page is has no meaning.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping

LONGEST = 4096
"""Characters of an attribute that is looked at; a name or a URL has fewer."""

_NAME = re.compile(r"[A-Za-z][^\s/>]*+")
_ATTRIBUTE = re.compile(
    r"""[\s/]*+(?P<name>[^\s/>][^\s/>=]*+)(?:\s*+=\s*+(?:"(?P<double>[^"]*+)"|'(?P<single>[^']*+)'|"""
    r"""(?P<bare>[^\s>"'][^\s>]*+)|(?P<open>["'])|))?+"""
)
_END = re.compile(r"[\s/]*+>")
_COMMENT_END = re.compile(r"--!?>")
_OPAQUE = {
    name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE)
    for name in ("script", "style", "textarea", "title", "noframes", "iframe", "xmp")
}
"""Elements whose content is text, by what ends them."""


def metas(text: str) -> Iterator[Mapping[str, str]]:
    """The attributes of each meta tag, in the order of the page; of one written twice the first
    counts (13.2.5.33). Tags in comments, in scripts and in other text are none."""
    at = 0
    while (at := text.find("<", at)) >= 0:
        if text.startswith("<!--", at):
            found = _COMMENT_END.search(text, at + 2)
            after = found.end() if found else -1
        elif text[at + 1 : at + 2] in ("!", "?"):
            after = text.find(">", at) + 1 or -1
        else:
            closing = text.startswith("</", at)
            name = _NAME.match(text, at + 1 + closing)
            if name is None:
                at += 1
                continue
            said, after = _attributes(text, name.end())
            kind = "" if closing else name[0].lower()
            if after >= 0 and kind == "meta":
                yield said
            if after >= 0 and kind in _OPAQUE:
                end = _OPAQUE[kind].search(text, after)
                after = end.start() if end else -1
        if after < 0:
            return
        at = after


def _attributes(text: str, at: int) -> tuple[dict[str, str], int]:
    """The attributes of a tag from behind its name, and where it ends; -1 where it does not."""
    said: dict[str, str] = {}
    while (end := _END.match(text, at)) is None:
        found = _ATTRIBUTE.match(text, at)
        if found is None or found["open"]:
            return {}, -1
        value = found["double"] or found["single"] or found["bare"] or ""
        if len(value) <= LONGEST:
            said.setdefault(found["name"].lower(), html.unescape(value))
        at = found.end()
    return said, end.end()
