"""What others put into an OCI layout that an emitter wrote, and its next build replaces."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from buildit.archive.beneath import Root
from buildit.archive.tar.admit import shown
from buildit.errors import BuilditError

_OURS = re.compile(r"oci-layout|index\.json|blobs(/sha256(/[0-9a-f]{64})?)?")
_REF_NAME = "org.opencontainers.image.ref.name"
_SHOWN = 5
_INDEX_MOST = 4 << 20


def added(target: Path, own: str, identifier: str) -> tuple[str, ...]:
    """What is in `target` and not of its emitter, for a user to read.

    `own` is the tag that the emitter gives, `identifier` (`sha256:…`) the manifest that it wrote
    there, "" where that is not known. A file, or what cannot be read, has nothing: this is a
    courtesy.
    """
    try:
        with Root.open(target) as root:
            found = list(_tagged(root, own, identifier))
            nodes = root.walk(lambda path: _OURS.fullmatch(path) is not None)
            found += [f"'{shown(name)}'" for name, _ in nodes if _OURS.fullmatch(name) is None]
    except (OSError, BuilditError):
        return ()
    more = [f"{len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return (*found[:_SHOWN], *more)


def _tagged(root: Root, own: str, identifier: str) -> Iterator[str]:
    """What the index names besides our image (image-spec annotations.md, `ref.name`)."""
    for descriptor in _descriptors(root):
        annotations = descriptor.get("annotations")
        name = annotations.get(_REF_NAME) if isinstance(annotations, dict) else None
        if name is None:
            yield "a manifest without a tag"
        elif name != own:
            yield f"the tag '{shown(str(name))}'"
        elif identifier and descriptor.get("digest") != identifier:
            yield f"another image of the tag '{shown(own)}'"


def _descriptors(root: Root) -> list[dict[str, object]]:
    try:
        with open(root.open_read("index.json"), "rb") as stream:
            manifests = json.loads(stream.read(_INDEX_MOST))["manifests"]
        return [each for each in manifests if isinstance(each, dict)]
    except (OSError, BuilditError, ValueError, KeyError, TypeError, RecursionError):
        return []
