"""What sync steps take from elsewhere than the project: other images, pinned, and files of URLs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from buildit.commands.bases import TakenImage, taken_image
from buildit.commands.choose import Choice, wrong_at
from buildit.commands.run import Downloads, Unbuilt
from buildit.digest import Digest
from buildit.errors import FetchError, IntegrityError
from buildit.model.copying import CopyOrigin, FetchedFile
from buildit.model.plan import Task
from buildit.model.words import name_of
from buildit.plan.evaluate import written_at
from buildit.recipe.container import FromSpec, LoadedStep, SyncSpec
from buildit.remote.fetch import Fetch

LARGEST_ADDED = 4 << 30
"""Bytes of a file of a URL, which nothing pins yet."""

_SCHEMES = ("https://", "http://")


@dataclass(frozen=True, slots=True)
class Copies:
    """Images by what names them, and files of URLs by their URL."""

    images: Mapping[FromSpec, TakenImage] = field(default_factory=dict)
    files: Mapping[str, FetchedFile] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Those of the images' layers, each once."""
        return tuple({one.task.key: one.task for one in self.images.values()}.values())

    @property
    def pins(self) -> Mapping[str, Digest]:
        """What the lock says of the images."""
        return {one.image.reference: one.image.digest for one in self.images.values()}

    @property
    def pinned(self) -> Mapping[str, Digest]:
        """What the lock says of the files."""
        return {url: one.digest for url, one in self.files.items()}

    def origin(self, spec: FromSpec) -> CopyOrigin:
        """How a step names an image."""
        return self.images[spec].origin


def url_of(spec: SyncSpec) -> str:
    """The URL that a step takes; empty where it takes files."""
    first = spec.src[0] if isinstance(spec.src, tuple) and spec.src else ""
    return first if first.startswith(_SCHEMES) else ""


def copies_of(choice: Choice, downloads: Downloads) -> Copies:
    """All that the sync steps of a container take of elsewhere.

    Raises:
        RecipeError, FetchError, IntegrityError: as `bases.taken_image`; or a URL is not served, or
            not what it is to be.
        Unbuilt: containers or stages are not built; it names all of them.
    """
    images: dict[FromSpec, TakenImage] = {}
    files: dict[str, FetchedFile] = {}
    lacking: dict[FromSpec, Unbuilt] = {}
    for step, spec, *at in _taken(choice):
        if spec in images or spec in lacking:
            continue
        try:
            images[spec] = taken_image(choice, step, spec, downloads, *at)
        except Unbuilt as error:
            lacking[spec] = error
    if lacking:
        first, *others = lacking.values()
        first.others = tuple(others)
        raise first
    for step in choice.container.steps:
        sync = step.spec.sync
        if sync is not None and (url := url_of(sync)):
            files[url] = _fetched(choice, step, sync, url, downloads)
    return Copies(images, files)


def _taken(choice: Choice) -> Iterator[tuple[LoadedStep, FromSpec, *tuple[str | int, ...]]]:
    """What steps take files of, with where that is written."""
    for step in choice.container.steps:
        if step.spec.sync is not None and step.spec.sync.from_ is not None:
            yield step, step.spec.sync.from_, "sync", "from"
        for number, mount in enumerate(step.spec.run.mounts if step.spec.run is not None else ()):
            if mount.from_ is not None:
                yield step, mount.from_, "run", "mounts", number, "from"


def _fetched(
    choice: Choice, step: LoadedStep, spec: SyncSpec, url: str, downloads: Downloads
) -> FetchedFile:
    place = written_at(step.node, "sync", "src")
    if isinstance(spec.src, tuple) and len(spec.src) > 1:
        raise wrong_at(step, "a URL stands alone in `src`", "sync the others in a step", "sync")
    if url.startswith("http://") and spec.sha256 is None:
        hint = "name its `sha256`, or use https://"
        raise wrong_at(step, "nothing says what is at a URL of plain http", hint, "sync", "src")
    locked = None if choice.options.moves(url) else choice.section.files.get(url)
    digest, store = spec.sha256 or locked, downloads.store
    if digest is None or not store.has(digest):
        if downloads.offline:
            hint = "run once without --offline; what is then in the store and the lock will do"
            message = f"{url} is needed, and --offline forbids to fetch it"
            raise FetchError(message, place=place, hint=hint)
        name = name_of(url) or "file"
        near = downloads.earlier((name,), digest) if digest is not None else ()
        try:
            wanted = Fetch(name, (*near, url), digest, largest=LARGEST_ADDED)
            digest = downloads.fetcher().fetch(wanted)
        except (FetchError, IntegrityError) as error:
            error.details = (*error.details, f"it is taken at {place}")
            if locked is not None and spec.sha256 is None:
                error.hint = "the lock has another digest; to take what is there now: "
                error.hint += f"buildit lock --update {url}"
            raise
    return FetchedFile(url, digest, store.size(digest) or 0)
