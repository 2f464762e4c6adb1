"""What runs in an image: the steps that say it, as the one app, or as services under an init."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from buildit.commands.assemble import Ids
from buildit.commands.choose import wrong_at
from buildit.image.rules import signal_problems
from buildit.model.image import App, Health, Port, Volume
from buildit.model.services import INIT, Init, Ready, Service, in_order
from buildit.model.words import hint_of
from buildit.plan.evaluate import written_at
from buildit.recipe.container import AppSpec, Container, LoadedStep, ReadySpec, ServiceSpec

_PORT = re.compile(r"(?:(?P<name>[a-z0-9-]+)=)?(?P<number>[0-9]{1,5})(?:/(?P<kind>tcp|udp|sctp))?")
_VOLUME = re.compile(r"(?:(?P<name>[a-z0-9-]+)=)?(?P<path>/[^:]*)(?P<ro>:ro)?")


def owner_of(
    text: str, step: LoadedStep, ids: Ids, *path: str | int, key: str = "owner"
) -> tuple[int, int]:
    """Numbers of the owner that a step names at a path, under a key."""
    user, _, group = text.partition(":")
    uid, own_gid = ids.user(user)
    gid = ids.group(group) if group else own_gid
    if uid is None or gid is None:
        message = f"no package and no `users` or `groups` step declares the {key} {text!r}"
        hint = f"declared: {ids.names()}; numbers do as well: 0:0"
        raise wrong_at(step, message, hint, *path, key)
    return uid, gid


def app_of(container: Container) -> App | None:
    """The app, which is the init where the container has services; None where it has neither an
    `app` nor an `init` step.

    Raises:
        RecipeError: a port or volume is malformed, there are two apps, one has no program or is
            beside an init, or `env` and `user` have no app to belong to.
    """
    has_init = any(step.spec.init is not None for step in container.steps)
    init = App((INIT,), stop_signal="SIGTERM") if has_init else None
    app: App | None = None
    for step in container.steps:
        if step.spec.app is not None:
            if app is not None:
                raise wrong_at(step, "a container has one app", "keep one `app` step")
            app = _app(step.spec.app, step, init)
    app = app or init
    for step in container.steps:
        spec = step.spec
        if spec.app is not None or (spec.env is None and not spec.user and not spec.healthcheck):
            continue
        if app is None:
            hint = "add an `app` step: {exec: …}"
            raise wrong_at(step, "`env`, `user` and `healthcheck` need an app", hint)
        if spec.env is not None:
            app = replace(app, environment=tuple({**dict(app.environment), **spec.env}.items()))
        if spec.user is not None:
            _no_init(init, step, "user", spec.user)
            app = replace(app, user=spec.user)
        if (health := spec.healthcheck) is not None:
            program = _program(health.exec, step, "healthcheck", "exec", 0)
            times = (health.interval, health.timeout, health.retries, health.start)
            app = replace(app, health=Health(program, *times))
    return app


def _no_init(init: App | None, step: LoadedStep, *said: object) -> None:
    """Refuse what an app says and an init does not leave open, by key and value.

    Raises:
        RecipeError: both are there.
    """
    *path, value = said
    if init is not None and value not in (None, "0", "root", "/"):
        message = f"`{path[-1]}` is said beside `init`, which runs {INIT} as root"
        hint = "say it of the services, in `init`"
        raise wrong_at(step, message, hint, *map(str, path))


def places_of(container: Container) -> dict[str, str]:
    """Where the app's `user` and `group` were written, by those names."""
    app: dict[str, str] = {}
    user: dict[str, str] = {}
    for step in container.steps:
        if step.spec.app is not None:
            app = {key: written_at(step.node, "app", key) for key in ("user", "group")}
        if step.spec.user is not None:
            user = {"user": written_at(step.node, "user")}
    return app | user


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


def _app(spec: AppSpec, step: LoadedStep, init: App | None) -> App:
    for key in ("exec", "user", "group", "working_directory", "stop_signal"):
        _no_init(init, step, "app", key.replace("_", "-"), getattr(spec, key))
    if init is not None:
        program, stop_signal = init.exec, init.stop_signal
    elif spec.exec is None:
        raise wrong_at(
            step, "the app has no `exec`", "write the program: exec: [/usr/bin/x]", "app"
        )
    else:
        program, stop_signal = _program(spec.exec, step, "app", "exec", 0), spec.stop_signal
    return App(
        exec=program,
        user=spec.user,
        group=spec.group,
        environment=tuple(spec.environment.items()),
        working_directory=spec.working_directory,
        ports=tuple(_port(text, step, n) for n, text in enumerate(spec.ports)),
        volumes=tuple(_volume(text, step, n) for n, text in enumerate(spec.volumes)),
        stop_signal=stop_signal,
    )


def _port(text: str, step: LoadedStep, number: int) -> Port:
    match = _PORT.fullmatch(text)
    if match is None or not 1 <= int(match["number"]) <= 65535:
        hint = "write 443, 443/tcp or https=443/tcp"
        raise wrong_at(step, f"not a port: {text!r}", hint, "app", "ports", number)
    return Port(int(match["number"]), match["kind"] or "tcp", match["name"])


def _volume(text: str, step: LoadedStep, number: int) -> Volume:
    match = _VOLUME.fullmatch(text)
    if match is None:
        hint = "write /var/lib/x or data=/var/lib/x:ro"
        raise wrong_at(step, f"not a volume: {text!r}", hint, "app", "volumes", number)
    return Volume(match["path"], match["name"], match["ro"] is not None)


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
