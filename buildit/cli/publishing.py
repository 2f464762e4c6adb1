"""What a push did, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from buildit.commands.publish import Published
from buildit.model.amount import size


def pushed_plain(done: Sequence[Published]) -> list[dict[str, object]]:
    return [asdict(one) for one in done]


def pushed_lines(done: Sequence[Published]) -> Iterator[str]:
    for one in done:
        yield (
            f"{one.path}  {one.artifacts} artifacts, {one.blobs} new blobs, {one.files} new files, "
            f"{size(one.sent)}"
        )
