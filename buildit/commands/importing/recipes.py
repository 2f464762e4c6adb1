"""`import FILE` of a Dockerfile, a Flockport recipe or a manifest: its steps as a container.yaml
beside it, and each stage that it needs as a container of its own beside that.

Without `--output` container.yaml goes where the recipe lies, as that is where the files are which
it copies; with it, all files of the directory go along.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.commands.choose import facts_now
from buildit.commands.importing.directory import ImportedContainer, check_free, planned_container
from buildit.commands.run import Options
from buildit.errors import RecipeError, StoreError, UsageError
from buildit.events import Reporter
from buildit.model.image import App, Inherited
from buildit.model.platform import build_platform
from buildit.model.recipe import CONTAINER_FILE, DOCKERFILE, FLOCKPORT, RecipeOptions, kind_of_name
from buildit.recipe.ways.dockerfile.parse import parse_dockerfile
from buildit.recipe.ways.find import FORMATS_OF, NO_VERSION, Foreign, Translated, reader_of
from buildit.recipe.ways.imagenames import suite_of
from buildit.recipe.ways.nodes import map_node
from buildit.recipe.ways.read import BesideRecipe
from buildit.recipe.ways.written import OwnLine, Writing, translated_lines, written_container
from buildit.recipe.yaml.node import Mapping, Node, Scalar, Sequence, read_text, shown_place

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""That of Debian's images, which is what engines take where an image says none."""
_DEBIAN = Inherited(App((), environment=(("PATH", _PATH),), user=""))
_MOST_WRONG = 50
"""Lines of one recipe that are left out as comments; what has more is no such recipe."""
_KEPT_OUT = (".git", "out", "buildit.lock", CONTAINER_FILE)


@dataclass(frozen=True, slots=True)
class _Stage:
    """A stage that is written: what it is asked for by ("" for the one that is wanted), its steps,
    and the lines that gave none."""

    name: str
    steps: Sequence
    lines: tuple[OwnLine, ...]
    remarks: tuple[str, ...]
    is_debian: bool


def import_recipe(
    path: Path, options: Options, images: tuple[str, ...], output: Path | None, report: Reporter
) -> ImportedContainer:
    """The container.yaml of a recipe, and containers for the stages that it needs.

    Raises:
        RecipeError: it is no such recipe, or copies what is not there.
        UsageError: what it would write is there.
        StoreError: it cannot be written.
    """
    reading = _Reading(path, kind_of_name(path.name) or DOCKERFILE)
    stages = reading.stages()
    context = path.parent
    target = output or context
    name = os.path.basename(os.path.realpath(target))
    placed = {one.name: f"../{name}-{one.name}" for one in stages if one.name}
    directories = {
        one.name: Path(os.path.normpath(target / placed[one.name])) for one in stages[1:]
    }
    for directory in directories.values():
        check_free(directory)
    if output is not None:
        check_free(output)
    elif os.path.lexists(context / CONTAINER_FILE):
        message = f"{shown_place(context / CONTAINER_FILE)} is there already"
        hint = "name another directory with --output, or move it away: nothing is written over"
        raise UsageError(message, place=shown_place(path), hint=hint)
    formats = images or FORMATS_OF[reading.kind]
    texts = {
        one.name: written_container(one.steps, reading.writing(one, name, placed, formats))
        for one in stages
    }
    with tempfile.TemporaryDirectory(prefix=".buildit-asked-", dir=_made(target)) as made:
        ready: list[tuple[Path, Path]] = []
        for one in stages:
            directory = Path(made) / (one.name or "-")
            directory.mkdir()
            if one.name or output is not None:
                _bring(context, directory, _sources(one.steps) if one.name else ["."])
            (directory / CONTAINER_FILE).write_text(texts[one.name], "utf-8")
            ready.append((directory, directories.get(one.name, target)))
        _place(ready, in_place=output is None)
    remarks = [text for one in stages for text in one.remarks]
    for _, directory in reversed(ready):
        remarks += planned_container(directory, options, report)
    files = tuple(shown_place(directory / CONTAINER_FILE) for _, directory in ready)
    return ImportedContainer(target, files, tuple(dict.fromkeys(remarks)))


def _made(target: Path) -> Path:
    above = target.absolute().parent
    try:
        above.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"the directory cannot be made: {error.strerror}"
        raise StoreError(message, place=str(above), hint="name another one") from error
    return above


def _place(ready: list[tuple[Path, Path]], *, in_place: bool) -> None:
    """Move all to where it belongs, or nothing: the container itself last.

    Raises:
        StoreError: something is there meanwhile, or cannot be written.
    """
    done: list[Path] = []
    try:
        for made, directory in reversed(ready):
            if in_place and directory == ready[0][1]:
                os.link(made / CONTAINER_FILE, directory / CONTAINER_FILE)  # never over another
                done.append(directory / CONTAINER_FILE)
            else:
                os.rename(made, directory.absolute())
                done.append(directory)
    except OSError as error:
        for one in done:
            shutil.rmtree(one) if one.is_dir() else one.unlink()
        message = f"it cannot be written: {error.strerror}"
        hint = "name another directory with --output"
        raise StoreError(message, place=str(ready[0][1]), hint=hint) from error


def _bring(context: Path, directory: Path, sources: list[str]) -> None:
    """Copy what a container takes of the directory of its recipe.

    Raises:
        RecipeError: it is not there.
    """
    for source in sources:
        relative = os.path.normpath(source.lstrip("/") or ".")
        found = [context] if relative == "." else sorted(context.glob(relative))
        if not found or relative.startswith(".."):
            hint = "it is looked for beside the recipe"
            raise RecipeError(f"there is no {source}", place=shown_place(context), hint=hint)
        for path in found:
            target = directory / path.relative_to(context)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir() and not path.is_symlink():
                left = shutil.ignore_patterns(*_KEPT_OUT, ".buildit-asked-*")
                shutil.copytree(path, target, symlinks=True, ignore=left, dirs_exist_ok=True)
            else:
                shutil.copy2(path, target, follow_symlinks=False)


def _sources(steps: Sequence) -> list[str]:
    """What `sync` steps take of the container's own directory."""
    found: list[str] = []
    for one in _named(steps, "sync"):
        source = one.get("src")
        if one.get("from") is None and source is not None:
            items = source.items if isinstance(source, Sequence) else (source,)
            texts = [item.text for item in items if isinstance(item, Scalar)]
            found += [text for text in texts if "://" not in text]
    return found


def _named(steps: Sequence, key: str) -> Iterator[Mapping]:
    for step in steps.items:
        value = step.get(key) if isinstance(step, Mapping) else None
        if isinstance(value, Mapping):
            yield value


# -- reading


class _Reading:
    """One recipe that is read, stage by stage, as often as lines of it are left out."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self.kind = path, kind
        self.file, self.place = path.name, shown_place(path)
        self.text = read_text(path, self.place)
        self.wrong: dict[int, OwnLine] = {}
        self.known: dict[str, _Stage] = {}

    def stages(self) -> tuple[_Stage, ...]:
        """The stage that is wanted and, behind it, those that it needs."""
        self.stage("")
        return tuple(self.known[name] for name in ["", *(n for n in self.known if n)])

    def stage(self, name: str) -> _Stage:
        """One stage, with those that it begins with or takes files of; read again for its base."""
        if name in self.known:
            return self.known[name]
        done = self.translated(name, None)
        base, is_debian = self.base_of(done)
        if done.pending and base is not None:
            done = self.translated(name, base)
        steps = _over_suite(done.steps) if self.kind == DOCKERFILE else done.steps
        unread = tuple(self.unread(name, done))
        told = (
            f"{self.place}:{one.line}: not taken over: {one.text.partition(chr(10))[0]} ({one.why})"
            for one in unread
            if one.why != _FILLED_IN
        )
        self.known[name] = _Stage(name, steps, unread, (*done.remarks, *told), is_debian)
        for other in _stages_of(steps):
            self.stage(other)
        return self.known[name]

    def base_of(self, done: Translated) -> tuple[Inherited | None, bool]:
        """What the base of a stage says, where that is known, and whether it is Debian's root."""
        for found in _named(done.steps, "from"):
            key, value = found.items[0]
            text = value.text if isinstance(value, Scalar) else ""
            if key.text == "suite" or (key.text == "oci" and _suite(text)):
                return _DEBIAN, True
            if key.text == "stage":
                below = self.stage(text)
                return _said_by(below.steps), below.is_debian
            return None, False
        return Inherited(), False

    def translated(self, name: str, base: Inherited | None) -> Translated:
        """The steps of a stage; a line that is refused becomes a comment.

        Raises:
            RecipeError: the recipe cannot be read without it.
        """
        while True:
            try:
                return reader_of(self.kind, self.place)(self.foreign(name, base))
            except RecipeError as error:
                line = self.line_of(error)
                if line is None or line in self.wrong or len(self.wrong) >= _MOST_WRONG:
                    raise
                self.leave_out(line, error)

    def line_of(self, error: RecipeError) -> int | None:
        """The line of an error that can be left out: none of a manifest, as it is one document, and
        no FROM."""
        file, _, rest = (error.place or "").partition(f"{self.place}:")
        number = rest.partition(":")[0]
        if file or not number.isdigit() or self.kind not in (DOCKERFILE, FLOCKPORT):
            return None
        text = self.text.split("\n")[int(number) - 1].strip()
        return None if not text or text.upper().startswith("FROM") else int(number)

    def leave_out(self, line: int, error: RecipeError) -> None:
        """Take a line, and those that it goes on in, out of the text."""
        lines = self.text.split("\n")
        end = line
        while end < len(lines) and lines[end - 1].rstrip().endswith("\\"):
            end += 1
        text = "\n".join(one.strip() for one in lines[line - 1 : end])
        why = error.message + (f"; {error.hint}" if error.hint else "")
        self.wrong[line] = OwnLine(line, text, why)
        lines[line - 1 : end] = [""] * (end - line + 1)
        self.text = "\n".join(lines)

    def foreign(self, name: str, base: Inherited | None) -> Foreign:
        here = build_platform(os.uname().machine)
        wanted = RecipeOptions(stage=name)
        facts = {**facts_now(), "os": here.os, "arch": here.arch}
        beside = BesideRecipe(self.path.parent)
        file, text = self.place, self.text
        return Foreign(file, self.file, text, wanted, here, here, base, beside.text, facts)

    def unread(self, name: str, done: Translated) -> Iterator[OwnLine]:
        """The lines of a stage that gave no step, and why."""
        there = translated_lines(done.steps)
        if not name:
            yield from self.wrong.values()
        if self.kind != DOCKERFILE:
            return
        found = parse_dockerfile(self.text, self.place)
        stage = next((one for one in found.stages if one.shown == name), found.stages[-1])
        for one in stage.instructions:
            if one.place.line not in there:
                why = _FILLED_IN if one.word == "ARG" else _NEEDS_BASE
                yield OwnLine(one.place.line, one.whole, why)

    def writing(
        self, stage: _Stage, name: str, placed: dict[str, str], formats: tuple[str, ...]
    ) -> Writing:
        """What the container.yaml of a stage is made of."""
        what = f", its stage {stage.name}" if stage.name else ""
        head = [f"What `buildit import {self.file}` wrote{what}."]
        head += _told_of_base(self.translated(stage.name, None).steps, self.kind)
        called = f"{name}-{stage.name}" if stage.name else name
        variables = {"name": called.lstrip(".-") or "container", "version": NO_VERSION}
        lines = tuple(sorted(stage.lines, key=lambda one: one.line))
        images = () if stage.name else formats
        return Writing(self.file, variables, lines, images, placed, stage.is_debian, tuple(head))


_FILLED_IN = "its value stands where it is used"
_NEEDS_BASE = "it needs what the base says, which is known where that can be had"


def _suite(name: str) -> str | None:
    """The suite in the place of the name of an image of Debian's: `debian:12`, `debian:12-slim`."""
    return suite_of(re.sub("^(?:[^/]+/)?library/", "", name).removesuffix("-slim"))


def _over_suite(steps: Sequence) -> Sequence:
    """The steps with Debian's own root in the place of an image of its name."""
    made: list[Node] = []
    for step in steps.items:
        value = step.get("from") if isinstance(step, Mapping) else None
        image = value.get("oci") if isinstance(value, Mapping) else None
        suite = _suite(image.text) if isinstance(image, Scalar) else None
        if isinstance(step, Mapping) and suite is not None:
            made.append(step.having("from", map_node(step.place, {"suite": suite})))
        else:
            made.append(step)
    return Sequence(tuple(made), steps.place)


def _told_of_base(steps: Sequence, kind: str) -> Iterator[str]:
    if kind != DOCKERFILE:
        return
    for found in _named(steps, "from"):
        image = found.get("oci")
        if isinstance(image, Scalar) and _suite(image.text):
            yield f"In the place of the image {image.text} stands Debian's own root, exact in the"
            yield "lock and without a registry; the image itself is: - from: {oci: NAME}"


def _stages_of(steps: Sequence) -> Iterator[str]:
    """The stages that steps begin with, or take files of."""

    def walk(node: Node) -> Iterator[str]:
        match node:
            case Mapping(items):
                for key, value in items:
                    stage = value.get("stage") if isinstance(value, Mapping) else None
                    if key.text == "from" and isinstance(stage, Scalar):
                        yield stage.text
                    yield from walk(value)
            case Sequence(items):
                for one in items:
                    yield from walk(one)
            case _:
                return

    yield from dict.fromkeys(walk(steps))


def _said_by(steps: Sequence) -> Inherited:
    """What the steps of a stage say of its start, for one that begins with it."""
    environment = dict(_DEBIAN.app.environment)
    for found in _named(steps, "env"):
        environment |= {key.text: one.text for key, one in found.items if isinstance(one, Scalar)}
    places = [step.get("workdir") for step in steps.items if isinstance(step, Mapping)]
    last = [one.text for one in places if isinstance(one, Scalar)]
    directory = last[-1] if last else "/"
    app = replace(_DEBIAN.app, environment=tuple(environment.items()), working_directory=directory)
    return Inherited(app)
