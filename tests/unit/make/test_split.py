from __future__ import annotations

import io
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.digest import Digest
from buildit.errors import BuildError
from buildit.make.capture.capture import moves, needed_at_run_time, split_outputs
from buildit.model.tree import Entry, Kind, sort_key
from buildit.plan.identity import OutputInput
from tests.scale import examples
from tests.unit.make.elves import elf

pytestmark = pytest.mark.unit

LIB = "usr/lib/x86_64-linux-gnu"


def tree(*paths: str, empty: tuple[str, ...] = (), **links: str) -> tuple[Entry, ...]:
    """Files, with all the directories above them; `a->b` is a symlink, `a=>b` a hard link."""
    found = {}
    for text in paths:
        if "->" in text:
            path, target = text.split("->")
            found[path] = Entry(path, Kind.SYMLINK, 0o777, target=target)
        elif "=>" in text:
            path, target = text.split("=>")
            found[path] = Entry(path, Kind.HARDLINK, 0o644, target=target)
        else:
            digest = Digest(text.encode().hex().ljust(64, "0")[:64])
            found[text] = Entry(text, Kind.FILE, 0o644, size=len(text), digest=digest)
    for path in (*found, *(f"{name}/x" for name in empty)):
        while path := path.rpartition("/")[0]:
            found.setdefault(path, Entry(path, Kind.DIRECTORY, 0o755))
    return tuple(sorted(found.values(), key=sort_key))


def files(entries: tuple[Entry, ...]) -> list[str]:
    return [entry.path for entry in entries if entry.kind is not Kind.DIRECTORY]


@pytest.mark.parametrize(
    ("output", "paths"),
    [
        (
            "runtime",
            [
                "usr/sbin/nginx",
                "etc/nginx/nginx.conf",
                f"{LIB}/libz.so.1.2.13",
                f"{LIB}/libz.so.1->libz.so.1.2.13",
                f"{LIB}/ossl-modules/legacy.so",
                f"{LIB}/plugins/libp.so->libp.so.0.0.0",
                f"{LIB}/libplain.so",
                f"{LIB}/libalias.so->libplain.so",
                "usr/share/doc/zlib/copyright",
                "usr/share/doc/zlib/LICENSE.txt",
                "usr/share/licenses/zlib/BSD",
                "usr/share/nginx/html/index.html",
            ],
        ),
        (
            "dev",
            [
                "usr/include/zlib.h",
                "usr/include/openssl/ssl.h",
                f"{LIB}/libz.a",
                f"{LIB}/libz.so->libz.so.1.2.13",
                f"{LIB}/libbfd.so->libbfd-2.40.so",
                f"{LIB}/pkgconfig/zlib.pc",
                "usr/share/pkgconfig/x.pc",
                f"{LIB}/cmake/pcre2/pcre2-config.cmake",
                "usr/share/aclocal/x.m4",
                "usr/bin/pcre2-config",
                "usr/lib/libold.so->libold.so.5",
                f"{LIB}/perl5/CORE/perl.h",
            ],
        ),
        (
            "doc",
            [
                "usr/share/man/man3/zlib.3.gz",
                "usr/share/info/x.info.gz",
                "usr/share/doc/zlib/README",
                "usr/share/gtk-doc/html/x/index.html",
            ],
        ),
        ("locale", ["usr/share/locale/de/LC_MESSAGES/x.mo"]),
        ("debug", ["usr/lib/debug/.build-id/ab/cd.debug"]),
    ],
)
def test_usual_rules(output: str, paths: list[str]) -> None:
    outputs = split_outputs(tree(*paths))
    assert files(outputs[output]) == sorted(path.partition("->")[0] for path in paths)
    assert [name for name in outputs if files(outputs[name])] == [output]


def test_a_linker_script_beside_its_library_is_for_development() -> None:
    outputs = split_outputs(tree(f"{LIB}/libncurses.so", f"{LIB}/libncurses.so.6"))
    assert files(outputs["dev"]) == [f"{LIB}/libncurses.so"]
    assert files(outputs["runtime"]) == [f"{LIB}/libncurses.so.6"]


def test_a_recipe_s_rules_come_first() -> None:
    rules = (
        OutputInput("runtime", (f"{LIB}/libz.so", "usr/share/doc/x/help/**"), optional=True),
        OutputInput("dev", ("usr/bin/tool",), optional=False),
    )
    entries = tree(f"{LIB}/libz.so->libz.so.1", "usr/share/doc/x/help/a", "usr/bin/tool")
    outputs = split_outputs(entries, rules)
    assert files(outputs["runtime"]) == [f"{LIB}/libz.so", "usr/share/doc/x/help/a"]
    assert files(outputs["dev"]) == ["usr/bin/tool"]


def test_a_declared_output_may_not_be_empty_unless_it_says_so() -> None:
    with pytest.raises(
        BuildError, match="the output 'dev' is empty: nothing matches a/b"
    ) as caught:
        split_outputs(tree("usr/bin/x"), (OutputInput("dev", ("a/b",), optional=False),))
    assert caught.value.hint
    assert "dev" not in split_outputs(
        tree("usr/bin/x"), (OutputInput("dev", ("a/b",), optional=True),)
    )


def test_directories_go_with_what_is_in_them() -> None:
    outputs = split_outputs(tree("usr/include/z.h", "usr/bin/z", "usr/share/man/man1/z.1"))
    assert [e.path for e in outputs["dev"]] == ["usr", "usr/include", "usr/include/z.h"]
    assert [e.path for e in outputs["runtime"]] == ["usr", "usr/bin", "usr/bin/z"]
    assert "usr/share" in [e.path for e in outputs["doc"]]


def test_an_empty_directory_goes_where_its_rule_says() -> None:
    outputs = split_outputs(tree("usr/bin/x", empty=("var/cache/x", "usr/include/x")))
    assert "var/cache/x" in [e.path for e in outputs["runtime"]]
    assert [e.path for e in outputs["dev"]] == ["usr", "usr/include", "usr/include/x"]


def test_nothing_installed_is_an_empty_runtime() -> None:
    assert split_outputs(()) == {"runtime": ()}


def test_a_hard_link_parted_from_its_first_name_becomes_a_file() -> None:
    entries = tree(
        "usr/bin/a",
        "usr/bin/b=>usr/bin/a",
        "usr/share/doc/a=>usr/bin/a",
        "usr/share/doc/b=>usr/bin/a",
    )
    outputs = split_outputs(entries)
    kinds = {e.path: (e.kind, e.target) for name in outputs for e in outputs[name]}
    assert kinds["usr/bin/b"] == (Kind.HARDLINK, "usr/bin/a")
    assert kinds["usr/share/doc/a"] == (Kind.FILE, "")
    assert kinds["usr/share/doc/b"] == (Kind.HARDLINK, "usr/share/doc/a")
    digests = {e.path: e.digest for name in outputs for e in outputs[name]}
    assert digests["usr/share/doc/a"] == digests["usr/bin/a"]


PATHS = st.lists(
    st.sampled_from(
        ["usr/bin/a", "usr/include/a.h", f"{LIB}/liba.a", "usr/share/man/man1/a.1", "etc/a",
         "usr/share/locale/de/a.mo", "usr/share/doc/a/copyright", "usr/share/doc/a/README"]
    ),
    unique=True,
)  # fmt: skip


@settings(max_examples=examples(50))
@given(PATHS)
def test_every_file_is_in_one_output_below_its_directories(paths: list[str]) -> None:
    outputs = split_outputs(tree(*paths))
    assert sorted(path for name in outputs for path in files(outputs[name])) == sorted(paths)
    for entries in outputs.values():
        seen = set()
        for entry in entries:
            parent = entry.path.rpartition("/")[0]
            assert not parent or parent in seen
            seen.add(entry.path)
        assert list(entries) == sorted(entries, key=sort_key)


SCRIPT = b'#!/bin/sh\ncase "$1" in --cflags) echo -I/usr/include/x ;; esac\n'


def at_run_time(files: dict[str, bytes], *links: str) -> set[str]:
    """Which of the files that look like development are not, by their content."""
    entries = tree(*files, *links)
    return set(needed_at_run_time(entries, lambda entry: io.BytesIO(files[entry.path])))


def test_a_config_program_is_for_development_where_it_answers_as_such() -> None:
    found = at_run_time(
        {
            "usr/bin/x-config": SCRIPT,
            "usr/bin/net-config": b"#!/bin/sh\necho config\n",
            "usr/bin/llvm-config": b"\x7fELF" + bytes(1 << 20) + b"--cxxflags",
            "usr/sbin/other": b"",
        },
        "usr/bin/y-config->x-config",
        "usr/bin/eth-config->/usr/bin/net-config",
        "usr/bin/z-config->../sbin/other",
        "usr/bin/away-config->/opt/away",
        "usr/bin/zz-config=>usr/bin/net-config",
    )
    assert found == {
        "usr/bin/net-config", "usr/bin/eth-config", "usr/bin/z-config", "usr/bin/zz-config"
    }  # fmt: skip


def test_an_object_is_for_development_where_a_linker_takes_it() -> None:
    files = {
        "usr/lib/crt9.o": elf(kind=1),
        "usr/lib/bpf/xdp.o": elf(kind=1, machine=247),
        "usr/lib/bpf/text.o": b"o",
        "usr/lib/x/mod.o": b"\x7fELF",
        "usr/share/x.o": b"o",
    }
    found = at_run_time(files)
    assert found == {"usr/lib/bpf/xdp.o", "usr/lib/bpf/text.o", "usr/lib/x/mod.o"}
    outputs = split_outputs(tree(*files), (), frozenset(found))
    assert files_of(outputs, "dev") == ["usr/lib/crt9.o"]


def files_of(outputs: Mapping[str, tuple[Entry, ...]], name: str) -> list[str]:
    return files(outputs.get(name, ()))


def test_what_may_not_be_meant_is_told() -> None:
    paths = (
        "usr/include/z.h", f"{LIB}/libz.a", f"{LIB}/crt1.o", "usr/bin/z-config",
        f"{LIB}/pkgconfig/z.pc", f"{LIB}/perl/CORE/x.h", f"{LIB}/pg/libpg.a", "usr/lib/m/x.c",
        "usr/bin/away-config->/opt/away", "usr/bin/a", "usr/share/doc/a=>usr/bin/a",
    )  # fmt: skip
    entries = tree(*paths)
    rules = (OutputInput("dev", ("usr/lib/m/**",), optional=True),)
    loud = [c.path for c in moves(entries, split_outputs(entries, rules), rules) if c.loud]
    assert sorted(loud) == ["usr/bin/away-config", f"{LIB}/pg/libpg.a"]
    assert "usr/lib/m/x.c" in [c.path for c in moves(entries, split_outputs(entries)) if c.loud]
    quiet = [c.path for c in moves(entries, split_outputs(entries)) if not c.loud]
    assert quiet == ["usr/share/doc/a"]
