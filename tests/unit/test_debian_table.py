"""The page of the Debian sources that were built: what it says of each, holes apart."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from buildit.patch.read import parse_patch
from tests import debian_patched
from tests.debian_builds import checked_row, page
from tests.debian_in_images import Outcome

pytestmark = pytest.mark.unit


def deb(name: str, reason: str) -> dict[str, str]:
    return {"name": name, "reason": reason}


def found(*debs: dict[str, str]) -> str:
    return json.dumps({"debs": debs, "seconds": 12.4, "size": 2_340_000})


ALIKE = checked_row("jq", "1.6", 0, found(deb("jq", "identical"), deb("libjq1", "identical")), "")
PARTS = [deb("a", "identical"), deb("b", "build path"), deb("c", "build path")]
DIFFERENT = checked_row("nginx", "1.22", 0, found(*PARTS), "")


def error(message: str, *details: str) -> str:
    said = {"event": "error", "message": message, "details": details}
    return f"{json.dumps({'event': 'notice'})}\n{json.dumps(said)}\n"


HOLE = checked_row(
    "gosu",
    "1",
    4,
    "",
    error("the archive lists gosu 1 but no place has a", "missing: pool/a", "missing: pool/b"),
)
FAILED = checked_row("bash", "5", 1, "", error("the build | of bash\nfailed"))


def test_a_row_has_the_figures_and_why_a_deb_differs() -> None:
    assert ALIKE.line == "| jq | 1.6 | 12 | 2 | 2.3 | identical |"
    assert DIFFERENT.line == "| nginx | 1.22 | 12 | 3 | 2.3 | 1 of 3: build path (b, c) |"


def test_what_cannot_be_built_says_why_in_one_line() -> None:
    assert FAILED.line == "| bash | 5 | the build / of bash failed |"
    assert checked_row("x", "1", 70, "", "").line == "| x | 1 | exit code 70 |"


def test_holes_are_counted_apart() -> None:
    assert HOLE.line == "| gosu | 1 | no place has a, b |"
    text = page([one.line for one in (ALIKE, DIFFERENT, HOLE, FAILED)])
    assert "2 were built, 1 of them with every .deb identical to Debian's." in text
    built, failed = text.index("| nginx |"), text.index("## Not built")
    holes = text.index("## Holes")
    assert built < failed < text.index("| bash |") < holes < text.index("| gosu |")
    assert "## " not in page([ALIKE.line])


def test_what_is_patched_is_locked_and_what_was_answered_is_shown() -> None:
    table = {job.name: job for job in debian_patched.jobs()}
    assert all(parse_patch(job.patch.encode(), name, strip=1) for name, job in table.items())
    served = replace(table["dnsmasq"], source="dnsmasq=1-1")
    found = debian_patched.row(Outcome(served, "", answer=b"x-ours".hex(), seconds=2))
    assert found == "| dnsmasq | 1-1 | 2 | DNS: CH TXT version.bind | x-ours |"
    assert debian_patched.row(Outcome(served, "it | ended")).endswith("it should: it / ended |")
    files = served.files
    assert files["pkg/pkg.yaml"].startswith("base: debian:dnsmasq=1-1\npatches: {ours.patch: ")
    assert '"packages": ["dnsmasq-base"]' in files["container.yaml"]
