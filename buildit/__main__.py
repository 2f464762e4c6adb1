"""`buildit` and `python -m buildit`: the way with nothing to do first, then the commands."""

from __future__ import annotations

import gc
import io
import sys

GARBAGE = 50_000
"""Objects between two looks for cycles: there are next to none, and each look costs milliseconds
while plans and listings are read."""


def main() -> None:
    """Run the command line and exit with its code."""
    gc.set_threshold(GARBAGE)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Paths come out as the bytes that they are, whatever the locale says.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")

    from buildit.cli.quick import replay

    code = replay(sys.argv[1:])
    if code is None:
        from buildit.cli.main import run

        code = run(sys.argv[1:])
    sys.exit(code)


if __name__ == "__main__":
    main()
