from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.digest import BuildKey, Digest, digest_bytes
from buildit.errors import RecipeError
from buildit.model.plan import DebRef
from buildit.plan.lock import (
    HEADER,
    Lock,
    LockedCommit,
    LockedPackage,
    LockedPatch,
    LockedSource,
    Section,
    changes,
    format_lock,
    parse_lock,
)
from tests.planning import deb
from tests.scale import examples

pytestmark = pytest.mark.unit

FIXED = Section(
    debs={"toolchain/debian-12": (deb("gcc"), deb("libc6")), "debian:m4": (deb("m4"),)},
    indices={"bookworm": "2026-05-16T09:30:11Z"},
    packages=(
        LockedPackage(
            "www-servers/nginx",
            "1.22.1",
            digest_bytes(b"recipe"),
            BuildKey(digest_bytes(b"key")),
            ("+ipv6", "-selinux", "tls=openssl"),
        ),
    ),
    sources=(LockedSource("www-servers/nginx", digest_bytes(b"source"), "nginx-1.22.1.tar.gz"),),
    patches=(
        LockedPatch("www-servers/nginx", digest_bytes(b"c"), None, "patches/https only.patch"),
        LockedPatch("www-servers/nginx", digest_bytes(b"d"), digest_bytes(b"raw"), "https://x/y"),
    ),
    outputs={("www-servers/nginx", "runtime"): digest_bytes(b"layer")},
    synced={("srv/a page.html", digest_bytes(b"page")): 1_700_000_000},
    images={"oci://registry.example.org/web/base:12": digest_bytes(b"manifest")},
    facts={"project": "a web\n", "hostname": ""},
)

DIGESTS = st.integers(0, 2**256 - 1).map(lambda number: Digest(f"{number:064x}"))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PATHS = st.binary(max_size=8).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
DEBS = st.builds(DebRef, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS, st.integers(0, 10**15), DIGESTS)
SECTIONS = st.builds(
    Section,
    debs=st.dictionaries(
        TEXTS, st.lists(DEBS, min_size=1, max_size=3, unique_by=lambda d: d.name).map(tuple),
        max_size=2,
    ),
    requests=st.dictionaries(TEXTS, DIGESTS, max_size=2),
    indices=st.dictionaries(TEXTS, TEXTS, max_size=2),
    packages=st.lists(
        st.builds(LockedPackage, TEXTS, TEXTS, DIGESTS, DIGESTS, st.tuples(TEXTS, TEXTS)),
        max_size=3,
        unique_by=lambda p: p.name,
    ).map(tuple),
    sources=st.lists(st.builds(LockedSource, TEXTS, DIGESTS, TEXTS), max_size=2).map(tuple),
    patches=st.lists(
        st.builds(LockedPatch, TEXTS, DIGESTS, st.none() | DIGESTS, TEXTS), max_size=2
    ).map(tuple),
    outputs=st.dictionaries(st.tuples(TEXTS, TEXTS), DIGESTS, max_size=2),
    commits=st.lists(
        st.builds(
            LockedCommit,
            TEXTS,
            TEXTS,
            TEXTS.filter(lambda text: text != "-"),
            st.booleans(),
            DIGESTS.map(lambda digest: digest[:40]),
            DIGESTS,
        ),
        max_size=2,
    ).map(tuple),
    synced=st.dictionaries(st.tuples(PATHS, DIGESTS), st.integers(0, 2**33), max_size=3),
    images=st.dictionaries(TEXTS, DIGESTS, max_size=2),
    facts=st.dictionaries(TEXTS, TEXTS, max_size=2),
)  # fmt: skip


def order_less(section: Section) -> Section:
    """A lock is sorted by line; what is in it counts, not the order that it came in."""
    return Section(
        {name: tuple(sorted(debs, key=repr)) for name, debs in section.debs.items()},
        section.requests,
        section.indices,
        tuple(sorted(section.packages, key=repr)),
        tuple(sorted(section.sources, key=repr)),
        tuple(sorted(section.patches, key=repr)),
        section.outputs,
        commits=tuple(sorted(section.commits, key=repr)),
        images=section.images,
        facts=section.facts,
    )


@settings(max_examples=examples(25))
@given(SECTIONS)
def test_what_is_written_is_read_back(section: Section) -> None:
    text = format_lock(Lock({"linux/amd64": section}))
    again = parse_lock(text, "buildit.lock")
    assert order_less(again.section("linux/amd64")) == order_less(section)
    assert format_lock(again) == text
    assert text.isascii()
    assert text.endswith("\n")


def test_the_text_is_golden() -> None:
    digest = digest_bytes
    assert format_lock(Lock({"linux/amd64": FIXED})).splitlines() == [
        "# buildit.lock: written by buildit; commit it beside container.yaml",
        "buildit-lock 1",
        "[linux/amd64]",
        *(
            f"deb {asker} {d.name} 1.0-1 {d.arch} bookworm {d.path} 1000 {d.digest}"
            for asker, d in [
                ("debian:m4", deb("m4")),
                ("toolchain/debian-12", deb("gcc")),
                ("toolchain/debian-12", deb("libc6")),
            ]
        ),
        "fact hostname ",
        "fact project a%20web%0A",
        f"image oci://registry.example.org/web/base:12 {digest(b'manifest')}",
        "index bookworm 2026-05-16T09:30:11Z",
        f"output www-servers/nginx runtime {digest(b'layer')}",
        (
            f"package www-servers/nginx 1.22.1 {digest(b'recipe')} {digest(b'key')} "
            "+ipv6 -selinux tls=openssl"
        ),
        f"patch www-servers/nginx {digest(b'd')} {digest(b'raw')} https://x/y",
        f"patch www-servers/nginx {digest(b'c')} - patches/https%20only.patch",
        f"source www-servers/nginx {digest(b'source')} nginx-1.22.1.tar.gz",
        f"synced srv/a%20page.html {digest(b'page')} 2023-11-14T22:13:20Z",
    ]


def test_sections_and_records_are_sorted() -> None:
    lock = Lock({"linux/arm64": FIXED, "linux/amd64": Section()})
    lines = format_lock(lock).splitlines()
    assert [line for line in lines if line.startswith("[")] == ["[linux/amd64]", "[linux/arm64]"]
    records = lines[lines.index("[linux/arm64]") + 1 :]
    assert records == sorted(records)
    assert lock.section("linux/riscv64") == Section()


def test_a_change_of_one_thing_changes_one_line() -> None:
    before = format_lock(Lock({"linux/amd64": FIXED})).splitlines()
    moved = replace(FIXED, packages=(replace(FIXED.packages[0], version="1.24.0"),))
    after = format_lock(Lock({"linux/amd64": moved})).splitlines()
    assert len(before) == len(after)
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


def test_two_additions_merge_line_by_line() -> None:
    """What git makes of a branch that adds a package and one that adds a .deb."""
    ours = replace(FIXED, packages=(*FIXED.packages, replace(FIXED.packages[0], name="a/b")))
    theirs = replace(FIXED, debs={**FIXED.debs, "debian:zip": (deb("zip"),)})
    both = replace(ours, debs=theirs.debs)
    texts = [format_lock(Lock({"linux/amd64": s})).splitlines() for s in (ours, theirs)]
    head, *records = sorted({*texts[0], *texts[1]}, key=lambda line: not line.startswith("#"))
    order = [head, HEADER, "[linux/amd64]"]
    merged = [*order, *sorted(line for line in records if line not in order)]
    assert parse_lock("\n".join(merged), "f") == parse_lock(
        format_lock(Lock({"linux/amd64": both})), "f"
    )


H = "0" * 64
GOOD = f"package a/b 1 {H} {H}"


@pytest.mark.parametrize(
    ("lines", "line", "message"),
    [
        ([""], 0, ""),
        (["buildit-lock 2"], 1, "not a lock of this buildit"),
        (["[linux/amd64]"], 1, "not a lock of this buildit"),
        ([HEADER, GOOD], 2, "before the first [platform]"),
        ([HEADER, "[p]", "<<<<<<< HEAD"], 3, "not a lock record"),
        ([HEADER, "[p]", "package a/b 1 x y"], 3, "not a lock record"),
        ([HEADER, "[p]", f"package a/b 1 {H}"], 3, "not a lock record"),
        ([HEADER, "[p]", f"package a/b 1 {'A' * 64} {H}"], 3, "not a lock record"),
        ([HEADER, "[p]", f"deb t n v a s p -1 {H}"], 3, "not a lock record"),
        ([HEADER, "[p]", f"deb t n v a s p 1_0 {H}"], 3, "not a lock record"),
        ([HEADER, "[p]", f"deb t n v a s p {H}"], 3, "not a lock record"),
        ([HEADER, "[p]", f"source  {H} n x"], 3, "not a lock record"),
        ([HEADER, "[p]", f"git a/b https://x/y - maybe {'0' * 40} {H}"], 3, "not a lock record"),
        ([HEADER, "[p]", f"git a/b https://x/y - yes {'0' * 7} {H}"], 3, "not a lock record"),
        ([HEADER, "[p]", "index bookworm"], 3, "not a lock record"),
        ([HEADER, "[p]", "future record"], 3, "not a lock record"),
        ([HEADER, "[p]", GOOD, "", "#", f"package a/b 2 {H} {H}"], 6, "second record of package"),
        ([HEADER, "[p]", f"output a/b x {H}", f"output a/b x {H}"], 4, "record of output"),
        ([HEADER, "[p]", "index s 1", "index s 2"], 4, "a second record of index s"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(lines: list[str], line: int, message: str) -> None:
    text = "\n".join(lines)
    if not line:
        assert parse_lock(text, "l") == Lock()
        return
    with pytest.raises(RecipeError) as caught:
        parse_lock(text, "l")
    assert caught.value.place == f"l:{line}:1"
    assert message in caught.value.message
    assert caught.value.hint


def test_the_same_section_twice_is_one_section() -> None:
    text = f"{HEADER}\n[p]\n{GOOD}\n[q]\n[p]\nindex s 1\n"
    lock = parse_lock(text, "l")
    assert [p.name for p in lock.section("p").packages] == ["a/b"]
    assert lock.section("p").indices == {"s": "1"}


# -- changes


def test_nothing_changes_between_equal_sections() -> None:
    assert changes(FIXED, FIXED) == ()


def test_outputs_and_dates_of_indices_do_not_count() -> None:
    assert changes(FIXED, replace(FIXED, outputs={}, indices={})) == ()


def test_changes_are_said_in_words() -> None:
    newer = deb("libc6", "1.0-2")
    package = replace(FIXED.packages[0], version="1.24.0", flags=())
    new = Section(
        debs={"toolchain/debian-12": (newer, deb("make"))},
        packages=(package,),
        sources=FIXED.sources,
        patches=FIXED.patches[:1],
        synced=FIXED.synced,
        facts={"project": "other"},
    )
    old_deb, digest = deb("libc6"), digest_bytes
    assert changes(FIXED, new) == (
        f"debian:m4: m4 is no longer used (was 1.0-1 ({deb('m4').digest[:12]}))",
        f"toolchain/debian-12: gcc is no longer used (was 1.0-1 ({deb('gcc').digest[:12]}))",
        (
            f"toolchain/debian-12: libc6 moves from 1.0-1 ({old_deb.digest[:12]}) "
            f"to 1.0-2 ({newer.digest[:12]})"
        ),
        f"toolchain/debian-12: make is new: 1.0-1 ({deb('make').digest[:12]})",
        (
            "www-servers/nginx: version 1.22.1 -> 1.24.0; flags +ipv6 -selinux tls=openssl -> none "
            f"(key {package.key[:12]} -> {package.key[:12]})"
        ),
        "fact hostname is no longer used (was )",
        "fact project moves from a web\n to other",
        (
            "image oci://registry.example.org/web/base:12 is no longer used "
            f"(was {digest(b'manifest')[:12]})"
        ),
        f"patch of www-servers/nginx https://x/y is no longer used (was {digest(b'd')[:12]})",
    )


@pytest.mark.parametrize("date", ["2023-11-14", "2023-11-14T22:13:20", "x", "2023-1-1T1:1:1Z"])
def test_a_malformed_time_is_refused(date: str) -> None:
    text = f"{HEADER}\n[linux/amd64]\nsynced a {digest_bytes(b'')} {date}\n"
    with pytest.raises(RecipeError, match="not a lock record"):
        parse_lock(text, "buildit.lock")


@pytest.mark.scale
def test_many_synced_files_that_move_are_a_line() -> None:
    many = {(f"srv/{n:05}", digest_bytes(b"")): 7 for n in range(10_000)}
    section = Section(synced=many)
    again = parse_lock(format_lock(Lock({"x": section})), "buildit.lock").section("x")
    assert again.synced == many
    assert changes(Section(), section) == (
        "synced srv/00000, srv/00001, srv/00002 and 9997 more: new, dated now",
    )
    assert changes(section, section) == ()
