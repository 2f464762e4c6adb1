"""Git repositories for tests, whose commits are the same on every machine."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

TIME = 1_600_000_000
ENV = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_DATE": "1500000000 +0000",
    "GIT_COMMITTER_DATE": f"{TIME} +0200",
    **{f"GIT_{who}_NAME": "A" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "a@example.org" for who in ("AUTHOR", "COMMITTER")},
}


@dataclass(frozen=True, slots=True)
class Upstream:
    """A repository with a working tree at `path`."""

    path: Path

    @property
    def url(self) -> str:
        return f"file://{self.path}"

    def git(self, *words: str, stdin: bytes = b"") -> str:
        argv = ("git", "-c", "protocol.file.allow=always", *words)
        done = subprocess.run(
            argv, cwd=self.path, env=ENV, input=stdin, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().strip()

    def write(self, path: str, content: str, mode: int = 0o644) -> None:
        place = self.path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)
        place.chmod(mode)

    def commit(self, tag: str = "") -> str:
        """Commit everything that is there; the commit's id."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "change", "--allow-empty")
        if tag:
            self.git("tag", "--annotate", "--force", "--message", "release", tag)
        return self.git("rev-parse", "HEAD")


def upstream(path: Path) -> Upstream:
    path.mkdir(parents=True)
    made = Upstream(path)
    made.git("init", "--quiet", "--initial-branch=main", "--template=")
    return made
