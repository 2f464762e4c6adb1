"""The names that update-alternatives(1) would give to programs of a build's Debian packages: a tree
of links beneath them, as none of their scripts runs (`aclocal`, `automake`, `yacc`)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from buildit.digest import canonical, digest_bytes
from buildit.model.accounts import AlternativeLink
from buildit.model.tree import YEAR_1980
from buildit.store.cas import Store
from buildit.store.disk import make_directory

_SCHEME = "buildit-alternatives-1"


def links_for_build(
    offered: Iterable[AlternativeLink], present: frozenset[str], beneath: Path
) -> dict[str, str]:
    """Link -> target, paths without a leading slash: of each name the one with the highest
    priority whose target is `present`; none for what is there already, in the packages or in the
    tree `beneath` them."""
    made: dict[str, AlternativeLink] = {}
    for one in sorted(offered, key=lambda each: (each.priority, each.target)):
        if one.target in present:
            made[one.link] = one
    return {
        link: one.target
        for link, one in sorted(made.items())
        if link not in present and not os.path.lexists(beneath / link)
    }


def tree_of_links(links: Mapping[str, str], store: Store) -> str:
    """The name of the tree in the store that has these links and nothing else.

    Raises:
        StoreError: it cannot be written.
    """
    identity = digest_bytes(canonical({"scheme": _SCHEME, "links": dict(links)}))

    def fill(directory: Path) -> None:
        for link, target in links.items():
            path = directory / link
            make_directory(path.parent)
            path.symlink_to(f"/{target}")
            os.utime(path, (YEAR_1980, YEAR_1980), follow_symlinks=False)
        for above, below, _ in os.walk(directory, topdown=False):
            for name in below:
                os.utime(os.path.join(above, name), (YEAR_1980, YEAR_1980))

    return store.named_tree(identity, fill).name
