"""Plans that were kept, and when they must be made anew; a real checkout and store."""

from __future__ import annotations

import io
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.archive.contents import contents_blob
from buildit.archive.tar.write import write_tar
from buildit.commands.building import build
from buildit.commands.rules import RULES
from buildit.commands.run import Options, Prepared, lock, prepare
from buildit.commands.sync import EPOCH
from buildit.digest import BuildKey
from buildit.errors import RecipeError, UnsatisfiableError
from buildit.events import Building, Event, Notice, Packaging, Reporter, silent
from buildit.image.verify import read_oci
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.model.plan import Task
from buildit.plan.closure import deb_task
from buildit.store.artifacts import commit
from buildit.store.cas import Store
from buildit.store.upkeep import collect, roots
from tests.planning import Checkout, checkout

pytestmark = pytest.mark.unit

PATCH = """\
--- a/x.c
+++ b/x.c
@@ -1 +1 @@
-a
+b
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Checkout]:
    before = {name: os.environ.get(name) for name in ("BUILDIT_STORE", "HOME")}
    os.environ["BUILDIT_STORE"] = str(tmp_path / "store")
    os.environ["HOME"] = str(tmp_path)
    made = checkout(tmp_path)
    made.write(".buildit-config.yaml", "trees: [./pkgs]\nrepositories: []\n")
    made.write(
        "container/container.yaml",
        "- vars: {name: web, version: 1.0}\n- package: {atom: x/app}\n- image: {type: oci}\n",
    )
    made.write("pkgs/x/app/pkg.yaml", "versions: {1.0: {}}\npatches: {one.patch: First}\n")
    made.write("pkgs/x/app/one.patch", PATCH)
    long_ago = 1_600_000_000
    for path in (*tmp_path.rglob("*"), tmp_path):
        os.utime(path, (long_ago, long_ago))
    yield made
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def plan(project: Checkout) -> Prepared:
    return prepare(options(project), silent)


def options(project: Checkout) -> Options:
    return Options(project.container, project.root / "out", offline=True)


def built(project: Checkout, report: Reporter = silent) -> None:
    build(options(project), report, threading.Event())


def at_hand(project: Checkout, *further: Task, loads: BuildKey | None = None) -> None:
    """What the container needs and `further` ones, in the store as if they had been built.

    `loads` is the package whose libc.so.6 those of the container load.
    """
    nodes = plan(project).plan.tasks
    soname = "soname:libc.so.6"
    with Store.open(project.root / "store") as store:
        made = io.BytesIO()
        write_tar((), lambda _: io.BytesIO(), made)
        output = Output(
            store.put_bytes(made.getvalue()),
            len(made.getvalue()),
            store.put_bytes(contents_blob(())),
        )
        loading = replace(output, needs=(soname,), providers={soname: f"{loads}:{RUNTIME}"})
        for node in (*further, *nodes):
            record = store.put_bytes(node.record.encode())
            outputs = {RUNTIME: output if loads is None or node in further else loading}
            commit(store, Artifact(node.key, node.name, node.version, "", outputs, record))


def kept(project: Checkout) -> Prepared:
    """The plan of a container that was built, whose files had time to settle."""
    at_hand(project)
    for _ in range(100):
        built(project)
        prepared = plan(project)
        if not prepared.fresh:
            return prepared
    pytest.fail("the plan was not kept")


def test_a_kept_plan_is_the_plan(project: Checkout) -> None:
    first = plan(project)
    assert first.fresh
    assert kept(project).plan == first.plan


def test_a_plan_is_kept_only_once_it_was_built(project: Checkout) -> None:
    """Else the run that builds it at last would note neither outputs nor what to keep."""
    time.sleep(0.1)
    lock(plan(project), silent)
    assert plan(project).fresh
    at_hand(project)
    built(project)
    with Store.open(project.root / "store") as store:
        [root] = roots(store)
    assert root.anchor == project.container / "buildit.lock"
    assert {node.key for node in plan(project).plan.tasks} < root.names
    assert "\noutput x/app runtime " in root.anchor.read_text()


def test_a_checkout_that_cannot_be_written_is_built(project: Checkout) -> None:
    at_hand(project)
    lock(plan(project), silent)
    file = project.container / "buildit.lock"
    said: list[str] = []

    def report(event: Event) -> None:
        if isinstance(event, Packaging):
            file.unlink()
            file.mkdir()
        if isinstance(event, Notice):
            said.append(event.message)

    built(project, report)
    assert (project.root / "out").is_dir()
    [line] = [line for line in said if "lock" in line]
    assert line.startswith("the digests of the outputs are not noted: the lock cannot be written")


@pytest.mark.parametrize("way", ["collected", "set aside"])
def test_a_kept_plan_whose_inputs_the_store_lost_is_made_anew(project: Checkout, way: str) -> None:
    before = kept(project).plan
    [blob] = before.tasks[-1].inputs.blobs
    with Store.open(project.root / "store") as store:
        if way == "collected":
            store.path(blob).unlink()
        else:
            store.set_aside(blob)
        again = plan(project)
        assert again.fresh
        assert again.plan == before
        assert store.has(blob), "the patch is back"


def test_distfiles_that_come_later_are_asked_too(project: Checkout) -> None:
    before = kept(project).settings
    assert before.distfiles == (str(project.container / "distfiles"),)


def test_what_a_sync_lacks_is_said_before_anything_is_built(project: Checkout) -> None:
    project.write(
        "container/container.yaml",
        "- vars: {name: web, version: 1.0}\n- package: {atom: x/app}\n"
        "- sync: {src: ./files/app.conf, dest: /etc/app.conf}\n",
    )
    with pytest.raises(RecipeError, match=r"'\./files/app\.conf' cannot be synced") as caught:
        built(project)
    assert str(caught.value.place).endswith("container.yaml:3:3")


def test_debs_that_an_image_loads_are_no_garbage(project: Checkout) -> None:
    toolchain = plan(project).plan.toolchain
    debs = [deb_task(one, toolchain, (), RULES) for one in toolchain.debs]
    [libc] = [one.key for one in debs if one.name == "debian:libc6"]
    at_hand(project, *debs, *plan(project).plan.views, loads=libc)
    built(project)
    with Store.open(project.root / "store") as store:
        gone = collect(store).keys
    # the image has libc6 without some of its slices
    assert set(gone) == {one.key for one in debs if one.name in ("debian:gcc", "debian:libc6")}
    built(project, lambda event: pytest.fail("built anew") if isinstance(event, Building) else None)


def test_flags_of_one_run_leave_the_lock_as_it_is(project: Checkout) -> None:
    project.write(
        "pkgs/x/app/pkg.yaml",
        "versions: {1.0: {}}\nuse: {ssl: {default: off, description: d}}\n"
        "configure: [{when: ssl, then: --with-ssl}]\n",
    )
    lock(plan(project), silent)
    path = project.container / "buildit.lock"
    before = path.read_text()
    told: list[Event] = []
    tried = replace(options(project), use=("ssl",))
    lock(prepare(tried, silent), told.append)
    assert path.read_text() == before
    assert [event.message for event in told if isinstance(event, Notice)] == [
        "buildit.lock stays as it is: --use holds for this run"
    ]
    with pytest.raises(UnsatisfiableError, match="the lock would change"):
        lock(prepare(replace(tried, locked=True), silent), silent)


# -- times of synced files


@pytest.fixture
def pages(project: Checkout) -> Checkout:
    """A container of two pages, built once; nothing of it changes by itself any more."""
    project.write(
        "container/container.yaml",
        "- vars: {name: web, version: 1.0}\n- sync: {src: www, dest: /srv, recursive: true}\n"
        "- image: {type: oci}\n",
    )
    project.write("container/www/a.html", "one")
    project.write("container/www/b.html", "same")
    long_ago = 1_600_000_000
    for path in (*project.root.rglob("*"), project.root):
        os.utime(path, (long_ago, long_ago))
    return project


def dates(project: Checkout) -> dict[str, str]:
    """The time of each synced file by its name, as the lock has it."""
    lines = (project.container / "buildit.lock").read_text().splitlines()
    return {words[1]: words[3] for words in map(str.split, lines) if words[0] == "synced"}


def image_of(project: Checkout) -> dict[str, int]:
    [layout] = (project.root / "out").glob("*.oci")
    return {entry.path: entry.mtime for entry in read_oci(layout).entries or ()}


def test_the_lock_dates_synced_files(pages: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that changed has another Last-Modified, another one keeps its own."""
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.7)
    built(pages)
    assert dates(pages) == dict.fromkeys(("srv/a.html", "srv/b.html"), "2023-11-14T22:13:20Z")
    first = image_of(pages)
    assert (first["srv/a.html"], first["srv/b.html"], first["srv"]) == (
        1_700_000_000,
        1_700_000_000,
        EPOCH,
    )
    monkeypatch.setattr("time.time", lambda: 1_800_000_000)
    built(pages)
    assert image_of(pages) == first
    pages.write("container/www/a.html", "two")
    built(pages)
    changed = image_of(pages)
    assert changed["srv/a.html"] == 1_800_000_000
    assert changed["srv/b.html"] == 1_700_000_000
    assert changed[""] == 1_800_000_000  # the image is as new as its newest file
    pages.write("container/www/a.html", "three")  # within the same second
    built(pages)
    assert image_of(pages)["srv/a.html"] == 1_800_000_001
    (pages.container / "www/b.html").unlink()
    built(pages)
    assert list(dates(pages)) == ["srv/a.html"]


def test_the_same_lock_gives_the_same_bytes(
    pages: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1_700_000_000)
    built(pages)
    [layout] = (pages.root / "out").glob("*.oci")
    index = (layout / "index.json").read_bytes()
    monkeypatch.setattr("time.time", lambda: 1_900_000_000)
    shutil.rmtree(pages.root / "out")
    build(replace(options(pages), locked=True), silent, threading.Event())
    assert (layout / "index.json").read_bytes() == index


def test_a_locked_build_refuses_a_page_that_changed(pages: Checkout) -> None:
    built(pages)
    pages.write("container/www/a.html", "two")
    pages.write("container/www/c.html", "new")
    (pages.container / "www/b.html").unlink()
    with pytest.raises(UnsatisfiableError, match="the lock would change") as caught:
        build(replace(options(pages), locked=True), silent, threading.Event())
    assert caught.value.details == (
        "synced srv/a.html: changed, dated now",
        "synced srv/c.html: new, dated now",
        "synced srv/b.html: no longer there",
    )


def test_a_lock_without_times_is_read(pages: Checkout) -> None:
    built(pages)
    file = pages.container / "buildit.lock"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith("synced ")))
    with pytest.raises(UnsatisfiableError) as caught:
        build(replace(options(pages), locked=True), silent, threading.Event())
    assert caught.value.details == ("synced srv/a.html, srv/b.html: new, dated now",)
    built(pages)
    assert set(dates(pages)) == {"srv/a.html", "srv/b.html"}


def test_a_changed_page_leaves_the_plan_kept(pages: Checkout) -> None:
    for _ in range(100):
        built(pages)
        if not plan(pages).fresh:
            break
    pages.write("container/www/a.html", "two")
    built(pages)
    assert not plan(pages).fresh
    assert len(dates(pages)) == 2


def test_what_does_not_arrive_is_said_once(pages: Checkout) -> None:
    pages.write("container/www/key", "secret")
    (pages.container / "www/key").chmod(0o600)
    (pages.container / "www/gone").symlink_to("/home/me/x")
    container = (pages.container / "container.yaml").read_text()
    pages.write("container/container.yaml", container + "- image: {type: aci}\n")
    said: list[str] = []
    built(pages, lambda event: said.append(event.message) if isinstance(event, Notice) else None)
    assert [one for one in said if not one.startswith("lock: ")] == [
        "sync www: everybody may read in the image: key (0600); `chmod` keeps them private",
        "synced links lead nowhere in the image: /srv/gone (to /home/me/x)",
    ]
