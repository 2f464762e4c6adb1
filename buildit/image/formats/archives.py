"""Images in one file, for engines that load them: an OCI layout in a tar (`oci-archive`, as skopeo
and podman call it), and what `docker save` writes (`docker-archive`, moby's image spec v1.2).

Layers go into the file straight from the store; only what is compressed or merged anew lies on the
disk before.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from buildit.archive.tar.write import TarWriter
from buildit.digest import Digest, canonical, digest_bytes, oci_digest
from buildit.image import rules
from buildit.image.formats import oci
from buildit.image.formats.table import Document, Format, ForPlatform, LayerBlob, Plan
from buildit.image.layertar import file_entry, write_tree
from buildit.image.merge import Rootfs, directories_above
from buildit.image.output import BlobPath
from buildit.model.image import Emission, Image
from buildit.model.tree import Entry, Kind
from buildit.store.blobs import CorruptBlob

MANIFEST = "manifest.json"
"""What names the images of a docker archive."""


def _oci_plan(image: Image, config: Document, layers: Sequence[LayerBlob]) -> Plan:
    """podman calls a loaded archive by its whole `ref.name`, containerd by its own annotation."""
    return oci.layout_plan(image, config, layers, rules.reference(image))


_Made = Sequence[tuple[ForPlatform, Sequence[LayerBlob]]]
_Write = Callable[[Sequence[ForPlatform], BlobPath, Path], Emission]


def _oci_together(made: _Made) -> Plan:
    return oci.index_plan(made, rules.reference(made[0][0].image))


def _alone(
    plan_of: Callable[[Image, Document, Sequence[LayerBlob]], Plan],
) -> Callable[[_Made], Plan]:
    """The plan of a file that holds one image."""
    return lambda made: plan_of(made[0][0].image, made[0][0].document, made[0][1])


def _oci_member(layer: LayerBlob) -> str:
    return f"{oci.LAYOUT_BLOBS}/{layer.digest}"


def _docker_plan(image: Image, config: Document, layers: Sequence[LayerBlob]) -> Plan:
    """The config is named by its digest, which is docker's image ID."""
    encoded = oci.whole_config(image, config, layers)
    digest = digest_bytes(encoded)
    described = {
        "Config": f"{digest}.json",
        "RepoTags": [rules.reference(image)],
        "Layers": [_docker_member(one) for one in layers],
    }
    documents = {MANIFEST: canonical([described]), f"{digest}.json": encoded}
    return Plan(documents, tuple(layers), digest)


def _docker_member(layer: LayerBlob) -> str:
    return f"{layer.diff_id}.tar"


def _writer(plan_of: Callable[[_Made], Plan], member: Callable[[LayerBlob], str]) -> _Write:
    """Writes the file of a plan, a layer as the member that `member` names.

    What it returns raises StoreError or IntegrityError where the store lacks a blob or has it
    damaged, and OSError where the file cannot be written.
    """

    def write(parts: Sequence[ForPlatform], blob: BlobPath, fresh: Path) -> Emission:
        image, epoch = parts[0].image, max(part.image.epoch for part in parts)
        codec = image.compress or "none"
        place = oci.LayerPlace(blob, fresh.with_name("layers"), codec, kept=True)
        place.directory.mkdir()
        plan = plan_of(oci.write_parts(parts, place))
        layers = {member(layer): layer for layer in plan.layers}
        names = {*plan.documents, *layers}

        def fill(tar: TarWriter) -> None:
            for path in sorted(names | directories_above(names)):
                if path in plan.documents:
                    content = plan.documents[path]
                    tar.add_file(file_entry(path, len(content), epoch), io.BytesIO(content))
                elif path in layers:
                    _add_layer(tar, path, layers[path], epoch, place)
                else:
                    tar.add(Entry(path, Kind.DIRECTORY, 0o755, mtime=epoch))

        digest, _ = write_tree(fresh, fill)
        fresh.chmod(0o644)  # whatever the umask
        named = oci_digest(Digest(plan.digest))
        return Emission(fresh, image.format, digest, named, oci.notices_of(parts))

    return write


def _single(write: _Write) -> Callable[[Image, Document, Rootfs, BlobPath, Path], Emission]:
    return lambda image, config, rootfs, blob, fresh: write(
        [ForPlatform(image, config, rootfs)], blob, fresh
    )


def _add_layer(
    tar: TarWriter, path: str, layer: LayerBlob, epoch: int, place: oci.LayerPlace
) -> None:
    with place.opened(layer) as stream:
        digest = tar.add_file(file_entry(path, layer.size, epoch), stream)
    if digest != layer.digest:
        raise CorruptBlob(layer.digest, f"the layer of {layer.title}")


OCI_ARCHIVE = Format(
    name="oci-archive",
    title="an OCI archive",
    codecs=tuple(oci.SUFFIXES),
    spelling=oci.spelling,
    check=oci.config_of,
    start=oci.section_start,
    plan=_oci_plan,
    write=_single(_writer(_alone(_oci_plan), _oci_member)),
    together=_writer(_oci_together, _oci_member),
    stem=rules.file_reference,
    suffix="oci.tar",
    command="podman run --rm oci-archive:{file}",
)
DOCKER_ARCHIVE = Format(
    name="docker-archive",
    title="a docker archive",
    codecs=("none",),
    spelling=oci.spelling,
    check=oci.config_of,
    start=oci.section_start,
    plan=_docker_plan,
    write=_single(_writer(_alone(_docker_plan), _docker_member)),
    stem=rules.file_reference,
    only=": docker load takes plain layers",
    suffix="docker.tar",
    command="docker load --input {file}",
)
