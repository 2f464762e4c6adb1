"""What the steps of a container say of its images, each with its place: of two that say the same
thing the later one counts. `explain` and `plan` show it, `running` makes the app of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from buildit.model.listed import ListedStep, Saying
from buildit.model.words import yaml_word
from buildit.plan.evaluate import written_at
from buildit.recipe.container import (
    AtomPackageStep,
    Container,
    DebianPackageStep,
    EmbeddedPackageStep,
    FromSpec,
    LoadedStep,
    RunSpec,
    StepSpec,
    SyncSpec,
    UrlSpec,
)
from buildit.recipe.schema import spelled
from buildit.recipe.testspec import ImageTestSpec

APP_KEYS = {"exec": "entrypoint", "working_directory": "workdir", "arguments": "cmd"}
"""How small steps call what `app` calls otherwise; what is not here has one name."""


_SMALL = (
    *("user", "entrypoint", "cmd", "workdir", "ports", "volumes", "stop-signal"),
    *("shell", "onbuild"),
)
"""The steps that say one thing of the app, each by its key."""


@dataclass(frozen=True, slots=True)
class SaidPart:
    """One thing that a step says: `key` as the small steps call it, `name` of a variable or path,
    where there are many of the key. `path` is where the step has it."""

    key: str
    name: str
    value: object
    step: LoadedStep
    path: tuple[str | int, ...]

    @property
    def place(self) -> str:
        return written_at(self.step.node, *self.path)


def said_parts(steps: Iterable[LoadedStep]) -> Iterator[SaidPart]:
    """All that steps say of images, in their order."""
    for step in steps:
        spec = step.spec
        if spec.app is not None:
            for name in (one for one in type(spec.app).model_fields if _is_said(spec, one)):
                path, value = ("app", spelled(name)), getattr(spec.app, name)
                if name == "environment":
                    yield from _each("env", value, step, path)
                else:
                    yield SaidPart(APP_KEYS.get(name, spelled(name)), "", value, step, path)
        for key in ("env", "labels", "annotations"):
            yield from _each(key, getattr(spec, key) or {}, step, (key,))
        for key in _SMALL:
            value = getattr(spec, key.replace("-", "_"))
            if value is not None:
                yield SaidPart(key, step.part_of, value, step, (key,))
        if spec.healthcheck is not None:
            yield SaidPart("healthcheck", "", spec.healthcheck, step, ("healthcheck",))
        for key in ("directories", "symlinks", "texts", "modes"):
            for number, one in enumerate(getattr(spec, key) or ()):
                yield SaidPart(key, one.path.rstrip("/"), one, step, (key, number))


def _is_said(spec: StepSpec, name: str) -> bool:
    return spec.app is not None and name in spec.app.model_fields_set


def _each(
    key: str, values: Mapping[str, str], step: LoadedStep, path: tuple[str, ...]
) -> Iterator[SaidPart]:
    return (SaidPart(key, name, value, step, (*path, name)) for name, value in values.items())


def later_wins(parts: Iterable[SaidPart]) -> dict[tuple[str, str], SaidPart]:
    """What counts of each thing, by key and name, in the order in which each was said first."""
    found: dict[tuple[str, str], SaidPart] = {}
    for part in parts:
        found[part.key, part.name] = part
    return found


def sayings(container: Container) -> tuple[Saying, ...]:
    """What the steps say of the images, in words, things together that are the same one."""
    parts = [*said_parts(container.steps)]
    counts = later_wins(parts)
    found: dict[tuple[str, str], list[Saying]] = {key: [] for key in counts}
    for part in parts:
        key = part.key, part.name
        later = "" if counts[key] is part else counts[key].place
        shown = f"{part.key} {part.name}".rstrip()
        found[key].append(Saying(shown, _value(part.value), part.place, later))
    return tuple(one for same in found.values() for one in same)


def _value(value: object) -> str:
    if isinstance(value, str):
        return yaml_word(value)
    if value is True:
        return "yes"
    if isinstance(value, tuple):
        return f"[{', '.join(yaml_word(str(one)) for one in value)}]"
    fields = getattr(type(value), "model_fields", {})
    texts = {name: getattr(value, name) for name in fields if name != "path"}
    return ", ".join(
        f"{spelled(name)} {f'0{one:03o}' if name == 'mode' else _value(one)}"
        for name, one in texts.items()
        if one is not None and one is not False
    )


# -- the steps as a list


def listed_steps(container: Container) -> tuple[ListedStep, ...]:
    """All steps, flat, but for `include`, in whose place those of its list stand."""
    return tuple(
        ListedStep(step.kind, _text(step.spec), step.place)
        for step in container.steps
        if step.spec.include is None and (step.spec.database is None or step.spec.database.host)
    )


def _synced(spec: SyncSpec) -> str:
    src = spec.src if isinstance(spec.src, str) else " ".join(spec.src)
    if spec.from_ is None:
        return src
    ((kind, text),) = spec.from_.model_dump(exclude_unset=True).items()
    return f"{src} of {spelled(kind)} {text}"


def _text(spec: StepSpec) -> str:
    """What a step is about, in a few words."""
    match spec:
        case StepSpec(package=EmbeddedPackageStep(path=text)):
            return text
        case StepSpec(package=AtomPackageStep(atom=text)):
            return text
        case StepSpec(package=DebianPackageStep(debian=text)):
            return f"debian:{text}"
        case StepSpec(sync=sync) if sync is not None:
            return f"{_synced(sync)} to {sync.dest}{' (template)' if sync.template else ''}"
        case StepSpec(image=image) if image is not None:
            return image.type
        case StepSpec(app=app) if app is not None:
            return " ".join(app.exec or ())
        case StepSpec(init=init) if init is not None:
            return ", ".join(init.services)
        case StepSpec(from_=FromSpec() as base):
            return " ".join(map(str, base.model_dump(exclude_unset=True).values()))
        case StepSpec(run=run) if run is not None:
            return f"{command_said(run)}{' (with a network)' if run.network else ''}"
        case StepSpec(test=test) if test is not None:
            return test_said(test)
        case StepSpec(include=UrlSpec(url=url)):
            return url
        case _:
            (name,) = spec.model_fields_set - {"with_"}
            return _few(getattr(spec, name))


_LONGEST = 60
"""Characters of a command that people see."""


def command_said(run: RunSpec) -> str:
    """How people know a command: its words, of `sh -c` the text alone, or the first line of its
    script."""
    words = run.exec or (run.script or "").strip().splitlines()[:1]
    if len(words) == 3 and words[0].endswith("sh") and words[1] == "-c":
        words = words[2:]
    return _cut(" ".join(" ".join(words).split()))


def test_said(spec: ImageTestSpec) -> str:
    """How people know a test."""
    parts = [f"/{one.path.strip('/')}" for one in spec.files]
    if spec.http is not None:
        port = "" if spec.http.port is None else f":{spec.http.port}"
        parts = [f"GET {port}{spec.http.path}", *parts]
    lines = " ".join(spec.exec or ()) or (spec.script or "").strip()
    parts = [*lines.splitlines()[:1], *parts]
    return _cut(", ".join(parts))


def _cut(said: str) -> str:
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"


def _few(value: object) -> str:
    """A value of a step by the names in it."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return ", ".join(value)
    if isinstance(value, tuple):
        return ", ".join(str(getattr(one, "path", one)) for one in value)
    return ""
