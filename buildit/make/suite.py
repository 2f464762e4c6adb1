"""The maker of `from: {suite: …}`: the exact .debs of a Debian root as one layer, with their owners
and modes and the database of dpkg, in which they are unpacked and not configured yet.

What configures them is a `run` step over that layer (`configure_step`): the packages' own scripts,
in the sandbox. Together they give what a bootstrap of the same packages gives. No preinst runs:
those of the packages here look after upgrades alone, but for base-passwd's, whose files the step
lays first, and mawk's link, which scripts use before mawk is configured.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

from buildit.archive.beneath import Root
from buildit.archive.contents import MERGED_LINKS, MERGED_USR, merged_path
from buildit.archive.deb import read_control
from buildit.archive.streams import Content
from buildit.digest import canonical, digest_bytes
from buildit.errors import IntegrityError
from buildit.image.merge import (
    GENERATED,
    LayerChange,
    MergedTree,
    directories_above,
    linked,
    with_parents,
)
from buildit.make.debian_root import DPKG, INFO, info_files, merged_status, status_paragraph
from buildit.make.debtree import Filling
from buildit.make.layer import put_layer
from buildit.make.makers import AtHand, BuildPlace, Made, put_record
from buildit.model.plan import About, DebRef, ImageRef, Inputs, RunStep, Task, Toolchain
from buildit.model.tree import Entry, Kind
from buildit.plan.identity import SCHEME, SUITE, step_task

SUITE_RULE = "1"
"""Version of how .debs become the layer; in the key."""

SUITE_OUTPUT = "layer-000"

_FIRST = "base-files"
"""What it says of a directory counts: the others repeat directories as it happens."""

_SCRIPTS = (".config", ".postinst", ".postrm", ".preinst", ".prerm")

_CONFIGURE = """\
cp /usr/share/base-passwd/passwd.master /etc/passwd
cp /usr/share/base-passwd/group.master /etc/group
ln -s mawk /usr/bin/awk
dpkg --force-unsafe-io --configure -a
"""


def suite_image(name: str, debs: Iterable[DebRef], platform: str, place: str) -> ImageRef:
    """What a container begins with that begins with the suite `name`, of these .debs."""
    digest = digest_bytes(canonical(_record(debs)))
    return ImageRef(f"{SUITE}:{name}", SUITE, digest, "", platform, place)


def suite_task(image: ImageRef, debs: Sequence[DebRef]) -> Task:
    """The task of the layer of these .debs."""
    inputs = Inputs(debs=tuple(debs), image=image)
    about = About(origin=image.place, description=image.reference)
    return step_task(_record(debs), inputs, about, (SUITE_OUTPUT,), platform=image.platform)


def _record(debs: Iterable[DebRef]) -> dict[str, object]:
    return {
        "scheme": SCHEME,
        "type": SUITE,
        "debs": sorted({deb.digest for deb in debs}),
        "rules": {SUITE: SUITE_RULE, "merged-usr": MERGED_USR},
    }


def configure_step(image: ImageRef) -> RunStep:
    """The step that configures what the layer has."""
    argv = ("/bin/sh", "-ec", _CONFIGURE)
    return RunStep(argv, (), "range", f"dpkg --configure -a of {image.reference}", image.place)


def fetches(task: Task, toolchain: Toolchain) -> Inputs:
    """Its .debs."""
    del toolchain
    return Inputs(debs=task.inputs.debs)


def make(task: Task, at_hand: AtHand, place: BuildPlace, work: Path) -> Made:
    """Unpack the .debs into one layer.

    Raises:
        IntegrityError: a .deb is damaged, or two of them have the same file.
        StoreError: the store cannot be written, or a .deb is missing.
        Interrupted: `place.stop` was set.
    """
    del at_hand
    debs = task.inputs.debs
    if json.loads(task.record)["debs"] != sorted({deb.digest for deb in debs}):
        raise IntegrityError("its .debs are not those of its record", hint="plan it again")
    tree = work / "tree"
    tree.mkdir(parents=True)
    database: dict[str, bytes] = {}
    status: dict[str, bytes] = {}

    def control(deb: DebRef, path: Path, names: list[str]) -> None:
        with path.open("rb") as packed:
            members = read_control(packed, f"{deb.name} {deb.version}")
        conffiles = members.get("conffiles", b"")
        with Root.open(tree) as root:
            status[deb.name] = status_paragraph(
                members["control"], conffiles, "unpacked", lambda path: _md5(root, path)
            )
        database.update(info_files(members, names))

    unpacked = Filling(tree, place.store.sound, lambda _: True, place.stop).unpack(debs, control)
    ordered = sorted(unpacked, key=lambda pair: (pair[0].name != _FIRST, pair[0].name))
    entries, epoch = root_entries([found for _, found in ordered])
    texts = {f"{INFO}/{name}": text for name, text in database.items()}
    texts |= {f"{INFO}/format": b"1\n", f"{DPKG}/status": merged_status(status.values())}
    entries += [
        Entry(path, Kind.FILE, 0o755 if path.endswith(_SCRIPTS) else 0o644, epoch, size=len(text))
        for path, text in texts.items()
    ]
    with Root.open(tree) as root, place.store.batch() as batch:

        def content(entry: Entry) -> Content:
            if entry.path in texts:
                return io.BytesIO(texts[entry.path])
            return cast(Content, root.open_file(entry.path))

        new = Entry("", Kind.DIRECTORY, 0o755, epoch)
        output = put_layer(batch, with_parents(entries, {}, new), content)
        return Made({SUITE_OUTPUT: output}, put_record(task, batch), epoch)


def _md5(root: Root, path: str) -> str:
    """What dpkg has of a conffile, to see later whether the user changed it."""
    with suppress(OSError), closing(root.open_file(merged_path(path.lstrip("/")))) as stream:
        return hashlib.md5(stream.read(), usedforsecurity=False).hexdigest()
    return "newconffile"


def root_entries(packages: Iterable[Sequence[Entry]]) -> tuple[list[Entry], int]:
    """The entries of packages as one tree, and the latest time of a file in it; of a directory that
    several have the first counts, as dpkg leaves what is there as it is."""
    found: dict[str, Entry] = {}
    for entries in packages:
        for entry in entries:
            if entry.path:
                found.setdefault(entry.path, entry)
    epoch = max((one.mtime for one in found.values() if one.kind is Kind.FILE), default=0)
    merged = MergedTree()
    merged.lay(LayerChange(tuple(found.values())))
    own = {path: one for path, one in merged.tree.items() if one.layer != GENERATED}
    made = [member.entry for member in linked(own)]
    there = {*found, *directories_above(found)}
    links = [replace(one, mtime=epoch) for one in MERGED_LINKS if one.target in there]
    return [*made, *(one for one in links if one.path not in found)], epoch
