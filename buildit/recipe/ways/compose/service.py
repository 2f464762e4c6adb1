"""A service of a compose file in the words of a container of `stack.yaml`. Pure."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from collections.abc import Mapping as Map
from dataclasses import dataclass, field

from buildit.recipe.ways.compose.deploying import amounts_said, deploy_said, no_deploy
from buildit.recipe.ways.compose.merging import as_names, as_pairs, is_null
from buildit.recipe.ways.compose.mounting import memory_mounts, mount_said, ports_said
from buildit.recipe.ways.compose.shared import (
    RemarkList,
    bytes_of,
    is_yes,
    items_said,
    map_said,
    refuse_key,
    text_said,
)
from buildit.recipe.ways.compose.words import whole_seconds
from buildit.recipe.ways.nodes import list_node, map_node, plain_node, text_node
from buildit.recipe.yaml.node import Mapping, Node, Scalar, Sequence

_AS_THEY_ARE = {
    "user": "user",
    "working_dir": "workdir",
    "hostname": "hostname",
    "init": "init",
    "stop_signal": "stop-signal",
    "platform": "platform",
    "links": "links",
    "restart": "restart",
}
"""Keys that `stack.yaml` has under these names, with the same values."""

_LEFT_OUT = frozenset(
    (
        "annotations",
        "attach",
        "container_name",
        "cpu_shares",
        "cpu_quota",
        "cpu_period",
        "develop",
        "label_file",
        "logging",
        "mac_address",
        "mem_swappiness",
        "oom_score_adj",
        "pull_policy",
        "stdin_open",
        "tty",
    )
)
"""What does no harm where it is left out."""

_REFUSED: Map[str, str] = {
    "privileged": "give it the capabilities that it needs: cap_add: […]",
    "network_mode": "put it on networks, and publish its ports",
    "pid": "leave it out: each container has its own processes",
    "ipc": "leave it out: each container has its own",
    "uts": "leave it out: each container has its own",
    "cgroup": "leave it out: each container has its own",
    "cgroup_parent": "leave it out: each container has its own",
    "userns_mode": "leave it out",
    "devices": "mount what it needs by an engine's own command: devices are of one machine",
    "device_cgroup_rules": "devices are of one machine: leave it out",
    "gpus": "devices are of one machine: leave it out",
    "volumes_from": "name the volumes in both services",
    "external_links": "put both on one external network",
    "ulimits": "set them where its program starts, or leave them out",
    "sysctls": "set them on the machine, or leave them out",
    "dns": "leave it out: names are those of the stack's networks, then the machine's",
    "dns_opt": "leave it out",
    "dns_search": "leave it out",
    "domainname": "write hostname: NAME.DOMAIN",
    "group_add": "write the group: user: UID:GID",
    "runtime": "leave it out: whoever starts the stack chooses",
    "isolation": "leave it out",
    "storage_opt": "leave it out",
    "cpuset": "leave it out, or write cpus:",
    "memswap_limit": "leave it out, or write mem_limit:",
    "credential_spec": "leave it out: it is of Windows",
    "post_start": "do it in the program that starts the service",
    "pre_stop": "do it in the program that the stop signal reaches",
    "provider": "name what provides it as a service",
    "models": "name what serves the model as a service",
    "blkio_config": "leave it out",
    "cpu_rt_period": "leave it out",
    "cpu_rt_runtime": "leave it out",
    "cpu_count": "leave it out: it is of Windows; write cpus:",
    "cpu_percent": "leave it out: it is of Windows; write cpus:",
    "oom_kill_disable": "leave it out",
    "use_api_socket": "mount what it needs",
}


@dataclass(frozen=True, slots=True)
class ComposeService:
    """One service: its name and what it says. `told` grows; `secrets` and `configs` are those of
    the file, `values` the variables."""

    name: str
    node: Mapping
    told: RemarkList
    secrets: Mapping
    configs: Mapping
    values: Map[str, str]
    found: dict[str, Node] = field(default_factory=dict)
    mounts: list[Node] = field(default_factory=list)
    ports: list[Node] = field(default_factory=list)

    def made(self) -> Mapping:
        """The container.

        Raises:
            RecipeError: a key or a value has no meaning here.
        """
        for key, value in self.node.items:
            if key.text in _KEYS:
                if not is_null(value):
                    _KEYS[key.text](self, key, value)
            elif key.text in _AS_THEY_ARE:
                if not is_null(value):
                    self.found[_AS_THEY_ARE[key.text]] = value
            elif key.text in _LEFT_OUT:
                self.left(key)
            elif not key.text.startswith("x-"):
                known = (*_KEYS, *_AS_THEY_ARE, *_LEFT_OUT)
                refuse_key(key, _REFUSED, known)
        if "path" not in self.found and "image" not in self.found:
            raise self.node.error(
                f"the service {self.name!r} has neither image nor build", "write one"
            )
        if self.mounts:
            self.found["volumes"] = Sequence(tuple(self.mounts), self.node.place)
        if self.ports:
            self.found["ports"] = Sequence(tuple(self.ports), self.node.place)
        self.found.update(no_deploy(self.node, self.found))
        return map_node(self.node.place, {**self.found})

    def left(self, key: Scalar, of: str = "") -> None:
        """Note a key that is left out."""
        self.told.append(f"{key.place}: `{key.text}` of {of or self.name} is left out")

    def own(self, key: str, name: str, value: Node) -> None:
        """Add to a map that several keys make."""
        before = self.found.get(key)
        items = before.items if isinstance(before, Mapping) else ()
        self.found[key] = Mapping((*items, (text_node(value.place, name), value)), value.place)


def _image(one: ComposeService, key: Scalar, value: Node) -> None:
    if is_null(one.node.get("build")):
        one.found["image"] = value
    else:
        one.left(key)


def _build(one: ComposeService, key: Scalar, value: Node) -> None:
    said = value if isinstance(value, Mapping) else map_node(value.place, {"context": value})
    context = said.get("context") or text_node(key.place, ".")
    path = text_said(context, "context")
    if "://" in path or path.startswith("git@"):
        raise context.error("a context is a directory", "clone it, and name the directory")
    one.found["path"] = context
    for name, inner in said.items:
        match name.text:
            case "context":
                pass
            case "dockerfile":
                one.found["file"] = inner
            case "target":
                one.found["target"] = inner
            case "args":
                one.found["build-args"] = _arguments(as_pairs(inner), one.values)
            case "cache_from" | "cache_to" | "labels" | "network" | "no_cache" | "platforms":
                one.left(name, f"the build of {one.name}")
            case "provenance" | "pull" | "sbom" | "tags" | "shm_size" | "secrets" | "ssh":
                one.left(name, f"the build of {one.name}")
            case _ if name.text.startswith("x-"):
                pass
            case _:
                refuse_key(name, _BUILD_REFUSED, ("context", "dockerfile", "target", "args"))


_BUILD_REFUSED = {
    "dockerfile_inline": "write it into a file, and name that: dockerfile:",
    "additional_contexts": "say it on the command line: --build-context NAME=REFERENCE",
    "privileged": "leave it out: builds have no rights over this machine",
    "entitlements": "leave it out: builds have no rights over this machine",
    "extra_hosts": "leave it out",
    "isolation": "leave it out",
    "ulimits": "leave it out",
}


def _arguments(node: Node, values: Map[str, str]) -> Node:
    """Build arguments: one without a value has that of the variable."""
    items = []
    for name, value in map_said(node, "args").items:
        if not is_null(value):
            items.append((name, value))
        elif name.text in values:
            items.append((name, text_node(name.place, values[name.text])))
    return Mapping(tuple(items), node.place)


def _command(to: str) -> Callable[[ComposeService, Scalar, Node], None]:
    def said(one: ComposeService, key: Scalar, value: Node) -> None:
        if not isinstance(value, Scalar):
            one.found[to] = value
            return
        try:
            words = shlex.split(value.text)
        except ValueError as error:
            raise value.error(f"`{key.text}`: {error}", "write it as a list") from error
        one.found[to] = list_node(value.place, words)

    return said


def _environment(one: ComposeService, key: Scalar, value: Node) -> None:
    items, passed = [], []
    for name, text in map_said(as_pairs(value), key.text).items:
        if is_null(text):
            passed.append(name.text)
        else:
            items.append((name, text))
    one.found["environment"] = Mapping(tuple(items), value.place)
    if passed:
        one.found["pass-environment"] = list_node(value.place, passed)


def _env_file(one: ComposeService, key: Scalar, value: Node) -> None:
    files = []
    for item in value.items if isinstance(value, Sequence) else (value,):
        path = item
        if isinstance(item, Mapping):
            path = item.get("path") or item
            for name, _ in item.items:
                if name.text == "format":
                    raise name.error("`format` has no meaning here", "quote values as a shell does")
                if name.text not in ("path", "required"):
                    refuse_key(name, {}, ("path", "required"))
            required = item.get("required")
            if required is not None and not is_yes(required):
                where = os.path.join(os.path.dirname(key.place.file), text_said(path, "path"))
                if not os.path.lexists(where):
                    continue
        files.append(path)
    one.found["env-files"] = Sequence(tuple(files), value.place)


_CONDITIONS = {
    "service_started": "started",
    "service_healthy": "ready",
    "service_completed_successfully": "completed",
}


def _depends_on(one: ComposeService, key: Scalar, value: Node) -> None:
    items = []
    for name, said in map_said(as_names(value), key.text).items:
        condition = text_node(name.place, "started")
        for inner, what in said.items if isinstance(said, Mapping) else ():
            if inner.text == "condition":
                text = text_said(what, "condition")
                if text not in _CONDITIONS:
                    raise what.error(
                        f"not a condition: {text!r}", f"one of {', '.join(_CONDITIONS)}"
                    )
                condition = text_node(what.place, _CONDITIONS[text])
            elif inner.text == "restart":
                one.left(inner, f"what {one.name} depends on")
            elif inner.text != "required":
                refuse_key(inner, {}, ("condition", "required", "restart"))
        items.append((name, condition))
    one.found["depends"] = Mapping(tuple(items), value.place)


def _ports(one: ComposeService, key: Scalar, value: Node) -> None:
    for item in items_said(value, key.text):
        one.ports.extend(ports_said(item, one.told))


def _expose(one: ComposeService, key: Scalar, value: Node) -> None:
    for item in items_said(value, key.text):
        first, sign, last = text_said(item, key.text).partition("/")[0].partition("-")
        kind = text_said(item, key.text).partition("/")[2]
        if not first.isdecimal() or (sign and not last.isdecimal()):
            raise item.error("not a port", "write 8080, or 8080-8089")
        for number in range(int(first), int(last or first) + 1):
            said = {"inside": str(number), **({"protocol": kind} if kind else {})}
            one.ports.append(plain_node(item.place, said))


def _volumes(one: ComposeService, key: Scalar, value: Node) -> None:
    home = one.values.get("HOME", "")
    one.mounts.extend(mount_said(item, home, one.told) for item in items_said(value, key.text))


def _tmpfs(one: ComposeService, key: Scalar, value: Node) -> None:
    del key
    one.mounts.extend(memory_mounts(value, one.told))


def _shm_size(one: ComposeService, key: Scalar, value: Node) -> None:
    said = {"dest": "/dev/shm", "memory": bytes_of(value, key.text)}  # noqa: S108 - a path in it
    one.mounts.append(plain_node(value.place, said))


def _networks(one: ComposeService, key: Scalar, value: Node) -> None:
    items = []
    for name, said in map_said(as_names(value), key.text).items:
        found: dict[str, Node] = {}
        for inner, what in said.items if isinstance(said, Mapping) else ():
            if inner.text == "aliases":
                found["aliases"] = what
            elif inner.text in ("priority", "gw_priority", "driver_opts"):
                one.left(inner)
            elif not inner.text.startswith("x-"):
                refuse_key(inner, _ADDRESSES, ("aliases",))
        items.append((name, map_node(name.place, {**found})))
    one.found["networks"] = Mapping(tuple(items), value.place)


_ADDRESSES = dict.fromkeys(
    ("ipv4_address", "ipv6_address", "link_local_ips", "mac_address", "interface_name"),
    "leave it out: containers find each other by name",
)


def _secrets(one: ComposeService, key: Scalar, value: Node) -> None:
    items: list[Node] = []
    for item in items_said(value, key.text):
        if isinstance(item, Mapping):
            said = {("id" if n.text == "source" else n.text): what for n, what in item.items}
            mode = said.get("mode")
            if isinstance(mode, Scalar):
                said["mode"] = _octal(mode)
            items.append(map_node(item.place, {**said}))
        else:
            items.append(item)
    one.found["secrets"] = Sequence(tuple(items), value.place)


def _octal(node: Scalar) -> Scalar:
    """A mode as `stack.yaml` has it: compose takes 0440, and the number 288 for it."""
    text = node.text
    if text.isdecimal() and not text.startswith("0"):
        return text_node(node.place, f"0{int(text):o}")
    return node


def _configs(one: ComposeService, key: Scalar, value: Node) -> None:
    items: list[Node] = []
    for item in items_said(value, key.text):
        said = item if isinstance(item, Mapping) else map_node(item.place, {"source": item})
        source = said.get("source")
        name = text_said(source or item, "source")
        top = one.configs.get(name)
        if not isinstance(top, Mapping):
            known = ", ".join(key.text for key, _ in one.configs.items) or "none"
            raise item.error(f"there is no config {name!r}", f"configs: {known}")
        dest = said.get("target") or text_node(item.place, f"/{name}")
        found: dict[str, Node] = {"dest": dest, **_content(top, one.values)}
        for inner, what in said.items:
            if inner.text == "mode" and isinstance(what, Scalar):
                found["mode"] = _octal(what)
            elif inner.text in ("uid", "gid"):
                found[inner.text] = what
            elif inner.text not in ("source", "target"):
                refuse_key(inner, {}, ("source", "target", "mode", "uid", "gid"))
        items.append(map_node(item.place, {**found}))
    one.found["files"] = Sequence(tuple(items), value.place)


def _content(top: Mapping, values: Map[str, str]) -> dict[str, Node]:
    for key, value in top.items:
        match key.text:
            case "file":
                return {"src": value}
            case "content":
                return {"content": value}
            case "environment":
                name = text_said(value, key.text)
                if name not in values:
                    raise value.error(f"the variable {name} has no value", f"export {name}")
                return {"content": text_node(value.place, values[name])}
            case "external":
                raise key.error("`external` has no meaning here", "write file: or content:")
            case _:
                continue
    raise top.error("a config has a file, a content or an environment", "write file: …")


def _healthcheck(one: ComposeService, key: Scalar, value: Node) -> None:
    said = map_said(value, key.text)
    found: dict[str, Node] = {}
    times = {"interval": "30s", "timeout": "30s", "retries": "3", "start_period": "0s"}
    disabled = said.get("disable")
    test = said.get("test")
    words = test.items if isinstance(test, Sequence) else ()
    first = words[0].text if words and isinstance(words[0], Scalar) else ""
    if (disabled is not None and is_yes(disabled)) or first == "NONE":
        one.told.append(
            f"{key.place}: {one.name}: `disable` leaves the healthcheck of its image as it is"
        )
        return
    if isinstance(test, Scalar) and not is_null(test):
        found["script"] = test
    elif first == "CMD-SHELL" and len(words) == 2:
        found["script"] = words[1]
    elif first == "CMD" and len(words) > 1:
        found["exec"] = Sequence(words[1:], words[1].place)
    elif test is None:
        one.told.append(f"{key.place}: {one.name}: a healthcheck without `test` is left out")
        return
    else:
        raise test.error("not a test", 'write ["CMD", "/usr/bin/x"], or a text')
    for inner, what in said.items:
        if inner.text in times:
            times[inner.text] = text_said(what, inner.text)
        elif inner.text == "start_interval":
            one.left(inner)
        elif inner.text not in ("test", "disable") and not inner.text.startswith("x-"):
            refuse_key(inner, {}, ("test", *times))
    for name, text in times.items():
        place = (said.get(name) or said).place
        found[name.removesuffix("_period")] = text_node(place, _time(name, text, place, one))
    one.found["ready"] = map_node(key.place, {**found})


def _time(name: str, text: str, place: object, one: ComposeService) -> str:
    if name == "retries":
        return text
    seconds = whole_seconds(text)
    if seconds is None:
        return text  # its model refuses it, at its place
    if not text.isdecimal() and ("ms" in text or "us" in text or "." in text):
        one.told.append(f"{place}: {text} becomes {seconds}s")
    return str(seconds)


def _stop(one: ComposeService, key: Scalar, value: Node) -> None:
    text = text_said(value, key.text)
    seconds = whole_seconds(text)
    if seconds is None:
        raise value.error(f"not a duration: {text!r}", "write it as in 1m30s")
    one.found["stop-timeout"] = text_node(value.place, str(seconds))


def _labels(one: ComposeService, key: Scalar, value: Node) -> None:
    del key
    one.found["labels"] = as_pairs(value)


def _hosts(one: ComposeService, key: Scalar, value: Node) -> None:
    one.found["hosts"] = map_said(as_pairs(value), key.text)


def _right(name: str) -> Callable[[ComposeService, Scalar, Node], None]:
    return lambda one, _, value: one.own("rights", name, value)


def _security(one: ComposeService, key: Scalar, value: Node) -> None:
    for item in items_said(value, key.text):
        text = text_said(item, key.text).replace("=", ":")
        if text in ("no-new-privileges", "no-new-privileges:true"):
            one.own("rights", "no-new-privileges", text_node(item.place, "yes"))
        elif text != "no-new-privileges:false":
            hint = "no-new-privileges:true is what there is; leave the others out"
            raise item.error(f"`{text}` has no meaning here", hint)


def _amount(part: str, name: str) -> Callable[[ComposeService, Scalar, Node], None]:
    return lambda one, key, value: one.own(part, name, amounts_said(key, value))


def _deploy(one: ComposeService, key: Scalar, value: Node) -> None:
    one.found.update(deploy_said(map_said(value, key.text), one.name, one.told))


def _scale(one: ComposeService, key: Scalar, value: Node) -> None:
    del key
    one.found["replicas"] = value


_KEYS: Map[str, Callable[[ComposeService, Scalar, Node], None]] = {
    "image": _image,
    "build": _build,
    "command": _command("command"),
    "entrypoint": _command("entrypoint"),
    "environment": _environment,
    "env_file": _env_file,
    "depends_on": _depends_on,
    "ports": _ports,
    "expose": _expose,
    "volumes": _volumes,
    "tmpfs": _tmpfs,
    "shm_size": _shm_size,
    "networks": _networks,
    "secrets": _secrets,
    "configs": _configs,
    "healthcheck": _healthcheck,
    "stop_grace_period": _stop,
    "labels": _labels,
    "extra_hosts": _hosts,
    "read_only": _right("read-only"),
    "cap_add": _right("add"),
    "cap_drop": _right("drop"),
    "security_opt": _security,
    "mem_limit": _amount("limits", "memory"),
    "mem_reservation": _amount("reserved", "memory"),
    "cpus": _amount("limits", "cpus"),
    "pids_limit": _amount("limits", "processes"),
    "deploy": _deploy,
    "scale": _scale,
}
