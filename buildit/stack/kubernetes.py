"""A stack as Kubernetes manifests with a kustomization. Pure.

A member is a Deployment; a StatefulSet where it has volumes and replicas, each with its own; a Job
where another one waits for its end. Secrets are named, never made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from buildit.errors import RecipeError
from buildit.model.stack import (
    Amounts,
    ContainerStack,
    HttpProbe,
    Placement,
    Readiness,
    StackMember,
    StackMount,
    StackPort,
    stack_environment,
)
from buildit.stack.pinned import PinnedImage, PinnedStack, names_of, readiness_of
from buildit.stack.yamltext import Data, yaml_document, yaml_documents

MANIFESTS = "stack.yaml"
"""The file that holds all objects, one document each: what `podman kube play` takes."""

_PART_OF = "app.kubernetes.io/part-of"
_NAME = "app.kubernetes.io/name"
_DEFAULT_SIZE = 1 << 30
_HOST = "kubernetes.io/hostname"
_LARGEST_NAME = 63

Object = dict[str, Data]


def kubernetes_files(pinned: PinnedStack) -> Mapping[str, str]:
    """The texts of the manifests and of `kustomization.yaml`, by name.

    Raises:
        RecipeError: two members would have one name there.
    """
    _check_names(pinned.stack)
    objects = [*_volumes(pinned)]
    for member in pinned.stack.members:
        objects += _of_member(member, pinned)
    objects += _policies(pinned)
    kustomization: Object = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [MANIFESTS],
    }
    return {MANIFESTS: yaml_documents(objects), "kustomization.yaml": yaml_document(kustomization)}


def _check_names(stack: ContainerStack) -> None:
    taken: dict[str, str] = {}
    for member in stack.members:
        other = taken.setdefault(label_of(member.name), member.name)
        if other != member.name:
            message = f"{other!r} and {member.name!r} would both be {label_of(member.name)!r} in "
            hint = "its names have small letters, digits and -: call one of them otherwise"
            raise RecipeError(f"{message}Kubernetes", place=member.place, hint=hint)


def label_of(text: str) -> str:
    """A name as Kubernetes takes it for an object: an RFC 1123 label."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_LARGEST_NAME].strip("-")


def object_name(stack: ContainerStack, name: str) -> str:
    """What an object of a stack is called that only the cluster's people see."""
    return label_of(f"{stack.name}-{name}")


def cluster_secret(stack: ContainerStack, name: str) -> str:
    """What the Secret of a secret is called; its key is the secret's id."""
    secret = next(one for one in stack.secrets if one.name == name)
    return label_of(secret.where) if secret.kind == "external" else object_name(stack, name)


def _metadata(name: str, stack: ContainerStack, member: str = "") -> Object:
    labels: Object = {_NAME: member} if member else {}
    return {"name": name, "labels": {**labels, _PART_OF: stack.name}}


def _said(found: Mapping[str, Data]) -> Object:
    """Without what says nothing."""
    return {key: value for key, value in found.items() if value not in (None, "", {}, [], ())}


def _volumes(pinned: PinnedStack) -> Iterator[Object]:
    stack = pinned.stack
    own = {
        mount.source
        for member in stack.members
        if _is_stateful(member)
        for mount in member.mounts
        if mount.kind == "volume"
    }
    shared = {
        mount.source
        for member in stack.members
        if not _is_stateful(member)
        for mount in member.mounts
        if mount.kind == "volume"
    }
    for volume in stack.volumes:
        if volume.external or (volume.name in own and volume.name not in shared):
            continue
        yield {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": _metadata(object_name(stack, volume.name), stack),
            "spec": _claim(volume.size),
        }


def _claim(size: int) -> Object:
    amount: Object = {"storage": _quantity(size or _DEFAULT_SIZE)}
    return {"accessModes": ["ReadWriteOnce"], "resources": {"requests": amount}}


def _quantity(size: int) -> str:
    for unit, shift in (("Gi", 30), ("Mi", 20), ("Ki", 10)):
        if size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return str(size)


def _is_stateful(member: StackMember) -> bool:
    return member.replicas > 1 and any(one.kind == "volume" for one in member.mounts)


def _ends(member: StackMember, stack: ContainerStack) -> bool:
    return any(
        one.name == member.name and one.condition == "completed"
        for other in stack.members
        for one in other.waits_for
    )


def _of_member(member: StackMember, pinned: PinnedStack) -> Iterator[Object]:
    stack, name = pinned.stack, label_of(member.name)
    if name != member.name:
        pinned.remark(f"{member.name}: in Kubernetes it is called {name}, and found by that name")
    if member.files:
        yield {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _metadata(object_name(stack, f"{name}-files"), stack, name),
            "data": {one.name: one.content for one in member.files},
        }
    yield _workload(member, name, pinned)
    yield from _services(member, name, pinned)
    if member.waits_for and not _ends(member, stack):
        pinned.remark(
            "Kubernetes starts everything at once: what uses another container bears until that "
            "is ready, or end and be started again"
        )
    for what, said in _UNSPOKEN.items():
        if said(member):
            pinned.remark(f"{member.name}: {what} has no word in Kubernetes' manifests")


_UNSPOKEN: Mapping[str, Callable[[StackMember], object]] = {
    "stop-signal": lambda one: one.stop_signal,
    "the limit of processes": lambda one: one.limits.processes or one.reserved.processes,
    "init": lambda one: one.init,
    "the limit of restarts": lambda one: one.restart.most,
}


def _workload(member: StackMember, name: str, pinned: PinnedStack) -> Object:
    stack = pinned.stack
    selector: Object = {_NAME: name, _PART_OF: stack.name}
    networks: Object = {_network_label(one.network): stack.name for one in member.networks}
    ends = _ends(member, stack)
    template: Object = {
        "metadata": _said(
            {
                "labels": {**selector, **(networks if _is_divided(stack) else {})},
                "annotations": _annotations(member, pinned),
            }
        ),
        "spec": _pod(member, pinned, ends=ends),
    }
    if ends:
        retries = member.restart.most or (6 if member.restart.when == "on-failure" else 0)
        job: Object = {"backoffLimit": retries, "template": template}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": _metadata(name, stack, name),
            "spec": job,
        }
    spec: Object = {"replicas": member.replicas, "selector": {"matchLabels": selector}}
    kind = "Deployment"
    if _is_stateful(member):
        kind = "StatefulSet"
        spec |= {"serviceName": name, "podManagementPolicy": "Parallel", "template": template}
        spec["volumeClaimTemplates"] = _claims(member, pinned)
    else:
        if any(one.kind == "volume" for one in member.mounts):
            spec["strategy"] = {"type": "Recreate"}
        spec["template"] = template
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": _metadata(name, stack, name),
        "spec": spec,
    }


_ANNOTATION = re.compile(
    r"(?:(?=[^/]{1,253}/)[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?/)?"
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
)


def _annotations(member: StackMember, pinned: PinnedStack) -> Object:
    found: Object = {}
    for name, value in member.labels:
        if _ANNOTATION.fullmatch(name):
            found[name] = value
        else:
            pinned.remark(f"{member.name}: the label {name} is no name of Kubernetes'")
    return found


def _claims(member: StackMember, pinned: PinnedStack) -> Data:
    known = {one.name: one for one in pinned.stack.volumes}
    pinned.remark(f"{member.name}: in Kubernetes each of its replicas has volumes of its own")
    return [
        {"metadata": {"name": label_of(one.source)}, "spec": _claim(known[one.source].size)}
        for one in _by_volume(member)
        if not known[one.source].external
    ]


def _by_volume(member: StackMember) -> list[StackMount]:
    """One mount of each named volume."""
    return [*{one.source: one for one in member.mounts if one.kind == "volume"}.values()]


def _pod(member: StackMember, pinned: PinnedStack, *, ends: bool) -> Object:
    image = pinned.images[member.name]
    spec: Object = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(member, image, pinned)],
    }
    if ends:
        spec["restartPolicy"] = "OnFailure" if member.restart.when == "on-failure" else "Never"
    hosts: dict[str, list[str]] = {}
    for host, address in member.hosts:
        hosts.setdefault(address, []).append(host)
    spec |= _said(
        {
            "hostname": label_of(member.hostname),
            "hostAliases": [{"ip": ip, "hostnames": names} for ip, names in hosts.items()],
            "volumes": [*_pod_volumes(member, pinned)],
            **_placed(member.placement, label_of(member.name), pinned.stack),
        }
    )
    if member.stop_timeout is not None:
        spec["terminationGracePeriodSeconds"] = member.stop_timeout
    return spec


def _container(member: StackMember, image: PinnedImage, pinned: PinnedStack) -> Object:
    found = _said(
        {
            "name": label_of(member.name),
            "image": image.reference,
            "imagePullPolicy": "Never" if image.is_local else "IfNotPresent",
            "workingDir": member.working_directory,
            "env": [*_environment(member, pinned)],
            "readinessProbe": _probe(readiness_of(member, image)),
            "resources": _said(
                {"limits": _amounts(member.limits), "requests": _amounts(member.reserved)}
            ),
            "volumeMounts": [*_mounts(member)],
        }
    )
    # No `ports`: they only inform, and podman would publish each of them at the machine.
    # $(NAME) in these would be filled in
    if member.entrypoint is not None:
        found["command"] = [_literal(one) for one in member.entrypoint]
    if member.command is not None:
        found["args"] = [_literal(one) for one in member.command]
    found["securityContext"] = _security(member, image, pinned)
    return {key: value for key, value in found.items() if value != {}}


def _literal(text: str) -> str:
    """A text in which Kubernetes fills in nothing ("Define Dependent Environment Variables")."""
    return text.replace("$(", "$$(")


def _environment(member: StackMember, pinned: PinnedStack) -> Iterator[Object]:
    for name, value in stack_environment(pinned.stack, member):
        if value is None:
            pinned.remark(
                f"{member.name}: {name} has the value that it has where the stack is started: a "
                "manifest cannot say that"
            )
        else:
            yield {"name": name, "value": _literal(value)}


def _each_inside(member: StackMember) -> list[StackPort]:
    return [*{(one.inside, one.protocol): one for one in member.ports}.values()]


def _port_name(port: StackPort) -> str:
    return f"{port.protocol}-{port.inside}"


def _probe(ready: Readiness | None) -> Object:
    if ready is None:
        return {}
    if ready.argv:
        asked: Object = {"exec": {"command": [*ready.argv]}}
    elif ready.http is not None:
        asked = {"httpGet": _http(ready.http)}
    else:
        asked = {"tcpSocket": {"port": ready.tcp}}
    times: Object = {
        "initialDelaySeconds": ready.start or None,
        "periodSeconds": ready.interval,
        "timeoutSeconds": ready.timeout,
        "failureThreshold": ready.retries,
    }
    return {**asked, **_said(times)}


def _http(http: HttpProbe) -> Object:
    headers = [{"name": "Host", "value": http.host}]
    scheme = "HTTPS" if http.tls else "HTTP"
    return {"path": http.path, "port": http.port, "scheme": scheme, "httpHeaders": headers}


def _security(member: StackMember, image: PinnedImage, pinned: PinnedStack) -> Object:
    """Who it runs as, where that is a number, and what it may do."""
    app_user = "" if image.app is None else image.app.user
    user, _, group = (member.user or app_user).partition(":")
    if not member.user and image.app is not None:
        group = image.app.group or image.app.own_group or ""
    found: Object = {}
    if user.isdecimal():
        found = {"runAsUser": int(user), "runAsNonRoot": user.strip("0") != "" or None}
        if group.isdecimal():
            found["runAsGroup"] = int(group)
    elif member.user:
        pinned.remark(f"{member.name}: Kubernetes takes users by number alone, and not {user!r}")
    rights = member.rights
    capabilities = _said({"add": [*rights.capabilities], "drop": [*rights.dropped]})
    return _said(
        {
            **found,
            "readOnlyRootFilesystem": rights.read_only or None,
            "allowPrivilegeEscalation": False if rights.no_new_privileges else None,
            "capabilities": capabilities,
        }
    )


def _amounts(amounts: Amounts) -> Object:
    return _said(
        {
            "cpu": f"{amounts.cpus}m" if amounts.cpus else "",
            "memory": _quantity(amounts.memory) if amounts.memory else "",
        }
    )


def _mounts(member: StackMember) -> Iterator[Object]:
    for number, one in enumerate(member.mounts):
        yield _said(
            {
                "name": _mount_name(one, number),
                "mountPath": one.dest,
                "readOnly": one.read_only or None,
            }
        )
    for file in member.files:
        yield {"name": "files", "mountPath": file.dest, "subPath": file.name, "readOnly": True}
    for use in member.secrets:
        yield {
            "name": _secret_volume(use.secret),
            "mountPath": use.target,
            "subPath": use.secret,
            "readOnly": True,
        }


def _mount_name(mount: StackMount, number: int) -> str:
    return label_of(mount.source) if mount.kind == "volume" else f"{mount.kind}-{number}"


def _secret_volume(name: str) -> str:
    return label_of(f"secret-{name}")


def _pod_volumes(member: StackMember, pinned: PinnedStack) -> Iterator[Object]:
    stack = pinned.stack
    known = {one.name: one for one in stack.volumes}
    seen: set[str] = set()
    for number, one in enumerate(member.mounts):
        name = _mount_name(one, number)
        if name in seen:
            continue
        seen.add(name)
        if one.kind == "volume":
            volume = known[one.source]
            if _is_stateful(member) and not volume.external:
                continue  # of its volumeClaimTemplates
            claim = volume.known_as if volume.external else object_name(stack, volume.name)
            yield {"name": name, "persistentVolumeClaim": {"claimName": claim}}
        elif one.kind == "host":
            pinned.remark(f"{member.name}: {one.source} is a path of each machine that it runs on")
            yield {"name": name, "hostPath": {"path": one.source}}
        else:
            size = {"sizeLimit": _quantity(one.size)} if one.size else {}
            memory = {"medium": "Memory", **size} if one.kind == "memory" else {}
            yield {"name": name, "emptyDir": memory}
    if member.files:
        config = object_name(stack, f"{label_of(member.name)}-files")
        yield {"name": "files", "configMap": {"name": config}}
    for use in {one.secret: one for one in member.secrets}.values():
        if use.uid or use.gid:
            pinned.remark(
                f"{member.name}: in Kubernetes the file of the secret {use.secret} is root's; "
                "its mode decides who may read it"
            )
        items: list[Data] = [{"key": use.secret, "path": use.secret, "mode": use.mode}]
        # what `optional` is without a word, podman 4.3 wants to read
        secret: Object = {"secretName": cluster_secret(stack, use.secret), "optional": False}
        secret["items"] = items
        yield {"name": _secret_volume(use.secret), "secret": secret}


def _placed(placement: Placement, name: str, stack: ContainerStack) -> Object:
    """Of a pod's spec: on which machines it may run."""
    chosen: Object = {key: value for key, value, must in placement.labels if must}
    if placement.host:
        chosen[_HOST] = placement.host
    if placement.platform:
        system, machine, *_ = placement.platform.split("/")
        chosen |= {"kubernetes.io/os": system, "kubernetes.io/arch": machine}
    without: list[Data] = [
        {"key": key, "operator": "NotIn", "values": [value]}
        for key, value, must in placement.labels
        if not must
    ]
    selector: Object = {"matchLabels": {_NAME: name, _PART_OF: stack.name}}
    affinity: dict[str, Data] = {}
    if without:
        terms: Object = {"nodeSelectorTerms": [{"matchExpressions": without}]}
        affinity["nodeAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
    if placement.most == 1:
        term: Object = {"labelSelector": selector, "topologyKey": _HOST}
        affinity["podAntiAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    spread: list[Data] = [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": selector,
        }
        for key in placement.spread
    ]
    if placement.most > 1:
        # No word says how many; this keeps machines as even as that number wants them.
        spread.append(
            {
                "maxSkew": placement.most,
                "topologyKey": _HOST,
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": selector,
            }
        )
    return _said(
        {"nodeSelector": chosen, "affinity": affinity, "topologySpreadConstraints": spread}
    )


def _services(member: StackMember, name: str, pinned: PinnedStack) -> Iterator[Object]:
    """By each name that others find it by, and for the ports that are published."""
    stack = pinned.stack
    if _ends(member, stack):
        return
    selector: Object = {_NAME: name, _PART_OF: stack.name}
    ports: list[Data] = [
        {
            "name": _port_name(one),
            "port": one.inside,
            "targetPort": one.inside,
            "protocol": one.protocol.upper(),
        }
        for one in _each_inside(member)
    ]
    found = [one for names in names_of(member, stack).values() for one in names]
    others = {label_of(one.name) for one in stack.members} - {name}
    for alias in dict.fromkeys(label_of(one) for one in found):
        if alias in others:
            continue
        spec: Object = {"selector": selector, "ports": ports}
        if not ports or _is_stateful(member):
            spec = _said({"clusterIP": "None", "selector": selector, "ports": ports})
        yield {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _metadata(alias, stack, name),
            "spec": spec,
        }
    published = [one for one in member.ports if one.published]
    if published:
        yield {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _metadata(label_of(f"{name}-published"), stack, name),
            "spec": {
                "type": "LoadBalancer",
                "selector": selector,
                "ports": [_published(one) for one in published],
            },
        }


def _published(port: StackPort) -> Object:
    outside = port.outside or port.inside
    kind = port.protocol.upper()
    name = f"{port.protocol}-{outside}"
    return {"name": name, "port": outside, "targetPort": port.inside, "protocol": kind}


def _is_divided(stack: ContainerStack) -> bool:
    """Whether not everybody of the stack reaches everybody, or the world."""
    sets = {frozenset(net.network for net in one.networks) for one in stack.members}
    return len(sets) > 1 or any(one.internal for one in stack.networks)


def _network_label(name: str) -> str:
    return f"network-{label_of(name)[:50]}"


def _policies(pinned: PinnedStack) -> Iterator[Object]:
    """Who reaches whom, where networks divide the stack: as they do under an engine."""
    stack = pinned.stack
    if not _is_divided(stack):
        return
    known = {one.name: one for one in stack.networks}
    for member in stack.members:
        name = label_of(member.name)
        peers: list[Data] = [
            {"podSelector": {"matchLabels": {_network_label(one.network): stack.name}}}
            for one in member.networks
        ]
        ingress: list[Data] = [{"from": peers}]
        open_ports: list[Data] = [
            {"port": one.inside, "protocol": one.protocol.upper()}
            for one in member.ports
            if one.published
        ]
        if open_ports:
            ingress.append({"ports": open_ports})
        spec: Object = {
            "podSelector": {"matchLabels": {_NAME: name, _PART_OF: stack.name}},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        }
        if all(known[one.network].internal for one in member.networks):
            dns: list[Data] = [{"port": 53, "protocol": kind} for kind in ("UDP", "TCP")]
            spec["policyTypes"] = ["Ingress", "Egress"]
            spec["egress"] = [{"to": peers}, {"ports": dns}]
        yield {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": _metadata(name, stack, name),
            "spec": spec,
        }
