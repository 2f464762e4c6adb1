"""The OCI image config of an image (image-spec config.md): derived, or as the user wrote it. Pure.

`image.content` of type `oci` is an image config document: it takes the place of what would derive
from `app`. Two members stay ours, because they describe the layers: `rootfs` and `history`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from buildit.digest import Digest, oci_digest
from buildit.errors import RecipeError
from buildit.image.appspec import oci_config
from buildit.image.formats.oci_rules import config_problems
from buildit.image.names import machine
from buildit.model.image import Image


def rfc3339(epoch: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))


def read_json(text: str, place: str, what: str) -> object:
    """JSON text of the user; a key that occurs twice is an error, not a silent loss.

    Raises:
        RecipeError: the text is not JSON; says the line and column within it.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno} of the rendered content"
        raise RecipeError(
            f"{what} is not JSON: {error.msg} at {where}",
            place=place or None,
            hint="correct `content` of this image step",
        ) from error
    except (ValueError, RecursionError) as error:
        raise RecipeError(
            f"{what} is not usable JSON: {error}",
            place=place or None,
            hint="correct `content` of this image step",
        ) from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {double!r} occurs twice in one object")
    return members


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


def image_config(
    image: Image, diff_ids: Sequence[Digest], titles: Sequence[str]
) -> dict[str, object]:
    """The whole config; `diff_ids` and `titles` are of the emitted layers, bottom first.

    Raises:
        RecipeError: the user's document breaks a rule, or says another platform.
    """
    document = _written(image) if image.content else _derived(image)
    created = rfc3339(image.epoch)
    return {
        **document,
        "rootfs": {"type": "layers", "diff_ids": [oci_digest(each) for each in diff_ids]},
        "history": [{"created": created, "created_by": f"buildit: {title}"} for title in titles],
    }


def program(config: dict[str, object]) -> str | None:
    """The absolute path that a runtime would execute; None where there is none to check."""
    section = config.get("config")
    if not isinstance(section, dict):
        return None
    words = [*(section.get("Entrypoint") or []), *(section.get("Cmd") or [])]
    return words[0] if words and words[0].startswith("/") else None


def directories(config: dict[str, object]) -> tuple[tuple[str, str], ...]:
    """What must not be a file: what it is, and its absolute path."""
    section = config.get("config")
    if not isinstance(section, dict):
        return ()
    start = section.get("WorkingDir")
    starts = [("working directory", start)] if start else []
    return (*starts, *(("volume", path) for path in section.get("Volumes") or ()))


def _platform(image: Image) -> dict[str, object]:
    kind = machine(image)
    variant = {"variant": kind.oci_variant} if kind.oci_variant else {}
    return {"architecture": kind.oci, "os": image.os, **variant}


def _derived(image: Image) -> dict[str, object]:
    document: dict[str, object] = {"created": rfc3339(image.epoch), **_platform(image)}
    if image.author:
        document["author"] = image.author
    section = oci_config(image.app) if image.app is not None else {}
    labels = dict(image.about) | dict(image.labels)
    if labels:
        section["Labels"] = labels
    if section:
        document["config"] = section
    return document


def _written(image: Image) -> dict[str, object]:
    document = read_json(image.content, image.place, "the OCI image config")
    problems = config_problems(document, _platform(image))
    if problems or not isinstance(document, dict):
        raise RecipeError(
            f"the OCI image config is not valid: {problems[0]}",
            place=image.place or None,
            hint="correct `content` of this image step (image-spec config.md), "
            "or leave it out: then `app` decides",
            details=problems[1:],
        )
    return {"created": rfc3339(image.epoch), **_platform(image), **document}
