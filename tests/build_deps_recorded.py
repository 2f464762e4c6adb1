"""What apt chooses to build Debian sources that administrators patch, recorded for tests.

`python -m tests.build_deps_recorded` asks `apt-get -s build-dep` with a state of its own, in which
the root of every build is installed, and writes RECORDED: apt's answers, and as much of the indices
as choosing the same takes. It needs apt, a mirror of Debian 12 among the machine's apt sources, and
a few minutes; nothing of the machine's own apt is touched.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from buildit.debian.apt import AptSource, read_sources
from buildit.debian.archive import DebianArchive, archive_keys, iso_time
from buildit.debian.index import OpenIndex, Table, build_index, read_paragraphs
from buildit.debian.packages import PACKAGES, Candidate, Indices
from buildit.debian.select import select_build
from buildit.debian.sources import SOURCES, Sources
from buildit.model.plan import DebRef
from tests.fakes import default_transport

_T = TypeVar("_T")
RECORDED = Path(__file__).parent / "golden" / "build-deps.json.xz"
SUITES = ("bookworm", "bookworm-updates", "bookworm-security")
ARCH = "amd64"
KEYS = Path(__file__).parents[1] / "buildit" / "debian" / "keys"
_NAMES = (
    "apache2 atop bash bind9 bird2 borgbackup busybox bzip2 ca-certificates chrony coreutils "
    "cron cryptsetup curl dnsmasq dovecot dropbear e2fsprogs exim4 expat fail2ban file "
    "freeradius frr fuse3 gawk git gnupg2 gnutls28 golang-github-pkg-errors haproxy hiredis "
    "htop iproute2 iptables iputils jinja2 jq keepalived knot krb5 libevent libgcrypt20 libxml2 "
    "lighttpd logrotate lua5.4 mariadb memcached meson mosquitto mtr nagios-plugins-contrib "
    "monitoring-plugins nano ncurses nftables nghttp2 nginx nmap nsd ntpsec openldap openssh "
    "openssl openvpn pcre2 php8.2 postfix postgresql-15 privoxy proftpd-dfsg "
    "prometheus-node-exporter python3.11 redis rsync rsyslog runc rust-fd-find samba screen "
    "socat sqlite3 squid strongswan stunnel4 sudo tcpdump tini tmux tor unbound varnish vim "
    "wget zlib "
)
NAMES = tuple(_NAMES.split())
"""Of all common build systems."""


_KEPT = tuple(name for name in PACKAGES.fields if name not in ("filename", "size", "sha256"))
"""What choosing looks at."""
_INSTALL = re.compile(r"^Inst (\S+) (?:\[[^\]]*\] )?\((\S+) ", re.MULTILINE)


@dataclass(frozen=True)
class _Watching(Indices):
    """Indices that note in `seen` what was looked at."""

    seen: dict[Candidate, None] = field(default_factory=dict)

    def named(self, name: str) -> tuple[Candidate, ...]:
        return self._noted(super().named(name))

    def providing(self, name: str) -> tuple[Candidate, ...]:
        return self._noted(super().providing(name))

    def _noted(self, found: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        self.seen.update(dict.fromkeys(found))
        return found


@dataclass(frozen=True)
class Recorded:
    """`answers` by source package: the source's version, and apt's .debs beyond the root, each as
    `name=version`, sorted."""

    answers: Mapping[str, tuple[str, frozenset[str]]]
    indices: Indices
    sources: Sources


@contextmanager
def opened(folder: Path) -> Iterator[Recorded]:
    """What is in RECORDED, its indices being files in an empty folder."""
    found = json.loads(lzma.decompress(RECORDED.read_bytes()))
    with ExitStack() as stack:

        def indices(name: str, table: Table[_T]) -> tuple[OpenIndex[_T], ...]:
            made = []
            for suite, paragraphs in found[name].items():
                path, text = folder / f"{name}-{suite}", "\n".join(map(_paragraph, paragraphs))
                build_index(io.BytesIO(text.encode()), table, path, name)
                made.append(stack.enter_context(closing(OpenIndex(path, suite, table))))
            return tuple(made)

        yield Recorded(
            {name: (one[0], frozenset(one[1:])) for name, one in found["answers"].items()},
            Indices(indices("packages", PACKAGES), {}, ARCH),
            Sources(indices("sources", SOURCES), {}),
        )


def _paragraph(fields: Mapping[str, str]) -> str:
    if "directory" not in fields:  # a binary package; what a .deb is made of was not recorded
        name = f"{fields['package']} {fields['version']}"
        digest = hashlib.sha256(name.encode()).hexdigest()
        fields = {**fields, "filename": "pool/x.deb", "size": "1", "sha256": digest}
    lines = (f"{name}: {value.replace(chr(10), chr(10) + ' ')}" for name, value in fields.items())
    return "\n".join(lines) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as text, ExitStack() as stack:
        folder = Path(text)
        transport = stack.enter_context(closing(default_transport()))
        sources, now = read_sources().usable, int(time.time())
        debian = DebianArchive(sources, transport, folder / "cache", archive_keys(), now)
        indices = stack.enter_context(debian.open_indices(SUITES, ARCH))
        offered = stack.enter_context(debian.open_sources(SUITES))
        watching = _Watching(indices.indices, indices.dates, ARCH)
        chosen = {name: offered.choose(name) for name in NAMES}
        base, _ = select_build(chosen["tini"], (), (), watching)
        apt = _Apt(folder / "apt", [one for one in sources if one.suite in SUITES], base)
        answers = {}
        for name in NAMES:
            sys.stderr.write(f"{name}\n")
            select_build(chosen[name], (), (), watching)
            answers[name] = (chosen[name].version, *apt.build_dep(name))
        for name in {one.partition("=")[0] for _, *debs in answers.values() for one in debs}:
            watching.named(name)
            watching.providing(name)
        lists = apt.lists()
        seen = {(one.suite, one.name, one.version) for one in watching.seen}
        packages: dict[str, list[dict[str, str]]] = {suite: [] for suite in SUITES}
        for suite, path in lists["Packages"].items():
            for fields in _read(path, PACKAGES):
                if (suite, fields["package"], fields["version"]) in seen:
                    packages[suite].append({key: fields[key] for key in _KEPT if fields[key]})
        paragraphs: dict[str, list[dict[str, str]]] = {suite: [] for suite in SUITES}
        for suite, path in lists["Sources"].items():
            for fields in _read(path, SOURCES):
                if fields["package"] in NAMES:
                    stated = {key: value for key, value in fields.items() if value}
                    paragraphs[suite].append(stated)
        record = {
            "recorded": iso_time(now),
            "indices": apt.digests(),
            "packages": packages,
            "sources": paragraphs,
            "answers": answers,
        }
    data = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    RECORDED.write_bytes(lzma.compress(data, preset=9))
    sys.stdout.write(f"{RECORDED}: {len(data)} bytes plain, {len(seen)} packages\n")


def _read(path: Path, table: Table[Any]) -> Iterator[dict[str, str]]:
    with path.open("rb") as stream:
        yield from read_paragraphs(stream, table, str(path))


class _Apt:
    """apt with a state of its own, in which some .debs are installed."""

    def __init__(
        self, folder: Path, sources: Sequence[AptSource], installed: Sequence[DebRef]
    ) -> None:
        self._folder = folder
        for name in ("etc/apt", "var/lib/dpkg", "var/lib/apt/lists/partial", "var/cache/apt"):
            (folder / name).mkdir(parents=True)
        lines = (
            f"{kind} {one.uri} {one.suite} {' '.join(one.components)}\n"
            for one in sources
            for kind in ("deb", "deb-src")
        )
        (folder / "etc/apt/sources.list").write_text("".join(lines))
        (folder / "apt.conf").write_text(f"""
            Dir "{folder}";
            Dir::State::status "{folder}/var/lib/dpkg/status";
            Dir::Bin::methods "/usr/lib/apt/methods";
            Dir::Bin::dpkg "/usr/bin/dpkg";
            Dir::Etc::TrustedParts "{KEYS}";
            APT::Architecture "{ARCH}";
            APT::Architectures {{ "{ARCH}"; }};
            APT::Sandbox::User "root";
            Acquire::GzipIndexes "false";
            Acquire::Languages "none";
        """)
        status = folder / "var/lib/dpkg/status"
        status.write_text("")
        self._run("update")
        wanted = {(one.name, one.version) for one in installed}
        paragraphs = []
        for path in self.lists()["Packages"].values():
            for text in path.read_text("utf-8").split("\n\n"):
                found = re.match(r"Package: (\S+)\n(?:.*\n)*?Version: (\S+)\n", text)
                if found is not None and (found[1], found[2]) in wanted:
                    wanted.remove((found[1], found[2]))
                    paragraphs.append(f"{text.strip()}\nStatus: install ok installed\n")
        assert not wanted, wanted
        status.write_text("\n".join(paragraphs))

    def build_dep(self, name: str) -> list[str]:
        """What apt would install, `name=version`, sorted."""
        options = ("-s", "--no-install-recommends", "--only-source")
        answer = self._run(*options, "build-dep", name)
        return sorted(f"{found[1]}={found[2]}" for found in _INSTALL.finditer(answer))

    def lists(self) -> dict[str, dict[str, Path]]:
        """By kind and suite."""
        found: dict[str, dict[str, Path]] = {"Packages": {}, "Sources": {}}
        for path in sorted((self._folder / "var/lib/apt/lists").iterdir()):
            parts = re.fullmatch(r".*_dists_([^_]+)_main_.*_(Packages|Sources)", path.name)
            if parts is not None:
                found[parts[2]][parts[1]] = path
        return found

    def digests(self) -> dict[str, str]:
        """The SHA-256 of each index that apt chose from."""
        return {
            f"{suite} {kind}": hashlib.sha256(path.read_bytes()).hexdigest()
            for kind, suites in self.lists().items()
            for suite, path in suites.items()
        }

    def _run(self, *arguments: str) -> str:
        environment = {**os.environ, "APT_CONFIG": str(self._folder / "apt.conf"), "LC_ALL": "C"}
        ran = subprocess.run(
            ["apt-get", *arguments], env=environment, text=True, capture_output=True, check=False
        )
        if ran.returncode:
            sys.exit(f"apt-get {' '.join(arguments)}: {ran.stdout}{ran.stderr}")
        return ran.stdout


if __name__ == "__main__":
    main()
