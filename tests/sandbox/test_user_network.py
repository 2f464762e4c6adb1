"""A way out for `run` steps and `buildit run`: to the outside, and to nothing of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildit.sandbox.usernet import no_user_network
from tests.sandbox.probes.harness import CHECKOUT
from tests.sandbox.test_images import tool

pytestmark = pytest.mark.sandbox

REFUSED = "Operation not permitted"


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """One that every user may enter."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.mark.skipif(os.geteuid() != 0, reason="it makes networks, as root")
def test_a_step_with_a_network_reaches_the_outside_alone(open_directory: Path) -> None:
    if (problem := no_user_network()) is not None:
        pytest.skip(f"{problem[0]} ({problem[1]})")
    for one in ("ip", "nsenter"):
        tool(one)
    words = ["unshare", "--net", "--mount", sys.executable, "-m"]
    done = subprocess.run(
        [*words, "tests.sandbox.probes.user_network", str(open_directory)],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # all of them are there to be reached, where nothing keeps one from it
    assert set(found["host"].values()) == {True}
    unreachable = dict.fromkeys(("192.0.2.2", "169.254.169.254", "169.254.1.1"), "No route to host")
    rights = dict.fromkeys(("delete-route", "add-route", "set-down", "raw-socket"), REFUSED)
    assert found["with"] == {
        "192.0.2.1": "up",
        **unreachable,
        "10.0.2.2": "Network is unreachable",
        "127.0.0.1": "Connection refused",
        "name": "192.0.2.1",
        **rights,
        "resolver": "Permission denied",
    }
    outside = ("192.0.2.1", "10.0.2.2", *unreachable)
    assert {found["without"][one] for one in outside} == {"Network is unreachable"}
    # nothing of the network is in the layer
    assert found["with-layer"] == ["srv", "srv/left"]
    assert found["told"] == []
    assert found["left"] == []
    reached = ["192.0.2.1 up", "192.0.2.2 No route to host", "10.0.2.2 Network is unreachable"]
    assert found["run"] == reached
    if "nobody" in found:
        assert found["nobody"][-3:] == reached
        assert "/dev/net/tun is closed to this user" in found["closed"][0]
