"""Common Debian packages in images of their own: each is built, unpacked, started, and does a job.

`python -m tests.debian_in_images` runs the whole table (`debian_in_images.yaml`) and writes
docs/debian-packages.md; names choose some of it. Tools run by bubblewrap in what umoci unpacks,
with the image's files as the only ones; servers run by podman, as their image says, and are asked.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.engines import Container, podman

TOP = Path(__file__).resolve().parent.parent
PAGE = TOP / "docs" / "debian-packages.md"
_LACKS = re.compile(r"not in the image, though files of Debian's packages name it: (.*)")
_CLEAN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp"}
_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Job:
    """Packages of one image, what is run in it, and a pattern of what that prints or answers.

    `source` is a Debian source package, with its version, that is built with the text `patch`; of
    it the image takes `taken`, else the obvious one. `asked` says in words what `ask` is.
    """

    packages: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    prints: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    serve: tuple[str, ...] = ()
    user: str = "0"
    group: str = ""
    port: int = 0
    ask: str = ""
    hex: bool = False
    udp: bool = False
    curl: str = ""
    asked: str = ""
    source: str = ""
    patch: str = ""
    taken: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.source.partition("=")[0] or self.packages[0]

    @property
    def files(self) -> Mapping[str, str]:
        """What the container's directory holds, by path."""
        app: dict[str, object] = {"exec": list(self.run or self.serve), "user": self.user}
        app |= {"group": self.group} if self.group else {}
        app |= {"environment": dict(self.environment)} if self.environment else {}
        files, lines = {}, [f"- vars: {{name: try, version: '1', author: {_plain(self.name)}}}"]
        if self.source:
            embedded = {"type": "embedded", "path": "./pkg", "packages": list(self.taken)}
            lines.append(f"- package: {json.dumps({k: v for k, v in embedded.items() if v})}")
            base = f"base: debian:{self.source}\npatches: {{ours.patch: Says whose it is}}\n"
            files = {"pkg/pkg.yaml": base, "pkg/ours.patch": self.patch}
        lines += [f"- package: {{debian: {name}}}" for name in self.packages]
        lines += [f"- app: {json.dumps(app)}", "- image: {type: oci}", ""]
        return {**files, "container.yaml": "\n".join(lines)}


def _plain(name: str) -> str:
    return name.replace(".", "-")


@dataclass(frozen=True, slots=True)
class Outcome:
    """`error` is empty where the image was built, and the job did what it should: `answer` is what
    its pattern found."""

    job: Job
    error: str
    answer: str = ""
    debs: int = 0
    size: int = 0
    lacks: str = ""
    seconds: float = 0.0


def read_jobs(table: Path) -> tuple[Job, ...]:
    """The jobs of a file, in its order."""
    keys = ("packages", "run", "serve", "taken")
    return tuple(
        Job(**{**row, **{key: tuple(row.get(key, ())) for key in keys}})
        for row in yaml.safe_load(table.read_text("utf-8"))
    )


JOBS = read_jobs(Path(__file__).with_suffix(".yaml"))


def try_out(
    job: Job,
    room: Path,
    program: Sequence[str],
    environment: Mapping[str, str] | None = None,
    lock: str = "",
) -> Outcome:
    """Build the image of a job in the empty directory `room` with a buildit, and run the job.

    `environment` is the buildit's, else this program's own; `lock` what the lock holds before.
    """
    started = time.monotonic()
    box = room / "box"
    box.mkdir()
    for path, text in job.files.items():
        (box / path).parent.mkdir(exist_ok=True)
        (box / path).write_text(text)
    if lock:
        (box / "buildit.lock").write_text(lock)
    built = _run([*program, "build", str(box), "--output", str(room / "out")], 1800, environment)
    said = built.stdout + built.stderr
    if built.returncode:
        text = next((line for line in said.splitlines() if "error:" in line), said[-300:])
        return Outcome(job, f"build: {text}", seconds=time.monotonic() - started)
    image = next((room / "out").glob("*.oci"))
    manifest = _document(image, json.loads((image / "index.json").read_text())["manifests"][0])
    debs = sum(1 for line in (box / "buildit.lock").read_text().splitlines() if _is_deb(line))
    lacks = next((match[1] for match in map(_LACKS.search, said.splitlines()) if match), "")
    told, error = _served(job, image) if job.serve else _started(job, image, room)
    found = re.search(job.prints, told, re.DOTALL)
    size, lacks = sum(layer["size"] for layer in manifest["layers"]), lacks.partition(" (`")[0]
    took = time.monotonic() - started
    return Outcome(job, "" if found else error, found[0] if found else "", debs, size, lacks, took)


def _served(job: Job, image: Path) -> tuple[str, str]:
    """Start an image as it says, and ask it: what it answers, and what to say if that is wrong."""
    tag = json.loads((image / "index.json").read_text())["manifests"][0]["annotations"]
    name = f"oci:{image}:{tag['org.opencontainers.image.ref.name']}"
    with podman() as engine:
        try:
            loaded = engine.load(name, "localhost/try:1")
            server = engine.start("try", loaded, "--tmpfs", "/tmp")
        except (AssertionError, subprocess.CalledProcessError) as error:
            return "", f"start: {str(error)[-300:].strip()}"
        answer = ""
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end and not re.search(job.prints, answer, re.DOTALL):
            if server.pid == 0:
                return "", f"it ended: {server.logs()[-300:].strip()}"
            answer = _answer(job, server)
            time.sleep(0.2)
        return answer, f"answer {answer[:200]!r}: {server.logs()[-300:].strip()}"


_ASK = """
import socket, sys
port, udp, text = int(sys.argv[1]), sys.argv[2] == "True", bytes.fromhex(sys.argv[3])
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
one.settimeout(5)
one.connect(("127.0.0.1", port))
one.send(text) if text else None
while got := one.recv(4096):
    sys.stdout.write(got.hex())
    one.settimeout(0.5)
"""


def _answer(job: Job, server: Container) -> str:
    if job.curl:
        return server.curl("-i", job.curl).stdout
    asked = job.ask if job.hex else job.ask.encode().hex()
    words = ("nsenter", "-t", str(server.pid), "-n", sys.executable, "-c", _ASK)
    done = _run([*words, str(job.port), str(job.udp), asked], 20)
    found = done.stdout
    return found if job.hex else bytes.fromhex(found).decode("utf-8", "replace")


def _is_deb(line: str) -> bool:
    return line.startswith("deb debian:")


def _document(image: Path, descriptor: Mapping[str, str]) -> dict[str, list[dict[str, int]]]:
    path = image / "blobs" / descriptor["digest"].replace(":", "/")
    document: dict[str, list[dict[str, int]]] = json.loads(path.read_text())
    return document


def _started(job: Job, image: Path, room: Path) -> tuple[str, str]:
    """Run the job where only the image's files are: what it says, and what to say if that is
    wrong."""
    done = run_in(image, room / "bundle", job.run, job.environment)
    said = done.stdout + done.stderr
    return said, f"rc {done.returncode}: {said[-300:].strip()}"


def run_in(
    image: Path,
    bundle: Path,
    argv: Sequence[str],
    environment: Mapping[str, str] | None = None,
    watch: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Unpack an OCI layout with umoci into the new directory `bundle`, and run a program there;
    `watch` is a command such as strace that runs another."""
    tag = json.loads((image / "index.json").read_text())["manifests"][0]["annotations"]
    name = f"{image}:{tag['org.opencontainers.image.ref.name']}"
    unpacked = _run(["umoci", "raw", "unpack", "--rootless", "--image", name, str(bundle)], 600)
    if unpacked.returncode:
        return unpacked
    for directory in ("proc", "dev", "tmp"):
        (bundle / directory).mkdir(exist_ok=True)
    words = [*watch, "bwrap", "--bind", str(bundle), "/", "--proc", "/proc", "--dev", "/dev"]
    words += ["--tmpfs", "/tmp", "--unshare-all", "--clearenv", "--die-with-parent"]
    for key, value in {**_CLEAN, **(environment or {})}.items():
        words += ["--setenv", key, value]
    return _run([*words, "--", *argv], 120)


def _run(
    argv: Sequence[str], limit: int, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=limit,
        stdin=subprocess.DEVNULL,
    )


def row(one: Outcome) -> str:
    """What the page says of one job."""
    return (
        f"| {' + '.join(one.job.packages)} | {one.debs} | {one.size / 1e6:.0f} "
        f"| {shown(one.error) or 'yes'} | {one.lacks or '-'} |"
    )


def shown(text: str) -> str:
    """An error or an answer in one line of a table."""
    return " ".join(text.replace("|", "/").split())[:160]


def page(rows: Iterable[str]) -> str:
    """The table for docs."""
    rows = list(rows)
    good = sum("| yes |" in row for row in rows)
    head = (
        "# Debian packages in images\n\n"
        "Written by `python -m tests.debian_in_images`: each package in an image of its own, and\n"
        "what `tests/debian_in_images.yaml` asks of it: servers answer, interpreters import,\n"
        "tools do a small job. `.debs` counts what the lock pins.\n\n"
        f"{good} of {len(rows)} enter an image and do their job.\n\n"
        "| package | .debs | MB | does its job | said to be lacking |\n|---|---|---|---|---|\n"
    )
    return head + "\n".join(rows) + "\n"


def run_table(
    argv: Sequence[str],
    parser: argparse.ArgumentParser,
    jobs: Sequence[Job],
    path: Path,
    row: Callable[[Outcome], str],
    page: Callable[[Iterable[str]], str],
) -> int:
    """Run jobs, and renew their rows on the page at `path`; 1 where something does not run.

    Each row begins with the title of its job.
    """
    parser.add_argument("names", nargs="*", help="some of the table; all without any")
    parser.add_argument("--buildit", default=f"{sys.executable} -m buildit")
    asked = parser.parse_args(argv)
    bad = False
    for job in (one for one in jobs if not asked.names or one.name in asked.names):
        with tempfile.TemporaryDirectory(prefix="debs-") as name:
            one = try_out(job, Path(name), asked.buildit.split())
        said = f"{job.name}: {one.error or one.answer} ({one.seconds:.0f} s) {one.lacks}"
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()
        bad |= bool(one.error)
        known = path.read_text().splitlines() if path.exists() else []
        rows = {_title(line): line for line in (*known, row(one)) if "| " in line}
        titles = (_title(row(Outcome(one, ""))) for one in jobs)
        path.write_text(page(rows[title] for title in titles if title in rows))
    return int(bad)


def _title(line: str) -> str:
    return line.split(" | ", maxsplit=1)[0].removeprefix("| ")


def main(argv: list[str]) -> int:
    """Run the table, or renew some rows of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.debian_in_images", description=__doc__)
    return run_table(argv, parser, JOBS, PAGE, row, page)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
