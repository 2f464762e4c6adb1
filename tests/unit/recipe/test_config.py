"""Settings: which file wins, what each says, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildit.commands import stamp
from buildit.errors import RecipeError, UsageError
from buildit.model.config import Config, Directory, Limits
from buildit.model.use import Assignment
from buildit.recipe.config import CONFIG_FILE, ConfigSpec, load_config, shipped_files

pytestmark = pytest.mark.unit


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "project" / "containers" / "web"
    directory.mkdir(parents=True)
    return directory


def _environ(directory: Path, **more: str) -> dict[str, str]:
    home = next(one for one in directory.parents if one.name == "project").parent / "home"
    return {"HOME": str(home), **more}


def _load(directory: Path, text: str | None = None, **more: str) -> Config:
    if text is not None:
        (directory / CONFIG_FILE).write_text(text)
    return load_config(directory, _environ(directory, **more)).config


def _users(directory: Path, text: str) -> None:
    path = Path(_environ(directory)["HOME"]) / ".config" / "buildit" / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_shipped_settings_publish_to_a_directory(project: Path) -> None:
    config = _load(project)
    home = project.parents[2] / "home"
    binhost = str(home / ".local/share/buildit/binhost")
    (repository,) = config.repositories
    assert repository.upload == repository.download == Directory(binhost)
    assert repository.unsigned
    assert config.store == home / ".cache" / "buildit"
    assert config.jobs == len(os.sched_getaffinity(0))
    assert config.limits == Limits(processes=4096)
    (tree,) = config.trees
    assert tree == shipped_files()[1].parent / "pkgs"
    assert (tree / "www-servers/nginx/pkg.yaml").is_file()


def test_the_nearest_file_wins_over_the_users_own(project: Path) -> None:
    _users(project, "store: /own\njobs: 7\nsigning-key: ~/.ssh/id_ed25519\n")
    (project.parent.parent / CONFIG_FILE).write_text("store: ./cache\ntrees: [pkgs, /opt/tree]\n")
    loaded = load_config(project, _environ(project))
    config = loaded.config
    assert config.store == project.parent.parent / "cache"
    assert config.jobs == 7
    assert config.trees == (project.parent.parent / "pkgs", Path("/opt/tree"))
    assert config.trust.keys.ssh == str(project.parents[2] / "home/.ssh/id_ed25519")
    assert config.origins["store"].endswith(f"project/{CONFIG_FILE}:1")
    assert config.origins["jobs"].endswith("buildit/config.yaml:2")
    assert config.origins["limits.log"] == "default"


def test_every_file_that_could_change_the_settings_is_named(project: Path) -> None:
    (project.parent / CONFIG_FILE).write_text("jobs: 1\n")
    loaded = load_config(project, _environ(project))
    own = project.parents[2] / "home/.config/buildit/config.yaml"
    assert loaded.consulted == (
        project / CONFIG_FILE,
        project.parent / CONFIG_FILE,
        own,
        *shipped_files(),
        own.with_name("allowed_signers"),
    )


def test_a_list_of_signers_of_one_s_own_is_found_where_no_file_names_one(project: Path) -> None:
    mine = project.parents[2] / "home/.config/buildit/allowed_signers"
    assert _load(project, "jobs: 1\n").trust.allowed_signers == ""
    mine.parent.mkdir(parents=True)
    mine.touch()
    config = _load(project, "jobs: 1\n")
    assert config.trust.allowed_signers == str(mine)
    assert config.origins["trust.allowed-signers"] == "default"
    config = _load(project, "trust: {allowed-signers: signers}\n")
    assert config.trust.allowed_signers == str(project / "signers")


def test_keys_of_both_kinds(project: Path) -> None:
    config = _load(project, f"signing-key: [~/key, gpg:{'ab' * 20}]\n")
    assert config.trust.keys.ssh == str(project.parents[2] / "home/key")
    assert config.trust.keys.openpgp == "AB" * 20
    config = _load(project, f"signing-key: gpg:{'ab' * 20}\n")
    assert (config.trust.keys.ssh, config.trust.keys.openpgp) == ("", "AB" * 20)
    config = _load(project, f"signing-key: agent:SHA256:{'x' * 43}\n")
    assert config.trust.keys.ssh == f"agent:SHA256:{'x' * 43}"


def test_a_repository_may_have_signers_of_its_own(project: Path) -> None:
    text = "repository: {name: a, download-type: file, download-path: /b, allowed-signers: s}\n"
    config = _load(project, text)
    (repository,) = config.repositories
    assert config.trust.own_signers == {repository.name: str(project / "s")}


def test_environment_over_files(project: Path, tmp_path: Path) -> None:
    assert _load(project, "store: /a\n", BUILDIT_STORE="/b").store == Path("/b")
    assert _load(project, "jobs: 1\n", XDG_CACHE_HOME="/c").store == Path("/c/buildit")
    relative = _load(project, "jobs: 1\n", XDG_CACHE_HOME="c")
    assert relative.store == tmp_path / "home/.cache/buildit"


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `docker run -u 12345`: HOME is not set, and no passwd entry says one."""
    monkeypatch.setattr(os, "getuid", lambda: 3_999_999_999)


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("home", [{}, {"HOME": ""}])
def test_without_a_home_a_named_store_is_enough(project: Path, home: dict[str, str]) -> None:
    named = load_config(project, {**home, "BUILDIT_STORE": "/s"})
    assert named.config.store == Path("/s")
    assert named.config.repositories == ()  # the shipped one is below the home directory
    assert load_config(project, {**home, "XDG_CACHE_HOME": "/c"}).config.store == Path("/c/buildit")
    (project / CONFIG_FILE).write_text("store: /a\n")
    assert load_config(project, home).config.store == Path("/a")
    assert all(path.is_absolute() for path in named.consulted)


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize(
    "text", ["jobs: 1\n", "store: ~/x\n", "store: /a\nsigning-key: ~/.ssh/id\n"]
)
def test_without_a_home_nothing_is_put_below_it(project: Path, text: str) -> None:
    (project / CONFIG_FILE).write_text(text)
    with pytest.raises(UsageError, match="user 3999999999 has no passwd entry") as caught:
        load_config(project, {})
    assert "BUILDIT_STORE" in str(caught.value.hint)


@pytest.mark.parametrize("home", ["home", "./home", "~"])
def test_a_relative_home_is_refused(project: Path, home: str) -> None:
    with pytest.raises(UsageError, match="no absolute path"):
        load_config(project, {"HOME": home, "BUILDIT_STORE": "/s"})


@pytest.mark.usefixtures("homeless")
def test_without_a_home_there_are_no_stamps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "BUILDIT_STORE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert stamp.directory() == Path("/dev/null/buildit/cache/stamps")
    assert stamp.read("x") is None
    stamp.write("x", [], {})
    stamp.forget("x")
    monkeypatch.setenv("XDG_CACHE_HOME", "c")  # ignored, as the store's place does
    assert stamp.directory() == Path("/dev/null/buildit/cache/stamps")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert stamp.directory() == Path("/c/buildit/cache/stamps")


def test_maps_merge_and_flags_add_up(project: Path) -> None:
    _users(
        project,
        "mirrors: {cpan: [https://a.example.org], gnu: [https://b.example.org]}\n"
        "limits: {memory: 4G, time: 2h}\n"
        "use: [ipv6]\n",
    )
    config = _load(
        project,
        "mirrors: {gnu: [https://c.example.org]}\n"
        "limits: {memory: 512M}\n"
        "use:\n  flags: [-ipv6]\n  packages:\n    www-servers/nginx: [tls=openssl]\n",
    )
    assert config.mirrors == {"cpan": ("https://a.example.org",), "gnu": ("https://c.example.org",)}
    assert config.limits == Limits(512 << 20, 4096, 7200.0)
    assert [layer.assignments[0].value for layer in config.use] == [True, False]
    assert all(layer.every_package for layer in config.use)
    (layer,) = config.package_use["www-servers/nginx"]
    (assignment,) = layer.assignments
    assert assignment == Assignment("tls", "openssl", assignment.origin)
    assert assignment.origin.endswith(f"{CONFIG_FILE}:6")


def test_repositories(project: Path) -> None:
    config = _load(
        project,
        "repositories:\n"
        "  - name: work\n"
        "    upload-type: ssh\n"
        "    upload-path: me@example.org//srv/buildit\n"
        "    download-type: https\n"
        "    download-path: example.org/buildit\n"
        "  - {name: disk, download-type: file, download-path: ../disk}\n",
    )
    work, disk = config.repositories
    assert str(work.upload) == "ssh://me@example.org//srv/buildit"
    assert str(work.download) == "https://example.org/buildit"
    assert disk.upload is None
    assert str(disk.download) == str(project.parent / "disk")


def test_trust(project: Path) -> None:
    config = _load(
        project,
        "trust:\n  allowed-signers: signers\n  packages: [{match: 'dev-libs/*', need: 2}]\n",
    )
    assert config.trust.allowed_signers == str(project / "signers")
    assert [(rule.match, rule.need) for rule in config.trust.agreement] == [("dev-libs/*", 2)]


_REPOSITORY = "repository: {name: a, download-type: %s, download-path: %s}\n"


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("stor: /x\n", "1:1", "unknown key 'stor'"),
        ("jobs: many\n", "1:7", "jobs: expected a whole number, found 'many'"),
        ("jobs: 0\n", "1:1", "jobs: expected at least 1, found 0"),
        ("- a\n", "1:1", "expected settings such as `store: …`"),
        ("jobs:\n", "1:6", "jobs: expected a whole number, found nothing"),
        ("limits: {memory: 0}\n", "1:9", "limits: memory: a limit of 0 lets nothing run"),
        ("limits: {memory: lots}\n", "1:18", "memory: expected a size, found 'lots'"),
        ("mirrors: {x: [file:///etc]}\n", "1:15", "x: a URL with file:// cannot be used here"),
        ("mirrors: {x: []}\n", "1:1", "the mirror list 'x' is empty"),
        ("repository: {name: a}\n", "1:13", "repository: a repository needs a way to it"),
        (
            "repository: {name: a, upload-type: ssh}\n",
            "1:13",
            "repository: the key 'upload-path' is missing",
        ),
        (
            "repository: {name: a, download-type: ftp, download-path: x/y}\n",
            "1:38",
            "download-type: expected one of ssh, https, file, oci; found 'ftp'",
        ),
        (
            _REPOSITORY % ("ssh", "'-oProxy=x/y'"),
            "1:13",
            "repository: download-path: expected user@host/path for ssh, found '-oProxy=x/y'",
        ),
        (
            "repository: {name: a, download-type: https, download-path: e.org/x, unsigned: on}\n",
            "1:13",
            "repository: unsigned is only possible where both types are file",
        ),
        ("repositories: []\nrepository: 5\n", "2:13", "repository: expected a mapping, found '5'"),
        ("signing-key: gpg:ABCD\n", "1:1", "signing-key: 'gpg:ABCD' is no whole fingerprint"),
        ("signing-key: [a, gpg:ABCD]\n", "1:1", "signing-key: 'gpg:ABCD' is no whole fingerprint"),
        ("signing-key: [a, b]\n", "1:1", "signing-key: more than one key of a kind"),
        ("use: [ipv6=on]\n", "1", "malformed flag 'ipv6=on': a flag is switched by its sign"),
        ("trust: {packages: [{match: x, need: 0}]}\n", "1:20", None),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    project: Path, text: str, place: str, message: str | None
) -> None:
    with pytest.raises(RecipeError) as caught:
        _load(project, text)
    assert str(caught.value.place).endswith(f"{CONFIG_FILE}:{place}")
    assert message is None or caught.value.message == message
    assert caught.value.hint


def test_a_strangers_file_is_refused(project: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to somebody else")
    (project.parent / CONFIG_FILE).write_text("jobs: 1\n")
    os.chown(project.parent / CONFIG_FILE, 12345, 12345)
    with pytest.raises(RecipeError, match="belongs to another user"):
        _load(project)
    os.chown(project, 12345, 12345)  # the one whose container it is may say how it is built
    assert _load(project).jobs == 1


def test_a_directory_of_that_name_is_an_error(project: Path) -> None:
    (project / CONFIG_FILE).mkdir()
    with pytest.raises(RecipeError, match="expected a file, found a directory"):
        _load(project)


def test_the_schema_names_every_key() -> None:
    properties = ConfigSpec.model_json_schema()["properties"]
    assert tuple(properties) == ConfigSpec.keys()
    assert all("description" in one for one in properties.values())


def test_the_shipped_file_is_last_even_where_it_is_the_nearest(project: Path) -> None:
    _users(project, "trees: [/own]\n")
    container = shipped_files()[1].parent / "containers" / "nginx-prod"
    loaded = load_config(container, _environ(project))
    assert loaded.config.trees == (Path("/own"),)
    assert loaded.config.repositories[0].name == "local"
    assert shipped_files()[1] in loaded.consulted
