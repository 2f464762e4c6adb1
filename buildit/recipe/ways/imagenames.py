"""The name of a base in a recipe, such as `debian:12`, as what a `from` step has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from buildit.errors import RecipeError
from buildit.recipe.ways.nodes import list_node, map_node, step_node
from buildit.recipe.yaml import node as nodes
from buildit.recipe.yaml.node import Place

_RELEASES = {"bookworm": "12", "trixie": "13"}
_SUITE = re.compile(rf"debian[:-]([0-9]{{1,2}}|{'|'.join(_RELEASES)})", re.IGNORECASE)
_SCHEMES = ("oci:", "oci-archive:", "docker://", "oci://")
_IMAGE = re.compile(
    r"(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?/)?"
    r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@[a-z0-9]+:[0-9a-f]{32,128})?"
)

Complain = Callable[[str, str], RecipeError]
"""Makes the error of a line, of a message and a hint."""


def suite_of(name: str) -> str | None:
    """The suite that a name means: `debian:12`, `debian-12` and `debian:bookworm` are `debian-12`;
    None where it is the name of an image."""
    match = _SUITE.fullmatch(name)
    if match is None:
        return None
    release = match[1].lower()
    return f"debian-{_RELEASES.get(release, release)}"


def image_source(name: str, images: Mapping[str, str], wrong: Complain) -> tuple[str, str]:
    """The key and the text of a `from` for the name of an image: `images` are those that the
    command line says, by name; a path is a container of ours; another name stays as it is.

    Raises:
        RecipeError: it is no name of an image.
    """
    said = next((images[key] for key in (name, f"{name}:latest") if key in images), None)
    text = said if said is not None else name
    if text.startswith("docker-image://"):
        return "oci", f"docker://{text.removeprefix('docker-image://')}"
    if text.startswith("docker-archive:"):
        return "docker-archive", text.removeprefix("docker-archive:")
    if text.startswith("aci:") or text.endswith(".aci"):
        return "aci", text.removeprefix("aci:")
    if text.startswith(_SCHEMES):
        return "oci", text
    if text.startswith(("./", "../", "/")) or text in (".", ".."):
        return "container", text
    if not _IMAGE.fullmatch(text):
        hint = "write NAME:TAG, a path that begins with ./, or the name of a stage"
        raise wrong(f"{text[:60]!r} is no name of an image", hint)
    host = text.partition("/")[0]
    is_whole = "/" in text and (set(".:") & set(host) or host == "localhost")
    return "oci", f"docker://{text}" if is_whole else text


def is_suite(name: str, images: Mapping[str, str]) -> bool:
    """Whether a name is that of a suite, and the command line says nothing else of it."""
    return name not in images and suite_of(name) is not None


def from_steps(
    place: Place, name: str, images: Mapping[str, str], wrong: Complain
) -> Iterator[nodes.Mapping]:
    """The step that begins with what a name stands for: what the command line says of it, Debian's
    own root of a suite, or an image. Nothing says what a suite starts, which is said, too: so the
    environment and ports of the recipe are the image's all the same.

    Raises:
        RecipeError: it is no name of a base.
    """
    suite = suite_of(name) if is_suite(name, images) else None
    key, text = ("suite", suite) if suite else image_source(name, images, wrong)
    yield step_node(place, "from", map_node(place, {key: text}))
    if suite:
        yield step_node(place, "entrypoint", list_node(place, ()))
