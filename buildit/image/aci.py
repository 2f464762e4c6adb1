"""App Container images, read back: the tree of one, or of one and all that it depends on, which lie
beside it in `NAME.aci.d`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256, sha512
from pathlib import Path
from typing import Any

from buildit.archive.compress import decompressed
from buildit.errors import BuilditError
from buildit.image.formats import aci
from buildit.image.merge import LayerChange
from buildit.image.output import parts_of
from buildit.image.packed import is_tar
from buildit.image.reading import Hashed, Hasher, Reading, SeenTree, budget_of, read_entries
from buildit.image.rendering import Rendered, render_order
from buildit.image.rules import program_problem
from buildit.model.tree import Entry, Kind

_MAGICS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")


@dataclass(frozen=True, slots=True)
class _Archive:
    """One ACI as it was read; `document` is None where it has no valid manifest. `size` is of the
    plain tar, in bytes."""

    identifier: str
    entries: tuple[Entry, ...] | None
    document: Mapping[str, Any] | None
    problems: tuple[str, ...]
    size: int = 0


def read_aci(path: Path, hasher: Hasher = sha256) -> Reading:
    """Read all of an ACI: its tree, and every rule that it breaks (appc spec aci.md). Where images
    that it depends on lie beside it, the tree is the one that all of them render to.

    Raises:
        OSError: a file cannot be read.
    """
    beside = [one for one in parts_of(path) if one.suffix == ".aci"]
    stored = sum(one.stat().st_size for one in (path, *beside))
    archive = _read(path, hasher, stored)
    document, entries, problems = archive.document, archive.entries, list(archive.problems)
    if entries is None or document is None:
        return Reading("aci", archive.identifier, entries, archive.problems)
    wants = bool(document.get("dependencies")) and bool(beside)
    if wants or document.get("pathWhitelist"):
        known = _Known(problems)
        known.read(beside if wants else [], hasher, stored, archive.size)
        rendered = known.rendered(document, entries, ())
        entries = _laid(render_order(rendered))
    start = aci.ACI.start({**document, "dependencies": []} if wants else document)
    if start.program is not None and (problem := _start_problem(start.program, entries)):
        problems.append(f"manifest: app.exec: {problem}")
    start_document = json.dumps(document).encode()
    return Reading("aci", archive.identifier, entries, tuple(problems), start_document)


def _read(path: Path, hasher: Hasher, stored: int, before: int = 0) -> _Archive:
    """Read one of files that are `stored` bytes, and of which `before` were unpacked."""
    problems = [] if path.suffix == ".aci" else ["the file name must end in .aci"]
    with path.open("rb") as stream:
        # appc tools tell the compression by these magics, and know no other.
        head = stream.read(6)
        stream.seek(0)
        if not head.startswith(_MAGICS) and not is_tar(stream):
            problems.append("it is neither a tar nor compressed with gzip, bzip2 or xz")
        budget = budget_of(stored, before)
        try:
            with decompressed(stream, budget, str(path)) as plain:
                hashed = Hashed(plain, sha512)
                members = read_entries(hashed, path.name, hasher)
                tree, manifest = _aci_tree(members, problems)
                identifier = f"sha512-{hashed.digest()}"
        except BuilditError as error:
            return _Archive("", None, None, (*problems, error.message))
    entries = tree.entries(stacked=False)
    problems += tree.problems
    document = _document(manifest, problems)
    return _Archive(identifier, entries, document, tuple(problems), hashed.size)


def _document(manifest: bytes | None, problems: list[str]) -> Mapping[str, Any] | None:
    if manifest is None:
        return None
    try:
        document = json.loads(manifest)
    except (ValueError, RecursionError) as error:
        problems.append(f"manifest: is not JSON: {error}")
        return None
    found = [f"manifest: {problem}" for problem in aci.manifest_problems(document)]
    problems += found
    return None if found else dict(document)


def _aci_tree(
    found: Iterator[tuple[Entry, bytes]], problems: list[str]
) -> tuple[SeenTree, bytes | None]:
    tree = SeenTree()
    manifest: bytes | None = None
    has_rootfs = False
    members: list[Entry] = []
    for entry, content in found:
        if entry.path == "manifest" and entry.kind is Kind.FILE:
            manifest = content
        elif entry.path == "rootfs" and entry.kind is Kind.DIRECTORY:
            has_rootfs = True
            members.append(replace(entry, path=""))
        elif not entry.path:
            continue
        elif entry.path.startswith("rootfs/"):
            members.append(_without_rootfs(entry, problems))
        else:
            problems.append(f"{entry.path!r} is neither `manifest` nor beneath `rootfs/`")
    if not has_rootfs:
        problems.append("no directory entry `rootfs`")
    if manifest is None:
        problems.append("no regular file `manifest`")
    tree.lay(members)
    return tree, manifest


def _without_rootfs(entry: Entry, problems: list[str]) -> Entry:
    path = entry.path.removeprefix("rootfs/")
    if entry.kind is not Kind.HARDLINK:
        return replace(entry, path=path)
    if not entry.target.startswith("rootfs/"):
        problems.append(f"{entry.path!r} is a hard link to {entry.target!r}, outside the rootfs")
    return replace(entry, path=path, target=entry.target.removeprefix("rootfs/"))


MOST_LAID = 4_000_000
"""Entries, and images, that one is rendered from: a few that each depend on the next twice are
without end."""


@dataclass(slots=True)
class _Known:
    """Images that others may depend on, by their image IDs; what is wrong goes to `problems`."""

    problems: list[str]
    archives: dict[str, tuple[str, _Archive]] = field(default_factory=dict)
    laid: int = 0

    def read(self, paths: list[Path], hasher: Hasher, stored: int, before: int) -> None:
        for path in paths:
            one = _read(path, hasher, stored, before)
            before += one.size
            self.problems += [f"{path.name}: {problem}" for problem in one.problems]
            if one.identifier:
                self.archives[one.identifier] = (path.name, one)

    def rendered(
        self, document: Mapping[str, Any], entries: tuple[Entry, ...], above: tuple[str, ...]
    ) -> Rendered:
        """An image and all that it depends on, `above` being those that depend on it."""
        found = []
        for wanted in document.get("dependencies", ()) if self.archives else ():
            name, identifier = wanted["imageName"], wanted.get("imageID", "")
            title, archive = self._by_id(identifier)
            if archive is None or archive.entries is None or archive.document is None:
                self.problems.append(
                    f"it depends on {name} ({identifier[:19]}…), which is not there"
                )
            elif identifier in above:
                self.problems.append(f"{title} depends on itself")
            elif self.laid >= MOST_LAID:
                self.problems.append("what it depends on is laid down again and again, without end")
                break
            else:
                self.problems.extend(f"{title}: {one}" for one in _other(wanted, archive.document))
                self.laid += 1 + len(archive.entries)
                deeper = (*above, identifier)
                found.append(self.rendered(archive.document, archive.entries, deeper))
        return Rendered(entries, tuple(document.get("pathWhitelist", ())), found)

    def _by_id(self, identifier: str) -> tuple[str, _Archive | None]:
        """An image ID may be cut short (appc spec types.md); one that fits several names none."""
        fit = [one for known, one in self.archives.items() if known.startswith(identifier)]
        return fit[0] if identifier and len(fit) == 1 else ("", None)


def _other(wanted: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[str]:
    """What a dependency asks for and the image of its ID is not."""
    if document["name"] != wanted["imageName"]:
        yield f"is {document['name']}, not {wanted['imageName']}"
    labels = {each["name"]: each["value"] for each in document.get("labels", ())}
    for each in wanted.get("labels", ()):
        if labels.get(each["name"]) != each["value"]:
            yield f"its label {each['name']} is not {each['value']!r}"


def _laid(layers: list[list[Entry]]) -> tuple[Entry, ...]:
    """The tree of images that are laid over each other; its root is the last one's."""
    tree = SeenTree()
    for number, entries in enumerate(layers):
        last = number == len(layers) - 1
        tree.merged.lay(LayerChange(tuple(one for one in entries if one.path or last)))
    return tree.entries(stacked=False)


def _start_problem(program: str, entries: tuple[Entry, ...]) -> str:
    tree = {entry.path: entry for entry in entries}

    def find(path: str) -> Entry | None:
        entry = tree.get(path)
        return tree[entry.target] if entry and entry.kind is Kind.HARDLINK else entry

    return program_problem(program, find)
