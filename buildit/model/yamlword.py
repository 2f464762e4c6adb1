"""A text as it is written in YAML's flow style, for hints that work when they are copied. Pure."""

from __future__ import annotations

import json
import re

_PLAIN = re.compile(r"(?:--?)?[A-Za-z0-9/.+_][A-Za-z0-9/._=+%@^~:-]*(?<!:)")


def yaml_word(text: str) -> str:
    """The text as one scalar: bare where it can mean nothing else, else quoted."""
    plain = _PLAIN.fullmatch(text) and text.lower() != "null"
    return text if plain else json.dumps(text, ensure_ascii=False)
