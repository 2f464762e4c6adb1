"""`compose.yaml` read as a stack: its files, variables, profiles and `extends`; then what is left
is translated into the nodes of a `stack.yaml`, whose places are its own lines."""

from __future__ import annotations

import os
from collections.abc import Callable
from collections.abc import Mapping as Map
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildit.errors import RecipeError
from buildit.model.words import hint_of
from buildit.recipe.envfile import parse_env_file
from buildit.recipe.stackread import LoadedStack, stack_of
from buildit.recipe.ways.compose.merging import is_null, merged
from buildit.recipe.ways.compose.project import translated
from buildit.recipe.ways.compose.words import ComposeVariables
from buildit.recipe.yaml.node import Mapping, Node, Scalar, Sequence, read_text, shown_place
from buildit.recipe.yaml.read import parse_yaml

_OVERRIDES = {
    "compose.yaml": ("compose.override.yaml", "compose.override.yml"),
    "compose.yml": ("compose.override.yml", "compose.override.yaml"),
    "docker-compose.yaml": ("docker-compose.override.yaml", "docker-compose.override.yml"),
    "docker-compose.yml": ("docker-compose.override.yml", "docker-compose.override.yaml"),
}
"""What docker compose lays over a file by itself, where it is there."""

_MOST_EXTENDS = 20


def load_compose(path: Path, environ: Map[str, str]) -> LoadedStack:
    """The stack that a compose file says, with the file that is laid over it by its name, and
    `.env` beside it below the environment `environ`.

    Raises:
        RecipeError: it is wrong, or says what has no meaning here; the place names the line.
    """
    consulted = [path]

    def read(other: Path) -> str:
        consulted.append(other)
        return read_text(other, shown_place(other))

    directory, values = path.parent, dict(environ)
    if os.path.lexists(directory / ".env"):
        found = parse_env_file(read(directory / ".env"), shown_place(directory / ".env"))
        values = {**{name: one for name, one in found.items() if one is not None}, **values}
    variables = ComposeVariables(values)
    text = read_text(path, shown_place(path))
    node = _document(parse_yaml(text, shown_place(path), merges=True))
    for name in _OVERRIDES.get(path.name, ()):
        if os.path.lexists(directory / name):
            above = _document(_parsed(directory / name, read))
            node = _document(merged(node, above))
            break
    node = _document(_expanded(node, variables))
    reading = _Services(directory, read, variables, node)
    services = reading.all()
    wanted = tuple(part for part in values.get("COMPOSE_PROFILES", "").split(",") if part)
    kept, remarks = _of_profiles(services, wanted)
    project = translated(node, kept, values)
    told = [*remarks, *project.remarks]
    told += [
        f"{place}: the variable {name} has no value, and is empty"
        for name, place in variables.unset.items()
    ]
    name = values.get("COMPOSE_PROJECT_NAME", "")
    loaded = stack_of(project.node, path, read, (), name, variables.expand)
    stack = replace(loaded.stack, remarks=tuple(told), consulted=tuple(consulted))
    return replace(loaded, stack=stack)


def _document(node: Node) -> Mapping:
    if not isinstance(node, Mapping):
        raise node.error("expected a mapping", "begin with `services:`")
    return node


def _parsed(path: Path, read: Callable[[Path], str]) -> Node:
    return parse_yaml(read(path), shown_place(path), merges=True)


def _expanded(node: Node, variables: ComposeVariables) -> Node:
    """With variables filled into its values; names are taken as they are."""
    match node:
        case Scalar(text, place) if "$" in text:
            return Scalar(variables.expand(text, str(place)), place, node.body or place)
        case Sequence(items, place):
            return Sequence(tuple(_expanded(one, variables) for one in items), place)
        case Mapping(items, place):
            pairs = ((name, _expanded(one, variables)) for name, one in items)
            return Mapping(tuple(pairs), place)
        case _:
            return node


@dataclass(slots=True)
class _Services:
    """The services of a file, each over what it extends."""

    directory: Path
    read: Callable[[Path], str]
    variables: ComposeVariables
    node: Mapping
    others: dict[Path, Mapping] = field(default_factory=dict)

    def all(self) -> dict[str, tuple[Scalar, Mapping]]:
        """By name; a name comes with its key."""
        found = self.node.get("services")
        if not isinstance(found, Mapping) or not found.items:
            node: Node = self.node if found is None else found
            raise node.error("there are no services", "add them: `services: {web: {image: …}}`")
        return {
            name.text: (name, self.extended(_service(one, name), found, ()))
            for name, one in found.items
        }

    def extended(self, own: Mapping, beside: Mapping, way: tuple[str, ...]) -> Mapping:
        """A service over the one that it extends, which is `beside` it or in another file."""
        said = own.get("extends")
        if said is None:
            return own
        if isinstance(said, Scalar):
            name, file = said, None
        elif isinstance(said, Mapping) and isinstance(named := said.get("service"), Scalar):
            name, file = named, said.get("file")
        else:
            raise said.error("expected the name of a service", "write extends: {service: web}")
        if file is not None:
            beside = self._file(file)
        here = f"{name.text} of {beside.place.file}"
        if here in way or len(way) > _MOST_EXTENDS:
            chain = " extends ".join((*way[way.index(here) if here in way else 0 :], here))
            raise name.error(f"services extend each other: {chain}", "take one `extends` out")
        below = beside.pair(name.text)
        if below is None:
            known = [key.text for key, _ in beside.items]
            raise name.error(f"there is no service {name.text!r}", hint_of(name.text, known))
        base = self.extended(_service(below[1], below[0]), beside, (*way, here))
        made = merged(base, own.without("extends"))
        assert isinstance(made, Mapping)  # noqa: S101 - of two maps
        return made

    def _file(self, file: Node) -> Mapping:
        if not isinstance(file, Scalar):
            raise file.error("expected the name of a file", "write file: common.yaml")
        path = self.directory / file.text
        if os.path.normpath(path.parent) != os.path.normpath(self.directory):
            hint = "its relative paths would be of that directory: move it beside this file"
            raise file.error("a service of a file in another directory is extended", hint)
        if not os.path.lexists(path):
            raise file.error(f"there is no file {file.text!r}", f"it is looked for at {path}")
        if path not in self.others:
            node = _document(_expanded(_parsed(path, self.read), self.variables))
            found = node.get("services")
            if not isinstance(found, Mapping):
                raise node.error("there are no services", "add them: `services: {…}`")
            self.others[path] = found
        return self.others[path]


def _service(node: Node, name: Scalar) -> Mapping:
    if not isinstance(node, Mapping):
        raise name.error(f"the service {name.text!r} is no map", "write image or build below it")
    return node


def _of_profiles(
    services: Map[str, tuple[Scalar, Mapping]], wanted: tuple[str, ...]
) -> tuple[dict[str, tuple[Scalar, Mapping]], list[str]]:
    """Those that run without a profile or in one that is wanted; what is said of the others."""
    kept: dict[str, tuple[Scalar, Mapping]] = {}
    told = []
    for name, (key, node) in services.items():
        profiles = [one.text for one in node.texts("profiles")]
        if not profiles or {*profiles} & {*wanted} or "*" in wanted:
            kept[name] = (key, node.without("profiles"))
        else:
            told.append(
                f"{key.place}: the service {name} is left out: COMPOSE_PROFILES={profiles[0]} "
                "takes it in"
            )
    if not kept:
        (key, _), *_ = services.values()
        raise key.error("every service is of a profile", "name one: COMPOSE_PROFILES=…")
    left = services.keys() - kept.keys()
    kept = {name: (key, _without(node, left)) for name, (key, node) in kept.items()}
    return kept, told


def _without(node: Mapping, left: set[str]) -> Mapping:
    """Without dependencies on services that are left out, where they are not required.

    Raises:
        RecipeError: one is.
    """
    depends = node.get("depends_on")
    if not left or is_null(depends):
        return node
    if isinstance(depends, Sequence):
        for one in depends.items:
            if isinstance(one, Scalar) and one.text in left:
                raise _left(one)
        return node
    assert isinstance(depends, Mapping)  # noqa: S101 - else the service's own check refuses it
    items = []
    for name, one in depends.items:
        required = one.get("required") if isinstance(one, Mapping) else None
        if name.text not in left:
            items.append((name, one))
        elif not (isinstance(required, Scalar) and required.text.lower() == "false"):
            raise _left(name)
    return node.having("depends_on", Mapping(tuple(items), depends.place))


def _left(node: Scalar) -> RecipeError:
    hint = "name its profile: COMPOSE_PROFILES=…, or write required: false"
    return node.error(f"the service {node.text!r} is of a profile that is not taken in", hint)
