from __future__ import annotations

import pytest

from buildit.commands.assemble import missing_links
from buildit.model.accounts import AlternativeLink
from buildit.model.tree import Entry, Kind

pytestmark = pytest.mark.unit

Package = tuple[bool, list[Entry]]


def package(*paths: str, deb: bool = False) -> Package:
    """A package of files; a path that ends in a slash is a directory, `a->b` a link."""
    entries = []
    for path in paths:
        name, _, target = path.partition("->")
        kind = Kind.SYMLINK if target else Kind.DIRECTORY if path.endswith("/") else Kind.FILE
        entries.append(Entry(name.rstrip("/"), kind, 0o755, target=target))
    return deb, entries


def links(*packages: Package) -> dict[str, str]:
    made = list(missing_links(packages))
    assert [one.path for one in made] == sorted(one.path for one in made)
    assert all(one.kind is Kind.SYMLINK for one in made)
    return {one.path: one.target for one in made}


def test_the_links_of_merged_usr_are_made_where_usr_has_the_directory() -> None:
    app = package("usr/bin/x", "usr/lib/x86_64-linux-gnu/libx.so.1")
    libc = package("usr/lib64/ld-linux-x86-64.so.2", "usr/sbin/", deb=True)
    assert links(app, libc) == {
        "bin": "usr/bin",
        "lib": "usr/lib",
        "lib64": "usr/lib64",
        "sbin": "usr/sbin",
    }
    assert links(package("usr/share/zoneinfo/UTC"), package("etc/x")) == {}
    assert links() == {}


def test_a_package_that_brings_them_is_left_alone() -> None:
    base = package("bin->usr/bin", "lib->usr/lib", "lib64->usr/lib64", "usr/lib64/")
    assert links(base, package("usr/bin/x", "usr/sbin/y")) == {"sbin": "usr/sbin"}


def test_nothing_is_made_over_what_a_package_has_of_that_name() -> None:
    assert links(package("usr/bin/x", "usr/lib/y", "lib/odd/file")) == {"bin": "usr/bin"}


def test_of_alternatives_the_highest_priority_is_linked() -> None:
    """What scripts register is the only word on names such as `awk`."""
    mawk, gawk = (
        AlternativeLink("usr/bin/awk", "usr/bin/mawk", 5),
        AlternativeLink("usr/bin/awk", "usr/bin/gawk", 10),
    )
    both = package("usr/bin/mawk", "usr/bin/gawk", deb=True)
    made = {one.path: one.target for one in missing_links([both], (gawk, mawk))}
    assert made == {"bin": "usr/bin", "usr/bin/awk": "/usr/bin/gawk"}
    left_out = [*missing_links([package("usr/bin/mawk", deb=True)], (gawk, mawk))]
    assert left_out[-1].target == "/usr/bin/mawk"
    assert links(both) == {"bin": "usr/bin"}
    assert not [*missing_links([package("usr/bin/awk"), package("bin/x")], (gawk,))]
