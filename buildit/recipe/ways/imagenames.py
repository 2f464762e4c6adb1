"""The name of a base in a recipe, such as `debian:12`, as a `from` step."""

from __future__ import annotations

import re

from buildit.model.recipe import RecipeOptions
from buildit.recipe.ways.nodes import map_node, step_node
from buildit.recipe.yaml.node import Mapping, Place

_RELEASES = {"bookworm": "12", "trixie": "13"}
_SUITE = re.compile(rf"debian[:-]([0-9]{{1,2}}|{'|'.join(_RELEASES)})", re.IGNORECASE)
_REFERENCE = re.compile(r"(?:oci|oci-archive|docker-archive|docker):.+")


def suite_of(name: str) -> str | None:
    """The suite that a name means: `debian:12`, `debian-12` and `debian:bookworm` are `debian-12`;
    None where it is the name of an image."""
    match = _SUITE.fullmatch(name)
    if match is None:
        return None
    release = match[1].lower()
    return f"debian-{_RELEASES.get(release, release)}"


def from_step(place: Place, name: str, wanted: RecipeOptions) -> Mapping:
    """The step that begins with what a name stands for: what the command line says of it
    (`--build-context`), Debian's own root of a suite, a reference as `from` has it, else an image
    that is looked for by its short name."""
    said = dict(wanted.images)
    suite = suite_of(name)
    if name in said:
        spec = {"image": name}
    elif suite is not None:
        spec = {"suite": suite}
    elif name.startswith("docker-archive:"):
        spec = {"docker-archive": name.partition(":")[2]}
    elif _REFERENCE.fullmatch(name):
        spec = {"oci": name}
    else:
        spec = {"image": name}
    return step_node(place, "from", map_node(place, {**spec}))
