"""Foreign programs that judge what a stack becomes: docker compose, kustomize and podman's
Quadlet generator of Debian 13, and Kubernetes' own schemas."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.trixie import unpacked

_KUBERNETES = "kubernetes-validate==1.37.0"


@dataclass(frozen=True, slots=True)
class StackJudges:
    """`tree` is where Debian 13's programs lie, `schemas` what has Kubernetes'."""

    tree: Path
    schemas: Path

    def program(self, name: str) -> str:
        return str(self.tree / "usr/bin" / name)

    def compose(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """docker compose without a daemon."""
        environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
        return _done([self.program("docker-compose"), *map(str, words)], environ)

    def schema(self, path: Path) -> subprocess.CompletedProcess[str]:
        """compose-spec's schema: unknown keys."""
        judge = Path(sys.executable).with_name("check-jsonschema")
        return _done([str(judge), "--builtin-schema", "vendor.compose-spec", str(path)])

    def kubernetes(self, path: Path) -> subprocess.CompletedProcess[str]:
        """A kind that it does not know is a line with WARN, and no error of its own."""
        done = _done([str(self.schemas), "--strict", str(path)])
        wrong = done.returncode or "WARN" in done.stdout + done.stderr
        return subprocess.CompletedProcess(done.args, int(bool(wrong)), done.stdout, done.stderr)

    def kustomize(self, directory: Path) -> subprocess.CompletedProcess[str]:
        return _done([self.program("kustomize"), "build", str(directory)])

    def quadlet(self, units: Path, output: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """The services that the generator makes of units, in `output`; then systemd's word on
        them."""
        output.mkdir(parents=True, exist_ok=True)
        generator = self.tree / "usr/libexec/podman/quadlet"
        environ = {**os.environ, "QUADLET_UNIT_DIRS": str(units)}
        made = _done([str(generator), *words, *[str(output)] * 3], environ)
        services = sorted(map(str, output.glob("*.service")))
        if made.returncode or not services:
            return subprocess.CompletedProcess(made.args, 1, made.stdout, made.stderr)
        environ = {**os.environ, "SYSTEMD_UNIT_PATH": f"{output}:"}
        return _done(["systemd-analyze", "verify", "--man=no", *services], environ)


def _done(
    argv: list[str], environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, capture_output=True, text=True, check=False, env=environ, timeout=300
    )


def stack_judges(root: Path) -> StackJudges:
    """All of them; skips where Debian 13's programs cannot be had. What PyPI has is kept between
    runs, as it is 100 MB."""
    bin_directory = unpacked(root / "trixie", ("docker-compose", "kustomize", "podman"))
    return StackJudges(bin_directory.parents[1], _schemas())


def _schemas() -> Path:
    kept = Path(tempfile.gettempdir()) / f"buildit-judges-{os.geteuid()}"
    kept.mkdir(mode=0o700, exist_ok=True)
    assert kept.stat().st_uid == os.geteuid()
    with (kept / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        program = kept / "venv/bin/kubernetes-validate"
        if not program.exists():
            subprocess.run([sys.executable, "-m", "venv", kept / "venv"], check=True)
            pip = [str(kept / "venv/bin/pip"), "install", "-q", _KUBERNETES]
            subprocess.run(pip, check=True, capture_output=True)
    return program
