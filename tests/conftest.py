"""`--update-golden` rewrites what golden tests compare with; review the difference."""

from __future__ import annotations

import signal

import pytest


def pytest_configure() -> None:
    """`scripts/test &` ignores Ctrl-C, and nohup a hang-up; all that tests start would, too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the golden files anew instead of comparing with them",
    )


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))
