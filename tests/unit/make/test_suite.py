"""The layer of a Debian root, of small .debs; and those that apt finds in a step."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.archive.contents import parse_contents
from buildit.debian.apt import paragraphs
from buildit.digest import digest_bytes
from buildit.errors import IntegrityError
from buildit.make.apt_source import write_source
from buildit.make.makers import make_task
from buildit.make.suite import SUITE_OUTPUT, configure_step, suite_image, suite_task
from buildit.model.plan import DebRef, Task
from buildit.model.tree import Entry
from buildit.store.cas import Store
from tests.debian_maker import make_deb
from tests.making import place

pytestmark = pytest.mark.unit

FILES = make_deb("base-files", {"etc/": "", "lib/": "", "lib/x.so": "x", "var/local/": ""})
TOOL = make_deb(
    "tool",
    {"etc/": "", "etc/tool.conf": "one\n", "bin/tool": "run", "bin/also": "->tool"},
    conffiles="/etc/tool.conf\n",
    postinst="#!/bin/sh\n",
    md5sums="",
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "store").mkdir()
    with Store.open(tmp_path / "store") as opened:
        yield opened


def kept(store: Store, *debs: bytes) -> tuple[DebRef, ...]:
    found = []
    for number, deb in enumerate(debs):
        digest = store.put_bytes(deb)
        path = f"pool/main/{number}_1%3a1_amd64.deb"
        found.append(DebRef(f"d{number}", "1", "amd64", "bookworm", path, len(deb), digest))
    return tuple(found)


def task_of(debs: tuple[DebRef, ...]) -> Task:
    return suite_task(suite_image("debian-12", debs, "linux/amd64", "container.yaml:2:3"), debs)


def layer(store: Store, task: Task) -> tuple[dict[str, Entry], int]:
    artifact = make_task(task, {}, place(store, store.root))
    entries = parse_contents(store.read(artifact.outputs[SUITE_OUTPUT].contents))
    assert len(artifact.materials) == len(task.inputs.debs) + 1
    return {one.path: one for one in entries}, artifact.epoch


def test_a_root_is_unpacked_with_the_database_of_dpkg(store: Store) -> None:
    entries, epoch = layer(store, task_of(kept(store, FILES, TOOL)))
    assert epoch == 1_600_000_000
    assert entries["lib"].target == "usr/lib"
    assert entries["bin"].target == "usr/bin"
    assert "sbin" not in entries
    assert entries["usr/bin/tool"].mode == 0o755
    assert entries["usr/bin/also"].target == "tool"
    info = "var/lib/dpkg/info"
    assert stat.filemode(entries[f"{info}/tool.postinst"].mode) == "?rwxr-xr-x"
    assert stat.filemode(entries[f"{info}/tool.list"].mode) == "?rw-r--r--"
    assert entries[f"{info}/format"].size == 2
    assert all(
        one.mtime == epoch for one in entries.values() if one.path.startswith("var/lib/dpkg")
    )


def test_conffiles_have_the_digests_that_dpkg_has(store: Store) -> None:
    task = task_of(kept(store, FILES, TOOL))
    entries, _ = layer(store, task)
    text = (
        "Package: base-files\nStatus: install ok unpacked\nVersion: 1\nArchitecture: amd64\n\n"
        "Package: tool\nStatus: install ok unpacked\nVersion: 1\nArchitecture: amd64\n"
        "Conffiles:\n /etc/tool.conf 5bbf5a52328e7439ae6e719dfe712200\n\n"
    )
    assert entries["var/lib/dpkg/status"].digest == digest_bytes(text.encode())


def test_the_order_of_debs_says_nothing_and_other_debs_are_refused(store: Store) -> None:
    debs = kept(store, FILES, TOOL)
    task = task_of(debs)
    assert task_of(debs[::-1]).key == task.key
    assert layer(store, task) == layer(store, task_of(debs[::-1]))
    other = replace(task, inputs=replace(task.inputs, debs=debs[:1]))
    with pytest.raises(IntegrityError, match="not those of its record"):
        make_task(other, {}, place(store, store.root))


def test_two_debs_with_one_file_are_refused(store: Store) -> None:
    other = make_deb("other", {"bin/tool": "another"})
    with pytest.raises(IntegrityError, match="usr/bin/tool"):
        layer(store, task_of(kept(store, TOOL, other)))


def test_what_configures_it_is_a_step_at_the_place_of_the_base(store: Store) -> None:
    image = task_of(kept(store, TOOL)).inputs.image
    assert image is not None
    assert configure_step(image).place == "container.yaml:2:3"


def test_apt_finds_each_deb_by_its_paragraph(store: Store, tmp_path: Path) -> None:
    debs = kept(store, FILES, TOOL)
    mounted = write_source(tmp_path / "apt", debs, store)
    listed = (tmp_path / "apt/debs/Packages").read_text()
    found = [fields for _, fields in paragraphs(listed, "Packages")]
    assert [one["package"] for one in found] == ["base-files", "tool"]
    for one, deb in zip(found, debs, strict=True):
        content = (tmp_path / "apt/debs" / one["filename"]).read_bytes()
        assert (one["sha256"], one["size"]) == (digest_bytes(content), str(deb.size))
    (index,) = (one for one in (tmp_path / "apt/lists").iterdir() if one.is_file())
    assert index.name == "_run_buildit_debs_._Packages"
    assert index.read_text() == listed
    assert [(one.dest, one.read_only) for one in mounted] == [
        ("/run/buildit", False),
        ("/run/buildit/debs", True),
    ]
