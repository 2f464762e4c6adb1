"""What stands beside an emitted stack for who starts it: the commands, in their order. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from buildit.model.stack import ContainerStack, StackSecret, replica_names
from buildit.stack.kubernetes import MANIFESTS, cluster_secret
from buildit.stack.pinned import PinnedStack
from buildit.stack.quadlet import secret_name


def readme_text(pinned: PinnedStack) -> str:
    """The text of README.md."""
    stack = pinned.stack
    lines = [f"# {stack.name}", "", *_images(pinned), *_compose(stack), *_quadlet(stack)]
    lines += _kubernetes(stack)
    if pinned.remarks:
        lines += ["## To know", "", *(f"- {one}" for one in pinned.remarks), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _images(pinned: PinnedStack) -> Iterator[str]:
    archives = sorted({one.archive for one in pinned.images.values() if one.archive})
    if not archives:
        return
    yield from ("## The images", "", "Load them first, once; the rest names them by their IDs:", "")
    for engine in ("docker", "podman"):
        yield f"    for f in images/*/*.docker.tar; do {engine} load -i $f; done"
    yield from ("", "They are:", "")
    yield from (f"- `{one}`" for one in archives)
    yield ""


def _compose(stack: ContainerStack) -> Iterator[str]:
    yield from ("## docker compose", "")
    for secret in stack.secrets:
        if secret.kind == "generated":
            yield f"    mkdir -m 0700 -p secrets && {_drawn(secret)} > secrets/{secret.name}"
        elif secret.kind == "environment":
            yield f"    export {secret.where}=…"
    yield from ("    docker compose up -d", "")


def _quadlet(stack: ContainerStack) -> Iterator[str]:
    yield from ("## Podman Quadlet", "", "With systemd; for a user `~/.config/containers/systemd`,")
    yield from ("and `systemctl --user`:", "")
    for secret in stack.secrets:
        name = secret_name(stack, secret.name)
        if given := _given(secret):
            yield f"    {given} | podman secret create {name} -"
    yield "    cp -r quadlet/. /etc/containers/systemd/"
    names = (name for one in stack.members for name in replica_names(one))
    units = " ".join(f"{stack.name}-{name}" for name in names)
    yield from ("    systemctl daemon-reload", f"    systemctl start {units}", "")


def _kubernetes(stack: ContainerStack) -> Iterator[str]:
    yield from ("## Kubernetes", "")
    for secret in stack.secrets:
        name = cluster_secret(stack, secret.name)
        if given := _given(secret):
            told = f"kubectl create secret generic {name} --from-file={secret.name}=/dev/stdin"
            yield f"    {given} | {told}"
    yield from ("    kubectl apply -k kubernetes", "")
    yield f"`podman kube play kubernetes/{MANIFESTS}` takes the same file; a pod each, which find"
    yield from ("each other in a cluster only.", "")


def _drawn(secret: StackSecret) -> str:
    return f"tr -dc A-Za-z0-9 </dev/urandom | head -c {secret.length}"


def _given(secret: StackSecret) -> str:
    """A command that writes the value to its standard output; empty where it is there already."""
    match secret.kind:
        case "file":
            return f"cat {shlex.quote(secret.where)}"
        case "environment":
            return f'printf %s "${secret.where}"'
        case "generated":
            return _drawn(secret)
        case _:
            return ""
