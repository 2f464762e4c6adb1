"""The rules of manifests and configs, judged by verdicts of the formats' own programs."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

from buildit.image.formats import aci
from buildit.image.formats.aci import manifest_problems
from buildit.image.formats.oci import config_problems
from buildit.image.rules import SIGNALS, signal_problems

pytestmark = pytest.mark.unit

VERDICTS: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("aci-verdicts.json").read_text("utf-8")
)
"""Manifests, and whether actool 0.8.11 accepts each."""

SOURCE = inspect.getsource(aci)

STRICTER = {
    "acVersion '0.08.1'": "_version",
    "exec ": "_exec",
    "user ": "_account",
    "group ": "_account",
    "workingDirectory ": "_absolute",
    "pathWhitelist ['']": "_absolute",
    'mountPoints [{"name": "data", "path"': "_absolute",
    "protocol ": "_port",
    'ports [{"name": "a", "protocol": "tcp", "port": 80, "count": 0}]': "_port",
    'eventHandlers [{"name": "pre-start", "exec": ["x"]}]': "_exec",
    'dependencies [{"imageName": "b", "imageID"': "_image_id",
}
"""What we refuse and actool does not, by the beginning of its title, and the rule that says why."""

MISSING_OR_UNKNOWN = (
    'labels [{"name": "version"}]',
    'mountPoints [{"name": "data"}]',
    'mountPoints [{"path": "/d"}]',
    "annotation without value",
    "an unknown key",
    "supplementaryGIDs [4294967296]",
)


@pytest.mark.parametrize("case", VERDICTS, ids=lambda case: str(case["title"])[:60])
def test_what_actool_refuses_is_refused_and_more_only_with_a_reason(case: dict[str, Any]) -> None:
    problems = manifest_problems(case["manifest"])
    if not case["accepted"]:
        assert problems
    elif problems:
        rule = next((r for t, r in STRICTER.items() if case["title"].startswith(t)), None)
        assert rule or case["title"] in MISSING_OR_UNKNOWN, problems
        if rule:
            assert re.search(
                rf"^(def )?{rule}\b[^\n]*\n *\"\"\"[^\"]*tricter than actool", SOURCE, re.M
            )


def config(**section: object) -> dict[str, object]:
    return {"config": section}


GOOD: list[dict[str, object]] = [
    {},
    {"created": "2026-02-28T23:59:59.123456789+01:00", "author": "A", "os.features": ["x"]},
    {"created": None, "config": None},
    config(Entrypoint=None, Cmd=None, Env=None, Volumes=None, ExposedPorts=None, Labels=None),
    config(Entrypoint=["/x", "", "a\nb"], User="", WorkingDir="", StopSignal="SIGRTMIN+3"),
    config(User="app:101", ExposedPorts={"80": {}, "65535/udp": {}}, Volumes={"/var/x": {}}),
    config(Env=["A.b=", "discovery.type=single node"], Labels={"ü": "ü"}, StopSignal="9"),
    config(Healthcheck={"Test": ["CMD-SHELL", "exit 0"], "Interval": 10**9, "Retries": 3}),
    config(Healthcheck={"Test": ["NONE"]}, Memory=1, ArgsEscaped=True),
]
BAD: dict[str, tuple[dict[str, object], str]] = {
    "created": ({"created": "yesterday"}, "created: 'yesterday' is not a time"),
    "no such day": ({"created": "2026-02-31T10:00:00Z"}, "is not a time"),
    "leap second": ({"created": "2026-01-01T23:59:60Z"}, "is not a time"),
    "port": (config(ExposedPorts={"99999/tcp": {}}), "from 1 to 65535"),
    "range": (config(ExposedPorts={"80-90/tcp": {}}), "is not PORT"),
    "port value": (config(ExposedPorts={"80/tcp": 1}), "must be {}"),
    "volume": (config(Volumes={"rel": {}}), "absolute path"),
    "volume /": (config(Volumes={"/": {}}), "hide the whole image"),
    "volume up": (config(Volumes={"/a/../b": {}}), "absolute path"),
    "user": (config(User="a b"), "neither a name nor a number"),
    "uid": (config(User="4294967295"), "id 4294967295"),
    "gid": (config(User="0:99999999999"), "id 99999999999"),
    "signal": (config(StopSignal="SIGFOO"), "no signal"),
    "signal 65": (config(StopSignal="65"), "from 1 to 64"),
    "env twice": (config(Env=["A=1", "A=2"]), "A occurs twice"),
    "test": (config(Healthcheck={"Test": ["curl", "x"]}), "must be NONE"),
    "test words": (config(Healthcheck={"Test": ["CMD-SHELL", "a", "b"]}), "has 2 words"),
    "interval": (config(Healthcheck={"Interval": 5}), "nanoseconds"),
    "health": (config(Healthcheck={"Test": [], "Every": 1}), "not a key"),
    "entry": (config(Entrypoint="/x"), "must be a list"),
    "variant": ({"variant": "v9"}, "is not the container's"),
}
PLATFORM: dict[str, object] = {"architecture": "arm64", "os": "linux", "variant": "v8"}


@pytest.mark.parametrize("document", GOOD, ids=str)
def test_what_the_specification_allows_is_taken(document: dict[str, object]) -> None:
    assert config_problems(document, PLATFORM) == ()


@pytest.mark.parametrize("case", BAD)
def test_what_no_client_reads_or_starts_is_refused(case: str) -> None:
    document, message = BAD[case]
    assert message in "\n".join(config_problems(document, PLATFORM))


@pytest.mark.parametrize("text", ["SIGTERM", "SIGQUIT", "SIGRTMIN+15", "SIGRTMAX-14", "1", "64"])
def test_a_signal_of_linux_is_one(text: str) -> None:
    assert not [*signal_problems(text)]


@pytest.mark.parametrize("text", ["", "SIG", "SIG-", "SIGFOO", "0", "65", "99", "QUIT", "09", "-1"])
def test_no_other_signal_is(text: str) -> None:
    (problem,) = signal_problems(text)
    assert (text != "QUIT") or "write SIGQUIT" in problem


def test_the_signals_are_those_of_this_system() -> None:
    import signal

    assert {one.name for one in signal.Signals} <= SIGNALS
