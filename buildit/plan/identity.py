"""Identity: every input that can change a build's output, as a record that can be printed.

`key = sha256(canonical(record))` (DESIGN §3). Anything that can change the output and is not here
is a bug, and so is anything here that cannot. The record is stored and published with the
artifact, so that a miss can be explained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from buildit.digest import BuildKey, Digest, canonical, digest_bytes
from buildit.model.platform import Platform
from buildit.model.task import Dependency
from buildit.plan.steps import Step

PACKAGE = "package"
DEBIAN = "debian"
"""Kinds of tasks, and the `type` of their records."""

SCHEME = "1"
"""Raised when the meaning of a record changes; two schemes never share a key."""

_RESOLVED_DOMAIN = b"buildit-resolved-1\n"
"""Before what a resolved key is taken of: it can never be a key, nor the digest of a blob."""


@dataclass(frozen=True, slots=True)
class SourceInput:
    """`name` is that of the file where one may be made: with `unpack` off, or if it is no archive;
    "" where its name says that it can only be an archive."""

    digest: Digest
    directory: str
    strip: int
    name: str = ""
    unpack: bool = True
    exclude: tuple[str, ...] = ()


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
    sources by the unpacker's rule).
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

    def record(self) -> dict[str, object]:
        return {
            "scheme": SCHEME,
            "type": PACKAGE,
            "name": self.name,
            "version": self.version,
            "build-platform": _platform(self.build_platform),
            "target-platform": _platform(self.target_platform),
            "sources": [
                {
                    "sha256": s.digest,
                    "directory": s.directory,
                    "strip": str(s.strip),
                    "name": s.name,
                    "unpack": _yes(s.unpack),
                    "exclude": list(s.exclude),
                }
                for s in self.sources
            ],
            "patches": [{"sha256": p.digest, "strip": str(p.strip)} for p in self.patches],
            "files": [
                {"path": f.path, "executable": _yes(f.executable), "sha256": f.digest}
                for f in self.files
            ],
            "steps": [{"phase": s.phase.value, "argv": list(s.argv)} for s in self.steps],
            "environment": dict(self.environment),
            "file-rules": [
                {
                    "path": r.path,
                    "mode": r.mode,
                    "owner": r.owner,
                    "capabilities": list(r.capabilities),
                }
                for r in self.file_rules
            ],
            "outputs": [
                {"name": o.name, "paths": list(o.paths), "optional": _yes(o.optional)}
                for o in self.outputs
            ],
            "strip": _yes(self.strip),
            "toolchain": self.toolchain,
            "dependencies": [{"key": d.key, "outputs": list(d.outputs)} for d in self.dependencies],
            "rules": {
                "normaliser": self.rules.normaliser,
                "splitter": self.rules.splitter,
                "patcher": self.rules.patcher,
                "deb": self.rules.deb,
                "sandbox": self.rules.sandbox,
                "unpacker": self.rules.unpacker,
            },
        }


def deb_record(
    sha256: Digest,
    toolchain: Digest,
    beside: tuple[Digest, ...],
    rules: Rules,
    without: tuple[str, ...] = (),
) -> dict[str, object]:
    """The record of an unpacked Debian binary package.

    `toolchain` and `beside` are where the providers of what it needs are looked for. `without` are
    the globs of what is left out of it; their order does not count.
    """
    left_out = {"without": sorted(set(without))} if without else {}
    return {
        **left_out,
        "scheme": SCHEME,
        "type": DEBIAN,
        "sha256": sha256,
        "toolchain": toolchain,
        "beside": list(beside),
        "rules": {"deb": rules.deb, "splitter": rules.splitter, "normaliser": rules.normaliser},
    }


def left_out(record: str) -> tuple[str, ...]:
    """The globs of what the record of a .deb leaves out, sorted."""
    return tuple(json.loads(record).get("without", ()))


def record_text(record: Mapping[str, object]) -> str:
    return canonical(record).decode()


def build_key(record: str) -> BuildKey:
    """The key of a record's canonical text."""
    return BuildKey(digest_bytes(record.encode()))


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


def _platform(platform: Platform) -> str:
    return f"{platform.os}/{platform.arch}/{platform.baseline}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
