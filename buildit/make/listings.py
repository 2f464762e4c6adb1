"""What layers have, by their listings, each read once in a run however many steps lie over it."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from buildit.archive.contents import parse_contents
from buildit.digest import Digest
from buildit.image.merge import LayerChange, MergedTree
from buildit.model.tree import YEAR_1980, Entry
from buildit.store.cas import Store


class Listings:
    """The listings of a store that were asked for; call it from one thread."""

    def __init__(self) -> None:
        self._entries: dict[Digest, tuple[Entry, ...]] = {}
        self._laid: tuple[Digest, ...] = ()
        self._merged = MergedTree(YEAR_1980)

    def of(self, store: Store, contents: Digest) -> tuple[Entry, ...]:
        """The entries that a blob of contents lists.

        Raises:
            StoreError, IntegrityError: it is missing or damaged.
        """
        if contents not in self._entries:
            self._entries[contents] = parse_contents(store.read(contents))
        return self._entries[contents]

    def merged(self, store: Store, listings: Sequence[Digest]) -> MergedTree:
        """The layers of these listings, bottom first, laid over each other as their own clients do;
        where the last ones that were asked for lie below, only what is new is laid.

        Raises:
            StoreError, IntegrityError: one is missing or damaged, or contradicts itself.
        """
        wanted = tuple(listings)
        if wanted[: len(self._laid)] != self._laid:
            self._laid, self._merged = (), MergedTree(YEAR_1980)
        for contents in wanted[len(self._laid) :]:
            self._merged.lay(LayerChange.of(self.of(store, contents)))
            self._laid = (*self._laid, contents)
        return self._merged


_OPEN: WeakKeyDictionary[Store, Listings] = WeakKeyDictionary()


def listings_of(store: Store) -> Listings:
    """Those of an open store: what a blob says never changes."""
    return _OPEN.setdefault(store, Listings())
