"""Apply patches inside the sandbox: GNU patch, fuzz 0, in order; every refusal named.

What is applied is the canonical form, which our own parser wrote, so the program sees no prompts,
no ed scripts and no paths outside of the tree. It runs as the build user on the source tree alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from buildit.plan.steps import PATCHES_DIRECTORY, script

PATCHER = "1"
"""Version of how patches are applied; in the key."""

ALREADY, REJECTED, NO_GIT = 91, 92, 93
"""Exit statuses of the script: which way a patch did not apply."""

_SCRIPT = r"""
for patch in "$PATCHES"/*; do
  echo "==> ${patch##*/}"
  if grep -q '^GIT binary patch$' "$patch"; then
    command -v git >/dev/null || exit 93
    git apply -p1 --whitespace=nowarn "$patch" || exit 92
    continue
  fi
  if patch -p1 -N --batch --fuzz=0 --no-backup-if-mismatch --reject-file=/tmp/rejects \
      --dry-run -i "$patch" >/tmp/patch.log 2>&1; then
    patch -p1 -N --batch --fuzz=0 --no-backup-if-mismatch --reject-file=/tmp/rejects \
      -i "$patch"
  else
    cat /tmp/patch.log
    if patch -p1 -R --batch --fuzz=0 --force --dry-run -i "$patch" >/dev/null 2>&1; then
      exit 91
    fi
    exit 92
  fi
done
"""


def apply_argv() -> tuple[str, ...]:
    """The command that applies every file of `PATCHES_DIRECTORY`, in the order of their names."""
    return script(_SCRIPT.replace("$PATCHES", PATCHES_DIRECTORY))


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a patch did not apply: its number from 0, what happened, and the hunks that failed.

    The reason names the first; where it is the only one, `details` are empty.
    """

    number: int
    reason: str
    hint: str
    details: tuple[str, ...] = ()


_BEGIN = re.compile(r"==> (\d+)")
_FILE = re.compile(r"(?:checking|patching) file '?(.+?)'?$")
_HUNK = re.compile(r"Hunk #(\d+) (FAILED|ignored) at (\d+)")
_QUOTED = re.compile(r"\|(?:---|\+\+\+) (?:[ab]/)?([^\t]+)")
"""The patch's own header, which GNU patch repeats where it finds no file of that name."""
_ABSENT = "No file to patch"
_WOULD = re.compile(r"The next patch would (?:create|delete) the file '?(.+?)'?,$")
"""GNU patch breaks the line after the name: `which does not exist!`, `which already exists!`."""


def refusal(status: int, output: Sequence[str]) -> Refused:
    """What the script's exit status and output mean."""
    number, file = 0, ""
    details: list[str] = []
    for line in output:
        if begin := _BEGIN.match(line):
            number, file, details = int(begin[1]), "", []
        elif named := _FILE.match(line):
            file = named[1]
        elif hunk := _HUNK.match(line):
            details.append(f"{file}: hunk #{hunk[1]} does not fit at line {hunk[3]}")
        elif (quoted := _QUOTED.match(line)) and quoted[1] != "/dev/null":
            file = quoted[1]
        elif line.startswith(_ABSENT):
            details.append(f"{file} does not exist")
        elif would := _WOULD.match(line):
            file = would[1]
        elif line.startswith("which "):
            details.append(f"{file} {line.removeprefix('which ').partition('!')[0]}")
    if status == ALREADY:
        return Refused(number, "is already applied", "upstream has it: remove it from `patches:`")
    if status == NO_GIT:
        return Refused(
            number,
            "changes binary files, which needs git in the chroot",
            "add it to the recipe: depends: {build: [debian:git]}",
        )
    return Refused(
        number,
        "does not apply" + (f": {details[0]}" if details else ""),
        "rebase the patch on this version; nothing is applied with fuzz",
        tuple(details) if len(details) > 1 else (),
    )
