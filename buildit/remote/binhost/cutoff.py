"""Early cut-off: a build whose dependencies were rebuilt with identical bytes is not made again.

An entry of the store or of a binhost only says where to look. What it points to is judged as any
artifact is, and taken only where its own record and statement give the resolved key asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from buildit.digest import BuildKey, Digest
from buildit.errors import BuilditError
from buildit.make.makers import resolved_outputs
from buildit.model.artifact import Artifact
from buildit.model.plan import Task
from buildit.plan.identity import resolved_key
from buildit.remote.binhost.binhost import Binhost
from buildit.store.artifacts import (
    ENTRY_LIMIT,
    Believed,
    Found,
    Suits,
    anybody,
    entry_name,
    examine,
    parse_entry,
    pointed_to,
    resolved_of,
    restated_for,
)
from buildit.store.attest import is_builder
from buildit.store.cas import Store

Outputs = Mapping[BuildKey, Mapping[str, Digest]]


@dataclass(frozen=True, slots=True)
class Repetitions:
    """Where repetitions are looked for: the store, for what is believed there, then binhosts."""

    store: Store
    hosts: Iterable[Binhost] = ()
    believed: Believed = anybody


Keep = Callable[[Artifact, Found], None]
"""Commit an artifact that repeats the found one, under the user's own key; what nobody signed
stays unsigned, and from elsewhere."""


def cut_off(
    node: Task, at_hand: Mapping[BuildKey, Artifact], sources: Repetitions, keep: Keep
) -> tuple[Artifact, str] | None:
    """The artifact of another key with the same resolved key, said of the node's and kept, and
    where it came from in words.

    Raises:
        StoreError: the store cannot be read or written.
    """
    if any(dep.key not in at_hand for dep in node.inputs.dependencies):
        return None
    outputs = resolved_outputs(node, at_hand)
    resolved = resolved_key(node.record, outputs)
    if resolved is None:
        return None
    store = sources.store
    for found, place in _candidates(resolved, _fits(node, outputs), sources):
        artifact = found.artifact
        if artifact.key == node.key:
            continue
        old = store.read(artifact.record).decode()
        if resolved_of(artifact, old) != resolved:
            continue
        record = store.put_bytes(node.record.encode())
        made = restated_for(artifact, old, node.key, record, node.record, outputs)
        keep(made, found)
        return made, f"{place} as {artifact.key[:12]} (its dependencies have the same bytes)"
    return None


def _candidates(
    resolved: Digest, suits: Suits, sources: Repetitions
) -> Iterator[tuple[Found, str]]:
    """Whole artifacts in the store that entries point to, from the places in order."""
    for key in pointed_to(sources.store.root, resolved):
        found = examine(sources.store, key, suits, sources.believed)
        if isinstance(found, Found):
            yield found, "the local store"
    for host in sources.hosts:
        for key in dict.fromkeys(_entries(host, resolved)):
            try:
                host.pull(key, sources.store, suits)
            except BuilditError:
                continue  # the binhost told of it; the package is built instead
            found = examine(sources.store, key, suits, sources.believed)
            if isinstance(found, Found):
                yield found, f"'{host.name}'"


def _entries(host: Binhost, resolved: Digest) -> Iterator[BuildKey]:
    paths = [entry_name(resolved, builder) for builder in host.builders]
    if host.lists:
        directory = str(Path(entry_name(resolved, "")).parent)
        names = host.remote.names((directory,))[0]
        paths = [f"{directory}/{one}" for one in names if is_builder(one.removesuffix(".json"))]
    for path in paths:
        try:
            content = host.read(path, ENTRY_LIMIT)
        except BuilditError:
            return  # it failed for the key itself, too: that was told
        key = parse_entry(content) if content is not None else None
        if key is not None:
            yield key


def _fits(node: Task, outputs: Outputs) -> Suits:
    """Refuses before any byte is fetched what is something else, or was built against other bytes
    than those at hand."""
    wanted = sorted(tuple(sorted(one.items())) for one in outputs.values() if one)

    def suits(artifact: Artifact) -> str | None:
        if (artifact.name, artifact.version) != (node.name, node.version):
            return "it is another package"
        used = sorted(tuple(sorted(one.items())) for one in artifact.resolved.values())
        return None if used == wanted else "it was built against other dependencies"

    return suits
