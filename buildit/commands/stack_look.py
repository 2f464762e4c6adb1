"""Looking at a stack that runs: its lines, what becomes of its containers, and its tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from buildit.commands.stack_start import LINES_SHOWN, is_alive
from buildit.errors import BuildError, UsageError
from buildit.events import MemberEnded, MemberTested, Reporter
from buildit.make.image_test import Mismatches
from buildit.model.image_test import CommandTest, HttpTest, ImageTest
from buildit.model.stack import StackMember
from buildit.model.words import hint_of
from buildit.podman.engine import Podman
from buildit.podman.loglines import LogLine, LogReader, by_time, moment
from buildit.podman.probing import http_answer, told_by
from buildit.sandbox.asking import Question
from buildit.stack.converge import KnownContainer

_LOOK = 0.05
_STATES = 0.25  # seconds between two looks at who is still there

Show = Callable[[LogLine], None]


class LogFollower:
    """Shows the lines of containers as they come, in a thread of its own."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._readers: dict[str, LogReader] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._since = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def begin(self, since: float = 0.0) -> None:
        """Lines from before `since` (seconds since 1970) are left out."""
        self._since = since
        self._thread.start()

    def attach(self, one: KnownContainer, *, skip: bool = False) -> None:
        """From now on its lines are shown, too; with `skip` without those that are there."""
        with self._lock:
            before = self._readers.get(one.shown)
            if before is None or before.path != one.log:
                reader = LogReader(one.shown, one.log)
                if skip:
                    reader.skip()
                self._readers[one.shown] = reader

    def end(self) -> None:
        """Show what has come by now, and be done."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._turn(last=True)
        for reader in self._readers.values():
            reader.close()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK):
            self._turn()

    def _turn(self, *, last: bool = False) -> None:
        with self._lock:
            readers = list(self._readers.values())
        for line in by_time(one for each in readers for one in each.lines(all_of_it=last)):
            if not self._since or moment(line.when)[0] >= self._since:
                self._show(line)


def watch(
    podman: Podman,
    containers: Sequence[KnownContainer],
    report: Reporter,
    follower: LogFollower,
    unheard: Callable[[], bool],
) -> tuple[KnownContainer, ...]:
    """Until all containers have ended, or are gone, or nobody hears of them any more; how they
    ended. What podman starts again is followed on."""
    live = {one.name: one for one in containers if one.is_live}
    ended = {one.name: one for one in containers if not one.is_live}
    while live and not unheard():
        time.sleep(_STATES)
        dead = [one.name for one in live.values() if not is_alive(one.pid)]
        if not dead:
            continue
        found = {one.name: one for one in podman.inspected(dead)}
        for name in dead:
            now = found.get(name)
            if now is None:
                del live[name]  # somebody took it down
            elif now.is_live and is_alive(now.pid):
                report(MemberEnded(now.shown, now.status, again=True))
                follower.attach(now)
                live[name] = now
            elif not now.is_live:
                report(MemberEnded(now.shown, now.status))
                ended[name] = now
                del live[name]
    return tuple(ended.values())


# -- lines of the past


def chosen(containers: Sequence[KnownContainer], names: Sequence[str]) -> list[KnownContainer]:
    """The containers of these names: of a member, or of one of its replicas; all without one.

    Raises:
        UsageError: there is none of a name.
    """
    known = {one.shown for one in containers} | {one.member for one in containers}
    for name in names:
        if name not in known:
            message = f"no container of the stack is called {name!r}"
            raise UsageError(message, hint=hint_of(name, sorted(known)))
    return [one for one in containers if not names or one.shown in names or one.member in names]


def lines_since(containers: Sequence[KnownContainer], since: float) -> list[LogLine]:
    """The lines that containers have written since a time (seconds since 1970), by time."""
    found = []
    for one in containers:
        reader = LogReader(one.shown, one.log)
        found += [line for line in reader.lines(all_of_it=True) if moment(line.when)[0] >= since]
        reader.close()
    return by_time(found)


# -- tests


@dataclass(frozen=True, slots=True)
class TestsDone:
    """How many tests were made, and how many do not hold."""

    made: int = 0
    failed: int = 0


def run_stack_tests(
    podman: Podman,
    members: Sequence[StackMember],
    containers: Sequence[KnownContainer],
    report: Reporter,
) -> TestsDone:
    """Ask the running stack what its members' tests say; each is reported."""
    made = failed = 0
    for member in members:
        own = [one for one in containers if one.member == member.name]
        for test in member.tests:
            for one in own:
                wrong = _mismatches(podman, one, test)
                made += 1
                failed += bool(wrong.found)
                problem, details = "".join(wrong.found[:1]), (*wrong.found[1:], *wrong.got)
                report(MemberTested(one.shown, test.said, problem, details))
    return TestsDone(made, failed)


def check_tests(done: TestsDone, place: str) -> None:
    """Raises BuildError where one does not hold."""
    if done.failed:
        message = f"{done.failed} of {done.made} tests of the stack failed"
        raise BuildError(message, place=place, hint="what each got is above")


def _mismatches(podman: Podman, one: KnownContainer, test: ImageTest) -> Mismatches:
    wrong = Mismatches()
    for command in test.commands:
        _ask_program(podman, one, command, test.timeout, wrong)
    for http in test.http:
        _ask_over_http(podman, one, http, test.timeout, wrong)
    return wrong


def _ask_program(
    podman: Podman, one: KnownContainer, test: CommandTest, timeout: float, wrong: Mismatches
) -> None:
    said = told_by(podman, one, test.argv, timeout)
    if said.status is None:
        wrong.found.append(f"it had not ended after {timeout:g} s")
        return
    if said.status != test.status:
        wrong.found.append(f"expected status {test.status}, got status {said.status}")
        wrong.got += said.told.decode("utf-8", "replace").splitlines()[-LINES_SHOWN:]
    wrong.texts(test.stdout, said.out.decode("utf-8", "replace"), "stdout")
    wrong.texts(test.stderr, said.told.decode("utf-8", "replace"), "stderr")


def _ask_over_http(
    podman: Podman, one: KnownContainer, test: HttpTest, timeout: float, wrong: Mismatches
) -> None:
    question = Question(test.port, test.path, test.host, test.tls)
    end = time.monotonic() + timeout
    while True:
        answer = http_answer(podman, one, question, max(0.1, end - time.monotonic()))
        if not answer.problem:
            wrong.answer(test, answer)
            return
        if time.monotonic() >= end or not is_alive(one.pid):
            wrong.found.append(f"expected an HTTP answer within {timeout:g} s: {answer.problem}")
            return
        time.sleep(_LOOK)
