"""Which layers of an image stay alone and which are merged, so that runtimes can stack them.

Only neighbours are merged, so the order of layers, and with it every overlay rule, stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

LAYER_BUDGET = 100
"""Layers in an emitted image. overlayfs and the container stores stop at 127 or so."""


def group(sizes: Sequence[int], budget: int = LAYER_BUDGET) -> tuple[range, ...]:
    """Ranges of layer numbers, each one emitted layer; at most `budget` of them.

    While there are too many, the two neighbours that are smallest together become one; of equal
    pairs, the lowest. `sizes` are bytes.

    Raises:
        ValueError: the budget is below 1.
    """
    if budget < 1:
        raise ValueError(f"a budget of {budget} layers holds no image")
    groups = [(size, range(index, index + 1)) for index, size in enumerate(sizes)]
    while len(groups) > budget:
        pairs = range(len(groups) - 1)
        first = min(pairs, key=lambda at: groups[at][0] + groups[at + 1][0])
        (size, numbers), (next_size, next_numbers) = groups[first : first + 2]
        merged = (size + next_size, range(numbers.start, next_numbers.stop))
        groups[first : first + 2] = [merged]
    return tuple(numbers for _, numbers in groups)
