"""What the emitters are given of each member's image, and what follows from it: how engines name
it, when the member is ready, and what runs in it to find that out. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from buildit.model.database import Database
from buildit.model.image import App
from buildit.model.stack import ContainerStack, HttpProbe, Readiness, StackMember, StackPort


@dataclass(frozen=True, slots=True)
class PinnedImage:
    """The image of a member: `reference` is `HOST/NAME@sha256:…`, or the 64 hex digits of the ID
    that it has once the file `archive` is loaded; then `is_local`. `app` is what it runs, None
    where that is not known. `programs` are the paths of programs in it that can ask for readiness,
    by name; None where what it holds is not known. `database` is the one that starts in it."""

    reference: str
    archive: str = ""
    app: App | None = None
    programs: Mapping[str, str] | None = None
    database: Database | None = None

    @property
    def is_local(self) -> bool:
        return "@" not in self.reference


@dataclass(frozen=True, slots=True)
class PinnedStack:
    """A stack with an image for each of its members, by name. `remarks` grow by what a form of it
    cannot say."""

    stack: ContainerStack
    images: Mapping[str, PinnedImage]
    remarks: dict[str, None] = field(default_factory=dict)

    def remark(self, text: str) -> None:
        """Note what somebody who reads the emitted files should know, once."""
        self.remarks[text] = None


def with_image_ports(stack: ContainerStack, images: Mapping[str, PinnedImage]) -> ContainerStack:
    """The stack with the ports that images say beside those that members say."""
    members = []
    for member in stack.members:
        app = images[member.name].app if member.name in images else None
        known = {(one.inside, one.protocol) for one in member.ports}
        more = [
            StackPort(one.number, one.protocol, place=member.place)
            for one in (app.ports if app is not None else ())
            if (one.number, one.protocol) not in known
        ]
        members.append(replace(member, ports=(*member.ports, *more)))
    return replace(stack, members=tuple(members))


def readiness_of(member: StackMember, image: PinnedImage) -> Readiness | None:
    """How a member tells that it is ready: as the stack says, else as its image does."""
    if member.ready is not None:
        return member.ready
    health = None if image.app is None else image.app.health
    if health is None:
        return None
    default = Readiness()
    return Readiness(
        exec=health.exec,
        interval=health.interval or 30,
        timeout=health.timeout or 30,
        retries=health.retries or 3,
        start=health.start or default.start,
        place=member.place,
    )


def asking_argv(ready: Readiness, image: PinnedImage) -> tuple[str, ...] | None:
    """A program of the image that ends with 0 once the member is ready, for engines that can ask in
    no other way; None where the image has nothing that could."""
    if ready.argv:
        return ready.argv
    known = image.programs
    if ready.tcp:
        return _by_shell(_listens(ready.tcp), known)
    assert ready.http is not None  # noqa: S101 - one of the four is said
    http = ready.http
    if known is None:
        return ("/bin/sh", "-c", _whatever_is_there(http, ready.timeout))
    for name, asked in _ASKERS.items():
        if name in known and not (http.tls and name == "bash"):
            return asked(known[name], http, ready.timeout)
    return None


def _by_shell(script: str, known: Mapping[str, str] | None) -> tuple[str, ...] | None:
    if known is not None and "sh" not in known:
        return None
    return ("/bin/sh" if known is None else known["sh"], "-c", script)


def _listens(port: int) -> str:
    """A script without any program: the kernel's list of what listens (proc(5), /proc/net/tcp:
    0A is LISTEN)."""
    loop = f"while read -r _ l _ s _; do case $l.$s in *:{port:04X}.0A) exit 0;; esac; done"
    return f"for f in /proc/net/tcp /proc/net/tcp6; do [ -r $f ] && {loop} <$f; done; exit 1"


def _url(http: HttpProbe) -> str:
    return f"{'https' if http.tls else 'http'}://127.0.0.1:{http.port}{http.path}"


def _wanted(http: HttpProbe) -> str:
    """As an extended regular expression: the statuses that will do."""
    return str(http.status) if http.status else "[23][0-9][0-9]"


def _curl(path: str, http: HttpProbe, timeout: int) -> tuple[str, ...]:
    told = (path, "-sk", "-o", "/dev/null", "-m", str(timeout), "-H", f"Host: {http.host}")
    if not http.status:
        return (*told, "-f", _url(http))
    words = " ".join(shlex.quote(one) for one in (*told, "-w", "%{http_code}", _url(http)))
    return ("/bin/sh", "-c", f'[ "$({words})" = {http.status} ]')


def _wget(path: str, http: HttpProbe, timeout: int) -> tuple[str, ...]:
    words = [path, "-q", "-T", str(timeout), "-O", "/dev/null"]
    words += ["--no-check-certificate"] if http.tls else []
    words += ["--header", f"Host: {http.host}", _url(http)]
    return tuple(words)


_PYTHON = """\
import http.client, ssl, sys
c = (http.client.HTTPSConnection('127.0.0.1', {port}, timeout={timeout},
     context=ssl._create_unverified_context()) if {tls}
     else http.client.HTTPConnection('127.0.0.1', {port}, timeout={timeout}))
c.request('GET', {path!r}, headers={{'Host': {host!r}}})
s = c.getresponse().status
sys.exit(not (s == {status} if {status} else 200 <= s < 400))
"""


def _python(path: str, http: HttpProbe, timeout: int) -> tuple[str, ...]:
    words = {"port": http.port, "timeout": timeout, "tls": http.tls, "path": http.path}
    return (path, "-c", _PYTHON.format(**words, host=http.host, status=http.status))


def _bash(path: str, http: HttpProbe, timeout: int) -> tuple[str, ...]:
    asked = f"GET {http.path} HTTP/1.0\\r\\nHost: {http.host}\\r\\n\\r\\n"
    script = f"exec 3<>/dev/tcp/127.0.0.1/{http.port} && printf %b {shlex.quote(asked)} >&3 && "
    script += f"read -r -t {timeout} _ status _ <&3 && [[ $status =~ ^{_wanted(http)}$ ]]"
    return (path, "-c", script)


def _busybox(path: str, http: HttpProbe, timeout: int) -> tuple[str, ...]:
    """Without -T, over which Debian 12's static one ends with SIGSEGV; the engine ends it in
    time."""
    del timeout
    return (path, "wget", "-q", "-O", "/dev/null", "--header", f"Host: {http.host}", _url(http))


_ASKERS = {"curl": _curl, "python3": _python, "bash": _bash, "wget": _wget, "busybox": _busybox}
"""What can ask over HTTP, by the name of the program; the first that an image has. wget knows no
status but success, so that it comes last."""

ASKING_PROGRAMS = ("sh", *_ASKERS)
"""Programs that are looked for in images."""


def _whatever_is_there(http: HttpProbe, timeout: int) -> str:
    """A script for an image of which is not known what it holds."""
    ways = []
    for name, asked in _ASKERS.items():
        words = " ".join(shlex.quote(one) for one in asked(name, http, timeout))
        if not (http.tls and name == "bash"):
            ways.append(f"if command -v {name} >/dev/null; then {words}; exit $?; fi")
    told = f"echo nothing in this image can ask over HTTP: {' '.join(_ASKERS)} >&2"
    return "; ".join((*ways, told, "exit 1"))


def names_of(member: StackMember, stack: ContainerStack) -> Mapping[str, tuple[str, ...]]:
    """The names that a member has on each of its networks: its own, its aliases there, and those
    that links give it."""
    found = {}
    for one in member.networks:
        by_links = (
            link.alias
            for other in stack.members
            if any(net.network == one.network for net in other.networks)
            for link in other.links
            if link.name == member.name
        )
        found[one.network] = tuple(dict.fromkeys((member.name, *one.aliases, *by_links)))
    return found
