"""All that is wrong with a container's data is told by its plan, before anything is built."""

from __future__ import annotations

import json
import shlex
import threading
from pathlib import Path

import pytest

from buildit.codec import decode, encode
from buildit.commands.assemble import image
from buildit.commands.building import build
from buildit.commands.run import Options
from buildit.commands.sync import own_of, take
from buildit.errors import RecipeError
from buildit.events import silent
from buildit.image.formats.table import output_name
from buildit.image.rules import file_reference, reference
from buildit.image.verify import read_oci, verify
from buildit.model.image import App
from buildit.model.plan import ContainerPlan, SyncStep
from tests.planning import Checkout, checkout
from tests.unit.make.elves import elf

pytestmark = pytest.mark.unit

HEAD = (
    "- vars: {author: A, name: web, version: 1.0}\n- sync: {src: ./root, dest: /, recursive: on}\n"
)
BOTH = "- image: {type: oci}\n- image: {type: aci}\n"


@pytest.fixture
def project(tmp_path: Path) -> Checkout:
    made = checkout(tmp_path)
    made.write("container/root/srv/x", "x\n")
    return made


def planned(project: Checkout, steps: str, head: str = HEAD) -> ContainerPlan:
    project.write("container/container.yaml", head + steps)
    plan = project.plan().plan
    assert decode(ContainerPlan, encode(plan)) == plan
    return plan


def app_of(plan: ContainerPlan) -> App:
    assert plan.app is not None
    return plan.app


def content(kind: str, document: object) -> str:
    return f"- image: {{type: {kind}, content: '{json.dumps(document)}'}}\n"


def aci(**app: object) -> str:
    members = {"exec": ["/x"], "user": "0", "group": "0", **app}
    head = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/w"}
    return content("aci", {**head, "app": members})


WRONG = {
    "name": ("- vars: {name: MyApp}\n" + BOTH, "'MyApp' is not an AC identifier"),
    "no group": ("- app: {exec: [/x], user: 101}\n" + BOTH, "has no group"),
    "user": ("- app: {exec: [/x], user: ghost}\n" + BOTH, "user 'ghost', which is no user"),
    "user step": ("- app: {exec: [/x]}\n- user: ghost\n" + BOTH, "which is no user"),
    "group": ("- app: {exec: [/x], user: 0, group: nosuch}\n" + BOTH, "group 'nosuch'"),
    "uid": ("- app: {exec: [/x], user: 4294967296}\n" + BOTH, "id 4294967296 is not from 0"),
    "gid": ("- app: {exec: [/x], group: 4294967295}\n" + BOTH, "id 4294967295 is not from 0"),
    "ports": ("- app: {exec: [/x], ports: [443, 443/tcp]}\n" + BOTH, "occurs twice"),
    "signal": ("- app: {exec: [/x], stop-signal: QUIT}\n" + BOTH, "write SIGQUIT"),
    "signal 65": ("- app: {exec: [/x], stop-signal: 65}\n" + BOTH, "not from 1 to 64"),
    "exec": ("- app: {exec: [sh]}\n" + BOTH, "not with an absolute path"),
    "exec empty": ("- app: {exec: ['']}\n" + BOTH, "not with an absolute path"),
    "volume /": ("- app: {exec: [/x], volumes: [/]}\n" + BOTH, "cannot be /"),
    "volume //": ("- app: {exec: [/x], volumes: [//, /x]}\n" + BOTH, "cannot be /"),
    "volumes": ("- app: {exec: [/x], volumes: [a=/x, b=/x/]}\n" + BOTH, "/x occurs twice"),
    "codec": ("- image: {type: aci, compress: zstd}\n", "cannot be compressed"),
    "aci empty": ("- image: {type: aci, content: '{}'}\n", "acKind: is required"),
    "aci user": (aci(user="nosuch"), "user 'nosuch', which is no user"),
    "aci isolator": (aci(isolators=[{"name": "x/y", "value": {}}]), "is none of"),
    "oci created": (content("oci", {"created": "yesterday"}), "is not a time"),
    "oci user": (content("oci", {"config": {"User": "0:nosuch"}}), "group 'nosuch'"),
    "oci port": (content("oci", {"config": {"ExposedPorts": {"99999": {}}}}), "from 1 to 65535"),
    "not json": ("- image: {type: oci, content: 'no'}\n", "not JSON"),
    "env": ("- app: {exec: [/x], environment: {'A B': c}}\n- image: {type: aci}\n", "A B"),
    "health": ("- app: {exec: [/x]}\n- healthcheck: {exec: [curl]}\n" + BOTH, "absolute path"),
    "no app": ("- healthcheck: {exec: [/x]}\n" + BOTH, "need an app"),
    "gid of a user": ("- users: {app: {uid: 5, gid: 6}}\n", "gid 6, which no group declares"),
    "one uid": (
        "- users: {a: {uid: 5, gid: 5}, b: {uid: 5, gid: 5}}\n- groups: {a: {gid: 5}}\n",
        "user id 5 is 'a'",
    ),
    "one gid": ("- groups: {a: {gid: 5}, b: {gid: 5}}\n", "group id 5 is 'a'"),
    "owner": ("- directories: [{path: /a, owner: nosuch}]\n", "declares the owner 'nosuch'"),
    "twice": ("- directories: [{path: /a}, {path: /a/}]\n", "is there twice"),
    "root": ("- directories: [{path: /}]\n", "no image can say what / is like"),
    "label": ("- labels: {' ': x}\n", "expected text, found nothing"),
    "homepage": (
        "- annotations: {org.opencontainers.image.url: 'https://[::1'}\n" + BOTH,
        "is not an http or https URL",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_the_data_is_told_by_the_plan(case: str, project: Checkout) -> None:
    steps, message = WRONG[case]
    with pytest.raises(RecipeError) as caught:
        planned(project, steps)
    error = caught.value
    assert message in "\n".join((error.message, *error.details, error.hint or ""))
    assert error.place is not None
    assert error.place.startswith(str(project.container / "container.yaml"))
    assert error.place.count(":") == 2
    assert error.hint


def test_exec_and_environment_are_free_text(project: Checkout) -> None:
    steps = (
        "- app:\n    exec: [/bin/sh, -c, \"echo one\\necho two\\n\", '', ' ']\n"
        "    environment: {discovery.type: single-node, A: 'x=y=z', 'B C': d, E: ''}\n"
        "- image: {type: oci}\n"
    )
    app = app_of(planned(project, steps))
    assert app.exec == ("/bin/sh", "-c", "echo one\necho two\n", "", " ")
    assert dict(app.environment) == {
        "discovery.type": "single-node",
        "A": "x=y=z",
        "B C": "d",
        "E": "",
    }


ACCOUNTS = "- users: {app: {uid: 101, gid: 102}}\n- groups: {app: {gid: 102}, www: {gid: 33}}\n"


@pytest.mark.parametrize(
    ("written", "oci", "aci_says"),
    [
        ("user: app, group: app", "101:102", ("101", "102")),
        ("user: app", "101", ("101", "102")),
        ("user: app, group: www", "101:33", ("101", "33")),
        ("user: 101", "101", ("101", "102")),
        ("user: root", None, ("0", "0")),
        ("user: 7, group: root", "7:0", ("7", "0")),
    ],
)
def test_users_and_groups_are_numbers_where_they_are_known(
    written: str, oci: str | None, aci_says: tuple[str, str], project: Checkout
) -> None:
    from buildit.image.formats.table import check

    plan = planned(project, f"{ACCOUNTS}- app: {{exec: [/x], {written}}}\n{BOTH}")
    config, manifest = (check(image(plan, step)) for step in plan.images)
    section, app = config["config"], manifest["app"]
    assert isinstance(section, dict)
    assert isinstance(app, dict)
    assert section.get("User") == oci
    assert (app["user"], app["group"]) == aci_says


@pytest.mark.parametrize(
    ("dest", "path"), [("/", "root/etc/passwd"), ("/etc", "root/passwd"), ("/etc/", "root/passwd")]
)
def test_a_synced_passwd_says_who_there_is(dest: str, path: str, project: Checkout) -> None:
    project.write(f"container/{path}", "# x\napp:x:700:701::/:/bin/sh\nbad\n")
    head = HEAD.replace("dest: /,", f"dest: {dest},")
    plan = planned(project, "- app: {exec: [/x], user: app}\n" + BOTH, head)
    assert (app_of(plan).user, app_of(plan).own_group) == ("700", "701")
    with pytest.raises(RecipeError, match="'other', which is no user"):
        planned(project, "- app: {exec: [/x], user: other}\n" + BOTH, head)


def test_what_an_aci_depends_on_may_bring_its_user(project: Checkout) -> None:
    text = aci(user="httpd", group="httpd").replace(
        '"acKind"', '"dependencies": [{"imageName": "example.com/httpd"}], "acKind"'
    )
    planned(project, text)


def test_labels_and_annotations_say_what_is_known(project: Checkout) -> None:
    from buildit.image.formats.table import check

    project.write(
        "pkgs/x/one/pkg.yaml",
        "description: One\nhomepage: https://example.org\nlicense: MIT\nversions: {1.0: {}}\n",
    )
    steps = (
        "- package: {atom: x/one}\n- app: {exec: [/x]}\n"
        "- labels: {org.opencontainers.image.version: '2', tier: web, Über: x, os: y}\n"
        "- annotations: {org.opencontainers.image.source: 'https://example.org/src', A B: c}\n"
        "- healthcheck: {exec: [/x, ''], interval: 1m, retries: 3}\n" + BOTH
    )
    plan = planned(project, steps)
    config, manifest = (check(image(plan, step)) for step in plan.images)
    prefix = "org.opencontainers.image."
    section = config["config"]
    assert isinstance(section, dict)
    assert section["Labels"] == {
        f"{prefix}title": "web",
        f"{prefix}version": "2",
        f"{prefix}authors": "A",
        f"{prefix}description": "One",
        f"{prefix}licenses": "MIT",
        f"{prefix}url": "https://example.org",
        "tier": "web",
        "Über": "x",
        "os": "y",
    }
    assert section["Healthcheck"] == {
        "Test": ["CMD", "/x", ""],
        "Interval": 60 * 10**9,
        "Retries": 3,
    }
    labels = {one["name"]: one["value"] for one in manifest["labels"]}
    assert labels["tier"] == "web"
    assert labels["version"] == "1.0"
    assert labels["os"] == "linux"
    notes = {one["name"]: one["value"] for one in manifest["annotations"]}
    assert notes["homepage"] == "https://example.org"
    assert notes[f"{prefix}licenses"] == "MIT"
    assert notes[f"{prefix}source"] == "https://example.org/src"
    told = "\n".join(plan.remarks)
    for word in ("'Über'", "'os'", "'A B'", "no healthcheck"):
        assert word in told


def test_a_variable_that_nothing_fills_in_is_remarked(project: Checkout) -> None:
    steps = "- app: {exec: [/x], environment: {PATH: '/opt/bin:$PATH', A: '${A}', B: $HOME}}\n"
    remarks = planned(project, steps + "- image: {type: oci}\n").remarks
    assert [one.split(" is ")[0] for one in remarks] == ["environment: PATH", "environment: A"]


NAMES = {
    "base-1.0-linux-amd64": "base-1.0-linux-amd64",
    "Base-1.0+b1-linux-amd64": "base-1.0_b1-linux-amd64",
    "a:b@c~d-1": "a_b_c_d-1",
    "a.-b__c---d": "a_b__c---d",
    "a+-1": "a_1",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_layouts_are_references(name: str) -> None:
    assert file_reference(name) == NAMES[name]


def test_a_name_may_be_a_path(project: Checkout) -> None:
    head = HEAD.replace("name: web", "name: example.com/web")
    plan = planned(project, "- app: {exec: [/x]}\n" + BOTH, head)
    oci, aci_image = (image(plan, step) for step in plan.images)
    assert output_name(oci) == "example.com-web-1.0-linux-amd64.oci"
    assert output_name(aci_image) == "example.com-web-1.0-linux-amd64.aci"
    assert reference(oci) == "example.com/web:1.0"
    for bad in ("a//b", "/a", "a/", "a/../b", "a/.b"):
        with pytest.raises(RecipeError, match="file name"):
            planned(project, "", HEAD.replace("name: web", f"name: {bad}"))


def emitted(project: Checkout, steps: str) -> tuple[Path, ...]:
    project.write("container/container.yaml", HEAD + steps)
    config = f"repositories: []\ntrees: [./pkgs]\nstore: {project.root}/store\n"
    project.write(".buildit-config.yaml", config)
    options = Options(project.container, project.root / "out", offline=True)
    return tuple(one.path for one in build(options, silent, threading.Event()))


def test_directories_are_there_with_their_modes_and_owners(project: Checkout) -> None:
    (project.container / "root/var").mkdir()
    (project.container / "root/run").symlink_to("var")
    steps = (
        "- directories:\n  - {path: /tmp, mode: 01777}\n"
        "  - {path: /home/app/cache/, owner: app, mode: 0700}\n"
        "  - {path: /srv, owner: 'app:0', mode: u=rwx}\n  - {path: /run/app, owner: '5:6'}\n"
    )
    paths = emitted(project, ACCOUNTS + steps + BOTH)
    assert verify(paths).passed()
    entries = {one.path: one for one in read_oci(paths[0]).entries or ()}
    found = {
        path: (f"{entries[path].mode:o}", entries[path].uid, entries[path].gid)
        for path in ("tmp", "home", "home/app", "home/app/cache", "srv", "srv/x", "var/app")
    }
    assert found == {
        "tmp": ("1777", 0, 0),
        "home": ("755", 0, 0),
        "home/app": ("755", 0, 0),
        "home/app/cache": ("700", 101, 102),
        "srv": ("700", 101, 0),
        "srv/x": ("644", 0, 0),
        "var/app": ("755", 5, 6),
    }


def test_a_directory_where_a_file_is_is_refused(project: Checkout) -> None:
    with pytest.raises(RecipeError, match="/srv/x is a file") as caught:
        emitted(project, "- directories: [{path: /srv/x}]\n" + BOTH)
    assert (caught.value.place or "").startswith(f"{project.container}/container.yaml:3:")


@pytest.mark.parametrize(
    ("app", "message"),
    [
        ("exec: [/nope]", "/nope does not exist"),
        (
            "exec: [/srv/run], volumes: [/srv/x]",
            "the volume /srv/x cannot be used: /srv/x is a file",
        ),
        ("exec: [/srv/run], working-directory: /srv/x/y", "the working directory /srv/x/y cannot"),
    ],
)
def test_two_images_are_emitted_together_or_not_at_all(
    app: str, message: str, project: Checkout
) -> None:
    project.write("container/root/srv/run", elf())
    (project.container / "root/srv/run").chmod(0o755)
    before = emitted(project, BOTH)
    states = [path.stat() for path in before]
    with pytest.raises(RecipeError, match=message):
        emitted(project, f"- app: {{{app}}}\n" + BOTH)
    assert [path.stat().st_ino for path in before] == [one.st_ino for one in states]
    assert {one.name for one in (project.root / "out").iterdir()} == {one.name for one in before}


PACKAGES = (
    "pkgs/x/one/pkg.yaml",
    "description: One\nlicense: MIT\nversions: {1.2: {}, 1.10: {}}\n",
)
ONE = "packages['x/one']"


def test_templates_may_ask_for_the_packages(project: Checkout) -> None:
    project.write(*PACKAGES)
    version = f"{{{{ {ONE}.version }}}}-p1"
    head = f'- package: {{atom: x/one}}\n- vars: {{name: web, version: "{version}"}}\n'
    steps = (
        f'- app: {{exec: [/x], environment: {{V: "{{{{ {ONE}.version }}}}"}}}}\n'
        f'- labels: {{l: "{{{{ {ONE}.license }}}} {{{{ version }}}}"}}\n'
        "- image:\n    type: oci\n    content: |\n"
        f'      {{"author": "{{{{ {ONE}.description }}}}"}}\n'
    )
    plan = planned(project, steps, head)
    assert plan.version == "1.10-p1"
    assert app_of(plan).environment == (("V", "1.10"),)
    assert plan.labels == (("l", "MIT 1.10-p1"),)
    assert json.loads(plan.images[0].content) == {"author": "One"}


WRONG_PACKAGES = {
    "unknown": ("- labels: {a: \"{{ packages['x/oen'].version }}\"}\n", "did you mean 'x/one'"),
    "member": ("- labels: {a: \"{{ packages['x/one'].homepages }}\"}\n", "no key 'homepages'"),
    "use": (
        "- use: {packages: {x/two: [\"f{{ packages['x/one'].version }}\"]}}\n",
        "not known before the packages are chosen",
    ),
    "package": (
        "- package: {atom: \"x/{{ 'one' if packages['x/one'].version == '0' else 'two' }}\"}\n",
        "not known before the packages are chosen",
    ),
    "vars": ("- vars: {packages: a}\n", "give the variable another name"),
}


@pytest.mark.parametrize("case", WRONG_PACKAGES)
def test_what_templates_cannot_know_of_the_packages_is_refused(
    case: str, project: Checkout
) -> None:
    project.write(*PACKAGES)
    project.write(
        "pkgs/x/two/pkg.yaml", "versions: {1: {}}\nuse: {f0: {default: off, description: d}}\n"
    )
    steps, message = WRONG_PACKAGES[case]
    with pytest.raises(RecipeError) as caught:
        planned(project, f"- package: {{atom: x/one}}\n- package: {{atom: x/two}}\n{steps}")
    assert message in f"{caught.value.message} {caught.value.hint}"
    assert (caught.value.place or "").count(":") == 2


@pytest.mark.parametrize("name", [".wh.foo", ".wh..wh..opq", "a/.wh.x"])
def test_names_that_delete_files_are_told_before_the_build(name: str, project: Checkout) -> None:
    project.write(f"container/root/{name}", "x")
    plan = planned(project, BOTH)
    (step,) = (step for step in plan.steps if isinstance(step, SyncStep))
    own = own_of(plan, project.root / "out", step)
    with pytest.raises(RecipeError, match="delete files in image layers") as caught:
        take(project.container, step, own)
    assert caught.value.place


@pytest.mark.parametrize(
    ("owner", "numbers"),
    [("www:www", "5:6"), ("www", "5:7"), ("root:www", "0:6"), ("9:8", "9:8"), ("nosuch", None)],
)
def test_owners_of_files_are_the_recipes_own_accounts(
    owner: str, numbers: str | None, project: Checkout
) -> None:
    project.write(
        "pkgs/x/one/pkg.yaml",
        "versions: {1: {}}\nusers: {www: {uid: 5, gid: 7}}\ngroups: {www: {gid: 6}, w: {gid: 7}}\n"
        f"files:\n  - {{path: a, owner: '{owner}'}}\n",
    )
    steps = "- package: {atom: x/one}\n"
    if numbers is None:
        with pytest.raises(RecipeError, match="'nosuch' is none of this recipe's") as caught:
            planned(project, steps)
        assert (caught.value.place or "").endswith("pkg.yaml:5:22")
        return
    record = json.loads(planned(project, steps).tasks[-1].record)
    assert record["file-rules"][0]["owner"] == numbers


@pytest.mark.parametrize(
    "command", ["/usr/sbin/x -D -f y", "/bin/sh -c 'a, b'", "/x null ~ '' - --a=b? {x} #y [z] -"]
)
def test_the_hint_for_a_command_that_is_one_text_works(command: str, project: Checkout) -> None:
    text = json.dumps(command)
    with pytest.raises(RecipeError, match="expected a list") as caught:
        planned(project, f"- app: {{exec: {text}}}\n")
    written = (caught.value.hint or "").removeprefix("write ")
    plan = planned(project, f"- app: {{exec: {written}}}\n")
    assert app_of(plan).exec == tuple(shlex.split(command))
