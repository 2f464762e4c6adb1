"""A build record read back: what the builder needs of it, typed.

The record is what is hashed (`plan.identity`), so what is built is by construction what the key
names: the builder looks at nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from buildit.digest import Digest
from buildit.errors import IntegrityError
from buildit.plan.identity import SCHEME, FileInput, OutputInput, PatchInput, RuleInput, SourceInput
from buildit.plan.steps import Phase, Step


@dataclass(frozen=True, slots=True)
class BuildRecord:
    """The inputs of one build."""

    sources: tuple[SourceInput, ...]
    patches: tuple[PatchInput, ...]
    files: tuple[FileInput, ...]
    steps: tuple[Step, ...]
    environment: Mapping[str, str]
    file_rules: tuple[RuleInput, ...]
    outputs: tuple[OutputInput, ...]
    strip: bool
    toolchain: Digest


def read_record(text: str) -> BuildRecord:
    """The inputs that a record names.

    Raises:
        IntegrityError: it is of another scheme, or no record of a package.
    """
    try:
        data = json.loads(text)
        if data["scheme"] != SCHEME or data["type"] != "package":
            raise ValueError(f"scheme {data['scheme']!r}, type {data['type']!r}")
        return BuildRecord(
            sources=tuple(
                SourceInput(
                    s["sha256"],
                    s["directory"],
                    int(s["strip"]),
                    s["name"],
                    s["unpack"] == "yes",
                    tuple(s["exclude"]),
                )
                for s in data["sources"]
            ),
            patches=tuple(PatchInput(p["sha256"], int(p["strip"])) for p in data["patches"]),
            files=tuple(
                FileInput(f["path"], f["executable"] == "yes", f["sha256"]) for f in data["files"]
            ),
            steps=tuple(Step(Phase(s["phase"]), tuple(s["argv"])) for s in data["steps"]),
            environment=data["environment"],
            file_rules=tuple(
                RuleInput(r["path"], r["mode"], r["owner"], tuple(r["capabilities"]))
                for r in data["file-rules"]
            ),
            outputs=tuple(
                OutputInput(o["name"], tuple(o["paths"]), o["optional"] == "yes")
                for o in data["outputs"]
            ),
            strip=data["strip"] == "yes",
            toolchain=data["toolchain"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"not a build record that this buildit can build: {error}",
            hint="plan it again with this buildit",
        ) from error
