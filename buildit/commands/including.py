"""What a container's lists and templates need beyond its directory: lists at URLs, by digest, and
the facts of packages once all of them are pinned."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from buildit.commands.choose import Choice, read_container, selected_facts
from buildit.commands.run import Downloads, Options, opened
from buildit.digest import Digest
from buildit.errors import FetchError, IntegrityError
from buildit.events import silent
from buildit.model.config import Config
from buildit.model.listed import PackageFacts
from buildit.model.plan import Task
from buildit.model.words import name_of
from buildit.recipe.lists import FetchList, check_settled
from buildit.recipe.packagefacts import KnownPackages
from buildit.recipe.yaml.node import LARGEST_FILE
from buildit.remote.fetch import Fetch


def fetched_lists(downloads: Downloads) -> FetchList:
    """Lists from the store, else from where they are; then the store has them."""

    def fetch(url: str, digest: Digest, place: str) -> bytes:
        store, name = downloads.store, name_of(url) or "list.yaml"
        if not store.has(digest):
            urls = (*downloads.earlier((name,), digest), url)
            try:
                downloads.fetcher().fetch(Fetch(name, urls, digest, largest=LARGEST_FILE))
            except (FetchError, IntegrityError) as error:
                error.place = error.place if isinstance(error, IntegrityError) else place
                error.details = (*error.details, f"it is included at {place}")
                raise
        return store.read(digest)

    return fetch


def lists_on_demand(config: Config, options: Options) -> FetchList:
    """As `fetched_lists`, for what opens no store by itself: it is opened where a list needs it."""

    def fetch(url: str, digest: Digest, place: str) -> bytes:
        with opened(config, options, silent) as run:
            return fetched_lists(run.downloads)(url, digest, place)

    return fetch


def pinned_facts(choice: Choice, made: Iterable[Task]) -> dict[str, PackageFacts]:
    """What templates may ask of all packages, when their tasks are known."""
    chosen = selected_facts(choice.selection)
    found = {}
    for task in made:
        about, digest = task.about, str(task.subject or task.key)
        known = chosen.get(task.name)
        if known is None:
            texts = about.license, about.homepage, about.description
            known = PackageFacts(task.version, *texts)
        found[task.name] = replace(known, digest=digest)
    return found


def read_again(choice: Choice, packages: KnownPackages, fetch: FetchList) -> Choice:
    """With the container read again, now that all is known that its templates ask for.

    Raises:
        RecipeError: they ask for a package that there is none of, or decide what is chosen by it.
    """
    known = read_container(choice.options, packages, choice.here, fetch, choice.base)
    check_settled(choice.container, known)
    return replace(choice, container=known)
