"""Results on stdout: lines for people and pipes, or one JSON document."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable


def say(lines: Iterable[str]) -> None:
    """Write lines; the caller has made foreign text printable, or wants its bytes."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def say_json(value: object) -> None:
    sys.stdout.write(f"{json.dumps(value, indent=2)}\n")
