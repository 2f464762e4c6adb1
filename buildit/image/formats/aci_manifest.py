"""The ACI manifest of an image (appc spec aci.md): derived, or as the user wrote it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from buildit.errors import RecipeError
from buildit.image.appspec import aci_app
from buildit.image.formats.aci_rules import manifest_problems
from buildit.image.formats.oci_config import read_json, rfc3339
from buildit.image.names import AC_IDENTIFIER, ac_identifier, machine
from buildit.model.image import Image

AC_VERSION = "0.8.11"
_OCI = "org.opencontainers.image."
_SAID = (f"{_OCI}title", f"{_OCI}version")
"""What the name and the label `version` of an ACI say already."""

_RESERVED = ("name", "version", "os", "arch")
_ANNOTATIONS = {
    f"{_OCI}authors": "authors",
    f"{_OCI}url": "homepage",
    f"{_OCI}documentation": "documentation",
    f"{_OCI}created": "created",
}
"""What App Container has its own annotation for."""


def aci_manifest(image: Image) -> dict[str, object]:
    """The manifest as JSON data, every rule of the specification met.

    Raises:
        RecipeError: the user's document, or what the container gives, breaks a rule; or the
            document says another platform than the container.
    """
    if not image.content:
        return _derived(image)
    document = read_json(image.content, image.place, "the ACI manifest")
    problems = (*manifest_problems(document), *_contradictions(document, image))
    if problems or not isinstance(document, dict):
        raise RecipeError(
            f"the ACI manifest is not valid: {problems[0]}",
            place=image.place or None,
            hint="correct `content` of this image step (appc spec aci.md), "
            "or leave it out: then `app` and `vars` decide",
            details=problems[1:],
        )
    return document


def program(manifest: dict[str, object]) -> str | None:
    """The absolute path that an executor runs; None where there is no app, or where it may come
    from an image that this one depends on (appc spec aci.md, "Dependency Matching")."""
    app = manifest.get("app")
    if not isinstance(app, dict) or manifest.get("dependencies"):
        return None
    return str(app["exec"][0])


def directories(manifest: dict[str, object]) -> tuple[tuple[str, str], ...]:
    """What must not be a file: what it is, and its absolute path."""
    app = manifest.get("app")
    if not isinstance(app, dict):
        return ()
    start = app.get("workingDirectory")
    starts = [("working directory", start)] if start else []
    return (*starts, *(("volume", str(one["path"])) for one in app.get("mountPoints", ())))


def _platform(image: Image) -> dict[str, str]:
    """Labels `os` and `arch`; none for a machine that App Container has no name for."""
    spelling = machine(image).appc
    return {"os": image.os, "arch": spelling} if spelling is not None else {}


def _contradictions(document: object, image: Image) -> Iterator[str]:
    """A label that tells an executor to run the image where its programs cannot run."""
    labels = document.get("labels") if isinstance(document, dict) else None
    if not isinstance(labels, list):
        return
    expected = _platform(image)
    for number, label in enumerate(labels):
        if isinstance(label, dict) and label.get("name") in expected:
            wanted = expected[label["name"]]
            if label.get("value") != wanted:
                yield (
                    f"labels[{number}]: {label['name']} is {label.get('value')!r}, "
                    f"but the container is built for {wanted!r}"
                )


def _derived(image: Image) -> dict[str, object]:
    labels = {"version": image.version, **_platform(image)}
    labels |= {name: value for name, value in image.labels if _may_be_label(name)}
    manifest: dict[str, object] = {
        "acKind": "ImageManifest",
        "acVersion": AC_VERSION,
        "name": image.name,
        "labels": _pairs(labels),
        "annotations": _pairs(_annotations(image)),
    }
    if image.app is not None:
        manifest["app"] = aci_app(image.app, image.place)
    problems = manifest_problems(manifest)
    if problems:
        near = ac_identifier(image.name)
        raise RecipeError(
            f"no valid ACI manifest follows from the container: {problems[0]}",
            place=image.place or None,
            hint=f"set `name: {near}` in `vars`" if near != image.name else "correct the container",
            details=problems[1:],
        )
    return manifest


def _annotations(image: Image) -> dict[str, str]:
    annotations = {"created": rfc3339(image.epoch)}
    if image.author:
        annotations["authors"] = image.author
    about = {name: value for name, value in image.about if name not in _SAID}
    written = {name: value for name, value in image.annotations if AC_IDENTIFIER.fullmatch(name)}
    return annotations | {
        _ANNOTATIONS.get(name, name): value for name, value in (about | written).items()
    }


def _may_be_label(name: str) -> bool:
    return name not in _RESERVED and AC_IDENTIFIER.fullmatch(name) is not None


def unspoken(image: Image) -> Iterator[str]:
    """What the container says and an ACI cannot hold, one remark each."""
    if image.content:
        return
    for name, _ in image.labels:
        if not _may_be_label(name):
            why = "it is taken" if name in _RESERVED else "a-z, 0-9 and - . _ ~ / between them"
            yield f"the ACI has no label {name!r}: App Container allows other names ({why})"
    for name, _ in image.annotations:
        if AC_IDENTIFIER.fullmatch(name) is None:
            yield (
                f"the ACI has no annotation {name!r}: App Container allows a-z, 0-9 and "
                "- . _ ~ / between them"
            )
    if image.app is not None and image.app.health is not None:
        yield "the ACI has no healthcheck: App Container has none"
    if image.app is not None and image.app.stop_signal is not None:
        yield "the ACI has no stop signal: App Container has none"


def _pairs(members: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in members.items()]
