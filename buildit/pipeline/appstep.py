"""The steps `app`, `env` and `user` of a container as one app, in the terms of no format. Pure."""

from __future__ import annotations

import re
from dataclasses import replace

from buildit.errors import RecipeError
from buildit.load.container import Container, LoadedStep
from buildit.model.container import AppSpec
from buildit.model.image import App, Port, Volume

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
        elif step.spec.env is not None or step.spec.user is not None:
            further.append(step)
    for step in further:
        if app is None:
            raise RecipeError(
                "`env` and `user` need an app",
                place=step.place,
                hint="add an `app` step: {exec: …}",
            )
        if step.spec.env is not None:
            environment = {**dict(app.environment), **step.spec.env}
            app = replace(app, environment=tuple(environment.items()))
        if step.spec.user is not None:
            app = replace(app, user=step.spec.user)
    return app


def _app(spec: AppSpec, step: LoadedStep) -> App:
    return App(
        exec=spec.exec,
        user=spec.user,
        group=spec.group,
        environment=tuple(spec.environment.items()),
        working_directory=spec.working_directory,
        ports=tuple(_port(text, step.place) for text in spec.ports),
        volumes=tuple(_volume(text, step.place) for text in spec.volumes),
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
