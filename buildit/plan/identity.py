"""Identity: every input that can change a build's output, as a record that can be printed.

`key = sha256(canonical(record))` (DESIGN §3). Anything that can change the output and is not here
is a bug, and so is anything here that cannot. The record is stored and published with the
artifact, so that a miss can be explained.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from buildit.digest import BuildKey, Digest, canonical, digest_bytes
from buildit.errors import IntegrityError
from buildit.model.artifact import RUNTIME
from buildit.model.copying import MountedFiles
from buildit.model.image_test import CommandTest, FileTest, HttpTest
from buildit.model.plan import WHOLE, About, DebRef, DebView, Dependency, Inputs, RunTime, Task
from buildit.model.platform import PLATFORMS, Platform
from buildit.plan.steps import Phase, Step

PACKAGE = "package"
DEBIAN = "debian"
DEBIAN_SOURCE = "debian-source"
RUN = "run"
TEST = "test"
SUITE = "suite"
"""Kinds of tasks, and the `type` of their records."""

MAINTAINER_RULES = "3"
"""Version of what a .deb's outputs have besides its files: its entry for scanners, what rules do in
the place of its scripts, slices. In the records of .debs and of Debian's sources (`chroot`), whose
outputs and roots are made by them too; what is built by steps is not touched."""

SCHEME = "1"
"""Raised when the meaning of a record changes; two schemes never share a key."""

CHROOT = "2"
"""Version of the fix-ups of the chroot of a Debian source, and of what runs in it; in the key."""

_RESOLVED_DOMAIN = b"buildit-resolved-1\n"
"""Before what a resolved key is taken of: it can never be a key, nor the digest of a blob."""


_LATER = {"later": True}
"""Of a field that came after the first keys: written only where it has another value than its
default, so that they stay."""


_OWN_MACHINE = Digest("")
"""The emulator of a build on a machine of its own platform."""


@dataclass(frozen=True, slots=True)
class SourceInput:
    """`name` is that of the file where one may be made: with `unpack` off, or if it is no archive;
    "" where its name says that it can only be an archive. What is `local` is built where it was
    built before, so that its build is no other's."""

    digest: Digest
    directory: str
    strip: int
    name: str = ""
    unpack: bool = True
    exclude: tuple[str, ...] = ()
    local: bool = field(default=False, metadata=_LATER)


@dataclass(frozen=True, slots=True)
class PatchInput:
    """`digest` is of the canonical form, which is what is applied."""

    digest: Digest
    strip: int


@dataclass(frozen=True, slots=True)
class FileInput:
    """A file of the package's own `files/` directory."""

    path: str
    executable: bool
    digest: Digest


@dataclass(frozen=True, slots=True)
class RuleInput:
    """What `files:` allows the installed paths of a glob; empty text where it says nothing."""

    path: str
    mode: str
    owner: str
    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OutputInput:
    """Globs that the recipe sends to an output before the usual rules."""

    name: str
    paths: tuple[str, ...]
    optional: bool


@dataclass(frozen=True, slots=True)
class Rules:
    """Versions of the code of ours whose change changes outputs."""

    normaliser: str
    splitter: str
    patcher: str
    deb: str
    sandbox: str
    unpacker: str


@dataclass(frozen=True, slots=True)
class BuildInputs:
    """All that the build of one package sees.

    `environment` is total but for `JOBS` (parallelism) and `SOURCE_DATE_EPOCH` (follows from the
    sources by the unpacker's rule). `emulator` is the .deb with what its programs were run by.
    """

    name: str
    version: str
    build_platform: Platform
    target_platform: Platform
    sources: tuple[SourceInput, ...]
    patches: tuple[PatchInput, ...]
    files: tuple[FileInput, ...]
    steps: tuple[Step, ...]
    environment: Mapping[str, str]
    file_rules: tuple[RuleInput, ...]
    outputs: tuple[OutputInput, ...]
    strip: bool
    toolchain: Digest
    dependencies: tuple[Dependency, ...]
    rules: Rules
    emulator: Digest = field(default=_OWN_MACHINE, metadata=_LATER)

    def record(self) -> dict[str, object]:
        """The record, `type` being the kind of task."""
        return {"scheme": SCHEME, "type": PACKAGE, **_written(self)}


@dataclass(frozen=True, slots=True)
class NamedDigest:
    """A file of a Debian source package: `name` as its .dsc has it."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class DebianSourceInputs:
    """All that the build of a Debian source package sees.

    `version` is the archive's, `suffix` what the .debs have after it; empty where nothing changed.
    `files` are the .dsc and then the others by name. `debs` are those of the chroot, `beside` those
    that the outputs' needs are looked for in before the toolchain's; both sorted. `profiles` and
    `options` are words of DEB_BUILD_PROFILES and DEB_BUILD_OPTIONS, without `parallel`, sorted.
    `configure` is appended to the program's own configure step. SOURCE_DATE_EPOCH follows from the
    changelog. `chroot` is the version of the fix-ups of its root, `emulator` as in `BuildInputs`.
    """

    name: str
    version: str
    suffix: str
    build_platform: Platform
    target_platform: Platform
    files: tuple[NamedDigest, ...]
    patches: tuple[PatchInput, ...]
    profiles: tuple[str, ...]
    options: tuple[str, ...]
    configure: tuple[str, ...]
    debs: tuple[Digest, ...]
    beside: tuple[Digest, ...]
    toolchain: Digest
    chroot: str
    rules: Rules
    emulator: Digest = field(default=_OWN_MACHINE, metadata=_LATER)

    def record(self) -> dict[str, object]:
        """The record, `type` being the kind of task."""
        return {"scheme": SCHEME, "type": DEBIAN_SOURCE, **_written(self)}


@dataclass(frozen=True, slots=True)
class RunInputs:
    """All that a command sees which runs over the layers of an image.

    `environment` is total. `ids` is `range` or `one`: who can be whom inside. `epoch` is its
    SOURCE_DATE_EPOCH, and the latest time of what it leaves. `below` are the diff_ids of the layers
    under it, the lowest first; `restated` is the listing (`archive.contents`) of directories that
    an overlay of them alone would show otherwise. `room` is the version of what it sees of the
    sandbox, `difference` that of how its layer is made of what it left. `secrets` are the ids of
    those that it is given; their values are nowhere. `who` is the uid, gid and further groups that
    it runs as, root's without them, `cwd` where, `mounts` what it finds there besides. `debs` are
    those that apt finds, sorted, and `apt` is the version of how it finds them.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    ids: str
    network: bool
    epoch: int
    below: tuple[Digest, ...]
    restated: str
    platform: Platform
    room: str
    difference: str
    secrets: tuple[str, ...] = field(default=(), metadata=_LATER)
    debs: tuple[Digest, ...] = field(default=(), metadata=_LATER)
    apt: str = field(default="", metadata=_LATER)
    who: tuple[int, ...] = field(default=(), metadata=_LATER)
    cwd: str = field(default="", metadata=_LATER)
    mounts: tuple[MountedFiles, ...] = field(default=(), metadata=_LATER)

    @property
    def as_app(self) -> bool:
        """Whether it runs as the app would."""
        return bool(self.cwd)

    def record(self) -> dict[str, object]:
        """The record, `type` being the kind of task."""
        return {"scheme": SCHEME, "type": RUN, **_written(self)}


@dataclass(frozen=True, slots=True)
class ImageTestInputs:
    """All that a test of an image sees.

    `app`, `environment`, `cwd`, `uid`, `gid` and `groups` are of what starts: empty and 0 where
    nothing does. `timeout` is in seconds. `below` and `restated` are as of `RunInputs`, the layers
    being all of the image; `rules` is the version of how it is tested.
    """

    commands: tuple[CommandTest, ...]
    http: tuple[HttpTest, ...]
    files: tuple[FileTest, ...]
    timeout: int
    app: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    below: tuple[Digest, ...]
    restated: str
    platform: Platform
    rules: str

    def record(self) -> dict[str, object]:
        """The record, `type` being the kind of task."""
        return {"scheme": SCHEME, "type": TEST, **_written(self)}


def read_record(text: str) -> BuildInputs:
    """What a record of a package says: all that its maker looks at.

    Raises:
        IntegrityError: it is of another scheme, or no record of a package.
    """
    found: BuildInputs = _read_record(text, PACKAGE, BuildInputs)
    return found


def read_source_record(text: str) -> DebianSourceInputs:
    """What a record of a Debian source package says: all that its maker looks at.

    Raises:
        IntegrityError: it is of another scheme, or no record of a Debian source.
    """
    found: DebianSourceInputs = _read_record(text, DEBIAN_SOURCE, DebianSourceInputs)
    return found


def read_run_record(text: str) -> RunInputs:
    """What a record of a `run` step says: all that its maker looks at.

    Raises:
        IntegrityError: it is of another scheme, or no record of such a step.
    """
    found: RunInputs = _read_record(text, RUN, RunInputs)
    return found


def read_test_record(text: str) -> ImageTestInputs:
    """What a record of a test of an image says: all that its maker looks at.

    Raises:
        IntegrityError: it is of another scheme, or no record of such a test.
    """
    found: ImageTestInputs = _read_record(text, TEST, ImageTestInputs)
    return found


def _read_record(text: str, kind: str, inputs: type) -> Any:  # noqa: ANN401 - of type `inputs`
    try:
        data = json.loads(text)
        said = data.pop("scheme"), data.pop("type")
        if said != (SCHEME, kind):
            raise ValueError(f"scheme {said[0]!r}, type {said[1]!r}")
        return _read(inputs, data)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"not a build record that this buildit can build: {error}"
        raise IntegrityError(message, hint="plan it again with this buildit") from error


def _written(value: Any) -> Any:  # noqa: ANN401 - JSON data of text, lists and maps alone
    if isinstance(value, Platform):
        return f"{value.os}/{value.arch}/{value.baseline}"
    kind: Any = type(value)
    if is_dataclass(value):
        later = _later(kind)
        return {
            key: _written(one)
            for name, key, _ in _fields(kind)
            if (one := getattr(value, name)) != later.get(name, one) or name not in later
        }
    if isinstance(value, tuple):
        return [_written(one) for one in value]
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, str | int) else dict(value)


def _read(kind: Any, data: Any) -> Any:  # noqa: ANN401 - what `_written` gave of a value of `kind`
    if kind is Platform:
        found = PLATFORMS[data.rpartition("/")[0]]
        if _written(found) != data:
            raise ValueError(f"{data!r} is no platform")
        return found
    if isinstance(kind, type) and is_dataclass(kind):
        known = [one for one in _fields(kind) if one[1] in data or one[0] not in _later(kind)]
        if {key for _, key, _ in known} != set(data):
            raise ValueError(f"{kind.__name__} of {', '.join(data)}")
        return kind(**{name: _read(hint, data[key]) for name, key, hint in known})
    if get_origin(kind) is tuple:
        return tuple(_read(get_args(kind)[0], one) for one in data)
    if kind is bool:
        return {"yes": True, "no": False}[data]
    if kind is int:
        return int(data)
    if isinstance(kind, type) and issubclass(kind, Phase):
        return Phase(data)
    return data


@cache
def _fields(kind: type) -> tuple[tuple[str, str, Any], ...]:
    """The name, key and type of each field of what a record is made of."""
    words = {"digest": "sha256"}
    hints = get_type_hints(kind).items()
    return tuple((name, words.get(name, name.replace("_", "-")), hint) for name, hint in hints)


@cache
def _later(kind: type) -> Mapping[str, object]:
    """The defaults of the fields that came later."""
    return {one.name: one.default for one in fields(kind) if one.metadata == _LATER}


def emulator_digest(debs: tuple[DebRef, ...]) -> Digest:
    """What a record has of the emulator's .deb, if there is one."""
    return debs[0].digest if debs else _OWN_MACHINE


def deb_record(
    sha256: Digest,
    toolchain: Digest,
    beside: tuple[Digest, ...],
    rules: Rules,
    view: DebView = WHOLE,
) -> dict[str, object]:
    """The record of an unpacked Debian binary package.

    `toolchain` and `beside` are where the providers of what it needs are looked for. `view` is what
    is taken of it; the order of globs does not count.
    """
    return {
        **({"without": sorted(set(view.without))} if view.without else {}),
        **({"sliced": sorted(set(view.sliced))} if view.sliced else {}),
        **({"set-id": "keep"} if view.keep_set_id else {}),
        "scheme": SCHEME,
        "type": DEBIAN,
        "sha256": sha256,
        "toolchain": toolchain,
        "beside": list(beside),
        "rules": {
            "deb": rules.deb,
            "splitter": rules.splitter,
            "normaliser": rules.normaliser,
            "scripts": MAINTAINER_RULES,
        },
    }


def former_deb_keys(record: str) -> Iterator[BuildKey]:
    """The keys that the .deb of a record had under earlier `MAINTAINER_RULES`, and before there
    were any: packages whose keys did not change meanwhile name it by them."""
    data = json.loads(record)
    for number in range(1, int(MAINTAINER_RULES)):
        data["rules"]["scripts"] = str(number)
        yield build_key(record_text(data))
    data["rules"].pop("scripts", None)
    data.pop("sliced", None)
    data.pop("set-id", None)
    yield build_key(record_text(data))


def deb_view(record: str) -> DebView:
    """What the record of a .deb takes of it, globs sorted."""
    data = json.loads(record)
    globs = tuple(data.get("without", ())), tuple(data.get("sliced", ()))
    return DebView(*globs, keep_set_id="set-id" in data)


def record_text(record: Mapping[str, object]) -> str:
    return canonical(record).decode()


def build_key(record: str) -> BuildKey:
    """The key of a record's canonical text."""
    return BuildKey(digest_bytes(record.encode()))


def step_task(
    record: Mapping[str, object],
    inputs: Inputs,
    about: About,
    outputs: Iterable[str] = (RUNTIME,),
    *,
    platform: str = "",
    stays: bool = False,
) -> Task:
    """The task of a step of a container, whose kind is the `type` of its record. No package can be
    called as it is, and the index of names leaves it out."""
    text, kind = record_text(record), str(record["type"])
    key = build_key(text)
    return Task(
        key=key,
        kind=kind,
        name=f"step:{kind}",
        version=key[:12],
        record=text,
        platform=platform,
        inputs=inputs,
        outputs={name: RunTime() for name in outputs},
        about=about,
        stays=stays,
    )


def resolved_key(record: str, at_hand: Mapping[BuildKey, Mapping[str, Digest]]) -> Digest | None:
    """The second identity of a build (DESIGN 3, early cut-off): the record with the diff_ids of the
    dependency outputs in the place of the dependencies' keys.

    `at_hand` maps each dependency to its outputs. None where the record has no dependencies, or
    one of them is not at hand: then there is nothing that this could find.
    """
    data = json.loads(record)
    dependencies = data.get("dependencies")
    if not dependencies or any(one["key"] not in at_hand for one in dependencies):
        return None
    data["dependencies"] = [
        {name: diff_id for name, diff_id in at_hand[one["key"]].items() if name in one["outputs"]}
        for one in dependencies
    ]
    return digest_bytes(_RESOLVED_DOMAIN + canonical(data))


def dependency_keys(record: str) -> tuple[BuildKey, ...]:
    """The keys of the dependencies of a record, in its order."""
    return tuple(BuildKey(one["key"]) for one in json.loads(record).get("dependencies", ()))
