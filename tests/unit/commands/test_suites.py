"""Debian roots and the .debs of `run` steps, from the list to what is pinned; nothing is fetched
but from an archive in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytest

from buildit.commands.assemble import Stack
from buildit.commands.bases import Base, begun_with
from buildit.commands.choose import Choice, choose
from buildit.commands.pins import Answer
from buildit.commands.run import Downloads, Options, opened_run
from buildit.commands.running import run_of_step
from buildit.commands.suites import check_steps, with_debs
from buildit.debian.apt import AptSource
from buildit.debian.archive import DebianArchive
from buildit.digest import Digest
from buildit.errors import BuilditError, FetchError, RecipeError, UnsatisfiableError
from buildit.events import silent
from buildit.make.run_task import run_task
from buildit.make.suite import suite_image, suite_task
from buildit.model.artifact import RUNTIME, Artifact
from buildit.model.config import Config
from buildit.model.plan import (
    ContainerPlan,
    DebRef,
    FromStep,
    LayerRef,
    OutputRef,
    PackageStep,
    RunStep,
    Task,
    Toolchain,
)
from buildit.plan.closure import deb_task
from buildit.plan.identity import Rules
from buildit.plan.lock import Lock, Section, format_lock, parse_lock
from buildit.recipe.config import Loaded
from buildit.store.cas import Store
from tests.debian_maker import NOW, Archive, paragraph
from tests.fakes import FakeTransport
from tests.planning import TOOLCHAIN, Checkout, checkout, deb

pytestmark = pytest.mark.unit

SUITE = "- from: {suite: debian-12}\n"
NO_TOOLCHAIN = Toolchain("toolchain/none", "linux/amd64", Digest("0" * 64), ())
EMPTY = ContainerPlan("", "", "web", "1", "linux", "amd64", NO_TOOLCHAIN, (), (), (), None)
_Found = TypeVar("_Found")


def container(root: Path, steps: str) -> Checkout:
    made = checkout(root)
    made.write("pkgs/toolchain/debian-13/pkg.yaml", TOOLCHAIN.replace("[bookworm]", "[trixie]"))
    made.write("container/container.yaml", "- vars: {name: web, version: 1}\n" + steps)
    return made


def chosen(root: Path, steps: str, lock: Section | None = None) -> Choice:
    made = container(root, steps)
    config = Config(root / "store", 1, (root / "pkgs",))
    choice = choose(Options(made.container), Loaded(config, ()))
    return replace(choice, lock=Lock({str(choice.target): lock or Section()}))


def asked(
    root: Path, choice: Choice, work: Callable[[Choice, Downloads], _Found], newer: str = ""
) -> _Found:
    """What `work` makes of a choice, with Debian's archive in memory."""
    essential = {"essential": "yes", "priority": "required"}
    packages = (
        paragraph("dash", **essential),
        paragraph("tzdata", priority="required"),
        paragraph("apt", newer or "1.0", depends="libc6", priority="important"),
        paragraph("libc6"),
        paragraph("usr-is-merged", conflicts="usrmerge"),
        paragraph("usrmerge"),
        paragraph("cron", depends="libc6, editor | nano"),
        paragraph("nano"),
    )
    made = Archive(packages=packages)
    sources = [AptSource(made.uri, made.codename, ("main",))]
    served = FakeTransport(made.urls())
    archive = DebianArchive(sources, served, root / "cache", [made.key.armored], NOW)
    config = Config(root / "store", 1, ())
    with Store.open(root / "store") as store, opened_run(config, store, silent) as run:
        run.downloads._archive = archive
        return work(choice, run.downloads)


def based(root: Path, steps: str = SUITE, lock: Section | None = None) -> Base:
    found = asked(root, chosen(root, steps, lock), begun_with)
    assert found is not None
    return found


@dataclass(frozen=True)
class StepDebs:
    """The .debs of each `run` step, and all answers."""

    debs: list[tuple[DebRef, ...]]
    answers: Mapping[str, Answer]


def step_debs(
    root: Path, steps: str, base: Base | None = None, newer: str = "", lock: Section | None = None
) -> StepDebs:
    choice = chosen(root, steps, lock)
    specs = [(one, one.spec.run) for one in choice.container.steps]
    runs = tuple(run_of_step(run, step) for step, run in specs if run is not None)
    answers = None if base is None else base.answers

    def work(one: Choice, downloads: Downloads) -> StepDebs:
        plan, found = with_debs(replace(EMPTY, steps=runs), one, {}, answers, downloads)
        return StepDebs([each.debs for each in plan.commands], found)

    return asked(root, choice, work, newer)


def test_a_root_is_what_is_essential_required_and_apt(tmp_path: Path) -> None:
    found = based(tmp_path)
    assert [deb.name for deb in found.debs] == ["apt", "dash", "libc6", "tzdata", "usr-is-merged"]
    assert list(found.answers) == ["suite:debian-12"]
    assert found.pins == {}
    assert found.task.label == "from suite:debian-12"
    assert found.step.configure is not None
    assert found.step.configure.ids == "range"
    assert "dpkg --force-unsafe-io --configure -a" in found.step.configure.argv[-1]


def test_what_is_locked_stays_and_is_the_same_task(tmp_path: Path) -> None:
    first = based(tmp_path)
    answer = first.answers["suite:debian-12"]
    lock = Section(
        debs={"suite:debian-12": answer.debs[1:]}, requests={"suite:debian-12": answer.request}
    )
    text = format_lock(Lock({"linux/amd64": lock}))
    kept = parse_lock(text, "x").sections["linux/amd64"]
    again = based(tmp_path / "again", lock=kept)
    assert again.debs == answer.debs[1:]
    assert again.task.key != first.task.key
    whole = replace(lock, debs={"suite:debian-12": answer.debs})
    assert based(tmp_path / "same", lock=whole).task.key == first.task.key


def test_a_suite_brings_its_toolchain(tmp_path: Path) -> None:
    assert chosen(tmp_path, SUITE).toolchain == "toolchain/debian-12"
    newer = "- from: {suite: debian-13}\n"
    assert chosen(tmp_path, newer).toolchain == "toolchain/debian-13"
    with pytest.raises(UnsatisfiableError, match="one container, two toolchains"):
        chosen(tmp_path, newer + "- toolchain: toolchain/debian-12\n")


def test_a_suite_that_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no suite is known as 'debain-12'") as error:
        chosen(tmp_path, "- from: {suite: debain-12}\n")
    assert (error.value.place or "").endswith("container.yaml:2:17")
    assert error.value.hint == "did you mean 'debian-12'? valid here: debian-12, debian-13"


def test_a_suite_that_no_source_serves(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="has the suite 'trixie'") as error:
        based(tmp_path, "- from: {suite: debian-13}\n")
    assert (error.value.place or "").endswith("container.yaml:2:17")


def test_one_base_below_all_steps(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="`from` lies below all"):
        based(tmp_path, f"- run: {{script: x}}\n{SUITE}")


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (f"{SUITE}- run: {{script: x, ids: one}}\n", "a Debian root has many users"),
        ("- run: {script: x, ids: one, debs: [cron]}\n", "packages of `debs` make users"),
    ],
)
def test_one_id_is_too_few_for_packages(steps: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        check_steps(chosen(tmp_path, steps))
    assert said in error.value.message
    assert "container.yaml:" in (error.value.place or "")
    assert error.value.hint == "leave `ids` out"


def test_one_id_does_for_the_rest(tmp_path: Path) -> None:
    check_steps(chosen(tmp_path, "- run: {script: x, ids: one}\n"))
    check_steps(chosen(tmp_path, f"{SUITE}- run: {{script: x, debs: [cron]}}\n"))


# -- what apt finds in a step

CRON = "- run: {script: x, debs: [cron]}\n"


def names(found: StepDebs, number: int) -> list[str]:
    return [deb.name for deb in found.debs[number]]


def test_a_step_gets_what_the_base_lacks(tmp_path: Path) -> None:
    base = based(tmp_path)
    assert names(step_debs(tmp_path, SUITE + CRON, base), 0) == ["cron", "nano"]
    assert names(step_debs(tmp_path, CRON), 0) == ["cron", "libc6", "nano"]


def test_what_became_newer_than_the_base_is_there_too(tmp_path: Path) -> None:
    base = based(tmp_path)
    found = step_debs(tmp_path / "later", SUITE + CRON, base, newer="1.1")
    assert [(one.name, one.version) for one in found.debs[0]] == [
        *(("apt", "1.1"), ("cron", "1.0"), ("nano", "1.0"))
    ]


def test_rows_that_were_taken_out_are_chosen_anew(tmp_path: Path) -> None:
    base = based(tmp_path)
    for debs, count in (("cron", 2), ("dash", 0)):
        steps = f"{SUITE}- run: {{script: x, debs: [{debs}]}}\n"
        (answer,) = (
            one for asker, one in step_debs(tmp_path, steps, base).answers.items() if "run" in asker
        )
        assert len(answer.debs) == count
        gone = Section(requests={f"run:{debs}": answer.request})
        again = step_debs(tmp_path / debs, steps, base, lock=gone)
        assert len(again.debs[0]) == count


def test_steps_with_the_same_names_are_one_answer(tmp_path: Path) -> None:
    twice = "- run: {script: y, debs: [nano, cron]}\n- run: {script: x, debs: [cron, nano]}\n"
    found = step_debs(tmp_path, twice)
    assert list(found.answers) == ["run:cron,nano"]
    assert found.debs[0] == found.debs[1]


@pytest.mark.parametrize(
    ("debs", "said"),
    [
        ("crom", "no suite has a package crom"),
        ("cron=9", "no suite has cron (= 9)"),
        ("usrmerge", "usr-is-merged 1.0 conflicts with usrmerge 1.0"),
    ],
)
def test_debs_that_cannot_be_had(debs: str, said: str, tmp_path: Path) -> None:
    base = based(tmp_path)
    with pytest.raises(UnsatisfiableError) as error:
        step_debs(tmp_path, f"{SUITE}- run: {{script: x, debs: [{debs}]}}\n", base)
    assert said in error.value.message
    assert (error.value.place or "").endswith("container.yaml:3:26")
    assert error.value.hint


def test_no_name_of_a_package(tmp_path: Path) -> None:
    with pytest.raises(BuilditError, match="the name of a Debian package"):
        chosen(tmp_path, "- run: {script: x, debs: ['a b']}\n")


def test_the_debs_are_in_the_key_and_those_without_keep_theirs(tmp_path: Path) -> None:
    debs = step_debs(tmp_path, CRON).debs[0]
    step = RunStep(("x",), (), "range", "x", "here")
    below = [LayerRef(debs[0].digest, debs[0].digest)]

    def record(of: RunStep) -> str:
        return run_task(of, below, (), 0, "linux/amd64").record

    assert "APT_CONFIG" not in record(step)
    assert '"debs"' not in record(step)
    found = record(replace(step, debs=debs))
    assert all(deb.digest in found for deb in debs)
    assert "/run/buildit/apt.conf" in found
    assert found == record(replace(step, debs=debs[::-1]))
    assert found != record(replace(step, debs=debs[:1]))


# -- what lies over a root


def over(tmp_path: Path, *lying: DebRef) -> tuple[Stack, list[OutputRef]]:
    """A stack over a root of dash and libc6, and the runtime outputs of .debs for it."""
    base = (deb("dash"), deb("libc6"))
    root = suite_task(suite_image("debian-12", base, "linux/amd64", "container.yaml:2:3"), base)
    rules = Rules("1", "1", "1", "1", "1", "1")
    tasks = {one.key: one for one in (deb_task(each, NO_TOOLCHAIN, (), rules) for each in lying)}
    made = {**tasks, root.key: root}

    def obtain(task: Task) -> Artifact:
        return Artifact(task.key, task.name, "1", "linux/amd64", {}, Digest("0" * 64))

    with Store.open(tmp_path / "store") as store:
        stack = Stack(store, lambda key: made[key], obtain)
    stack.add_base(FromStep(root.key, "suite:debian-12", (), "here"), "linux/amd64")
    return stack, [(key, RUNTIME) for key in tasks]


def test_what_the_root_has_is_not_laid_again_and_that_is_said(tmp_path: Path) -> None:
    stack, members = over(tmp_path, deb("dash"), deb("jq"))
    assert stack.over_base(members) == members[1:]
    for member, name in zip(members, ("dash", "jq"), strict=True):
        stack.add_package(PackageStep(member[0], f"debian:{name}=1.0-1"), [member])
    first, second = stack.remarks
    assert first == "debian:dash=1.0-1: the base has it already"
    assert "dpkg of the base does not know it" in second
    assert "apt-get install -y jq, debs: [jq]" in second
    assert stack.members == members[1:]


def test_another_version_than_the_root_has_is_refused(tmp_path: Path) -> None:
    stack, members = over(tmp_path, deb("libc6", "2.0-1"))
    with pytest.raises(
        RecipeError, match=r"the base has libc6 1.0-1, .* comes with 2.0-1"
    ) as error:
        stack.over_base(members, "here")
    assert (error.value.place, error.value.hint) == (
        "here",
        "let both be chosen anew: buildit lock --update toolchain",
    )


def test_debs_of_a_step_need_apt_below(tmp_path: Path) -> None:
    stack, _ = over(tmp_path)
    step = RunStep(("x",), (), "range", "x", "there", debs=(deb("jq"),))
    with pytest.raises(RecipeError, match="no layer below has it") as error:
        stack.run(step, "linux/amd64")
    assert error.value.place == "there"
