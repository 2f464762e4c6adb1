"""What runs in an image: the steps that say it, as the one app, or as services under an init."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from buildit.commands.accounts import Ids
from buildit.commands.bases import inheriting
from buildit.commands.choose import wrong_at
from buildit.commands.said import APP_KEYS, SaidPart, command_said, said_parts
from buildit.image.rules import signal_problems
from buildit.model.image import App, Health, Inherited, Port, Volume
from buildit.model.plan import RunStep
from buildit.model.services import INIT, Init, Ready, Service, in_order
from buildit.model.words import hint_of
from buildit.plan.evaluate import written_at
from buildit.recipe.container import (
    Container,
    HealthSpec,
    LoadedStep,
    ReadySpec,
    RunSpec,
    ServiceSpec,
)

_PORT = re.compile(r"(?:(?P<name>[a-z0-9-]+)=)?(?P<number>[0-9]{1,5})(?:/(?P<kind>tcp|udp|sctp))?")
_VOLUME = re.compile(r"(?:(?P<name>[a-z0-9-]+)=)?(?P<path>/[^:]*)(?P<ro>:ro)?")


def owner_of(
    text: str, step: LoadedStep, ids: Ids, *path: str | int, key: str = "owner"
) -> tuple[int, int]:
    """Numbers of the owner that a step names at a path, under a key.

    Raises:
        RecipeError: nobody is called so.
    """
    found = ids.owner(text)
    if found is None:
        message = f"no package and no `users` or `groups` step declares the {key} {text!r}"
        hint = f"declared: {ids.names()}; numbers do as well: 0:0"
        raise wrong_at(step, message, hint, *path, key)
    return found


def app_of(container: Container, base: Inherited | None = None) -> App | None:
    """The app, which is the init where the container has services; None where nothing says a
    program. Of what several steps say, the later counts. `base` is what an image below says, which
    holds where the container says nothing; then its program may be without a path.

    Raises:
        RecipeError: a port or volume is malformed, there are two apps, one has no program or is
            beside an init, or something is said of an app that there is none of.
    """
    apps = [step for step in container.steps if step.spec.app is not None]
    if len(apps) > 1:
        hint = f"keep that at {apps[0].place}; steps such as `entrypoint` and `ports` change it"
        raise wrong_at(apps[1], "a container has one app", hint)
    parts = [part for part in said_parts(container.steps) if part.key in _OF_AN_APP]
    has_init = any(step.spec.init is not None for step in container.steps)
    late = is_late(container)
    app = App((INIT,), stop_signal="SIGTERM") if has_init else App(())
    named = (apps[0].spec.app.environment if apps and apps[0].spec.app else {}).keys()
    environment = dict.fromkeys(named, "")  # in this order, whichever step says their values
    for part in parts:
        if has_init:
            _no_init(part)
        if part.key == "env":
            environment[part.name] = str(part.value)
        elif not (has_init and part.key in _OF_AN_INIT):
            app = _with(app, part, late=late)
    app = replace(app, environment=tuple(environment.items()))
    if base is not None:
        said = _OF_AN_INIT if has_init else {part.key for part in parts}
        app = inheriting(app, base.app, {_field(key) for key in said})
    if app.argv:
        for part in (one for one in parts if one.key == "cmd" and not (late or app.exec)):
            _program(app.argv, part.step, *part.path, 0)
        return app
    if (base is not None and base.app != Inherited().app) or any(one.value == () for one in parts):
        return app
    if apps:
        hint = "write the program: exec: [/usr/bin/x]"
        raise wrong_at(apps[0], "the app has no `exec`", hint, "app")
    if parts:
        message = f"`{parts[0].key}` and all that is said of an app need an app"
        raise wrong_at(parts[0].step, message, "add a step: `- entrypoint: [/usr/bin/x]`")
    return None


_OF_AN_INIT = ("entrypoint", "cmd", "user", "group", "workdir", "stop-signal")
"""What an init decides, and no step beside it."""

_OF_AN_APP = (*_OF_AN_INIT, "env", "ports", "volumes", "healthcheck", "shell", "onbuild")

_FIELDS = {small: field for field, small in APP_KEYS.items()}


def _field(key: str) -> str:
    """How `App` calls what a small step says."""
    return _FIELDS.get(key, key.replace("-", "_"))


def is_late(container: Container) -> bool:
    """Whether a base or a command makes programs and accounts, which are known once they ran."""
    return any(step.spec.from_ is not None or step.spec.run is not None for step in container.steps)


def _with(app: App, part: SaidPart, *, late: bool) -> App:
    """The app as one more thing that is said makes it."""
    step, at = part.step, part.path
    match part.key, part.value:
        case "entrypoint", tuple(words):
            return replace(app, exec=words if late or not words else _program(words, step, *at, 0))
        case "cmd", tuple(words):
            return replace(app, arguments=words)
        case "shell", tuple(words):
            return replace(app, interpreter=words)
        case "onbuild", tuple(words):
            return replace(app, onbuild=words)
        case "user", str(text):
            return replace(app, user=text)
        case "group", str(text):
            return replace(app, group=text)
        case "workdir", str(text):
            return replace(app, working_directory=text)
        case "stop-signal", str(text):
            return replace(app, stop_signal=text)
        case "ports", tuple(texts):
            return replace(app, ports=tuple(_port(one, part, n) for n, one in enumerate(texts)))
        case "volumes", tuple(texts):
            return replace(app, volumes=tuple(_volume(one, part, n) for n, one in enumerate(texts)))
        case "healthcheck", HealthSpec() as health:
            return replace(app, health=_health(health, step, *at, late=late))
        case _:
            return app


def _health(spec: HealthSpec, step: LoadedStep, *path: str | int, late: bool) -> Health:
    if (spec.exec is not None) + (spec.script is not None) + spec.none != 1:
        message = "a healthcheck is a program, a script or none"
        raise wrong_at(step, message, "write {exec: […]}, {script: …} or {none: yes}", *path)
    times = (spec.interval, spec.timeout, spec.retries, spec.start)
    if spec.script is not None:
        return Health(("/bin/sh", "-c", spec.script), *times, spec.script)
    words = spec.exec or ()
    return Health(words if late or spec.none else _program(words, step, *path, "exec", 0), *times)


def _no_init(part: SaidPart) -> None:
    """Refuse what an app says and an init does not leave open.

    Raises:
        RecipeError: both are there.
    """
    if part.key in _OF_AN_INIT and part.value not in (None, "0", "root", "/"):
        message = f"`{part.path[-1]}` is said beside `init`, which runs {INIT} as root"
        hint = "say it of the services, in `init`"
        raise wrong_at(part.step, message, hint, *part.path)


def places_of(container: Container) -> dict[str, str]:
    """Where the app's `user` and `group` were written, by those names."""
    parts = said_parts(container.steps)
    return {part.key: part.place for part in parts if part.key in ("user", "group")}


def app_remarks(app: App) -> Iterator[str]:
    """What looks like a habit of Dockerfiles that no image format honours."""
    for name, value in app.environment:
        if re.search(rf"\$(?:{{)?(?:{re.escape(name)}|PATH)\b", value):
            what = f"environment: {name} is {value!r} word for word, nothing fills in the variable"
            yield f"{what}; write its value out"


def _program(words: tuple[str, ...], step: LoadedStep, *path: str | int) -> tuple[str, ...]:
    """Raises RecipeError: the first word is not an absolute path."""
    if not words[0].startswith("/"):
        message = f"exec begins with {words[0]!r}, not with an absolute path"
        name = words[0].rpartition("/")[2] or "program"
        raise wrong_at(step, message, f"write where the program is: /usr/bin/{name}", *path)
    return words


def _port(text: str, part: SaidPart, number: int) -> Port:
    match = _PORT.fullmatch(text)
    if match is None or not 1 <= int(match["number"]) <= 65535:
        hint = "write 443, 443/tcp or https=443/tcp"
        raise wrong_at(part.step, f"not a port: {text!r}", hint, *part.path, number)
    return Port(int(match["number"]), match["kind"] or "tcp", match["name"])


def _volume(text: str, part: SaidPart, number: int) -> Volume:
    match = _VOLUME.fullmatch(text)
    if match is None:
        hint = "write /var/lib/x or data=/var/lib/x:ro"
        raise wrong_at(part.step, f"not a volume: {text!r}", hint, *part.path, number)
    return Volume(match["path"], match["name"], match["ro"] is not None)


# -- commands that run while the image is made


def run_of_step(spec: RunSpec, step: LoadedStep) -> RunStep:
    """A `run` step of the plan.

    Raises:
        RecipeError: it is neither a script nor a program.
    """
    if (spec.script is None) == (spec.exec is None):
        message = "`run` is a script or a program"
        raise wrong_at(step, message, "write {script: …} or {exec: […]}", "run")
    argv = ("/bin/sh", "-ec", spec.script or "") if spec.exec is None else spec.exec
    secrets = tuple(dict.fromkeys(spec.secrets))
    said = command_said(spec)
    environment = tuple(spec.env.items())
    words = argv, environment, spec.ids, said, step.place, secrets
    return RunStep(*words, network=spec.network)


# -- services under an init


def init_of(container: Container, ids: Ids) -> Init | None:
    """The services of the container, in the order in which they start; None where it has none.

    Raises:
        RecipeError: there are two `init` steps, or one is wrong; it names what.
    """
    found: Init | None = None
    for step in container.steps:
        if step.spec.init is None:
            continue
        if found is not None:
            raise wrong_at(step, "a container has one init", "list all services in one `init` step")
        specs = step.spec.init.services
        made = tuple(_service(name, spec, step, ids) for name, spec in specs.items())
        for one in made:
            for number, other in enumerate(one.after):
                if other not in specs:
                    message = f"no service is called {other!r}"
                    hint = hint_of(other, sorted(specs))
                    written = ("init", "services", one.name, "after", number)
                    raise wrong_at(step, message, hint, *written)
        ordered, circle = in_order(made)
        if circle:
            message = f"services wait for each other: {' after '.join(circle)}"
            at = ("init", "services", circle[0], "after")
            raise wrong_at(step, message, "take one `after` of them out", *at)
        found = Init(ordered, step.place)
    return found


def _service(name: str, spec: ServiceSpec, step: LoadedStep, ids: Ids) -> Service:
    at = ("init", "services", name)
    if spec.stop_signal is not None:
        for problem in signal_problems(spec.stop_signal):
            message = f"stop signal {problem}"
            raise wrong_at(step, message, "such as SIGTERM", *at, "stop-signal")
    uid, gid = (0, 0) if spec.user is None else owner_of(spec.user, step, ids, *at, key="user")
    return Service(
        name=name,
        exec=_program(spec.exec, step, *at, "exec", 0),
        after=tuple(dict.fromkeys(spec.after)),
        uid=uid,
        gid=gid,
        environment=tuple(spec.environment.items()),
        working_directory=spec.working_directory,
        stop_signal=spec.stop_signal or "SIGTERM",
        stop_timeout=spec.stop_timeout,
        ready=None if spec.ready is None else _ready(spec.ready, step, *at, "ready"),
        ends_all=spec.on_exit == "stop",
        place=written_at(step.node, *at),
    )


def _ready(spec: ReadySpec, step: LoadedStep, *at: str) -> Ready:
    if (spec.exec is None) == (spec.fd is None):
        message = "`ready` is a program or a file descriptor"
        raise wrong_at(step, message, "write {exec: […]} or {fd: 3}", *at)
    if spec.fd is not None and spec.fd < 3:
        raise wrong_at(step, "0, 1 and 2 are the service's own", "write 3 or more", *at, "fd")
    program = () if spec.exec is None else _program(spec.exec, step, *at, "exec", 0)
    return Ready(program, spec.fd, spec.timeout)
