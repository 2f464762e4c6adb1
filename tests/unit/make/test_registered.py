"""What packages register, as Debian's own scripts say it, and what a root makes of it."""

from __future__ import annotations

import pytest

from buildit.make.scripts.instead import ROOT
from buildit.make.scripts.read import script_rules
from buildit.make.scripts.registered import Alternative, Slave, chosen_links, xml_catalog
from buildit.make.scripts.state import ScriptRules
from buildit.model.tree import Kind

pytestmark = pytest.mark.unit


def registered(name: str, script: str, *paths: str) -> ScriptRules:
    text = script if script.startswith("#!") else f"#!/bin/sh\n{script}"
    kinds = dict.fromkeys(paths, Kind.FILE)
    return script_rules(name, {"postinst": text.encode()}, kinds, lambda _: "", ROOT)


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
    found = registered("gcc", GCC)
    man = "/usr/share/man/man1"
    assert found.alternatives == (
        Alternative("/usr/bin/cc", "cc", "/usr/bin/gcc", 20),
        Alternative(
            "/usr/bin/c89",
            "c89",
            "/usr/bin/c89-gcc",
            20,
            (Slave(f"{man}/c89.1.gz", "c89.1.gz", f"{man}/c89-gcc.1.gz"),),
        ),
    )
    assert found.remainder == ()


def test_variables_are_put_in() -> None:
    found = registered("automake", AUTOMAKE)
    (one,) = found.alternatives
    assert (one.path, one.priority, found.remainder) == ("/usr/bin/automake-1.16", 34, ())
    assert one.slaves[0] == Slave("/usr/bin/aclocal", "aclocal", "/usr/bin/aclocal-1.16")


def test_what_is_registered_at_a_first_installation() -> None:
    (one,) = registered("mawk", MAWK).alternatives
    assert one.slaves == (Slave("/usr/bin/nawk", "nawk", "/usr/bin/mawk"),)
    assert registered("mawk", MAWK.replace("configure", "abort-remove")).alternatives == ()


def test_a_loop_is_unrolled_and_what_a_script_computes_is_said_and_never_guessed() -> None:
    found = registered("php", LOOP)
    assert [one.path for one in found.alternatives] == ["/usr/bin/one8.2", "/usr/bin/two8.2"]
    assert found.remainder == ()
    found = registered("other", LOOP.replace("one two", "$(seek)"))
    assert found.alternatives == ()
    unknown, left = found.remainder
    assert unknown.text == "seek"
    assert left.said.startswith("postinst:4: update-alternatives --install")
    assert left.why == "not literal"


def test_a_table_stands_in_where_a_script_computes_its_slaves() -> None:
    (one,) = registered("xz-utils", "update-alternatives --install $(all)").alternatives
    assert (one.link, one.path, one.priority) == ("/usr/bin/lzma", "/usr/bin/xz", 20)
    assert Slave("/usr/bin/unlzma", "unlzma", "/usr/bin/unxz") in one.slaves
    assert Slave("/usr/bin/lzfgrep", "lzfgrep", "/usr/bin/xzfgrep") in one.slaves
    assert len(one.slaves) == 9


def test_a_last_resort_is_a_roots_and_no_images() -> None:
    found = registered("ed", "update-alternatives --install /usr/bin/editor editor /bin/ed -100")
    assert found.alternatives == (Alternative("/usr/bin/editor", "editor", "/bin/ed", -100),)
    assert found.declared.alternatives == ()
    assert [one.why for one in found.remainder] == [
        "a last resort: where you want it, write the link in `symlinks`"
    ]


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
    found = registered("x", CATALOGS)
    text = xml_catalog(found.catalogs)
    local = 'catalog="file:///usr/share/xml/x/catalog.xml"/>'
    assert text.splitlines()[2:-1] == [
        f'<delegatePublic publicIdStartString="-//X//DTD &amp; Y" {local}',
        f'<delegateSystem systemIdStartString="http://example.org/y.dtd" {local}',
    ]
    assert [one.place for one in found.remainder] == ["postinst:4", "postinst:6"]  # of an image
