"""Debian sources with a user's patch: each is built, its image started, and asked for what changed.

`python -m tests.debian_patched` runs the whole table (`debian_patched.yaml`) and writes
docs/debian-patched.md; names choose some of it. The versions are those of `debian_builds.yaml`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tests.debian_builds import locked_versions
from tests.debian_in_images import TOP, Job, Outcome, read_jobs, run_table, shown

PAGE = TOP / "docs" / "debian-patched.md"
_WRONG = "not as it should"
_HEAD = """\
# Debian sources, patched

Written by `python -m tests.debian_patched`: each source of `tests/debian_patched.yaml` with a patch
on top of Debian's own series, in an image that was started and asked. The seconds are those of
fetching, of the chroot, of the build, of the image and of the answer, on two busy cores.
"""


def jobs() -> tuple[Job, ...]:
    """The table, each source with its version."""
    versions = locked_versions()
    rows = read_jobs(Path(__file__).with_suffix(".yaml"))
    return tuple(replace(job, source=f"{job.name}={versions[job.name]}") for job in rows)


def row(one: Outcome) -> str:
    """What the page says of one job."""
    job = one.job
    asked = f"GET {job.curl}" if job.curl else job.asked or job.ask or shlex.join(job.run)
    text = bytes.fromhex(one.answer).decode("latin-1") if job.hex else one.answer
    told = one.answer if job.hex and not text.isprintable() else text
    told = shown(told) or f"{_WRONG}: {shown(one.error)}"
    version = job.source.partition("=")[2]
    return f"| {job.name} | {version} | {one.seconds:.0f} | {shown(asked)} | {told} |"


def page(rows: Iterable[str]) -> str:
    """The page for docs."""
    rows, total = list(rows), len(jobs())
    good = sum(_WRONG not in line for line in rows)
    said = (
        f"{good} of {total} answered with what their patch says; what has no row was not run yet.\n"
    )
    head = "| source | version | seconds | asked | answer |\n|---|---|---|---|---|"
    return "\n".join((_HEAD, said, head, *rows)) + "\n"


def main(argv: Sequence[str]) -> int:
    """Run the table, or renew some rows of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.debian_patched", description=__doc__)
    return run_table(argv, parser, jobs(), PAGE, row, page)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
