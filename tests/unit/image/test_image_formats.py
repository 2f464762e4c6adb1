"""A format is a value in one table: a pure plan, and what others must know of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from buildit.digest import Digest
from buildit.image.formats.table import FORMATS, LayerBlob, check, format_of
from buildit.recipe import container
from tests.unit.image.samples import BlobDirectory, emit, image, nginx_layers

pytestmark = pytest.mark.unit

TOP = Path(__file__).parents[3] / "buildit"
ASKED = re.compile(r"""(format|type)\b[^\n]{0,12}[!=]=\s*["'](aci|oci)["']""")


def test_a_plan_says_all_documents_without_a_disk(blobs: BlobDirectory, tmp_path: Path) -> None:
    whole = image(nginx_layers(blobs), "oci")
    written = emit(whole, blobs, tmp_path)
    stored = written.path / "blobs" / "sha256"
    manifest = json.loads((stored / written.digest).read_bytes())
    config = json.loads((stored / manifest["config"]["digest"][7:]).read_bytes())
    layers = [
        LayerBlob(
            Digest(diff_id[7:]),
            Digest(each["digest"][7:]),
            each["size"],
            step["created_by"].removeprefix("buildit: "),
        )
        for each, diff_id, step in zip(
            manifest["layers"], config["rootfs"]["diff_ids"], config["history"], strict=True
        )
    ]
    plan = format_of(whole).plan(whole, check(whole), layers)
    assert plan.digest == written.digest
    files = {str(path.relative_to(written.path)): path for path in written.path.rglob("*")}
    names = {f"blobs/sha256/{each.digest}" for each in layers}
    files = {name: path for name, path in files.items() if path.is_file() and name not in names}
    assert plan.documents == {name: path.read_bytes() for name, path in files.items()}


def test_the_table_is_what_container_yaml_may_say() -> None:
    [step] = [each for each in vars(container).values() if _is_image_step(each)]
    assert get_args(step.model_fields["type"].annotation) == tuple(FORMATS)
    assert all(make().name == name for name, make in FORMATS.items())


def _is_image_step(value: object) -> bool:
    fields = getattr(value, "model_fields", {})
    return {"type", "compress"} <= set(fields)


def test_nobody_else_asks_for_a_format_by_its_name() -> None:
    found = [
        f"{path.relative_to(TOP)}: {match[0]}"
        for path in TOP.rglob("*.py")
        if "formats" not in path.parts
        for match in ASKED.finditer(path.read_text())
    ]
    assert found == []
