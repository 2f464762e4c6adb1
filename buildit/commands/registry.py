"""A container in a registry that is a binhost: in a repository of its own, below that of the
packages. Its OCI images are tags that any client pulls; its spec and all other images are
artifacts, whose files `oras pull` writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from buildit.archive.streams import run_all
from buildit.commands.images import PushedImage, push_image
from buildit.digest import canonical, digest_file, oci_digest
from buildit.image.formats.table import Document
from buildit.image.rules import file_reference, tag
from buildit.model.image import Emission
from buildit.model.plan import ContainerPlan
from buildit.remote.registry.client import IMAGE_MANIFEST, Registry
from buildit.remote.registry.referrers import EMPTY, EMPTY_MEDIA, artifact, titled

if TYPE_CHECKING:
    from buildit.trust.ssh import SigningKey

SPEC_MEDIA = "application/vnd.buildit.container.v1"
IMAGE_MEDIA = "application/vnd.buildit.image.v1"
"""And `+` and the format, as `image: {type: …}` has it."""
FILE_MEDIA = "application/octet-stream"
_AT_ONCE = 4


def container_part(name: str) -> str:
    """A container's name as part of a repository's."""
    parts = [file_reference(part) for part in name.split("/")]
    return "/".join(part for part in parts if part) or "container"


def publish_container(
    plan: ContainerPlan,
    there: Registry,
    spec: Mapping[str, Path],
    emissions: Sequence[tuple[Emission, Mapping[str, Path]]],
    key: SigningKey | None,
    progress: Callable[[int, int], None],
) -> tuple[int, int]:
    """Bring the files of a spec by their names, and images with theirs, to the container's own
    repository; counts of the blobs and of the bytes that it did not have.

    Raises:
        FetchError: the registry cannot be talked to, or refuses.
        IntegrityError: an image is not what it says.
    """
    version = tag(f"{plan.version}-{plan.os}-{plan.arch}")
    sent = [_artifact(there, SPEC_MEDIA, f"{version}.container", spec)]
    others: dict[str, dict[str, Path]] = {}
    for emission, files in emissions:
        if emission.format not in ("oci", "oci-archive"):
            others.setdefault(emission.format, {}).update(files)  # an ACI may have several
            continue
        done = push_image(emission.path, there.at, there, key)
        sent.append((done.blobs, done.sent))
        _keep(there, done, plan.version, version)
        progress(sum(size for _, size in sent), sum(size for _, size in sent))
    for name, files in others.items():
        sent.append(_artifact(there, f"{IMAGE_MEDIA}+{name}", f"{version}.{name}", files))
    return sum(count for count, _ in sent), sum(size for _, size in sent)


def _keep(there: Registry, done: PushedImage, version: str, titled: str) -> None:
    """Give a tag to all that belongs to an image: a registry may remove as garbage what has none,
    even where an index names it. An image of one platform has that of its platform beside its
    version, which is another image's once somebody publishes that for another platform."""
    wanted = {f"{titled}.statement": done.statement} if done.statement else {}
    several = platform_tags(there.manifest(done.reference.digest), version)
    wanted |= several or {titled: done.reference.digest}
    for named, digest in wanted.items():
        found = there.manifest(digest)
        if found is not None:
            there.put_manifest(*found, named)


def platform_tags(manifest: tuple[bytes, str] | None, version: str) -> dict[str, str]:
    """Tags and digests of the images that an index names, `VERSION-OS-ARCH`."""
    found: dict[str, str] = {}
    listed = json.loads(manifest[0]).get("manifests", ()) if manifest is not None else ()
    for one in listed:
        at = one.get("platform", {})
        parts = (version, at.get("os", ""), at.get("architecture", ""), at.get("variant", ""))
        found[tag("-".join(filter(None, parts)))] = one["digest"]
    return found


def _artifact(there: Registry, kind: str, named: str, files: Mapping[str, Path]) -> tuple[int, int]:
    """Files under one tag; counts of the blobs and of the bytes that the registry lacked."""
    config = there.put_bytes(EMPTY, EMPTY_MEDIA)
    works = [partial(_file, there, title, path) for title, path in sorted(files.items())]
    found: Iterable[tuple[Document, int | None]] = run_all(works, _AT_ONCE)
    layers = [descriptor for descriptor, _ in found]
    there.put_manifest(canonical(artifact(kind, config, layers, None)), IMAGE_MANIFEST, named)
    new = [size for _, size in found if size is not None]
    return len(new), sum(new)


def _file(there: Registry, title: str, path: Path) -> tuple[Document, int | None]:
    digest, size = oci_digest(digest_file(path)), path.stat().st_size
    new = there.has_blob(digest) is None
    if new:
        there.put_blob(digest, size, lambda: path.open("rb"))
    descriptor = titled({"mediaType": FILE_MEDIA, "digest": digest, "size": size}, title)
    return descriptor, size if new else None
