"""What a stack becomes: the same facts in each form, and no secret in any of them."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from buildit.errors import RecipeError
from buildit.model.stack import HttpProbe, Readiness
from buildit.stack.compose import compose_files
from buildit.stack.kubernetes import kubernetes_files
from buildit.stack.pinned import PinnedImage, PinnedStack, asking_argv
from buildit.stack.quadlet import quadlet_files
from buildit.stack.yamltext import Data, yaml_document
from tests.stacks import CANARY, DIGEST, ID, emitted, full_stack

pytestmark = pytest.mark.unit


@pytest.fixture
def pinned(tmp_path: Path) -> PinnedStack:
    return full_stack(tmp_path)


def kubernetes(pinned: PinnedStack) -> dict[tuple[str, str], Any]:
    """The objects by kind and name."""
    documents = yaml.safe_load_all(kubernetes_files(pinned)["stack.yaml"])
    return {(one["kind"], one["metadata"]["name"]): one for one in documents}


def unit(pinned: PinnedStack, name: str) -> dict[str, list[str]]:
    """The keys of a unit, each with its values."""
    found: dict[str, list[str]] = {}
    for line in quadlet_files(pinned)[name].splitlines():
        key, sign, value = line.partition("=")
        if sign:
            found.setdefault(key, []).append(value)
    return found


def test_no_secret_is_in_what_is_emitted(
    pinned: PinnedStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_TOKEN", CANARY)
    texts = emitted(pinned, tmp_path / "out")
    assert (tmp_path / "key.pem").read_text() == CANARY == os.environ["SHOP_TOKEN"]
    assert [name for name, text in texts.items() if CANARY in text] == []
    assert all("token" in texts[name] for name in ("compose.yaml", "kubernetes/stack.yaml"))
    assert not any(kind == "Secret" for kind, _ in kubernetes(pinned))


def test_every_image_is_pinned(pinned: PinnedStack) -> None:
    services = yaml.safe_load(compose_files(pinned)["compose.yaml"])["services"]
    images = {name: one["image"] for name, one in services.items()}
    remote = f"registry.example.org/db@sha256:{DIGEST}"
    local = f"sha256:{ID}"
    assert images == {"web": local, "app": local, "db": remote, "migration": local}
    assert services["web"]["pull_policy"] == "never"
    assert "pull_policy" not in services["db"]
    assert unit(pinned, "shop-db.container")["Image"] == [remote]
    assert unit(pinned, "shop-web.container")["Image"] == [ID]
    pods = [
        one["spec"]["template"]["spec"]["containers"][0]
        for (kind, _), one in kubernetes(pinned).items()
        if kind in ("Deployment", "StatefulSet", "Job")
    ]
    assert {one["image"]: one["imagePullPolicy"] for one in pods} == {
        ID: "Never",
        remote: "IfNotPresent",
    }


def test_compose_fills_nothing_in(pinned: PinnedStack) -> None:
    service = yaml.safe_load(compose_files(pinned)["compose.yaml"])["services"]["web"]
    assert service["environment"]["A"] == 'it\'s $$HOME %h "x" \\ '
    assert service["environment"]["HTTP_PROXY"] is None
    assert service["environment"]["FROM_FILE"] == "x y"
    assert service["environment"]["n"] == "no"
    assert service["command"] == ["-c", 'echo $$HOME "a b" 100%; true', ""]


def test_systemd_fills_nothing_in(pinned: PinnedStack) -> None:
    keys = unit(pinned, "shop-web.container")
    assert '"A=it\'s $$HOME %%h \\"x\\" \\\\ "' in keys["Environment"]
    # the generator loses empty words of Exec: they stand in the entrypoint
    assert "Exec" not in keys
    assert keys["Entrypoint"] == ['["/usr/bin/web", "-c", "echo $$HOME \\"a b\\" 100%%; true", ""]']


def test_kubernetes_fills_nothing_in(pinned: PinnedStack) -> None:
    pod = kubernetes(pinned)["Deployment", "web"]["spec"]["template"]["spec"]
    variables = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
    assert variables["A"] == 'it\'s $HOME %h "x" \\ '
    assert variables["B"] == "$$(A)"
    assert "HTTP_PROXY" not in variables
    assert any("HTTP_PROXY" in one for one in pinned.remarks)


def test_what_waits_waits_until_the_other_is_ready(pinned: PinnedStack) -> None:
    services = yaml.safe_load(compose_files(pinned)["compose.yaml"])["services"]
    assert services["app"]["depends_on"] == {
        "migration": {"condition": "service_completed_successfully"},
        "db": {"condition": "service_healthy"},
    }
    assert services["db"]["healthcheck"]["test"] == ["CMD", "/usr/bin/pg_isready", "-q"]
    keys = unit(pinned, "shop-app-2.container")
    assert keys["Requires"] == keys["After"] == ["shop-migration.service shop-db.service"]
    assert unit(pinned, "shop-db.container")["Notify"] == ["healthy"]
    migration = unit(pinned, "shop-migration.container")
    assert (migration["Type"], migration["RemainAfterExit"]) == (["oneshot"], ["yes"])
    assert "Notify" not in migration
    assert kubernetes(pinned)["Job", "migration"]["spec"]["template"]["spec"]["restartPolicy"] == (
        "Never"
    )


def test_an_images_own_healthcheck_counts_where_the_stack_says_none(pinned: PinnedStack) -> None:
    services = yaml.safe_load(compose_files(pinned)["compose.yaml"])["services"]
    assert services["migration"]["healthcheck"]["test"] == ["CMD", "/usr/bin/web", "--ok"]


def test_replicas_and_placement_go_to_what_is_emitted(pinned: PinnedStack) -> None:
    deploy = yaml.safe_load(compose_files(pinned)["compose.yaml"])["services"]["app"]["deploy"]
    assert deploy["replicas"] == 3
    assert deploy["placement"] == {
        "constraints": [
            "node.labels.disk == ssd",
            "node.labels.zone != lab",
            "node.hostname == n1",
            "node.platform.os == linux",
            "node.platform.arch == amd64",
        ],
        "preferences": [{"spread": "node.labels.zone"}],
        "max_replicas_per_node": 1,
    }
    files = quadlet_files(pinned)
    assert {name for name in files if "-app" in name} == {
        f"shop-app-{number}.container" for number in (1, 2, 3)
    }
    assert unit(pinned, "shop-app-1.container")["ConditionHost"] == ["n1"]
    app = kubernetes(pinned)["StatefulSet", "app"]["spec"]
    assert app["replicas"] == 3
    pod = app["template"]["spec"]
    assert pod["nodeSelector"] == {
        "disk": "ssd",
        "kubernetes.io/hostname": "n1",
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
    }
    assert "podAntiAffinity" in pod["affinity"]
    assert pod["topologySpreadConstraints"][0]["topologyKey"] == "zone"


def test_names_that_links_give_are_found(pinned: PinnedStack) -> None:
    objects = kubernetes(pinned)
    database = objects["Service", "database"]["spec"]
    assert database["selector"] == objects["Service", "db"]["spec"]["selector"]
    assert unit(pinned, "shop-db.container")["Network"] == [
        "shop-back.network:alias=db,alias=database"
    ]
    services = yaml.safe_load(compose_files(pinned)["compose.yaml"])["services"]
    assert services["app"]["links"] == ["db:database"]
    assert services["app"]["environment"]["DATABASE_HOST"] == "database"


def test_published_ports(pinned: PinnedStack) -> None:
    assert unit(pinned, "shop-web.container")["PublishPort"] == [
        "8443:443",
        "127.0.0.1:5353:53/udp",
        "80",
    ]
    spec = kubernetes(pinned)["Service", "web-published"]["spec"]
    assert [(one["port"], one["targetPort"], one["protocol"]) for one in spec["ports"]] == [
        (8443, 443, "TCP"),
        (5353, 53, "UDP"),
        (80, 80, "TCP"),
    ]


def test_internal_networks_become_policies(pinned: PinnedStack) -> None:
    objects = kubernetes(pinned)
    assert objects["NetworkPolicy", "db"]["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert objects["NetworkPolicy", "web"]["spec"]["policyTypes"] == ["Ingress"]
    alone = replace(
        pinned.stack,
        members=tuple(one for one in pinned.stack.members if one.name == "web"),
        networks=tuple(one for one in pinned.stack.networks if one.name == "default"),
    )
    web = replace(alone.members[0], links=())
    only = replace(pinned, stack=replace(alone, members=(web,)))
    assert not any(kind == "NetworkPolicy" for kind, _ in kubernetes(only))


def test_volumes_and_files(pinned: PinnedStack) -> None:
    objects = kubernetes(pinned)
    assert ("PersistentVolumeClaim", "shop-rows") in objects
    assert ("PersistentVolumeClaim", "shop-kept") not in objects
    claims = objects["StatefulSet", "app"]["spec"]["volumeClaimTemplates"]
    assert claims[0]["spec"]["resources"]["requests"]["storage"] == "10Gi"
    assert objects["ConfigMap", "shop-web-files"]["data"]["etc-web-site.conf"] == "a: $b %h\n"
    assert quadlet_files(pinned)["files/web/x"] == "hi\n"
    assert unit(pinned, "shop-db.container")["Volume"] == [
        "shop-rows.volume:/var/lib/db",
        "archive:/srv/kept",
    ]


def test_who_asks_over_http_is_in_the_image() -> None:
    ready = Readiness(http=HttpProbe(8080))
    none = PinnedImage(ID, programs={"sh": "/bin/sh"})
    assert asking_argv(ready, none) is None
    curl = PinnedImage(ID, programs={"curl": "/usr/bin/curl", "wget": "/usr/bin/wget"})
    assert asking_argv(ready, curl)[0] == "/usr/bin/curl"  # type: ignore[index]
    unknown = asking_argv(ready, PinnedImage(ID))
    assert unknown is not None
    assert unknown[:2] == ("/bin/sh", "-c")
    assert subprocess.run(["sh", "-n", "-c", unknown[2]], check=True).returncode == 0


def test_yaml_is_read_as_it_was_meant() -> None:
    data: dict[str, Data] = {
        "texts": ["no", "1.10", "~", "", "a: b", "- x", "#", "\x85\u2028", "null", "0x1f", " x "],
        "on": True,
        "none": None,
        "deep": [{"a": [1, [2, {}], []]}, "x\ny"],
    }
    assert yaml.safe_load(yaml_document(data)) == data


def test_two_names_that_are_one_in_kubernetes_are_refused(pinned: PinnedStack) -> None:
    stack = pinned.stack
    twin = replace(stack.members[0], name="D_b", links=())
    members = (*stack.members, replace(twin, name="d-b"), twin)
    images = {**pinned.images, "D_b": pinned.images["web"], "d-b": pinned.images["web"]}
    with pytest.raises(RecipeError, match="'d-b' and 'D_b' would both be 'd-b' in Kubernetes"):
        kubernetes_files(PinnedStack(replace(stack, members=members), images))


def test_the_readme_has_the_commands(pinned: PinnedStack, tmp_path: Path) -> None:
    text = emitted(pinned, tmp_path / "out")["README.md"]
    assert "docker load -i $f" in text
    units = "shop-web shop-app-1 shop-app-2 shop-app-3 shop-db shop-migration"
    assert f"systemctl start {units}" in text
    assert f"cat {tmp_path}/key.pem | podman secret create shop-key -" in text
    assert 'printf %s "$SHOP_TOKEN" | podman secret create shop-from-env -' in text
