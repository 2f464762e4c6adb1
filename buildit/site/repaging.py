"""Make the pages of a binhost anew, for whoever looks after it: no container is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from buildit.errors import UsageError
from buildit.events import Reporter
from buildit.model.address import Directory
from buildit.model.config import Repository, Trust
from buildit.remote.binhost.remotes import Remotes
from buildit.site.pages import is_address, name_site, site_of, stated_site
from buildit.site.shelf import Shelf
from buildit.site.shown import Site
from buildit.store.cas import Store
from buildit.store.layout import FORMAT_FILE
from buildit.trust.policy import Policy


@dataclass(frozen=True, slots=True)
class Repaged:
    """What was made anew: how many files were written, under which title and address."""

    path: str
    title: str
    url: str
    written: int


def repage(
    what: str,
    repositories: Sequence[Repository],
    trust: Trust,
    store: Store,
    report: Reporter,
    title: str = "",
    url: str = "",
) -> Repaged:
    """Make all pages of a binhost anew, from what lies there.

    `what` is a directory, or the name of a repository of the configuration. Without `title` and
    `url` they stay what they are; a binhost that has none yet takes them from its repository.

    Raises:
        UsageError: no such repository or directory, or it cannot be published to; `url` is no
            https address.
        FetchError, StoreError: the binhost cannot be read or written.
    """
    address = url.rstrip("/")
    if address and not is_address(address):
        raise UsageError(
            "not an address that pages can have",
            place=url,
            hint="give the https:// address of the binhost's root, without a query",
        )
    one = _repository(what, repositories)
    with _shelf(one, trust, store, report) as shelf:
        known = stated_site(shelf) or site_of(one)
        site = Site(title or known.title, address or known.url)
        scratch = store.scratch("pages")
        try:
            written = name_site(shelf, site, scratch)
        finally:
            store.discard(scratch)
    return Repaged(str(one.upload), site.title, site.url, written)


def _repository(what: str, repositories: Sequence[Repository]) -> Repository:
    for one in repositories:
        if one.name == what:
            if one.upload:
                return one
            raise UsageError(
                f"repository {what} has no place to publish to",
                hint="give it an upload-type and an upload-path, or name the directory",
            )
    if not os.path.isdir(what):
        names = ", ".join(one.name for one in repositories) or "none"
        raise UsageError(
            f"{what!r} is neither a directory nor a repository of the configuration",
            hint=f"repositories: {names}",
        )
    root = Path(what).resolve()
    if not (root / FORMAT_FILE).is_file():
        # Opening would make a store of it.
        raise UsageError(
            "the directory is no binhost",
            place=str(root),
            hint=f"name the directory that has {FORMAT_FILE}",
        )
    for one in repositories:
        if one.upload == Directory(str(root)):
            return one
    return Repository(root.name, Directory(str(root)), Directory(str(root)))


@contextmanager
def _shelf(one: Repository, trust: Trust, store: Store, report: Reporter) -> Iterator[Shelf]:
    remotes = Remotes((one,), Policy(trust, store, report), store, report)
    try:
        with remotes.publishing(one) as remote:
            yield remote.views
    finally:
        remotes.close()
