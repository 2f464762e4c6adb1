"""Builds near to a wanted one: those that repeat it (early cut-off: dependencies were rebuilt with
identical bytes), the closest of the same package, and those of the very key by builders who are not
trusted.

What is read of others is not believed: a record proves itself, its digest is the key. An entry of
the store or of a binhost only says where to look; what it points to is judged as any artifact is,
and taken only where its own record and statement give the resolved key asked for. A web server
lists no directory, so a binhost's index of the package's name says what there is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from buildit.digest import BuildKey, Digest, digest_bytes, is_hex64
from buildit.errors import BuilditError, FetchError
from buildit.make.makers import resolved_outputs
from buildit.model.artifact import Artifact
from buildit.model.plan import Task
from buildit.plan.identity import resolved_key
from buildit.plan.nearness import told_differences
from buildit.remote.binhost.binhost import Binhost
from buildit.remote.binhost.protocols import statement_path
from buildit.store import artifacts
from buildit.store.artifacts import Found, Suits
from buildit.store.attest import is_builder
from buildit.store.cas import Store
from buildit.store.names import INDEX_FILE, INDEX_LIMIT, builds_of, index_of, name_place

_RECORD_LIMIT = 1 << 20
_CONSIDERED = 20
"""Builds of one package that one place is asked for, the last ones that it names."""

_ASKED = 3
"""Statements of one key that one binhost is asked for."""

_LOCAL = "the local store"
_LINK = re.compile(r"\.\./k/[0-9a-f]{2}/([0-9a-f]{64})/(?:([0-9a-f]{64})\.json\")?")


@dataclass(frozen=True, slots=True)
class Closest:
    """A build that is not the wanted one: where it is, and how it differs."""

    key: BuildKey
    place: str
    differences: tuple[str, ...]


@dataclass(slots=True)
class Nearby:
    """Looks for builds of names; `labels` are the keys of the plan."""

    store: Store
    hosts: tuple[Binhost, ...]
    labels: Mapping[BuildKey, str]
    _records: dict[BuildKey, str | None] = field(default_factory=dict)

    def closest(self, node: Task) -> Closest | None:
        """The build with the fewest differences, the nearest place first; None where no place
        names one of the package."""
        best: Closest | None = None
        for key, place in self._candidates(node):
            record = self._record(key)
            if record is None or key == node.key:
                continue
            try:
                found = told_differences(record, node.record, self.label, node.about.patch_names())
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            if best is None or len(found) < len(best.differences):
                best = Closest(key, place, found)
        return best

    def _candidates(self, node: Task) -> Iterator[tuple[BuildKey, str]]:
        for entry in builds_of(self.store, node.name)[-_CONSIDERED:]:
            yield entry.key, _LOCAL
        for host in self.hosts:
            for key in list(dict.fromkeys(_listed(host, node.name)))[-_CONSIDERED:]:
                yield key, f"'{host.name}'"

    def _record(self, key: BuildKey) -> str | None:
        """The record of a key: a blob whose digest is the key itself."""
        if key not in self._records:
            self._records[key] = next(self._read(key), None)
        return self._records[key]

    def _read(self, key: BuildKey) -> Iterator[str]:
        digest = Digest(key)
        path = f"blobs/sha256/{key}"
        reads: list[Callable[[], bytes | None]]
        reads = [partial(self.store.read, digest)] if self.store.has(digest) else []
        reads += [partial(host.read, path, _RECORD_LIMIT) for host in self.hosts]
        for read in reads:
            with suppress(BuilditError):
                content = read()
                if content is not None and digest_bytes(content) == digest:
                    yield content.decode("utf-8", "replace")

    def label(self, key: BuildKey) -> str:
        """`category/name-version` of a key of the plan or of a record at hand; else its digits."""
        if key in self.labels:
            return self.labels[key]
        record = self._record(key)
        try:
            found = json.loads(record or "")
            return f"{found['name']}-{found['version']}"
        except (ValueError, KeyError, TypeError):
            return key[:12]


def _listed(host: Binhost, name: str) -> list[BuildKey]:
    """The keys of a package that a binhost names: in its directory, or in its index."""
    place = name_place(name)
    if place is None:
        return []
    if host.lists or host.tagged:
        listed = _names(host, f"n/{place}")
        stems = (file.removesuffix(".json") for file in listed)
        return [BuildKey(stem) for stem in stems if is_hex64(stem)]
    return [*_builds(host, name)][::-1]


def _builds(host: Binhost, name: str) -> Mapping[BuildKey, tuple[str, ...]]:
    """The builds of a name that a binhost tells of, newest first, each with its builders; none
    where it cannot be asked. Binhosts of before have no index: there the name's page has links."""
    place = f"n/{name_place(name)}"
    try:
        content = host.read(f"{place}/{INDEX_FILE}", INDEX_LIMIT)
        page = None if content is not None else host.read(f"{place}/index.html", INDEX_LIMIT)
    except BuilditError:
        return {}  # the circuit told of it
    index = index_of(content, name)
    if index is not None:
        return {key: index.builders_of(key) for key in index.keys}
    found: dict[BuildKey, tuple[str, ...]] = {}
    for key, builder in _LINK.findall((page or b"").decode("ascii", "replace")):
        found[key] = (*found.get(key, ()), *([builder] if builder else []))
    return found


@dataclass(frozen=True, slots=True)
class Untrusted:
    """Where the build is, who signed it, and what would have it taken."""

    place: str
    who: str
    hint: str

    def __str__(self) -> str:
        return f"'{self.place}' has it, {self.who}, who is not trusted here; {self.hint}"


def untrusted_builds(node: Task, hosts: Iterable[Binhost]) -> Iterator[Untrusted]:
    """Those of binhosts that are reached over a network; of a directory all were looked at."""
    for host in [one for one in hosts if not one.lists]:
        builders = dict.fromkeys(_builders(host, node))
        for builder in [one for one in builders if one not in host.builders][:_ASKED]:
            refused = host.refusal(node.key, builder)
            if refused is not None and refused.details:
                yield Untrusted(host.name, refused.details[0], refused.hint or refused.message)


def _builders(host: Binhost, node: Task) -> Iterable[str]:
    """Those who state something of a key, as a binhost says."""
    if host.tagged:
        names = _names(host, statement_path(node.key, ""))
        return [name.removesuffix(".json") for name in names]
    return _builds(host, node.name).get(node.key, ())


def _names(host: Binhost, directory: str) -> tuple[str, ...]:
    """What a binhost lists; nothing where it cannot be asked, which was told."""
    try:
        return host.remote.names((directory,))[0]
    except FetchError:
        return ()


# -- early cut-off


@dataclass(frozen=True, slots=True)
class Repetitions:
    """Where repetitions are looked for: the store, for what is believed there, then binhosts."""

    store: Store
    hosts: Iterable[Binhost] = ()
    believed: artifacts.Believed = artifacts.anybody


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
        if artifacts.resolved_of(artifact, old) != resolved:
            continue
        record = store.put_bytes(node.record.encode())
        made = artifacts.restated_for(artifact, old, node.key, record, node.record, outputs)
        keep(made, found)
        return made, f"{place} as {artifact.key[:12]} (its dependencies have the same bytes)"
    return None


def _candidates(
    resolved: Digest, suits: Suits, sources: Repetitions
) -> Iterator[tuple[Found, str]]:
    """Whole artifacts in the store that entries point to, from the places in order."""
    for key in artifacts.pointed_to(sources.store.root, resolved):
        found = artifacts.examine(sources.store, key, suits, sources.believed)
        if isinstance(found, Found):
            yield found, _LOCAL
    for host in sources.hosts:
        for key in dict.fromkeys(_entries(host, resolved)):
            try:
                host.pull(key, sources.store, suits)
            except BuilditError:
                continue  # the binhost told of it; the package is built instead
            found = artifacts.examine(sources.store, key, suits, sources.believed)
            if isinstance(found, Found):
                yield found, f"'{host.name}'"


def _entries(host: Binhost, resolved: Digest) -> Iterator[BuildKey]:
    paths = [artifacts.entry_name(resolved, builder) for builder in host.builders]
    if host.lists:
        directory = str(Path(artifacts.entry_name(resolved, "")).parent)
        names = host.remote.names((directory,))[0]
        paths = [f"{directory}/{one}" for one in names if is_builder(one.removesuffix(".json"))]
    for path in paths:
        try:
            content = host.read(path, artifacts.ENTRY_LIMIT)
        except BuilditError:
            return  # it failed for the key itself, too: that was told
        key = artifacts.parse_entry(content) if content is not None else None
        if key is not None:
            yield key


def _fits(node: Task, outputs: Mapping[BuildKey, Mapping[str, Digest]]) -> Suits:
    """Refuses before any byte is fetched what is something else, or was built against other bytes
    than those at hand."""
    wanted = sorted(tuple(sorted(one.items())) for one in outputs.values() if one)

    def suits(artifact: Artifact) -> str | None:
        if (artifact.name, artifact.version) != (node.name, node.version):
            return "it is another package"
        used = sorted(tuple(sorted(one.items())) for one in artifact.resolved.values())
        return None if used == wanted else "it was built against other dependencies"

    return suits
