"""What maintainer scripts would do, as Debian's own scripts say it."""

from __future__ import annotations

import pytest

from buildit.archive.scripts import (
    Alternative,
    Slave,
    alternatives,
    chosen_links,
    delegations,
    xml_catalog,
)

pytestmark = pytest.mark.unit

GCC = r"""#! /bin/sh -e
update-alternatives --quiet \
    --install /usr/bin/cc cc /usr/bin/gcc 20 \
    #--slave /usr/share/man/man1/cc.1.gz cc.1.gz /usr/share/man/man1/gcc.1.gz

update-alternatives --quiet \
    --install /usr/bin/c89 c89 /usr/bin/c89-gcc 20 \
    --slave /usr/share/man/man1/c89.1.gz c89.1.gz /usr/share/man/man1/c89-gcc.1.gz
# update-alternatives --install /usr/bin/f77 f77 /usr/bin/g77 5
"""
AUTOMAKE = r"""
set -e
ver=1.16
prio=34
update-alternatives --install /usr/bin/automake automake \
	/usr/bin/automake-$ver $prio \
	--slave /usr/bin/aclocal aclocal /usr/bin/aclocal-${ver} \
	--slave /usr/share/man/man1/automake.1.gz automake.1.gz \
	/usr/share/man/man1/automake-$ver.1.gz
"""
MAWK = """
if [ "$1" = "configure" ] || [ "$1" = "abort-upgrade" ]; then
        update-alternatives --install /usr/bin/awk awk /usr/bin/mawk 5 \\
            --slave /usr/bin/nawk nawk /usr/bin/mawk
fi
"""
LOOP = """
for binary in one two; do
  update-alternatives --install /usr/bin/${binary} ${binary} /usr/bin/${binary}8.2 82
done
"""


def test_what_gcc_registers() -> None:
    found, lost = alternatives("gcc", GCC)
    man = "/usr/share/man/man1"
    assert found == (
        Alternative("/usr/bin/cc", "cc", "/usr/bin/gcc", 20),
        Alternative(
            "/usr/bin/c89",
            "c89",
            "/usr/bin/c89-gcc",
            20,
            (Slave(f"{man}/c89.1.gz", "c89.1.gz", f"{man}/c89-gcc.1.gz"),),
        ),
    )
    assert lost == ()


def test_literal_variables_are_put_in() -> None:
    (found,), lost = alternatives("automake", AUTOMAKE)
    assert (found.path, found.priority, lost) == ("/usr/bin/automake-1.16", 34, ())
    assert found.slaves[0] == Slave("/usr/bin/aclocal", "aclocal", "/usr/bin/aclocal-1.16")


def test_a_condition_around_it_counts_for_nothing() -> None:
    (found,), _ = alternatives("mawk", MAWK)
    assert found.slaves == (Slave("/usr/bin/nawk", "nawk", "/usr/bin/mawk"),)


def test_what_a_script_computes_is_said_and_never_guessed() -> None:
    found, lost = alternatives("other", LOOP)
    assert found == ()
    assert lost == ("/usr/bin/${binary} ${binary} /usr/bin/${binary}8.2 82",)
    known, lost = alternatives("php8.2-cli", LOOP)
    assert [one.link for one in known] == ["/usr/bin/php", "/usr/bin/phar", "/usr/bin/phar.phar"]
    assert lost == ()


def test_the_highest_priority_that_is_there_wins() -> None:
    every = [
        Alternative("/usr/bin/cc", "cc", "/usr/bin/clang", 10),
        Alternative("/usr/bin/cc", "cc", "/usr/bin/gcc", 20),
        Alternative("/usr/bin/cc", "cc", "/usr/bin/tcc", 90),
        Alternative(
            "/usr/bin/awk",
            "awk",
            "/usr/bin/mawk",
            5,
            (Slave("/n", "nawk", "/usr/bin/mawk"), Slave("/m", "awk.1.gz", "/absent")),
        ),
    ]
    there = {"/usr/bin/clang", "/usr/bin/gcc", "/usr/bin/mawk"}
    assert chosen_links(every, there.__contains__) == {
        "/usr/bin/cc": ("cc", "/usr/bin/gcc"),
        "/usr/bin/awk": ("awk", "/usr/bin/mawk"),
        "/n": ("nawk", "/usr/bin/mawk"),
    }
    assert chosen_links(every, {"/usr/bin/clang"}.__contains__) == {
        "/usr/bin/cc": ("cc", "/usr/bin/clang")
    }


CATALOGS = """
if [ "$1" = "configure" ]; then
	update-xmlcatalog --sort --add --type public --id "-//X//DTD & Y" \\
		--package x --local /usr/share/xml/x/catalog.xml
	update-xmlcatalog --sort --add --type system --id "http://example.org/y.dtd" \\
		--package x --local /usr/share/xml/x/catalog.xml
	update-xmlcatalog --sort --add --type public --id "-//X//DTD & Y" --package x --root
	update-xmlcatalog --sort --del --type uri --id "gone" \\
		--package x --local /usr/share/xml/x/catalog.xml
fi
"""


def test_the_catalog_of_xml_leads_straight_to_the_packages_own() -> None:
    text = xml_catalog(delegations(CATALOGS))
    local = 'catalog="file:///usr/share/xml/x/catalog.xml"/>'
    assert text.splitlines()[2:-1] == [
        f'<delegatePublic publicIdStartString="-//X//DTD &amp; Y" {local}',
        f'<delegateSystem systemIdStartString="http://example.org/y.dtd" {local}',
    ]
