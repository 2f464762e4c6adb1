"""Builds by what people call them: a key, its UUID, a prefix, a package's name, a statement; and
the records and logs of them that `show` and `log` read."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from buildit.cli.results import printable
from buildit.digest import CHUNK, BuildKey, is_hex64
from buildit.errors import UsageError
from buildit.events import Notice, Reporter, silent
from buildit.model.config import Config
from buildit.recipe.config import load_config
from buildit.store.artifacts import Found, examine
from buildit.store.cas import Store
from buildit.store.failures import FailedBuild, find_failure
from buildit.store.layout import key_directory
from buildit.store.names import SHORTEST_PREFIX, find, named

_KEY = re.compile(
    rf"[0-9a-fA-F]{{{SHORTEST_PREFIX},64}}|[0-9a-fA-F]{{8}}(?:-[0-9a-fA-F]{{4,12}}){{4}}"
)


@dataclass(frozen=True, slots=True)
class _Known:
    """A build, finished or failed, by name; `changed` is when (ns), to tell the newest."""

    key: BuildKey
    name: str
    version: str
    changed: int


@contextmanager
def own_store(report: Reporter = silent) -> Iterator[tuple[Store, Config]]:
    """The store and settings that hold in the working directory.

    Raises:
        RecipeError: the configuration is wrong.
        StoreError: the store cannot be used.
    """
    settings = load_config(Path()).config
    for remark in settings.remarks:
        report(Notice(remark, warning=True))
    with Store.open(settings.store) as store:
        yield store, settings


def find_key(store: Store, text: str) -> BuildKey:
    """The key that `text` names: see the module; of a name, the newest build.

    Raises:
        UsageError: nothing, or several things, are called so.
    """
    beside = Path(text).parent.name
    if is_hex64(beside) and Path(text).is_file():
        return find(store, beside)
    if _KEY.fullmatch(text):
        return find(store, text)
    return _newest(tuple(_known(store)), text).key


def _newest(builds: tuple[_Known, ...], text: str) -> _Known:
    """The last of the builds whose name is `text`: `category/name` or `name`, with `-version` or
    without.

    Raises:
        UsageError: none is, or packages of several categories are.
    """
    fitting = [one for one in builds if text in _spellings(one)]
    names = sorted({one.name for one in fitting})
    if len(names) == 1:
        return max(fitting, key=lambda one: (one.changed, one.key))
    if names:
        hint = f"say which: {', '.join(names)}"
        raise UsageError("packages of several categories are called so", place=text, hint=hint)
    raise UsageError(
        "no build in the store has this name or key", place=text, hint="see `buildit store list`"
    )


def _spellings(one: _Known) -> tuple[str, ...]:
    short = one.name.rpartition("/")[2]
    return (one.name, short, f"{one.name}-{one.version}", f"{short}-{one.version}")


def _known(store: Store) -> Iterator[_Known]:
    """Every build that the store has, and every failure that it remembers."""
    for entry in named(store):
        changed = _changed(key_directory(store.root, entry.key))
        yield _Known(entry.key, entry.name, entry.version, changed)
    for failure in failures(store):
        yield _Known(failure.key, failure.name, failure.version, _changed(failure.log))


def failures(store: Store) -> tuple[FailedBuild, ...]:
    """The failed builds, the last one first."""
    directory = store.root / "logs" / "failed"
    names = os.listdir(directory) if directory.is_dir() else []
    found = [find_failure(store, BuildKey(name)) for name in names if is_hex64(name)]
    kept = [failure for failure in found if failure is not None]
    return tuple(sorted(kept, key=lambda one: (_changed(one.log), one.key), reverse=True))


def failure_of(store: Store, text: str | None) -> FailedBuild | None:
    """The failure of what `text` names, without it the last one; None where that did not fail.

    Raises:
        UsageError: nothing is called so, or nothing has failed.
    """
    if text is not None:
        return find_failure(store, find_key(store, text))
    found = failures(store)
    if not found:
        raise UsageError(
            "no failed build is remembered", hint="name a build: see `buildit store list`"
        )
    return found[0]


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


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
