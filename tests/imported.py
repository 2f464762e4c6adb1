"""Files of five kinds, of real shape, imported and then built as they come out: the table of
docs/ways-in.md. `python -m tests.imported` writes it; words name some, whose rows are replaced.

Debian's archive is needed, through the machine's apt sources.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

IMPORTS = Path(__file__).parent / "imports"
PAGE = Path(__file__).parent.parent / "docs" / "ways-in.md"
KINDS = {
    "dockerfile": "*/Dockerfile",
    "flockport": "*/*.flockport",
    "manifest": "*/*.manifest.yaml",
    "ebuild": "*/*/*.ebuild",
    "dsc": "*.dsc",
}
_INCLUDED = ("common.manifest.yaml",)
_BEGIN, _END = "<!-- tests.imported: begin -->", "<!-- tests.imported: end -->"


@dataclass(frozen=True)
class ImportedFile:
    """One file: `told` counts lines that were not taken over; `built` is "" where it was, else
    the first line of what was wrong; `seconds` are those of both."""

    kind: str
    name: str
    told: int
    built: str
    seconds: float


def import_files(kind: str) -> list[Path]:
    """The files of a kind."""
    return sorted(p for p in IMPORTS.glob(f"{kind}/{KINDS[kind]}") if p.name not in _INCLUDED)


def buildit(*words: str, store: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "BUILDIT_STORE": str(store), "XDG_CONFIG_HOME": str(cwd)}
    argv = [sys.executable, "-m", "buildit", *words]
    return subprocess.run(
        argv, env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )


def imported_file(
    path: Path, kind: str, store: Path, work: Path, *, built: bool = True
) -> ImportedFile:
    """Import one file in an empty directory, and build what came out, unedited, where `built`."""
    begun = time.monotonic()
    if kind in ("dockerfile", "flockport", "manifest"):
        shutil.copytree(path.parent, work / path.parent.name)
        path = work / path.parent.name / path.name
    name = path.parent.name if kind == "dockerfile" else path.name
    made = buildit("import", str(path), *_words(kind), store=store, cwd=work)
    told = made.stderr.count("not taken over")
    if made.returncode:
        return ImportedFile(kind, name, told, _wrong(made.stderr), time.monotonic() - begun)
    directory = made.stdout.strip().splitlines()[-1]
    if not built:
        return ImportedFile(kind, name, told, "", time.monotonic() - begun)
    done = buildit(directory, "--output", str(work / "out"), store=store, cwd=work)
    wrong = _wrong(done.stderr) if done.returncode else ""
    return ImportedFile(kind, name, told, wrong, time.monotonic() - begun)


def _words(kind: str) -> tuple[str, ...]:
    """Words of `import`: xz, in which a Flockport recipe's LXC image is packed, takes minutes."""
    if kind == "flockport":
        return ("--image", "oci")
    return ("--output", "made") if kind in ("ebuild", "dsc") else ()


def _wrong(text: str) -> str:
    found = re.search(r"buildit: error: (.*)", text)
    return re.sub(r"\S*/(?=[^/ ]+:)", "", found[1])[:120] if found else "no error is told"


def table(rows: list[ImportedFile]) -> Iterator[str]:
    """The section: counts by kind, then each file."""
    yield "| kind | imported and built unedited |"
    yield "|---|---|"
    for kind in KINDS:
        own = [row for row in rows if row.kind == kind]
        yield f"| {kind} | {sum(not row.built for row in own)} of {len(own)} |"
    yield ""
    yield "| file | lines told | seconds | built |"
    yield "|---|---|---|---|"
    for row in rows:
        wrong = row.built.replace("|", "/") or "yes"
        yield f"| {row.kind}: {row.name} | {row.told} | {row.seconds:.0f} | {wrong} |"


_ROW = re.compile(r"\| (\w+): (\S+) \| ([0-9]+) \| ([0-9]+) \| (.*) \|")


def written_rows() -> dict[tuple[str, str], ImportedFile]:
    """The rows that the page has."""
    found = {}
    for match in _ROW.finditer(PAGE.read_text("utf-8")):
        kind, name, told, seconds, built = match.groups()
        wrong = "" if built == "yes" else built
        found[kind, name] = ImportedFile(kind, name, int(told), wrong, float(seconds))
    return found


def write_page(rows: list[ImportedFile]) -> None:
    """Write the rows into the page, in the place of those of the same files."""
    known = written_rows() | {(row.kind, row.name): row for row in rows}
    ordered = sorted(known.values(), key=lambda row: (list(KINDS).index(row.kind), row.name))
    head, _, rest = PAGE.read_text("utf-8").partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    body = "\n".join(table(ordered))
    PAGE.write_text(f"{head}{_BEGIN}\n\n{body}\n\n{_END}{tail}", "utf-8")


def main(words: list[str]) -> None:
    store = Path(os.environ.get("BUILDIT_TEST_STORE", "/tmp/store-imported"))
    rows = []
    for kind in KINDS:
        for path in import_files(kind):
            if words and not any(word in str(path) for word in words):
                continue
            with tempfile.TemporaryDirectory() as work:
                row = imported_file(path, kind, store, Path(work))
            print(row, flush=True)  # noqa: T201 - a command
            rows.append(row)
    write_page(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
