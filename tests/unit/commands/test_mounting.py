"""Mounts of `run` steps as the plan has them, and what a command sees of the steps above."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildit.commands.copies import Copies
from buildit.commands.mounting import mounts_of_step
from buildit.commands.running import app_so_far
from buildit.digest import Digest
from buildit.errors import RecipeError
from buildit.make.run_task import run_task
from buildit.model.copying import MountedFiles, StepMount
from buildit.model.image import App, Inherited
from buildit.model.plan import LayerRef, RunStep
from buildit.plan.lock import Lock, Section, format_lock, parse_lock
from buildit.recipe.container import LoadedStep
from buildit.recipe.lists import load_container

pytestmark = pytest.mark.unit

HEAD = "- vars: {name: web, version: 1}\n"


def steps(tmp_path: Path, text: str) -> tuple[LoadedStep, ...]:
    (tmp_path / "container.yaml").write_text(HEAD + text)
    return load_container(tmp_path).steps


def mounts(tmp_path: Path, *written: str, kept: bool = False) -> tuple[StepMount, ...]:
    step = steps(tmp_path, f"- run: {{script: ls, mounts: [{', '.join(written)}]}}\n")[-1]
    return mounts_of_step(step, Copies(), kept=kept)[0]


def test_mounts_have_what_is_usual(tmp_path: Path) -> None:
    found = mounts(
        tmp_path,
        "{type: cache, dest: /c}",
        "{type: bind, dest: /b/, src: src}",
        "{type: tmpfs, dest: /m, size: 1M}",
        "{type: secret, id: tok, mode: 0440, uid: 5}",
        "{type: text, dest: /t, content: x}",
    )
    assert found == (
        StepMount("cache", "/c", id="/c", writable=True),
        StepMount("bind", "/b", source=0),
        StepMount("tmpfs", "/m", size=1 << 20, writable=True),
        StepMount("secret", "/run/secrets/tok", id="tok", mode="0440", uid=5),
        StepMount("text", "/t", content="x"),
    )
    (kept,) = mounts(tmp_path, "{type: cache, dest: /c, id: pip}", kept=True)
    assert (kept.id, kept.kept) == ("pip", True)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{type: cache}", "the cache has no `dest`"),
        ("{type: bind, dest: /b}", "the bind has no `src`"),
        ("{type: bind, dest: /b, src: ../x}", "leads out of the container's directory"),
        ("{type: bind, dest: /proc/x, src: x}", "nothing can be mounted at /proc/x"),
        ("{type: bind, dest: /, src: x}", "nothing can be mounted at /"),
        ("{type: secret}", "the secret has no `id`"),
        ("{type: secret, id: a/b}", "the secret has no `id` that a secret can have"),
        ("{type: text, dest: /t}", "the text has no `content`"),
        ("{type: tmpfs, dest: /t, src: x}", "a tmpfs has no `src`"),
        ("{type: cache, dest: /c}, {type: tmpfs, dest: /c/}", "two mounts are at /c"),
    ],
)
def test_what_cannot_be_mounted_is_named(tmp_path: Path, written: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        mounts(tmp_path, written)
    assert caught.value.place
    assert caught.value.hint


def test_a_command_sees_what_the_steps_above_and_the_base_say(tmp_path: Path) -> None:
    base = Inherited(App((), user="7", environment=(("A", "a"), ("B", "b"))))
    found = steps(
        tmp_path,
        "- env: {B: own}\n- run: {script: x, as-app: yes}\n- user: web:grp\n- env: {C: c}\n",
    )
    app = app_so_far(found[:2], base)
    assert (app.user, dict(app.environment)) == ("7", {"A": "a", "B": "own"})
    app = app_so_far(found, base)
    assert (app.user, app.group, app.working_directory) == ("web", "grp", "/")
    assert dict(app.environment) == {"A": "a", "B": "own", "C": "c"}
    assert app_so_far((), None).user == "0"


BELOW = (LayerRef(Digest("1" * 64), Digest("2" * 64)),)
STEP = RunStep(("/bin/sh",), (), "range", "x", "p")


def test_mounts_are_in_the_key_and_nothing_new_is_without_them() -> None:
    task = run_task(STEP, BELOW, (), 7, "linux/amd64")
    assert not {"mounts", "cwd", "who"} & set(task.record.split('"'))
    files = MountedFiles(StepMount("bind", "/b", 0), "3" * 64, "mounted")
    other = MountedFiles(StepMount("bind", "/b", 0), "4" * 64, "mounted")
    keys = {
        run_task(STEP, BELOW, (), 7, "linux/amd64", None, given).key
        for given in ((), (files,), (other,), (files, other))
    }
    assert len(keys) == 4
    assert task.key in keys


def test_the_lock_has_a_section_for_each_stage_and_digests_of_urls() -> None:
    section = Section(files={"https://example.org/a b": Digest("5" * 64)})
    lock = Lock(
        {
            "linux/amd64": section,
            "linux/amd64 build": Section(files={"https://example.org/b": Digest("6" * 64)}),
        }
    )
    assert parse_lock(format_lock(lock), "x") == lock
    assert [*lock.begun("linux/arm64 build").files] == ["https://example.org/b"]
    assert lock.begun("linux/arm64").files == section.files
    assert lock.begun("linux/arm64 other") == Section()
