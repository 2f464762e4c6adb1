"""Where hunks fit: as GNU patch without fuzz, and where it refuses, as git; never elsewhere."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from buildit.patch.apply import edit_of, lines_of, place_edits
from buildit.patch.form import Hunk
from buildit.patch.read import parse_patch

pytestmark = pytest.mark.unit

PATCH = ("patch", "-p1", "-N", "--batch", "--fuzz=0", "--no-backup-if-mismatch", "-r", "-", "-s")
GIT = ("git", "apply", "--unidiff-zero")


def lines(dice: random.Random, most: int) -> list[bytes]:
    words = (b"a", b"b", b"c", b"{", b"}", b"x%d" % dice.randrange(30))
    return [dice.choice(words) + b"\n" for _ in range(dice.randrange(most))]


def edited(dice: random.Random, old: list[bytes], size: int) -> list[bytes]:
    new = list(old)
    for _ in range(dice.randrange(4)):
        at = dice.randrange(len(new) + 1)
        new[at : at + dice.randrange(3)] = lines(dice, size)
    return new


def tool(argv: tuple[str, ...], cwd: Path, data: bytes, patch: bytes) -> bytes | None:
    (cwd / "f").write_bytes(data)
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C", "GIT_CEILING_DIRECTORIES": str(cwd.parent)}
    done = subprocess.run(argv, cwd=cwd, env=env, input=patch, capture_output=True, check=False)
    if done.returncode != 0:
        return None
    return (cwd / "f").read_bytes() if (cwd / "f").exists() else b""


@pytest.mark.scale
def test_hunks_fit_where_gnu_patch_or_git_puts_them(tmp_path: Path) -> None:
    dice = random.Random(5)
    met = 0
    for _ in range(120):
        old = lines(dice, 25)
        for name, side in (("o", old), ("n", edited(dice, old, 3))):
            (tmp_path / name).write_bytes(b"".join(side))
        context = dice.choice(("-U3", "-U3", "-U2", "-U1", "-U0"))
        diff = ("diff", context, "--label", "a/f", "--label", "b/f", "o", "n")
        patch = subprocess.run(diff, cwd=tmp_path, capture_output=True, check=False).stdout
        data = b"".join(edited(dice, old, 6))
        if not patch or not data:
            continue
        placed = place_edits(
            lines_of(data), [edit_of(hunk) for hunk in parse_patch(patch, "p").files[0].hunks]
        )
        ours = b"".join(placed.lines) if placed.fits else None
        gnu = tool(PATCH, tmp_path, data, patch)
        expected = gnu if gnu is not None or ours is None else tool(GIT, tmp_path, data, patch)
        assert ours == expected, (patch, data)
        met += ours is not None
    assert met > 20


@pytest.mark.scale
def test_the_work_has_an_end() -> None:
    """Many places that nearly fit: refused, not tried for ever."""
    data = tuple(lines_of(b"a\n" * 60_000))
    body = b" a\n" * 30_000 + b"-b\n" + b" a\n" * 3
    begun = time.monotonic()
    places = place_edits(data, [edit_of(Hunk(1, 30_004, 1, 30_003, body))] * 20).places
    assert set(places) == {None}
    many = [edit_of(Hunk(9, 2, 9, 2, b"-a\n+b\n a\n")) for _ in range(200)]
    assert place_edits(data, many).fits
    assert time.monotonic() - begun < 120
