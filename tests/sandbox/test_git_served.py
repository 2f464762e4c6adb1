"""git sources of real servers on loopback: a TLS server with git's own backend, and sshd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from buildit.errors import BuilditError, FetchError, IntegrityError
from buildit.events import Event, LocationFailed, Notice
from buildit.model.sources import GitRef
from buildit.remote.git.commit import pack_commit
from buildit.store.cas import Store
from tests.git_server import git_over_https
from tests.gitting import Upstream, upstream
from tests.servers import Certificates, Sshd, certificates, keygen, sshd

pytestmark = pytest.mark.sandbox

POINTER = "version https://git-lfs.example.org/spec/v1\noid sha256:{}\nsize 1\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    with sshd(tmp_path / "sshd") as running:
        monkeypatch.setenv("BUILDIT_SSH", running.program)
        yield running


@pytest.fixture
def https(tmp_path: Path, made: Certificates, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("GIT_SSL_CAINFO", str(made.authority))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with git_over_https(tmp_path / "git", made) as url:
        yield url


@pytest.fixture
def greet(tmp_path: Path) -> Upstream:
    """A repository with a submodule beside it, and two commits, of which the first has a tag."""
    inner = upstream(tmp_path / "git/inner")
    inner.write("inner.h", "inner\n")
    inner.commit()
    greet = upstream(tmp_path / "git/greet")
    greet.write("greet.c", "int greet;\n")
    greet.write("picture.png", POINTER.format("0" * 64))
    greet.write(".gitattributes", "*.png filter=lfs\n")
    greet.git("submodule", "--quiet", "add", "../inner", "inner")
    greet.commit("v1.0")
    inner.write("inner.h", "newer\n")
    inner.commit()
    greet.write("greet.c", "int newer;\n")
    greet.commit()
    return greet


def test_file_https_and_ssh_give_one_identity(
    store: Store, greet: Upstream, https: str, server: Sshd
) -> None:
    commit = greet.git("rev-parse", "v1.0^{commit}")
    told: list[Event] = []
    found = {
        pack_commit((place,), ref, "greet.tar", store, told.append)
        for place, ref in (
            (greet.url, GitRef(commit)),
            (f"{https}/greet", GitRef("", "v1.0")),
            (f"{https}/greet", GitRef(commit)),
            (server.url(greet.path), GitRef(commit, "v1.0")),
        )
    }
    assert [one.commit for one in found] == [commit]
    [warning] = {one.message for one in told if isinstance(one, Notice)}
    assert "1 file of Git LFS: the source has the pointers, not" in warning
    assert "(picture.png)" in warning
    assert not [one for one in told if isinstance(one, LocationFailed)]


def failing(store: Store, url: str, ref: GitRef, kind: type[BuilditError] = FetchError) -> str:
    """What is said where a place has not what is wanted: message, hint and details as one text."""
    with pytest.raises(kind) as caught:
        pack_commit((url,), ref, "greet.tar", store, lambda _: None)
    assert caught.value.hint
    return "\n".join((caught.value.message, str(caught.value.hint), *caught.value.details))


def test_what_a_server_does_not_give_is_said(
    store: Store, greet: Upstream, https: str, server: Sshd, tmp_path: Path
) -> None:
    tag, commit = GitRef("", "v1.0"), greet.git("rev-parse", "v1.0^{commit}")
    greet.git("tag", "--force", "v1.0", "HEAD")
    for url in (f"{https}/greet", server.url(greet.path)):
        assert "it has no such commit" in failing(store, url, GitRef("1" * 40))
        assert "did you mean v1.0?" in failing(store, url, GitRef("", "v1"))
        assert "has moved" in failing(store, url, GitRef(commit, "v1.0"), IntegrityError)
    assert "not found" in failing(store, f"{https}/gone", tag)
    assert "not appear to be a git repository" in failing(store, server.url(tmp_path), tag)
    assert "~/.netrc" in failing(store, f"{https}/private/greet", tag)
    assert "name its https URL" in failing(store, f"{https}/plain/greet", tag)


def test_a_host_that_is_not_known_is_not_asked(
    store: Store,
    greet: Upstream,
    https: str,
    server: Sshd,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strange = certificates(tmp_path / "strange")
    monkeypatch.setenv("GIT_SSL_CAINFO", str(strange.authority))
    assert "certificate" in failing(store, f"{https}/greet", GitRef("", "v1.0"))
    server.known_hosts.write_text("")
    told = failing(store, server.url(greet.path), GitRef("", "v1.0"))
    assert "connect to it once by hand" in told
    server.know()
    server.user_key.unlink()
    keygen(server.user_key)
    told = failing(store, server.url(greet.path), GitRef("", "v1.0"))
    assert "may this user read it?" in told
