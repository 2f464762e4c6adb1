"""Plans that were kept, and when they must be made anew; a real checkout and store."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.archive.contents import contents_blob
from buildit.archive.tarwrite import write_tar
from buildit.digest import BuildKey
from buildit.errors import RecipeError, UnsatisfiableError
from buildit.events import Building, Event, Notice, Packaging, Reporter, silent
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.model.plan import Node
from buildit.pipeline.rules import RULES
from buildit.pipeline.story import Options, Prepared, build, lock, prepare
from buildit.plan.nodes import deb_node
from buildit.store.artifacts import commit
from buildit.store.cas import Store
from buildit.store.collect import collect, roots
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


def at_hand(project: Checkout, *further: Node, loads: BuildKey | None = None) -> None:
    """What the container needs and `further` ones, in the store as if they had been built.

    `loads` is the package whose libc.so.6 those of the container load.
    """
    nodes = plan(project).plan.nodes
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
        if prepared.planned is None:
            return prepared
    pytest.fail("the plan was not kept")


def test_a_kept_plan_is_the_plan(project: Checkout) -> None:
    first = plan(project)
    assert first.planned is not None
    assert kept(project).plan == first.plan


def test_a_plan_is_kept_only_once_it_was_built(project: Checkout) -> None:
    """Else the run that builds it at last would note neither outputs nor what to keep."""
    time.sleep(0.1)
    lock(plan(project), options(project), silent)
    assert plan(project).planned is not None
    at_hand(project)
    built(project)
    with Store.open(project.root / "store") as store:
        [root] = roots(store)
    assert root.anchor == project.container / "buildit.lock"
    assert {node.key for node in plan(project).plan.nodes} < root.names
    assert "\noutput x/app runtime " in root.anchor.read_text()


def test_a_checkout_that_cannot_be_written_is_built(project: Checkout) -> None:
    at_hand(project)
    lock(plan(project), options(project), silent)
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
    [blob] = before.nodes[-1].blobs
    with Store.open(project.root / "store") as store:
        if way == "collected":
            store.path(blob).unlink()
        else:
            store.set_aside(blob)
        again = plan(project)
        assert again.planned is not None
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
    debs = [deb_node(one, toolchain, (), RULES) for one in toolchain.debs]
    [libc] = [one.key for one in debs if one.name == "debian:libc6"]
    at_hand(project, *debs, loads=libc)
    built(project)
    with Store.open(project.root / "store") as store:
        gone = collect(store).keys
    assert gone == tuple(one.key for one in debs if one.name == "debian:gcc")
    built(project, lambda event: pytest.fail("built anew") if isinstance(event, Building) else None)


def test_flags_of_one_run_leave_the_lock_as_it_is(project: Checkout) -> None:
    project.write(
        "pkgs/x/app/pkg.yaml",
        "versions: {1.0: {}}\nuse: {ssl: {default: off, description: d}}\n"
        "configure: [{when: ssl, then: --with-ssl}]\n",
    )
    lock(plan(project), options(project), silent)
    path = project.container / "buildit.lock"
    before = path.read_text()
    told: list[Event] = []
    tried = replace(options(project), use=("ssl",))
    lock(prepare(tried, silent), tried, told.append)
    assert path.read_text() == before
    assert [event.message for event in told if isinstance(event, Notice)] == [
        "buildit.lock stays as it is: --use holds for this run"
    ]
    with pytest.raises(UnsatisfiableError, match="the lock would change"):
        lock(prepare(tried, silent), replace(tried, locked=True), silent)
