"""OCI images: an image layout directory (image-spec image-layout.md), its config and manifest.

The layers are plain tars, so that their blobs are the store's own bytes, unless `compress` says
otherwise. All JSON is canonical: the same image gives the same manifest digest anywhere.
`image.content` is an image config document: it takes the place of what would derive from `app`. Two
members stay ours, because they describe the layers: `rootfs` and `history`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BufferedReader
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from buildit.archive.admit import shown
from buildit.archive.beneath import Root
from buildit.archive.compress import compress_layer
from buildit.archive.streams import run_all
from buildit.archive.tar.write import TarWriter
from buildit.digest import Digest, canonical, digest_bytes, oci_digest
from buildit.errors import BuilditError
from buildit.image import output, rules
from buildit.image.formats.table import Document, Format, ForPlatform, LayerBlob, Plan, Start
from buildit.image.layertar import add_members, write_tree
from buildit.image.merge import Rootfs, merge_group
from buildit.model.image import App, Architecture, Emission, Health, Image, Layer, LayerKind
from buildit.store.blobs import checked_stream

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
SUFFIXES = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}
LAYOUT = {"imageLayoutVersion": "1.0.0"}
LAYOUT_BLOBS = "blobs/sha256"
_DIRECTORIES = "directories, as the whole image has them"


def config_of(image: Image) -> dict[str, Any]:
    """The image config (image-spec config.md) without what describes the layers.

    Raises:
        RecipeError: the user's document breaks a rule, or says another platform.
    """
    base = {"created": rules.rfc3339(image.epoch), **_platform(image)}
    if image.content:
        hint = " (image-spec config.md), or leave it out: then `app` decides"
        judge = partial(config_problems, platform=_platform(image))
        return {**base, **rules.read_document(image, "the OCI image config", judge, hint)}
    section = app_section(image.spoken) if image.spoken is not None else {}
    if labels := dict(image.about) | dict(image.labels):
        section["Labels"] = labels
    author = {"author": image.author} if image.author else {}
    return {**base, **author, **({"config": section} if section else {})}


def _platform(image: Image) -> dict[str, Any]:
    kind = rules.machine(image)
    variant = {"variant": kind.oci_variant} if kind.oci_variant else {}
    return {"architecture": kind.oci, "os": image.os, **variant}


def app_section(app: App) -> dict[str, object]:
    """The `config` of an OCI image config (image-spec config.md, "Properties")."""
    account = app.user if app.group is None else f"{app.user}:{app.group}"
    spoken: dict[str, object] = {
        "User": "" if account in ("0", "root") else account,
        "Env": [f"{name}={value}" for name, value in app.environment],
        "ExposedPorts": {f"{port.number}/{port.protocol}": {} for port in app.ports},
        "Volumes": {volume.path: {} for volume in app.volumes},
        "StopSignal": app.stop_signal,
        "Healthcheck": None if app.health is None else _healthcheck(app.health),
    }
    words = {"Entrypoint": app.exec, "Cmd": app.arguments}
    words |= {"Shell": app.interpreter, "OnBuild": app.onbuild}
    spoken |= {name: list(value) for name, value in words.items()}
    always = {"WorkingDir": app.working_directory}
    return {**always, **{name: value for name, value in spoken.items() if value}}


def _healthcheck(health: Health) -> dict[str, object]:
    """As Docker's image config has it, which image-spec leaves out: times in nanoseconds."""
    if not health.exec:
        return {"Test": ["NONE"]}
    times = {"Interval": health.interval, "Timeout": health.timeout, "StartPeriod": health.start}
    spoken = {name: None if each is None else each * 10**9 for name, each in times.items()}
    spoken["Retries"] = health.retries
    found = {name: value for name, value in spoken.items() if value is not None}
    test = ["CMD-SHELL", health.text] if health.text else ["CMD", *health.exec]
    return {"Test": test, **found}


def section_start(config: Document) -> Start:
    section = config.get("config") or {}
    words = [*(section.get("Entrypoint") or []), *(section.get("Cmd") or [])]
    start = section.get("WorkingDir")
    starts = [("working directory", start)] if start else []
    user, _, group_name = str(section.get("User") or "").partition(":")
    return Start(
        words[0] if words and words[0].startswith("/") else None,
        dict(pair.split("=", 1) for pair in section.get("Env") or ()),
        (*starts, *(("volume", path) for path in section.get("Volumes") or ())),
        tuple((kind, name) for kind, name in (("user", user), ("group", group_name)) if name),
    )


def whole_config(image: Image, config: Document, layers: Sequence[LayerBlob]) -> bytes:
    """The config document with what describes the layers; docker's archives have it, too."""
    created = rules.rfc3339(image.epoch)
    return canonical(
        {
            **config,
            "rootfs": {"type": "layers", "diff_ids": [oci_digest(one.diff_id) for one in layers]},
            "history": [
                {"created": created, "created_by": f"buildit: {one.title}"} for one in layers
            ],
        }
    )


def _plan(image: Image, config: Document, layers: Sequence[LayerBlob]) -> Plan:
    """Its tag is the version: umoci allows no colon in it."""
    return layout_plan(image, config, layers, rules.tag(image.version))


def layout_plan(image: Image, config: Document, layers: Sequence[LayerBlob], ref_name: str) -> Plan:
    """All documents of a layout whose index calls the image `ref_name`; a media type is always
    written, so that nothing is guessed."""
    blobs, described = _described(image, config, layers)
    return _layout(image, blobs, described, ref_name, layers)


def index_plan(made: Sequence[tuple[ForPlatform, Sequence[LayerBlob]]], ref_name: str) -> Plan:
    """All documents of a layout with images for several platforms, in the order given: its index
    names one further index, which names them (image-spec image-index.md). So the tag is that of the
    whole, and a client chooses by platform."""
    blobs: dict[str, bytes] = {}
    manifests = []
    for part, layers in made:
        documents, described = _described(part.image, part.document, layers)
        blobs |= documents
        manifests.append(described)
    image = replace(made[0][0].image, epoch=max(part.image.epoch for part, _ in made))
    index = canonical({**_index_of(manifests), "annotations": _annotations(image)})
    blobs[f"{LAYOUT_BLOBS}/{digest_bytes(index)}"] = index
    described = _descriptor(INDEX_TYPE, digest_bytes(index), len(index))
    every = {layer.digest: layer for _, layers in made for layer in layers}
    return _layout(image, blobs, described, ref_name, tuple(every.values()))


def _layout(
    image: Image,
    blobs: Mapping[str, bytes],
    described: Document,
    ref_name: str,
    layers: Sequence[LayerBlob],
) -> Plan:
    """`ref.name` is what skopeo and umoci take as the tag, containerd's own name what ctr and
    podman call a loaded image."""
    annotations = {"io.containerd.image.name": rules.reference(image), _REF_NAME: ref_name}
    documents = {
        **blobs,
        "oci-layout": canonical(LAYOUT),
        "index.json": canonical(_index_of([{**described, "annotations": annotations}])),
    }
    return Plan(documents, tuple(layers), str(described["digest"]).removeprefix("sha256:"))


def _described(
    image: Image, config: Document, layers: Sequence[LayerBlob]
) -> tuple[dict[str, bytes], dict[str, object]]:
    """The config and manifest of an image as blobs, and what an index says of it."""
    encoded = whole_config(image, config, layers)
    manifest = canonical(_manifest(image, encoded, layers))
    digest = digest_bytes(manifest)
    blobs = {
        f"{LAYOUT_BLOBS}/{digest_bytes(encoded)}": encoded,
        f"{LAYOUT_BLOBS}/{digest}": manifest,
    }
    described = _descriptor(MANIFEST_TYPE, digest, len(manifest))
    return blobs, {**described, "platform": {**_platform(image), "os": config["os"]}}


def _manifest(image: Image, config: bytes, layers: Sequence[LayerBlob]) -> dict[str, object]:
    """image-spec manifest.md."""
    media_type = LAYER_TYPE + SUFFIXES[OCI.codec(image)]
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _descriptor(CONFIG_TYPE, digest_bytes(config), len(config)),
        "layers": [_descriptor(media_type, each.digest, each.size) for each in layers],
        "annotations": _annotations(image),
    }


def _annotations(image: Image) -> dict[str, str]:
    return {
        "org.opencontainers.image.created": rules.rfc3339(image.epoch),
        "org.opencontainers.image.title": image.name,
        "org.opencontainers.image.version": image.version,
        **({"org.opencontainers.image.authors": image.author} if image.author else {}),
        **dict(image.about),
        **dict(image.annotations),
    }


def _index_of(manifests: Sequence[Document]) -> dict[str, object]:
    """image-spec image-index.md."""
    return {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*manifests]}


def _descriptor(media_type: str, digest: Digest, size: int) -> dict[str, object]:
    return {"mediaType": media_type, "digest": oci_digest(digest), "size": size}


def _write(
    image: Image, config: Document, rootfs: Rootfs, blob: output.BlobPath, fresh: Path
) -> Emission:
    """Write the layout as a directory.

    Raises:
        StoreError, IntegrityError: a blob of the store is missing or damaged.
        OSError: the directory cannot be written.
    """
    place = LayerPlace(blob, output.make_layout(fresh), OCI.codec(image))
    plan = _plan(image, config, write_layers(rootfs, image.epoch, place))
    return _written(image, plan, fresh, rootfs.notices)


def _write_together(parts: Sequence[ForPlatform], blob: output.BlobPath, fresh: Path) -> Emission:
    """Write a layout with images for several platforms. Raises as `_write`."""
    image, blobs = parts[0].image, output.make_layout(fresh)
    made = write_parts(parts, LayerPlace(blob, blobs, OCI.codec(image)))
    return _written(image, index_plan(made, rules.tag(image.version)), fresh, notices_of(parts))


def _written(image: Image, plan: Plan, fresh: Path, notices: tuple[str, ...]) -> Emission:
    output.write_documents(fresh, plan.documents)
    digest = Digest(plan.digest)
    return Emission(fresh, image.format, digest, oci_digest(digest), notices)


def write_parts(
    parts: Sequence[ForPlatform], place: LayerPlace
) -> tuple[tuple[ForPlatform, tuple[LayerBlob, ...]], ...]:
    """Write the layers of several images into one place. Raises as `write_layers`."""
    return tuple((one, write_layers(one.rootfs, one.image.epoch, place)) for one in parts)


def notices_of(parts: Sequence[ForPlatform]) -> tuple[str, ...]:
    """The remarks about all trees, each once."""
    return tuple(dict.fromkeys(notice for part in parts for notice in part.rootfs.notices))


@dataclass(frozen=True, slots=True)
class LayerPlace:
    """Where layers come from, the directory they go to, and how they lie there.

    `codec` is none, gzip or zstd. With `kept`, a blob that the store has stays where it is.
    """

    store: output.BlobPath
    directory: Path
    codec: str
    kept: bool = False

    def opened(self, layer: LayerBlob) -> BufferedReader:
        """The blob of a layer that was written, or kept.

        Raises:
            StoreError, CorruptBlob: as `output.open_blob`.
        """
        made = self.directory / layer.digest
        if made.exists():
            return made.open("rb")
        return open(output.open_blob(self.store, layer.digest, layer.size, layer.title), "rb")


LAYER_BUDGET = 100
"""Layers in an emitted image. overlayfs and the container stores stop at 127 or so."""


_VERSION = re.compile(r"-[0-9].*?(?= \(|$)")
"""What follows a package's name in the title of its layer."""
_ALONE = 64
"""Above the class of any size."""


def group(layers: Sequence[Layer], budget: int = LAYER_BUDGET) -> tuple[range, ...]:
    """Ranges of layer numbers, each one emitted layer; at most `budget` of them.

    Where there are too many, the places between two layers compete for being a cut: first those
    beside a layer of a step or of `from`, then those beside a large package, in steps of 16 times
    the size; among equals, by the hash of the name below, without its version. So the rank of a
    place is a matter of its two layers alone. A changed package changes its own group and no other,
    as long as its size stays in its class; one that comes or goes moves two cuts elsewhere at most.

    Raises:
        ValueError: the budget is below 1.
    """
    if budget < 1:
        raise ValueError(f"a budget of {budget} layers holds no image")
    cuts = [*range(1, len(layers))]
    if len(layers) > budget:
        classes = [_class(each) for each in layers]
        cuts.sort(key=lambda at: (-max(classes[at - 1 : at + 1]), _draw(layers[at - 1])))
        cuts = sorted(cuts[: budget - 1])
    bounds = [0, *cuts, len(layers)] if layers else []
    return tuple(range(*pair) for pair in pairwise(bounds))


def _class(layer: Layer) -> int:
    return layer.size.bit_length() // 4 if layer.kind is LayerKind.PACKAGE else _ALONE


def _draw(layer: Layer) -> Digest:
    return digest_bytes(_VERSION.sub("", layer.title).encode())


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
    groups = group(layers, max(1, budget - 1))
    # The same layers twice are one blob.
    names = [tuple(layer.diff_id for layer in layers[part.start : part.stop]) for part in groups]
    once = dict(zip(names, groups, strict=True))
    works = [partial(_layer, rootfs, part, place) for part in once.values()]
    written = dict(zip(once, run_all(works, output.COPIERS), strict=True))
    titles = [", ".join(layer.title for layer in layers[part.start : part.stop]) for part in groups]
    named = [replace(written[name], title=title) for name, title in zip(names, titles, strict=True)]
    return (*named, _directories(rootfs, epoch, place))


def _layer(rootfs: Rootfs, part: range, place: LayerPlace) -> LayerBlob:
    unnamed = place.directory / f"layer-{part.start}"
    if len(part) > 1:
        merged = merge_group(rootfs, part)

        def fill(tar: TarWriter) -> None:
            add_members(tar, merged, place.store)

        return _tree(unnamed, "", place, fill, whiteouts=True)
    layer = rootfs.layers[part.start]
    forms = [("none", layer.diff_id, layer.size)]
    forms += [(each.codec, each.digest, each.size) for each in layer.encodings]
    for codec, digest, size in forms:
        if codec == place.codec and (codec == "none" or place.store(digest).exists()):
            if not place.kept and not (place.directory / digest).exists():
                output.copy_blob(place.store, digest, size, layer.title, place.directory / digest)
            return LayerBlob(layer.diff_id, digest, size, layer.title)
    descriptor = output.open_blob(place.store, layer.diff_id, layer.size, layer.title)
    with checked_stream(open(descriptor, "rb"), layer.diff_id, lambda: None) as source:
        return _compressed(source, unnamed, layer.diff_id, layer.title, place)


def _directories(rootfs: Rootfs, epoch: int, place: LayerPlace) -> LayerBlob:
    """The uppermost layer: `/` itself, which no other layer has, and what is to be restated."""

    def fill(tar: TarWriter) -> None:
        tar.add_root(0o755, epoch)
        for entry in rootfs.restated:
            tar.add(entry)

    return _tree(place.directory / "directories", _DIRECTORIES, place, fill)


def _tree(
    unnamed: Path,
    title: str,
    place: LayerPlace,
    fill: Callable[[TarWriter], None],
    *,
    whiteouts: bool = False,
) -> LayerBlob:
    """A tree written anew, in its final form and under its name."""
    diff_id, size = write_tree(unnamed, fill, whiteouts=whiteouts)
    if place.codec == "none":
        unnamed.chmod(0o644)
        unnamed.rename(unnamed.with_name(diff_id))
        return LayerBlob(diff_id, diff_id, size, title)
    with unnamed.open("rb") as source:
        squeezed = unnamed.with_name(f"{unnamed.name}-{place.codec}")
        layer = _compressed(source, squeezed, diff_id, title, place)
    unnamed.unlink()
    return layer


def _compressed(
    source: BinaryIO, unnamed: Path, diff_id: Digest, title: str, place: LayerPlace
) -> LayerBlob:
    digest, size = compress_layer(source, diff_id, place.codec, unnamed)
    unnamed.rename(unnamed.with_name(digest))
    return LayerBlob(diff_id, digest, size, title)


# -- what others put into a layout that was written here, and its next build replaces

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


# -- the rules of a config that a user may write
#
# Null stands for an absent member where the specification's schema takes it and `docker inspect`
# prints it. `Healthcheck`, `OnBuild` and `Shell` are Docker's (moby's image config), kept by
# clients. Stricter than the specification, which leaves these to the runtimes: what no runtime
# starts (a volume `/`, a signal that Linux lacks, an id that the kernel lacks) is refused here.

OF_LAYERS = ("rootfs", "history")
"""Members that describe the layers: only we know them."""

_PORT = re.compile(r"(?P<number>[1-9][0-9]{0,4})(?:/(?:tcp|udp|sctp))?")
_MILLISECOND = 1_000_000
_LARGEST = 2**63 - 1


def config_problems(document: object, platform: Mapping[str, object]) -> tuple[str, ...]:
    """What is wrong with an image config, each as `where: what`; empty where it is valid.

    `platform` are the members `architecture`, `os` and perhaps `variant` of the container.
    """
    if not isinstance(document, dict):
        return ("the document must be an object",)
    return (
        *(f"{key}: is made from the layers; leave it out" for key in OF_LAYERS if key in document),
        *_document("", {key: one for key, one in document.items() if key not in OF_LAYERS}),
        *(
            f"{key}: {document[key]!r} is not the container's, {platform[key]!r}"
            for key in ("architecture", "os", "variant")
            if key in document and key in platform and document[key] != platform[key]
        ),
    )


def _empty(where: str, value: object) -> rules.Problems:
    if value != {}:
        yield f"{where}: must be {{}}"


def _account_problems(user: str) -> Iterator[str]:
    """`user`, `uid`, `user:group`, `uid:gid`, or mixed."""
    for part in user.split(":", 1):
        yield from rules.account_problems(part)


def _is_port(port: str) -> bool:
    match = _PORT.fullmatch(port)
    return match is not None and int(match["number"]) <= 65535


def _single_names(where: str, value: object) -> rules.Problems:
    names = [str(each).partition("=")[0] for each in value] if isinstance(value, list) else []
    yield from (f"{where}: {name} occurs twice" for name in rules.doubles(names))


def _volume(where: str, value: object) -> rules.Problems:
    parts = str(value).split("/")
    if not str(value).startswith("/") or {".", ".."} & set(parts) or "\0" in str(value):
        yield f"{where}: {value!r} is not a plain absolute path"
    elif not any(parts):
        yield f"{where}: a volume cannot be /: it would hide the whole image"


def _directory_problems(path: str) -> Iterator[str]:
    if not path.startswith("/"):
        yield f"{path!r} is not absolute"


def _label(where: str, value: object) -> rules.Problems:
    if not value:
        yield f"{where}: the name of a label is empty"


def _test_words(where: str, value: object) -> rules.Problems:
    """Docker: `Test` is empty (as the base has it), `NONE`, `CMD` and words, or `CMD-SHELL` and
    one line."""
    if not isinstance(value, list) or not value:
        return
    least = {"NONE": 1, "CMD": 2, "CMD-SHELL": 2}.get(str(value[0]))
    if least is None:
        yield f"{rules.at(where, 0)}: must be NONE, CMD or CMD-SHELL"
    elif len(value) < least or (value[0] != "CMD" and len(value) > least):
        yield f"{where}: {value[0]} has {len(value) - 1} words after it"


def _long_enough(where: str, value: object) -> rules.Problems:
    if isinstance(value, int) and 0 < value < _MILLISECOND:
        yield f"{where}: must be 0 or at least {_MILLISECOND} nanoseconds"


_words = rules.nothing_or(rules.list_of(rules.text))
_pairs = rules.list_of(rules.pattern_rule(re.compile(r"[^=\0]+=[^\0]*"), "NAME=value"))
_port = rules.text_that(_is_port, "PORT or PORT/tcp, with a port from 1 to 65535")
_count = rules.whole(0, _LARGEST)
_nanoseconds = rules.all_of(_count, _long_enough)
_health_rules: Mapping[str, rules.JsonRule] = {
    "Test": rules.nothing_or(rules.all_of(rules.list_of(rules.text), _test_words)),
    **dict.fromkeys(("Interval", "Timeout", "StartPeriod", "StartInterval"), _nanoseconds),
    "Retries": _count,
}
_section_rules: Mapping[str, rules.JsonRule] = {
    "User": rules.text_without(_account_problems),
    "ExposedPorts": rules.nothing_or(rules.map_of(_port, _empty)),
    "Env": rules.nothing_or(rules.all_of(_pairs, _single_names)),
    **dict.fromkeys(("Entrypoint", "Cmd", "OnBuild", "Shell"), _words),
    "Volumes": rules.nothing_or(rules.map_of(_volume, _empty)),
    "WorkingDir": rules.text_without(_directory_problems),
    "Labels": rules.nothing_or(rules.map_of(_label, rules.text)),
    "StopSignal": rules.text_without(rules.signal_problems),
    "ArgsEscaped": rules.boolean,
    **dict.fromkeys(("Memory", "CpuShares"), _count),
    "MemorySwap": rules.whole(-1, _LARGEST),
    "Healthcheck": rules.nothing_or(rules.object_of({}, _health_rules)),
}
_document = rules.object_of(
    {},
    {
        "created": rules.nothing_or(rules.time),
        **dict.fromkeys(("author", "architecture", "os", "variant", "os.version"), rules.text),
        "os.features": rules.list_of(rules.text),
        "config": rules.nothing_or(rules.object_of({}, _section_rules)),
    },
)


def spelling(kind: Architecture) -> str:
    """A machine in file names, as OCI's platforms have it."""
    return kind.oci if kind.oci != "arm" else f"arm{kind.oci_variant}"


OCI = Format(
    name="oci",
    title="an OCI image",
    codecs=tuple(SUFFIXES),
    spelling=spelling,
    check=config_of,
    start=section_start,
    plan=_plan,
    write=_write,
    stem=rules.file_reference,
    command="podman run --rm oci:{file}",
    together=_write_together,
)
