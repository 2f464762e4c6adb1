"""An image that a container begins with: what it says of itself, read without its layers, and where
its layers lie. Of a layout or an archive on this machine, or of blobs of a registry in the store.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from buildit.archive.admit import Budget
from buildit.archive.compress import decompressed
from buildit.archive.tar.read import read_tar
from buildit.digest import Digest, digest_bytes, digest_stream, is_hex64
from buildit.errors import BuildError, FetchError, IntegrityError, RecipeError
from buildit.image.formats import aci
from buildit.image.formats.archives import MANIFEST
from buildit.image.formats.table import Document
from buildit.image.layout import (
    LARGEST_INDEX_BYTES,
    Layout,
    blob_place,
    described_of,
    json_object,
    json_objects,
    json_of,
    opened_layout,
)
from buildit.image.packed import Packed, is_tar
from buildit.image.reading import budget_of
from buildit.image.verify import CONFIGS, LAYERS, diff_ids_of
from buildit.model.image import SPELLINGS, App, Health, Inherited, Port, Volume
from buildit.model.tree import Kind
from buildit.store.blobs import CorruptBlob

_NANOSECONDS = 10**9


@contextmanager
def told_of_base(reference: str, place: str) -> Iterator[None]:
    """What goes wrong with a base is an error of the step at `place` that names it."""
    try:
        yield
    except OSError as error:
        message = f"the base {reference} cannot be read: {error.strerror}"
        hint = "a path is of the directory of the file that names it, unless it is absolute"
        raise RecipeError(message, place=place, hint=hint) from error
    except CorruptBlob:
        raise
    except FetchError as error:
        message = f"the base {reference}: {error.message}"
        raise FetchError(message, place=place, hint=error.hint, details=error.details) from error
    except (BuildError, IntegrityError) as error:
        within = f"{error.place}: " if error.place and error.place not in reference else ""
        message = f"the base {reference}: {within}{error.message}"
        advice = error.hint or "get the image again from where it is made; nothing of it was kept"
        raise IntegrityError(message, place=place, hint=advice, details=error.details) from error


@dataclass(frozen=True, slots=True)
class BaseLayer:
    """A layer as it lies there: its place, the digest and size in bytes of the blob where something
    says them, its diff_id, and the blob of its entries where it is of this store."""

    place: str
    diff_id: Digest
    digest: Digest | None = None
    size: int | None = None
    contents: Digest | None = None


@dataclass(frozen=True, slots=True)
class BaseImage:
    """One image of one platform: `digest` is what a lock pins, `config` of its config, which an ACI
    has in itself. `platform` is in OCI's spelling."""

    digest: Digest
    config: Digest
    layers: tuple[BaseLayer, ...]
    platform: str
    inherited: Inherited


def find_base(kind: str, path: Path, platform: str) -> BaseImage:
    """The image at a path, for a platform (`linux/amd64`) where there are several; `kind` is `oci`,
    `docker-archive` or `aci`. Its layers are not read.

    Raises:
        OSError: it cannot be read.
        IntegrityError, BuildError: it is not what it says, or no such image.
    """
    if kind == "aci":
        return _aci_base(path)
    with opened_base(kind, path) as layout:
        return _docker_base(layout) if kind == "docker-archive" else layout_base(layout, platform)


@contextmanager
def opened_base(kind: str, path: Path) -> Iterator[Layout]:
    """The files of an image on this machine that has layers.

    Raises:
        OSError, IntegrityError, BuildError: as `find_base`.
    """
    if kind == "oci":
        with opened_layout(path) as layout:
            yield layout
        return
    with path.open("rb") as stream:
        if not is_tar(stream):
            raise IntegrityError("it is no plain tar, as `docker save` writes it")
        yield Layout(Packed.of(stream, path).open)


def layout_base(layout: Layout, platform: str) -> BaseImage:
    """The image in a layout (image-spec manifest.md, config.md).

    Raises:
        IntegrityError: a document is missing, malformed, or not of the digest that names it.
    """
    described = described_of(layout, platform)
    return manifest_base(layout, described)


def manifest_base(layout: Layout, described: Document) -> BaseImage:
    """The image whose manifest a descriptor names. Raises as `layout_base`."""
    digest = _hex(described, "manifest")
    manifest = json_object(layout.blob(described, "manifest"), "manifest")
    named = manifest.get("config")
    if not isinstance(named, dict) or named.get("mediaType") not in CONFIGS:
        raise IntegrityError("the manifest names no image config")
    content = layout.blob(named, "config")
    if layout.problems:
        raise IntegrityError(layout.problems[0])
    config = json_object(content, "config")
    listed = json_objects(manifest, "layers", "manifest")
    layers = []
    for number, (one, diff_id) in enumerate(
        zip(listed, diff_ids_of(config, len(listed)), strict=True)
    ):
        what = f"layer {number}"
        if one.get("mediaType") not in LAYERS:
            raise IntegrityError(f"{what} is of media type {one.get('mediaType')!r:.100}")
        size = one.get("size")
        if type(size) is not int or size < 0:
            raise IntegrityError(f"{what} has no size")
        layers.append(
            BaseLayer(blob_place(one, what), _diff_id(diff_id, what), _hex(one, what), size)
        )
    return _base(digest, content, config, layers)


def _docker_base(layout: Layout) -> BaseImage:
    """moby, image/spec/v1.2."""
    images = json_of(layout.document(MANIFEST), MANIFEST)
    if not isinstance(images, list) or len(images) != 1 or not isinstance(images[0], dict):
        raise IntegrityError(f"{MANIFEST} does not name one image")
    name, listed = images[0].get("Config"), images[0].get("Layers")
    if not isinstance(name, str) or not isinstance(listed, list):
        raise IntegrityError(f"{MANIFEST} names no config and layers")
    content = layout.document(name)
    said = posixpath.basename(name).removesuffix(".json")
    if is_hex64(said) and said != digest_bytes(content):
        raise IntegrityError("the config is not of the digest that names it")
    config = json_object(content, "config")
    diff_ids = diff_ids_of(config, len(listed))
    layers = [
        BaseLayer(str(place), _diff_id(diff_id, f"layer {number}"))
        for number, (place, diff_id) in enumerate(zip(listed, diff_ids, strict=True))
    ]
    return _base(digest_bytes(content), content, config, layers)


def _hex(descriptor: Document, what: str) -> Digest:
    return Digest(blob_place(descriptor, what).rpartition("/")[2])


def _diff_id(value: object, what: str) -> Digest:
    return _hex({"digest": value}, f"diff_id of {what}")


def _base(digest: Digest, content: bytes, config: Document, layers: list[BaseLayer]) -> BaseImage:
    platform = f"{config.get('os')}/{config.get('architecture')}"
    section = config.get("config")
    inherited = inherited_of(section if isinstance(section, dict) else {})
    return BaseImage(digest, digest_bytes(content), tuple(layers), platform, inherited)


# -- what an OCI config says (image-spec config.md, and moby's for the healthcheck)


def inherited_of(section: Document) -> Inherited:
    """What the `config` of an image config says, in the terms of no format.

    Raises:
        IntegrityError: a member is not of its type.
    """
    user, _, group = _text(section, "User").partition(":")
    directory = _text(section, "WorkingDir") or "/"
    pairs = (one.split("=", 1) for one in _texts(section, "Env") if "=" in one.lstrip("="))
    app = App(
        exec=_texts(section, "Entrypoint"),
        user=user,
        group=group or None,
        environment=tuple({one[0]: one[1] for one in pairs}.items()),
        working_directory=posixpath.normpath(posixpath.join("/", directory)),
        ports=tuple(_port(one) for one in _object(section, "ExposedPorts")),
        volumes=tuple(Volume(one) for one in _object(section, "Volumes")),
        stop_signal=_text(section, "StopSignal") or None,
        health=_health(_object(section, "Healthcheck")),
        arguments=_texts(section, "Cmd"),
        interpreter=_texts(section, "Shell"),
        onbuild=_texts(section, "OnBuild"),
    )
    labels = tuple((name, str(value)) for name, value in _object(section, "Labels").items())
    return Inherited(app, labels)


def _wrong(key: str, value: object) -> IntegrityError:
    return IntegrityError(f"config: {key} is {value!r:.100}")


def _text(section: Document, key: str) -> str:
    value = section.get(key)
    if not isinstance(value, str | None):
        raise _wrong(key, value)
    return value or ""


def _texts(section: Document, key: str) -> tuple[str, ...]:
    value = section.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise _wrong(key, value)
    return tuple(value)


def _object(section: Document, key: str) -> Mapping[str, Any]:
    value = section.get(key)
    if not isinstance(value, dict | None):
        raise _wrong(key, value)
    return value or {}


def _port(text: str) -> Port:
    number, _, protocol = text.partition("/")
    known = protocol or "tcp"
    if not number.isdecimal() or not number.isascii() or not 1 <= int(number[:6]) <= 65535:
        raise _wrong("ExposedPorts", text)
    if known not in ("tcp", "udp", "sctp"):
        raise _wrong("ExposedPorts", text)
    return Port(int(number), known)


def _health(said: Mapping[str, Any]) -> Health | None:
    words, text = _texts(said, "Test"), ""
    if words[:1] == ("CMD-SHELL",):
        text = " ".join(words[1:])
        command: tuple[str, ...] = ("/bin/sh", "-c", *words[1:])
    elif words[:1] == ("CMD",):
        command = words[1:]
    else:
        return None  # NONE, or that of the image below, which nobody has any more
    if not command:
        return None
    interval, timeout, start = (
        _seconds(said.get(key)) for key in ("Interval", "Timeout", "StartPeriod")
    )
    retries = said.get("Retries")
    failures = retries if type(retries) is int and retries > 0 else None
    return Health(command, interval, timeout, failures, start, text)


def _seconds(value: object) -> int | None:
    """Whole ones, rounded up; 0 is the executor's own."""
    return -(-value // _NANOSECONDS) if type(value) is int and value > 0 else None


# -- an ACI (appc spec aci.md)


def _aci_base(path: Path) -> BaseImage:
    """Its manifest decides, wherever in the archive it lies; what depends on others is refused."""
    with path.open("rb") as stream:
        digest = digest_stream(stream)
        size = stream.tell()
        stream.seek(0)
        with decompressed(stream, budget_of(size), path.name) as plain:
            content = _manifest_of(plain, budget_of(size), path.name)
    document = json_of(content, "manifest")
    if problems := aci.manifest_problems(document):
        raise IntegrityError(f"manifest: {problems[0]}")
    assert isinstance(document, dict)  # noqa: S101 - the rules say so
    for key in ("dependencies", "pathWhitelist"):
        if document.get(key):
            hint = "render it first, or name an ACI that is whole"
            raise IntegrityError(f"its manifest has `{key}`: it is no whole tree", hint=hint)
    labels = {one["name"]: one["value"] for one in document.get("labels") or ()}
    arch = SPELLINGS[labels["arch"]].oci if labels.get("arch") in SPELLINGS else labels.get("arch")
    layers = (BaseLayer("rootfs", digest),)
    inherited = _of_aci_app(document.get("app") or {})
    return BaseImage(digest, digest, layers, f"{labels.get('os')}/{arch}", inherited)


def _manifest_of(plain: BinaryIO, budget: Budget, name: str) -> bytes:
    for entry, window in read_tar(plain, budget, name, nodes=lambda _: None):
        if entry.path == "manifest" and entry.kind is Kind.FILE and window is not None:
            content = window.read(LARGEST_INDEX_BYTES + 1)
            if len(content) > LARGEST_INDEX_BYTES:
                raise IntegrityError(f"its manifest has over {LARGEST_INDEX_BYTES} bytes")
            return content
    raise IntegrityError("it has no regular file `manifest`")


def _of_aci_app(app: Mapping[str, Any]) -> Inherited:
    if not app:
        return Inherited()
    variables = app.get("environment") or ()
    mounts = app.get("mountPoints") or ()
    said = App(
        exec=tuple(app.get("exec") or ()),
        user=str(app.get("user") or ""),
        group=app.get("group") or None,
        environment=tuple((one["name"], one["value"]) for one in variables),
        working_directory=app.get("workingDirectory") or "/",
        ports=tuple(
            Port(one["port"], one["protocol"], one["name"]) for one in app.get("ports") or ()
        ),
        volumes=tuple(
            Volume(one["path"], one["name"], bool(one.get("readOnly"))) for one in mounts
        ),
    )
    return Inherited(said)
