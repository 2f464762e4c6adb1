"""What `buildit import` writes of Debian's packages and of its root, started by others: podman,
systemd-nspawn and LXC; its ACI rendered as a client does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.appc_render import Aci, render
from tests.engines import podman
from tests.integration.seeds import Seed

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(os.geteuid() != 0, reason="podman is run as root here"),
]


def imported(seed: Seed, here: Path, *words: str) -> Path:
    done = seed.program.run("import", *words, cwd=here).good()
    name = done.out.strip()
    assert f"build it: buildit {name}\n" in done.err
    box = here / name
    assert sorted(one.name for one in box.iterdir()) == ["buildit.lock", "container.yaml"]
    return box


def built(seed: Seed, box: Path) -> dict[str, Path]:
    done = seed.program.run(str(box), "--locked", "--output", str(box.parent / "out")).good()
    return {one.suffix: one for one in done.images()}


def outcome(*argv: str | Path) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return f"{done.stdout}{done.stderr}"


def reference(layout: Path) -> str:
    import json

    found = json.loads((layout / "index.json").read_text())["manifests"][0]
    return f"oci:{layout}:{found['annotations']['org.opencontainers.image.ref.name']}"


def test_a_package_runs_as_it_came(seed: Seed, here: Path) -> None:
    box = imported(seed, here, "debian:nginx-light", "--image", "aci,oci,lxc")
    lock = (box / "buildit.lock").read_text()
    assert "\ndeb debian:nginx-light nginx 1.22" in lock
    images = built(seed, box)
    with podman() as engine:
        page = engine.start("web", engine.load(reference(images[".oci"]), "localhost/web:1"))
        assert (
            "Welcome to nginx" in page.answers("http://127.0.0.1/").curl("http://127.0.0.1/").stdout
        )
        assert page.stop() == 0
    aci = Aci.read(images[".aci"])
    assert aci.manifest["app"]["exec"] == ["/usr/sbin/nginx", "-g", "daemon off;"]
    tree = render(images[".aci"], [])
    assert tree["usr/sbin/nginx"].kind == "file"
    assert tree["etc/nginx/nginx.conf"].mode & 0o777 == 0o644
    lxc = images[".lxc"]
    own = ("-P", here, "-n", "web", "-f", lxc / "config", "-s")
    start = ("lxc-execute", *own, f"lxc.rootfs.path=dir:{lxc}/rootfs", "--")
    assert "test is successful" in outcome(*start, "/usr/sbin/nginx", "-t")


def test_a_root_runs_as_it_came(seed: Seed, here: Path) -> None:
    box = imported(seed, here, "--suite", "debian-12", "--image", "aci,oci,nspawn")
    images = built(seed, box)
    alone = ("--quiet", "--register=no", "--keep-unit", "--as-pid2", "-D")
    tree = images[".nspawn"] / "rootfs"
    told = outcome("systemd-nspawn", *alone, tree, "/bin/bash", "-c", "dpkg --audit && dpkg -s apt")
    assert "Status: install ok installed" in told
    with podman() as engine:
        name = engine.load(reference(images[".oci"]), "localhost/root:12")
        said = engine.run("--entrypoint", "/bin/cat", name, "/etc/debian_version").stdout
        assert said.startswith("12.")
    rendered = render(images[".aci"], [])
    assert rendered["usr/bin/apt-get"].mode == 0o755
    assert rendered["etc/shadow"].gid == 42


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("debian:ngnix-light",), 3, "did you mean nginx-light?"),
        (("debian:hello=9.9",), 3, "hello"),
        (("--suite", "debian-112"), 2, "did you mean 'debian-12'?"),
        (("debian:hello", "--output", "kept"), 2, "is there already"),
    ],
)
def test_what_cannot_be_had(
    seed: Seed, here: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    (here / "kept").mkdir()
    (here / "kept/mine").write_text("x")
    done = seed.program.run("import", *words, cwd=here)
    assert done.code == code, done.err
    assert said in done.err
    assert sorted(one.name for one in here.iterdir()) == ["kept"]
