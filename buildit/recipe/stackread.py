"""Reading a stack: the nodes of `stack.yaml`, or those that another file was translated to, as a
`ContainerStack`, with what is wrong between its parts."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from buildit.errors import RecipeError
from buildit.model.platform import spelled_platform
from buildit.model.stack import (
    DEFAULT_NETWORK,
    Amounts,
    Attachment,
    ContainerStack,
    HttpProbe,
    Link,
    MemberRecipe,
    Placement,
    Readiness,
    Restart,
    Rights,
    SecretUse,
    StackFile,
    StackMember,
    StackMount,
    StackNetwork,
    StackPort,
    StackSecret,
    StackVolume,
    StartsAfter,
    circle_of,
)
from buildit.model.words import hint_of
from buildit.recipe.envfile import Expand, parse_env_file
from buildit.recipe.leaf import port as checked_port
from buildit.recipe.schema import parse
from buildit.recipe.stack import (
    AmountsSpec,
    AttachmentSpec,
    MemberSpec,
    MountSpec,
    NetworkSpec,
    PlacementSpec,
    PortSpec,
    ReadinessSpec,
    StackSecretSpec,
    StackSpec,
    VolumeSpec,
)
from buildit.recipe.yaml.node import Mapping as Keys
from buildit.recipe.yaml.node import Node, follow, read_text, shown_place
from buildit.recipe.yaml.read import load_yaml

Reader = Callable[[Path], str]
"""Gives the text of a file, or raises RecipeError."""


@dataclass(frozen=True, slots=True)
class LoadedStack:
    """A stack, and the nodes that its `test` keys are written as, by member: what is asked of a
    running stack is typed where that of containers is."""

    stack: ContainerStack
    tests: Mapping[str, Node]
    specs: Mapping[str, MemberSpec]


def load_stack(path: Path) -> LoadedStack:
    """The stack in the file at `path`.

    Raises:
        RecipeError: it is wrong; the place names the line.
    """
    consulted = [path]

    def read(other: Path) -> str:
        consulted.append(other)
        return read_text(other, shown_place(other))

    return stack_of(load_yaml(path), path, read, consulted)


def stack_of(
    node: Node,
    file: Path,
    read: Reader,
    consulted: Iterable[Path] = (),
    name: str = "",
    expand: Expand | None = None,
) -> LoadedStack:
    """The stack that nodes of the shape of stack.yaml say; `read` gives the text of files of
    variables and of mounted files, `expand` fills variables into the former. `name` is its name
    where the nodes have none.

    Raises:
        RecipeError: a part is wrong, or two do not fit.
    """
    if not isinstance(node, Keys):
        raise node.error("expected a mapping", "begin with `containers:`")
    spec = parse(node, StackSpec)
    file = Path(os.path.abspath(file))
    reading = _Reading(node, file.parent, read, expand)
    members = tuple(
        reading.member(name, one, ("containers", name)) for name, one in spec.containers.items()
    )
    networks = [
        reading.network(name, one, ("networks", name)) for name, one in spec.networks.items()
    ]
    declared = {one.name for one in networks}
    if any(one.network == DEFAULT_NETWORK for member in members for one in member.networks):
        networks += [] if DEFAULT_NETWORK in declared else [StackNetwork(DEFAULT_NETWORK)]
    stack = ContainerStack(
        _named(spec.name or name or file.parent.name, node),
        file.parent,
        file,
        members,
        tuple(networks),
        tuple(reading.volume(name, one, ("volumes", name)) for name, one in spec.volumes.items()),
        tuple(reading.secret(name, one, ("secrets", name)) for name, one in spec.secrets.items()),
        consulted=tuple(consulted),
    )
    _check(stack, reading)
    tests = {
        name: follow(node, ("containers", name, "test"))[0]
        for name, one in spec.containers.items()
        if one.test is not None
    }
    return LoadedStack(stack, tests, spec.containers)


_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,50}[a-z0-9])?")


def _named(text: str, node: Keys) -> str:
    """The name of a stack: what compose, systemd and Kubernetes all take.

    Raises:
        RecipeError: it is none.
    """
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:52].strip("-")
    written = node.get("name")
    if _LABEL.fullmatch(name) and (written is None or name == text):
        return name
    hint = f"write name: {name or 'shop'}"
    message = f"a stack's name has small letters, digits and -, at most 52: {text!r} has others"
    raise (written or node).error(message, hint)


# Each of these gives a value of the model, and refuses what its text cannot say.

_PORT = re.compile(
    r"(?:(?:(?P<address>\[[0-9A-Fa-f:.]+\]|[0-9.]+):)?(?P<outside>any|[0-9]{1,5}(?:-[0-9]{1,5})?):)?"
    r"(?P<inside>[0-9]{1,5})(?:/(?P<kind>tcp|udp|sctp))?"
)
_MOUNT = re.compile(r"(?:(?P<source>[^:]+):)?(?P<dest>/[^:]*)(?::(?P<how>ro|rw))?")
_RESTARTS: tuple[Literal["no", "always", "on-failure", "unless-stopped"], ...]
_RESTARTS = ("no", "always", "on-failure", "unless-stopped")
_CAPABILITY = re.compile(r"(?:CAP_)?([A-Z][A-Z_]*)")
_CPUS = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class _Reading:
    """The nodes of a stack, the directory that its relative paths are of, and what reads files."""

    node: Node
    directory: Path
    read: Reader
    expand: Expand | None = None

    def error(self, path: tuple[str | int, ...], message: str, hint: str) -> RecipeError:
        return follow(self.node, path)[0].error(message, hint)

    def place(self, *path: str | int) -> str:
        return str(follow(self.node, path)[0].place)

    def host_path(self, text: str) -> str:
        return os.path.normpath(self.directory / text)

    def member(self, name: str, spec: MemberSpec, at: tuple[str | int, ...]) -> StackMember:
        if (spec.path is None) == (spec.image is None):
            message = f"the container {name!r} is of a `path` or of an `image`"
            raise self.error(at, message, "write path: ./web, or image: docker://HOST/NAME:TAG")
        recipe = None
        if spec.path is not None:
            values = tuple(spec.build_args.items())
            directory = Path(self.host_path(spec.path))
            recipe = MemberRecipe(directory, spec.file or "", spec.target or "", values)
        for key in ("file", "target", "build-args"):
            if recipe is None and key.replace("-", "_") in spec.model_fields_set:
                message = f"`{key}` is of what is built, and {name!r} is an image as it is"
                raise self.error((*at, key), message, "leave it out, or write `path`")
        if not spec.replicas:
            raise self.error((*at, "replicas"), "at least one replica runs", "or leave it out")
        return StackMember(
            name,
            self.place(*at),
            recipe,
            spec.image or "",
            entrypoint=spec.entrypoint,
            command=spec.command,
            user=spec.user or "",
            working_directory=spec.workdir or "",
            environment=self.environment(spec, at),
            links=self.links(name, spec, (*at, "links")),
            depends=self.depends(spec, (*at, "depends")),
            ports=tuple(
                self.port(one, (*at, "ports", number)) for number, one in enumerate(spec.ports)
            ),
            mounts=tuple(
                self.mount(one, (*at, "volumes", number)) for number, one in enumerate(spec.volumes)
            ),
            files=self.files(spec, (*at, "files")),
            networks=self.attachments(spec),
            secrets=self.secret_uses(spec, (*at, "secrets")),
            replicas=spec.replicas,
            restart=self.restart(spec.restart, (*at, "restart")),
            placement=self.placement(spec.placement, (*at, "placement")),
            ready=self.ready(spec.ready, (*at, "ready")),
            stop_signal=self.signal(spec.stop_signal, (*at, "stop-signal")),
            stop_timeout=spec.stop_timeout,
            labels=tuple(spec.labels.items()),
            limits=self.amounts(spec.limits, (*at, "limits")),
            reserved=self.amounts(spec.reserved, (*at, "reserved")),
            rights=self.rights(spec, (*at, "rights")),
            hostname=spec.hostname or "",
            hosts=tuple(spec.hosts.items()),
            platform=self.platform(spec.platform, (*at, "platform")),
            init=spec.init,
        )

    def environment(
        self, spec: MemberSpec, at: tuple[str | int, ...]
    ) -> tuple[tuple[str, str | None], ...]:
        found: dict[str, str | None] = {}
        for number, name in enumerate(spec.env_files):
            path = Path(self.host_path(name))
            if not os.path.lexists(path):
                message = f"there is no file {name!r}"
                hint = f"it is looked for in {shown_place(path.parent)}"
                raise self.error((*at, "env-files", number), message, hint)
            found |= parse_env_file(self.read(path), shown_place(path), self.expand)
        found |= dict.fromkeys(spec.pass_environment)
        return tuple((found | spec.environment).items())

    def links(self, name: str, spec: MemberSpec, at: tuple[str | int, ...]) -> tuple[Link, ...]:
        found = []
        for number, text in enumerate(spec.links):
            other, _, alias = text.partition(":")
            if not re.fullmatch(r"[^:]+(?::[A-Za-z0-9._-]+)?", text):
                raise self.error((*at, number), f"not a link: {text!r}", "write db, or db:database")
            if other == name:
                message = f"the container {name!r} links to itself"
                raise self.error((*at, number), message, "leave it out")
            found.append(Link(other, alias or other, self.place(*at, number)))
        return tuple(found)

    def depends(self, spec: MemberSpec, at: tuple[str | int, ...]) -> tuple[StartsAfter, ...]:
        if isinstance(spec.depends, tuple):
            asked = enumerate(spec.depends)
            return tuple(StartsAfter(one, place=self.place(*at, n)) for n, one in asked)
        return tuple(
            StartsAfter(name, condition, self.place(*at, name))
            for name, condition in spec.depends.items()
        )

    def port(self, spec: str | PortSpec, at: tuple[str | int, ...]) -> StackPort:
        hint = "write 8080, 8443:443 or 127.0.0.1:5353:53/udp"
        if isinstance(spec, str):
            match = _PORT.fullmatch(spec)
            if match is None:
                raise self.error(at, f"not a port: {spec!r}", hint)
            kind = match["kind"] or "tcp"
            words = (int(match["inside"]), match["outside"], match["address"] or "", kind)
        else:
            words = (spec.inside, spec.outside, spec.address or "", spec.protocol)
        inside, outside, address, protocol = words
        first, last = self._outside(outside, at, hint)
        address = address.strip("[]")
        try:
            if address:
                ipaddress.ip_address(address)
            for one in (inside, *(n for n in (first, last) if n)):
                checked_port(one)
        except ValueError as error:
            raise self.error(at, str(error), hint) from error
        published = outside is not None
        if address and not published:
            raise self.error(at, "an address needs a port of the machine", hint)
        return StackPort(inside, protocol, published, first, last, address, self.place(*at))

    def _outside(self, text: str | None, at: tuple[str | int, ...], hint: str) -> tuple[int, int]:
        if text is None or text == "any":
            return 0, 0
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
        if match is None:
            raise self.error(at, f"not a port of the machine: {text!r}", hint)
        first, last = int(match[1]), int(match[2] or 0)
        if not first or (last and last < first):
            raise self.error(at, f"not a port or a range of them: {text!r}", hint)
        return first, last

    def mount(self, spec: str | MountSpec, at: tuple[str | int, ...]) -> StackMount:
        place = self.place(*at)
        if isinstance(spec, str):
            match = _MOUNT.fullmatch(spec)
            if match is None:
                hint = "write data:/var/lib/web, ./conf:/etc/web:ro, or /var/cache/web"
                raise self.error(at, f"not a volume: {spec!r}", hint)
            source, dest, read_only = match["source"], match["dest"], match["how"] == "ro"
        else:
            source, dest, read_only = spec.source, spec.dest, spec.read_only
            if spec.memory is not None:
                if source is not None:
                    raise self.error(at, "`memory` has no `source`", "leave one of them out")
                size = spec.memory
                return StackMount(dest, "memory", "", read_only, size, place=place)
        dest = "/" + dest.strip("/")
        if source is None:
            return StackMount(dest, "anonymous", "", read_only, place=place)
        if source.startswith("~"):
            hint = "write a path relative to the stack's file, or an absolute one"
            raise self.error(at, f"'~' has no meaning here: {source!r}", hint)
        if source.startswith(("/", ".")):
            return StackMount(dest, "host", self.host_path(source), read_only, place=place)
        return StackMount(dest, "volume", source, read_only, place=place)

    def files(self, spec: MemberSpec, at: tuple[str | int, ...]) -> tuple[StackFile, ...]:
        found = []
        for number, one in enumerate(spec.files):
            content, path = one.content or "", ""
            if one.src is not None:
                path = self.host_path(one.src)
                if not os.path.lexists(path):
                    message = f"there is no file {one.src!r}"
                    hint = f"it is looked for in {shown_place(Path(path).parent)}"
                    raise self.error((*at, number, "src"), message, hint)
                content = self.read(Path(path))
            name = re.sub(r"[^A-Za-z0-9.-]+", "-", one.dest).strip("-.") or f"file-{number}"
            uid, gid = ("" if n is None else str(n) for n in (one.uid, one.gid))
            place = self.place(*at, number)
            found.append(StackFile(name, one.dest, path, content, one.mode, uid, gid, place))
        return tuple(found)

    def attachments(self, spec: MemberSpec) -> tuple[Attachment, ...]:
        if isinstance(spec.networks, tuple):
            names = dict.fromkeys(spec.networks or (DEFAULT_NETWORK,))
            return tuple(Attachment(name) for name in names)
        return tuple(
            Attachment(name, one.aliases if isinstance(one, AttachmentSpec) else ())
            for name, one in spec.networks.items()
        )

    def secret_uses(self, spec: MemberSpec, at: tuple[str | int, ...]) -> tuple[SecretUse, ...]:
        found = []
        for number, one in enumerate(spec.secrets):
            place = self.place(*at, number)
            if isinstance(one, str):
                found.append(SecretUse(one, f"/run/secrets/{one}", place=place))
            else:
                target = os.path.normpath(f"/run/secrets/{one.target or one.id}")
                if one.target and one.target.startswith("/"):
                    target = os.path.normpath(one.target)
                found.append(SecretUse(one.id, target, one.uid, one.gid, one.mode, place))
        return tuple(found)

    def restart(self, text: str, at: tuple[str | int, ...]) -> Restart:
        word, _, most = text.partition(":")
        when = next((one for one in _RESTARTS if one == word), None)
        if when is None or (
            most and (when != "on-failure" or not re.fullmatch("[1-9][0-9]{0,5}", most))
        ):
            message = f"expected one of {', '.join(_RESTARTS)}, on-failure:5; found {text!r}"
            raise self.error(at, message, hint_of(word, _RESTARTS))
        return Restart(when, int(most or 0))

    def placement(self, spec: PlacementSpec, at: tuple[str | int, ...]) -> Placement:
        labels = [(name, value, True) for name, value in spec.labels.items()]
        labels += [(name, value, False) for name, value in spec.without.items()]
        platform = self.platform(spec.platform, (*at, "platform"))
        place = self.place(*at)
        return Placement(
            spec.host or "", platform, tuple(labels), spec.spread, spec.most, place=place
        )

    def platform(self, text: str | None, at: tuple[str | int, ...]) -> str:
        return spelled_platform(text, place=self.place(*at)) if text else ""

    def ready(self, spec: ReadinessSpec | None, at: tuple[str | int, ...]) -> Readiness | None:
        if spec is None:
            return None
        http = None
        if spec.http is not None:
            one = spec.http
            for key, text, pattern in (("path", one.path, "/[!-~]*"), ("host", one.host, "[!-~]+")):
                if not re.fullmatch(pattern, text):
                    hint = "such as /health, blanks as %20"
                    raise self.error((*at, "http", key), f"{text!r} cannot be asked", hint)
            http = HttpProbe(one.port, one.path, one.host, one.tls, one.status or 0)
            if not 1 <= one.port <= 65535:
                raise self.error((*at, "http", "port"), f"not a port: {one.port}", "such as 8080")
        if spec.tcp is not None and not 1 <= spec.tcp <= 65535:
            raise self.error((*at, "tcp"), f"not a port: {spec.tcp}", "such as 8080")
        times = (spec.interval, spec.timeout, spec.retries, spec.start)
        words = (spec.exec or (), spec.script or "", http, spec.tcp or 0)
        return Readiness(*words, *times, self.place(*at))

    def signal(self, text: str | None, at: tuple[str | int, ...]) -> str:
        if text is None:
            return ""
        name = text.upper()
        name = name if name.startswith("SIG") or name.isdigit() else f"SIG{name}"
        if not re.fullmatch(r"SIG[A-Z0-9+-]+|[1-9][0-9]?", name):
            raise self.error(at, f"not a signal: {text!r}", "such as SIGQUIT")
        return name

    def amounts(self, spec: AmountsSpec, at: tuple[str | int, ...]) -> Amounts:
        if spec.cpus is not None and not _CPUS.fullmatch(spec.cpus):
            raise self.error((*at, "cpus"), f"not a number of processors: {spec.cpus!r}", "2 or .5")
        cpus = round(float(spec.cpus) * 1000) if spec.cpus else 0
        return Amounts(spec.memory or 0, cpus, spec.processes or 0)

    def rights(self, spec: MemberSpec, at: tuple[str | int, ...]) -> Rights:
        lists = []
        for key, words in (("add", spec.rights.add), ("drop", spec.rights.drop)):
            matches = [(number, _CAPABILITY.fullmatch(one)) for number, one in enumerate(words)]
            for number, match in matches:
                if match is None:
                    message = f"not a capability: {words[number]!r}"
                    raise self.error((*at, key, number), message, "such as NET_ADMIN, or ALL")
            lists.append(tuple(match[1] for _, match in matches if match))
        return Rights(spec.rights.read_only, spec.rights.no_new_privileges, *lists)

    def network(
        self, name: str, spec: NetworkSpec | str, at: tuple[str | int, ...]
    ) -> StackNetwork:
        if isinstance(spec, str):
            return StackNetwork(name, place=self.place(*at))
        if spec.subnet:
            try:
                ipaddress.ip_network(spec.subnet)
            except ValueError as error:
                raise self.error((*at, "subnet"), str(error), "such as 10.89.5.0/24") from error
        return StackNetwork(
            name,
            spec.internal,
            spec.external is not None,
            spec.external or "",
            spec.subnet or "",
            tuple(spec.labels.items()),
            self.place(*at),
        )

    def volume(self, name: str, spec: VolumeSpec | str, at: tuple[str | int, ...]) -> StackVolume:
        if isinstance(spec, str):
            return StackVolume(name, place=self.place(*at))
        outside = spec.external is not None, spec.external or ""
        labels = tuple(spec.labels.items())
        return StackVolume(name, *outside, spec.size or 0, labels, self.place(*at))

    def secret(self, name: str, spec: StackSecretSpec, at: tuple[str | int, ...]) -> StackSecret:
        place = self.place(*at)
        if spec.file is not None:
            return StackSecret(name, "file", self.host_path(spec.file), place=place)
        if spec.env is not None:
            return StackSecret(name, "environment", spec.env, place=place)
        if spec.generate is not None:
            return StackSecret(name, "generated", length=spec.generate, place=place)
        return StackSecret(name, "external", spec.external or "", place=place)


# -- what does not fit together


def _check(stack: ContainerStack, reading: _Reading) -> None:
    """Raises RecipeError at the first part that does not fit the others."""
    names = [one.name for one in stack.members]
    volumes = [one.name for one in stack.volumes]
    networks = [one.name for one in stack.networks]
    secrets = [one.name for one in stack.secrets]
    for member in stack.members:
        for link in member.links:
            _known(link.name, names, "container", link.place)
        for one in member.depends:
            _known(one.name, names, "container", one.place)
            _check_end(one, stack)
        for mount in member.mounts:
            if mount.kind == "volume":
                _known(mount.source, volumes, "volume", mount.place, "volumes")
        at = ("containers", member.name, "networks")
        for number, net in enumerate(member.networks):
            node = follow(reading.node, (*at, number))[0]
            node = follow(reading.node, (*at, net.network))[0] if isinstance(node, Keys) else node
            _known(net.network, networks, "network", str(node.place), "networks")
        for use in member.secrets:
            _known(use.secret, secrets, "secret", use.place, "secrets")
        _check_dests(member)
        _check_links(member, stack)
    if circle := circle_of(stack.members):
        told = " waits for ".join(circle)
        first = stack.member(circle[0])
        place = next(one.place for one in first.waits_for if one.name == circle[1])
        hint = "take one of these `links` or `depends` out"
        raise RecipeError(f"containers wait for each other: {told}", place=place, hint=hint)
    _check_ports(stack)


def _known(name: str, known: list[str], what: str, place: str, key: str = "") -> None:
    if name not in known:
        hint = hint_of(name, known)
        if key:
            hint += f"; or add it: `{key}: {{{name}: {{…}}}}`"
        raise RecipeError(f"there is no {what} {name!r}", place=place, hint=hint)


def _check_end(one: StartsAfter, stack: ContainerStack) -> None:
    other = stack.member(one.name)
    if one.condition == "completed" and other.restart.when in ("always", "unless-stopped"):
        message = f"{one.name!r} never completes: it is started again (restart: "
        hint = "write restart: no, or on-failure, there"
        raise RecipeError(f"{message}{other.restart.when})", place=one.place, hint=hint)


def _check_dests(member: StackMember) -> None:
    seen: dict[str, str] = {}
    mounts = [(one.dest, one.place) for one in member.mounts]
    mounts += [(one.dest, one.place) for one in member.files]
    mounts += [(one.target, one.place) for one in member.secrets]
    for dest, place in mounts:
        if dest in seen:
            hint = f"the first is at {seen[dest]}"
            raise RecipeError(f"two things are mounted at {dest}", place=place, hint=hint)
        seen[dest] = place


def _check_links(member: StackMember, stack: ContainerStack) -> None:
    own = {one.network for one in member.networks}
    aliases: dict[str, Link] = {}
    for link in member.links:
        other = stack.member(link.name)
        if own.isdisjoint(one.network for one in other.networks):
            message = f"{member.name!r} and {link.name!r} are on no common network"
            hint = f"add one to both: networks: [{min(own)}]"
            raise RecipeError(message, place=link.place, hint=hint)
        taken = any(link.alias == one.name != link.name for one in stack.members)
        if link.alias in aliases or taken:
            message = f"two containers would be called {link.alias!r}"
            raise RecipeError(message, place=link.place, hint=f"write {link.name}:another-name")
        aliases[link.alias] = link


def _check_ports(stack: ContainerStack) -> None:
    """Refuse ports of the machine that two containers would take; replicas are several."""
    taken: list[tuple[StackPort, str]] = []
    for member in stack.members:
        for port in member.ports:
            if not port.outsides:
                continue
            if len(port.outsides) < member.replicas:
                message = f"{member.replicas} replicas of {member.name!r} would take "
                message += (
                    f"{len(port.outsides)} port{'s'[: len(port.outsides) > 1]} of the machine"
                )
                last = port.outside + member.replicas - 1
                hint = f"write a range, {port.outside}-{last}:{port.inside}, or let one "
                hint += "container before them have the port"
                raise RecipeError(message, place=port.place, hint=hint)
            for other, name in taken:
                if both := _both(port, other):
                    message = f"the port {both}/{port.protocol} of the machine is used twice"
                    hint = f"{name!r} has it at {other.place}"
                    raise RecipeError(message, place=port.place, hint=hint)
            taken.append((port, member.name))


_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - they are compared


def _both(one: StackPort, other: StackPort) -> int:
    """A port of the machine that both take; 0 where there is none."""
    if one.protocol != other.protocol:
        return 0
    apart = one.address not in _EVERYWHERE and other.address not in _EVERYWHERE
    if apart and ipaddress.ip_address(one.address) != ipaddress.ip_address(other.address):
        return 0
    return next((port for port in one.outsides if port in other.outsides), 0)


def published_ports(stack: ContainerStack) -> Iterator[tuple[StackMember, StackPort]]:
    """What of a stack the machine's ports lead to."""
    for member in stack.members:
        yield from ((member, one) for one in member.ports if one.published)
