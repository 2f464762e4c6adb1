"""What holds for all tests: signals as a shell gives them, golden files, which skips CI allows.

`--update-golden` rewrites what golden tests compare with; review the difference.
"""

from __future__ import annotations

import gc
import os
import signal
from typing import Any

import hypothesis
import pytest

from tests import workers
from tests.scale import examples

# How long one example takes says how busy the machine is, not whether the code is right.
hypothesis.settings.register_profile(
    "any-machine",
    deadline=None,
    max_examples=examples(200),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("any-machine")

SKIPS_IN_CI = (
    "root may read everything",  # the case is about a user whom a file is closed to
    "pysequoia is not installed",  # the way without gpgv; CI has gpgv
    "podman is run as root here",  # the case without root has no subordinate ids
    "Debian 13's programs cannot be had",  # cosign and oras, from the machine's own mirror
    "the mirror has no packages for another platform",  # the machine's own mirror
    "this kernel emulates no other platform",  # Linux before 6.7
    "only root builds as somebody else",  # the same test runs as root beside it
)
"""How the reasons begin of the skips that are right where CI runs: as root, with all programs of
`scripts/test`. Any other skip there is a test that CI believes it ran."""


def pytest_configure(config: pytest.Config) -> None:
    """`-m unit` leaves out what is marked `scale`; signals act as a shell's child has them.

    (`scripts/test &` ignores Ctrl-C, and nohup a hang-up; all that tests start would, too.)
    """
    gc.disable()  # what is collected stays to the end: there is nothing to look for
    chosen = config.option.markexpr
    if "unit" in chosen and "scale" not in chosen:
        config.option.markexpr = f"({chosen}) and not scale"
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = workers.in_order(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return workers.scheduler(config, log)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # the modules of all tests are in memory
    gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the golden files anew instead of comparing with them",
    )


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under CI=true a skip that is not listed fails the run: a program that `scripts/test` forgot
    to install must not pass for a test.
    """
    unlisted = _unlisted(session.config)
    if unlisted and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, reason in _unlisted(terminalreporter.config):
        terminalreporter.write_line(f"FAILED {name}: an unlisted skip under CI=true: {reason}")


def _unlisted(config: pytest.Config) -> list[tuple[str, str]]:
    """The skips that `SKIPS_IN_CI` does not have: name of the test, reason."""
    if os.environ.get("CI") != "true":
        return []
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return []
    found = []
    for report in reporter.stats.get("skipped", ()):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if not reason.startswith(SKIPS_IN_CI):
            found.append((report.nodeid, reason))
    return found
