"""The files of s6 that start and stop the services of an image (skarnet.org/software/s6: s6-svscan,
service directories; execline). Pure.

`/usr/sbin/init` becomes s6-svscan, which runs as the first process or as any other, takes the
output of all services for its own, and reaps what they leave behind. Each has its directory with
`down` in it: `_start` brings them up one by one, `stop` takes them down the other way round, on a
signal or when a service ends that the container cannot be without. `status` is what the container
ends with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from buildit.digest import digest_bytes
from buildit.errors import RecipeError
from buildit.model.services import INIT, Init, Service
from buildit.model.tree import YEAR_1980, Entry, Kind

_S6 = "applyuidgid ftrig-wait log notifyoncheck setsid supervise svc svok svscan svscanctl svstat"
NEEDED = {"s6": tuple(f"s6-{name}" for name in _S6.split()), "execline": ("execlineb",)}
"""Programs in /usr/bin that the files below start, by the Debian package that has them."""

_BASE = "etc/s6"
_SCAN = f"{_BASE}/services"
_SHEBANG = "#!/usr/bin/execlineb"
_SIGNALS = ("SIGINT", "SIGPWR", "SIGQUIT", "SIGTERM")
_LAST_SIGNAL = 31
_POLL = 200
"""Milliseconds between two questions whether a service is ready."""


def check_init(init: Init, tree: Mapping[str, Entry]) -> None:
    """Refuse an image, whose merged entries are `tree`, in which the init could not run.

    Raises:
        RecipeError: a program is missing, or there is an init already.
    """
    for package, programs in NEEDED.items():
        for program in programs:
            if f"usr/bin/{program}" not in tree:
                message = f"the init of the services needs /usr/bin/{program}, which is not there"
                hint = f"add its package to the container: `- package: {{debian: {package}}}`"
                raise RecipeError(message, place=init.place, hint=hint)
    for path in (INIT.strip("/"), _BASE):
        if path in tree:
            message = f"the image has /{path} already, which the init of the services would be"
            hint = "leave out the package or step that brings it"
            raise RecipeError(message, place=init.place, hint=hint)


@dataclass(slots=True)
class _Files:
    entries: list[Entry] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        self.texts[path] = content = text.encode()
        size, digest = len(content), digest_bytes(content)
        self.entries.append(Entry(path, Kind.FILE, mode, YEAR_1980, size=size, digest=digest))

    def script(self, path: str, lines: Sequence[str], arguments: int | None = None) -> None:
        option = "-P" if arguments is None else f"-S{arguments}"
        self.put(path, "\n".join((f"{_SHEBANG} {option}", *lines, "")), 0o755)

    def link(self, path: str, target: str) -> None:
        self.entries.append(Entry(path, Kind.SYMLINK, 0o777, YEAR_1980, target=target))


def init_layer(services: Sequence[Service]) -> tuple[list[Entry], Mapping[str, bytes]]:
    """The entries of the layer, without the directories above them, and the bytes of its files.
    `services` are in the order in which they start."""
    files = _Files()
    files.script(INIT.strip("/"), _init())
    files.script(f"{_BASE}/stop", _stop(services))
    files.script(f"{_BASE}/ended", _ended(), 2)
    files.script(f"{_SCAN}/.s6-svscan/finish", _finish())
    files.script(f"{_SCAN}/.s6-svscan/crash", ("exit 111",))
    for signal in _SIGNALS:
        files.link(f"{_SCAN}/.s6-svscan/{signal}", "../../stop")
    files.script(f"{_SCAN}/_start/run", _start(services))
    files.script(f"{_SCAN}/_start/finish", ("exit 125",))  # once is enough
    for service in services:
        _service(files, service)
    return files.entries, files.texts


def _service(files: _Files, service: Service) -> None:
    place = f"{_SCAN}/{service.name}"
    files.script(f"{place}/run", tuple(_run(service)))
    files.put(f"{place}/down", "")
    files.put(f"{place}/down-signal", f"{service.stop_signal}\n")
    files.put(f"{place}/timeout-kill", f"{service.stop_timeout * 1000}\n")
    if service.ends_all:
        files.link(f"{place}/finish", "../../ended")
    elif service.ends_on:
        files.script(f"{place}/finish", _finish_of(service), 2)
    if (ready := service.ready) is not None:
        files.put(f"{place}/notification-fd", f"{3 if ready.exec else ready.descriptor}\n")
        if ready.exec:
            quiet = ("redirfd -w 1 /dev/null", "fdmove -c 2 1")
            files.script(f"{place}/data/check", (*quiet, _words(ready.exec)))


def _run(service: Service) -> Iterator[str]:
    for name, value in service.environment:
        yield f"export {quoted(name)} {quoted(value)}"
    if service.ready is not None and service.ready.exec:
        yield f"s6-notifyoncheck -d -n 0 -w {_POLL} -T {service.ready.timeout * 1000}"
    yield f"cd {quoted(service.working_directory)}"
    if (service.uid, service.gid) != (0, 0):
        yield f's6-applyuidgid -u {service.uid} -g {service.gid} -G ""'
    yield _words(service.exec)


def _finish_of(service: Service) -> tuple[str, ...]:
    """With some statuses it is not to be started again: all is stopped."""
    cases = (f"  {status} {{ ../../ended ${{1}} ${{2}} }}" for status in service.ends_on)
    return ("case -- $1 {", *cases, "}", "exit 0")


def _init() -> tuple[str, ...]:
    """What an earlier start left of a status is emptied."""
    return (
        f"cd /{_SCAN}",
        "foreground { redirfd -w 1 ../status exit 0 }",
        "redirfd -r 0 /dev/null",
        "s6-setsid -q",  # a signal for the group of who started it is not for its supervisors
        "s6-svscan .",
    )


def _start(services: Sequence[Service]) -> tuple[str, ...]:
    """One after the other; one that is not ready in time ends the container with 1. That its
    supervisor listens, and has written its first status, is asked until it does: s6-svscan starts
    them all at once, and s6-svc cannot wait for one without a status."""
    lines = []
    for service in services:
        directory = f"../{service.name}"
        lines += [
            f"foreground {{ loopwhilex -x 0 ifelse {{ if {{ s6-svok {directory} }}",
            f"  redirfd -w 1 /dev/null redirfd -w 2 /dev/null s6-svstat {directory} }}",
            "  { exit 0 }",
            "  foreground { redirfd -w 2 /dev/null s6-ftrig-wait -t 20 event x } exit 1 }",
            f"ifelse -n {{ s6-svc {_until_up(service)} -u {directory} }}",
            # a service that may not end did: that is told, and its status is the container's
            "  { ifelse -n { redirfd -r 0 ../../status withstdinas -E status",
            '    case -- $status { "" { exit 0 } } exit 1 } { exit 1 }',
            f"    foreground {{ {_write('1')} }}",
            f"    foreground {{ fdmove 1 2 heredoc 0 {_LATE.format(service.name)} s6-log 1 }}",
            f"    background {{ /{_BASE}/stop }} exit 1 }}",
        ]
    return (*lines, "exit 0")


_LATE = '"init: {} is not ready in time: the container ends\\n"'


def _until_up(service: Service) -> str:
    return "-wu" if service.ready is None else f"-wU -T {service.ready.timeout * 1000}"


def _stop(services: Sequence[Service]) -> tuple[str, ...]:
    names = ("_start", *(service.name for service in reversed(services)))
    downs = [f"foreground {{ s6-svc -wD -d {name} }}" for name in names]
    # Where it runs twice, the first may have ended all.
    return (f"cd /{_SCAN}", *downs, "redirfd -w 2 /dev/null s6-svscanctl -t .")


def _ended() -> tuple[str, ...]:
    """A service ended, with a status, or 256 and a signal. Where it was to stay, all is stopped,
    and the container has its status, as shells have it (128 and the signal)."""
    signals = [
        f"      {number} {{ {_write(str(128 + number))} }}" for number in range(1, _LAST_SIGNAL + 1)
    ]
    return (
        "backtick -E wanted { s6-svstat -o wantedup . }",
        "case -- $wanted { false { exit 0 } }",
        "foreground {",
        "  case -- $1 {",
        "    256 { case -- $2 {",
        *signals,
        f"    }} {_write('128')} }}",
        f"  }} {_write('${1}')}",
        "}",
        f"background {{ /{_BASE}/stop }}",
        "exit 125",
    )


def _write(text: str) -> str:
    """There is no echo in execline: a log with nothing but a line."""
    return f'redirfd -w 1 /{_BASE}/status heredoc 0 "{text}\\n" s6-log 1'


def _finish() -> tuple[str, ...]:
    return (
        f"redirfd -r 0 /{_BASE}/status",
        "withstdinas -E status",
        'case -- $status { "" { exit 0 } }',
        "exit $status",
    )


def _words(words: Sequence[str]) -> str:
    return " ".join(map(quoted, words))


def quoted(word: str) -> str:
    """A word as execlineb reads it: nothing is filled in, and every byte stays."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
