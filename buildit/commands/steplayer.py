"""The layer of a step: what no package brings, packed into the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from buildit.archive.streams import Content
from buildit.model.image import Layer, LayerKind
from buildit.model.tree import Entry
from buildit.store.cas import Store
from buildit.store.layers import put_layer


def step_layer(
    store: Store, entries: Sequence[Entry], content: Callable[[Entry], Content], title: str
) -> tuple[Layer, tuple[Entry, ...]]:
    """Pack entries, in the order of layers, with what `content` opens; the layer and its entries.

    Raises:
        StoreError, BuildError, IntegrityError, OSError: as `store.layers.put_layer`.
    """
    with store.batch() as batch:
        packed = put_layer(batch, entries, content)
    layer = Layer(packed.diff_id, packed.size, title, packed.contents, LayerKind.STEP)
    return layer, packed.entries
