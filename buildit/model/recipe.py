"""The recipe of a container: what kinds there are, by the names of files, and what a command line
says of one."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

CONTAINER_FILE = "container.yaml"
OWN_RECIPE, DOCKERFILE, FLOCKPORT, MANIFEST = "container", "dockerfile", "flockport", "manifest"
"""What kinds of recipes there are."""

RECIPE_NAMES = (
    (CONTAINER_FILE, OWN_RECIPE),
    ("Containerfile", DOCKERFILE),
    ("Dockerfile", DOCKERFILE),
    ("Flockportfile", FLOCKPORT),
    ("Flockport", FLOCKPORT),
    ("manifest.yaml", MANIFEST),
    ("manifest.yml", MANIFEST),
)
"""The names that are looked for in a directory, each with its kind; the first that is there counts.
"""

STACK_NAMES = (
    "stack.yaml",
    "compose.yaml",
    "compose.yml",
    "docker-compose.yaml",
    "docker-compose.yml",
)
"""What files say of several containers, the first that is there counts; compose's only where the
directory has no recipe of a container."""

_PATTERNS = (
    ("*.manifest.yaml", MANIFEST),
    ("*.manifest.yml", MANIFEST),
    ("*.yaml", OWN_RECIPE),
    ("*.flockport", FLOCKPORT),
    *((f"{name}.*", DOCKERFILE) for name in ("Containerfile", "Dockerfile")),
    *((f"*.{name}", DOCKERFILE) for name in ("[Cc]ontainerfile", "[Dd]ockerfile")),
)
"""Further names that say what a file is which a user names; the first that fits counts."""


def kind_of_name(name: str) -> str | None:
    """What kind of recipe a file is by its name; None where that says nothing."""
    rows = (*RECIPE_NAMES, *_PATTERNS)
    return next((kind for pattern, kind in rows if fnmatchcase(name, pattern)), None)


@dataclass(frozen=True, slots=True)
class RecipeOptions:
    """What a command line says of a recipe, whichever kind it is.

    `file` is its name in the container's directory; empty finds it. `stage` is the one of several
    that is built, the last without it. `values` are (name, value) of its parameters: build
    arguments, or what `vars` say. `images` are (name, reference): what the name of an image stands
    for. `name` and `version` are the image's, `formats` those that are emitted, in the place of
    what the recipe says. `facts` are no words of the command line: (name, value) of what a template
    may ask of the machine and the day, as the lock has them or as they are.
    """

    file: str = ""
    stage: str = ""
    values: tuple[tuple[str, str], ...] = ()
    images: tuple[tuple[str, str], ...] = ()
    name: str = ""
    version: str = ""
    formats: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()

    def words(self) -> tuple[str, ...]:
        """All of it as texts, in an order that tells two apart."""
        if self == RecipeOptions():
            return ()
        pairs = (*self.values, "", *self.images)
        told = (repr(one) for one in (self.file, self.stage, self.name, self.version, *pairs))
        return ("recipe", *told, *self.formats)

    def section(self, platform: str) -> str:
        """What the lock calls its section for a platform, such as `linux/amd64`: one for each stage
        that is asked for by name."""
        return f"{platform} {self.stage}" if self.stage else platform

    def of_stage(self, name: str) -> RecipeOptions:
        """The same for another stage of the recipe, which has no name of its own."""
        return RecipeOptions(self.file, name, self.values, self.images, facts=self.facts)
