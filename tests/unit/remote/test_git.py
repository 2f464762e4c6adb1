"""Git sources: what the tar of a commit holds, where it comes from, and what is refused."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from buildit.archive.admit import Budget
from buildit.archive.tar.read import read_tar
from buildit.digest import Digest
from buildit.errors import BuilditError, FetchError, IntegrityError
from buildit.events import Event, LocationFailed, silent
from buildit.model.sources import GitRef
from buildit.remote.git.commit import PackedCommit, pack_commit, submodule_url
from buildit.store.cas import Store
from tests.gitting import TIME, Upstream, upstream

pytestmark = pytest.mark.unit


@pytest.fixture
def greet(tmp_path: Path) -> Upstream:
    """A repository with a program, a link, what attributes would hide or change, and a tag."""
    made = upstream(tmp_path / "greet")
    made.write("configure", "#!/bin/sh\n", 0o755)
    made.write("src/greet.c", "int greet;\n")
    made.write("src-notes", "$Id$\n")
    made.write("windows.txt", "one\n")
    made.write(".gitattributes", "windows.txt eol=crlf\nhidden export-ignore\nsrc-notes ident\n")
    made.write("hidden", "shown all the same\n")
    (made.path / "link").symlink_to("src/greet.c")
    made.commit("v1.0")
    return made


def packed(store: Store, ref: GitRef, *urls: str) -> PackedCommit:
    return pack_commit(urls, ref, "greet.tar", store, silent)


def listed(store: Store, digest: Digest) -> dict[str, tuple[str, int, int, bytes]]:
    """Of each member: kind, mode, time, and bytes or target."""
    with store.open_blob(digest) as stream:
        return {
            entry.path: (
                entry.kind.value,
                entry.mode,
                entry.mtime,
                entry.target.encode() if content is None else content.read() or b"",
            )
            for entry, content in read_tar(stream, Budget(), "greet.tar")
        }


def test_the_tar_is_the_tree_of_the_commit(store: Store, greet: Upstream) -> None:
    commit = greet.git("rev-parse", "HEAD")
    made = packed(store, GitRef(commit), greet.url)
    assert made.commit == commit
    attributes = (greet.path / ".gitattributes").read_bytes()
    assert listed(store, made.digest) == {
        ".gitattributes": ("file", 0o644, TIME, attributes),
        "configure": ("file", 0o755, TIME, b"#!/bin/sh\n"),
        "hidden": ("file", 0o644, TIME, b"shown all the same\n"),
        "link": ("symlink", 0o777, TIME, b"src/greet.c"),
        "src": ("directory", 0o755, TIME, b""),
        "src/greet.c": ("file", 0o644, TIME, b"int greet;\n"),
        "src-notes": ("file", 0o644, TIME, b"$Id$\n"),
        "windows.txt": ("file", 0o644, TIME, b"one\n"),
    }


def test_its_digest_is_golden(store: Store, greet: Upstream) -> None:
    """Recipes and locks hold it: it may never change."""
    made = packed(store, GitRef("", "v1.0"), greet.url)
    assert made.commit == "12cbd892a2f73e3bdd86928ddc24916f8d36007d"
    assert made.digest == "c8751b3c1e3b2d3a29beca56e9b56e11a7329b51ebf74b49be7ac0d108a46591"


def test_every_place_gives_the_same_bytes(store: Store, greet: Upstream, tmp_path: Path) -> None:
    commit = greet.git("rev-parse", "HEAD")
    greet.write("later", "x")
    greet.commit()
    mirror = tmp_path / "mirror.git"
    greet.git("clone", "--quiet", "--bare", "--template=", greet.url, str(mirror))
    by_tag = packed(store, GitRef("", "v1.0"), f"file://{mirror}")
    told: list[Event] = []
    urls = (f"file://{tmp_path}/gone", greet.url)
    by_commit = pack_commit(urls, GitRef(commit), "greet.tar", store, told.append)
    assert by_tag == by_commit
    assert [one.location for one in told if isinstance(one, LocationFailed)] == [urls[0]]


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def dumb(greet: Upstream) -> Iterator[str]:
    """The repository's URL at a server of plain files, which knows no git and no shallow fetch."""
    handler = partial(_Silent, directory=str(greet.path / ".git"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_server_that_gives_no_single_commit_is_cloned(
    store: Store, greet: Upstream, dumb: str
) -> None:
    commit = greet.git("rev-parse", "HEAD")
    greet.write("later", "x")
    greet.commit()
    greet.git("update-server-info")
    expected = packed(store, GitRef(commit), greet.url)
    assert packed(store, GitRef(commit), dumb) == expected
    assert packed(store, GitRef("", "v1.0"), dumb) == expected
    error = failing(FetchError, store, GitRef("1" * 40), dumb)
    assert "no such commit on a branch or at a tag" in error.details[0]


def test_nothing_that_a_repository_configures_is_run(
    store: Store, greet: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\necho "$0 $*" >> {canary}\nexit 1\n')
    program.chmod(0o755)
    for key in (
        "core.fsmonitor",
        "uploadpack.packObjectsHook",
        "core.sshCommand",
        "credential.helper",
        "filter.lfs.smudge",
        "filter.lfs.process",
        "core.pager",
        "core.alternateRefsCommand",
        "diff.external",
    ):
        greet.git("config", key, str(program))
    (greet.path / ".git/hooks").mkdir(exist_ok=True)
    for hook in ("post-checkout", "reference-transaction", "pre-auto-gc", "post-index-change"):
        (greet.path / ".git/hooks" / hook).symlink_to(program)
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", f"'core.fsmonitor={program}'")
    monkeypatch.setenv("GIT_SSH_COMMAND", str(program))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_EXEC_PATH", str(tmp_path))
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(greet.path / ".git"))
    greet.write(".gitattributes", "* filter=lfs\n")
    assert packed(store, GitRef("", "v1.0"), greet.url).commit
    assert not canary.exists()


def test_submodules_stand_where_their_links_are(
    store: Store, greet: Upstream, tmp_path: Path
) -> None:
    deep = upstream(tmp_path / "deep")
    deep.write("deep.h", "deep\n")
    deep.commit()
    module = upstream(tmp_path / "module")
    module.write("module.h", "module\n")
    module.git("submodule", "--quiet", "add", "../deep", "inner")
    pinned = module.commit()
    greet.git("submodule", "--quiet", "add", "../module", "third party/module")
    commit = greet.commit()
    module.write("module.h", "newer\n")
    module.commit()
    found = listed(store, packed(store, GitRef(commit), greet.url).digest)
    assert pinned == greet.git("rev-parse", "HEAD:third party/module")
    assert found["third party/module/module.h"] == ("file", 0o644, TIME, b"module\n")
    assert found["third party/module/inner/deep.h"][3] == b"deep\n"
    without = listed(store, packed(store, GitRef(commit, submodules=False), greet.url).digest)
    assert without["third party/module"][0] == "directory"
    assert not [path for path in without if path.startswith("third party/module/")]


def failing(kind: type[BuilditError], store: Store, ref: GitRef, *urls: str) -> BuilditError:
    with pytest.raises(kind) as caught:
        packed(store, ref, *urls)
    assert str(caught.value.place).startswith("greet.tar")
    assert caught.value.hint
    return caught.value


def test_a_commit_that_is_not_there(store: Store, greet: Upstream) -> None:
    error = failing(FetchError, store, GitRef("1" * 40), greet.url)
    assert error.message == f"no place has the commit {'1' * 40}"
    assert error.details == (f"{greet.url}: it has no such commit",)
    assert "is it pushed" in str(error.hint)


def test_a_tag_that_is_not_there_names_the_nearest(store: Store, greet: Upstream) -> None:
    error = failing(FetchError, store, GitRef("", "1.0"), greet.url)
    assert error.message == "no place has the tag '1.0'"
    assert "did you mean v1.0?" in str(error.hint)


def test_a_tag_that_moved_is_told_with_both_commits(store: Store, greet: Upstream) -> None:
    before = greet.git("rev-parse", "HEAD")
    greet.write("new", "x")
    after = greet.commit("v1.0")
    error = failing(IntegrityError, store, GitRef(before, "v1.0"), greet.url)
    assert "has moved" in error.message
    assert before in error.message
    assert after in error.message
    assert "buildit lock --update" in str(error.hint)


def test_a_tag_that_was_deleted_is_no_matter_where_the_commit_is_there(
    store: Store, greet: Upstream
) -> None:
    commit = greet.git("rev-parse", "HEAD")
    greet.git("tag", "--delete", "v1.0")
    assert packed(store, GitRef(commit, "v1.0"), greet.url).commit == commit


def test_a_tag_of_a_file_is_refused(store: Store, greet: Upstream) -> None:
    greet.git("tag", "blob", "HEAD:configure")
    error = failing(FetchError, store, GitRef("", "blob"), greet.url)
    assert "is at no commit" in error.details[0]


def test_a_submodule_without_a_url_is_refused(store: Store, greet: Upstream) -> None:
    greet.git("update-index", "--add", "--cacheinfo", f"160000,{'2' * 40},vendor")
    greet.git("commit", "--quiet", "--message", "a lone link")
    commit = greet.git("rev-parse", "HEAD")
    error = failing(IntegrityError, store, GitRef(commit), greet.url)
    assert "submodule at 'vendor', and .gitmodules has no URL" in error.message
    assert "submodules: no" in str(error.hint)
    assert packed(store, GitRef(commit, submodules=False), greet.url).commit == commit


@pytest.mark.parametrize(
    "url", ["file:///etc", "ssh://host/x", "git@host:x", "ext::sh -c id", "-x"]
)
def test_a_submodule_elsewhere_is_refused(store: Store, greet: Upstream, url: str) -> None:
    greet.write(".gitmodules", f'[submodule "v"]\n\tpath = vendor\n\turl = "{url}"\n')
    greet.git("add", "--all")
    greet.git("update-index", "--add", "--cacheinfo", f"160000,{'2' * 40},vendor")
    greet.git("commit", "--quiet", "--message", "a link")
    error = failing(IntegrityError, store, GitRef(greet.git("rev-parse", "HEAD")), greet.url)
    assert "neither https:// nor relative" in error.message


def tree(greet: Upstream, *items: bytes) -> str:
    """A commit whose tree has raw items, as no git would make it."""
    raw = b"".join(items)
    argv = ("hash-object", "-t", "tree", "-w", "--stdin", "--literally")
    return greet.git("commit-tree", "-m", "odd", greet.git(*argv, stdin=raw))


@pytest.mark.parametrize("name", [b"..", b".git", b".GIT", b"a/b", b"."])
def test_names_that_lead_elsewhere_are_refused(store: Store, greet: Upstream, name: bytes) -> None:
    blob = bytes.fromhex(greet.git("rev-parse", "HEAD:configure"))
    greet.git("update-ref", "refs/heads/odd", tree(greet, b"100644 " + name + b"\0" + blob))
    commit = greet.git("rev-parse", "odd")
    assert "has a file named" in failing(IntegrityError, store, GitRef(commit), greet.url).message


def test_a_name_that_comes_twice_is_refused(store: Store, greet: Upstream) -> None:
    blob = bytes.fromhex(greet.git("rev-parse", "HEAD:configure"))
    item = b"100644 a\0" + blob
    commit = tree(greet, item, item)
    greet.git("update-ref", "refs/heads/odd", commit)
    assert "twice" in failing(IntegrityError, store, GitRef(commit), greet.url).message


def test_modes_with_a_zero_before_them_are_the_same(store: Store, greet: Upstream) -> None:
    """As some old programs wrote them; git takes them."""
    below = bytes.fromhex(greet.git("rev-parse", "HEAD:src"))
    usual, old = (tree(greet, mode + b" src\0" + below) for mode in (b"40000", b"040000"))
    for commit in (usual, old):
        greet.git("update-ref", f"refs/heads/{commit}", commit)
    digests = {packed(store, GitRef(commit), greet.url).digest for commit in (usual, old)}
    assert usual != old
    assert len(digests) == 1


def test_a_tree_that_multiplies_is_refused(store: Store, greet: Upstream) -> None:
    """A "git bomb": ten trees deep, each with ten times the one below, is 10^10 files."""
    below, mode = bytes.fromhex(greet.git("rev-parse", "HEAD:configure")), b"100644"
    for _ in range(10):
        items = b"".join(mode + b" %d\0" % number + below for number in range(10))
        argv = ("hash-object", "-t", "tree", "-w", "--stdin")
        below, mode = bytes.fromhex(greet.git(*argv, stdin=items)), b"40000"
    commit = greet.git("commit-tree", "-m", "bomb", below.hex())
    greet.git("update-ref", "refs/heads/bomb", commit)
    assert "too many files" in failing(IntegrityError, store, GitRef(commit), greet.url).message


def test_without_git_it_says_so(
    store: Store, greet: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(FetchError, match="git, which is not installed") as caught:
        packed(store, GitRef("", "v1.0"), greet.url)
    assert "apt install git" in str(caught.value.hint)


def test_nothing_is_left_of_a_fetch(store: Store, greet: Upstream) -> None:
    packed(store, GitRef("", "v1.0"), greet.url)
    with pytest.raises(FetchError):
        packed(store, GitRef("1" * 40), greet.url)
    assert not [*store.root.rglob("*.pack")]
    listing = subprocess.run(("ps", "-eo", "args"), capture_output=True, text=True, check=True)
    assert str(store.root) not in listing.stdout


@pytest.mark.parametrize(
    ("base", "written", "found"),
    [
        ("https://example.org/a/b.git", "../c.git", "https://example.org/a/c.git"),
        ("https://example.org/a/b.git/", "../../x/c", "https://example.org/x/c"),
        ("ssh://git@example.org/a/b", "./c", "ssh://git@example.org/a/b/c"),
        ("https://example.org/a/b", "https://other.example/c", "https://other.example/c"),
        ("file:///srv/b", "../c", "file:///srv/c"),
    ],
)
def test_submodule_urls(base: str, written: str, found: str) -> None:
    assert submodule_url(base, written) == found


@pytest.mark.parametrize(
    "written", ["../../../c", "../../../../c", "http://x/y", "/etc", "https://me:secret@x/y"]
)
def test_submodule_urls_that_lead_elsewhere(written: str) -> None:
    with pytest.raises(ValueError, match=r"leads out of|neither https"):
        submodule_url("https://example.org/a/b", written)
