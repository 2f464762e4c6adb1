"""Reading a container: its list of steps and those that it includes, as one flat list.

An included list sees its parameters, its own `vars` and the facts, and nothing else of the list
that includes it; what its `vars` set stays in it. A name of its `vars` that is a parameter has the
parameter's value. Its relative paths are of its own directory.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from collections.abc import Mapping as Map
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildit.digest import Digest
from buildit.errors import RecipeError, UsageError
from buildit.files import is_beneath
from buildit.model.image import Inherited
from buildit.model.platform import Platform, named_platform
from buildit.model.recipe import CONTAINER_FILE, RecipeOptions
from buildit.model.words import guess
from buildit.recipe.container import LONGEST_NAME, NAMES, Container, LoadedStep, StepSpec, UrlSpec
from buildit.recipe.database.steps import with_databases
from buildit.recipe.packagefacts import PACKAGES_VARIABLE, KnownPackages
from buildit.recipe.schema import parse
from buildit.recipe.template.render import Variables, render_json, render_tree, variables_in
from buildit.recipe.ways.find import find_recipe
from buildit.recipe.ways.read import read_recipe, steps_of
from buildit.recipe.yaml.node import (
    Mapping,
    Node,
    Scalar,
    Sequence,
    decoded_text,
    follow,
    leaves,
    shown_place,
)
from buildit.recipe.yaml.read import load_yaml, parse_yaml

MOST_LISTS = 200
MOST_STEPS = 5_000
"""How many lists a container may include, one inside of the other or not, and the steps of all."""

_ANY = RecipeOptions()

FetchList = Callable[[str, Digest, str], bytes]
"""Gives the bytes of a list by URL, digest and the place that asks; they have the digest."""


def no_fetching(url: str, digest: Digest, place: str) -> bytes:
    """Refuses to fetch. Raises UsageError."""
    del digest
    raise UsageError(f"the list at {url} cannot be fetched here", place=place)


@dataclass(frozen=True, slots=True)
class _List:
    """A list that is being read: where relative paths begin, what they stay beneath, where the
    steps that led to it were written (outermost first), the lists on that way, and its parameters.
    """

    base: Path
    root: Path
    is_remote: bool = False
    through: tuple[str, ...] = ()
    way: tuple[str, ...] = ()
    given: Map[str, str] = field(default_factory=dict)


def load_container(
    directory: Path,
    packages: KnownPackages | None = None,
    platform: str = "",
    here: Platform | None = None,
    fetch: FetchList = no_fetching,
    wanted: RecipeOptions = _ANY,
    base: Inherited | None = None,
) -> Container:
    """Read the container of a directory for a platform: its first without one, else `here`.

    Where templates ask for what `packages` do not know yet they get stand-ins, and the container
    says so in `pending`: read it again when it is known, and see `check_settled`. `base` is what
    the image says that it begins with, once that is known; a recipe that needs it says so in
    `awaits_base`.

    Raises:
        UsageError: there is no recipe, it is not for this platform, or has not what is `wanted`.
        RecipeError: it or a list that it includes is wrong; the place names the line.
        BuilditError: as `fetch`.
    """
    found = find_recipe(directory, wanted)
    file = shown_place(found.path)
    target = named_platform(platform, place="--platform") if platform else here
    recipe = read_recipe(found, wanted, target, here, base)
    node = recipe.steps
    platforms = _platforms(node)
    known = KnownPackages() if packages is None else packages
    said = _platform_variables(platforms, platform, file)
    variables = {**said, **recipe.given}
    reading = _Reading(directory, known, platforms, said, here, fetch)
    way = (os.path.realpath(found.path),)
    reading.facts |= reading.machine(node)
    reading.read(node, _List(directory, directory, way=way, given=recipe.given), variables)
    container = Container(
        directory,
        file,
        variables,
        with_databases(reading.steps),
        known.asked,
        platforms,
        (*recipe.files, *reading.files),
        tuple(reading.pinned),
        recipe.awaits_base,
        (*found.looked, *recipe.looked),
        recipe.remarks,
        recipe.facts,
    )
    _check_names(container, node)
    return container


def _with_plain_script(item: Mapping) -> Mapping:
    """Values reach a script as its environment: `{{` in it is the shell's, or some program's."""
    for key in ("run", "test", "healthcheck"):
        step = item.get(key)
        script = step.get("script") if isinstance(step, Mapping) else None
        if isinstance(step, Mapping) and isinstance(script, Scalar):
            return item.having(key, step.having("script", replace(script, rendered=True)))
    return item


@dataclass(slots=True)
class _Reading:
    """One reading of the container of a directory; `facts` are `os` and `arch` where they are
    known, `said` those of them that the platform decides."""

    directory: Path
    packages: KnownPackages
    platforms: tuple[Platform, ...]
    said: Map[str, str]
    here: Platform | None
    fetch: FetchList
    facts: dict[str, str] = field(default_factory=dict)
    steps: list[LoadedStep] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    pinned: list[Digest] = field(default_factory=list)

    def machine(self, node: Sequence) -> dict[str, str]:
        """`os` and `arch` of what is built for, but for what a `vars` step is going to say."""
        if self.here is None:
            return dict(self.said)
        items = (one for one in node.items if isinstance(one, Mapping))
        steps = [values for one in items if isinstance(values := one.get("vars"), Mapping)]
        facts = {"os": self.here.os, "arch": self.here.arch}
        return {k: v for k, v in facts.items() if not any(one.get(k) for one in steps)} | {
            **self.said
        }

    def read(self, node: Sequence, at: _List, variables: dict[str, str]) -> None:
        """Read the steps of a list; `variables` grow with those that it sets."""
        for item in node.items:
            names: Variables = {PACKAGES_VARIABLE: self.packages, **self.facts, **variables}
            step = self._step(item, at, names)
            self._check_variables(step, at, variables)
            self.steps.append(step)
            if len(self.steps) > MOST_STEPS:
                raise step.node.error(f"the container has more than {MOST_STEPS} steps")
            variables.update(step.spec.vars or {})
            if step.spec.include is not None:
                self._include(step, step.spec.include, at)

    def _step(self, item: Node, at: _List, names: Variables) -> LoadedStep:
        if not isinstance(item, Mapping):
            raise item.error("expected a step with one key", "such as `- vars: {...}`")
        item = _with_plain_script(item)
        image, content = item.get("image"), ""
        raw = image.get("content") if isinstance(image, Mapping) else None
        if isinstance(image, Mapping) and isinstance(raw, Scalar):
            item = item.having("image", image.without("content"))
            content = json.dumps(render_json(raw, names), ensure_ascii=False)
        values = item.get("vars")
        if at.given and isinstance(values, Mapping):
            item = item.having("vars", values.without(*at.given))
        rendered = _render_vars(item, names)
        if at.is_remote and (wrong := of_this_machine(rendered)) is not None:
            message = f"a list at a URL may not {wrong[1]}"
            hint = "keep a copy of the list beside the container, and include that"
            raise wrong[0].error(message, hint)
        spec = parse(rendered, StepSpec)
        kept = {}
        if spec.sync is not None and spec.sync.template:
            kept = {name: str(value) for name, value in names.items() if name != PACKAGES_VARIABLE}
        return LoadedStep(spec, rendered, content, at.base, at.root, kept, at.through)

    def _check_variables(self, step: LoadedStep, at: _List, variables: Map[str, str]) -> None:
        """Raises RecipeError where `vars` set what is no variable here, or contradict the
        platform."""
        if (taken := step.variable(PACKAGES_VARIABLE)) is not None:
            message = f"{PACKAGES_VARIABLE!r} is what templates call the packages of the container"
            raise taken.error(message, "give the variable another name")
        if at.through and step.spec.platforms is not None:
            hint = f"write the step into {CONTAINER_FILE} itself"
            raise step.node.error("an included list cannot say the `platforms`", hint)
        for name in ("os", "arch"):
            value, said = (step.spec.vars or {}).get(name), variables.get(name)
            node = step.variable(name)
            if node is None:
                continue
            if at.through:
                message = f"an included list cannot say the {name}"
                raise node.error(message, f"leave `{name}` out; templates may use it all the same")
            if said is None or (value == said and not self.platforms):
                continue
            if self.platforms:
                message = f"`platforms` says the {name}"
                raise node.error(message, f"leave `{name}` out; templates may use it all the same")
            raise node.error(
                f"the container is for {value}, --platform for {said}", "leave out one"
            )

    # -- other lists

    def _include(self, step: LoadedStep, what: str | UrlSpec, at: _List) -> None:
        """Read the steps of another list."""
        if len(self.files) + len(self.pinned) >= MOST_LISTS:
            raise step.node.error(f"the container includes more than {MOST_LISTS} lists")
        given = dict(step.spec.with_ or {})
        through = (*at.through, step.place)
        try:
            if isinstance(what, UrlSpec):
                node, inner = self._at_url(what, step, at)
            else:
                node, inner = self._in_file(what, step, at)
            inner = replace(inner, through=through, given=given)
            _check_parameters(step, node)
            self.read(node, inner, dict(given))
        except RecipeError as error:
            if error.undefined:
                name, known = error.undefined, error.hint or "it has no other names"
                message = f"the list lacks a value for {name!r}"
                hint = f"add it: `with: {{{name}: …}}`; {known}"
                told = (f"it is asked for at {error.place}",)
                raise RecipeError(message, place=step.place, hint=hint, details=told) from error
            if error.place != step.place:
                error.details = (*error.details, f"included at {step.place}")
            raise

    def _in_file(self, written: str, step: LoadedStep, at: _List) -> tuple[Sequence, _List]:
        if os.path.isabs(written) or written.startswith("~"):
            hint = "write its path from the directory of this file, upwards too: ../base.yaml"
            raise _at(step, f"expected a relative path, found {written!r}", hint, "include")
        path = Path(os.path.normpath(at.base / written))
        real = os.path.realpath(path)
        if real in at.way:
            chain = (*at.way[at.way.index(real) :], real)
            told = " includes ".join(shown_place(Path(one)) for one in chain)
            hint = "take one `include` of them out"
            raise _at(step, f"lists include each other: {told}", hint, "include")
        if not os.path.lexists(path):
            hint = f"it is looked for in {shown_place(path.parent)}"
            raise _at(step, f"there is no list {written!r}", hint, "include")
        self.files.append(path)
        roots = (one for one in (self.directory, at.root) if is_beneath(path.parent, one))
        root = next(roots, path.parent)
        return steps_of(load_yaml(path)), _List(path.parent, root, way=(*at.way, real))

    def _at_url(self, what: UrlSpec, step: LoadedStep, at: _List) -> tuple[Sequence, _List]:
        place = str(follow(step.node, ("include",))[0].place)
        content = self.fetch(what.url, what.sha256, place)
        self.pinned.append(what.sha256)
        node = parse_yaml(decoded_text(content, what.url), what.url)
        # Its digest stands in it nowhere: no list at a URL can include itself.
        return steps_of(node), _List(at.base, at.root, is_remote=True, way=at.way)


def _at(step: LoadedStep, message: str, hint: str, *path: str) -> RecipeError:
    return follow(step.node, path)[0].error(message, hint)


def _check_parameters(step: LoadedStep, node: Sequence) -> None:
    """Refuse parameters that a list neither has in its `vars` nor asks for in a template.

    Raises:
        RecipeError: with the nearest name.
    """
    given = step.node.get("with")
    if not isinstance(given, Mapping) or not given.items:
        return
    known: dict[str, None] = {}
    for item in node.items:
        values = item.get("vars") if isinstance(item, Mapping) else None
        if isinstance(values, Mapping):
            known |= dict.fromkeys(name.text for name, _ in values.items)
    for _, leaf in leaves(node):
        known |= dict.fromkeys(variables_in(leaf))
    facts = (PACKAGES_VARIABLE, "os", "arch")
    for name, _ in given.items:
        if name.text in facts:
            raise name.error(f"{name.text!r} is known in every list", "leave it out")
        if name.text not in known:
            names = [one for one in known if one not in facts]
            hint = f"{guess(name.text, names)}it has {', '.join(names) or 'no parameters'}"
            raise name.error(f"the list has no parameter {name.text!r}", hint)


def of_this_machine(item: Mapping) -> tuple[Node, str] | None:
    """What of a step a list at a URL may not say, and in words what that does: it may neither name
    what lies on this machine, nor run with a network or secrets, as others write it."""
    names = "name what lies on this machine"
    for key, value in item.items:
        match key.text, value:
            case "sync", _:
                return key, names
            case "include", Scalar():
                return value, names
            case "package", Mapping() if (path := value.get("path")) is not None:
                return path, names
            case "from", Mapping():
                for form, where in value.items:
                    on_net = isinstance(where, Scalar) and re.match("(?:docker|oci)://", where.text)
                    if form.text != "suite" and not on_net:
                        return where, names
            case "run", Mapping():
                network, secrets = value.get("network"), value.get("secrets")
                is_off = isinstance(network, Scalar) and network.text.lower() in _OFF
                if network is not None and not is_off:
                    return network, "run anything with a network"
                if secrets is not None:
                    return secrets, "take secrets"
            case _:
                pass
    return None


_OFF = ("no", "off", "false")


def _platforms(node: Sequence) -> tuple[Platform, ...]:
    """What the `platforms` step names, each once; none where there is no such step.

    Raises:
        RecipeError: there are two such steps.
        UsageError: one cannot be built for, or is there twice.
    """
    steps = [one for one in node.items if isinstance(one, Mapping) and one.get("platforms")]
    if not steps:
        return ()
    if len(steps) > 1:
        message = "a second `platforms` step"
        raise steps[1].error(message, f"name all of them in the first, at {steps[0].place}")
    found: dict[Platform, str] = {}
    listed = steps[0].get("platforms")
    places = [str(one.place) for one in listed.items] if isinstance(listed, Sequence) else []
    for name, place in zip(parse(steps[0], StepSpec).platforms or (), places, strict=True):
        one = named_platform(name, place=place)
        if one in found:
            message = f"the platform {one} is there twice"
            raise RecipeError(message, place=place, hint=f"leave out one; first {found[one]!r}")
        found[one] = name
    return tuple(found)


def _platform_variables(platforms: tuple[Platform, ...], wanted: str, file: str) -> dict[str, str]:
    """`os` and `arch`, where the steps or the caller say what is built for.

    Raises:
        UsageError: the caller wants a platform that the container is not for.
    """
    one = named_platform(wanted, place="--platform") if wanted else next(iter(platforms), None)
    if platforms and one not in platforms:
        hint = f"its platforms: {', '.join(map(str, platforms))}"
        raise UsageError(f"the container is not for {one}", place=file, hint=hint)
    return {} if one is None else {"os": one.os, "arch": one.arch}


def check_settled(first: Container, second: Container) -> None:
    """Refuse a container whose choice of packages depends on the packages that were chosen.

    Raises:
        RecipeError: a `package`, `use` or `toolchain` step, or the platform, is another one now.
    """
    message = f"{PACKAGES_VARIABLE!r} is not known before the packages are chosen"
    for before, after in zip(first.steps, second.steps, strict=False):
        was, now = before.spec, after.spec
        if was.include != now.include:
            raise after.node.error(message, "`include` cannot ask for it; write the name out")
        before_it = (was.package, was.use, was.toolchain, was.from_)
        if before_it != (now.package, now.use, now.toolchain, now.from_):
            hint = "`package`, `use`, `toolchain` and `from` steps cannot ask for it; write it out"
            raise after.node.error(message, hint)
    for name in ("os", "arch"):
        if first.variables.get(name) != second.variables.get(name):
            raise _where_set(name, second.steps, second.steps[0].node).error(
                message, f"write the {name} out"
            )


def _render_vars(item: Mapping, variables: Variables) -> Mapping:
    """The step with its templates filled in; each variable may use those before it."""
    values = item.get("vars")
    if not isinstance(values, Mapping):
        rendered = render_tree(item, variables)
        return rendered if isinstance(rendered, Mapping) else item
    known = dict(variables)
    for key, value in values.items:
        done = render_tree(value, known)
        values = values.having(key.text, done)
        if isinstance(done, Scalar):
            known[key.text] = done.text
    return item.having("vars", values)


def _check_names(container: Container, node: Sequence) -> None:
    for name in ("name", "version"):
        if not container.variables.get(name, "").strip():
            hint = "begin with: `- vars: {author: me, name: web, version: 1.0}`"
            raise node.error(f"the container has no {name}", hint)
    for name in NAMES:
        value = container.variables.get(name, "")
        # A name may be a path, as App Container discovery has it: example.com/httpd.
        parts = value.split("/") if name == "name" else [value]
        if (len(parts) > 1 and not all(parts)) or any(map(_unfit_for_a_file, parts)):
            raise _where_set(name, container.steps, node).error(
                f"{name} {value!r} cannot be part of a file name",
                f"leave out blanks, {'empty parts' if name == 'name' else 'slashes'} and a "
                f"leading dot or dash; take at most {LONGEST_NAME} bytes",
            )
    author = container.variables.get("author", "")
    if "/" in author or not author.isprintable():
        where = _where_set("author", container.steps, node)
        raise where.error(f"author {author!r} cannot be shown", "write one line without slashes")


def _unfit_for_a_file(value: str) -> bool:
    is_shown = value.isprintable() and not any(map(str.isspace, value))
    is_hidden, is_long = value.startswith((".", "-")), len(value.encode()) > LONGEST_NAME
    return "/" in value or is_hidden or is_long or not is_shown


def _where_set(name: str, steps: tuple[LoadedStep, ...], otherwise: Node) -> Node:
    """Where a variable, which is set, got the value that it has; the command line is nowhere."""
    found = (step.variable(name) for step in reversed(steps) if not step.through)
    return next((node for node in found if node is not None), otherwise)
