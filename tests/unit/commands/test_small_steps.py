"""Small steps beside the app, links, modes, and templates of synced files."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest

from buildit.codec import from_plain, to_plain
from buildit.commands.building import build
from buildit.commands.changing import modes_task, symlinks_task, texts_task
from buildit.commands.placing import sync_task
from buildit.commands.publish import check_secrets, spec_files
from buildit.commands.run import Options, prepare
from buildit.commands.running import app_of, places_of
from buildit.commands.said import listed_steps, sayings
from buildit.commands.sync import LARGEST_TEMPLATE, Own, take
from buildit.commands.templated import filling
from buildit.digest import digest_bytes
from buildit.errors import BuilditError, RecipeError, UsageError
from buildit.events import silent
from buildit.image.merge import Member
from buildit.image.verify import read_oci
from buildit.make.layer import Copied
from buildit.model.image import App, Health, Port, Volume
from buildit.model.listed import PackageFacts
from buildit.model.plan import (
    ContainerPlan,
    LayerFile,
    LinkToMake,
    ModesStep,
    ModeToSet,
    SymlinksStep,
    SyncStep,
    TextsStep,
    TextToWrite,
)
from buildit.model.tree import Entry, Kind
from buildit.recipe.container import Container
from buildit.recipe.lists import load_container
from buildit.store.blobs import CorruptBlob
from buildit.store.cas import Store
from tests.hosts import repository
from tests.planning import Checkout, checkout, deb, locked

pytestmark = pytest.mark.unit

HEAD = "- vars: {name: web, version: 1.0}\n"


def loaded(tmp_path: Path, text: str) -> Container:
    (tmp_path / "container.yaml").write_text(HEAD + dedent(text))
    return load_container(tmp_path)


# -- what counts

EVERYTHING = """\
- workdir: /before
- user: before
- app:
    exec: [/bin/a, x]
    user: www
    group: www
    environment: {A: '1', B: '2'}
    working-directory: /srv
    ports: [80]
    volumes: [/a]
    stop-signal: SIGQUIT
- env: {B: '3', C: '4'}
- entrypoint: [/bin/b, --flag]
- workdir: /later/
- ports: [443/tcp, dns=53/udp]
- volumes: ['data=/b:ro']
- stop-signal: SIGUSR1
- healthcheck: {exec: [/bin/old]}
- healthcheck: {exec: [/bin/ok], retries: 2}
- user: last
"""


def test_the_later_step_counts(tmp_path: Path) -> None:
    found = loaded(tmp_path, EVERYTHING)
    assert app_of(found) == App(
        exec=("/bin/b", "--flag"),
        user="last",
        group="www",
        environment=(("A", "1"), ("B", "3"), ("C", "4")),
        working_directory="/later/",
        ports=(Port(443), Port(53, "udp", "dns")),
        volumes=(Volume("/b", "data", read_only=True),),
        stop_signal="SIGUSR1",
        health=Health(("/bin/ok",), retries=2),
    )
    places = {key: place.rpartition(":")[0] for key, place in places_of(found).items()}
    assert [place.rpartition(":")[2] for place in places.values()] == ["21", "7"]


def test_an_app_behind_small_steps_counts(tmp_path: Path) -> None:
    app = "- app: {exec: [/bin/a], ports: [80], environment: {A: '1'}}\n"
    found = app_of(loaded(tmp_path, "- ports: [1]\n- env: {A: '0', B: '2'}\n- workdir: /x\n" + app))
    assert found is not None
    assert (found.ports, found.working_directory) == ((Port(80),), "/x")
    assert found.environment == (("A", "1"), ("B", "2"))


def test_small_steps_alone_are_an_app(tmp_path: Path) -> None:
    found = app_of(loaded(tmp_path, "- entrypoint: [/bin/a]\n- ports: []\n"))
    assert found == App(("/bin/a",))


@pytest.mark.parametrize(
    ("text", "message", "place"),
    [
        ("- workdir: /x\n", "`workdir` and all that is said of an app need an app", "2:3"),
        ("- entrypoint: [sh]\n", "exec begins with 'sh', not with an absolute path", "2:16"),
        ("- entrypoint: [/x]\n- ports: [80, x]\n", "not a port: 'x'", "3:15"),
        ("- entrypoint: [/x]\n- ports: [x]\n- ports: [80]\n", "not a port: 'x'", "3:11"),
        ("- entrypoint: [/x]\n- volumes: [x]\n", "not a volume: 'x'", "3:13"),
        ("- entrypoint: sh\n", "entrypoint: expected a list, found 'sh'", "2:15"),
        ("- workdir: x\n", "workdir: expected an absolute path, found 'x'", "2:12"),
        (
            "- init: {services: {a: {exec: [/x]}}}\n- workdir: /x\n",
            "`workdir` is said beside `init`, which runs /usr/sbin/init as root",
            "3:12",
        ),
        ("- app: {exec: [/x]}\n- app: {exec: [/y]}\n", "a container has one app", "3:3"),
    ],
)
def test_wrong_small_steps_are_refused_at_their_place(
    tmp_path: Path, text: str, message: str, place: str
) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        app_of(loaded(tmp_path, text))
    assert (caught.value.place or "").endswith(f"container.yaml:{place}")
    assert caught.value.hint


def test_what_is_said_names_what_counts(tmp_path: Path) -> None:
    text = """\
    - labels: {a: '1'}
    - entrypoint: [/bin/a, two words]
    - labels: {a: '2', b: ''}
    - directories: [{path: /srv/x/, owner: 5:5, mode: 01777}]
    - entrypoint: [/bin/b]
    """
    said = sayings(loaded(tmp_path, text))
    rows = [(one.key, one.value, place(one.place), place(one.later)) for one in said]
    assert rows == [
        ("labels a", "1", "2:15", "4:15"),
        ("labels a", "2", "4:15", ""),
        ("entrypoint", '[/bin/a, "two words"]', "3:15", "6:15"),
        ("entrypoint", "[/bin/b]", "6:15", ""),
        ("labels b", '""', "4:23", ""),
        ("directories /srv/x", "owner 5:5, mode 01777", "5:17", ""),
    ]


def place(text: str) -> str:
    return text.rpartition("container.yaml:")[2]


def test_the_list_of_steps_is_flat(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("- ports: [80, 443]\n")
    text = """\
    - include: base.yaml
    - package: {debian: tini}
    - package: {atom: a/b}
    - sync: {src: x, dest: /y, template: on}
    - modes: [{path: /a, mode: 0600}, {path: /b, owner: 1:1}]
    - image: {type: oci}
    """
    found = [(one.kind, one.text) for one in listed_steps(loaded(tmp_path, text))]
    assert found == [
        ("vars", "name, version"),
        ("ports", "80, 443"),
        ("package", "debian:tini"),
        ("package", "a/b"),
        ("sync", "x to /y (template)"),
        ("modes", "/a, /b"),
        ("image", "oci"),
    ]


# -- links and modes over a tree


def directory(path: str) -> Entry:
    return Entry(path, Kind.DIRECTORY, 0o755)


def link(path: str, target: str) -> Entry:
    return Entry(path, Kind.SYMLINK, 0o777, target=target)


def file(path: str, mode: int = 0o644) -> Entry:
    return Entry(path, Kind.FILE, mode, size=1, digest=digest_bytes(path.encode()))


def tree(*entries: Entry) -> dict[str, Entry]:
    return {entry.path: entry for entry in entries}


TREE = tree(
    directory("usr"),
    directory("usr/bin"),
    directory("usr/lib"),
    directory("etc"),
    link("bin", "usr/bin"),
    link("loop", "loop"),
    link("dangling", "nowhere"),
    file("usr/bin/dash", 0o755),
    link("usr/bin/sh", "dash"),
    file("etc/hosts"),
)


def links(*pairs: tuple[str, str]) -> SymlinksStep:
    return SymlinksStep(tuple(LinkToMake(*pair, "c.yaml:9:9") for pair in pairs), "c.yaml:9:3")


def test_links_lie_where_the_image_leads(tmp_path: Path) -> None:
    step = links(("bin/ash", "dash"), ("opt/x/y", "/etc"), ("opt/x/y/z", "a"), ("etc/hosts", "b"))
    task, entries, replaced = symlinks_task(step, TREE)
    made = {one.path: one.target for one in entries if one.kind is Kind.SYMLINK}
    # the third goes through the second one, to /etc
    assert made == {"usr/bin/ash": "dash", "opt/x/y": "/etc", "etc/z": "a", "etc/hosts": "b"}
    assert replaced == ("/etc/hosts",)
    assert {"opt", "opt/x", "usr", "usr/bin", "etc"} < {one.path for one in entries}
    assert task.kind == "symlinks"
    assert symlinks_task(step, TREE)[0].key == task.key
    assert symlinks_task(links(("bin/ash", "bash")), TREE)[0].key != task.key


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("etc", "/etc is a directory in the image, and no link can take its place"),
        ("bin", "/bin is a link that merges /usr in the image, and no link can take its place"),
        ("etc/hosts/x", "/etc/hosts is a file in the image, and dest leads through it"),
        ("loop/x", "leads into a loop of links"),
        ("etc/.wh.x", "names that begin with .wh. delete files in image layers"),
    ],
)
def test_links_that_cannot_be(path: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        symlinks_task(links((path, "x")), TREE)
    assert caught.value.place == "c.yaml:9:9"
    assert caught.value.hint


def texts(*paths: str) -> TextsStep:
    made = (TextToWrite(path, f"of {path}\n", 0o640, 5, 6, "c.yaml:9:9") for path in paths)
    return TextsStep(tuple(made), "c.yaml:9:3")


def test_texts_lie_where_the_image_leads() -> None:
    task, entries, replaced = texts_task(texts("bin/ash", "opt/x", "etc/hosts"), TREE)
    made = {one.path: one for one in entries if one.kind is Kind.FILE}
    assert made.keys() == {"usr/bin/ash", "opt/x", "etc/hosts"}
    ash = made["usr/bin/ash"]
    assert (ash.mode, ash.uid, ash.gid, ash.digest, ash.size) == (
        0o640,
        5,
        6,
        digest_bytes(b"of bin/ash\n"),
        11,
    )
    assert replaced == ("/etc/hosts",)
    assert texts_task(texts("bin/ash", "opt/x"), TREE)[0].key != task.key
    with pytest.raises(RecipeError, match="/etc is a directory in the image, and no file can"):
        texts_task(texts("etc"), TREE)


MEMBERS = {path: Member(entry, 0, path) for path, entry in TREE.items()}
MEMBERS |= {
    "usr/bin/two": Member(
        replace(file("usr/bin/dash", 0o755), path="usr/bin/two"), 0, "usr/bin/dash"
    )
}


def modes(*wanted: tuple[str, int | None, tuple[int, int] | None]) -> ModesStep:
    changed = (
        ModeToSet(path, mode, owner and owner[0], owner and owner[1], "c.yaml:9:9")
        for path, mode, owner in wanted
    )
    return ModesStep(tuple(changed), "c.yaml:9:3")


def content(path: str, member: Member) -> LayerFile:
    return LayerFile(path, digest_bytes(member.source.encode()), 1024, 512)


def test_a_file_changes_under_all_its_names(tmp_path: Path) -> None:
    step = modes(("bin/sh", 0o4755, None), ("etc", 0o700, (3, 4)), ("usr/bin/two", None, (5, 6)))
    task, entries = modes_task(step, MEMBERS, content)
    found = {one.path: (one.kind, one.mode, one.uid, one.gid) for one in entries}
    assert found == {
        "etc": (Kind.DIRECTORY, 0o700, 3, 4),
        "usr": (Kind.DIRECTORY, 0o755, 0, 0),
        "usr/bin": (Kind.DIRECTORY, 0o755, 0, 0),
        "usr/bin/dash": (Kind.FILE, 0o4755, 5, 6),
        "usr/bin/two": (Kind.HARDLINK, 0o4755, 5, 6),
    }
    assert [one.path for one in task.inputs.copies] == ["usr/bin/dash"]
    assert next(one.target for one in entries if one.path == "usr/bin/two") == "usr/bin/dash"
    # where the bytes were taken from is no part of what it is
    elsewhere = modes_task(step, MEMBERS, lambda path, _: content(path, MEMBERS["etc/hosts"]))
    assert elsewhere[0].key == task.key


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("etc/none", "the image has no /etc/none at this step"),
        ("dangling", "the link /dangling leads to /nowhere"),
        ("loop", "/loop leads into a loop of links"),
        ("etc/hosts/x", "the image has no /etc/hosts/x"),
    ],
)
def test_modes_of_what_is_not_there(path: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        modes_task(modes((path, 0o600, None)), MEMBERS, content)
    assert caught.value.place == "c.yaml:9:9"
    assert caught.value.hint


# -- templates of files

PACKAGES = {"app/tool": PackageFacts("2.0", flags={"ssl": True, "tls": "gnutls"}, digest="ab")}


def text_of(data: bytes, **variables: str) -> bytes:
    return filling(variables, PACKAGES)(data, "x.conf")


def test_a_template_becomes_text() -> None:
    source = b"listen {{ port }};\n{% if packages['app/tool'].flags.ssl %}\nssl on;\n{% endif %}\n"
    assert text_of(source, port="80") == b"listen 80;\n\nssl on;\n\n"
    said = b"{{ packages['app/tool'].version }} {{ packages['app/tool'].digest }} "
    made = text_of(said + b"{{ packages | tojson }}").decode()
    assert made.startswith("2.0 ab ")
    assert json.loads(made[7:])["app/tool"]["flags"] == {"ssl": True, "tls": "gnutls"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no template, no end",
        b"\xef\xbb\xbfmark\n",
        b"a\r\nb\r\n",
        "ä${#x}\x0c\u2028\n".encode(),
    ],
)
def test_what_is_no_template_stays_byte_for_byte(data: bytes) -> None:
    assert text_of(data) == data


def test_ends_of_lines_stay_what_they_are() -> None:
    assert text_of(b"a {{ x }}\r\nb\r\n", x="1") == b"a 1\r\nb\r\n"
    assert text_of(b"a {{ x }}\n\n", x="1") == b"a 1\n\n"
    assert text_of(b"\xef\xbb\xbf{{ x }}", x="1") == b"\xef\xbb\xbf1"


@pytest.mark.parametrize(
    ("data", "message", "where"),
    [
        (b"ok\n\xff\xfe", "byte 0xff is not UTF-8, and a template is text", "x.conf:2:1"),
        (b"\x7fELF\0", "control character U+0000 is not of a text", "x.conf:1:5"),
        (b"a\r\nb\n", "its lines end in several ways", "x.conf:1:2"),
        (b"a\rb", "its lines end in several ways", "x.conf:1:2"),
        (b"a\n  {{ prot }}\n", "'prot' is not defined", "x.conf:2:6"),
        (b"{{ x", "the template cannot be read", "x.conf:1:1"),
        (b"{% include 'a' %}", "templates may not use other templates", "x.conf:1:1"),
        (b"x" * (LARGEST_TEMPLATE + 1), "the file is larger than 64 KiB", "x.conf"),
    ],
)
def test_what_cannot_be_a_template(data: bytes, message: str, where: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        text_of(data, port="80")
    assert caught.value.place == where
    assert caught.value.hint


OWN = Own("out", re.compile("web-.+"))


def test_only_the_text_of_a_template_is_in_the_layer(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_text("port {{ port }}\n")
    step = SyncStep("a.conf", "/etc/", False, "", 0, 0, "c:1:1", names={"port": "80"})
    fill = filling({"port": "80"}, {})
    task, entries, _ = sync_task(take(tmp_path, step, OWN, fill), {})
    (entry,) = (one for one in entries if one.kind is Kind.FILE)
    assert (entry.size, entry.digest) == (8, digest_bytes(b"port 80\n"))
    assert json.loads(task.record)["texts"] == {"etc/a.conf": "port 80\n"}
    assert task.inputs.files == ()
    # the same bytes written out are the same entries, but no template
    (tmp_path / "a.conf").write_text("port 80\n")
    plain, same, _ = sync_task(take(tmp_path, replace(step, names=None), OWN), {})
    assert same == entries
    assert dict(plain.inputs.files) == {"etc/a.conf": "a.conf"}


def test_a_wrong_template_is_named_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/sub").mkdir(parents=True)
    (tmp_path / "conf/sub/a").write_text("{{ nothing }}")
    step = SyncStep("conf", "/etc", True, "", 0, 0, "c:1:1", names={})
    with pytest.raises(RecipeError) as caught:
        take(tmp_path, step, OWN, filling({}, {}))
    assert caught.value.place == "conf/sub/a:1:4"


# -- whole containers


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    monkeypatch.setenv("BUILDIT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("HOME", str(tmp_path))
    made = checkout(tmp_path)
    made.write(".buildit-config.yaml", "trees: [./pkgs]\nrepositories: []\n")
    return made


CONTAINER = """\
- vars: {name: web, version: 1.0, port: '8080'}
- users: {www: {uid: 33, gid: 33}}
- groups: {www: {gid: 33}}
- include: ../shared/conf.yaml
  with: {port: "{{ port }}"}
- texts: [{path: /etc/web/port, content: "{{ port }}", mode: 0600, owner: www}]
- symlinks: [{path: /etc/site.conf, target: web/site.conf}]
- modes: [{path: /etc/site.conf, mode: 0640, owner: "0:www"}, {path: /srv, mode: 01777}]
- image: {type: oci}
"""
SHARED = """\
- vars: {port: 80}
- sync: {src: ./web, dest: /etc/web, recursive: yes, template: yes, owner: www}
- sync: {src: page.html, dest: /srv/}
"""


@pytest.fixture
def web(project: Checkout) -> Checkout:
    project.write("container/container.yaml", CONTAINER)
    project.write("shared/conf.yaml", SHARED)
    project.write("shared/web/site.conf", "listen {{ port }} on {{ arch }};\n")
    project.write("shared/page.html", "a page\n")
    return project


def files_of(project: Checkout) -> Mapping[str, Entry]:
    """The files of the image, which is built here."""
    options = Options(project.container, project.root / "out", offline=True)
    build(options, silent, threading.Event())
    (layout,) = (project.root / "out").glob("*.oci")
    return {entry.path: entry for entry in read_oci(layout).entries or ()}


def test_a_container_of_lists_templates_links_and_modes(web: Checkout) -> None:
    found = files_of(web)
    site = found["etc/web/site.conf"]
    text = f"listen 8080 on {web_arch(web)};\n".encode()
    assert (site.mode, site.uid, site.gid, site.digest) == (0o640, 0, 33, digest_bytes(text))
    port = found["etc/web/port"]
    assert (port.mode, port.uid, port.digest) == (0o600, 33, digest_bytes(b"8080"))
    assert found["etc/site.conf"].target == "web/site.conf"
    assert found["srv"].mode == 0o1777
    assert found["srv/page.html"].digest == digest_bytes(b"a page\n")


def test_a_test_takes_a_user_alone_as_the_owner(web: Checkout) -> None:
    steps = (web.container / "container.yaml").read_text()
    for owner, wrong in (
        ("www", None),
        ("33", None),
        ("www:www", None),
        ("root", "expected /etc/web to belong to 0:0"),
        ("nobody", "the image has no owner 'nobody'"),
    ):
        test = f"- test: {{file: {{path: /etc/web, owner: '{owner}'}}}}\n"
        web.write("container/container.yaml", steps + test)
        if wrong is None:
            files_of(web)
            continue
        with pytest.raises(BuilditError) as error:
            files_of(web)
        assert wrong in error.value.message


def web_arch(project: Checkout) -> str:
    return prepare(Options(project.container, offline=True), silent).plan.arch


def test_the_lock_pins_what_a_template_became(web: Checkout) -> None:
    files_of(web)
    lines = (web.container / "buildit.lock").read_text().splitlines()
    (line,) = (one for one in lines if one.startswith("synced etc/web/site.conf "))
    text = f"listen 8080 on {web_arch(web)};\n".encode()
    assert line.split()[2] == digest_bytes(text)
    steps = (web.container / "container.yaml").read_text()
    web.write("container/container.yaml", steps.replace("'8080'", "'9090'"))
    prepared = prepare(Options(web.container, locked=True, offline=True), silent).with_synced()
    assert prepared.pins.moved() == ("synced etc/web/site.conf: changed, dated now",)


def test_a_plan_lists_all_steps_with_their_places(
    web: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(web.root)
    plan = prepare(Options(Path("container"), offline=True), silent).plan
    assert [(one.kind, one.place) for one in plan.listed][3:7] == [
        ("vars", "shared/conf.yaml:1:3"),
        ("sync", "shared/conf.yaml:2:3"),
        ("sync", "shared/conf.yaml:3:3"),
        ("texts", "container/container.yaml:6:3"),
    ]
    assert plan.lists == ("shared/conf.yaml",)
    assert [one.root for one in plan.takes] == ["shared", "shared"]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("modes: [{path: /x}]", "nothing is said of /x"),
        ("texts: [{path: /x, content: a, owner: nobody-here}]", "declares the owner 'nobody-here'"),
        ("texts: [{path: /a, content: b}, {path: /a, content: c}]", "the file /a is there twice"),
        ("modes: [{path: /, mode: 0700}]", "no image can say what / is like"),
        ("modes: [{path: /x, owner: nobody-here}]", "declares the owner 'nobody-here'"),
        (
            "symlinks: [{path: /a, target: b}, {path: /a/, target: c}]",
            "the link /a/ is there twice",
        ),
        ("sync: {src: ../x, dest: /x}", "leads out of the container's directory"),
    ],
)
def test_steps_that_cannot_be(project: Checkout, step: str, message: str) -> None:
    project.write("container/container.yaml", f"{HEAD}- {step}\n")
    with pytest.raises(BuilditError, match=re.escape(message)) as caught:
        prepare(Options(project.container, offline=True), silent).with_synced()
    assert "container.yaml:2:" in (caught.value.place or "")


def test_owners_by_names_of_a_synced_passwd(project: Checkout) -> None:
    project.write("container/passwd", "www:x:{{ uid }}:8::/:/bin/false\n")
    steps = "- vars: {uid: '7'}\n- sync: {src: passwd, dest: /etc/passwd, template: yes}\n"
    steps += "- directories: [{path: /srv, owner: www}]\n"
    project.write("container/container.yaml", HEAD + steps)
    plan = prepare(Options(project.container, offline=True), silent).plan
    made = next(one for one in plan.steps if one.step == "directories")
    assert [(one.uid, one.gid) for one in made.directories] == [(7, 8)]


KEY = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nAAAA\n"


def test_what_is_published_of_lists(web: Checkout) -> None:
    web.write("container/lists/own.yaml", "- sync: {src: key, dest: /etc/key}\n")
    web.write("container/lists/key", "no key\n")
    steps = (web.container / "container.yaml").read_text()
    web.write("container/container.yaml", steps + "- include: lists/own.yaml\n")
    plan = prepare(Options(web.container, offline=True), silent).plan
    names = {name for name, _ in spec_files(plan)}
    # what lies elsewhere is no part of the directory that is published
    assert names == {"container.yaml", "buildit.lock", "lists/own.yaml", "lists/key"}
    host = repository("near", str(web.root), str(web.root))
    check_secrets(plan, host)
    for path in ("container/lists/key", "shared/page.html"):
        before = (web.root / path).read_text()
        web.write(path, KEY)
        with pytest.raises(UsageError, match="holds a private key, which would be published"):
            check_secrets(plan, host)
        web.write(path, before)


def test_a_container_that_is_named_by_a_dot_or_by_two(
    web: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    (web.container / "deep").mkdir()
    for here, directory in ((".", "."), ("deep", "..")):
        monkeypatch.chdir(web.container / here)
        options = Options(Path(directory), web.root / "out", offline=True)
        prepared = prepare(options, silent).with_synced()
        taken = {found.source for one in prepared.taken for found in one.nodes}
        assert {"web/site.conf", "page.html"} <= taken
        names = {name for name, _ in spec_files(prepared.plan)}
        assert names == {"container.yaml", "buildit.lock"}  # nothing of ../shared
    outside = "- vars: {name: web, version: 1.0}\n- package: {type: embedded, path: ../pkgs}\n"
    web.write("container/other/container.yaml", outside)
    monkeypatch.chdir(web.container / "other")
    with pytest.raises(RecipeError, match="lies outside of the container's directory"):
        prepare(Options(Path(), offline=True), silent)


def test_a_plan_with_all_of_it_is_plain_data(web: Checkout) -> None:
    plan = prepare(Options(web.container, offline=True), silent).plan
    assert {one.step for one in plan.steps} == {"sync", "texts", "symlinks", "modes"}
    assert from_plain(ContainerPlan, json.loads(json.dumps(to_plain(plan)))) == plan


def test_a_corrupt_layer_is_no_source_of_bytes(store: Store) -> None:
    right, wrong = b"x" * 512 + b"right", b"x" * 512 + b"wrong"
    layer = store.put_bytes(wrong)
    copy = LayerFile("a", layer, len(wrong), 512)
    entry = Entry("a", Kind.FILE, 0o644, size=5, digest=digest_bytes(right[512:]))
    stream = Copied(copy, entry, store.path)
    with pytest.raises(CorruptBlob), closing(stream):
        assert stream.readinto(memoryview(bytearray(10))) == 5
    part = Copied(copy, entry, store.path)
    assert part.readinto(memoryview(bytearray(2))) == 2
    part.close()  # what stopped before the end says nothing of the blob


def test_facts_of_packages_as_they_are_pinned(project: Checkout) -> None:
    flags = "use: {ssl: {default: on, description: TLS}}\n"
    project.write("pkgs/x/app/pkg.yaml", f"license: MIT\n{flags}versions: {{1.5: {{}}}}\n")
    project.lock(locked(tini=(deb("tini", "0.19-1"),)))
    asked = "{{ packages['x/app'].version }} {{ packages['x/app'].digest }}"
    text = f"""\
    - vars: {{name: web, version: "{{{{ packages['debian:tini'].version }}}}"}}
    - package: {{atom: x/app}}
    - package: {{debian: tini, closure: files}}
    - labels: {{a: "{asked}", d: "{{{{ packages['debian:tini'].digest }}}}"}}
    - sync: {{src: f, dest: /f, template: yes}}
    """
    project.write("container/container.yaml", text)
    project.write(
        "container/f", "{{ packages['x/app'].flags.ssl }} {{ packages['x/app'].digest }}\n"
    )
    plan = project.plan().plan
    key = next(task.key for task in plan.tasks if task.name == "x/app")
    assert dict(plan.labels) == {"a": f"1.5 {key}", "d": deb("tini", "0.19-1").digest}
    assert plan.version == "0.19-1"
    assert dict(plan.packages["x/app"].flags) == {"ssl": True}
    (step,) = plan.takes
    fill = filling(step.names or {}, plan.packages)
    assert fill(b"{{ packages['x/app'].flags.ssl }}", "f") == b"True"
    project.write("container/container.yaml", text.replace("['debian:tini'].v", "['debian:tin'].v"))
    with pytest.raises(RecipeError, match="there is no key 'debian:tin'"):
        project.plan()


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ('{exec: [/bin/sh, -c, "set -e\\nmake  all\\n"]}', "set -e make all"),
        ("{exec: [bash, -o, pipefail]}", "bash -o pipefail"),
        ('{script: "make\\nmake install"}', "make"),
    ],
)
def test_a_command_is_known_by_its_words(tmp_path: Path, run: str, said: str) -> None:
    listed = listed_steps(loaded(tmp_path, f"- run: {run}\n"))
    assert [one.text for one in listed if one.kind == "run"] == [said]
