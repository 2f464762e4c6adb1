"""`compose.yaml` as a stack: both syntaxes of everything, variables, merges; and what has no
meaning here, at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildit.errors import RecipeError
from buildit.model.stack import (
    Attachment,
    ContainerStack,
    MemberRecipe,
    Readiness,
    Restart,
    StackPort,
)
from buildit.recipe.ways.compose.read import load_compose
from buildit.recipe.ways.compose.words import ComposeVariables, whole_bytes, whole_seconds

pytestmark = pytest.mark.unit

SHOP = """\
name: shop
x-common: &common
  restart: unless-stopped
  logging: {driver: json-file}
services:
  web:
    <<: *common
    build: {context: ./web, dockerfile: Containerfile, target: prod, args: [A=1, TAG]}
    command: echo "$$HOME x" ${MISSING:-dflt}
    environment: [X=1, PASS, "Y=a=b"]
    env_file: [web.env, {path: none.env, required: false}]
    ports: ["${PORT}:80", "3000-3001:3000-3001", "127.0.0.1:53:53/udp", {target: 443}]
    expose: ["9000-9001"]
    volumes: [data:/var/lib/x, ./conf:/etc/x:ro, /anon, {type: tmpfs, target: /t}]
    tmpfs: /run:size=1m
    depends_on: {db: {condition: service_healthy}, mig: {condition: service_completed_successfully}}
    networks: {front: , back: {aliases: [w]}}
    secrets: [tok, {source: key, target: /k, mode: 256}]
    configs: [{source: c, target: /etc/c.conf}]
    healthcheck: {test: curl -f http://localhost, interval: 1m30s, timeout: 500ms}
    deploy: {replicas: 1, resources: {limits: {cpus: "0.5", memory: 512m}}}
    security_opt: [no-new-privileges:true]
  db:
    image: registry.example.org/db:${TAG}
    networks: [back]
    healthcheck: {test: ["CMD", "/usr/bin/ok", ""]}
    environment: {A: "1", B: "2"}
  mig:
    extends: db
    command: []
    environment: [B=3]
    deploy: {restart_policy: {condition: on-failure, max_attempts: 3}}
  dev: {profiles: [debug], image: registry.example.org/dev}
networks: {front: , back: {internal: true}}
volumes: {data: }
secrets: {tok: {environment: TOK}, key: {file: ./k}}
configs: {c: {content: "hi ${TAG}"}}
"""


def compose(directory: Path, text: str, **environ: str) -> ContainerStack:
    (directory / "compose.yaml").write_text(text)
    return load_compose(directory / "compose.yaml", environ).stack


@pytest.fixture
def shop(tmp_path: Path) -> ContainerStack:
    (tmp_path / ".env").write_text("TAG=16\nPORT=8080\n")
    (tmp_path / "web.env").write_text("FOO=bar ${TAG}\nRAW='${TAG}'\n")
    return compose(tmp_path, SHOP, PORT="9090")


def test_a_compose_file_is_a_stack(shop: ContainerStack, tmp_path: Path) -> None:
    web = shop.member("web")
    values = (("A", "1"), ("TAG", "16"))
    assert web.recipe == MemberRecipe(tmp_path / "web", "Containerfile", "prod", values)
    assert web.command == ("echo", "$HOME x", "dflt")
    variables = {"FOO": "bar 16", "RAW": "${TAG}", "PASS": None, "X": "1", "Y": "a=b"}
    assert dict(web.environment) == variables
    assert web.restart == Restart("unless-stopped")
    assert {one.name: one.condition for one in web.waits_for} == {"db": "ready", "mig": "completed"}
    assert web.networks == (Attachment("front"), Attachment("back", ("w",)))
    assert [(one.kind, one.dest) for one in web.mounts] == [
        ("volume", "/var/lib/x"),
        ("host", "/etc/x"),
        ("anonymous", "/anon"),
        ("memory", "/t"),
        ("memory", "/run"),
    ]
    assert [one.mode for one in web.secrets] == [0o444, 0o400]
    assert web.files[0].content == "hi 16"
    assert (web.limits.cpus, web.limits.memory) == (500, 512 << 20)
    assert web.rights.no_new_privileges


def test_ports_of_both_syntaxes(shop: ContainerStack) -> None:
    found = [
        (one.inside, one.outside, one.address, one.protocol, one.published)
        for one in shop.member("web").ports
    ]
    assert found == [
        (80, 9090, "", "tcp", True),  # the environment counts before .env
        (3000, 3000, "", "tcp", True),
        (3001, 3001, "", "tcp", True),
        (53, 53, "127.0.0.1", "udp", True),
        (443, 0, "", "tcp", True),
        (9000, 0, "", "tcp", False),
        (9001, 0, "", "tcp", False),
    ]
    assert all(isinstance(one, StackPort) for one in shop.member("web").ports)


def test_a_healthcheck_has_the_times_of_compose(shop: ContainerStack) -> None:
    ready = shop.member("web").ready
    assert ready == Readiness(
        script="curl -f http://localhost",
        interval=90,
        timeout=1,
        retries=3,
        place=ready.place if ready else "",
    )
    assert shop.member("db").ready is not None
    assert shop.member("db").ready.exec == ("/usr/bin/ok", "")  # type: ignore[union-attr]


def test_what_is_extended_is_below(shop: ContainerStack) -> None:
    mig = shop.member("mig")
    assert mig.image == "registry.example.org/db:16"
    assert mig.command == ()
    assert dict(mig.environment) == {"A": "1", "B": "3"}
    assert mig.restart == Restart("on-failure", 3)


def test_what_does_no_harm_is_told_at_its_place(shop: ContainerStack) -> None:
    assert [one.partition("compose.yaml:")[2] for one in shop.remarks] == [
        "33:3: the service dev is left out: COMPOSE_PROFILES=debug takes it in",
        "4:3: `logging` of web is left out",
        "20:77: 500ms becomes 1s",
    ]


def test_profiles_take_services_in(tmp_path: Path) -> None:
    text = "services: {a: {image: h.example.org/a}, b: {profiles: [x], image: h.example.org/b}}"
    assert [one.name for one in compose(tmp_path, text).members] == ["a"]
    found = compose(tmp_path, text, COMPOSE_PROFILES="y,x").members
    assert [one.name for one in found] == ["a", "b"]


def test_an_override_is_laid_over_the_file(tmp_path: Path) -> None:
    override = "services: {a: {command: [x], ports: ['1:1'], environment: {B: '2'}}}"
    (tmp_path / "compose.override.yaml").write_text(override)
    text = "services: {a: {image: h.example.org/a, command: [y], ports: ['2:2'], "
    stack = compose(tmp_path, text + "environment: [A=1]}}")
    member = stack.member("a")
    assert member.command == ("x",)
    assert [one.inside for one in member.ports] == [2, 1]
    assert dict(member.environment) == {"A": "1", "B": "2"}
    assert [one.name for one in stack.consulted] == ["compose.yaml", "compose.override.yaml"]


def test_a_variable_without_a_value_is_told(tmp_path: Path) -> None:
    stack = compose(tmp_path, "services:\n  a: {image: 'h.example.org/a:${T}', hostname: x$T}")
    assert stack.member("a").image == "h.example.org/a:"
    assert any("the variable T has no value" in one for one in stack.remarks)


IMAGE = "image: h.example.org/a"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("services: {a: {%s, |privileged: true}}", "`privileged` has no meaning", "cap_add"),
        ("services: {a: {%s, |network_mode: host}}", "`network_mode` has no meaning", "networks"),
        ("services: {a: {%s, |devices: [/dev/x]}}", "`devices` has no meaning", "one machine"),
        ("services: {a: {%s, |enviroment: {}}}", "unknown key 'enviroment'", "'environment'"),
        ("services: {a: {%s, ulimits: {}}}", "`ulimits` has no meaning", "leave"),
        ("services: {a: {%s, deploy: {mode: |global}}}", "mode: global", "replicas"),
        ("services: {a: {%s, ports: [|'x:80']}}", "not a port: 'x:80'", "8080:80"),
        ("services: {a: {%s, depends_on: [|b]}}", "there is no container 'b'", "valid here: a"),
        ("services: {a: {%s, volumes: ['|x:/y']}}", "there is no volume 'x'", "volumes"),
        ("services: {a: |{command: x}}", "neither image nor build", "write one"),
        ("services: {a: {build: {|dockerfile_inline: x}}}", "no meaning here", "into a file"),
        ("services: {a: {build: {context: |'git@h:x'}}}", "a context is a directory", "clone"),
        ("services: {a: {%s, extends: |b}}", "there is no service 'b'", "valid here: a"),
        ("services: {a: {%s, hostname: |'${X:?say it}'}}", "the variable X: say it", "export X"),
        ("services: {a: {%s, hostname: |'${X'}}", "not a variable", "${NAME}"),
        ("services: {a: {%s, configs: [|c]}}", "there is no config 'c'", "none"),
        ("services: {a: {%s}}\n|include: [x]", "`include` has no meaning here", "into this one"),
        ("services: {a: {%s}}\nvolumes: {v: {|driver: nfs}}", "`driver` has no", "external"),
        ("services: {a: {%s}}\nsecrets: {v: {|content: x}}", "`content` has no", "no secret"),
        ("|services: {}", "there are no services", "add them"),
        ("services: {a: {<<: |x, %s}}", "<< names a map", "*NAME"),
        ("services: {a: {%s, links: ['|b']}}", "there is no container 'b'", "valid"),
        ("services: {a: {%s, healthcheck: {test: |[x]}}}", "not a test", 'write ["CMD"'),
    ],
)
def test_what_has_no_meaning_is_named(tmp_path: Path, text: str, message: str, hint: str) -> None:
    """A bar stands before what the place is of, where the test looks at that."""
    text = text.replace("%s", IMAGE)
    before, bar, after = text.partition("|")
    with pytest.raises(RecipeError) as caught:
        compose(tmp_path, before + after)
    assert message in str(caught.value)
    assert hint in str(caught.value.hint)
    line = before.count("\n") + 1
    assert f"compose.yaml:{line}:" in str(caught.value.place)
    if bar and not before.endswith("'"):
        column = len(before.rpartition("\n")[2]) + 1
        told = str(caught.value.place).rpartition("compose.yaml:")[2]
        assert told == f"{line}:{column}" or "there are no services" in message


def test_services_that_extend_each_other_are_named(tmp_path: Path) -> None:
    text = "services: {a: {extends: b}, b: {extends: a}}"
    with pytest.raises(RecipeError, match=r"extend each other: b .*extends a .*extends b"):
        compose(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$A ${A} $$A", "1 1 $A"),
        ("${E-x}${E:-x}${N-x}", "xx"),
        ("${A+y}${E+y}${E:+y}${N:+y}", "yy"),
        ("${N:-${A:-z}}", "1"),
        ("${N:-a}b}", "ab}"),
    ],
)
def test_variables_are_filled_in(text: str, expected: str) -> None:
    assert ComposeVariables({"A": "1", "E": ""}).expand(text, "f:1:1") == expected


def test_durations_and_sizes() -> None:
    assert [whole_seconds(one) for one in ("1m30s", "500ms", "1.5s", "90", "x")] == [
        90,
        1,
        2,
        90,
        None,
    ]
    assert [whole_bytes(one) for one in ("64m", "1GB", "512", "1.5k", "x")] == [
        64 << 20,
        1 << 30,
        512,
        1536,
        None,
    ]
