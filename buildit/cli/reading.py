"""What `show` and `log` read of one build."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from buildit.cli.lookup import failure_of, find_key
from buildit.cli.printable import printable
from buildit.digest import CHUNK
from buildit.errors import UsageError
from buildit.store.artifacts import Found, examine
from buildit.store.cas import Store
from buildit.store.failures import FailedBuild, find_failure


def found_build(store: Store, text: str) -> Found:
    """The finished build that `text` names.

    Raises:
        UsageError: nothing is called so, it failed, or it is not whole.
    """
    key = find_key(store, text)
    found = examine(store, key)
    if isinstance(found, Found):
        return found
    failure = find_failure(store, key)
    if failure is not None:
        raise UsageError(
            f"the build failed: {failure.message}",
            place=text,
            hint=f"see `buildit log {key[:12]}`, or enter it: `buildit shell {key[:12]}`",
        )
    raise UsageError(
        f"the build is not whole: {found.reasons[0]}",
        place=text,
        hint="build its container again",
        details=found.reasons[1:],
    )


def not_failed(text: str) -> UsageError:
    """There is no tree to enter."""
    return UsageError(
        "this build did not fail: no tree of it is kept",
        place=text,
        hint=f"see what it left: `buildit show --files {text}`",
    )


@contextmanager
def build_log(store: Store, text: str | None) -> Iterator[tuple[str, BinaryIO]]:
    """The label and the log of a build: of its failure, where the last attempt failed.

    Raises:
        UsageError: nothing is called so, or it left no log.
        IntegrityError: while reading: the log is corrupt.
    """
    failure = failure_of(store, text)
    with _failed_log(failure) if failure else _kept_log(store, text or "") as found:
        yield found


@contextmanager
def _failed_log(failure: FailedBuild) -> Iterator[tuple[str, BinaryIO]]:
    with failure.log.open("rb") as stream:
        yield f"{failure.name}-{failure.version}", stream


@contextmanager
def _kept_log(store: Store, text: str) -> Iterator[tuple[str, BinaryIO]]:
    artifact = found_build(store, text).artifact
    label = f"{artifact.name}-{artifact.version}"
    if artifact.log is None or not store.has(artifact.log):
        raise UsageError(
            "the build left no log", place=label, hint="only what was built here has one"
        )
    with store.checked(artifact.log) as stream:
        yield label, stream


def log_text(stream: BinaryIO, *, terminal: bool) -> Iterator[str]:
    """The text of a log: as it is, or with what could drive a terminal made harmless."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace" if terminal else "surrogateescape")
    while chunk := stream.read(CHUNK):
        text = decoder.decode(chunk)
        yield _harmless(text) if terminal else text
    rest = decoder.decode(b"", final=True)
    yield _harmless(rest) if terminal else rest


def _harmless(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))
