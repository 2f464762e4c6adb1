"""A kind of task that buildit does not know: two outputs with a file each, and one needs the other
at run time although no file says so."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from buildit.digest import digest_bytes
from buildit.make.layer import put_layer
from buildit.make.makers import AtHand, BuildPlace, Made, put_record
from buildit.model.plan import Inputs, Task, Toolchain
from buildit.model.tree import Entry, Kind
from buildit.plan.identity import build_key, record_text


def toy_task(texts: dict[str, str]) -> Task:
    """A task that makes one file of each text, `opt/NAME` in an output of the name."""
    record = record_text({"type": "toy", "texts": texts})
    return Task(build_key(record), "toy", "toys/two", "1", record, "linux/amd64")


def fetches(task: Task, toolchain: Toolchain) -> Inputs:
    del task, toolchain
    return Inputs()


def make(task: Task, at_hand: AtHand, place: BuildPlace, work: Path) -> Made:
    del at_hand
    assert not any(work.iterdir())
    outputs = {}
    with place.store.batch() as batch:
        for name, text in json.loads(task.record)["texts"].items():
            content = text.encode()
            entries = (
                Entry("opt", Kind.DIRECTORY, 0o755, 7),
                Entry(f"opt/{name}", Kind.FILE, 0o644, 7, 0, 0, len(content), "",
                      digest_bytes(content)),
            )  # fmt: skip
            packed = put_layer(batch, entries, partial(_opened, content))
            run = (":second",) if name == "first" else ()
            outputs[name] = replace(packed, run=run)
        return Made(outputs, put_record(task, batch), 7)


def _opened(content: bytes, _: Entry) -> io.BytesIO:
    return io.BytesIO(content)
