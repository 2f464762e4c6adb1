"""A stack that says everything, in every form that it is emitted in, before foreign judges; and
what docker compose makes of a compose file beside what is read of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from buildit.recipe.ways.compose.read import load_compose
from buildit.stack.compose import compose_files
from buildit.stack.pinned import PinnedImage, PinnedStack
from tests.stack_judges import StackJudges, stack_judges
from tests.stacks import DIGEST, emitted, full_stack

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> StackJudges:
    return stack_judges(tmp_path_factory.mktemp("judges"))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """The stack, emitted."""
    emitted(full_stack(tmp_path), tmp_path / "out")
    secrets = tmp_path / "out/secrets"
    secrets.mkdir()
    (secrets / "token").write_text("0123456789abcdef")
    return tmp_path / "out"


def spoiled(path: Path, spoil: Callable[[str], str]) -> Path:
    """The file with something wrong in it."""
    text = path.read_text()
    assert spoil(text) != text
    path.write_text(spoil(text))
    return path


def test_docker_compose_takes_the_file(judges: StackJudges, output: Path) -> None:
    done = judges.compose("-f", output / "compose.yaml", "config", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    wrong = spoiled(output / "compose.yaml", lambda text: text.replace("  db:\n", "  dc:\n", 1))
    assert judges.compose("-f", wrong, "config", "--quiet").returncode != 0


def test_compose_spec_knows_every_key(judges: StackJudges, output: Path) -> None:
    done = judges.schema(output / "compose.yaml")
    assert done.returncode == 0, done.stdout
    wrong = spoiled(output / "compose.yaml", lambda text: text.replace("expose:", "exposed:", 1))
    assert judges.schema(wrong).returncode != 0


def test_docker_compose_reads_what_was_meant(judges: StackJudges, output: Path) -> None:
    done = judges.compose("-f", output / "compose.yaml", "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    web = json.loads(done.stdout)["services"]["web"]
    # It writes dollars as a compose file has them.
    assert web["environment"]["A"] == 'it\'s $$HOME %h "x" \\ '
    assert web["command"] == ["-c", 'echo $$HOME "a b" 100%; true', ""]
    assert web["labels"] == {"org.example.x": "v $$1 %n"}


def test_kubernetes_knows_every_key(judges: StackJudges, output: Path) -> None:
    done = judges.kubernetes(output / "kubernetes/stack.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    path = output / "kubernetes/stack.yaml"
    for before, after in (("mountPath:", "mountpath:"), ("kind: Deployment", "kind: Deploymnt")):
        text = path.read_text()
        wrong = spoiled(path, lambda text, b=before, a=after: text.replace(b, a, 1))  # type: ignore[misc]
        assert judges.kubernetes(wrong).returncode != 0, before
        path.write_text(text)


def test_kustomize_builds_it(judges: StackJudges, output: Path) -> None:
    done = judges.kustomize(output / "kubernetes")
    assert done.returncode == 0, done.stderr
    kinds = [one["kind"] for one in yaml.safe_load_all(done.stdout)]
    written = yaml.safe_load_all((output / "kubernetes/stack.yaml").read_text())
    assert sorted(kinds) == sorted(one["kind"] for one in written)
    spoiled(output / "kubernetes/kustomization.yaml", lambda text: f"{text}nothing: 1\n")
    assert judges.kustomize(output / "kubernetes").returncode != 0


@pytest.mark.parametrize("words", [(), ("-user",)], ids=["system", "user"])
def test_systemd_takes_the_units(
    judges: StackJudges, output: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    done = judges.quadlet(output / "quadlet", tmp_path / "units", *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    started = re.findall(
        r"^ExecStart=(.*)$", (tmp_path / "units/shop-web.service").read_text(), re.M
    )
    assert '"A=it\'s $$HOME %%h \\"x\\" \\\\ "' in started[0]
    assert started[0].endswith("a" * 64)
    unit = output / "quadlet/shop-web.container"
    spoiled(unit, lambda text: text.replace("Image=", "Imag=", 1))
    assert judges.quadlet(output / "quadlet", tmp_path / "bad", *words).returncode != 0


def test_a_unit_without_its_volume_is_noticed(
    judges: StackJudges, output: Path, tmp_path: Path
) -> None:
    (output / "quadlet/shop-rows.volume").unlink()
    assert judges.quadlet(output / "quadlet", tmp_path / "units").returncode != 0


COMPOSE = """\
name: shop
x-all: &all {restart: unless-stopped}
services:
  web:
    <<: *all
    image: registry.example.org/web@sha256:%s
    entrypoint: /bin/sh -c
    command: ["echo $$HOME", '', 'a b']
    environment: [X=1, "Y=a=b", Z=]
    env_file: [web.env]
    ports: ["${PORT:-8080}:80", "3000-3001:3000-3001", "127.0.0.1:5353:53/udp"]
    expose: ["9000"]
    volumes: [data:/var/lib/x, ./conf:/etc/x:ro, {type: tmpfs, target: /t, tmpfs: {size: 64m}}]
    depends_on: {db: {condition: service_healthy}}
    networks: {front: , back: {aliases: [w]}}
    secrets: [{source: key, target: k.pem, mode: 0400}]
    healthcheck: {test: curl -f http://localhost, interval: 1m30s, retries: 5}
    deploy: {replicas: 1, resources: {limits: {cpus: "0.5", memory: 512M}}}
    stop_grace_period: 1m
    labels: [a.b=c]
    extra_hosts: ["h.example.org:192.0.2.1"]
    cap_drop: [ALL]
    user: "1000:1000"
    working_dir: /srv
    read_only: true
  db:
    image: registry.example.org/db@sha256:%s
    networks: [back]
    healthcheck: {test: ["CMD", "/usr/bin/ok", "a b"], start_period: 10s}
  other: {extends: {service: db}, environment: {B: "3"}, command: x "y z"}
networks: {front: , back: {internal: true}}
volumes: {data: }
secrets: {key: {file: ./k}}
"""


def services(done: str) -> dict[str, Any]:
    """What docker compose says of the services, without what two files may say differently."""
    found: dict[str, Any] = json.loads(done)["services"]
    for one in found.values():
        one.pop("expose", None)  # of a port that is published it says nothing
        for port in one.get("ports", ()):
            port.pop("mode", None)
        for mount in one.get("volumes", ()):
            for empty in ("volume", "bind"):
                mount.pop(empty, None)
        for use in one.get("secrets", ()):
            use["target"] = use["target"].removeprefix("/run/secrets/")
            if use.get("uid") == use.get("gid") == "0":
                use.pop("uid"), use.pop("gid")
        health = one.get("healthcheck", {})
        if health.get("start_period") in ("0s", None):
            health.pop("start_period", None)
        match health.get("test"):
            case ["CMD-SHELL", text]:
                health["test"] = ["CMD", "/bin/sh", "-c", text]
            case _:
                pass
        health.setdefault("timeout", "30s") if health else None
        health.setdefault("interval", "30s") if health else None
        health.setdefault("retries", 3) if health else None
        if one.get("deploy", {}).get("replicas") == 1:
            del one["deploy"]["replicas"]
    return found


def test_what_is_read_is_what_docker_compose_reads(judges: StackJudges, tmp_path: Path) -> None:
    """The file that is emitted of what was read says the same to docker compose as the user's."""
    source = tmp_path / "compose.yaml"
    source.write_text(COMPOSE % (DIGEST, "c" * 64))
    (tmp_path / "web.env").write_text("FROM_FILE='x $y'\nOTHER=${PORT:-1}\n")
    (tmp_path / "k").write_text("value")
    stack = load_compose(source, {}).stack
    assert stack.remarks == ()
    images = {one.name: PinnedImage(one.image) for one in stack.members}
    emitted_file = tmp_path / "emitted.yaml"
    emitted_file.write_text(compose_files(PinnedStack(stack, images))["compose.yaml"])
    words = ("config", "--format", "json")
    theirs = judges.compose("-f", source, *words)
    ours = judges.compose("-f", emitted_file, *words)
    assert (theirs.returncode, ours.returncode) == (0, 0), theirs.stderr + ours.stderr
    assert services(ours.stdout) == services(theirs.stdout)
