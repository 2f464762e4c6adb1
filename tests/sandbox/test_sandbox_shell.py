"""The jail on a terminal, for people: job control works, typing into the terminal does not."""

from __future__ import annotations

import os
import pty
import select
import time

import pytest

from tests.sandbox.probes.harness import DRIVE, Sandbox, living, wait_until_dead

pytestmark = pytest.mark.sandbox


class Terminal:
    """A pseudo terminal with a driver on it, typed at and read like a person would."""

    def __init__(self, sandbox: Sandbox, *command: str) -> None:
        spec = sandbox.spec(command, terminal=True)
        argv = [*sandbox.argv, str(DRIVE), str(spec), str(sandbox.store / "answer.json")]
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(sandbox.store)
            os.execvpe(argv[0], argv, {**os.environ, **sandbox.env})
        self.seen = b""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, text: bytes, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            if select.select([self.fd], [], [], 0.1)[0]:
                self.seen += os.read(self.fd, 4096)
        self.seen = self.seen.partition(text)[2]

    def end(self) -> int:
        status = os.waitpid(self.pid, 0)[1]
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


def test_a_shell_with_job_control(sandbox: Sandbox) -> None:
    terminal = Terminal(sandbox, "bash", "--norc", "-i")
    terminal.type("echo in $((40+2)) $(id -u)\n")
    terminal.expect(b"in 42 1000")
    terminal.type("echo before $((40+1)); sleep 1000; echo again $((40+3))\n")
    terminal.expect(b"before 41")
    time.sleep(0.5)
    terminal.type("\x03")  # Ctrl-C ends the sleep, neither the shell nor buildit
    terminal.type("echo still $((40+4))\n")
    terminal.expect(b"still 44")
    terminal.type("exit 7\n")
    assert terminal.end() == 0
    assert sandbox.answer().outcome["status"] == 7


def test_nothing_is_typed_into_the_terminal(sandbox: Sandbox) -> None:
    script = "open(T, '+<&=0'); my $c = 'x'; print ioctl(T, 0x5412, $c) ? 'TY'.'PED' : 'ref'.'used'"
    terminal = Terminal(sandbox, "perl", "-e", script)
    terminal.expect(b"refused")
    assert terminal.end() == 0


def test_a_closed_terminal_ends_everything(sandbox: Sandbox) -> None:
    token = f"hangup-{os.getpid()}"
    terminal = Terminal(sandbox, "sh", "-c", "trap '' HUP; echo rea''dy; sleep 1000", token)
    terminal.expect(b"ready")
    assert living(token) != []
    os.close(terminal.fd)
    os.waitpid(terminal.pid, 0)
    assert wait_until_dead(token) == []


def test_no_terminal_is_said(sandbox: Sandbox) -> None:
    with sandbox.start("sh", terminal=True) as process:
        assert process.wait(60) == 0
    assert sandbox.answer().error["kind"] == "UsageError"
