"""A templated manifest as steps: `language`, `install`, `script` and the phases around them
(FORMATS 4.2), as travis.yml has them.

The text is a template as a whole: rendered first, over `--set` and a few facts, then read as YAML.
`language` is the base, each command of `install` a `run` step of its own, `script` one test, on a
branch of the finished image that is thrown away, as its commands build on each other. Pure.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from buildit.errors import RecipeError
from buildit.model.words import guess
from buildit.recipe.template.render import Value, Variables
from buildit.recipe.ways.aptlines import command_step
from buildit.recipe.ways.find import Foreign, Translated
from buildit.recipe.ways.imagenames import from_steps, is_suite
from buildit.recipe.ways.nodes import list_node, map_node, step_node
from buildit.recipe.ways.rendered import names_wanted, rendered_document, rendered_text
from buildit.recipe.yaml import node as nodes
from buildit.recipe.yaml.node import Node, Scalar
from buildit.recipe.yaml.read import parse_yaml

MOST_MANIFESTS = 100
"""How many manifests one may include, one inside of the other or not."""

MANIFEST_PHASES = ("before_install", "install", "before_script", "script")
MANIFEST_KEYS = ("language", "env", "files", *MANIFEST_PHASES, "include")
"""What a manifest may say."""

_PASSED_OVER = ("branches", "cache", "git", "notifications", "sudo", "version")
"""Keys of travis.yml that mean nothing where one builds oneself; they are told."""

_NO_MORE = "nothing runs after the tests: "
_REFUSED: Mapping[str, str] = {
    "after_success": f"{_NO_MORE}write it into what calls buildit",
    "after_failure": f"{_NO_MORE}write it into what calls buildit",
    "after_script": f"{_NO_MORE}write it into what calls buildit",
    "before_deploy": f"{_NO_MORE}publish with `buildit push`",
    "deploy": f"{_NO_MORE}publish with `buildit push`",
    "after_deploy": f"{_NO_MORE}publish with `buildit push`",
    "before_cache": "steps are cached by what they see: leave it out",
    "services": "a service is a container beside it: write a stack.yaml, or a database step",
    "matrix": "one manifest is one image: build it several times, with --set",
    "jobs": "one manifest is one image: build it several times, with --set",
    "stages": "one manifest is one image: build it several times, with --set",
    "addons": "write what they install as commands of `install`",
    "dist": "`language` names the base: debian:12",
    "os": "name the platform with --platform",
    "arch": "name the platform with --platform",
    "image": "`language` names the base: debian:12",
}
"""Keys of travis.yml that mean something which a build here has not, and what to write instead."""


@dataclass(frozen=True, slots=True)
class _Command:
    """A command of a phase, where it is written."""

    text: str
    node: Scalar


@dataclass(slots=True)
class _Manifests:
    """All that a manifest and those that it includes say. `way` are the files on the way to the one
    that is read, `read` all of them; `asked` are the variables that they ask for, but for what one
    gives another."""

    foreign: Foreign
    asked: set[str] = field(default_factory=set)
    way: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    environment: dict[str, Scalar] = field(default_factory=dict)
    files: list[tuple[Scalar, Scalar]] = field(default_factory=list)
    phases: dict[str, list[_Command]] = field(
        default_factory=lambda: {phase: [] for phase in MANIFEST_PHASES}
    )
    remarks: list[str] = field(default_factory=list)


def read_manifest(foreign: Foreign) -> Translated:
    """The steps of a templated manifest.

    Raises:
        RecipeError: it is wrong, renders to something else than a manifest, or manifests include
            each other.
        UsageError: the command line asks for what a manifest has not.
    """
    foreign.refuse_stage("a manifest")
    told = {**foreign.facts, **foreign.given()}
    names = {name: _given(name, text) for name, text in told.items()}
    manifests = _Manifests(foreign)
    language = _read(manifests, foreign.text, foreign.name, names, {})
    if language is None:
        place = f"{foreign.file}:1:1"
        hint = "name the base that it begins with: `language: debian:12`"
        raise RecipeError("the manifest has no `language`", place=place, hint=hint)
    foreign.refuse_unused(manifests.asked, "the template")
    steps = nodes.Sequence(tuple(_steps(manifests, language)), language.place)
    facts = {name: _as_text(value) for name, value in names.items() if name in manifests.asked}
    return Translated(steps, remarks=tuple(manifests.remarks), facts=facts)


def _given(name: str, text: str) -> Value:
    """The value of `--set`: a text, or a list of texts where it begins with a bracket.

    Raises:
        RecipeError: it is no list.
    """
    if not text.startswith("["):
        return text
    found = parse_yaml(text, f"--set {name}")
    if not isinstance(found, nodes.Sequence) or not all(isinstance(i, Scalar) for i in found.items):
        hint = f"write it so: --set '{name}=[git, make]'"
        raise RecipeError("expected a list of texts", place=f"--set {name}", hint=hint)
    return [one.text for one in found.items if isinstance(one, Scalar)]


def _as_text(value: Value) -> str:
    """A value as `--set` takes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# -- reading


def _read(
    manifests: _Manifests, text: str, name: str, names: Variables, further: Variables
) -> Scalar | None:
    """Read one manifest, those that it includes before what it says itself; `further` is what it is
    given by who includes it. Returns its base.

    Raises:
        RecipeError: as `read_manifest`.
    """
    manifests.way.append(name)
    manifests.read.append(name)
    file = manifests.foreign.beside_it(name)
    manifests.asked |= names_wanted(text, file) - further.keys()
    rendered = rendered_text(text, file, {**names, **further})
    document = rendered_document(rendered)
    if not isinstance(document, nodes.Mapping):
        message = f"expected a manifest, a map of `language` and `install`, found {_kind(document)}"
        hint = "write `language: debian:12`, and what follows"
        raise RecipeError(message, place=str(document.place), hint=hint, details=rendered.told(1))
    for key, _ in document.items:
        _check_key(key, manifests)
    language, include = document.get("language"), document.get("include")
    own = None
    if language is not None:
        own = _text_of(language, "the name of a base", "language: debian:12")
    if include is not None:
        own = _include(manifests, include, name, {**names, **further}, own)
    for key, value in document.items:
        if key.text == "env":
            manifests.environment |= dict(_environment(value))
        elif key.text == "files":
            manifests.files += _files_of(value)
        elif key.text in MANIFEST_PHASES:
            manifests.phases[key.text] += _commands(value, key.text)
    manifests.way.pop()
    return own


def _check_key(key: Scalar, manifests: _Manifests) -> None:
    if key.text in MANIFEST_KEYS:
        return
    if key.text in _PASSED_OVER:
        told = f"{key.place.file}:{key.place.line}: `{key.text}` means nothing here"
        manifests.remarks.append(told)
        return
    if (reason := _REFUSED.get(key.text)) is not None:
        raise key.error(f"`{key.text}` is nothing that a build here has", reason)
    hint = f"{guess(key.text, MANIFEST_KEYS)}a manifest has {', '.join(MANIFEST_KEYS)}"
    raise key.error(f"unknown key {key.text!r}", hint)


def _text_of(value: Node, what: str, form: str) -> Scalar:
    if not isinstance(value, Scalar) or not value.text.strip():
        found = "nothing" if isinstance(value, Scalar) else _kind(value)
        raise value.error(f"expected {what}, found {found}", f"write `{form}`")
    return value


def _kind(value: Node) -> str:
    return (
        "a text"
        if isinstance(value, Scalar)
        else ("a list" if isinstance(value, nodes.Sequence) else "a map")
    )


def _commands(value: Node, phase: str) -> Iterator[_Command]:
    """The commands of a phase: a text, or a list of texts."""
    for one in value.items if isinstance(value, nodes.Sequence) else (value,):
        if not isinstance(one, Scalar):
            hint = "put a command that has a colon and a blank, or begins with [ or {, into quotes"
            raise one.error(f"expected a command of `{phase}`, found {_kind(one)}", hint)
        if one.text.strip():
            yield _Command(one.text.strip(), one)


def _environment(value: Node) -> Iterator[tuple[str, Scalar]]:
    """The variables of `env`: a map, `K=V K=V` as a text or a list of one, or `global` of such."""
    match value:
        case nodes.Mapping(items):
            shared = value.get("global")
            if shared is not None:
                others = [key for key, _ in items if key.text != "global"]
                if others:
                    hint = "one manifest is one image: write all of them into `global`"
                    raise others[0].error(f"`env` has {others[0].text!r} beside `global`", hint)
                entries = shared.items if isinstance(shared, nodes.Sequence) else (shared,)
                for entry in entries:
                    yield from _environment(entry)
                return
            for key, one in items:
                if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key.text):
                    raise key.error(f"{key.text!r} cannot be the name of a variable")
                if key.text == "secure":
                    hint = "give a secret to a `run` step of a container.yaml: `secrets: [id]`"
                    raise key.error("an encrypted variable is travis's own", hint)
                if not isinstance(one, Scalar):
                    raise one.error(f"expected the value of {key.text}, found {_kind(one)}")
                yield key.text, one
        case nodes.Sequence(items):
            if len(items) > 1:
                message = "several entries of `env` are several builds to travis"
                hint = "write all variables of one image as a map: `env: {A: 1, B: 2}`"
                raise items[1].error(message, hint)
            for one in items:
                yield from _environment(one)
        case Scalar():
            yield from _assignments(value)


def _assignments(value: Scalar) -> Iterator[tuple[str, Scalar]]:
    try:
        words = shlex.split(value.text)
    except ValueError as error:
        raise value.error(f"`env` cannot be read: {error}", 'write `K=V K2="a b"`') from error
    for word in words:
        name, sign, text = word.partition("=")
        if not sign or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise value.error(
                f"expected NAME=VALUE, found {word!r}", 'write `env: {NAME: "value"}`'
            )
        yield name, Scalar(text, value.place, rendered=True)


def _files_of(value: Node) -> Iterator[tuple[Scalar, Scalar]]:
    if not isinstance(value, nodes.Mapping):
        hint = "write `files: {./src: /usr/src/app}`"
        raise value.error(f"expected what goes where, found {_kind(value)}", hint)
    for source, dest in value.items:
        yield source, _text_of(dest, "where it goes", "files: {./src: /usr/src/app}")


# -- others


def _include(
    manifests: _Manifests, value: Node, name: str, names: Variables, own: Scalar | None
) -> Scalar | None:
    """Read what a manifest includes: paths beside it, or `{path: …, with: {…}}`. Returns its base:
    its `own`, else the one that they agree on."""
    found: dict[str, Scalar] = {}
    for one in value.items if isinstance(value, nodes.Sequence) else (value,):
        path, further = _included(one)
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path.text))
        if target in manifests.way:
            chain = (*manifests.way[manifests.way.index(target) :], target)
            message = f"manifests include each other: {' includes '.join(chain)}"
            raise path.error(message, "take one `include` of them out")
        if len(manifests.read) >= MOST_MANIFESTS:
            raise path.error(f"more than {MOST_MANIFESTS} manifests are included")
        try:
            text = manifests.foreign.beside(target)
        except RecipeError as error:
            if f"{target}:" in (error.place or ""):  # of that file itself
                raise
            raise path.error(error.message, error.hint) from error
        if text is None:
            raise path.error(
                f"there is no manifest {path.text!r}", f"it is looked for beside {name}"
            )
        try:
            language = _read(manifests, text, target, names, further)
        except RecipeError as error:
            if error.place != str(path.place):
                error.details = (*error.details, f"included at {path.place}")
            raise
        if language is not None:
            found[language.text] = language
        if own is None and len(found) > 1:
            first, second = found.values()
            message = f"two bases are included: {first.text!r} ({first.place}) and {second.text!r}"
            raise second.error(message, "say in the outer manifest which: `language: …`")
    return own or next(iter(found.values()), None)


def _included(value: Node) -> tuple[Scalar, dict[str, Value]]:
    """The path of a manifest, and what it is given."""
    form = "include: common.manifest.yaml"
    further: dict[str, Value] = {}
    if not isinstance(value, nodes.Mapping):
        path = _text_of(value, "the path of a manifest", form)
    else:
        unknown = next((key for key, _ in value.items if key.text not in ("path", "with")), None)
        if unknown is not None:
            raise unknown.error(f"unknown key {unknown.text!r}", "an include has `path` and `with`")
        written = value.get("path")
        if written is None:
            raise value.error("the include has no `path`", "write `{path: …, with: {name: value}}`")
        path = _text_of(written, "the path of a manifest", form)
        values = value.get("with")
        for key, one in values.items if isinstance(values, nodes.Mapping) else ():
            further[key.text] = _plain(one)
        if values is not None and not isinstance(values, nodes.Mapping):
            raise values.error(f"expected names and values, found {_kind(values)}")
    if posixpath.isabs(path.text) or path.text.startswith("~"):
        hint = "write its path from the directory of this file: common.manifest.yaml"
        raise path.error(f"expected a relative path, found {path.text!r}", hint)
    return path, further


def _plain(value: Node) -> Value:
    match value:
        case Scalar(text):
            return text
        case nodes.Sequence(items):
            return [_plain(one) for one in items]
        case nodes.Mapping(items):
            return {key.text: _plain(one) for key, one in items}


# -- steps


_LASTS = re.compile(r"(?:cd|export|unset|umask|set|ulimit|source|\.)\s+[^;&|\n]*")
"""A command that changes nothing but its own shell."""


def _steps(manifests: _Manifests, language: Scalar) -> Iterator[Node]:
    images = dict(manifests.foreign.wanted.images)
    yield from from_steps(language.place, language.text.strip(), images, language.error)
    suite = is_suite(language.text.strip(), images)
    environment = manifests.environment
    known = {name: value.text for name, value in environment.items()}
    for name, value in environment.items():
        yield _step(value, "env", {name: value.text})
    for source, dest in manifests.files:
        files = list_node(source.place, (source.text,))
        yield _step(source, "sync", {"src": files, "dest": dest.text})
    for phase in ("before_install", "install"):
        for command in manifests.phases[phase]:
            place = command.node.place
            if _LASTS.fullmatch(command.text):
                word = command.text.split()[0]
                told = f"{place.file}:{place.line}: `{word}` holds for its own command alone: "
                manifests.remarks.append(f"{told}join them with &&, or write them in one text")
            script = with_sudo(command.text) if suite else command.text
            yield command_step(place, script, known, over_suite=suite)
    tests = [*manifests.phases["before_script"], *manifests.phases["script"]]
    if manifests.phases["script"]:
        script = _script_of(tests)
        first = manifests.phases["script"][0].node
        yield _step(first, "test", {"script": script, "timeout": "1h"})
    elif tests:
        message = "`before_script` prepares for tests, and there is no `script`"
        raise tests[0].node.error(message, "write what is to be tested under `script:`")


def _step(at: Scalar, key: str, values: Mapping[str, str | Node]) -> Node:
    return step_node(at.place, key, map_node(at.place, {**values}))


_SUDO = 'sudo() { while [ "${1#-}" != "$1" ]; do shift; done; env "$@"; }\n'
"""What stands for sudo where there is none: who runs the commands is root already."""


def with_sudo(script: str) -> str:
    """A script that runs where no sudo is."""
    return f"{_SUDO}{script}" if re.search(r"(?<![\w./-])sudo\s", script) else script


def _script_of(commands: Sequence[_Command]) -> str:
    """The script of a test: each of several commands after one that says which it is."""
    if len(commands) == 1:
        return f"{commands[0].text}\n"
    firsts = [one.text.split("\n")[0] for one in commands]
    shown = (f"printf '%s\\n' {shlex.quote(f'$ {first}')} >&2\n" for first in firsts)
    texts = (f"{one.text}\n" for one in commands)
    title = f"# {'; '.join(firsts)}\n"
    return title + "".join(part for pair in zip(shown, texts, strict=True) for part in pair)
