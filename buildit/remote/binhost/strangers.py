"""Builds of exactly the wanted key, by builders whom nobody here trusts: why they are not taken.

A web server lists no directory, so a binhost is asked for the statements of trusted builders only,
and one by anybody else would go unseen. Its page of the package names them all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from buildit.errors import BuilditError
from buildit.model.task import Task
from buildit.remote.binhost.binhost import Binhost
from buildit.remote.binhost.closest import PAGE_LIMIT
from buildit.store.names import name_directory

ASKED = 3
"""Statements of one key that one binhost is asked for."""


@dataclass(frozen=True, slots=True)
class Stranger:
    """Where the build is, who signed it, and what would have it taken."""

    place: str
    who: str
    hint: str

    def __str__(self) -> str:
        return f"'{self.place}' has it, {self.who}, who is not trusted here; {self.hint}"


def strangers(node: Task, hosts: Iterable[Binhost]) -> Iterator[Stranger]:
    """Those of binhosts that are reached over a network; of a directory all were looked at."""
    for host in hosts:
        if not host.base.startswith("/"):
            yield from _of(node, host)


def _of(node: Task, host: Binhost) -> Iterator[Stranger]:
    directory = name_directory(Path(), node.name)
    if directory is None:
        return
    try:
        page = host.read(f"{directory}/index.html", PAGE_LIMIT) or b""
    except BuilditError:
        return  # whoever watches over it told of it
    listed = re.compile(rf"/k/{node.key[:2]}/{node.key}/([0-9a-f]{{64}})\.json\"".encode())
    builders = dict.fromkeys(name.decode() for name in listed.findall(page))
    for builder in [one for one in builders if one not in host.builders][:ASKED]:
        refused = host.refusal(node.key, builder)
        if refused is not None and refused.details:
            yield Stranger(host.name, refused.details[0], refused.hint or refused.message)
