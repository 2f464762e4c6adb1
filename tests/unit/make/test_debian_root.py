"""The root of a Debian source's build, of small .debs."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from buildit.digest import digest_bytes
from buildit.errors import Interrupted
from buildit.make.debian_root import (
    REMAINDER,
    enters_root,
    info_files,
    merged_status,
    root_trees,
    status_paragraph,
)
from buildit.model.plan import DebRef
from buildit.store.cas import Store
from tests.debian_maker import make_deb

pytestmark = pytest.mark.unit

CONTROL = b"Package: libx1\nSource: x\nArchitecture: amd64\nMulti-Arch: same\nVersion: 1\n"


def test_a_paragraph_says_that_it_is_installed() -> None:
    found = status_paragraph(CONTROL, b"/etc/x.conf\nremove-on-upgrade /etc/y\n")
    first, second, *rest = found.decode().splitlines()
    assert (first, second) == ("Package: libx1", "Status: install ok installed")
    assert rest[-3:] == ["Conffiles:", " /etc/x.conf newconffile", ""]
    assert b"Conffiles" not in status_paragraph(CONTROL, b"")


def test_lists_have_the_paths_that_the_package_has() -> None:
    members = {"control": CONTROL, "shlibs": b"libx 1 libx1\n", "postinst": b"#!/bin/sh\n"}
    found = info_files(members, ["lib", "lib/x86_64-linux-gnu/libx.so.1"])
    assert found == {
        "libx1:amd64.shlibs": b"libx 1 libx1\n",
        "libx1:amd64.postinst": b"#!/bin/sh\n",
        "libx1:amd64.list": b"/.\n/lib\n/lib/x86_64-linux-gnu/libx.so.1\n",
    }
    plain = {"control": CONTROL.replace(b"Multi-Arch: same\n", b"")}
    assert list(info_files(plain, [])) == ["libx1.list"]


def test_several_databases_as_one() -> None:
    parts = [b"Package: b\nX: 1\n\nPackage: d\n\n", b"Package: a\n\n", b""]
    assert merged_status(parts) == b"Package: a\n\nPackage: b\nX: 1\n\nPackage: d\n\n"


@pytest.mark.parametrize(
    ("path", "enters"),
    [
        ("usr/share/doc/x/copyright", True),
        ("usr/share/doc/x/examples/deep/a", False),
        ("usr/share/doc/x/changelog.gz", False),
        ("usr/share/man/man1/x.1.gz", False),
        ("usr/share/perl5/x.pm", True),
        ("usr/lib/systemd/system/x.service", True),
        ("etc/init.d/x", True),
        ("etc/dpkg/origins/debian", True),
        ("var/lib/x/y", True),
        ("usr/share/bug/x", True),
    ],
)
def test_what_enters_a_root(path: str, enters: bool) -> None:
    assert enters_root(path) is enters


BASE = {
    "base-files": make_deb(
        "base-files", {"etc/dpkg/origins/debian": "Vendor: Debian\n", "usr/bin/": ""}
    ),
    "base-passwd": make_deb(
        "base-passwd",
        {
            "usr/share/base-passwd/passwd.master": "root:*:0:0:root:/root:/bin/bash\n",
            "usr/share/base-passwd/group.master": "root:*:0:\nadm:*:4:\n",
        },
    ),
    "dash": make_deb("dash", {"bin/dash": "shell"}),
    "gcc": make_deb(
        "gcc",
        {"usr/bin/gcc": "compiler", "usr/share/man/man1/gcc.1.gz": "manual"},
        postinst="#!/bin/sh\nupdate-alternatives --install /usr/bin/cc cc /usr/bin/gcc 20\n"
        "update-alternatives --install /usr/bin/$(seek) $(seek) 1\n",
    ),
    "ed": make_deb(
        "ed",
        {"bin/ed": "editor"},
        postinst="#!/bin/sh\nupdate-alternatives --install /usr/bin/editor editor /bin/ed -100\n"
        "update-xmlcatalog --add --type $(kind) --id X --local /usr/share/xml/ed.xml\n"
        "chown $(whom) /srv\n",
    ),
    "libc6": make_deb(
        "libc6", {"lib/libc.so.6": "library"}, fields="Multi-Arch: same\n", shlibs="libc 6 libc6\n"
    ),
    "perl": make_deb("perl", {}, postinst="#!/usr/bin/perl\nsystem 'update-alternatives';\n"),
    "sgml": make_deb("sgml", {"etc/sgml/b.cat": "", "etc/sgml/a.cat": ""}),
}
MORE = {
    "ca-certificates": make_deb(
        "ca-certificates",
        {
            "usr/share/ca-certificates/mozilla/b.crt": "B",
            "usr/share/ca-certificates/mozilla/a.crt": "A\n",
        },
    ),
    "tcc": make_deb(
        "tcc",
        {"usr/bin/tcc": "another"},
        postinst="#!/bin/sh\nupdate-alternatives --install /usr/bin/cc cc /usr/bin/tcc 30\n",
    ),
    "docbook": make_deb(
        "docbook",
        {"usr/share/xml/catalog.xml": "<catalog/>"},
        postinst="#!/bin/sh\nupdate-xmlcatalog --add --type public --id X "
        "--local /usr/share/xml/catalog.xml",
    ),
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store.open(tmp_path / "store")) as opened:
        yield opened


def put(store: Store, debs: dict[str, bytes]) -> tuple[DebRef, ...]:
    return tuple(
        DebRef(name, "1", "amd64", "s", f"pool/{name}.deb", len(data), store.put_bytes(data))
        for name, data in debs.items()
    )


def roots(store: Store, *chroot: dict[str, bytes]) -> list[Path]:
    debs = [put(store, one) for one in chroot]
    return [store.root / "trees" / name for name in root_trees(store, debs, threading.Event())]


def seen(trees: list[Path], path: str) -> Path:
    """Where an overlay of the trees would have a path."""
    return next(tree / path for tree in trees if os.path.lexists(tree / path))


def test_what_scripts_would_have_done(store: Store) -> None:
    trees = roots(store, BASE, MORE)
    assert os.readlink(seen(trees, "etc/dpkg/origins/default")) == "debian"
    assert os.readlink(seen(trees, "usr/bin/cc")) == "/etc/alternatives/cc"
    assert os.readlink(seen(trees, "etc/alternatives/cc")) == "/usr/bin/tcc"
    assert os.readlink(seen(trees, "etc/alternatives/editor")) == "/bin/ed"
    assert os.readlink(seen(trees, "lib")) == "usr/lib"
    assert os.readlink(seen(trees, "usr/bin/sh")) == "dash"
    assert os.readlink(seen(trees, "var/run")) == "../run"
    assert seen(trees, "etc/group").read_text() == "root:x:0:\nadm:x:4:\nbuild:x:1000:\n"
    assert "build:x:1000:1000:" in seen(trees, "etc/passwd").read_text()
    assert seen(trees, "etc/ssl/certs/ca-certificates.crt").read_text() == "A\nB\n"
    assert os.readlink(seen(trees, "etc/ssl/certs/b.pem")).endswith("/mozilla/b.crt")
    assert seen(trees, "etc/sgml/catalog").read_text() == (
        'CATALOG "/etc/sgml/a.cat"\nCATALOG "/etc/sgml/b.cat"\n'
    )
    assert 'publicIdStartString="X"' in seen(trees, "etc/xml/catalog").read_text()
    assert seen(trees, REMAINDER).read_text() == (
        "ed: postinst:3: update-xmlcatalog --add --type '…' --id X --local "
        "/usr/share/xml/ed.xml (not literal)\n"
        "gcc: postinst:3: update-alternatives --install '/usr/bin/…' '…' 1 (not literal)\n"
        "perl: postinst: #!/usr/bin/perl (no shell script)\n"
    )
    assert not any((tree / "usr/share/man").exists() for tree in trees)


def test_the_database_of_dpkg_has_all_trees(store: Store) -> None:
    trees = roots(store, BASE, MORE)
    text = seen(trees, "var/lib/dpkg/status").read_text()
    names = [line.partition(": ")[2] for line in text.splitlines() if line.startswith("Package:")]
    assert names == sorted((*BASE, *MORE))
    info = "var/lib/dpkg/info"
    assert seen(trees, f"{info}/libc6:amd64.list").read_text() == "/.\n/lib/libc.so.6\n"
    assert seen(trees, f"{info}/libc6:amd64.shlibs").read_text() == "libc 6 libc6\n"
    assert seen(trees, f"{info}/format").read_text() == "1\n"
    assert (trees[-1] / "usr/lib/libc.so.6").read_text() == "library"


def test_sources_share_the_base(store: Store) -> None:
    first, second = roots(store, BASE, MORE), roots(store, BASE, {"tcc": MORE["tcc"]})
    assert first[-1] == second[-1]
    assert len({*first, *second}) == 5
    assert len(roots(store, BASE, {})) == 2, "nothing beyond the base"


def test_many_sources_leave_few_additions_and_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("buildit.make.debian_root.MOST", 2)
    for number in range(5):
        name = f"more{number}"
        with Store.open(tmp_path / "one") as store:
            found = roots(store, BASE, {name: make_deb(name, {f"usr/lib/{name}": ""})})
            assert all(path.is_dir() for path in found)
    left = [path.name for path in (tmp_path / "one/trees").iterdir() if path.is_dir()]
    assert sorted(name.rpartition("-")[0] for name in left) == [
        *("root-base", "root-fix", "root-fix", "root-more", "root-more")
    ]


def test_what_is_made_of_scripts_is_of_the_rules_for_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = roots(store, BASE, MORE)
    monkeypatch.setattr("buildit.make.debian_root.MAINTAINER_RULES", "next")
    after = roots(store, BASE, MORE)
    assert (before[0] != after[0], before[1:]) == (True, after[1:])


def test_the_order_of_debs_is_nothing(store: Store) -> None:
    turned = dict(reversed(BASE.items()))
    assert roots(store, BASE, MORE) == roots(store, turned, MORE)
    assert digest_bytes(BASE["gcc"]) != digest_bytes(MORE["tcc"])


def test_a_stop_while_it_is_filled(store: Store) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        root_trees(store, [put(store, BASE)], stop)
    assert not list((store.root / "trees").glob("root-*"))
