"""Directories of this machine as sources: what is taken, what the key says, what is refused."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from buildit.archive.admit import Budget
from buildit.archive.tar.read import read_tar
from buildit.commands.planning import PlannedContainer
from buildit.commands.publish import check_publishing
from buildit.commands.run import Options, Prepared, lock, opened_run
from buildit.errors import FetchError, RecipeError, UnsatisfiableError, UsageError
from buildit.events import silent
from buildit.model.config import Config
from buildit.model.plan import Task
from buildit.plan.identity import read_record
from buildit.store.cas import Store
from tests.gitting import Upstream, upstream
from tests.planning import Checkout, checkout

pytestmark = pytest.mark.unit

CONTAINER = """\
- vars: {name: c, version: 1, os: linux}
- package: {atom: misc/app}
- image: {type: oci}
"""


@pytest.fixture
def project(tmp_path: Path) -> Checkout:
    made = checkout(tmp_path / "project")
    made.write("container/container.yaml", CONTAINER)
    recipe(made, "{path: ../../../src}")
    made.write("src/Makefile", "install:\n")
    made.write("src/sub/main.c", "int main;\n")
    (made.root / "src/empty").mkdir()
    return made


def recipe(project: Checkout, source: str) -> None:
    project.write(
        "pkgs/misc/app/pkg.yaml",
        f"versions:\n  1.0:\n    sources:\n      - {source}\nstyle: make\n",
    )


def task_of(planned: PlannedContainer) -> Task:
    return next(task for task in planned.plan.tasks if task.name == "misc/app")


def taken(project: Checkout) -> list[str]:
    """The members of the tar."""
    [source] = task_of(project.plan()).inputs.sources
    with Store.open(project.root / "store") as store, store.open_blob(source.digest) as stream:
        return [entry.path for entry, _ in read_tar(stream, Budget(), "src")]


def test_everything_is_taken(project: Checkout) -> None:
    assert taken(project) == ["Makefile", "empty", "sub", "sub/main.c"]


def test_the_key_depends_on_names_content_and_x_bits_alone(project: Checkout) -> None:
    first = task_of(project.plan()).key
    source = project.root / "src/sub/main.c"
    os.utime(source, (1, 1))
    source.chmod(0o600)
    assert task_of(project.plan()).key == first
    source.chmod(0o700)
    executable = task_of(project.plan()).key
    source.write_text("int other;\n")
    assert len({first, executable, task_of(project.plan()).key}) == 3


def test_the_same_bytes_for_release_have_another_key(project: Checkout) -> None:
    """What is built in place may differ from what is built from nothing."""
    [source] = task_of(project.plan()).inputs.sources
    local = task_of(project.plan())
    recipe(project, f"{{url: https://example.org/x.tar, strip: 0, sha256: {source.digest}}}")
    released = task_of(project.plan())
    assert local.key != released.key
    assert read_record(local.record).sources[0].local
    assert read_record(released.record) == replace(
        read_record(local.record),
        sources=(replace(read_record(local.record).sources[0], local=False),),
    )


def test_where_it_lies_is_not_in_the_key(project: Checkout, tmp_path: Path) -> None:
    first = task_of(project.plan()).key
    (project.root / "src").rename(tmp_path / "moved")
    recipe(project, f"{{path: {tmp_path}/moved}}")
    assert task_of(project.plan()).key == first


def test_what_git_ignores_is_left_out(project: Checkout) -> None:
    top = upstream(project.root / "repository")
    (project.root / "src").rename(top.path / "src")
    top.write(".gitignore", "*.o\n")
    top.write("src/main.o", "object")
    top.write("src/sub/forced.o", "object")
    top.git("add", "--force", "src/sub/forced.o")
    top.commit()
    top.write("src/new.c", "not known to git yet")
    top.write("src/sub/main.c", "changed, and not committed")
    top.write("src/old.c", "x")
    top.commit()
    (top.path / "src/old.c").unlink()
    nested = Upstream(top.path / "src/nested")
    nested.path.mkdir()
    nested.git("init", "--quiet", "--template=")
    nested.write("inner.c", "x")
    nested.write(".gitignore", "*.log\n")
    nested.write("inner.log", "x")
    recipe(project, "{path: ../../../repository/src}")
    assert taken(project) == [
        "Makefile",
        "nested",
        "nested/.gitignore",
        "nested/inner.c",
        "new.c",
        "sub",
        "sub/forced.o",
        "sub/main.c",
    ]


def test_nothing_that_the_repository_configures_is_run(project: Checkout, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho ran >> {tmp_path}/canary\nexit 1\n")
    program.chmod(0o755)
    top = Upstream(project.root / "src")
    top.git("init", "--quiet", "--template=")
    top.git("add", "--all")
    top.git("config", "core.fsmonitor", str(program))
    top.git("config", "core.excludesFile", "/dev/null")
    assert taken(project) == ["Makefile", "sub", "sub/main.c"]
    assert not (tmp_path / "canary").exists()


def test_excluded_paths_and_our_own_are_left_out(project: Checkout) -> None:
    recipe(project, "{path: ../../.., exclude: [container/container.yaml, pkgs, 'src/**/*.c']}")
    assert taken(project) == ["container", "src", "src/Makefile", "src/empty", "src/sub"]


def test_a_change_is_seen_although_a_plan_was_kept(project: Checkout) -> None:
    consulted = {str(path) for path in project.plan().consulted}
    source = project.root / "src"
    assert {str(source / one) for one in ("", "Makefile", "sub", "sub/main.c")} <= consulted
    (project.root / "src/empty/deep").mkdir()
    Upstream(project.root).git("init", "--quiet", "--template=")
    consulted = {str(path) for path in project.plan().consulted}
    assert {str(source / one) for one in ("empty/deep", ".gitignore")} <= consulted
    assert {str(project.root / one) for one in (".git/index", ".gitignore")} <= consulted
    assert str(project.root / ".git") not in consulted


def test_it_is_no_release(project: Checkout) -> None:
    project.write(
        "pkgs/misc/user/pkg.yaml", "versions: {1.0: {}}\nstyle: make\ndepends: {link: [misc/app]}\n"
    )
    project.write("container/container.yaml", CONTAINER.replace("misc/app", "misc/user"))
    planned = project.plan()
    source = project.root / "src"
    told = (f"misc/app-1.0 is built from {source}", "misc/user-1.0 depends on misc/app-1.0")
    assert planned.plan.unreleased() == told
    assert planned.plan.remarks[:2] == tuple(f"not for release: {line}" for line in told)
    assert not [one for one in planned.pins.section.sources if one.package == "misc/app"]

    options = Options(project.container, locked=True)
    prepared = Prepared(options, planned.plan, Config(project.root / "store", 1), planned.pins)
    with pytest.raises(UnsatisfiableError, match="can be built again anywhere") as locked:
        lock(prepared, silent)
    with (
        Store.open(project.root / "store") as store,
        opened_run(prepared.settings, store, silent, offline=True) as run,
        pytest.raises(UsageError, match="is not published") as pushed,
    ):
        check_publishing(planned.plan, run.remotes)
    for caught in (locked, pushed):
        assert caught.value.details == told
        assert "`git:`" in str(caught.value.hint)


def refused(project: Checkout) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        project.plan()
    assert "misc/app/pkg.yaml:4:" in str(caught.value.place)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("path", ["../src", "../../../src/Makefile", "/nonexistent/x"])
def test_no_directory(project: Checkout, path: str) -> None:
    recipe(project, f"{{path: {path}}}")
    assert "there is no directory" in refused(project).message


def test_no_path(project: Checkout) -> None:
    recipe(project, "{path: ~/src}")
    assert "'~' has no meaning here" in refused(project).message


def test_sockets_are_refused(project: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root / "src")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    assert "'socket' is no file, link or directory" in refused(project).message
    recipe(project, "{path: ../../../src, exclude: [socket]}")
    assert taken(project) == ["Makefile", "empty", "sub", "sub/main.c"]


def test_git_that_is_not_there_is_said(project: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    Upstream(project.root / "src").git("init", "--quiet")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(FetchError, match="git, which is not installed"):
        project.plan()
