"""OCI images: an image layout directory (image-spec image-layout.md), its config and manifest.

The layers are plain tars, so that their blobs are the store's own bytes, unless `compress` says
otherwise. All JSON is canonical: the same image gives the same manifest digest anywhere.
`image.content` is an image config document: it takes the place of what would derive from `app`. Two
members stay ours, because they describe the layers: `rootfs` and `history`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from buildit.archive.compress import compress_layer
from buildit.archive.workers import run_all
from buildit.digest import Digest, canonical, digest_bytes, oci_digest
from buildit.errors import RecipeError
from buildit.image.appspec import check_app
from buildit.image.budget import LAYER_BUDGET, group
from buildit.image.copying import BlobPath, copy_blob, open_blob
from buildit.image.documents import read_json, rfc3339
from buildit.image.formats.oci_rules import config_problems
from buildit.image.formats.table import Document, Format, LayerBlob, Plan, Start
from buildit.image.layertar import write_directories, write_merged
from buildit.image.merge import Rootfs, merge_group
from buildit.image.names import file_reference, machine, reference, tag
from buildit.image.restoring import COPIERS, make_layout, write_documents
from buildit.model.image import App, Architecture, Emission, Health, Image
from buildit.store.checked import checked_stream

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
SUFFIXES = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}
LAYOUT = {"imageLayoutVersion": "1.0.0"}
_BLOBS = "blobs/sha256"
_DIRECTORIES = "directories, as the whole image has them"


def _config(image: Image) -> dict[str, Any]:
    """The image config (image-spec config.md) without what describes the layers.

    Raises:
        RecipeError: the app or the user's document breaks a rule, or says another platform.
    """
    if image.app is not None:
        check_app(image.app, image.place)
    return _written(image) if image.content else _derived(image)


def _platform(image: Image) -> dict[str, Any]:
    kind = machine(image)
    variant = {"variant": kind.oci_variant} if kind.oci_variant else {}
    return {"architecture": kind.oci, "os": image.os, **variant}


def _derived(image: Image) -> dict[str, Any]:
    document: dict[str, Any] = {"created": rfc3339(image.epoch), **_platform(image)}
    if image.author:
        document["author"] = image.author
    section = app_section(image.app) if image.app is not None else {}
    labels = dict(image.about) | dict(image.labels)
    if labels:
        section["Labels"] = labels
    if section:
        document["config"] = section
    return document


def _written(image: Image) -> dict[str, Any]:
    document = read_json(image.content, image.place, "the OCI image config")
    problems = config_problems(document, _platform(image))
    if problems or not isinstance(document, dict):
        raise RecipeError(
            f"the OCI image config is not valid: {problems[0]}",
            place=image.place or None,
            hint="correct `content` of this image step (image-spec config.md), "
            "or leave it out: then `app` decides",
            details=problems[1:],
        )
    return {"created": rfc3339(image.epoch), **_platform(image), **document}


def app_section(app: App) -> dict[str, object]:
    """The `config` of an OCI image config (image-spec config.md, "Properties")."""
    spoken: dict[str, object] = {"Entrypoint": list(app.exec), "WorkingDir": app.working_directory}
    if app.group is not None or app.user not in ("0", "root"):
        spoken["User"] = app.user if app.group is None else f"{app.user}:{app.group}"
    if app.environment:
        spoken["Env"] = [f"{name}={value}" for name, value in app.environment]
    if app.ports:
        spoken["ExposedPorts"] = {f"{port.number}/{port.protocol}": {} for port in app.ports}
    if app.volumes:
        spoken["Volumes"] = {volume.path: {} for volume in app.volumes}
    if app.stop_signal is not None:
        spoken["StopSignal"] = app.stop_signal
    if app.health is not None:
        spoken["Healthcheck"] = _healthcheck(app.health)
    return spoken


def _healthcheck(health: Health) -> dict[str, object]:
    """As Docker's image config has it, which image-spec leaves out: times in nanoseconds."""
    times = {"Interval": health.interval, "Timeout": health.timeout, "StartPeriod": health.start}
    spoken: dict[str, object] = {"Test": ["CMD", *health.exec]}
    spoken |= {name: seconds * 10**9 for name, seconds in times.items() if seconds is not None}
    return spoken | ({} if health.retries is None else {"Retries": health.retries})


def _start(config: Document) -> Start:
    section = config.get("config") or {}
    words = [*(section.get("Entrypoint") or []), *(section.get("Cmd") or [])]
    start = section.get("WorkingDir")
    starts = [("working directory", start)] if start else []
    user, _, group_name = str(section.get("User") or "").partition(":")
    accounts = [("user", user), ("group", group_name)]
    return Start(
        words[0] if words and words[0].startswith("/") else None,
        dict(pair.split("=", 1) for pair in section.get("Env") or ()),
        (*starts, *(("volume", path) for path in section.get("Volumes") or ())),
        tuple((kind, name) for kind, name in accounts if name),
    )


def _plan(image: Image, config: Document, layers: Sequence[LayerBlob]) -> Plan:
    """All documents of the layout; a media type is always written, so that nothing is guessed."""
    created = rfc3339(image.epoch)
    whole = {
        **config,
        "rootfs": {"type": "layers", "diff_ids": [oci_digest(each.diff_id) for each in layers]},
        "history": [
            {"created": created, "created_by": f"buildit: {each.title}"} for each in layers
        ],
    }
    encoded = canonical(whole)
    manifest = canonical(_manifest(image, encoded, layers))
    digest = digest_bytes(manifest)
    documents = {
        f"{_BLOBS}/{digest_bytes(encoded)}": encoded,
        f"{_BLOBS}/{digest}": manifest,
        "oci-layout": canonical(LAYOUT),
        "index.json": canonical(_index(image, config, manifest)),
    }
    return Plan(documents, tuple(layers), digest)


def _manifest(image: Image, config: bytes, layers: Sequence[LayerBlob]) -> dict[str, object]:
    """image-spec manifest.md."""
    media_type = LAYER_TYPE + SUFFIXES[OCI.codec(image)]
    annotations = {
        "org.opencontainers.image.created": rfc3339(image.epoch),
        "org.opencontainers.image.title": image.name,
        "org.opencontainers.image.version": image.version,
        **({"org.opencontainers.image.authors": image.author} if image.author else {}),
        **dict(image.about),
        **dict(image.annotations),
    }
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _descriptor(CONFIG_TYPE, digest_bytes(config), len(config)),
        "layers": [_descriptor(media_type, each.digest, each.size) for each in layers],
        "annotations": annotations,
    }


def _index(image: Image, config: Document, manifest: bytes) -> dict[str, object]:
    """image-spec image-index.md; `ref.name` is what skopeo and umoci take as the tag (umoci allows
    no colon in it), containerd's own name what ctr and podman call a loaded image."""
    descriptor = {
        **_descriptor(MANIFEST_TYPE, digest_bytes(manifest), len(manifest)),
        "platform": {**_platform(image), "os": config["os"]},
        "annotations": {
            "io.containerd.image.name": reference(image),
            "org.opencontainers.image.ref.name": tag(image.version),
        },
    }
    return {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [descriptor]}


def _descriptor(media_type: str, digest: Digest, size: int) -> dict[str, object]:
    return {"mediaType": media_type, "digest": oci_digest(digest), "size": size}


def _write(image: Image, config: Document, rootfs: Rootfs, blob: BlobPath, fresh: Path) -> Emission:
    """Write the layout as a directory.

    Raises:
        StoreError, IntegrityError: a blob of the store is missing or damaged.
        OSError: the directory cannot be written.
    """
    place = LayerPlace(blob, make_layout(fresh), OCI.codec(image))
    plan = _plan(image, config, write_layers(rootfs, image.epoch, place))
    write_documents(fresh, plan.documents)
    digest = Digest(plan.digest)
    return Emission(fresh, image.format, digest, oci_digest(digest), rootfs.notices)


@dataclass(frozen=True, slots=True)
class LayerPlace:
    """Where layers come from, the directory they go to, and how they lie there.

    `codec` is none, gzip or zstd.
    """

    store: BlobPath
    directory: Path
    codec: str


def write_layers(
    rootfs: Rootfs, epoch: int, place: LayerPlace, budget: int = LAYER_BUDGET
) -> tuple[LayerBlob, ...]:
    """Write the blobs of an image's layers, copied or merged and compressed anew, in two threads;
    returns them bottom first.

    Raises:
        StoreError, IntegrityError: a blob of the store is missing or damaged.
        OSError: the directory cannot be written.
    """
    layers = rootfs.layers
    # One layer is kept free for the directories.
    groups = group([layer.size for layer in layers], max(1, budget - 1))
    # The same layers twice are one blob.
    names = [tuple(layer.diff_id for layer in layers[part.start : part.stop]) for part in groups]
    once = dict(zip(names, groups, strict=True))
    works = [partial(_layer, rootfs, part, place) for part in once.values()]
    written = dict(zip(once, run_all(works, COPIERS), strict=True))
    titles = [", ".join(layer.title for layer in layers[part.start : part.stop]) for part in groups]
    named = [replace(written[name], title=title) for name, title in zip(names, titles, strict=True)]
    return (*named, _directories(rootfs, epoch, place))


def _layer(rootfs: Rootfs, part: range, place: LayerPlace) -> LayerBlob:
    unnamed = place.directory / f"layer-{part.start}"
    if len(part) > 1:
        diff_id, size = write_merged(merge_group(rootfs, part), place.store, unnamed)
        return _settled(unnamed, LayerBlob(diff_id, diff_id, size, ""), place)
    layer = rootfs.layers[part.start]
    forms = [("none", layer.diff_id, layer.size)]
    forms += [(each.codec, each.digest, each.size) for each in layer.encodings]
    for codec, digest, size in forms:
        if codec == place.codec and (codec == "none" or place.store(digest).exists()):
            copy_blob(place.store, digest, size, layer.title, place.directory / digest)
            return LayerBlob(layer.diff_id, digest, size, layer.title)
    descriptor = open_blob(place.store, layer.diff_id, layer.size, layer.title)
    with checked_stream(open(descriptor, "rb"), layer.diff_id, lambda: None) as source:
        digest, size = compress_layer(source, layer.diff_id, place.codec, unnamed)
    return _named(unnamed, LayerBlob(layer.diff_id, digest, size, layer.title))


def _directories(rootfs: Rootfs, epoch: int, place: LayerPlace) -> LayerBlob:
    """The uppermost layer: `/` itself, which no other layer has, and what is to be restated."""
    unnamed = place.directory / "directories"
    diff_id, size = write_directories(rootfs.restated, epoch, unnamed)
    return _settled(unnamed, LayerBlob(diff_id, diff_id, size, _DIRECTORIES), place)


def _settled(unnamed: Path, layer: LayerBlob, place: LayerPlace) -> LayerBlob:
    """A freshly written tar in its final form and under its name."""
    if place.codec == "none":
        unnamed.chmod(0o644)
        return _named(unnamed, layer)
    squeezed = unnamed.with_name(f"{unnamed.name}-{place.codec}")
    with unnamed.open("rb") as source:
        digest, size = compress_layer(source, layer.diff_id, place.codec, squeezed)
    unnamed.unlink()
    return _named(squeezed, replace(layer, digest=digest, size=size))


def _named(unnamed: Path, layer: LayerBlob) -> LayerBlob:
    unnamed.replace(unnamed.with_name(layer.digest))
    return layer


def _spelling(kind: Architecture) -> str:
    return kind.oci if kind.oci != "arm" else f"arm{kind.oci_variant}"


OCI = Format(
    name="oci",
    title="an OCI image",
    codecs=tuple(SUFFIXES),
    spelling=_spelling,
    check=_config,
    start=_start,
    plan=_plan,
    write=_write,
    stem=file_reference,
    directory=True,
)
