"""What is copied into an image from elsewhere than the project, and what commands see mounted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from buildit.digest import BuildKey, Digest


@dataclass(frozen=True, slots=True)
class CopyOrigin:
    """An image that files are taken of: the outputs of its task are its layers, bottom first;
    `reference` names it to people."""

    key: BuildKey
    outputs: tuple[str, ...]
    reference: str


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file of a URL: its bytes are a blob of the store."""

    url: str
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class StepMount:
    """What a command finds at `dest`, and no layer has: a `bind` of files that lie elsewhere, a
    `cache`, which is empty at first, memory (`tmpfs`), a `text`, or the `secret` of an `id`.

    `source` is the number of the step's source that has its files, -1 for none. `mode` is octal, or
    empty for the usual one; `size` in bytes, 0 for the usual one. A secret is also in `variable`,
    where that is said, and must be there where it is `required`. A cache that is `kept` has what
    the last command left in the one of its `id`.
    """

    kind: Literal["bind", "cache", "tmpfs", "text", "secret"]
    dest: str
    source: int = -1
    id: str = ""
    mode: str = ""
    uid: int = 0
    gid: int = 0
    size: int = 0
    content: str = ""
    writable: bool = False
    required: bool = False
    variable: str = ""
    kept: bool = False


@dataclass(frozen=True, slots=True)
class MountedFiles:
    """A mount as a record has it: the files are those at `path` of a layer, by its diff_id, empty
    where there are none."""

    mount: StepMount
    layer: str = ""
    path: str = ""
