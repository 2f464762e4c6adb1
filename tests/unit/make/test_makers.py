"""One row of the table and one module: a kind from outside goes every way that a package goes."""

from __future__ import annotations

import json
import tarfile
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from buildit.codec import decode, encode
from buildit.commands.assemble import image, stack
from buildit.commands.fetching import InputFetcher
from buildit.commands.realise import Tasks, lay, obtain_all, place_of
from buildit.commands.run import opened_run
from buildit.commands.statement import image_statement, keep_image, kept_statement
from buildit.digest import BuildKey, Digest
from buildit.errors import IntegrityError
from buildit.events import Building, Built, Event, Missing, Planned, Reused, silent
from buildit.image.formats.table import emit_all
from buildit.make.layer import layer_task, read_layer
from buildit.make.makers import MAKERS, TaskKind
from buildit.model.artifact import Artifact
from buildit.model.config import Config, Limits
from buildit.model.image import Emission
from buildit.model.plan import (
    About,
    ContainerPlan,
    ImageStep,
    Inputs,
    PackageStep,
    PatchAbout,
    Task,
    Toolchain,
)
from buildit.model.sources import SourceRef
from buildit.model.tree import Entry
from buildit.model.tree import Kind as EntryKind
from buildit.remote.binhost.remotes import Remotes
from buildit.store.artifacts import lookup
from buildit.store.cas import Store
from buildit.store.names import named
from buildit.trust.policy import Policy
from tests.hosts import FileBinhost
from tests.unit.make.toy_kind import toy_task

pytestmark = pytest.mark.unit

TEXTS = {"first": "one\n", "second": "two\n", "third": "nobody takes it\n"}


def plan_of(task: Task, project: Path, *outputs: str) -> ContainerPlan:
    toolchain = Toolchain("toolchain/none", "linux/amd64", Digest("0" * 64), ())
    return ContainerPlan(
        directory=str(project),
        author="me",
        name="box",
        version="1",
        os="linux",
        arch="amd64",
        toolchain=toolchain,
        tasks=(task,),
        steps=(PackageStep(task.key, "toys/two", outputs),),
        images=(ImageStep("oci", "", "none", "c:1:1"),),
        app=None,
    )


def obtained(plan: ContainerPlan, store: Store, said: list[Event]) -> dict[BuildKey, Artifact]:
    done: dict[BuildKey, Artifact] = {}
    place = place_of(plan, store, Limits(), said.append, threading.Event())
    with opened_run(Config(store.root, 1), store, said.append, offline=True) as run:
        fetching = partial(InputFetcher, store, run.downloads)
        obtain_all(Tasks(plan), plan, place, run.remotes, fetching, 1, done)
    return done


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setitem(MAKERS, "toy", TaskKind("tests.unit.make.toy_kind"))
    return toy_task(TEXTS)


def test_a_kind_from_outside_is_made_stored_pushed_pulled_and_laid_into_an_image(
    toy: Task, tmp_path: Path
) -> None:
    plan = decode(ContainerPlan, encode(plan_of(toy, tmp_path, "first")))
    assert plan.roots == ((toy.key, "first"),)
    said: list[Event] = []
    binhost = FileBinhost(tmp_path / "binhost", lambda *_: None, unsigned=True)
    with Store.open(tmp_path / "here") as here:
        made = obtained(plan, here, said)[toy.key]
        assert [type(one) for one in said] == [Missing, Planned, Building, Built]
        assert made.outputs.keys() == TEXTS.keys()
        assert made.outputs["first"].run == (":second",)
        assert lookup(here, toy.key) == made
        assert obtained(plan, here, said)[toy.key] == made
        assert isinstance(said[-1], Reused)
        binhost.push(toy.key, here)
    with Store.open(tmp_path / "there") as there:
        assert binhost.pull(toy.key, there) == made
        assert lookup(there, toy.key) == made
        laid = stack(plan, there, Tasks(plan).named, lambda task: {toy.key: made}[task.key])
        assert [layer.title for layer in laid.layers] == [
            "toys/two-1 (second)",  # what is needed lies below, though no step names it
            "toys/two-1 (first)",
        ]
        one = image(plan, plan.images[0], tuple(laid.layers), laid.epoch)
        [emitted] = emit_all([one], there.path, tmp_path / "out", laid.rootfs())
    assert files_of(emitted.path) == {"opt/first": b"one\n", "opt/second": b"two\n"}


def files_of(layout: Path) -> dict[str, bytes]:
    """The files of an OCI layout, read by the standard library alone."""

    def blob(descriptor: dict[str, str]) -> Path:
        return layout / "blobs" / descriptor["digest"].replace(":", "/")

    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]).read_text())
    found: dict[str, bytes] = {}
    for layer in manifest["layers"]:
        with tarfile.open(blob(layer)) as tar:
            for member in tar:
                if member.isfile():
                    stream = tar.extractfile(member)
                    assert stream is not None
                    found[member.name.removeprefix("./")] = stream.read()
    return found


def test_a_kind_that_no_row_has_is_an_error(toy: Task, tmp_path: Path) -> None:
    del MAKERS["toy"]
    with Store.open(tmp_path / "store") as store, pytest.raises(KeyError, match="toy"):
        obtained(plan_of(toy, tmp_path, "first"), store, [])


# -- layers of steps


def nobody(store: Store) -> Remotes:
    """No binhost at all."""
    return Remotes((), Policy(Config(store.root, 1).trust, store, silent), store, silent)


def entries() -> tuple[Entry, ...]:
    return (Entry("srv", EntryKind.DIRECTORY, 0o750, 7, 1, 2),)


def test_a_layer_of_a_step_is_found_by_its_key(tmp_path: Path) -> None:
    task = layer_task("directories", entries())
    with Store.open(tmp_path / "store") as store:
        plan = plan_of(task, tmp_path)
        remotes = nobody(store)
        place = place_of(plan, store, Limits(), silent, threading.Event())
        made = lay(task, place, remotes)
        assert lookup(store, task.key) == made
        [blob] = (store.path(one.diff_id) for one in made.outputs.values())
        before = blob.stat()
        assert lay(task, place, remotes) == made
        assert (blob.stat().st_ino, blob.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_layer_of_a_step_is_no_package_of_that_name(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        for kind in ("sync", "accounts", "directories", "links"):
            task = layer_task(kind, entries())
            place = place_of(plan_of(task, tmp_path), store, Limits(), silent, threading.Event())
            lay(task, place, nobody(store))
            assert lookup(store, task.key) is not None
        assert named(store) == ()


def test_the_record_of_a_layer_says_all_of_it_and_nothing_of_the_machine() -> None:
    made = Entry("etc/passwd", EntryKind.FILE, 0o644, 7, 0, 0, 2, "", Digest("1" * 64))
    task = layer_task("accounts", (*entries(), made), {"etc/passwd": b"x\n"})
    assert read_layer(task.record) == ((made, *entries()), {"etc/passwd": b"x\n"})
    elsewhere = layer_task("sync", (made,), sources={"etc/passwd": "files/passwd"})
    other_place = layer_task("sync", (made,), sources={"etc/passwd": "elsewhere/passwd"})
    assert elsewhere.key == other_place.key
    assert "files" not in elsewhere.record


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"scheme": "0", "rules": {"layer": "1"}}'])
def test_what_is_no_record_of_a_layer_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match="not the record of a layer") as caught:
        read_layer(text)
    assert caught.value.hint


def test_the_statement_of_an_image_says_what_todays_recipes_say(
    toy: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDIT_STORE", str(tmp_path / "cache"))
    patch = PatchAbout("fix.patch", "Mends it", ("CVE-2023-44487",), "pending")
    about = About(homepage="https://example.org", license="MIT", patches=(patch,))
    source = SourceRef("two.tgz", Digest("2" * 64), ("https://example.org/two.tgz",))
    task = replace(toy, about=about, inputs=Inputs(sources=(source,)))
    assert task.key == toy.key, "it is in no key"
    path = tmp_path / "box.aci"
    path.write_bytes(b"image")
    emission = Emission(path, "aci", Digest("3" * 64), "sha512-3")
    members = {(task.key, "first"): task}
    statement = image_statement(plan_of(task, tmp_path, "first"), members, emission)
    keep_image(emission, "1" * 64, statement)
    found = json.loads(json.dumps(kept_statement(path)))
    assert found["image"] == {"format": "aci", "digest": "3" * 64}
    [one] = found["packages"]
    assert (one["license"], one["homepage"], one["output"]) == (
        "MIT",
        "https://example.org",
        "first",
    )
    assert one["patches"] == [
        {
            "name": "fix.patch",
            "description": "Mends it",
            "fixes": ["CVE-2023-44487"],
            "upstream": "pending",
        }
    ]
    assert one["sources"] == [
        {"name": "two.tgz", "sha256": "2" * 64, "places": ["https://example.org/two.tgz"]}
    ]
    path.write_bytes(b"another")
    assert kept_statement(path) is None
