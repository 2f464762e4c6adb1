"""`from`: images that others made, taken in below what a container adds; real files and a store."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildit.cli.planned import plan_lines, plan_plain
from buildit.commands.building import build
from buildit.commands.forecast import forecast
from buildit.commands.run import Options, Prepared, opened_run, prepare, read_lock
from buildit.errors import (
    BuilditError,
    FetchError,
    IntegrityError,
    RecipeError,
    UnsatisfiableError,
    UsageError,
)
from buildit.events import Event, Notice, Reporter, silent
from buildit.image.launch import launch_of
from buildit.image.verify import read_image, verify
from buildit.make.makers import make_task
from buildit.model.tree import Entry, Kind
from buildit.store.cas import Store
from buildit.store.upkeep import collect
from tests import base_images
from tests.base_images import BOTTOM, TOP, Foreign, device, folder, member, sha, symbolic, tar
from tests.making import place
from tests.odd_registry import odd_registry
from tests.planning import PLATFORM, Checkout, checkout

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(PLATFORM.arch != "amd64", reason="the images are for amd64"),
]

FORMATS = ("aci", "oci", "oci-archive", "docker-archive", "rootfs", "lxc", "squashfs", "nspawn")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Checkout]:
    before = {name: os.environ.get(name) for name in ("BUILDIT_STORE", "HOME")}
    os.environ["BUILDIT_STORE"] = str(tmp_path / "store")
    os.environ["HOME"] = str(tmp_path)
    made = checkout(tmp_path)
    made.write(".buildit-config.yaml", "trees: [./pkgs]\nrepositories: []\n")
    made.write("container/index.html", "hello")
    yield made
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def write(project: Checkout, first: str, *steps: str, types: tuple[str, ...] = ("oci",)) -> None:
    images = [f"- image: {{type: {one}}}" for one in types]
    begin = "- vars: {name: web, version: 1.0}"
    text = "\n".join((begin, f"- from: {first}", *steps, *images))
    project.write("container/container.yaml", text + "\n")


def options(project: Checkout, **more: Any) -> Options:
    given = Options(project.container, project.root / "out", offline=True)
    return replace(given, **more)


def built(project: Checkout, report: Reporter = silent, **more: Any) -> dict[str, Path]:
    found = build(options(project, **more), report, threading.Event())
    return {one.format: one.path for one in found}


def plan(project: Checkout, **more: Any) -> Prepared:
    return prepare(options(project, **more), silent)


def tree(path: Path) -> dict[str, Entry]:
    reading = read_image(path)
    assert reading.problems == ()
    return {one.path: one for one in reading.entries or ()}


def documents(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest and the config of a layout."""

    def blob(descriptor: dict[str, Any]) -> dict[str, Any]:
        found = path / "blobs/sha256" / descriptor["digest"].removeprefix("sha256:")
        return dict(json.loads(found.read_bytes()))

    (named,) = json.loads((path / "index.json").read_bytes())["manifests"]
    manifest = blob(named)
    return manifest, blob(manifest["config"])


SYNC = "- sync: {src: ./index.html, dest: /srv/index.html}"


def test_a_layout_lies_below_and_all_formats_hold_the_tree(project: Checkout) -> None:
    Foreign().layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}", SYNC, types=FORMATS)
    found = built(project)
    assert verify([*found.values()]).passed()
    inside = tree(found["oci"])
    assert {path for path in inside if path.startswith("srv")} == {
        *("srv", "srv/gone", "srv/gone/y", "srv/index.html", "srv/link", "srv/new")
    }
    assert (inside["srv"].uid, inside["srv"].gid) == (101, 102)
    assert (inside["srv/new"].mode, inside["srv/new"].uid) == (0o640, 101)
    assert (inside["usr/bin/su"].mode, inside["tmp"].mode) == (0o4755, 0o1777)
    first, second = inside["usr/bin/app"], inside["usr/bin/z-app"]
    assert (first.kind, second.kind, second.target) == (Kind.FILE, Kind.HARDLINK, "usr/bin/app")


def test_layers_stay_byte_for_byte(project: Checkout) -> None:
    Foreign().layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}", SYNC)
    path = built(project)["oci"]
    assert (path / "blobs/sha256" / sha(BOTTOM)).read_bytes() == BOTTOM
    _, config = documents(path)
    assert config["rootfs"]["diff_ids"][:2] == [f"sha256:{sha(BOTTOM)}", f"sha256:{sha(TOP)}"]


def test_what_the_base_says_holds_where_the_container_says_nothing(project: Checkout) -> None:
    Foreign().layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}", "- env: {MODE: own}", "- labels: {more: x}")
    _, config = documents(built(project)["oci"])
    said = config["config"]
    assert (said["Entrypoint"], said["Cmd"]) == (["app"], ["-v"])  # its own words, as Docker's FROM
    assert said["Env"] == ["PATH=/bin:/usr/bin", "MODE=own"]
    assert (said["User"], said["WorkingDir"], said["StopSignal"]) == ("101", "/srv", "SIGQUIT")
    assert (said["ExposedPorts"], said["Volumes"]) == ({"80/tcp": {}}, {"/srv": {}})
    assert said["Healthcheck"] == {"Test": ["CMD-SHELL", "app ping"], "Interval": 2_000_000_000}
    labels = said["Labels"]
    assert (labels["tier"], labels["more"]) == ("base", "x")
    assert labels["org.opencontainers.image.version"] == "1.0"


def test_what_the_base_says_holds_where_nothing_runs(project: Checkout) -> None:
    Foreign(section={"Env": ["A=b"], "Labels": {"x": "y"}}).layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}", types=FORMATS)
    found = built(project)
    _, config = documents(found["oci"])
    said = config["config"]
    assert (said["Env"], said["Labels"]["x"]) == (["A=b"], "y")
    assert not said.keys() & {"Entrypoint", "Cmd", "User"}
    assert verify([*found.values()]).passed()


def test_of_a_command_what_docker_would_leave(project: Checkout) -> None:
    section = {"Entrypoint": ["app"], "Cmd": ["-v"], "Env": ["PATH=/usr/bin"]}
    Foreign(section=section).layout(project.root / "base.oci")
    for said, words in {
        "- entrypoint: [su]": (["su"], None),
        "- cmd: [-x]": (["app"], ["-x"]),
        "- entrypoint: []\n- cmd: [su, -l]": (None, ["su", "-l"]),
        "- cmd: [su, -l]\n- entrypoint: [app]": (["app"], ["su", "-l"]),
        "- cmd: []": (["app"], None),
    }.items():
        write(project, "{oci: oci:../base.oci}", said)
        _, config = documents(built(project)["oci"])
        found = config["config"]
        assert (found.get("Entrypoint"), found.get("Cmd")) == words
    write(project, "{oci: oci:../base.oci}", "- cmd: [-x, 'a b']", types=("aci", "nspawn"))
    found = built(project)
    started = launch_of("nspawn", read_image(found["nspawn"]).start)
    assert started.argv == ("/usr/bin/app", "-x", "a b")
    assert launch_of("aci", read_image(found["aci"]).start).argv == started.argv


def test_what_only_a_dockerfile_over_it_needs_is_kept(project: Checkout) -> None:
    Foreign(section={"Shell": ["/bin/bash", "-c"], "OnBuild": ["COPY . /srv"]}).layout(
        project.root / "base.oci"
    )
    own = ("- onbuild: [RUN make]", "- healthcheck: {none: yes}")
    write(project, "{oci: oci:../base.oci}", *own)
    _, config = documents(built(project)["oci"])
    said = config["config"]
    assert (said["Shell"], said["OnBuild"]) == (["/bin/bash", "-c"], ["RUN make"])
    assert said["Healthcheck"] == {"Test": ["NONE"]}


def test_what_the_container_says_counts(project: Checkout) -> None:
    Foreign().layout(project.root / "base.oci")
    app = "- app: {exec: [/usr/bin/su], user: '7', working-directory: /, ports: [443]}"
    write(project, "{oci: oci:../base.oci}", app)
    _, config = documents(built(project)["oci"])
    said = config["config"]
    assert (said["Entrypoint"], said.get("Cmd")) == (["/usr/bin/su"], None)
    assert (said["User"], said["WorkingDir"]) == ("7", "/")
    assert said["ExposedPorts"] == {"80/tcp": {}, "443/tcp": {}}
    assert said["StopSignal"] == "SIGQUIT"


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive", "aci"])
def test_archives(project: Checkout, kind: str) -> None:
    if kind == "oci-archive":
        Foreign().layout(project.root / "l")
        names = sorted(path for path in (project.root / "l").rglob("*") if path.is_file())
        packed = [member(str(p.relative_to(project.root / "l")), p.read_bytes()) for p in names]
        (project.root / "base.tar").write_bytes(tar(*packed))
        shutil.rmtree(project.root / "l")
        write(project, "{oci: oci-archive:../base.tar}", SYNC)
    elif kind == "docker-archive":
        Foreign().docker(project.root / "base.tar")
        write(project, "{docker-archive: ../base.tar}", SYNC)
    else:
        base_images.aci(project.root / "base.aci")
        write(project, "{aci: ../base.aci}", SYNC)
    path = built(project)["oci"]
    inside, (_, config) = tree(path), documents(path)
    assert "srv/index.html" in inside
    assert inside["usr/bin/z-app"].target == "usr/bin/app"
    assert inside["usr/bin/su"].mode == 0o4755
    assert config["config"]["Entrypoint"][0] == ("/usr/bin/app" if kind == "aci" else "app")
    assert config["config"]["User"].startswith("101")


def test_the_key_is_of_digests_alone(project: Checkout) -> None:
    Foreign().layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}")
    first = plan(project).plan.tasks[0]
    (project.root / "base.oci").rename(project.root / "other")
    write(project, "{oci: oci:../other}")
    other = plan(project).plan.tasks[0]
    assert (first.key, first.label) == (other.key, "from oci:../base.oci")
    shutil.rmtree(project.root / "other")
    Foreign(section={}).layout(project.root / "other")
    assert plan(project).plan.tasks[0].key != first.key


def test_the_lock_pins_the_manifest(project: Checkout) -> None:
    base = Foreign().layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}")
    built(project)
    manifest, _ = Foreign().manifest()
    section = read_lock(project.container).section(str(PLATFORM))
    assert section.images == {"oci:../base.oci": sha(manifest)}
    shutil.rmtree(base)
    Foreign((BOTTOM,)).layout(base)
    with pytest.raises(UnsatisfiableError, match="the lock would change") as caught:
        built(project, locked=True)
    assert any("oci:../base.oci" in line for line in caught.value.details)
    told: list[str] = []
    built(project, lambda e: told.append(e.message) if isinstance(e, Notice) else None)
    assert any(line.startswith("lock: image oci:../base.oci") for line in told)


def test_the_plan_lists_set_id_bits(project: Checkout) -> None:
    Foreign().layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}")
    prepared = plan(project)

    def lines() -> tuple[tuple[str, ...], dict[str, Any]]:
        with Store.open(project.root / "store") as store:
            settings = prepared.settings
            with opened_run(settings, store, silent, offline=True) as run:
                found = forecast(prepared.plan, store, run.remotes)
        return plan_lines(prepared.plan, found), plan_plain(prepared.plan, found)

    before, _ = lines()
    assert any("from oci:../base.oci" in line and "to take in" in line for line in before)
    built(project)
    after, plain = lines()
    assert "  /usr/bin/su (4755) of from oci:../base.oci" in after
    assert plain["from"]["set_ids"] == {"usr/bin/su": "4755"}
    assert plain["packages"] == []


def test_layers_of_a_base_replace_each_other_as_clients_lay_them(project: Checkout) -> None:
    layers = (
        tar(folder("d"), member("d/x", b"x"), member("f", b"f"), symbolic("l", "d")),
        tar(member("d", b"now a file"), folder("f"), member("f/y", b"y"), folder("l")),
    )
    Foreign(layers, {}).layout(project.root / "base.oci")
    types = ("oci", "rootfs", "squashfs", "aci")
    write(project, "{oci: oci:../base.oci}", types=types)
    found = built(project)
    assert verify([*found.values()]).passed()
    inside = tree(found["oci"])
    assert {path: one.kind for path, one in inside.items() if path} == {
        "d": Kind.FILE,
        "f": Kind.DIRECTORY,
        "f/y": Kind.FILE,
        "l": Kind.DIRECTORY,
    }


def test_more_layers_than_an_image_may_have(project: Checkout) -> None:
    layers = [
        tar(folder("d"), member(f"d/{n}", b"x"), member(f"d/.wh.{n - 1}")) for n in range(120)
    ]
    Foreign(layers, {}).layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}", types=("oci", "rootfs"))
    found = built(project)
    assert verify([*found.values()]).passed()
    assert {*tree(found["oci"])} == {"", "d", "d/119"}
    assert len(documents(found["oci"])[0]["layers"]) == 100


def test_devices_are_left_out_with_a_word(project: Checkout) -> None:
    below = tar(folder("dev"), member("dev/old"), member("dev/x", b"x"))
    layer = tar(folder("dev"), device("dev/null"), member("dev/.wh.old"), member("a", b"a"))
    Foreign((below, layer), {}).layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}", types=("oci", "squashfs"))
    told: list[str] = []
    found = built(project, lambda e: told.append(e.message) if isinstance(e, Notice) else None)
    assert verify([*found.values()]).passed()
    assert {*tree(found["oci"])} == {"", "a", "dev", "dev/x"}
    assert any("'dev/null' is a character device" in line for line in told)


def test_what_is_collected_is_taken_in_again(project: Checkout) -> None:
    Foreign().layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}", SYNC)
    before = tree(built(project)["oci"])
    shutil.rmtree(project.root / "out")
    with Store.open(project.root / "store") as store:
        for path in (store.root / "k").rglob("*"):
            if path.is_file():
                path.unlink()
        collect(store)
    assert tree(built(project)["oci"]) == before


def test_accounts_are_added_to_those_of_the_base(project: Checkout) -> None:
    Foreign().layout(project.root / "base.oci")
    more = ("- groups: {db: {gid: 200}}", "- users: {db: {uid: 200, gid: 200}}")
    write(project, "{oci: oci:../base.oci}", *more)
    path = built(project)["oci"]
    found = [
        (path / "blobs/sha256" / one["digest"][7:]).read_bytes()
        for one in documents(path)[0]["layers"]
    ]
    assert any(base_images.PASSWD + b"db:x:200:200:" in one for one in found)
    assert any(base_images.GROUP + b"db:x:200:\n" in one for one in found)
    clash = ("- groups: {web: {gid: 102}}", "- users: {web: {uid: 7, gid: 102}}")
    write(project, "{oci: oci:../base.oci}", *clash)
    with pytest.raises(RecipeError, match=r"the user web \(7:102\) is web \(101:102\) in the base"):
        built(project)


def test_owners_by_names_of_the_base(project: Checkout) -> None:
    Foreign().layout(project.root / "base.oci")
    steps = (
        "- groups: {db: {gid: 200}}",
        "- sync: {src: index.html, dest: /srv/index.html, owner: 'web:db'}",
        "- directories: [{path: /srv/cache, owner: web, mode: 0700}]",
        "- modes: [{path: /usr/bin/su, owner: 'root:web'}]",
        "- user: web",
    )
    write(project, "{oci: oci:../base.oci}", *steps)
    path = built(project)["oci"]
    found = tree(path)
    owners = {one: (found[one].uid, found[one].gid) for one in ("srv/index.html", "srv/cache")}
    assert owners == {"srv/index.html": (101, 200), "srv/cache": (101, 102)}
    assert (found["usr/bin/su"].uid, found["usr/bin/su"].gid) == (0, 102)
    assert documents(path)[1]["config"]["User"] == "101"


@pytest.mark.parametrize(
    ("step", "place"),
    [
        ("- sync: {src: index.html, dest: /srv/index.html, owner: ghost}", "container.yaml:3:3"),
        ("- directories: [{path: /srv/cache, owner: 'web:ghost'}]", "container.yaml:3:17"),
        ("- modes: [{path: /usr/bin/su, owner: ghost}]", "container.yaml:3:11"),
    ],
)
def test_an_owner_that_the_base_does_not_know(project: Checkout, step: str, place: str) -> None:
    Foreign().layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}", step)
    _fails(project, "the image has no account for the owner '", place)


# -- a registry


def test_a_registry_is_asked_once(project: Checkout) -> None:
    manifest, blobs = Foreign().manifest()
    with odd_registry() as there:
        for content in blobs.values():
            there.put_blob(content, "application/octet-stream")
        digest = there.put_manifest(json.loads(manifest), tag="12")["digest"][7:]
        reference = f"docker://{there.host}/base:12"
        write(project, f"{{oci: '{reference}'}}", SYNC)
        path = built(project, offline=False)["oci"]
        assert "srv/index.html" in tree(path)
        there.asked.clear()
        there.put_manifest(json.loads(Foreign((BOTTOM,)).manifest()[0]), tag="12")
        built(project, offline=False)
        assert there.asked == []
    section = read_lock(project.container).section(str(PLATFORM))
    assert [*section.images.values()] == [digest]
    built(project)  # offline: all is at hand


def test_offline_says_what_is_missing(project: Checkout) -> None:
    write(project, "{oci: 'docker://127.0.0.1:1/base:12'}")
    with pytest.raises(FetchError, match="--offline forbids") as caught:
        built(project)
    assert str(caught.value.place).endswith("container.yaml:2:15")


# -- what is wrong


def _damaged(base: Path, content: bytes) -> None:
    manifest = json.loads(Foreign().manifest()[0])
    digest = manifest["layers"][0]["digest"].removeprefix("sha256:")
    (base / "blobs/sha256" / digest).write_bytes(content)


HOSTILE = [
    (tar(folder("a"), member("a/.wh.")), "whiteout of nothing"),
    (tar(member(".wh..")), "whiteout of nothing"),
    (tar(folder(".wh.x")), "is a whiteout by its name"),
    (tar(member("../x", b"x")), "holds '..'"),
    (tar(member("a", b"1"), member("a", b"2")), "appears twice"),
    (
        tar(member("a", b"1", pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/etc"})),
        "hides files",
    ),
    (tar(symbolic("a", "/etc"), member("a/x", b"x")), "which is a symlink"),
]


@pytest.mark.parametrize(("layer", "told"), HOSTILE, ids=[told for _, told in HOSTILE])
def test_hostile_layers(project: Checkout, layer: bytes, told: str) -> None:
    Foreign((layer,)).layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}")
    _fails(project, told)
    assert not (project.root / "out").exists() or not [*(project.root / "out").iterdir()]


def _fails(project: Checkout, told: str, place: str = "container.yaml:2:15") -> BuilditError:
    with pytest.raises(BuilditError) as caught:
        built(project)
    assert told in caught.value.message
    assert place in str(caught.value.place)
    assert caught.value.hint
    return caught.value


def test_a_layer_that_goes_through_a_link_of_another(project: Checkout) -> None:
    layers = (tar(symbolic("a", "/etc")), tar(member("a/x", b"x")))
    Foreign(layers, {}).layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}")
    with pytest.raises(RecipeError, match="layers clash at 'a'"):
        built(project)


def test_wrong_digests(project: Checkout) -> None:
    base = Foreign().layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}")
    _damaged(base, b"x" * 100)
    _fails(project, "layer 0 is not of the digest and size that name it", ":2:15")
    shutil.rmtree(base)
    Foreign().layout(base)
    index = json.loads((base / "index.json").read_text())
    named = base / "blobs/sha256" / index["manifests"][0]["digest"][7:]
    named.write_bytes(named.read_bytes() + b" ")
    _fails(project, "the manifest is not of the digest and size that name it", ":2:15")


def test_a_wrong_diff_id(project: Checkout) -> None:
    class Lying(Foreign):
        def config(self) -> bytes:
            return super().config().replace(sha(TOP).encode(), b"0" * 64)

    Lying().layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}")
    _fails(project, "layer 1 is not of its diff_id", ":2:15")


@pytest.mark.parametrize(
    ("first", "told"),
    [
        ("{oci: oci:../nothing}", "cannot be read: No such file"),
        ("{oci: ../base.oci}", "names no image"),
        ("{oci: 'docker://h/UPPER'}", "names no image"),
        ("{docker-archive: ../container/index.html}", "it is no plain tar"),
        ("{aci: ../container/index.html}", "index.html"),
        ("{}", "expected exactly one image"),
        ("{oci: oci:x, aci: y}", "expected exactly one image"),
    ],
)
def test_no_image(project: Checkout, first: str, told: str) -> None:
    write(project, first)
    _fails(project, told, "container.yaml:2:")


def test_another_architecture(project: Checkout) -> None:
    Foreign(arch="arm64").layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}")
    _fails(project, "is for linux/arm64, the container for linux/amd64", ":2:15")


def test_an_aci_that_is_not_whole(project: Checkout) -> None:
    base_images.aci(project.root / "base.aci", dependencies=[{"imageName": "example.org/x"}])
    write(project, "{aci: ../base.aci}")
    _fails(project, "its manifest has `dependencies`", ":2:15")


def test_it_comes_first_and_once(project: Checkout) -> None:
    Foreign().layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}", "- from: {oci: oci:../base.oci}")
    _fails(project, "a container begins with one image", ":3:")
    text = "- vars: {name: web, version: 1.0}\n" + SYNC + "\n- from: {oci: oci:../base.oci}\n"
    project.write("container/container.yaml", text)
    _fails(project, "`from` lies below all", ":3:")
    project.write("container/container.yaml", text.replace(SYNC, "- run: {exec: [app]}"))
    _fails(project, "`from` lies below all", ":3:")


def test_a_program_that_is_nowhere(project: Checkout) -> None:
    Foreign(section={"Cmd": ["gone"], "Env": ["PATH=/usr/bin"]}).layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}")
    _fails(project, "the image runs 'gone', which is in no directory of its PATH", ":2:15")


def test_a_user_that_nobody_has(project: Checkout) -> None:
    section = {"Cmd": ["/usr/bin/app"], "User": "ghost"}
    Foreign(section=section).layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}")
    _fails(project, "runs as user 'ghost', which is no user of the image", ":2:15")


def test_a_base_that_changes_between(project: Checkout) -> None:
    base = Foreign().layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}")
    task = plan(project).plan.tasks[0]
    shutil.rmtree(base)
    Foreign((BOTTOM,)).layout(base)
    with (
        Store.open(project.root / "store") as store,
        pytest.raises(IntegrityError, match="changed since it was planned"),
    ):
        make_task(task, {}, place(store, project.container))


# -- another container


def other(project: Checkout, *steps: str, name: str = "base") -> Options:
    """A container beside, with the lock of the first, and how it is built."""
    begin = f"- vars: {{name: {name}, version: 1.0}}"
    text = "\n".join((begin, *steps, "- image: {type: oci}"))
    project.write(f"{name}/container.yaml", text + "\n")
    project.write(f"{name}/page", "of the base")
    if not (project.root / name / "buildit.lock").exists():
        shutil.copy(project.container / "buildit.lock", project.root / name)
    return options(project, directory=project.root / name)


DIRECTORIES = "- directories: [{path: /tmp, mode: 01777}, {path: /srv/www, owner: '7:8'}]"


def test_another_container(project: Checkout) -> None:
    page = "- sync: {src: ./page, dest: /srv/www/page}"
    asked = other(project, DIRECTORIES, page, "- labels: {tier: base}")
    write(project, "{container: ../base}", "- sync: {src: ./index.html, dest: /srv/www/}")
    with pytest.raises(RecipeError, match=r"the base container .* is not built") as unbuilt:
        plan(project)
    assert ":2:" in str(unbuilt.value.place)
    told: list[Event] = []
    path = built(project, told.append)["oci"]
    assert any("base is built first" in one.message for one in told if isinstance(one, Notice))
    (first,) = build(asked, silent, threading.Event())
    below, inside = tree(first.path), tree(path)
    assert {*inside} == {*below, "srv/www/index.html"}
    assert all(inside[one] == below[one] for one in below if one)
    assert inside["tmp"].mode == 0o1777
    assert documents(path)[1]["config"]["Labels"]["tier"] == "base"
    section = read_lock(project.container).section(str(PLATFORM))
    assert [*section.images] == ["container:../base"]
    project.write("base/page", "changed")
    with pytest.raises(UnsatisfiableError, match="the lock would change") as locked:
        built(project, locked=True)
    assert "base/buildit.lock" in str(locked.value.place)
    assert tree(built(project)["oci"])["srv/www/page"].size == len("changed")


def test_a_base_that_an_included_list_names_is_beside_that_list(project: Checkout) -> None:
    other(project, DIRECTORIES, name="lists/base")
    project.write("lists/deep/below.yaml", "- from: {container: ../base}\n")
    head, include = "- vars: {name: web, version: 1.0}\n", "- include: ../lists/deep/below.yaml\n"
    project.write("container/container.yaml", f"{head}{include}- image: {{type: oci}}\n")
    assert "srv/www" in tree(built(project)["oci"])


def test_containers_below_containers(project: Checkout) -> None:
    """All that is not built is built, the lowest first; what is there is found."""
    other(project, "- from: {container: ../lowest}", "- sync: {src: ./page, dest: /srv/middle}")
    other(project, DIRECTORIES, "- sync: {src: ./page, dest: /srv/low}", name="lowest")
    write(project, "{container: ../base}", SYNC)
    told: list[Event] = []
    inside = tree(built(project, told.append)["oci"])
    assert {"srv/low", "srv/middle", "srv/index.html"} <= {*inside}
    first = [one.message for one in told if isinstance(one, Notice) and "first" in one.message]
    assert [one.split(" is built first")[0].rpartition("/")[2] for one in first] == [
        "lowest",
        "base",
    ]
    told.clear()
    built(project, told.append)
    assert not [one for one in told if isinstance(one, Notice) and "first" in one.message]


def test_a_container_that_is_not_there_is_said_with_the_step(project: Checkout) -> None:
    write(project, "{container: ../nothere}")
    with pytest.raises(UsageError, match="nothere is not a directory") as error:
        plan(project)
    (told,) = error.value.details
    assert told.startswith("the container begins with it at ")
    assert ":2:21" in told


def test_containers_that_begin_with_each_other(project: Checkout) -> None:
    other(project, "- from: {container: ../container}")
    write(project, "{container: ../base}")
    error = _fails(project, "containers begin with each other", "base/container.yaml:2:")
    assert "/container -> " in error.message
    other(project, "- from: {container: ../third}")
    other(project, "- from: {container: ../container}", name="third")
    error = _fails(project, "containers begin with each other", "third/container.yaml:2:")
    assert error.message.count(" -> ") == 3
    write(project, "{container: .}")
    _fails(project, "containers begin with each other", "container/container.yaml:2:")


def test_a_container_without_packages_pins_no_toolchain(project: Checkout) -> None:
    (project.container / "buildit.lock").unlink()
    Foreign().layout(project.root / "base.oci")
    write(project, "{oci: oci:../base.oci}", SYNC)
    found = built(project)  # offline: no index is asked for
    assert "srv/index.html" in tree(found["oci"])
    assert "deb " not in (project.container / "buildit.lock").read_text()
