"""Stacks of real images: built at once, each with its own lock, and started by docker compose and
`podman kube play` from what was emitted."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.engines import docker, podman
from tests.integration.seeds import Seed, place
from tests.registries import registry
from tests.servers import keygen
from tests.trixie import unpacked

pytestmark = pytest.mark.sandbox

BOX = """\
- vars: {{name: {name}, version: 1}}
- package: {{debian: busybox-static}}
- symlinks: [{{path: /bin/sh, target: /bin/busybox}}]
- sync: {{src: ./index.html, dest: /srv/index.html}}
- entrypoint: [/bin/busybox, httpd, -f, -p, "8080", -h, /srv]
- ports: [8080]
"""
STACK = """\
name: shop
containers:
  web: {path: ./web, links: ["app:backend"], ready: {http: {port: 8080, path: /index.html}}}
  app:
    path: ./app
    depends: {db: ready}
    volumes: ["data:/var/lib/app"]
    secrets: [token]
    ready: {tcp: 8080}
  db: {path: ./db, ready: {exec: [/bin/busybox, "true"]}}
volumes: {data: {}}
secrets: {token: {generate: 32}}
"""
TOKEN = "0123456789abcdefghijklmnopqrstuv"


def boxes(root: Path, *names: str) -> None:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "container.yaml").write_text(BOX.format(name=name))
        (root / name / "index.html").write_text(f"hello {name}\n")


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with place("stacks") as found:
        yield found


@pytest.fixture(scope="module")
def shop(seed: Seed, root: Path) -> Path:
    """The directory that was emitted."""
    boxes(root, "web", "app", "db")
    (root / "stack.yaml").write_text(STACK)
    done = seed.program.run(str(root), "--output", str(root / "out"), timeout=900).good()
    assert done.out == f"{root}/out/shop.stack\n"
    unpacked = [line for line in done.err.splitlines() if "busybox-static" in line]
    made = [line for line in unpacked if not line.startswith("Processing")]
    assert len(made) <= 1, "what three containers need is made once, where no store has it"
    return root / "out/shop.stack"


def test_each_container_has_its_own_lock(shop: Path, root: Path) -> None:
    locks = sorted(str(path.relative_to(root)) for path in root.glob("*/buildit.lock"))
    assert locks == ["app/buildit.lock", "db/buildit.lock", "web/buildit.lock"]
    assert not (root / "buildit.lock").exists()
    assert (shop / "README.md").exists()


def test_the_same_stack_is_the_same_bytes(seed: Seed, shop: Path, root: Path) -> None:
    before = {path: path.read_bytes() for path in shop.rglob("*") if path.is_file()}
    words = ("--output", str(root / "again"), "--locked")
    seed.program.run(str(root), *words, timeout=900).good()
    after = {path: (root / "again" / path.relative_to(root / "out")) for path in before}
    assert [path for path, other in after.items() if other.read_bytes() != before[path]] == []


def test_docker_compose_starts_it(shop: Path, tmp_path: Path) -> None:
    compose = unpacked(tmp_path / "trixie", ("docker-compose",)) / "docker-compose"
    (shop / "secrets").mkdir(exist_ok=True)
    (shop / "secrets/token").write_text(TOKEN)
    with docker("vfs") as engine:
        for path in sorted(shop.glob("images/*/*.docker.tar")):
            subprocess.run([*engine.argv, "load", "-q", "-i", str(path)], check=True)
        environ = {**os.environ, "DOCKER_HOST": f"unix://{engine.root}/socket"}
        argv = [str(compose), "-f", str(shop / "compose.yaml")]

        def asked(*words: str) -> str:
            done = subprocess.run(
                [*argv, *words], capture_output=True, text=True, check=False, env=environ
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        try:
            asked("up", "-d", "--wait", "--wait-timeout", "120")
            inside = ("exec", "-T", "web", "/bin/busybox")
            got = asked(*inside, "wget", "-q", "-O", "-", "http://backend:8080/index.html")
            assert got == "hello app\n"
            assert "BACKEND_PORT=8080" in asked(*inside, "env")
            secret = asked("exec", "-T", "app", "/bin/busybox", "cat", "/run/secrets/token")
            assert secret == TOKEN
            running = [json.loads(line) for line in asked("ps", "--format", "json").splitlines()]
            assert {one["Health"] for one in running} == {"healthy"}
        finally:
            down = [*argv, "down", "-v", "-t", "1"]
            subprocess.run(down, env=environ, capture_output=True, check=False)


def test_podman_plays_the_manifests(shop: Path) -> None:
    with podman() as engine:
        settings = engine.root / "containers.conf"
        limits = 'default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
        settings.write_text(f'[containers]\n{limits}{settings.read_text()}runtime = "runc"\n')
        for path in sorted(shop.glob("images/*/*.docker.tar")):
            subprocess.run([*engine.argv, "load", "-q", "-i", str(path)], check=True)
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shop-token"}}
        secret["stringData"] = {"token": TOKEN}
        (engine.root / "secret.yaml").write_text(yaml.safe_dump(secret))
        manifests = str(shop / "kubernetes/stack.yaml")

        def asked(*words: str) -> str:
            done = subprocess.run(
                [*engine.argv, *words], capture_output=True, text=True, check=False, timeout=120
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        asked("kube", "play", str(engine.root / "secret.yaml"))
        asked("kube", "play", "--network", "none", manifests)
        try:
            listed = asked("ps", "--format", "{{.Names}} {{.Status}}").splitlines()
            running = {line.split()[0] for line in listed if line.split()[1] == "Up"}
            assert {"web-pod-0-web", "app-pod-0-app", "db-pod-0-db"} <= running
            volumes = asked("volume", "ls", "--format", "{{.Name}}").splitlines()
            assert "shop-data" in volumes
        finally:
            asked("kube", "down", manifests)


def test_where_one_fails_its_siblings_are_kept(seed: Seed, here: Path) -> None:
    boxes(here, "good", "bad")
    text = (here / "bad/container.yaml").read_text()
    (here / "bad/container.yaml").write_text(text + '- run: {exec: [/bin/busybox, "false"]}\n')
    (here / "stack.yaml").write_text(
        "name: two\ncontainers: {bad: {path: ./bad}, good: {path: ./good, links: [bad]}}\n"
    )
    done = seed.program.run(str(here), "--output", str(here / "out"), timeout=900)
    assert done.code == 1
    assert re.search(r"bad/container\.yaml:7:3: run failed with status 1", done.err)
    assert "1 of 2 containers of two could not be built: bad" in done.err
    assert [path.name for path in here.glob("out/two.stack/images/*/*")] == [
        "good-1-linux-amd64.docker.tar"
    ]
    assert not (here / "out/two.stack/compose.yaml").exists()


def test_images_as_they_are_are_pinned_beside_the_stack(seed: Seed, here: Path, shop: Path) -> None:
    (archive,) = shop.glob("images/db/*.docker.tar")
    (here / "db.tar").write_bytes(archive.read_bytes())
    (here / "stack.yaml").write_text(
        "name: one\ncontainers: {db: {image: 'docker-archive:db.tar', command: [x]}}\n"
    )
    words = (str(here), "--output", str(here / "out"))
    seed.program.run(*words, timeout=900).good()
    lock = (here / "buildit.lock").read_text()
    (config,) = json.loads(
        subprocess.run(
            ["tar", "-xOf", archive, "manifest.json"], check=True, capture_output=True
        ).stdout
    )
    assert f"image docker-archive:db.tar {config['Config'].removesuffix('.json')}" in lock
    (other,) = shop.glob("images/app/*.docker.tar")
    (here / "db.tar").write_bytes(other.read_bytes())
    done = seed.program.run(*words, "--locked", timeout=900)
    assert done.code == 3
    assert "the lock would change" in done.err


def test_with_a_registry_images_are_named_by_their_digests_there(
    seed: Seed, here: Path, shop: Path
) -> None:
    """Both containers have packages in common: they are published one after the other."""
    del shop  # the packages are built
    with registry(here / "registry", secure=False) as served:
        boxes(here, "one", "two")
        (here / "stack.yaml").write_text(
            "name: far\ncontainers: {one: {path: ./one}, two: {path: ./two, links: [one]}}\n"
        )
        keygen(here / "key")
        (here / ".buildit-config.yaml").write_text(
            "signing-key: ./key\nrepository: {name: far, upload-type: oci, "
            f"upload-path: '{served.host}/bin'}}\n"
        )
        words = (str(here), "--output", str(here / "out"), "--push")
        seed.program.run(*words, timeout=900).good()
        text = (here / "out/far.stack/compose.yaml").read_text()
        services = yaml.safe_load(text)["services"]
        for name, one in services.items():
            assert re.fullmatch(rf"{served.host}/bin/{name}@sha256:[0-9a-f]{{64}}", one["image"])
            assert "pull_policy" not in one
            asked = ["skopeo", "inspect", "--tls-verify=false", f"docker://{one['image']}"]
            subprocess.run(asked, check=True, capture_output=True)
        assert not [*(here / "out/far.stack").rglob("*.docker.tar")]
