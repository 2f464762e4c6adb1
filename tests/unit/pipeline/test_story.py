"""Plans that were kept, and when they must be made anew; a real checkout and store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildit.events import silent
from buildit.pipeline.story import Options, Prepared, lock, prepare
from buildit.store.cas import Store
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
        "- vars: {name: web, version: 1.0}\n- package: {atom: x/app}\n",
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


def planned(project: Checkout) -> Prepared:
    """The plan as a build makes it, keeping it for the next one."""
    options = Options(project.container, offline=True)
    prepared = prepare(options, silent)
    lock(prepared, options, silent)
    return prepared


def kept(project: Checkout) -> Prepared:
    """The plan after files had time to settle."""
    for _ in range(100):
        if planned(project).planned is None:
            break
    prepared = planned(project)
    assert prepared.planned is None, "the plan was not kept"
    return prepared


def test_a_kept_plan_is_the_plan(project: Checkout) -> None:
    first = planned(project)
    assert first.planned is not None
    assert kept(project).plan == first.plan


@pytest.mark.parametrize("way", ["collected", "set aside"])
def test_a_kept_plan_whose_inputs_the_store_lost_is_made_anew(project: Checkout, way: str) -> None:
    plan = kept(project).plan
    [blob] = plan.nodes[-1].blobs
    with Store.open(project.root / "store") as store:
        if way == "collected":
            store.path(blob).unlink()
        else:
            store.set_aside(blob)
        again = planned(project)
        assert again.planned is not None
        assert again.plan == plan
        assert store.has(blob), "the patch is back"


def test_distfiles_that_come_later_are_asked_too(project: Checkout) -> None:
    before = kept(project).settings
    assert before.distfiles == (str(project.container / "distfiles"),)
