"""Git sources from recipe to lock and store: what is pinned, when it moves, what the key holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildit.commands.fetching import InputFetcher
from buildit.commands.planning import PlannedContainer
from buildit.commands.run import opened_run, write_lock
from buildit.digest import Digest
from buildit.errors import FetchError, IntegrityError, RecipeError
from buildit.events import silent
from buildit.model.config import Config
from buildit.model.plan import Task
from buildit.model.sources import GitRef, SourceRef
from buildit.plan.lock import changes
from buildit.store.cas import Store
from tests.gitting import Upstream, upstream
from tests.planning import Checkout, checkout

pytestmark = pytest.mark.unit

PACKAGE = "libs/greet"


@pytest.fixture
def greet(tmp_path: Path) -> Upstream:
    made = upstream(tmp_path / "greet")
    made.write("greet.c", "int greet;\n")
    made.commit("v1")
    return made


@pytest.fixture
def project(tmp_path: Path) -> Checkout:
    made = checkout(tmp_path / "project")
    made.write("container/container.yaml", CONTAINER)
    return made


CONTAINER = """\
- vars: {name: c, version: 1, os: linux}
- package: {atom: libs/greet}
- image: {type: oci}
"""


def recipe(project: Checkout, *sources: str) -> None:
    lines = "".join(f"      - {source}\n" for source in sources)
    project.write(
        f"pkgs/{PACKAGE}/pkg.yaml", f"versions:\n  1.0:\n    sources:\n{lines}style: make\n"
    )


def source_of(planned: PlannedContainer) -> SourceRef:
    [source] = task_of(planned).inputs.sources
    return source


def task_of(planned: PlannedContainer) -> Task:
    return next(task for task in planned.plan.tasks if task.name == PACKAGE)


def locked(project: Checkout, planned: PlannedContainer) -> None:
    write_lock(project.container, planned.pins.changed())


def test_a_tag_is_pinned_by_the_lock(project: Checkout, greet: Upstream) -> None:
    recipe(project, f"{{git: '{greet.url}', tag: v1}}")
    first = project.plan()
    before = greet.git("rev-parse", "v1^{commit}")
    assert source_of(first).git == GitRef(before, "v1")
    [pinned] = first.pins.section.commits
    assert (pinned.tag, pinned.commit, pinned.digest) == ("v1", before, source_of(first).digest)
    locked(project, first)

    greet.write("greet.c", "int moved;\n")
    after = greet.commit("v1")
    again = project.plan()
    assert task_of(again).key == task_of(first).key
    assert not again.pins.moved()
    moved = project.plan(update=(PACKAGE,))
    assert source_of(moved).git == GitRef(after, "v1")
    assert f"tag of {PACKAGE} {greet.url} v1 moves from {before} to {after}" in changes(
        first.pins.section, moved.pins.section
    )


def test_a_locked_commit_needs_no_repository(project: Checkout, greet: Upstream) -> None:
    recipe(project, f"{{git: '{greet.url}', tag: v1}}")
    first = project.plan()
    locked(project, first)
    greet.path.rename(greet.path.with_name("gone"))
    assert task_of(project.plan()).key == task_of(first).key


def test_the_key_holds_the_tree_and_not_where_it_is(
    project: Checkout, greet: Upstream, tmp_path: Path
) -> None:
    commit = greet.git("rev-parse", "HEAD")
    recipe(project, f"{{git: '{greet.url}', tag: v1}}")
    by_tag = project.plan()
    greet.git("clone", "--quiet", "--bare", ".", str(tmp_path / "mirror.git"))
    recipe(project, f"{{git: 'file://{tmp_path}/mirror.git', commit: {commit}}}")
    by_commit = project.plan()
    assert task_of(by_commit).key == task_of(by_tag).key
    assert greet.url not in task_of(by_tag).record
    digest = source_of(by_tag).digest
    recipe(project, f"{{git: https://example.org/x.git, commit: {commit}, sha256: {digest}}}")
    assert task_of(project.plan()).key == task_of(by_tag).key
    recipe(project, f"{{url: https://example.org/x.tar, strip: 0, sha256: {digest}}}")
    assert task_of(project.plan()).key == task_of(by_tag).key


def test_another_commit_in_the_recipe_is_not_the_locked_one(
    project: Checkout, greet: Upstream
) -> None:
    recipe(project, f"{{git: '{greet.url}', commit: {greet.git('rev-parse', 'HEAD')}}}")
    locked(project, project.plan())
    greet.write("greet.c", "int newer;\n")
    newer = greet.commit()
    recipe(project, f"{{git: '{greet.url}', commit: {newer}}}")
    assert source_of(project.plan()).git == GitRef(newer)


def bring(store: Store, source: SourceRef, distfiles: Path) -> None:
    config = Config(store.root, 1, distfiles=(str(distfiles),))
    with opened_run(config, store, silent, offline=True) as run:
        desk = InputFetcher(store, run.downloads)
        desk._fetch_commits([source])


def test_the_tar_is_made_again_or_comes_from_distfiles(
    project: Checkout, greet: Upstream, store: Store, tmp_path: Path
) -> None:
    recipe(project, f"{{git: '{greet.url}', tag: v1}}")
    source = source_of(project.plan())
    bring(store, source, tmp_path / "none")
    content = store.read(source.digest)
    greet.path.rename(greet.path.with_name("gone"))
    (tmp_path / "distfiles").mkdir()
    (tmp_path / "distfiles" / source.name).write_bytes(content)
    with Store.open(tmp_path / "other") as other:
        with pytest.raises(FetchError, match="no place has the commit"):
            bring(other, source, tmp_path / "none")
        bring(other, source, tmp_path / "distfiles")
        assert other.read(source.digest) == content


def test_a_tree_of_another_digest_is_refused(greet: Upstream, store: Store, tmp_path: Path) -> None:
    ref = GitRef(greet.git("rev-parse", "HEAD"))
    source = SourceRef("greet.tar", Digest("5" * 64), (greet.url,), git=ref)
    with pytest.raises(IntegrityError, match="is not the source that is pinned") as caught:
        bring(store, source, tmp_path)
    assert "write sha256: " in str(caught.value.hint)
    assert "5" * 64 in caught.value.details[0]


def test_a_place_of_the_net_is_not_asked_offline(project: Checkout) -> None:
    recipe(project, "{git: https://example.org/x.git, tag: v1}")
    with pytest.raises(FetchError, match="--offline forbids it") as caught:
        project.plan()
    assert str(caught.value.place).endswith("libs/greet/pkg.yaml:4:9")


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        ("{git: https://x/y}", "neither a commit nor a tag is named", "the lock pins"),
        ("{git: https://x/y, commit: 1234567}", "a commit of 40 hex digits", "git rev-parse"),
        (f"{{git: https://x/y, commit: {'A' * 40}}}", "40 hex", f"lower case: {'a' * 40}"),
        ("{git: https://x/y, tag: -x}", "the name of a git tag", "git ls-remote --tags"),
        ("{git: https://x/y, tag: a..b}", "the name of a git tag", "git ls-remote --tags"),
        ("{git: 'git@x.org:y/z.git', tag: v1}", "the URL of a git repository", "ssh://git@x.org/y/z.git"),
        ("{git: 'http://x/y', tag: v1}", "the URL of a git repository", "https://HOST/PATH"),
        ("{git: 'ext::sh -c id', tag: v1}", "the URL of a git repository", "https://HOST/PATH"),
        ("{git: '--upload-pack=id', tag: v1}", "the URL of a git repository", "https://HOST/PATH"),
        ("{git: 'ssh://-oProxyCommand=id/y', tag: v1}", "no usable host name", ""),
        ("{git: 'https://me:secret@x/y', tag: v1}", "a password or token", "~/.netrc"),
        ("{git: https://x/y, tag: v1, strip: 1}", "unknown key 'strip'", "valid here: git"),
        ("{git: https://x/y, tag: v1, url: https://x/y}", "unknown key 'url'", "valid here: git"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(
    project: Checkout, source: str, message: str, hint: str
) -> None:
    recipe(project, source)
    with pytest.raises(RecipeError) as caught:
        project.plan()
    assert message in caught.value.message
    assert hint in str(caught.value.hint)
    assert "libs/greet/pkg.yaml:4:" in str(caught.value.place)
