"""A Dockerfile as the steps of container.yaml: one stage of it, instruction by instruction. Pure.

    read_dockerfile(foreign) -> Translated       the stage that is asked for, the last without one
    stage_steps(reading, stage, base) -> steps   one of them

| instruction | steps |
|---|---|
| FROM | `from: {stage: NAME}`, `{oci: …}`, `{container: ./…}`, then ONBUILD of the base |
| RUN | `run: {exec: […], env: {arguments}, as-app: yes, network: yes, mounts: […]}` |
| COPY, ADD | `sync`, `texts`: see `copying` |
| ENV, LABEL, USER, STOPSIGNAL | `env`, `labels`, `user`, `stop-signal` |
| WORKDIR | `workdir`, and `directories: [{path, keep: yes, owner}]` makes what is missing |
| EXPOSE, VOLUME, ONBUILD | `ports`, `volumes`, `onbuild`: all of the stage, at its end |
| ENTRYPOINT, CMD, SHELL | `entrypoint`, `cmd`, `shell`; ENTRYPOINT empties a base's `cmd` |
| HEALTHCHECK | `healthcheck: {exec: …}`, `{script: …}` in the shell form, `{none: yes}` |
| MAINTAINER | `vars: {author: …}` |
| ARG | nothing of its own |
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from collections.abc import Mapping as Map
from dataclasses import dataclass, field

from buildit.errors import RecipeError
from buildit.model.image import Inherited
from buildit.model.platform import Platform
from buildit.recipe.leaf import LeafError, parse_duration
from buildit.recipe.ways.dockerfile.copying import Copying, copy_steps
from buildit.recipe.ways.dockerfile.ignored import ignore_names, ignore_patterns
from buildit.recipe.ways.dockerfile.mounts import RunMount, mounts_of
from buildit.recipe.ways.dockerfile.parse import (
    Dockerfile,
    Instruction,
    Stage,
    heredoc_word,
    json_form,
    parse_dockerfile,
    parse_trigger,
)
from buildit.recipe.ways.dockerfile.scope import (
    USUAL_PATH,
    Scope,
    check_arguments,
    outer_scope,
    pairs_of,
    platform_arguments,
)
from buildit.recipe.ways.dockerfile.stages import (
    SCRATCH,
    Source,
    base_of,
    check_platform,
    files_from,
    like_a_stage,
    needed_stages,
    target_stage,
)
from buildit.recipe.ways.find import Foreign, Translated
from buildit.recipe.ways.imagenames import image_source
from buildit.recipe.ways.nodes import list_node, map_node, step_node, text_node
from buildit.recipe.yaml.node import Mapping, Node, Place, Sequence

DEFAULT_SHELL = ("/bin/sh", "-c")


@dataclass(frozen=True, slots=True)
class StageReading:
    """A file with what the command line and its directory say: `given` are values of arguments,
    `images` what names of images stand for, `ignore` what stays out of the context."""

    found: Dockerfile
    given: Map[str, str]
    images: Map[str, str]
    ignore: Sequence | None
    outer: Scope
    platform: Platform


def read_dockerfile(foreign: Foreign) -> Translated:
    """The steps of the stage that is asked for.

    Raises:
        RecipeError: the file is wrong, with the line.
        UsageError: it has no such stage, or no ARG of a name that is given.
    """
    found = parse_dockerfile(foreign.text, foreign.file)
    stage = target_stage(found, foreign.wanted.stage)
    reading = _reading(foreign, found, stage)
    needed_stages(found, stage, reading.outer)
    done = stage_steps(reading, stage, foreign.base)
    triggers = done.triggers
    is_whole = not done.is_pending
    if is_whole:
        check_arguments(found, reading.given, triggers)
    remarks = (*reading.outer.remarks, *done.scope.remarks) if is_whole else ()
    steps = Sequence(tuple(done.steps), stage.begin.place)
    return Translated(steps, done.is_pending, tuple(dict.fromkeys(remarks)))


def _reading(foreign: Foreign, found: Dockerfile, stage: Stage) -> StageReading:
    here, target = foreign.here or foreign.target, foreign.target or foreign.here
    if here is None or target is None:
        message = "a Dockerfile is read for a platform, and none is known"
        raise RecipeError(message, place=foreign.file, hint="add --platform linux/amd64")
    given = dict(foreign.wanted.values)
    platform = platform_arguments(target, here, stage.name)
    outer = outer_scope(found, given, platform)
    ignore = None
    for name in ignore_names(foreign.name):
        text = foreign.beside(name)
        if text is not None:
            patterns = ignore_patterns(text, name)
            ignore = list_node(Place(name, 1, 1), patterns) if patterns else None
            break
    return StageReading(found, given, dict(foreign.wanted.images), ignore, outer, target)


def stage_steps(reading: StageReading, stage: Stage, base: Inherited | None) -> StageSteps:
    """The steps of a stage; `base` is what the image says that it begins with, None where that is
    not known yet.

    Raises:
        RecipeError: an instruction is wrong, with its line.
    """
    check_platform(stage, reading.outer, str(reading.platform))
    source = base_of(reading.found, stage, reading.outer)
    is_scratch = source.stage is None and source.image.lower() == SCRATCH
    known = Inherited() if is_scratch else base
    scope = Scope(reading.found.escape, reading.given, is_known=known is not None)
    done = StageSteps(reading, stage, scope)
    if not is_scratch:
        done.add(stage.begin, "from", done.source(stage.begin, source))
    if known is not None:
        scope.environment |= dict(known.app.environment)
        done.user = "" if known.app.user in ("", "0", "root") else known.app.user
        if "PATH" not in scope.environment:
            scope.environment["PATH"] = USUAL_PATH
            done.add(stage.begin, "env", map_node(stage.begin.place, {"PATH": USUAL_PATH}))
        done.directory = known.app.working_directory or "/"
        done.shell = known.shell or DEFAULT_SHELL
        done.triggers = [parse_trigger(text, stage.begin.place) for text in known.onbuild]
    for one in (*done.triggers, *stage.instructions):
        done.read(one)
    done.finish()
    return done


@dataclass(slots=True)
class StageSteps:
    """The steps of a stage, as far as it was read, and what holds there."""

    reading: StageReading
    stage: Stage
    scope: Scope
    steps: list[Mapping] = field(default_factory=list)
    directory: str = "/"
    user: str = ""
    shell: tuple[str, ...] = DEFAULT_SHELL
    ports: dict[str, Instruction] = field(default_factory=dict)
    volumes: dict[str, Instruction] = field(default_factory=dict)
    kept: list[tuple[str, Instruction]] = field(default_factory=list)
    triggers: list[Instruction] = field(default_factory=list)
    has_command: bool = False

    @property
    def is_pending(self) -> bool:
        """Whether it is to be read again when the base is known."""
        return not self.scope.is_known

    def add(self, one: Instruction, key: str, value: Node) -> None:
        self.steps.append(step_node(one.place, key, value))

    def read(self, one: Instruction) -> None:
        """Take one instruction; one that may be another thing once the base is known waits."""
        self.scope.lacks, before = False, len(self.steps)
        try:
            _HOW[one.word](self, one)
        except RecipeError:
            if not self.is_pending or "$" not in one.whole:
                raise
        if self.scope.lacks:
            del self.steps[before:]

    def finish(self) -> None:
        """Add what is said by several instructions in one step, each with its place."""
        said = {"ports": self.ports.items(), "volumes": self.volumes.items(), "onbuild": self.kept}
        for key, pairs in said.items():
            nodes = tuple(text_node(one.place, text) for text, one in pairs)
            if nodes:
                self.steps.append(step_node(nodes[0].place, key, Sequence(nodes, nodes[0].place)))

    def source(self, one: Instruction, source: Source) -> Mapping:
        """The `from` of a stage or an image."""
        if source.stage is not None:
            return map_node(one.place, {"stage": source.stage.shown})
        key, text = image_source(source.image, self.reading.images, one.error)
        return map_node(one.place, {key: text})

    def files(self, one: Instruction, name: str) -> Mapping:
        """The `from` of what COPY --from or a mount names."""
        source = files_from(self.reading.found, one, name)
        if source.stage is self.stage:
            raise one.error(f"the stage {name!r} takes files of itself", "name an earlier stage")
        told = like_a_stage(self.reading.found, name) if source.stage is None else ""
        if told and name not in self.reading.images:
            remark = f"{one.place}: no stage is called {name!r}, so it is an image; {told}"
            self.scope.remarks.append(remark)
        return self.source(one, source)

    def argv(self, one: Instruction, text: str) -> tuple[str, ...]:
        """A command in its JSON form, or for the shell."""
        listed = json_form(one, text)
        return listed if listed is not None else (*self.shell, text)


# -- instructions, one function each


def _run(at: StageSteps, one: Instruction) -> None:
    if one.listed == () or not one.rest:
        raise one.error("RUN has no command", "write RUN COMMAND")
    mounts = mounts_of(one, lambda text: at.scope.text(one, text), at.directory)
    values: dict[str, str | Node] = {}
    found = [_mount_node(at, one, mount) for mount in mounts]
    command, script = _command(at, one)
    if script is not None:
        found.append(script)
    values["exec"] = list_node(one.place, command)
    if environment := at.scope.of_commands():
        values["env"] = map_node(one.place, dict(environment))
    values["as-app"] = "yes"
    if _has_network(at, one):
        values["network"] = "yes"
    if found:
        values["mounts"] = Sequence(tuple(found), one.place)
    at.add(one, "run", map_node(one.place, values))


def _command(at: StageSteps, one: Instruction) -> tuple[tuple[str, ...], Mapping | None]:
    """The command of a RUN; where a heredoc says its own interpreter, the mount with its text."""
    if not one.heredocs:
        return at.argv(one, one.rest), None
    first = one.heredocs[0]
    if heredoc_word(one.rest) is None:  # a shell's: it reads them itself
        texts = (f"\n{each.content}{each.name}" for each in one.heredocs)
        return (*at.shell, "".join((one.rest, *texts))), None
    if not first.content.startswith("#!"):
        return (*at.shell, first.content), None
    path = f"/dev/pipes/{first.name}"
    said = {"type": "text", "dest": path, "content": first.content, "mode": "0755"}
    return (*at.shell, path), map_node(one.place, said)


def _has_network(at: StageSteps, one: Instruction) -> bool:
    if (one.flag("security") or "sandbox") != "sandbox":
        raise one.error("--security=insecure is refused: every step runs in the sandbox")
    if one.flag("device"):
        raise one.error("a step has no devices", "leave --device out")
    network = at.scope.text(one, one.flag("network") or "default")
    if network not in ("default", "none"):
        hint = "leave it out: the step has a network of its own; or --network=none"
        raise one.error(f"--network={network[:20]} cannot be had in the sandbox", hint)
    return network == "default"


def _mount_node(at: StageSteps, one: Instruction, mount: RunMount) -> Mapping:
    values: dict[str, str | Node] = {"type": mount.kind, "dest": mount.target}
    if not mount.target:
        del values["dest"]
    if mount.origin:
        values["from"] = at.files(one, mount.origin)
    if mount.kind in ("bind", "cache") and (mount.source or mount.kind == "bind"):
        values["src"] = mount.source or "."
    if mount.kind == "bind" and not mount.origin and at.reading.ignore is not None:
        values["ignore"] = at.reading.ignore
    if mount.kind in ("cache", "secret"):
        values["id"] = mount.id
    if mount.kind == "cache" and mount.sharing != "shared":
        values["sharing"] = mount.sharing
    if mount.is_writable != (mount.kind in ("cache", "tmpfs")) and mount.kind != "secret":
        values["writable"] = "yes" if mount.is_writable else "no"
    if mount.kind == "secret" and mount.is_required:
        values["required"] = "yes"
    said = {"size": mount.size, "mode": mount.mode, "uid": mount.uid, "gid": mount.gid}
    values |= {key: value for key, value in said.items() if value}
    if mount.variable:
        values["env"] = mount.variable
    return map_node(one.place, values)


def _copy(at: StageSteps, one: Instruction) -> None:
    name = one.flag("from")
    origin = at.files(one, name) if name else None
    copying = Copying(
        one,
        lambda text: at.scope.text(one, text),
        lambda text: at.scope.expanded(one, text, quotes=False).text,
        at.scope.escape,
        at.directory,
        origin,
        at.reading.ignore,
    )
    at.steps += copy_steps(copying)


def _arg(at: StageSteps, one: Instruction) -> None:
    at.scope.argue(one, at.reading.outer.arguments)


def _env(at: StageSteps, one: Instruction) -> None:
    at.add(one, "env", map_node(one.place, dict(at.scope.set_environment(one))))


def _label(at: StageSteps, one: Instruction) -> None:
    pairs = pairs_of(one, at.scope.escape)
    values = {at.scope.text(one, name): at.scope.text(one, value) for name, value in pairs}
    at.add(one, "labels", map_node(one.place, dict(values)))


def _workdir(at: StageSteps, one: Instruction) -> None:
    text = at.scope.text(one, _needed(one))
    if not text:
        raise one.error("WORKDIR is empty", "does a variable lack a value?")
    path = posixpath.normpath(posixpath.join("/", at.directory, text))
    at.directory = "/" + path.lstrip("/")
    at.add(one, "workdir", text_node(one.place, at.directory))
    if at.directory != "/":
        owner = {"owner": at.user} if at.user else {}
        made = map_node(one.place, {"path": at.directory, "keep": "yes", **owner})
        at.add(one, "directories", Sequence((made,), one.place))


def _user(at: StageSteps, one: Instruction) -> None:
    text = at.scope.text(one, _needed(one))
    if not text or text.count(":") > 1 or not all(text.split(":")):
        raise one.error(f"USER {text[:40]} is no user", "write USER NAME, or USER NAME:GROUP")
    at.user = "" if text in ("0", "root", "0:0", "root:root") else text
    at.add(one, "user", text_node(one.place, text))


MOST_PORTS = 1_000
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/([A-Za-z]+))?")


def _expose(at: StageSteps, one: Instruction) -> None:
    for word in at.scope.expanded(one, _needed(one)).words:
        match = _PORT.fullmatch(word)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        protocol = (match[3] if match and match[3] else "tcp").lower()
        if not 0 < first <= last <= 65535 or protocol not in ("tcp", "udp", "sctp"):
            hint = "write EXPOSE 8080, 53/udp or 8000-8010"
            raise one.error(f"{word[:40]!r} is no port", hint)
        for port in range(first, last + 1):
            at.ports.setdefault(f"{port}/{protocol}", one)
        if len(at.ports) > MOST_PORTS:
            raise one.error(f"the stage has more than {MOST_PORTS} ports", "leave some out")


def _volume(at: StageSteps, one: Instruction) -> None:
    listed = one.listed
    if listed == () or not one.rest:
        raise one.error("VOLUME names nothing", "write VOLUME /PATH")
    for word in listed if listed is not None else one.rest.split():
        text = at.scope.text(one, word)
        if not text.startswith("/"):
            raise one.error(f"the volume {text[:60]!r} is no absolute path", f"write /{text[:60]}")
        path = posixpath.normpath("/" + text.lstrip("/"))
        at.volumes.setdefault(path, one)


def _entrypoint(at: StageSteps, one: Instruction) -> None:
    command = at.argv(one, one.rest) if one.rest else ()
    at.add(one, "entrypoint", list_node(one.place, command))
    if not at.has_command:
        at.add(one, "cmd", list_node(one.place, ()))


def _cmd(at: StageSteps, one: Instruction) -> None:
    at.has_command = True
    command = at.argv(one, one.rest) if one.rest else ()
    at.add(one, "cmd", list_node(one.place, command))


def _shell(at: StageSteps, one: Instruction) -> None:
    listed = one.listed
    if not listed:
        hint = 'write SHELL ["/bin/bash", "-c"]'
        raise one.error("SHELL takes a list in JSON, with the program first", hint)
    at.shell = listed
    at.add(one, "shell", list_node(one.place, listed))


def _stopsignal(at: StageSteps, one: Instruction) -> None:
    text = at.scope.text(one, _needed(one))
    at.add(one, "stop-signal", text_node(one.place, text))


_TIMES = {"interval": "interval", "timeout": "timeout", "start-period": "start"}
_GO_TIME = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:h|m|s|ms|us|µs|ns))+|0")


def _healthcheck(at: StageSteps, one: Instruction) -> None:
    kind, *more = one.rest.split(None, 1) or [""]
    rest = more[0] if more else ""
    if kind.upper() == "NONE" and not rest:
        at.add(one, "healthcheck", map_node(one.place, {"none": "yes"}))
        return
    if kind.upper() != "CMD" or not rest or json_form(one, rest) == ():
        hint = "write HEALTHCHECK CMD COMMAND, or HEALTHCHECK NONE"
        raise one.error(f"HEALTHCHECK {kind[:20]} is none", hint)
    listed = json_form(one, rest)
    values: dict[str, str | Node] = {}
    if listed is None:
        values["script"] = rest
    else:
        values["exec"] = list_node(one.place, listed)
    for flag, key in _TIMES.items():
        if (text := one.flag(flag)) and (time := _time(one, flag, text)):
            values[key] = time
    if (retries := one.flag("retries")) is not None:
        if not re.fullmatch(r"[0-9]{1,9}", retries):
            raise one.error(f"--retries={retries[:20]} is no number", "write --retries=3")
        if int(retries):
            values["retries"] = retries
    if one.flag("start-interval"):
        remark = f"{one.place}: --start-interval is left out: no image of OCI can say it"
        at.scope.remarks.append(remark)
    at.add(one, "healthcheck", map_node(one.place, values))


def _time(one: Instruction, flag: str, text: str) -> str:
    """A duration of Go's in seconds; empty for none."""
    if text == "0":
        return ""
    try:
        if not _GO_TIME.fullmatch(text) or re.fullmatch(r"[0-9]+", text):
            raise LeafError("")
        return f"{parse_duration(text)}s"
    except LeafError as error:
        hint = f"write whole seconds, minutes or hours: --{flag}=30s"
        raise one.error(f"--{flag}={text[:20]} cannot be kept", hint) from error


def _onbuild(at: StageSteps, one: Instruction) -> None:
    text = re.sub(r"^\s*ONBUILD\s+", "", one.whole, flags=re.IGNORECASE)
    if not one.rest:
        raise one.error("ONBUILD has no instruction", "write ONBUILD COPY . /app")
    parse_trigger(text, one.place, at.scope.escape)
    at.kept.append((text, one))


def _maintainer(at: StageSteps, one: Instruction) -> None:
    author = map_node(one.place, {"author": _needed(one)})
    at.add(one, "vars", author)


def _needed(one: Instruction) -> str:
    """The rest of an instruction that must have one."""
    if not one.rest:
        raise one.error(f"{one.word} says nothing", f"write {one.word} and what it is")
    return one.rest


_HOW: dict[str, Callable[[StageSteps, Instruction], None]] = {
    "ADD": _copy,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
