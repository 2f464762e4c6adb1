from __future__ import annotations

import pytest

from buildit.build.needs import MACHINES, Listing, Needs, Target
from buildit.build.providers import Visible, check_provided, providers
from buildit.digest import digest_bytes
from buildit.errors import UnsatisfiableError
from buildit.model.artifact import RUNTIME
from buildit.model.tree import Entry, Kind

pytestmark = pytest.mark.unit

TARGET = Target(MACHINES["amd64"], "x86_64-linux-gnu")
LIBDIR = "usr/lib/x86_64-linux-gnu"


def file(path: str) -> Entry:
    return Entry(path, Kind.FILE, 0o755, digest=digest_bytes(b""))


def visible(name: str, *paths: str) -> Visible:
    return Visible(name, Listing(map(file, paths)))


def nobody(_path: str) -> str | None:
    return None


def toolchain(path: str) -> str | None:
    debs = {"usr/bin/dash": "dash:runtime", f"{LIBDIR}/libc.so.6": "libc6:runtime"}
    return debs.get(path)


def test_siblings_come_before_dependencies_before_the_toolchain() -> None:
    needs = Needs(
        {
            "soname:libown.so.1": ("usr/bin/x",),
            "soname:libz.so.1": ("usr/bin/x",),
            "soname:libc.so.6": ("usr/bin/x",),
            "path:/bin/dash": ("usr/bin/y",),
        }
    )
    siblings = {"locale": [file(f"{LIBDIR}/libown.so.1")]}
    near = visible("near:runtime", f"{LIBDIR}/libz.so.1", f"{LIBDIR}/libown.so.1")
    far = visible("far:runtime", f"{LIBDIR}/libz.so.1")
    assert providers(needs, siblings, [near, far], toolchain, TARGET) == {
        "soname:libown.so.1": ":locale",
        "soname:libz.so.1": "near:runtime",
        "soname:libc.so.6": "libc6:runtime",
        "path:/bin/dash": "dash:runtime",
    }
    swapped = providers(needs, siblings, [far, near], toolchain, TARGET)
    assert swapped["soname:libz.so.1"] == "far:runtime"


def test_a_private_directory_counts_for_the_need_that_names_it() -> None:
    needs = Needs(
        {"soname:libp.so": ("usr/bin/x",), "soname:libq.so": ("usr/bin/x",)},
        {"soname:libp.so": ("usr/lib/private",)},
    )
    seen = [visible("p:runtime", "usr/lib/private/libp.so", "usr/lib/private/libq.so")]
    assert providers(needs, {}, seen, nobody, TARGET) == {"soname:libp.so": "p:runtime"}


def test_headers_are_taken_only_where_no_runtime_output_will_do() -> None:
    needs = Needs({"path:/usr/share/x": ("etc/x",), "path:/usr/include/x.h": ("etc/y",)})
    headers = visible("a:dev", "usr/share/x", "usr/include/x.h")
    both = [headers, visible("b:dev", "usr/share/x"), visible("b:runtime", "usr/share/x")]
    assert providers(needs, {}, both, nobody, TARGET) == {
        "path:/usr/share/x": "b:runtime",
        "path:/usr/include/x.h": "a:dev",
    }


def test_what_nobody_has_is_left_out() -> None:
    assert providers(Needs({"soname:libz.so.1": ("a",)}), {}, [], nobody, TARGET) == {}


NEEDS = Needs(
    {
        "interp:/lib64/ld.so": ("usr/bin/x",),
        "path:/usr/bin/perl": ("usr/bin/y", "usr/share/z"),
        "soname:libz.so.1": ("usr/bin/x",),
    }
)


def test_a_missing_provider_names_file_and_soname() -> None:
    with pytest.raises(UnsatisfiableError) as caught:
        check_provided(NEEDS, {}, RUNTIME, "x/app-1", lambda _path: False)
    error = caught.value
    assert error.message == (
        "nothing that the build saw provides the loader /lib64/ld.so, which /usr/bin/x needs"
    )
    assert error.place == "x/app-1"
    assert error.hint
    assert error.details == (
        "/usr/bin/x: the loader /lib64/ld.so",
        "/usr/bin/y: /usr/bin/perl",
        "/usr/bin/x: the library libz.so.1",
    )


def test_only_the_runtime_output_must_be_complete() -> None:
    check_provided(NEEDS, {}, "dev", "x/app-1", lambda _path: False)
    check_provided(NEEDS, dict.fromkeys(NEEDS.wanted, "k:runtime"), RUNTIME, "x", lambda _p: False)


def test_a_need_is_accepted_where_all_its_files_are() -> None:
    found = {"interp:/lib64/ld.so": "a:runtime", "soname:libz.so.1": "b:runtime"}
    check_provided(NEEDS, found, RUNTIME, "x", lambda path: path in ("usr/bin/y", "usr/share/z"))
    with pytest.raises(UnsatisfiableError, match="/usr/bin/perl, which /usr/bin/y needs"):
        check_provided(NEEDS, found, RUNTIME, "x", lambda path: path == "usr/share/z")
