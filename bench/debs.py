"""Common Debian packages in images of their own: each is built, unpacked and started.

`python -m bench.debs` runs the whole table and writes docs/debs.md; names choose some of it. The
images are unpacked by umoci and started by bubblewrap, with the image's files as the only ones.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
PAGE = TOP / "docs" / "debs.md"
_LACKS = re.compile(r"not in the image, though files of Debian's packages name it: (.*)")
_CLEAN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp"}


@dataclass(frozen=True, slots=True)
class Job:
    """Packages of one image, what is run in it, and a pattern of what that prints."""

    packages: tuple[str, ...]
    argv: tuple[str, ...] = ()
    prints: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.packages[0]


@dataclass(frozen=True, slots=True)
class Outcome:
    """`error` is empty where the image was built, and the job did what it should."""

    job: Job
    error: str
    debs: int = 0
    size: int = 0
    lacks: str = ""
    seconds: float = 0.0


def _version(name: str, program: str, *words: str, prints: str = r"\d") -> Job:
    return Job((name,), (program, *(words or ("--version",))), prints)


def _script(name: str, script: str, prints: str, *more: str) -> Job:
    return Job((name, *more, "dash"), ("/bin/sh", "-ec", script), prints)


_PYTHON = (
    "import bz2, ctypes, json, lzma, sqlite3, ssl, subprocess, zoneinfo; "
    "rows = sqlite3.connect(':memory:').execute('select 1 + 1').fetchall(); "
    "ssl.create_default_context(); "
    "print(json.dumps(rows), subprocess.run(['/bin/sh', '-c', 'echo shell'], stdout=-1).stdout)"
)
_GIT = (
    "cd /tmp; git init -q r; cd r; echo a > f; git add f; "
    "git -c user.name=a -c user.email=b@c commit -qm 'first one'; git log --format=%s; git fsck"
)
_RSYNC = "mkdir -p /tmp/a/b; echo hi > /tmp/a/b/c; rsync -a /tmp/a/ /tmp/z/; cat /tmp/z/b/c"

COMMON = (
    Job(("tzdata", "coreutils"), ("/bin/date", "-d@0", "+%Z %H:%M"), "CET 01:00",
        {"TZ": "Europe/Berlin"}),
    Job(("python3",), ("/usr/bin/python3", "-c", _PYTHON), r"\[\[2\]\] b'shell"),
    _version("python3-minimal", "/usr/bin/python3", prints="Python 3"),
    _script("git", _GIT, "first one", "coreutils"),
    _script("rsync", _RSYNC, "hi", "coreutils"),
    Job(("ruby",), ("/usr/bin/ruby", "-e", "require 'json'; puts JSON.dump([1 + 1])"), r"\[2\]"),
    _version("rustc", "/usr/bin/rustc", prints="rustc 1"),
    _version("openjdk-17-jre-headless", "/usr/lib/jvm/java-17-openjdk-amd64/bin/java",
             prints="openjdk 17"),
    _version("iproute2", "/sbin/ip", "-V", prints="iproute2"),
    Job(("ca-certificates", "openssl"),
        ("/usr/bin/openssl", "x509", "-noout", "-subject", "-in",
         "/usr/share/ca-certificates/mozilla/ISRG_Root_X1.crt"), "ISRG"),
    Job(("nodejs",), ("/usr/bin/node", "-e", "console.log([1, 2].map(x => x * 2))"), r"\[ 2, 4 \]"),
    _version("redis-server", "/usr/bin/redis-server", prints="Redis server"),
    Job(("busybox-static",), ("/bin/busybox", "echo", "hi"), "hi"),
    Job(("bash",), ("/bin/bash", "-c", "echo $((6 * 7))"), "42"),
    _version("coreutils", "/bin/ls", prints="coreutils"),
    _version("curl", "/usr/bin/curl", prints="curl 7"),
    _version("wget", "/usr/bin/wget", prints="GNU Wget"),
    Job(("perl",), ("/usr/bin/perl", "-MData::Dumper", "-MPOSIX", "-e", "print floor(2.5)"), "2"),
    _version("openssl", "/usr/bin/openssl", "version", prints="OpenSSL 3"),
    _version("gnupg", "/usr/bin/gpg", prints="GnuPG"),
    _version("less", "/usr/bin/less", prints="less"),
    _version("vim-tiny", "/usr/bin/vim.tiny", prints="VIM"),
    _version("procps", "/bin/ps", prints="procps"),
    _version("psmisc", "/usr/bin/pstree", "-V", prints="pstree"),
    _version("net-tools", "/sbin/ifconfig", prints="net-tools"),
    _version("bind9-dnsutils", "/usr/bin/dig", "-v", prints="DiG"),
    _version("iputils-ping", "/bin/ping", "-V", prints="ping"),
    _version("socat", "/usr/bin/socat", "-V", prints="socat"),
    _version("netcat-openbsd", "/bin/nc.openbsd", "-h", prints="netcat"),
    Job(("jq",), ("/usr/bin/jq", "-n", "[1, 2] | add"), "3"),
    Job(("sqlite3",), ("/usr/bin/sqlite3", ":memory:", "select 6 * 7"), "42"),
    _version("tar", "/bin/tar", prints="GNU tar"),
    _version("gzip", "/bin/gzip", prints="gzip"),
    _version("xz-utils", "/usr/bin/xz", prints="XZ Utils"),
    _version("zstd", "/usr/bin/zstd", prints="Zstandard"),
    _version("unzip", "/usr/bin/unzip", "-v", prints="UnZip"),
    Job(("file",), ("/usr/bin/file", "/usr/bin/file"), "ELF 64-bit"),
    _version("tini", "/usr/bin/tini", prints="tini version"),
    Job(("cron",), ("/usr/sbin/cron", "-h"), "cron"),
    _version("logrotate", "/usr/sbin/logrotate", prints="logrotate"),
    _version("rsyslog", "/usr/sbin/rsyslogd", "-v", prints="rsyslogd"),
    _version("haproxy", "/usr/sbin/haproxy", "-v", prints="HAProxy"),
    _version("memcached", "/usr/bin/memcached", prints="memcached"),
    _version("lighttpd", "/usr/sbin/lighttpd", "-v", prints="lighttpd"),
    _version("postgresql-client-15", "/usr/lib/postgresql/15/bin/psql", prints="psql"),
    _version("mariadb-client", "/usr/bin/mariadb", prints="MariaDB"),
    Job(("php-cli",), ("/usr/bin/php8.2", "-r", "echo json_encode([1 + 1]);"), r"\[2\]"),
    Job(("lua5.4",), ("/usr/bin/lua5.4", "-e", "print(6 * 7)"), "42"),
    _script("tcl", "echo 'puts [expr {6 * 7}]' | tclsh", "42"),
)  # fmt: skip
FURTHER = (
    _version("openssh-server", "/usr/sbin/sshd", "-V", prints="OpenSSH"),
    _version("openssh-client", "/usr/bin/ssh", "-V", prints="OpenSSH"),
    _version("nginx", "/usr/sbin/nginx", "-v", prints="nginx"),
    _version("apache2", "/usr/sbin/apache2", "-v", prints="Apache"),
    _version("postgresql-15", "/usr/lib/postgresql/15/bin/postgres", prints="postgres"),
    _version("mariadb-server", "/usr/sbin/mariadbd", prints="MariaDB"),
    _version("ffmpeg", "/usr/bin/ffmpeg", "-version", prints="ffmpeg version"),
    _version("imagemagick", "/usr/bin/convert-im6.q16", prints="ImageMagick"),
    _version("cmake", "/usr/bin/cmake", prints="cmake version"),
    _version("golang", "/usr/bin/go", "version", prints="go1"),
    _version("maven", "/usr/share/maven/bin/mvn", "-v", prints="Maven"),
    _version("meson", "/usr/bin/meson", prints=r"\d"),
    _version("ninja-build", "/usr/bin/ninja", prints=r"\d"),
    Job(("python3-requests",), ("/usr/bin/python3", "-c", "import requests; print(1)"), "1"),
    Job(("python3-yaml",), ("/usr/bin/python3", "-c", "import yaml; print(yaml.safe_load('[1]'))"),
        r"\[1\]"),
    _version("python3-pip", "/usr/bin/pip", prints="pip"),
    _version("ansible-core", "/usr/bin/ansible", prints="ansible"),
    _version("exim4-daemon-light", "/usr/sbin/exim4", "-bV", prints="Exim version"),
    _version("postfix", "/usr/sbin/postconf", "-d", "mail_version", prints="mail_version"),
    _version("dovecot-core", "/usr/sbin/dovecot", prints=r"\d"),
    _version("bind9", "/usr/sbin/named", "-v", prints="BIND"),
    _version("unbound", "/usr/sbin/unbound", "-V", prints="Version"),
    _version("dnsmasq", "/usr/sbin/dnsmasq", prints="Dnsmasq"),
    _version("squid", "/usr/sbin/squid", "-v", prints="Squid"),
    _version("varnish", "/usr/sbin/varnishd", "-V", prints="varnish"),
    _version("strace", "/usr/bin/strace", "-V", prints="strace"),
    _version("gdb", "/usr/bin/gdb", "-batch", "-ex", "print 6*7", prints="42"),
    _version("tmux", "/usr/bin/tmux", "-V", prints="tmux"),
    _version("screen", "/usr/bin/screen", prints="Screen"),
    _version("vim", "/usr/bin/vim.basic", prints="VIM"),
    _version("nano", "/bin/nano", prints="nano"),
    _version("subversion", "/usr/bin/svn", prints="svn"),
    _version("mercurial", "/usr/bin/hg", prints="Mercurial"),
    _version("graphviz", "/usr/bin/dot", "-V", prints="graphviz"),
    _version("gawk", "/usr/bin/gawk", prints="GNU Awk"),
    _script("mawk", "echo 6 7 | awk '{ print $1 * $2 }'", "42"),
    _version("gcc", "/usr/bin/gcc", prints="gcc"),
    _version("docker.io", "/usr/bin/docker", prints="Docker"),
    _version("redis-tools", "/usr/bin/redis-cli", prints="redis-cli"),
    _version("tcpdump", "/usr/bin/tcpdump", prints="tcpdump"),
    _version("iptables", "/usr/sbin/xtables-nft-multi", "iptables", "-V", prints="iptables"),
)  # fmt: skip


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
    steps = [f"- package: {{debian: {name}}}" for name in job.packages]
    app = [f"- app: {{exec: {json.dumps(job.argv)}}}"] if job.argv else []
    named = f"- vars: {{name: try, version: '1', author: {job.name.replace('.', '-')}}}"
    lines = [named, *steps, *app, "- image: {type: oci}"]
    (box / "container.yaml").write_text("\n".join(lines) + "\n")
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
    error = _started(job, image, room) if job.argv else ""
    size = sum(layer["size"] for layer in manifest["layers"])
    return Outcome(job, error, debs, size, lacks.partition(" (`")[0], time.monotonic() - started)


def _is_deb(line: str) -> bool:
    return line.startswith("deb debian:")


def _document(image: Path, descriptor: Mapping[str, str]) -> dict[str, list[dict[str, int]]]:
    path = image / "blobs" / descriptor["digest"].replace(":", "/")
    document: dict[str, list[dict[str, int]]] = json.loads(path.read_text())
    return document


def _started(job: Job, image: Path, room: Path) -> str:
    """Run the job where only the image's files are; why it is not right, or nothing."""
    done = run_in(image, room / "bundle", job.argv, job.environment)
    said = done.stdout + done.stderr
    return "" if re.search(job.prints, said) else f"rc {done.returncode}: {said[-300:].strip()}"


def run_in(
    image: Path, bundle: Path, argv: Sequence[str], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Unpack an OCI layout with umoci into the new directory `bundle`, and run a program there."""
    tag = json.loads((image / "index.json").read_text())["manifests"][0]["annotations"]
    name = f"{image}:{tag['org.opencontainers.image.ref.name']}"
    unpacked = _run(["umoci", "raw", "unpack", "--rootless", "--image", name, str(bundle)], 600)
    if unpacked.returncode:
        return unpacked
    for directory in ("proc", "dev", "tmp"):
        (bundle / directory).mkdir(exist_ok=True)
    words = ["bwrap", "--bind", str(bundle), "/", "--proc", "/proc", "--dev", "/dev"]
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
        f"| {one.error or 'yes'} | {one.lacks or '-'} |"
    )


def page(rows: Iterable[str]) -> str:
    """The table for docs."""
    rows = list(rows)
    good = sum("| yes |" in row for row in rows)
    head = (
        "# Debian packages in images\n\n"
        "Written by `python -m bench.debs`: each package in an image of its own, unpacked by\n"
        "umoci, and a small job run in it by bubblewrap. `.debs` counts what the lock pins.\n\n"
        f"{good} of {len(rows)} enter an image and run.\n\n"
        "| package | .debs | MB | runs | said to be lacking |\n|---|---|---|---|---|\n"
    )
    return head + "\n".join(rows) + "\n"


def main(argv: list[str]) -> int:
    """Run the table, or renew some rows of it; 1 where something does not run."""
    parser = argparse.ArgumentParser(prog="python -m bench.debs", description=__doc__)
    parser.add_argument("names", nargs="*", help="packages of the table; all without any")
    parser.add_argument("--buildit", default=f"{sys.executable} -m buildit")
    asked = parser.parse_args(argv)
    table = (*COMMON, *FURTHER)
    known = PAGE.read_text().splitlines() if PAGE.exists() else []
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in known if "| " in line}
    bad = False
    for job in (one for one in table if not asked.names or one.name in asked.names):
        with tempfile.TemporaryDirectory(prefix="debs-") as name:
            one = try_out(job, Path(name), asked.buildit.split())
        print(f"{job.name}: {one.error or 'ok'} ({one.seconds:.0f} s) {one.lacks}", flush=True)
        bad |= bool(one.error)
        rows[" + ".join(job.packages)] = row(one)
        titles = (" + ".join(one.packages) for one in table)
        PAGE.write_text(page(rows[title] for title in titles if title in rows))
    return int(bad)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
