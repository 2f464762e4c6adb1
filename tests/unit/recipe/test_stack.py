"""`stack.yaml`: what it says, and what is refused, each with its place and the nearest name."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from buildit.errors import BuilditError, RecipeError
from buildit.model.stack import (
    Attachment,
    HttpProbe,
    MemberRecipe,
    SecretUse,
    StackMount,
    StackPort,
    circle_of,
    replica_names,
    stack_environment,
    start_order,
)
from buildit.recipe.envfile import parse_env_file
from buildit.recipe.stackread import load_stack

pytestmark = pytest.mark.unit

SHOP = """\
name: shop
containers:
  web: {path: ./web, links: [app], ports: ["8443:443"], restart: always}
  app:
    path: ../app
    file: Containerfile
    target: prod
    build-args: {LEVEL: info}
    links: ["db:database"]
    depends: {migration: completed}
    volumes: ["data:/var/lib/app/", "./conf:/etc/app:ro", {dest: /tmp, memory: 64M}, /var/cache]
    secrets: [token, {id: key, target: key.pem, uid: 101, mode: 0400}]
    ready: {http: {port: 8080, path: /health}}
    replicas: 3
    networks: {default: , back: {aliases: [application]}}
  db: {image: "docker://registry.example.org/db:16", ports: [5432], networks: [back]}
  migration: {path: ./app, networks: [back], depends: [db]}
networks: {back: {internal: yes}}
volumes: {data: {}}
secrets: {token: {generate: 32}, key: {file: ./key.pem}}
"""


def stack_in(directory: Path, text: str, **files: str) -> Path:
    (directory / "stack.yaml").write_text(text)
    for name, content in files.items():
        (directory / name.replace("_", ".", 1)).write_text(content)
    return directory / "stack.yaml"


def test_a_stack_is_read(tmp_path: Path) -> None:
    stack = load_stack(stack_in(tmp_path, SHOP)).stack
    assert stack.name == "shop"
    app = stack.member("app")
    values = (("LEVEL", "info"),)
    assert app.recipe == MemberRecipe(tmp_path.parent / "app", "Containerfile", "prod", values)
    assert [one.kind for one in app.mounts] == ["volume", "host", "memory", "anonymous"]
    assert app.mounts[1] == StackMount(
        "/etc/app", "host", str(tmp_path / "conf"), read_only=True, place=app.mounts[1].place
    )
    assert app.mounts[0].dest == "/var/lib/app"
    assert app.mounts[2].size == 64 << 20
    assert app.secrets[1] == SecretUse(
        "key", "/run/secrets/key.pem", 101, 0, 0o400, app.secrets[1].place
    )
    assert app.secrets[1].place.endswith("stack.yaml:12:22")
    assert app.ready is not None
    assert app.ready.http == HttpProbe(8080, "/health")
    assert app.networks == (Attachment("default"), Attachment("back", ("application",)))
    assert stack.member("db").ports == (StackPort(5432, place=stack.member("db").ports[0].place),)
    assert stack.member("web").ports[0].outsides == range(8443, 8444)
    assert [one.name for one in stack.networks] == ["back", "default"]
    assert [*replica_names(app)] == ["app-1", "app-2", "app-3"]


def test_a_link_gives_variables_and_waits_until_the_other_is_ready(tmp_path: Path) -> None:
    stack = load_stack(stack_in(tmp_path, SHOP)).stack
    waits = {one.name: one.condition for one in stack.member("app").waits_for}
    assert waits == {"migration": "completed", "db": "ready"}
    expected = (("DATABASE_HOST", "database"), ("DATABASE_PORT", "5432"))
    assert stack_environment(stack, stack.member("app")) == expected
    names = [[one.name for one in wave] for wave in start_order(stack)]
    assert names == [["db"], ["migration"], ["app"], ["web"]]


def test_variables_come_from_files_and_the_later_counts(tmp_path: Path) -> None:
    text = "containers: {a: {path: a, env-files: [x.env, y.env], environment: {C: '3'}, "
    path = stack_in(tmp_path, text + "pass-environment: [E]}}", x_env="A=1\nB=1\n", y_env="B=2\nD")
    loaded = load_stack(path)
    member = loaded.stack.member("a")
    expected = {"A": "1", "B": "2", "D": None, "E": None, "C": "3"}
    assert dict(member.environment) == expected
    assert [one.name for one in loaded.stack.consulted] == ["stack.yaml", "x.env", "y.env"]


@pytest.mark.parametrize(
    ("text", "outside", "inside", "address", "protocol"),
    [
        ("8080", range(0), 8080, "", "tcp"),
        ("any:80", range(0), 80, "", "tcp"),
        ("8443:443", range(8443, 8444), 443, "", "tcp"),
        ("127.0.0.1:5353:53/udp", range(5353, 5354), 53, "127.0.0.1", "udp"),
        ("[::1]:8080-8082:80", range(8080, 8083), 80, "::1", "tcp"),
    ],
)
def test_ports_as_texts(
    tmp_path: Path, text: str, outside: range, inside: int, address: str, protocol: str
) -> None:
    written = f'containers: {{a: {{path: a, ports: ["{text}"]}}}}'
    (port,) = load_stack(stack_in(tmp_path, written)).stack.member("a").ports
    assert (port.outsides, port.inside, port.address, port.protocol) == (
        outside,
        inside,
        address,
        protocol,
    )
    assert port.published == (":" in text)


ONE = "containers:\n  a: {path: a%s}\n"
TWO = "containers:\n  a: {path: a%s}\n  bee: {path: b%s}\n"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (TWO % (", links: [|be]", ""), "there is no container 'be'", "did you mean 'bee'?"),
        (TWO % (", depends: {be: |ready}", ""), "no container 'be'", "mean 'bee'"),
        (ONE % ', volumes: [|"data:/x"]', "there is no volume 'data'", "volumes: {data"),
        (ONE % ", networks: [|back]", "there is no network 'back'", "networks: {back"),
        (ONE % ", networks: {back: |{}}", "no network 'back'", "networks: {back"),
        (ONE % ", secrets: [|key]", "there is no secret 'key'", "secrets: {key"),
        (TWO % (", links: [|bee]", ", links: [a]"), "a waits for bee waits for a", "out"),
        (ONE % ", links: [|a]", "the container 'a' links to itself", "leave it out"),
        (
            TWO % (', ports: ["80:80"]', ', ports: [|"127.0.0.1:80:8080"]'),
            "the port 80/tcp of the machine is used twice",
            "'a' has it at",
        ),
        (
            ONE % ', replicas: 2, ports: [|"80:80"]',
            "2 replicas of 'a' would take 1 port of the machine",
            "write a range, 80-81:80",
        ),
        (ONE % ', ports: [|"80:99999"]', "a port from 1 to 65535, found 99999", "8443:443"),
        (ONE % ', ports: [|"http"]', "not a port: 'http'", "8443:443"),
        (ONE % ', volumes: [/x, |"./y:/x/"]', "two things are mounted at /x", "the first"),
        (ONE % ", restart: |on-error", "expected one of no, always", "on-failure"),
        ("containers:\n  a: |{path: a, image: x}", "of a `path` or of an `image`", "./web"),
        ("containers: {a: {image: x, target: |b}}", "`target` is of what is built", "path"),
        (ONE % ", |linkz: [b]", "unknown key 'linkz'", "did you mean 'links'?"),
        (ONE % ", env-files: [|x.env]", "there is no file 'x.env'", "looked for"),
        (ONE % ", ready: |{}", "expected one of exec, script, http, tcp", "write ready"),
        (ONE % ", ready: {tcp: |70000}", "not a port: 70000", "8080"),
        (ONE % ", placement: {platform: |vax}", "vax", "linux/amd64"),
        (
            TWO % (", restart: always", ", depends: {a: |completed}"),
            "'a' never completes",
            "restart: no",
        ),
        (
            TWO % (", networks: [x], links: [|bee]", "") + "networks: {x: {}}",
            "'a' and 'bee' are on no common network",
            "networks: [x]",
        ),
        (
            "containers: {a: {path: a, links: [|'b:c']}, b: {path: b}, c: {path: c}}",
            "two containers would be called 'c'",
            "b:another-name",
        ),
        ("name: |Shop\n" + ONE % "", "small letters", "write name: shop"),
        (ONE % "" + "secrets: {k: |{}}", "a secret comes from one place", "generate"),
        (ONE % "" + "secrets: {k: |{generate: 4}}", "16 to 1024", "32"),
        (ONE % "" + "networks: {x: {subnet: |10.0.0.1/8}}", "host bits", "10.89"),
        (ONE % ", rights: {add: [|net_admin]}", "not a capability", "NET_ADMIN"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, text: str, message: str, hint: str) -> None:
    """A bar in the text stands before what the place is of."""
    before, _, after = text.partition("|")
    with pytest.raises(BuilditError) as caught:
        load_stack(stack_in(tmp_path, before + after))
    line, column = before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1
    assert message in str(caught.value)
    assert str(caught.value.place).endswith(f"stack.yaml:{line}:{column}")
    assert hint in str(caught.value.hint)


def test_a_circle_of_three_is_told_in_its_order(tmp_path: Path) -> None:
    text = "containers:\n" + "".join(
        f"  {one}: {{path: x, depends: [{other}]}}\n" for one, other in ("ab", "bc", "ca", "da")
    )
    with pytest.raises(RecipeError, match="wait for each other") as caught:
        load_stack(stack_in(tmp_path, text))
    told = caught.value.message.rpartition(": ")[2].split(" waits for ")
    assert told[0] == told[-1]
    assert {*pairwise(told)} == {("a", "b"), ("b", "c"), ("c", "a")}
    assert circle_of(()) == ()


def test_files_of_variables() -> None:
    text = '# c\nA=1\n\nexport B=\'x $y\' # c\nC="a\\n\\"b\\""\nD\nE=\nF=a b # c\nG=a#b\n # z\nH: 3'
    assert parse_env_file(text, "f") == {
        "A": "1",
        "B": "x $y",
        "C": 'a\n"b"',
        "D": None,
        "E": "",
        "F": "a b",
        "G": "a#b",
        "H": "3",
    }


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("A=1\n=2\n", 2, "not a variable"),
        ("A='x\n", 1, "a quote is not closed"),
        ("A=1\nB='x' y\n", 2, "text follows a closed quote"),
        ("A b\n", 1, "A has no value"),
    ],
)
def test_lines_that_are_no_variables(text: str, line: int, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        parse_env_file(text, "f.env")
    assert caught.value.place == f"f.env:{line}:1"
