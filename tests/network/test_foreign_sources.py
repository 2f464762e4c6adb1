"""Upstream archives of Debian's, unpacked as GNU tar unpacks them: another sample each commit.

The whole list: `python -m bench.judged_sources`.
"""

from __future__ import annotations

import random
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from bench.judged_sources import differences, fetched
from tests.fakes import default_transport

pytestmark = pytest.mark.network

SMALL = """
    bzip2 ca-certificates dash ed expat grep gzip hello jq less lua5.4 lz4 lzip memcached nano
    patch sed tzdata xz-utils zlib
"""
CHECKOUT = Path(__file__).parents[2]


def test_a_sample_of_upstream_archives(tmp_path: Path) -> None:
    argv = ("git", "rev-parse", "HEAD")
    head = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=False).stdout
    names = random.Random(head).sample(SMALL.split(), 4)
    with closing(default_transport()) as transport:
        found = {path.name: differences(path) for path in fetched(names, tmp_path, transport)}
    assert len(found) >= len(names)
    assert {name: lines for name, lines in found.items() if lines} == {}
