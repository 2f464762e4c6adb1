"""What runs in an image: the steps that say it, as the one app, or as services under an init."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from buildit.commands.accounts import Ids
from buildit.commands.bases import inheriting
from buildit.commands.choose import wrong_at
from buildit.commands.said import APP_KEYS, SaidPart, command_said, said_parts
from buildit.errors import RecipeError
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
    has_init = any(step.spec.init is not None for step in container.steps)
    late = is_late(container)
    own_init = has_init and not _is_in_front(container)
    parts = [part for part in said_parts(container.steps) if part.key in _OF_AN_APP]
    app = _app_said(parts, apps, base, own_init=own_init, late=late)
    if has_init:
        app = replace(app, **_INIT)
    if app.argv:
        for part in (one for one in parts if one.key == "cmd" and not (late or app.exec)):
            _program(app.argv, part.step, *part.path, 0)
        return app
    below = base is not None and base.app != Inherited().app
    if below or (parts and late) or any(one.value == () for one in parts):
        return app
    if apps:
        hint = "write the program: exec: [/usr/bin/x]"
        raise wrong_at(apps[0], "the app has no `exec`", hint, "app")
    if parts:
        message = f"`{parts[0].key}` and all that is said of an app need an app"
        raise wrong_at(parts[0].step, message, "add a step: `- entrypoint: [/usr/bin/x]`")
    return None


def _is_in_front(container: Container) -> bool:
    """Whether all services of a container are parts of other steps (a database): then its app, if
    it has one, is a service behind them."""
    return all(step.part_of for step in container.steps if step.spec.init is not None)


def _app_said(
    parts: list[SaidPart],
    apps: list[LoadedStep],
    base: Inherited | None,
    *,
    own_init: bool,
    late: bool,
) -> App:
    """The app that the steps say, and a base where they say nothing; beside an init of the
    container's own, what that leaves open.

    Raises:
        RecipeError: something is malformed, or is the init's.
    """
    app = App(())
    named = (apps[0].spec.app.environment if apps and apps[0].spec.app else {}).keys()
    environment = dict.fromkeys(named, "")  # in this order, whichever step says their values
    further = [part for part in parts if part.step.part_of]  # beside what others say, not over it
    environment |= {one.name: str(one.value) for one in further if one.key == "env"}
    for part in (one for one in parts if not one.step.part_of):
        if own_init:
            _no_init(part)
        if part.key == "env":
            environment[part.name] = str(part.value)
        elif not (own_init and part.key in _OF_AN_INIT):
            app = _with(app, part, late=late)
    app = replace(app, environment=tuple(environment.items()))
    if base is not None:
        said = _OF_AN_INIT if own_init else {part.key for part in parts if part not in further}
        app = inheriting(app, base.app, {_field(key) for key in said})
    for part in further:
        more = _with(App(()), part, late=late)
        ports, volumes = (*app.ports, *more.ports), (*app.volumes, *more.volumes)
        app = replace(app, ports=ports, volumes=volumes, health=app.health or more.health)
    return app


_INIT: dict[str, Any] = {
    "exec": (INIT,),
    "arguments": (),
    "user": "0",
    "group": None,
    "own_group": None,
    "working_directory": "/",
    "stop_signal": "SIGTERM",
}
"""What an image with services runs, and how."""

_OF_AN_INIT = ("entrypoint", "cmd", "user", "group", "workdir", "stop-signal")
"""What an init decides, and no step beside it."""

_OF_AN_APP = (*_OF_AN_INIT, "env", "ports", "volumes", "healthcheck", "shell", "onbuild")

_FIELDS = {small: field for field, small in APP_KEYS.items()}


def _field(key: str) -> str:
    """How `App` calls what a small step says."""
    return _FIELDS.get(key, key.replace("-", "_"))


def app_so_far(steps: Sequence[LoadedStep], base: Inherited | None) -> App:
    """What steps and the base below them say of environment, user and working directory."""
    parts = [part for part in said_parts(steps) if part.key in _SURROUNDINGS]
    environment = {part.name: str(part.value) for part in parts if part.key == "env"}
    app = App(())
    for part in parts:
        app = _with(app, part, late=True)
    app = replace(app, environment=tuple(environment.items()))
    below = Inherited() if base is None else base
    return inheriting(app, below.app, {_field(part.key) for part in parts})


_SURROUNDINGS = ("env", "user", "group", "workdir")


def is_late(container: Container) -> bool:
    """Whether a base or a command makes programs and accounts, which are known once they ran."""
    specs = [step.spec for step in container.steps]
    copied = any(one.sync is not None and isinstance(one.sync.src, tuple) for one in specs)
    return copied or any(one.from_ is not None or one.run is not None for one in specs)


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
            name, colon, group = text.partition(":")  # as a Dockerfile's USER has both
            return replace(app, user=name, group=group if colon else app.group)
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
    """What looks like a habit of Dockerfiles that no image format honours, and that nothing runs
    where it is so."""
    if not app.argv:
        yield "nothing says what runs: only OCI images hold what is said of it"
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


_NO_APP = App(())


def run_of_step(spec: RunSpec, step: LoadedStep, app: App = _NO_APP) -> RunStep:
    """A `run` step of the plan; `app` is what holds where it stands.

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
    made = RunStep(*words, network=spec.network)
    if not spec.as_app:
        return made
    own = replace(made, as_app=True, user=app.user, group=app.group)
    variables = {**dict(app.environment), **spec.env}
    return replace(own, environment=tuple(variables.items()), directory=app.working_directory)


# -- services under an init


def init_of(container: Container, ids: Ids, base: Inherited | None = None) -> Init | None:
    """The services of the container, in the order in which they start; None where it has none.

    `base` is as of `app_of`.

    Raises:
        RecipeError: a service is wrong or there twice; it names what.
    """
    steps = [step for step in container.steps if step.spec.init is not None]
    places: dict[str, LoadedStep] = {}
    made: list[Service] = []
    for step in steps:
        for name, spec in ({} if step.spec.init is None else step.spec.init.services).items():
            if places.setdefault(name, step) is not step:
                message, hint = f"the service {name!r} is there twice", "give one another name"
                raise wrong_at(step, message, f"{hint}; the first is at {places[name].place}")
            made.append(_service(name, spec, step, ids))
    if not made:
        return None
    if _is_in_front(container):
        made += _app_behind(container, base, ids, [one.name for one in made])
    for one in made:
        for number, other in enumerate(one.after):
            if other not in {each.name for each in made}:
                message = f"no service is called {other!r}"
                hint = hint_of(other, sorted(places))
                written = ("init", "services", one.name, "after", number)
                raise wrong_at(places[one.name], message, hint, *written)
    ordered, circle = in_order(tuple(made))
    if circle:
        message = f"services wait for each other: {' after '.join(circle)}"
        at = ("init", "services", circle[0], "after")
        raise wrong_at(places[circle[0]], message, "take one `after` of them out", *at)
    return Init(ordered, steps[0].place)


def _app_behind(
    container: Container, base: Inherited | None, ids: Ids, names: list[str]
) -> Iterator[Service]:
    """The app of a container as a service behind those of these names, where it has one.

    Raises:
        RecipeError: it runs as nobody that is known.
    """
    apps = [step for step in container.steps if step.spec.app is not None]
    parts = [part for part in said_parts(container.steps) if part.key in _OF_AN_APP]
    app = _app_said(parts, apps, base, own_init=False, late=is_late(container))
    if not app.argv:
        return
    said = next((part for part in parts if part.key == "entrypoint"), None)
    user = app.user or "0"
    owner = user if app.group is None else f"{user}:{app.group}"
    found = ids.owner(owner)
    if found is None and not is_late(container):
        message = f"the app runs as {owner!r}, whom no package and no `users` step declares"
        raise RecipeError(message, place=places_of(container).get("user"), hint=ids.names())
    uid, gid = found or (0, 0)
    yield Service(
        name="app",
        exec=app.argv,
        after=tuple(names),
        uid=uid,
        gid=gid,
        working_directory=app.working_directory,
        stop_signal=app.stop_signal or "SIGTERM",
        ends_all=True,
        owner="" if found is not None else owner,
        place=container.file if said is None else said.place,
    )


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
        ends_on=tuple(dict.fromkeys(spec.stop_on)),
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
