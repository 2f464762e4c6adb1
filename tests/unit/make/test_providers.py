from __future__ import annotations

from dataclasses import replace

import pytest

from buildit.digest import digest_bytes
from buildit.errors import UnsatisfiableError
from buildit.make.capture.checks import refuse_unprovided
from buildit.make.capture.needs import Needs, Sight, Visible, dependencies_sight, providers
from buildit.model.artifact import RUNTIME
from buildit.model.plan import Waiver
from buildit.model.platform import PLATFORMS
from buildit.model.tree import Entry, Kind

pytestmark = pytest.mark.unit

TARGET = PLATFORMS["linux/amd64"]
LIBDIR = "usr/lib/x86_64-linux-gnu"


def file(path: str) -> Entry:
    return Entry(path, Kind.FILE, 0o755, digest=digest_bytes(b""))


def link(path: str, target: str) -> Entry:
    return Entry(path, Kind.SYMLINK, 0o777, target=target)


def visible(name: str, *paths: str | Entry) -> Visible:
    return Visible(name, [file(path) if isinstance(path, str) else path for path in paths])


TOOLCHAIN = (
    visible("dash:runtime", "usr/bin/dash", link("usr/bin/sh", "dash")),
    visible("libc6:runtime", f"{LIBDIR}/libc.so.6"),
)


def met(
    needs: Needs | str, *seen: Visible, own: tuple[Entry, ...] = (), **others: list[Entry]
) -> dict[str, str]:
    """The providers of what a runtime output needs that has `own` files, beside `others`."""
    if isinstance(needs, str):
        needs = Needs({needs: ("usr/bin/x",)})
    outputs = {RUNTIME: own, **others}
    return providers(needs, RUNTIME, outputs, dependencies_sight(seen, Sight.of(TOOLCHAIN)), TARGET)


def test_siblings_come_before_dependencies_before_the_toolchain() -> None:
    needs = Needs(
        {
            "soname:libown.so.1": ("usr/bin/x",),
            "soname:libz.so.1": ("usr/bin/x",),
            "soname:libc.so.6": ("usr/bin/x",),
            "path:/bin/dash": ("usr/bin/y",),
        }
    )
    locale = [file(f"{LIBDIR}/libown.so.1")]
    near = visible("near:runtime", f"{LIBDIR}/libz.so.1", f"{LIBDIR}/libown.so.1")
    far = visible("far:runtime", f"{LIBDIR}/libz.so.1")
    assert met(needs, near, far, locale=locale) == {
        "soname:libown.so.1": ":locale",
        "soname:libz.so.1": "near:runtime",
        "soname:libc.so.6": "libc6:runtime",
        "path:/bin/dash": "dash:runtime",
    }
    assert met(needs, far, near, locale=locale)["soname:libz.so.1"] == "far:runtime"


def test_a_private_directory_counts_for_the_need_that_names_it() -> None:
    needs = Needs(
        {"soname:libp.so": ("usr/bin/x",), "soname:libq.so": ("usr/bin/x",)},
        {"soname:libp.so": ("usr/lib/private",)},
    )
    seen = visible("p:runtime", "usr/lib/private/libp.so", "usr/lib/private/libq.so")
    assert met(needs, seen) == {"soname:libp.so": "p:runtime"}


def test_headers_are_taken_only_where_no_runtime_output_will_do() -> None:
    needs = Needs({"path:/usr/share/x": ("etc/x",), "path:/usr/include/x.h": ("etc/y",)})
    headers = visible("a:dev", "usr/share/x", "usr/include/x.h")
    seen = (headers, visible("b:dev", "usr/share/x"), visible("b:runtime", "usr/share/x"))
    assert met(needs, *seen) == {"path:/usr/share/x": "b:runtime", "path:/usr/include/x.h": "a:dev"}


def test_what_nobody_has_is_left_out() -> None:
    assert met("soname:libz.so.1") == {}


def test_a_link_leads_from_package_to_package() -> None:
    """As python3 -> python3.11, which is another .deb's: both are needed."""
    link_of = visible("python3-minimal:runtime", link("usr/bin/python3", "python3.11"))
    program = visible("python3.11-minimal:runtime", "usr/bin/python3.11")
    for need in ("path:/usr/bin/python3", "path:/bin/python3"):
        assert set(met(need, link_of, program).values()) == {
            "python3-minimal:runtime",
            "python3.11-minimal:runtime",
        }
    assert met("path:/usr/bin/python3", link_of, program) == {
        "path:/usr/bin/python3": "python3-minimal:runtime",
        "path:/usr/bin/python3.11": "python3.11-minimal:runtime",
    }


def test_a_link_that_ends_nowhere_provides_nothing() -> None:
    assert met("path:/usr/bin/python3", visible("a:runtime", link("usr/bin/python3", "x"))) == {}
    loop = (link("usr/bin/a", "b"), link("usr/bin/b", "a"))
    assert met("path:/usr/bin/a", visible("a:runtime", *loop)) == {}


def test_a_directory_that_is_a_link_is_needed_too() -> None:
    directory = visible("a:runtime", link("usr/lib/data", "../share/data"))
    content = visible("b:runtime", "usr/share/data/x")
    assert met("path:/usr/lib/data/x", directory, content) == {
        "path:/usr/lib/data": "a:runtime",
        "path:/usr/lib/data/x": "b:runtime",
    }


def test_ones_own_link_is_passed_without_a_provider() -> None:
    own = (link("usr/lib/data", "../share/data"),)
    content = visible("b:runtime", "usr/share/data/x")
    assert met("path:/usr/lib/data/x", content, own=own) == {"path:/usr/lib/data/x": "b:runtime"}
    back = visible("c:runtime", link("usr/share/far", "../lib/own"))
    own = (file("usr/lib/own/x"),)
    assert met("path:/usr/share/far/x", back, own=own) == {"path:/usr/share/far/x": "c:runtime"}


def test_what_the_kernel_makes_ends_a_way() -> None:
    mtab = visible("base:runtime", link("etc/mtab", "../proc/self/mounts"))
    assert met("path:/etc/mtab", mtab) == {"path:/etc/mtab": "base:runtime"}


def test_a_library_may_be_a_link_into_another_package() -> None:
    one = visible("a:runtime", link(f"{LIBDIR}/libx.so.1", "deep/libx.so.1"))
    other = visible("b:runtime", f"{LIBDIR}/deep/libx.so.1")
    assert met("soname:libx.so.1", one, other) == {
        "soname:libx.so.1": "b:runtime",
        f"path:/{LIBDIR}/libx.so.1": "a:runtime",
    }


def test_the_shell_is_a_link_of_the_toolchain() -> None:
    assert met("path:/bin/sh") == {"path:/bin/sh": "dash:runtime"}


NEEDS = Needs(
    {
        "interp:/lib64/ld.so": ("usr/bin/x",),
        "path:/usr/bin/perl": ("usr/bin/y", "usr/share/z"),
        "soname:libz.so.1": ("usr/bin/x",),
    }
)


def test_a_missing_provider_names_file_and_soname() -> None:
    with pytest.raises(UnsatisfiableError) as caught:
        refuse_unprovided(NEEDS, {}, (), "x/app-1")
    error = caught.value
    assert error.message == (
        "nothing that the build saw provides the loader /lib64/ld.so, which /usr/bin/x needs"
    )
    assert error.place == "x/app-1"
    assert error.hint is not None
    assert "depends.build" in error.hint
    waiver = "{check: missing-provider, path: usr/bin/x, reason: ...}"
    assert f"waivers: [{waiver}]" in error.hint
    assert error.details == (
        "/usr/bin/x: the loader /lib64/ld.so",
        "/usr/bin/y: /usr/bin/perl",
        "/usr/bin/x: the library libz.so.1",
    )


def test_what_is_met_needs_no_waiver() -> None:
    refuse_unprovided(NEEDS, dict.fromkeys(NEEDS.wanted, "k:runtime"), (), "x")


def test_what_is_hidden_provides_nothing_and_hides_nothing() -> None:
    """As the .debs that were chosen together, each of which looks at the others."""
    seen = (visible("a:runtime", "usr/bin/tool"), visible("b:runtime", "usr/bin/tool"))
    sight = Sight.of(seen, Sight.of(TOOLCHAIN))
    for hidden, owner in (("", "a:runtime"), ("a:", "b:runtime"), ("b:", "a:runtime")):
        found = replace(sight, hidden=hidden).at("usr/bin/tool")
        assert found is not None
        assert found[1] == owner
    assert replace(sight, hidden="dash:").at("usr/bin/dash") is not None  # of the one above only


def waivers(*paths: str, check: str = "missing-provider") -> tuple[Waiver, ...]:
    return tuple(Waiver(check, path, "met by a volume") for path in paths)


def test_a_need_is_accepted_where_all_its_files_are() -> None:
    found = {"interp:/lib64/ld.so": "a:runtime", "soname:libz.so.1": "b:runtime"}
    refuse_unprovided(NEEDS, found, waivers("usr/bin/y", "usr/share/*"), "x")
    for given in (waivers("usr/share/z"), waivers("**", check="place")):
        with pytest.raises(UnsatisfiableError, match="/usr/bin/perl, which /usr/bin/y needs"):
            refuse_unprovided(NEEDS, found, given, "x")
