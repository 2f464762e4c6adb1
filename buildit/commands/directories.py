"""A step `directories` as a layer: directories that no package and no synced file brings."""

from __future__ import annotations

import io
from collections import ChainMap
from collections.abc import Mapping

from buildit.commands.steplayer import step_layer
from buildit.commands.sync import resolved
from buildit.commands.synced import EPOCH
from buildit.errors import RecipeError
from buildit.image.parents import with_parents
from buildit.model.image import Layer
from buildit.model.plan import DirectoriesStep
from buildit.model.tree import Entry, Kind
from buildit.store.cas import Store


def directories_layer(step: DirectoriesStep, tree: Mapping[str, Entry], store: Store) -> Layer:
    """Make the layer of a step over `tree`, the merged entries below it, and store it.

    A directory that the image has gets the step's mode and owner; links to directories are
    followed. Directories above that are missing are made with 0755 and 0:0.

    Raises:
        RecipeError: the way leads through a file or to /, or a file is there.
        StoreError: the store cannot be written.
    """
    made: dict[str, Entry] = {}
    below = ChainMap(made, dict(tree))
    for one in step.directories:
        path = resolved(f"{one.path}/.", below, one.place)
        if not path:
            raise RecipeError(
                f"/{one.path} is a link to /, and engines make that themselves",
                place=one.place,
                hint="leave it out",
            )
        made[path] = Entry(path, Kind.DIRECTORY, one.mode, EPOCH, one.uid, one.gid)
    entries = with_parents(made.values(), tree, Entry("", Kind.DIRECTORY, 0o755, EPOCH), step.place)
    layer, _ = step_layer(store, entries, lambda _: io.BytesIO(), "directories")
    return layer
