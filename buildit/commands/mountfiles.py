"""The files of mounts as layers of their own. Pure."""

from __future__ import annotations

from buildit.commands.sync import EPOCH, Taken
from buildit.digest import digest_bytes
from buildit.image.merge import with_parents
from buildit.make.layer import layer_task
from buildit.model.copying import StepMount
from buildit.model.plan import About, Task
from buildit.model.tree import Entry, Kind

MOUNTED_AT = "/mounted/"
"""Where in their layer the files of a mount are."""

MOUNTED_FILE = "mounted/file"
"""The file of a text."""


def mounted_path(taken: Taken) -> str:
    """Where in its layer what a mount shows is: a directory, or a file."""
    return taken.name(taken.nodes[0])


def text_mount_task(mount: StepMount, place: str) -> Task:
    """The layer of a mount that is a text."""
    data, mode = mount.content.encode(), int(mount.mode or "0644", 8)
    size, digest = len(data), digest_bytes(data)
    owner = mount.uid, mount.gid
    entry = Entry(MOUNTED_FILE, Kind.FILE, mode, EPOCH, *owner, size=size, digest=digest)
    entries = with_parents([entry], {}, Entry("", Kind.DIRECTORY, 0o755, EPOCH))
    return layer_task("texts", entries, {MOUNTED_FILE: data}, about=About(origin=place))
