"""The catalogue of a binhost: what is there, read from names, statements and containers' entries.

Other people publish there too, so everything is read as a stranger's: what is malformed, too large
or says another name than its place does is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from buildit.archive.contents import parse_contents
from buildit.digest import BuildKey, Digest, is_hex64
from buildit.errors import BuilditError, IntegrityError, RecipeError
from buildit.image.output import emitted_files
from buildit.model.artifact import RUNTIME, Artifact
from buildit.model.atom import Version
from buildit.model.image import Emission
from buildit.model.plan import ContainerPlan, Task
from buildit.model.tree import Kind
from buildit.plan.closure import closure, views_of
from buildit.plan.lock import parse_lock
from buildit.remote.binhost.protocols import Views
from buildit.store.artifacts import lookup, split_statement_name
from buildit.store.attest import SIZE_LIMIT, parse_statement
from buildit.store.cas import Store
from buildit.store.names import (
    INDEX_LIMIT,
    LARGEST_INDEX,
    MOST_BUILDS,
    Attestation,
    ContainerEntry,
    ImageEntry,
    IndexedBuild,
    IndexedOutput,
    NameIndex,
    PackageEntry,
    is_part,
    name_at,
    name_place,
    parse_index,
    parse_name_entry,
)
from buildit.trust.policy import claim as outputs_of

PAGE = "index.html"
ENTRY_SUFFIX = ".card.json"
"""After a title, in a container's directory: the entry of that version."""
DETAILS_SUFFIX = ".card"
"""After a key, in a package's directory below `n/`: what a container's entry said of the build."""
SUMS_SUFFIX = ".sha256"
"""After a title: what `sha256sum -c` takes, of all that is published of it."""
DEEPEST_NAME = 8
"""Directories below `containers/`: a container's name may be a path."""
_FILES = (".json", ".html", ".aci", ".asc", ".aci.d", ".oci", ".tar", SUMS_SUFFIX)
"""Ends of what is surely no directory with containers, and need not be asked for."""
MOST_ENTRIES = 12
"""Entries of one container that are read, newest first; of older ones only the titles are shown."""

_FILE_PATH = re.compile(r"[^\x00-\x20\x7f\\\"'`$<>|;&*?~%#:-][^\x00-\x1f\x7f\\%#?:]{0,1023}")
"""What may stand in a list for sha256sum and wget: neither reads it as anything but a name."""
_LIBRARY = re.compile(r"(?:[^/]+/)*(lib[^/]*\.so(?:\.[0-9.]+)?|ld-linux[^/]*\.so\.[0-9]+)")

VersionOrder = tuple[bool, Version | tuple[tuple[int, str], ...]]


@dataclass(frozen=True, slots=True)
class Site:
    """`title` is the binhost's name; `url` where the root is served (https), empty where it is
    not: then the pages have no discovery tags. `pubkeys` says that there is a `pubkeys.asc`."""

    title: str
    url: str = ""
    pubkeys: bool = False

    @property
    def prefix(self) -> str:
        """The root as a name for discovery: host and path, without the port."""
        parts = urlsplit(self.url)
        return f"{parts.hostname or ''}{parts.path}".rstrip("/")

    @property
    def place(self) -> str:
        """The root as `--discover` and `download-path` take it: with the port."""
        parts = urlsplit(self.url)
        return f"{parts.netloc}{parts.path}".rstrip("/")


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A published file of a container: its path beside the entry, SHA-256 and bytes."""

    path: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class ContainerIndex:
    """A directory of `containers/`: the newest of its entries, newest first, the titles of those
    that are `older` and not read, and the names of the files beside them.

    `published` are the files of an entry's list (spec and images), by the entry's title.
    """

    directory: str
    entries: tuple[ContainerEntry, ...]
    files: frozenset[str]
    older: tuple[str, ...] = ()
    published: Mapping[str, tuple[PublishedFile, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CataloguePackage:
    """A name of the catalogue: its directory below `n/`, the version of each key, newest first,
    and the names of all files there (of which our own views are some: they make no difference)."""

    directory: str
    versions: Mapping[BuildKey, str]
    files: frozenset[str] = field(compare=False)

    @property
    def name(self) -> str:
        return name_at(self.directory)

    @property
    def shown(self) -> list[BuildKey]:
        """The builds that the index tells all of."""
        return list(self.versions)[:MOST_BUILDS]

    def index(self, builds: Mapping[BuildKey, IndexedBuild]) -> NameIndex:
        shown = tuple(builds[key] for key in self.shown if key in builds)
        return NameIndex(self.name, shown, tuple(self.versions.items())[MOST_BUILDS:])

    def listed(self) -> NameIndex:
        """The name and the versions alone, as lists show them."""
        return NameIndex(self.name, (), tuple(self.versions.items()))


@dataclass(slots=True)
class Catalogue:
    """Reads one binhost. What never changes there is read once, however often it is asked for."""

    views: Views
    _kept: dict[str, bytes] = field(default_factory=dict)

    def containers(self) -> tuple[ContainerIndex, ...]:
        """Level by level: a container's name may be a path. One without entries is given where it
        has a page, which then says so."""
        found: list[ContainerIndex] = []
        level = ["containers"]
        for _ in range(DEEPEST_NAME):
            further: list[str] = []
            for directory, names in zip(level, self.views.names(level), strict=True):
                entries = (name for name in names if name.endswith(ENTRY_SUFFIX))
                titles = {name.removesuffix(ENTRY_SUFFIX) for name in entries}
                # Beside an entry lies the container's spec under its title, without entries.
                others = (name for name in names if name not in titles and _is_text(name))
                further += [f"{directory}/{one}" for one in others if not one.endswith(_FILES)]
                if titles or (PAGE in names and directory != "containers"):
                    found.append(self._container(directory, names, filter(_is_text, titles)))
            level = further
        return tuple(sorted(found, key=lambda one: one.directory))

    def _container(
        self, directory: str, names: Sequence[str], titles: Iterator[str]
    ) -> ContainerIndex:
        path = directory.partition("/")[2]

        def by_title(title: str) -> tuple[VersionOrder, str]:
            """`<name>-<version>-<os>-<arch>`."""
            rest = title.removeprefix(f"{path.rpartition('/')[2]}-")
            return version_order(rest.rsplit("-", 2)[0]), title

        def newest(entry: ContainerEntry) -> tuple[VersionOrder, str, str]:
            return version_order(entry.version), entry.os, entry.arch

        order = sorted(titles, key=by_title, reverse=True)
        read = order[:MOST_ENTRIES]
        paths = [f"{directory}/{title}{ENTRY_SUFFIX}" for title in read]
        found = [parse_index(ContainerEntry, one) for one in self.views.read(paths, INDEX_LIMIT)]
        entries = [
            one for title, one in zip(read, found, strict=True) if one and one.title == title
        ]
        lists = [f"{directory}/{entry.title}.json" for entry in entries]
        pairs = zip(entries, self.views.read(lists, INDEX_LIMIT), strict=True)
        return ContainerIndex(
            path,
            tuple(sorted(entries, key=newest, reverse=True)),
            frozenset(name for name in names if not name.endswith((".html", SUMS_SUFFIX))),
            tuple(order[MOST_ENTRIES:]),
            {entry.title: _published(content, path) for entry, content in pairs},
        )

    def packages(self) -> tuple[CataloguePackage, ...]:
        """All names. A directory with a page and no entries is given too."""
        names = self.views.names
        categories = [f"n/{name}" for name in names(["n"])[0] if _is_directory(name)]
        below = zip(categories, names(categories), strict=True)
        inner = ((where, name) for where, rest in below for name in rest if _is_directory(name))
        directories = [f"{where}/{name}" for where, name in inner]
        listed = dict(zip(directories, names(directories), strict=True))
        paths = [
            f"{where}/{name}"
            for where, files in listed.items()
            for name in files
            if name.endswith(".json") and is_hex64(name.removesuffix(".json"))
        ]
        versions: dict[str, dict[BuildKey, str]] = {}
        for path, content in zip(paths, self.lasting(paths), strict=True):
            entry = parse_name_entry(content)
            if entry is not None and path == f"n/{name_place(entry.name)}/{entry.key}.json":
                versions.setdefault(path.rpartition("/")[0], {})[entry.key] = entry.version
        return tuple(
            CataloguePackage(
                where.removeprefix("n/"), _newest_first(versions.get(where, {})), frozenset(files)
            )
            for where, files in listed.items()
            if where in versions or PAGE in files
        )

    def statements(self, keys: Sequence[BuildKey]) -> dict[BuildKey, tuple[str, ...]]:
        """The names of the files about each key."""
        found = self.views.names([f"k/{key[:2]}/{key}" for key in keys])
        return dict(zip(keys, found, strict=True))

    def builds(self, named: Mapping[BuildKey, tuple[str, ...]]) -> dict[BuildKey, IndexedBuild]:
        """What is said of each key, in files of these names, which never change."""
        files = [
            (key, split[0], name, f"{name}.sig" if f"{name}.sig" in names else "")
            for key, names in named.items()
            for name in sorted(names, key=lambda name: (len(name), name))
            if (split := split_statement_name(name)) is not None
        ]
        paths = [f"k/{key[:2]}/{key}/{name}" for key, _, name, _ in files]
        first: dict[BuildKey, Artifact] = {}
        outputs: dict[BuildKey, tuple[IndexedOutput, ...]] = {}
        said: dict[BuildKey, list[Attestation]] = {}
        contents = self.lasting(paths, SIZE_LIMIT)
        for (key, builder, name, signature), content in zip(files, contents, strict=True):
            artifact = _artifact(content, key, builder)
            if artifact is None:
                continue
            same = outputs_of(first.setdefault(key, artifact)) == outputs_of(artifact)
            if same:
                outputs[key] = _outputs(artifact, outputs.get(key, ()))
            told = Attestation(builder, name, signature, same, artifact.restated)
            said.setdefault(key, []).append(told)
        return {
            key: IndexedBuild(key, one.version, one.platform, outputs[key], tuple(said[key]))
            for key, one in first.items()
        }

    def details(self, packages: Sequence[CataloguePackage]) -> Iterator[PackageEntry]:
        """What earlier entries of containers said of the builds."""
        names = ((one, f"{key}{DETAILS_SUFFIX}") for one in packages for key in one.shown)
        paths = [f"n/{one.directory}/{name}" for one, name in names if name in one.files]
        for path, content in zip(paths, self.lasting(paths), strict=True):
            entry = parse_index(PackageEntry, content)
            if entry is not None and path.endswith(f"/{entry.key}{DETAILS_SUFFIX}"):
                yield entry

    def lasting(self, paths: Sequence[str], limit: int = INDEX_LIMIT) -> list[bytes | None]:
        """Files that are never replaced: each is read once."""
        new = [path for path in paths if path not in self._kept]
        for path, content in zip(new, self.views.read(new, limit), strict=True):
            if content is not None:
                self._kept[path] = content
        return [self._kept.get(path) for path in paths]


def version_order(text: str) -> VersionOrder:
    """Orders versions, after all that is none: that is ordered by its words and numbers, since a
    container's version is any text (`1.22.1-p2` before `1.22.1-p10`)."""
    try:
        return True, Version.parse(text)
    except BuilditError:
        words = re.findall(r"[0-9]{1,18}|[^0-9]+", text)
        return False, tuple((int(w), "") if w[0] in "0123456789" else (-1, w) for w in words)


def _newest_first(versions: Mapping[BuildKey, str]) -> dict[BuildKey, str]:
    """One order for every publisher."""
    order = sorted(versions, key=lambda key: (version_order(versions[key]), key), reverse=True)
    return {key: versions[key] for key in order}


def _published(content: bytes | None, directory: str) -> tuple[PublishedFile, ...]:
    """The files of a container's list, by their path beside the list."""
    prefix = f"containers/{directory}/"
    try:
        files = json.loads(content or b"{}")["files"].items()
        found = [(path, one["sha256"], one["size"]) for path, one in sorted(files)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ()
    ours = ((path.removeprefix(prefix), *rest) for path, *rest in found if path.startswith(prefix))
    return tuple(PublishedFile(*one) for one in ours if _is_plain(*one))


def _is_plain(path: str, digest: object, size: object) -> bool:
    """Whether a published file can stand in a list for other programs."""
    named = _FILE_PATH.fullmatch(path) is not None and _is_text(path)
    below = not {"", ".", ".."} & set(path.split("/"))
    known = isinstance(digest, str) and is_hex64(digest)
    return named and below and known and type(size) is int and 0 <= size < LARGEST_INDEX


def _artifact(content: bytes | None, key: BuildKey, builder: str) -> Artifact | None:
    try:
        statement = None if content is None else parse_statement(content, key)
    except IntegrityError:
        return None
    return statement.artifact if statement is not None and statement.builder == builder else None


def _outputs(artifact: Artifact, before: Sequence[IndexedOutput]) -> tuple[IndexedOutput, ...]:
    """The outputs, what runs first, with the shortest compressed form that a statement names."""
    known = {one.name: one.packed for one in before}
    found = []
    for name, output in artifact.outputs.items():
        sizes = [one.size for one in output.encodings]
        sizes += [known[name]] if known.get(name) else []
        found.append(IndexedOutput(name, output.size, min(sizes, default=0), output.diff_id))
    return tuple(sorted(found, key=lambda one: (one.name != RUNTIME, one.name)))


def _is_directory(name: str) -> bool:
    return is_part(name) and name != PAGE


def _is_text(name: str) -> bool:
    """Whether it can be written as UTF-8."""
    return not any("\ud800" <= one <= "\udfff" for one in name)


# -- the entry of a container that was built


def container_entry(
    plan: ContainerPlan,
    node: Callable[[BuildKey], Task],
    store: Store,
    emissions: Sequence[Emission] = (),
    flags: Mapping[str, tuple[str, ...]] | None = None,
) -> ContainerEntry:
    """What is inside; `node` knows the .debs of the toolchain too, `flags` are those of each
    package of the plan, by its name.

    Raises:
        IntegrityError, StoreError: the listing of a layer is missing or corrupt.
    """

    def obtain(one: Task) -> Artifact:
        found = lookup(store, one.key)
        return found or Artifact(one.key, one.name, one.version, one.platform, {}, Digest(""))

    members = closure(plan.roots, node, obtain, views_of((*plan.tasks, *plan.views))).members
    inside = list(dict.fromkeys(key for key, output in members if output == RUNTIME))
    packages_of = [one.key for one in plan.tasks if one.inputs.image is None]
    others = [key for key in packages_of if key not in inside]
    packages = []
    for key in (*inside, *others):
        one = node(key)
        runtime = obtain(one).outputs.get(RUNTIME)
        packages.append(
            PackageEntry(
                key=one.key,
                name=one.name,
                version=one.version,
                flags=(flags or {}).get(one.name, ()),
                patches=one.about.patch_names(),
                inside=key in inside,
                size=runtime.size if runtime else 0,
                libraries=libraries(store.read(runtime.contents)) if runtime else (),
                notes=tuple(patch.description for patch in one.about.patches),
                description=one.about.description,
                deb=one.subject or "",
            )
        )
    images = tuple(map(_image, emissions))
    who = (plan.name, plan.version, plan.os, plan.arch, plan.author)
    return ContainerEntry(*who, tuple(packages), images)


def libraries(contents: bytes) -> tuple[str, ...]:
    """The names of the shared libraries that a layer has as files, sorted."""
    entries = (entry for entry in parse_contents(contents) if entry.kind is Kind.FILE)
    found = (_LIBRARY.fullmatch(entry.path) for entry in entries)
    return tuple(sorted({match[1] for match in found if match is not None}))


def _image(emission: Emission) -> ImageEntry:
    path = Path(emission.path)
    size = sum(part.stat().st_size for part in emitted_files(path))
    digest = "" if path.is_dir() else emission.digest
    return ImageEntry(path.name, emission.format, size, digest, emission.identifier)


def flags_of(plan: ContainerPlan) -> dict[str, tuple[str, ...]]:
    """The effective flags of each package, as the container's lock has them; none without one."""
    path = Path(plan.directory) / "buildit.lock"
    try:
        section = parse_lock(path.read_text("utf-8"), str(path)).section(plan.platform)
    except (OSError, UnicodeDecodeError, RecipeError):
        return {}
    return {package.name: package.flags for package in section.packages}
