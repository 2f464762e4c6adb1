"""What the name of an image stands for, such as `debian:12`, which says no registry: by the command
line, by `images` of the configuration, then by what the machine's engines go by
(containers-registries.conf(5)). No registry is written here.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildit.errors import RecipeError
from buildit.remote.registry.reference import DOCKER_SCHEME

REGISTRIES = Path("/etc/containers/registries.conf")
LARGEST_REGISTRIES = 1 << 20

LOCAL_SCHEMES = ("oci:", "oci-archive:", "docker-archive:", "aci:")
"""How images on this machine are named, as skopeo names them."""

_NAME = re.compile(
    r"(?P<name>(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?P<tag>:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?P<digest>@sha256:[0-9a-f]{64})?"
)
"""distribution's reference grammar."""


@dataclass(slots=True)
class ImageNames:
    """`said` is what the command line says of names, `own` what the configuration does. `machine`
    is the file of the machine's engines; `looked` grows with the files that were looked at."""

    said: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[str, str] = field(default_factory=dict)
    machine: Path = REGISTRIES
    looked: list[Path] = field(default_factory=list)

    def reference(self, text: str, place: str) -> str:
        """What a name stands for, such as docker://HOST/NAME:TAG; another text stays as it is.

        Raises:
            RecipeError: nothing says where an image of that name is, or several things do.
        """
        match = _NAME.fullmatch(text.removeprefix(DOCKER_SCHEME))
        if match is None or text.startswith(LOCAL_SCHEMES):
            return text
        name, rest = match["name"], f"{match['tag'] or ''}{match['digest'] or ''}"
        if (found := _exactly(self.said, name, rest) or _mapped(self.own, name, rest)) is not None:
            return found
        host = name.partition("/")[0]
        if text.startswith(DOCKER_SCHEME) or (host != name and ({*".:"} & {*host})):
            return f"{DOCKER_SCHEME}{name}{rest}"
        return f"{DOCKER_SCHEME}{self._of_machine(name, place)}{rest}"

    def _of_machine(self, name: str, place: str) -> str:
        """HOST/NAME for a name without a host."""
        files, settings = self._settings()
        for one in reversed(settings):
            alias = _table(one, "aliases").get(name)
            if isinstance(alias, str) and alias:
                return alias
        searched = next(
            (found for one in reversed(settings) if (found := _hosts(one)) is not None), ()
        )
        hint = (
            f"write HOST/{name}, or say what it stands for: --build-context {name}=REFERENCE, or "
        )
        hint += f"in .buildit-config.yaml: images: {{{name}: docker://HOST/{name}}}"
        if len(searched) > 1:
            known = ", ".join(searched)
            message = f"the image {name!r} may be in any of several registries: {known}"
            raise RecipeError(message, place=place, hint=hint, details=tuple(map(str, files)))
        if not searched:
            message = f"nothing says in which registry the image {name!r} is"
            raise RecipeError(message, place=place, hint=hint)
        return f"{searched[0]}/{name}"

    def _settings(self) -> tuple[list[Path], list[Mapping[str, Any]]]:
        """The machine's files that are there, and what they say, the last one wins."""
        beside = self.machine.with_name(f"{self.machine.name}.d")
        self.looked += [self.machine, beside]
        files = [self.machine, *sorted(beside.glob("*.conf"))]
        there = [one for one in files if one.is_file()]
        self.looked += there
        return there, [_read(one) for one in there]


def _exactly(known: Mapping[str, str], name: str, rest: str) -> str | None:
    """What a map says of a name in its version, which is `latest` where none is written."""
    names = (name, f"{name}:latest") if rest in ("", ":latest") else (f"{name}{rest}",)
    return next((known[one] for one in names if one in known), None)


def _mapped(known: Mapping[str, str], name: str, rest: str) -> str | None:
    """What a map of names says: of `debian:12` itself; and, of images in registries, of `debian` in
    any version, of what a name begins with (`tools/`), or of any (`*`)."""
    if (exact := _exactly(known, name, rest)) is not None:
        return f"{exact}{rest}" if _takes_more(exact) else exact
    prefixes = sorted((one for one in known if one.endswith("/")), key=len, reverse=True)
    for prefix in (name, *(one for one in prefixes if name.startswith(one)), "*"):
        found = known.get(prefix, "")
        if _takes_more(found):
            under = name if prefix == "*" else name.removeprefix(prefix)
            return f"{found}{under}{rest}"
    return None


def _takes_more(reference: str) -> bool:
    """Whether a name or a version may stand behind a reference, which is in a registry."""
    remote = reference.startswith((DOCKER_SCHEME, "oci://"))
    return remote and ":" not in reference.rpartition("/")[2] and "@" not in reference


def _read(path: Path) -> Mapping[str, Any]:
    """Raises RecipeError where it is no TOML."""
    try:
        with path.open("rb") as stream:
            return tomllib.loads(stream.read(LARGEST_REGISTRIES).decode())
    except (OSError, ValueError) as error:
        hint = "correct it, or name the image with its registry: HOST/NAME:TAG"
        message = f"what the machine says of names of images cannot be read: {error}"
        raise RecipeError(message, place=os.fspath(path), hint=hint) from error


def _table(settings: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = settings.get(key)
    return found if isinstance(found, dict) else {}


def _hosts(settings: Mapping[str, Any]) -> tuple[str, ...] | None:
    found = settings.get("unqualified-search-registries")
    if not isinstance(found, list):
        return None
    return tuple(one for one in found if isinstance(one, str) and one)
