"""Names, apps and rules: the pure parts that emitters are made of."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildit.codec import from_plain, to_plain
from buildit.digest import Digest
from buildit.errors import RecipeError
from buildit.image import rules
from buildit.image.formats.aci import aci_app, manifest_problems
from buildit.image.formats.oci import app_section
from buildit.image.formats.table import output_name
from buildit.image.rules import AC_IDENTIFIER, ac_identifier, ac_name, check_app, check_tree, tag
from buildit.model.artifact import Encoding
from buildit.model.image import (
    ARCHITECTURES,
    SPELLINGS,
    App,
    Health,
    Inherited,
    Layer,
    Port,
    Volume,
    image_digest,
    inherited_digest,
)
from tests import appc
from tests.unit.image.samples import app, directory, file, image, link

pytestmark = pytest.mark.unit

LAYER = Layer(Digest("1" * 64), 1024, "x", Digest("2" * 64))


def test_every_spelling_names_one_machine() -> None:
    spellings = [name for machine in ARCHITECTURES for name in set(machine.spellings())]
    assert len(spellings) == len(set(spellings))
    for machine in ARCHITECTURES:
        assert {SPELLINGS[name] for name in machine.spellings()} == {machine}
    for unknown in ("arm", "ppc64", "", "AMD64"):
        with pytest.raises(RecipeError, match="unknown architecture"):
            rules.machine(replace(image((LAYER,), "oci"), arch=unknown))


def test_what_a_base_says_has_the_digest_that_it_always_had() -> None:
    app = App(("/a",), ports=(Port(1),), health=Health(("/b",)))
    known = "882650e406e02c67831ec04fde0996838a674d288b60a9aadde715c7f2535d02"
    said = Inherited(app, (("a", "b"),))
    assert inherited_digest(said) == known  # containers over other containers have it in their keys
    more = replace(said, app=replace(app, arguments=("x",)))
    changed = {
        inherited_digest(one)
        for one in (more, replace(said, app=replace(app, interpreter=("/bin/x",))))
    }
    assert len(changed | {known}) == 3


def test_the_image_digest_covers_what_decides_the_bytes() -> None:
    whole = image((LAYER,), "oci")
    assert image_digest(whole) == image_digest(replace(whole, place="elsewhere:1:1"))
    known = replace(LAYER, encodings=(Encoding("gzip", Digest("3" * 64), 5),))
    assert image_digest(whole) == image_digest(replace(whole, layers=(known,)))
    changes: dict[str, Any] = {
        "name": "x",
        "version": "2",
        "os": "freebsd",
        "arch": "arm64",
        "layers": (replace(LAYER, size=1),),
        "epoch": 1,
        "format": "aci",
        "app": None,
        "author": "",
        "about": (("org.opencontainers.image.title", "x"),),
        "labels": (),
        "annotations": (),
        "compress": "gzip",
        "content": "{}",
        "split": True,
        "written": app(),
    }
    digests = {image_digest(replace(whole, **{name: value})) for name, value in changes.items()}
    assert len(digests | {image_digest(whole)}) == len(changes) + 1
    assert set(changes) | {"place"} == set(asdict(whole))


def test_an_app_survives_json() -> None:
    assert from_plain(App, json.loads(json.dumps(to_plain(app())))) == app()


@pytest.mark.parametrize(
    ("arch", "aci", "oci"),
    [
        ("amd64", "amd64", "amd64"),
        ("arm64", "aarch64", "arm64"),
        ("armhf", "armv7l", "armv7"),
        ("i386", "i386", "386"),
        ("riscv64", "riscv64", "riscv64"),
    ],
)
def test_outputs_are_named_as_their_format_spells_the_machine(
    arch: str, aci: str, oci: str
) -> None:
    whole = image((), "aci", arch=arch, name="example.org/x", version="1+b")
    assert output_name(whole) == f"example.org-x-1+b-linux-{aci}.aci"
    assert output_name(replace(whole, format="oci")) == f"example.org-x-1_b-linux-{oci}.oci"


@pytest.mark.parametrize("bad", ["", "..", ".hidden", "a b", "a\n", "é", "x" * 250, "a\0"])
def test_a_name_that_is_no_file_name_is_refused(bad: str) -> None:
    with pytest.raises(RecipeError) as caught:
        output_name(image((), "oci", name=bad))
    assert caught.value.hint


@given(st.text(max_size=40))
def test_every_version_has_a_tag(version: str) -> None:
    import re

    made = tag(version)
    assert re.fullmatch(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", made)
    assert re.fullmatch(r"[A-Za-z0-9]+((-|\.|_|--)[A-Za-z0-9]+)*", made)


def test_tags_stay_as_they_are_where_they_can() -> None:
    assert tag("1.22.1-p1") == "1.22.1-p1"
    assert tag("1.0+git~rc1") == "1.0_git_rc1"
    assert tag("...") == "latest"
    assert len(tag("1" * 300)) == 128


@given(st.text(max_size=40))
def test_suggested_identifiers_are_identifiers(foreign: str) -> None:
    made = ac_identifier(foreign)
    assert made == "" or AC_IDENTIFIER.fullmatch(made)
    assert ac_identifier(made) == made
    assert "--" not in ac_name(foreign)


def test_an_app_without_extras_is_short() -> None:
    plain = App(("/bin/x",))
    assert app_section(plain) == {"Entrypoint": ["/bin/x"], "WorkingDir": "/"}
    assert aci_app(plain, "") == {
        "exec": ["/bin/x"],
        "group": "0",
        "user": "0",
        "workingDirectory": "/",
    }
    assert app_section(replace(plain, user="nginx"))["User"] == "nginx"
    assert app_section(replace(plain, group="0"))["User"] == "0:0"


def test_the_aci_app_has_names_for_ports_and_volumes() -> None:
    spoken = aci_app(app(), "")
    assert spoken["ports"] == [
        {"name": "80-tcp", "port": 80, "protocol": "tcp"},
        {"name": "https", "port": 443, "protocol": "tcp"},
        {"name": "53-udp", "port": 53, "protocol": "udp"},
    ]
    assert spoken["mountPoints"] == [
        {"name": "volume-var-lib-nginx", "path": "/var/lib/nginx"},
        {"name": "site", "path": "/srv", "readOnly": True},
    ]


BAD_APPS: dict[str, dict[str, Any]] = {
    "begin with an absolute": {"exec": ("nginx",)},
    "NUL": {"exec": ("/x", "\0")},
    "user: 'a b'": {"user": "a b"},
    "group: ''": {"group": ""},
    "working directory": {"working_directory": "srv"},
    "name of a variable": {"environment": (("A=B", ""),)},
    "A occurs twice": {"environment": (("A", ""), ("A", "1"))},
    "holds a NUL": {"environment": (("A", "\0"),)},
    "not from 1 to 65535": {"ports": (Port(0),)},
    "protocol 'icmp'": {"ports": (Port(1, "icmp"),)},
    "80/tcp occurs twice": {"ports": (Port(80, name="a"), Port(80, name="b"))},
    "port name 'A'": {"ports": (Port(80, name="A"),)},
    "volume 'x'": {"volumes": (Volume("x"),)},
    "volume '/x/../y'": {"volumes": (Volume("/x/../y"),)},
    "/x occurs twice": {"volumes": (Volume("/x", "a"), Volume("/x", "b"))},
    "volume-x occurs twice": {"volumes": (Volume("/x"), Volume("/X"))},
    "stop signal": {"stop_signal": "QUIT"},
}


@pytest.mark.parametrize("problem", BAD_APPS)
def test_a_bad_app_is_refused_for_every_format(problem: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check_app(replace(app(), **BAD_APPS[problem]), "container.yaml:1:1")
    told = (caught.value.message, *caught.value.details)
    assert any(problem in line for line in told)
    assert caught.value.place == "container.yaml:1:1"


PROGRAMS = {
    "/bin/sh": "",
    "/usr/bin/../bin//./sh": "",
    "/usr/bin/relative": "",
    "/usr/bin/escaping": "",
    "/usr/bin/none": "does not exist",
    "/loop": "loop of links",
    "/usr/bin": "not a file",
    "/": "not a file",
    "/etc/passwd": "not executable",
    "/etc/passwd/x": "does not exist",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_are_found_as_in_a_chroot(program: str) -> None:
    tree = {
        entry.path: entry
        for entry, _ in (
            directory("etc"),
            file("etc/passwd"),
            directory("usr"),
            directory("usr/bin"),
            file("usr/bin/dash", mode=0o755),
            link("bin", "/usr/bin"),
            link("usr/bin/sh", "dash"),
            link("usr/bin/relative", "../bin/sh"),
            link("usr/bin/escaping", "../../../../../bin/dash"),
            link("loop", "loop"),
        )
    }
    problem = PROGRAMS[program]
    if not problem:
        check_tree(program, (), tree.get, "")
        return
    with pytest.raises(RecipeError, match=problem):
        check_tree(program, (), tree.get, "")


VALID: dict[str, Any] = {
    "acKind": "ImageManifest",
    "acVersion": "0.8.11",
    "name": "example.org/reduce-worker",
    "labels": [{"name": "os", "value": "linux"}, {"name": "arch", "value": "amd64"}],
    "app": {
        "exec": ["/usr/bin/reduce-worker", "--quiet"],
        "user": "100",
        "group": "300",
        "eventHandlers": [{"exec": ["/usr/bin/downloader"], "name": "pre-start"}],
        "workingDirectory": "/opt/work",
        "environment": [{"name": "REDUCE_WORKER_DEBUG", "value": "true"}],
        "isolators": [{"name": "resource/cpu", "value": {"request": "250m", "limit": "500m"}}],
        "mountPoints": [{"name": "work", "path": "/var/lib/work", "readOnly": False}],
        "ports": [{"name": "health", "port": 4000, "protocol": "tcp", "socketActivated": True}],
        "userLabels": {"a": "b"},
    },
    "dependencies": [{"imageName": "example.org/base", "imageID": "sha512-" + "a" * 128}],
    "pathWhitelist": ["/usr/bin/reduce-worker"],
    "annotations": [
        {"name": "created", "value": "2014-10-27T19:32:27.67021798Z"},
        {"name": "homepage", "value": "https://example.org"},
    ],
}

BAD_VALUES: list[tuple[str, Any]] = [
    ("acKind", "PodManifest"),
    ("acVersion", "0.6"),
    ("acVersion", "0.0.0"),
    ("name", "a--b"),
    ("name", "Ab"),
    ("name", "a/"),
    ("name", "a+b"),
    ("name", "a\n"),
    ("labels", {}),
    ("labels", [{"name": "name", "value": "x"}]),
    ("labels", [{"name": "a", "value": "x"}, {"name": "a", "value": "y"}]),
    ("labels", [{"name": "os", "value": "linux"}, {"name": "arch", "value": "arm64"}]),
    ("labels", [{"name": "os", "value": "plan9"}]),
    ("labels", [{"name": "a", "value": 1}]),
    ("app.exec", []),
    ("app.exec", ["x"]),
    ("app.exec", "/x"),
    ("app.user", ""),
    ("app.group", 0),
    ("app.workingDirectory", "x"),
    ("app.environment", [{"name": "1A", "value": ""}]),
    ("app.environment", [{"name": "A", "value": ""}, {"name": "A", "value": ""}]),
    ("app.eventHandlers", [{"name": "start", "exec": ["/x"]}]),
    ("app.mountPoints", [{"name": "a.b", "path": "/x"}]),
    ("app.mountPoints", [{"name": "a", "path": "x"}]),
    ("app.ports", [{"name": "a", "port": 0, "protocol": "tcp"}]),
    ("app.ports", [{"name": "a", "port": True, "protocol": "tcp"}]),
    ("app.ports", [{"name": "a.b", "port": 1, "protocol": "tcp"}]),
    ("app.ports", [{"name": "a", "port": 1, "protocol": "tcp", "count": 0}]),
    ("app.isolators", [{"name": "CPU", "value": {}}]),
    ("app.supplementaryGIDs", ["1"]),
    ("app.userLabels", {"a": 1}),
    ("app.unknown", 1),
    ("dependencies", [{"imageName": "A"}]),
    ("dependencies", [{"imageName": "a", "imageID": "sha256-00"}]),
    ("dependencies", [{"imageID": "sha512-00"}]),
    ("pathWhitelist", ["usr"]),
    ("annotations", [{"name": "created", "value": "yesterday"}]),
    ("annotations", [{"name": "created", "value": "2014-13-27T19:32:27Z"}]),
    ("annotations", [{"name": "homepage", "value": "ftp://example.org"}]),
    ("annotations", [{"name": "A", "value": ""}]),
    ("anotations", []),
]


def changed(path: str, value: object) -> dict[str, Any]:
    if path.startswith("app."):
        return {**VALID, "app": {**VALID["app"], path[4:]: value}}
    return {**VALID, path: value}


def test_the_example_of_the_specification_is_valid() -> None:
    assert manifest_problems(VALID) == ()
    assert appc.manifest_problems(VALID) == []


@pytest.mark.parametrize(("path", "value"), BAD_VALUES)
def test_a_broken_rule_is_named_where_it_is(path: str, value: object) -> None:
    problems = manifest_problems(changed(path, value))
    assert problems
    assert all(problem.startswith(path) for problem in problems)


@pytest.mark.parametrize("key", ["acKind", "acVersion", "name"])
def test_required_keys_are_required(key: str) -> None:
    missing = {name: value for name, value in VALID.items() if name != key}
    assert manifest_problems(missing) == (f"{key}: is required",)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@pytest.mark.scale
@given(st.sampled_from([*VALID, *(f"app.{key}" for key in VALID["app"])]), JSON)
def test_no_value_is_a_traceback(path: str, value: object) -> None:
    assert isinstance(manifest_problems(changed(path, value)), tuple)


@pytest.mark.scale
@given(JSON)
def test_no_document_is_a_traceback(value: object) -> None:
    assert isinstance(manifest_problems(value), tuple)
