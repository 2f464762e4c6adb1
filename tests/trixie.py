"""Programs of Debian 13 for tests, unpacked beside a Debian 12 system: nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_NONE = "Debian 13's programs cannot be had"
_SETTINGS = """\
Dir::Etc::SourceList "{root}/sources.list";
Dir::Etc::SourceParts "-";
Dir::State "{root}";
Dir::State::Lists "{root}/lists";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
APT::Sandbox::User "root";
Acquire::Languages "none";
"""


@cache
def unpacked(root: Path, packages: tuple[str, ...]) -> Path:
    """The `usr/bin` of .debs of trixie, from the mirror that this machine's apt takes bookworm
    from; skips where there is none, or where that lacks them."""
    mirror = _mirror()
    if mirror is None:
        pytest.skip(f"{_NONE}: apt knows no mirror of Debian 12")
    for name in ("lists/partial", "cache/archives/partial", "debs"):
        (root / name).mkdir(parents=True)
    (root / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {mirror} trixie main\n")
    (root / "status").touch()
    (root / "apt.conf").write_text(_SETTINGS.format(root=root))
    for words in (["update", "-q"], ["download", "-q", *packages]):
        done = _apt(words, root)
        if done.returncode:
            pytest.skip(f"{_NONE}: {done.stderr}")
    for path in sorted((root / "debs").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", path, root / "tree"], check=True)
    return root / "tree/usr/bin"


def _apt(words: Sequence[str], root: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "APT_CONFIG": f"{root}/apt.conf"}
    return subprocess.run(
        ["apt-get", *words],
        cwd=root / "debs",
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def _mirror() -> str | None:
    if shutil.which("apt-get") is None:
        return None
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    found = (line.split() for line in told.splitlines())
    return next((uri for uri, *name in found if name == ["bookworm"]), None)
