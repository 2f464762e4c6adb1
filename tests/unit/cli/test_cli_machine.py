"""doctor's findings, and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from buildit.cli.machine import finding_lines, findings_plain, raise_for_findings
from buildit.cli.main import stopping
from buildit.errors import BuildError
from buildit.sandbox.probe import Level, Probed

pytestmark = pytest.mark.unit

TOP = Path(__file__).parents[3]

FINDINGS = (
    Probed("kernel", Level.FINE, "Linux 6.1", "not shown"),
    Probed("limits", Level.WEAK, "no cgroup", "systemd-run"),
    Probed("bwrap", Level.MISSING, "not found", "apt install bubblewrap"),
)


def test_findings_have_a_verdict_and_a_remedy() -> None:
    assert tuple(finding_lines(FINDINGS)) == (
        "ok    kernel  Linux 6.1",
        "warn  limits  no cgroup",
        "      hint: systemd-run",
        "fail  bwrap   not found",
        "      hint: apt install bubblewrap",
    )
    assert [one["verdict"] for one in findings_plain(FINDINGS)] == ["ok", "warn", "fail"]


def test_only_what_stops_builds_fails() -> None:
    raise_for_findings(FINDINGS[:2])
    with pytest.raises(BuildError, match="builds cannot run here: bwrap"):
        raise_for_findings(FINDINGS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_sets_the_event_and_interrupts(number: signal.Signals) -> None:
    inherited = signal.signal(number, signal.SIG_DFL)  # nohup ignores SIGHUP
    try:
        with stopping() as stop:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
            assert stop.is_set()
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, inherited)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_set()
            argv = ["grep", "^SigIgn:", "/proc/self/status"]
            masks = subprocess.run(argv, capture_output=True, check=True).stdout.split()
            assert int(masks[1], 16) & 1 << (signal.SIGHUP - 1) == 0, "programs begin as usual"
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


STUBBORN = """
import time
from buildit.cli.main import stopping
with stopping() as stop:
    while True:
        try:
            print("ready", flush=True)
            time.sleep(30)
        except KeyboardInterrupt:
            continue
"""


def test_the_second_signal_ends_at_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STUBBORN],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        for _ in range(2):
            assert child.stdout.readline() == b"ready\n"
            child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 130


def test_a_closed_stdout_is_quiet() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "buildit", "schema"],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert (child.wait(20), child.stderr.read()) == (141, b"")
