"""`test` steps, typed for the plan. Pure."""

from __future__ import annotations

import re

from buildit.commands.choose import wrong_at
from buildit.commands.said import test_said
from buildit.model.image import App
from buildit.model.image_test import CommandTest, FileTest, HttpTest, ImageTest, TextTest
from buildit.recipe.container import Container, LoadedStep
from buildit.recipe.testspec import FileTestSpec, HttpTestSpec, ImageTestSpec, TextTestSpec

_HOWS = ("contains", "equals", "matches")


def image_tests(container: Container, app: App | None) -> tuple[ImageTest, ...]:
    """The tests of a container.

    Raises:
        RecipeError: one is wrong, such as an HTTP answer of no app.
    """
    has_app = app is not None or any(step.content for step in container.steps)
    return tuple(
        image_test(step.spec.test, step, app, has_app)
        for step in container.steps
        if step.spec.test is not None
    )


def image_test(spec: ImageTestSpec, step: LoadedStep, app: App | None, has_app: bool) -> ImageTest:
    kinds = [one for one in ("script", "exec", "http") if getattr(spec, one) is not None]
    if len(kinds) > 1:
        message = f"`{kinds[0]}` and `{kinds[1]}` are in one test"
        raise wrong_at(step, message, "write a `test` step for each of them", "test", kinds[1])
    if not kinds and not spec.files:
        raise wrong_at(step, "nothing is tested", "write exec, script, http or file", "test")
    has_command = bool(kinds) and kinds != ["http"]
    for key in ("status", "stdout", "stderr"):
        if key in spec.model_fields_set and not has_command:
            message = f"`{key}` is of a command, and the test has none"
            raise wrong_at(step, message, "write exec or script beside it", "test", key)
    if spec.status > 255:
        raise wrong_at(step, "an exit status is at most 255", "0 is success", "test", "status")
    if not spec.timeout:
        raise wrong_at(step, "a test takes some time", "such as 30s", "test", "timeout")
    if spec.http is not None and not has_app:
        message = "there is no app that could answer"
        raise wrong_at(step, message, "say what runs: `- entrypoint: [/usr/bin/x]`", "test", "http")
    argv = ("/bin/sh", "-ec", spec.script) if spec.script is not None else spec.exec
    outputs = [
        () if one is None else _texts(one, step, "test", key)
        for key, one in (("stdout", spec.stdout), ("stderr", spec.stderr))
    ]
    command = () if argv is None else (CommandTest(argv, spec.status, outputs[0], outputs[1]),)
    several = isinstance(spec.file, tuple)
    at = [("test", "file", *((n,) if several else ())) for n in range(len(spec.files))]
    return ImageTest(
        said=test_said(spec),
        place=step.place,
        commands=command,
        http=() if spec.http is None else (_http(spec.http, step, app),),
        files=tuple(_file(one, step, *path) for one, path in zip(spec.files, at, strict=True)),
        timeout=spec.timeout,
    )


def _texts(spec: TextTestSpec, step: LoadedStep, *at: str | int) -> tuple[TextTest, ...]:
    if spec.matches is not None:
        try:
            re.compile(spec.matches)
        except re.error as error:
            message = f"not a regular expression: {error}"
            hint = "write it as Python's `re` takes it"
            raise wrong_at(step, message, hint, *at, "matches") from error
    said = ((how, getattr(spec, how)) for how in _HOWS)
    found = tuple(TextTest(how, text) for how, text in said if text is not None)
    if not found and type(spec) is TextTestSpec:
        raise wrong_at(step, "nothing is expected", "write contains, equals or matches", *at)
    return found


def _http(spec: HttpTestSpec, step: LoadedStep, app: App | None) -> HttpTest:
    port = spec.port
    if port is None:
        ports = [one.number for one in (app.ports if app else ()) if one.protocol == "tcp"]
        if len(ports) != 1:
            message = f"the app says {'no' if not ports else 'more than one'} port over TCP"
            raise wrong_at(step, message, "write which: port: 8080", "test", "http")
        port = ports[0]
    if not 1 <= port <= 65535:
        raise wrong_at(step, f"not a port: {port}", "such as 8080", "test", "http", "port")
    if not 100 <= spec.status <= 599:
        message = f"not a status of HTTP: {spec.status}"
        raise wrong_at(step, message, "such as 200", "test", "http", "status")
    for key, text, pattern in (("path", spec.path, r"/[!-~]*"), ("host", spec.host, r"[!-.0-~]+")):
        if not re.fullmatch(pattern, text):
            hint = {"path": "such as /health, blanks as %20", "host": "such as www.example.org"}
            raise wrong_at(step, f"{key}: {text!r} cannot be asked", hint[key], "test", "http", key)
    headers = {name.lower(): value for name, value in spec.headers.items()}
    body = _texts(spec, step, "test", "http")
    return HttpTest(port, spec.path, spec.host, spec.tls, spec.status, headers, body)


def _file(spec: FileTestSpec, step: LoadedStep, *at: str | int) -> FileTest:
    content = _texts(spec, step, *at)
    of_file = bool(content) or spec.sha256 is not None
    said = spec.model_fields_set - {"path", "exists"}
    if not spec.exists and said:
        message = f"`{min(said)}` is said of what must not be there"
        raise wrong_at(step, message, "leave it out, or `exists: no`", *at, "exists")
    if of_file and (spec.type not in (None, "file") or spec.target is not None):
        what = "a directory" if spec.type == "directory" else "a link"
        message = f"{what} has no content"
        raise wrong_at(step, message, "leave `type` and `target` out: links are followed", *at)
    if spec.target is not None and spec.type not in (None, "link"):
        raise wrong_at(step, "only a link has a target", "write `type: link`", *at, "target")
    return FileTest(
        path=spec.path.strip("/"),
        exists=spec.exists,
        kind="link" if spec.target is not None else spec.type or "",
        mode="" if spec.mode is None else f"{spec.mode:04o}",
        owner=spec.owner or "",
        target=spec.target or "",
        sha256=spec.sha256 or "",
        content=content,
    )
