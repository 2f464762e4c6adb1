"""check: what it says of a source that was built, without building one."""

from __future__ import annotations

import json

import pytest

from buildit.cli import check
from buildit.commands.check_source import CheckedSource
from buildit.make.debian_compare import ComparedDeb, Reason
from tests.unit.cli.conftest import Command

pytestmark = pytest.mark.unit

PATHS = tuple(f"usr/lib/jq/{number}" for number in range(8))
FOUND = CheckedSource(
    "debian-source:jq",
    "1.6-2",
    (
        ComparedDeb("jq", Reason.NONE),
        ComparedDeb("jq-doc", Reason.ABSENT),
        ComparedDeb("libjq1", Reason.BUILD_PATH, "usr/lib/jq/0 has /build/jq-1", PATHS),
    ),
    12.25,
    300_000,
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked to be built; the answer is always the same."""
    bases: list[str] = []

    def fake(base: str, *_: object) -> CheckedSource:
        bases.append(base)
        return FOUND

    monkeypatch.setattr(check, "check_source", fake)
    return bases


def test_each_deb_has_a_line_with_the_reason_and_what_differs(
    command: Command, asked: list[str]
) -> None:
    said = command("check", "debian:jq=1.6-2")
    assert (said.code, said.err, asked) == (0, "", ["debian:jq=1.6-2"])
    assert said.out.splitlines() == [
        "debian-source:jq-1.6-2",
        "  jq      identical",
        "  jq-doc  not in the archive",
        "  libjq1  build path          usr/lib/jq/0 has /build/jq-1",
        *(f"    {path}" for path in PATHS[:6]),
        "    and 2 more",
        "1 of 3 identical to Debian's",
    ]


def test_json_has_all_of_it(command: Command, asked: list[str]) -> None:
    said = command("check", "debian:jq", "--json")
    found = json.loads(said.out)
    assert (said.code, asked) == (0, ["debian:jq"])
    assert (found["name"], found["version"]) == ("debian-source:jq", "1.6-2")
    assert (found["seconds"], found["size"]) == (12.25, 300_000)
    assert [one["reason"] for one in found["debs"]] == [
        "identical",
        "not in the archive",
        "build path",
    ]
    assert found["debs"][2]["paths"] == list(PATHS)


@pytest.mark.parametrize("name", ["jq", "./pkgs/jq", "app/jq-1.6", "Debian:jq"])
def test_what_is_no_source_of_debians_is_refused(
    command: Command, asked: list[str], name: str
) -> None:
    said = command("check", name)
    assert (said.code, said.out, asked) == (2, "", [])
    assert f"{name} is no Debian source package" in said.err
    assert "write buildit check debian:jq" in said.err


def test_what_is_wrong_is_at_what_the_user_wrote(command: Command) -> None:
    said = command("check", "debian:ti ni")
    assert said.code == 2
    assert said.err.splitlines()[0] == (
        "buildit: error: debian:ti ni: base: expected a Debian package, found 'debian:ti ni'"
    )
