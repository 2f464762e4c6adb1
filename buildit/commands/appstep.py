"""The steps `app`, `env` and `user` of a container as one app, in the terms of no format. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from buildit.errors import RecipeError
from buildit.model.image import App, Health, Port, Volume
from buildit.plan.evaluate import written_at
from buildit.recipe.container import AppSpec, Container, HealthSpec, LoadedStep

_PORT = re.compile(
    r"(?:(?P<name>[a-z0-9-]+)=)?(?P<number>[0-9]{1,5})(?:/(?P<protocol>tcp|udp|sctp))?"
)
_VOLUME = re.compile(r"(?:(?P<name>[a-z0-9-]+)=)?(?P<path>/[^:]*)(?P<ro>:ro)?")


def app_of(container: Container) -> App | None:
    """The app; None where the container has no `app` step.

    Raises:
        RecipeError: a port or volume is malformed, there are two apps, or `env` and `user` have no
            app to belong to.
    """
    app: App | None = None
    further: list[LoadedStep] = []
    for step in container.steps:
        if step.spec.app is not None:
            if app is not None:
                raise RecipeError(
                    "a container has one app", place=step.place, hint="keep one `app` step"
                )
            app = _app(step.spec.app, step)
        elif step.spec.env is not None or step.spec.user or step.spec.healthcheck:
            further.append(step)
    for step in further:
        if app is None:
            raise RecipeError(
                "`env`, `user` and `healthcheck` need an app",
                place=step.place,
                hint="add an `app` step: {exec: …}",
            )
        if step.spec.env is not None:
            environment = {**dict(app.environment), **step.spec.env}
            app = replace(app, environment=tuple(environment.items()))
        if step.spec.user is not None:
            app = replace(app, user=step.spec.user)
        if step.spec.healthcheck is not None:
            place = written_at(step.node, "healthcheck", "exec", 0)
            app = replace(app, health=_health(step.spec.healthcheck, place))
    return app


def places(container: Container) -> dict[str, str]:
    """Where the app is and its `user`, `group` and `exec` were written, by those names."""
    found: dict[str, str] = {}
    for step in container.steps:
        if step.spec.app is not None:
            found["app"] = step.place
            found |= {key: written_at(step.node, "app", key) for key in ("user", "group", "exec")}
    for step in container.steps:
        if step.spec.user is not None:
            found["user"] = written_at(step.node, "user")
    return found


def app_remarks(app: App) -> Iterator[str]:
    """What looks like a habit of Dockerfiles that no image format honours."""
    for name, value in app.environment:
        if re.search(rf"\$(?:{{)?(?:{re.escape(name)}|PATH)\b", value):
            yield (
                f"environment: {name} is {value!r} word for word, nothing fills in the variable; "
                "write its value out"
            )


def _health(spec: HealthSpec, place: str) -> Health:
    return Health(
        _program(spec.exec, place=place), spec.interval, spec.timeout, spec.retries, spec.start
    )


def _program(words: tuple[str, ...], *, place: str) -> tuple[str, ...]:
    """Raises RecipeError: the first word is not an absolute path."""
    if not words[0].startswith("/"):
        raise RecipeError(
            f"exec begins with {words[0]!r}, not with an absolute path",
            place=place,
            hint=f"write where the program is: /usr/bin/{words[0].rpartition('/')[2] or 'program'}",
        )
    return words


def _app(spec: AppSpec, step: LoadedStep) -> App:
    def at(key: str, number: int) -> str:
        return written_at(step.node, "app", key, number)

    return App(
        exec=_program(spec.exec, place=at("exec", 0)),
        user=spec.user,
        group=spec.group,
        environment=tuple(spec.environment.items()),
        working_directory=spec.working_directory,
        ports=tuple(_port(text, at("ports", n)) for n, text in enumerate(spec.ports)),
        volumes=tuple(_volume(text, at("volumes", n)) for n, text in enumerate(spec.volumes)),
        stop_signal=spec.stop_signal,
    )


def _port(text: str, place: str) -> Port:
    match = _PORT.fullmatch(text)
    if match is None or not 1 <= int(match["number"]) <= 65535:
        raise RecipeError(
            f"not a port: {text!r}", place=place, hint="write 443, 443/tcp or https=443/tcp"
        )
    return Port(int(match["number"]), match["protocol"] or "tcp", match["name"])


def _volume(text: str, place: str) -> Volume:
    match = _VOLUME.fullmatch(text)
    if match is None:
        raise RecipeError(
            f"not a volume: {text!r}", place=place, hint="write /var/lib/x or data=/var/lib/x:ro"
        )
    return Volume(match["path"], match["name"], match["ro"] is not None)
