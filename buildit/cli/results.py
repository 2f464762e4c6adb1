"""Results on stdout: lines for people and pipes, or one JSON document."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable


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
