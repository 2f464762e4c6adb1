"""Why a package is built: what differs from the closest build of it that the store has."""

from __future__ import annotations

from collections.abc import Mapping

from buildit.digest import BuildKey
from buildit.errors import BuilditError
from buildit.make.makers import kind_of
from buildit.model.task import Task
from buildit.plan.nearness import told_differences
from buildit.remote.binhost.nearby import Nearby
from buildit.store.artifacts import lookup
from buildit.store.cas import Store
from buildit.store.names import latest_builds

_SHOWN = 3
CONSIDERED = 3
"""Of the latest builds; each look costs the sandboxed build of a small package some percent."""


def reason(node: Task, store: Store, labels: Mapping[BuildKey, str]) -> str:
    """`first build`, or what changed since the closest of the latest builds, most telling first.

    `labels` are the keys of the plan.
    """
    if not kind_of(node).builds:
        return "unpacked for the first time"
    label = Nearby(store, (), labels).label
    closest: tuple[str, ...] | None = None
    for entry in latest_builds(store, node.name, CONSIDERED):
        if entry.key == node.key:
            continue
        try:
            artifact = lookup(store, entry.key)
            if artifact is None:
                continue
            old = store.read(artifact.record).decode()
            found = told_differences(old, node.record, label, node.about.patch_names())
        except (BuilditError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if closest is None or len(found) < len(closest):
            closest = found
    if closest is None:
        return "first build"
    if not closest:
        return "its artifact is incomplete"
    rest = len(closest) - _SHOWN
    return ", ".join(closest[:_SHOWN]) + (f", and {rest} more" if rest > 0 else "")
