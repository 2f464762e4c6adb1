"""Plain data as YAML text that every reader takes for the same: block style, texts in double quotes
wherever a reader of YAML 1.1 or 1.2 could take them for something else. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

Data = str | int | bool | None | Sequence["Data"] | Mapping[str, "Data"]

_BARE = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))
_BREAKS = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")


def yaml_document(data: Data) -> str:
    """One document, without `---`, that ends with a newline."""
    if isinstance(data, Mapping | list | tuple) and data:
        return "".join(f"{line}\n" for line in _lines(data))
    return f"{_scalar(data)}\n"


def yaml_documents(documents: Sequence[Data]) -> str:
    """Several, each behind `---`."""
    return "".join(f"---\n{yaml_document(one)}" for one in documents)


def _lines(data: Data) -> Iterator[str]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _under(f"{_text(key)}:", value)
    elif isinstance(data, list | tuple):
        for value in data:
            if isinstance(value, Mapping | list | tuple) and value:
                first, *rest = _lines(value)
                yield f"- {first}"
                yield from (f"  {line}" for line in rest)
            else:
                yield f"- {_scalar(value)}"


def _under(key: str, value: Data) -> Iterator[str]:
    if isinstance(value, Mapping | list | tuple) and value:
        yield key
        yield from (f"  {line}" for line in _lines(value))
    else:
        yield f"{key} {_scalar(value)}"


def _scalar(value: Data) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return _text(value)
        case Mapping():
            return "{}"
        case _:
            return "[]"


def _text(value: str) -> str:
    if _BARE.fullmatch(value) and value.lower() not in _WORDS:
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return _BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)
