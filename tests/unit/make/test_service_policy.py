"""Where a policy for services is shown, and where not."""

from __future__ import annotations

import pytest

from buildit.digest import digest_bytes
from buildit.make.service_policy import POLICY, service_policy
from buildit.model.tree import Entry, Kind

pytestmark = pytest.mark.unit

USR = Entry("usr", Kind.DIRECTORY, 0o755, 10)
SBIN = Entry("usr/sbin", Kind.DIRECTORY, 0o2750, 20, 0, 5)
DPKG = Entry("usr/bin/dpkg", Kind.FILE, 0o755)
OWN = Entry("usr/sbin/policy-rc.d", Kind.FILE, 0o755)


def shown(*entries: Entry) -> tuple[Entry, ...]:
    return service_policy({one.path: one for one in entries}.get)


def test_it_lies_in_the_directories_as_they_are() -> None:
    size, digest = len(POLICY), digest_bytes(POLICY)
    file = Entry(OWN.path, Kind.FILE, 0o755, size=size, digest=digest)
    assert shown(USR, SBIN, DPKG) == (USR, SBIN, file)


def test_it_lies_where_a_link_leads() -> None:
    bin_, link = Entry("usr/bin", Kind.DIRECTORY, 0o755), Entry("usr/sbin", Kind.SYMLINK, 0o777)
    link = Entry(link.path, link.kind, link.mode, target="bin")
    assert [one.path for one in shown(USR, bin_, link, DPKG)] == [
        *("usr", "usr/bin", "usr/bin/policy-rc.d")
    ]


@pytest.mark.parametrize(
    "entries",
    [
        (USR, SBIN),
        (USR, SBIN, DPKG, OWN),
        (USR, DPKG),
        (USR, DPKG, Entry("usr/sbin", Kind.FILE, 0o644)),
        (USR, DPKG, Entry("usr/sbin", Kind.SYMLINK, 0o777, target="sbin")),
    ],
    ids=["no dpkg", "its own", "no directory", "a file", "a loop"],
)
def test_it_is_not_shown(entries: tuple[Entry, ...]) -> None:
    assert shown(*entries) == ()
