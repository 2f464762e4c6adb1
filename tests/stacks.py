"""A stack that says everything that one can, with images that nobody built, for tests of what is
emitted."""

from __future__ import annotations

from pathlib import Path

from buildit.model.image import App, Health, Port
from buildit.recipe.stackread import load_stack
from buildit.stack.compose import compose_files
from buildit.stack.kubernetes import kubernetes_files
from buildit.stack.pinned import PinnedImage, PinnedStack, with_image_ports
from buildit.stack.quadlet import quadlet_files
from buildit.stack.readme import readme_text

CANARY = "Ma1nQuest9Canary77"
"""The value of each secret: it must be in nothing that is emitted."""

FULL = """\
name: shop
containers:
  web:
    path: ./web
    links: [app]
    ports: ["8443:443", "127.0.0.1:5353:53/udp", "any:80"]
    restart: always
    environment: {A: "it's $HOME %h \\"x\\" \\\\ ", EMPTY: "", "n": "no", B: "$(A)"}
    env-files: [web.env]
    pass-environment: [HTTP_PROXY]
    command: ["-c", "echo $HOME \\"a b\\" 100%; true", ""]
    files: [{dest: /etc/web/site.conf, src: ./site.conf, mode: 0640}, {dest: /x, content: "hi\\n"}]
    ready: {http: {port: 8080, path: "/health?x=1"}}
    hosts: {ldap.example.org: 192.0.2.7}
    labels: {org.example.x: "v $1 %n"}
    stop-signal: SIGQUIT
    stop-timeout: 30s
  app:
    path: ./app
    links: ["db:database"]
    depends: {migration: completed}
    volumes: ["data:/var/lib/app", "./conf:/etc/app:ro", {dest: /tmp, memory: 64M}, /var/cache/app]
    secrets: [token, {id: key, target: /etc/app/key.pem, uid: 101, mode: 0400}, from-env]
    ready: {tcp: 8080}
    ports: [8080]
    replicas: 3
    networks: {default: {aliases: [backend]}, back: }
    restart: on-failure:5
    placement:
      {host: n1, platform: linux/amd64, labels: {disk: ssd}, without: {zone: lab}, spread: [zone],
       most: 1}
    limits: {memory: 512M, cpus: "0.5", processes: 100}
    reserved: {memory: 128M}
    rights: {read-only: yes, no-new-privileges: yes, add: [NET_ADMIN], drop: [ALL]}
    user: "101:101"
    init: yes
    hostname: apphost
  db:
    image: docker://registry.example.org/db:16
    ports: [5432]
    networks: [back]
    volumes: ["rows:/var/lib/db", "kept:/srv/kept"]
    ready: {exec: [/usr/bin/pg_isready, -q]}
  migration:
    path: ./app
    networks: [back]
    depends: {db: ready}
    entrypoint: [/usr/bin/migrate, "a b"]
networks: {back: {internal: yes, subnet: 10.89.5.0/24}}
volumes: {data: {size: 10G}, rows: {}, kept: {external: archive}}
secrets:
  token: {generate: 32}
  key: {file: ./key.pem}
  from-env: {env: SHOP_TOKEN}
"""

ID = "a" * 64
DIGEST = "b" * 64


def full_stack(directory: Path) -> PinnedStack:
    """The stack that says everything, written to a directory and read."""
    (directory / "site.conf").write_text("a: $b %h\n")
    (directory / "web.env").write_text("FROM_FILE='x y'\n")
    (directory / "key.pem").write_text(CANARY)
    (directory / "stack.yaml").write_text(FULL)
    stack = load_stack(directory / "stack.yaml").stack
    health = Health(("/usr/bin/web", "--ok"))
    app = App(("/usr/bin/web",), user="101", group="102", ports=(Port(9090),), health=health)
    own = PinnedImage(ID, "images/web/web.docker.tar", app, {"curl": "/usr/bin/curl", "sh": "/sh"})
    other = PinnedImage(f"registry.example.org/db@sha256:{DIGEST}")
    images = {one.name: own if one.recipe else other for one in stack.members}
    return PinnedStack(with_image_ports(stack, images), images)


def emitted(pinned: PinnedStack, output: Path) -> dict[str, str]:
    """All texts of a stack by their path, also written below `output`."""
    texts = dict(compose_files(pinned))
    texts |= {f"quadlet/{name}": text for name, text in quadlet_files(pinned).items()}
    texts |= {f"kubernetes/{name}": text for name, text in kubernetes_files(pinned).items()}
    texts["README.md"] = readme_text(pinned)
    for name, text in texts.items():
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return texts
