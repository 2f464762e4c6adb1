"""An image, in the terms of no format: ordered layers, the app that runs, names; no I/O here.

One `Image` is one `image` step of a container. The emitters of `buildit.image` write it down.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from buildit.digest import Digest, canonical, digest_bytes
from buildit.model.artifact import Encoding


class LayerKind(StrEnum):
    """Who brought a layer; it decides what the layer may replace (`image.merge`)."""

    FROM = "from"
    """Of the image that `from` names: everything may go over it."""
    PACKAGE = "package"
    """An output of a build or a .deb: two of them never own one path."""
    STEP = "step"
    """A step of the container (sync, users): it replaces what earlier layers brought."""
    RUN = "run"
    """The difference that a `run` step left: it may do anything to what lies below."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One plain tar of the store.

    `diff_id` is the tar's digest and `size` its length in bytes. `title` names it to people:
    `www-servers/nginx-1.22.1 (runtime)`, `sync ./files/nginx.conf`. `contents` is the digest of
    the blob that lists its entries. `encodings` are compressed forms that the store may have.
    `name` and `version` are of the package that brings it: `www-servers/nginx`, `debian:libc6`.
    """

    diff_id: Digest
    size: int
    title: str
    contents: Digest
    kind: LayerKind = LayerKind.PACKAGE
    encodings: tuple[Encoding, ...] = ()
    name: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Port:
    """A port that the app listens on: 1..65535, `protocol` is `tcp`, `udp` or `sctp`.

    `name` None gives `80-tcp` where a format wants a name.
    """

    number: int
    protocol: str = "tcp"
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Volume:
    """A directory that the executor may mount; `name` None gives `volume-var-lib-x`."""

    path: str
    name: str | None = None
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """A program that tells by its status whether the app works; `exec` is empty where nothing does,
    whatever an image below says. `text` is what the image's shell runs in its place, where the
    format can say so. Times are in seconds, None is the executor's own."""

    exec: tuple[str, ...]
    interval: int | None = None
    timeout: int | None = None
    retries: int | None = None
    start: int | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class App:
    """What runs in the image. `arguments` stand behind `exec`, unless whoever starts the image says
    others (OCI's Cmd), and are all of it where that is empty. Both together begin with an absolute
    path, but for an image over a base or with commands, until that is stacked: with a name that its
    PATH finds; or they are empty, and nothing says what runs.

    `user` and `group` are names or numbers; `group` None is the user's own group where the format
    can say so, `own_group` its gid where it is known. `environment` are unique (name, value) pairs.
    `stop_signal` is such as `SIGQUIT`; App Container can say neither it nor `health`. `interpreter`
    is what runs the commands of a Dockerfile that begins with the image, `onbuild` are instructions
    that such a one has first.
    """

    exec: tuple[str, ...]
    user: str = "0"
    group: str | None = None
    environment: tuple[tuple[str, str], ...] = ()
    working_directory: str = "/"
    ports: tuple[Port, ...] = ()
    volumes: tuple[Volume, ...] = ()
    stop_signal: str | None = None
    own_group: str | None = None
    health: Health | None = None
    arguments: tuple[str, ...] = ()
    interpreter: tuple[str, ...] = ()
    onbuild: tuple[str, ...] = ()

    @property
    def argv(self) -> tuple[str, ...]:
        """All words of the command, of which formats that know no arguments say one list."""
        return (*self.exec, *self.arguments)

    def with_program(self, path: str) -> App:
        """The same with a path in the place of the name that the command begins with."""
        if self.exec:
            return replace(self, exec=(path, *self.exec[1:]))
        return replace(self, arguments=(path, *self.arguments[1:])) if self.arguments else self


@dataclass(frozen=True, slots=True)
class Inherited:
    """What an image that a container begins with says of its start, and its labels.

    The command of `app` may begin with a name that its PATH finds, and be empty; its `user` is
    empty where the image says none.
    """

    app: App = App((), user="")
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def shell(self) -> tuple[str, ...]:
        """What runs the commands of a Dockerfile that begins with it."""
        return self.app.interpreter

    @property
    def onbuild(self) -> tuple[str, ...]:
        """Instructions that such a Dockerfile has first."""
        return self.app.onbuild


@dataclass(frozen=True, slots=True)
class Image:
    """One image to emit.

    `layers` are bottom first. `arch` is one of `SPELLINGS`. `epoch` is the
    time of `created`, in seconds since 1970 UTC. `format` is a name of FORMATS. `about` is
    what the container and its packages say of it, by OCI's names
    (`org.opencontainers.image.licenses`); `labels` and `annotations` are the user's own.
    `compress` is `none`, `gzip`, `zstd`, or empty for what the format does by itself. `split` makes
    an image of each package, and one that depends on them.
    `content` is the rendered raw manifest of the format,
    which has the last word, or empty; `place` is where the user wrote the image step, for messages
    only. `written` is the app with its words as they were written, where they name programs that
    only PATH finds.
    """

    name: str
    version: str
    os: str
    arch: str
    layers: tuple[Layer, ...]
    epoch: int
    format: str
    app: App | None = None
    author: str = ""
    about: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    compress: str = ""
    content: str = ""
    place: str = ""
    split: bool = False
    written: App | None = None

    @property
    def started(self) -> App | None:
        """The app of a format that can say nothing of one without a command."""
        return self.app if self.app is not None and self.app.argv else None

    @property
    def spoken(self) -> App | None:
        """What a format says that finds programs in the image's PATH by itself."""
        return self.app if self.written is None else self.written


_LATER = ("arguments", "interpreter", "onbuild", "text", "written")
"""Fields that digests count where they say something: the digests without them are older."""


def _as_before(record: dict[str, Any]) -> dict[str, Any]:
    health = record.get("health")
    said = {**record, "health": _as_before(health)} if health else record
    return {key: value for key, value in said.items() if value or key not in _LATER}


def inherited_digest(said: Inherited) -> Digest:
    """The digest of what an image says of its start."""
    record = asdict(said)
    return digest_bytes(canonical({**record, "app": _as_before(record["app"])}))


def image_digest(image: Image) -> Digest:
    """The digest of all that decides the bytes of the emitted image, and of nothing else.

    Lets a caller tell from a stamp that an image at hand is current, without reading it.
    """
    record = _as_before(asdict(image))
    del record["place"]
    if record["app"]:
        record["app"] = _as_before(record["app"])
    for layer in record["layers"]:
        del layer["encodings"]  # a cache: the same bytes come out without it
    return digest_bytes(canonical(record))


@dataclass(frozen=True, slots=True)
class Architecture:
    """One machine as each world spells it; `appc` is None where App Container has no name."""

    uname: str
    appc: str | None
    oci: str
    oci_variant: str | None
    debian: str

    def spellings(self) -> tuple[str, ...]:
        """Names that mean this machine and no other (Gentoo's `arm` and `ppc64` do not)."""
        oci = (f"{self.oci}/{self.oci_variant}", self.oci) if self.oci_variant else (self.oci,)
        exact = tuple(name for name in oci if name != "arm")
        return (self.uname, *((self.appc,) if self.appc else ()), *exact, self.debian)


ARCHITECTURES = (
    Architecture("x86_64", "amd64", "amd64", None, "amd64"),
    Architecture("i686", "i386", "386", None, "i386"),
    Architecture("aarch64", "aarch64", "arm64", "v8", "arm64"),
    Architecture("armv7l", "armv7l", "arm", "v7", "armhf"),
    Architecture("armv6l", "armv6l", "arm", "v6", "armel"),
    Architecture("ppc64le", "ppc64le", "ppc64le", None, "ppc64el"),
    Architecture("s390x", "s390x", "s390x", None, "s390x"),
    Architecture("riscv64", None, "riscv64", None, "riscv64"),
)

SPELLINGS = {name: machine for machine in ARCHITECTURES for name in machine.spellings()}
"""Each machine by every name that means it and no other, in any world."""


@dataclass(frozen=True, slots=True)
class Emission:
    """What an emitter wrote.

    `digest` is of the OCI manifest, or of the ACI file as it lies there. `identifier` is what the
    format's own tools call the image: `sha256:` and the same digest for OCI, the image ID
    (`sha512-` and the SHA-512 of the uncompressed tar) for ACI. `notices` are remarks about the
    merged tree that a user should see.
    """

    path: Path
    format: str
    digest: Digest
    identifier: str
    notices: tuple[str, ...] = ()
