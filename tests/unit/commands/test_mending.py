"""Runs that find the store not whole: begun again, bounded, and with each thing said once."""

from __future__ import annotations

import pytest

from buildit.commands.mending import MOST_LOSSES, until_whole
from buildit.digest import Digest, digest_bytes
from buildit.errors import BuildError
from buildit.events import Building, Event, Notice, Reporter, Started
from buildit.store.blobs import CorruptBlob
from buildit.store.disk import Vanished

pytestmark = pytest.mark.unit

ONE, TWO = (digest_bytes(text) for text in (b"1", b"2"))


class Runs:
    """Fails with each of the errors in turn, then ends well."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.lost: list[frozenset[Digest]] = []

    def __call__(self, report: Reporter, lost: frozenset[Digest]) -> str:
        report(Started("box"))
        report(Building("k" * 64, "x", "why"))  # type: ignore[arg-type]
        self.lost.append(lost)
        if self._errors:
            raise self._errors.pop(0)
        return "made"


def test_what_is_corrupt_is_made_anew_in_the_same_run() -> None:
    said: list[Event] = []
    runs = Runs(CorruptBlob(ONE, "the layer of x"), CorruptBlob(TWO), Vanished("gone", place="p"))
    assert until_whole(runs, said.append) == "made"
    assert runs.lost == [frozenset(), {ONE}, {ONE, TWO}, {ONE, TWO}]
    notices = [event.message for event in said if isinstance(event, Notice)]
    assert notices[0].startswith("the layer of x in the store is corrupt")
    assert len(notices) == 3
    assert sum(isinstance(event, Started) for event in said) == 1
    assert sum(isinstance(event, Building) for event in said) == 4


def test_the_same_blob_twice_is_a_disk_that_cannot_be_used() -> None:
    with pytest.raises(CorruptBlob):
        until_whole(Runs(CorruptBlob(ONE), CorruptBlob(ONE)), lambda _: None)


def test_what_vanishes_again_and_again_ends_the_run() -> None:
    runs = Runs(*(Vanished("gone") for _ in range(MOST_LOSSES + 1)))
    with pytest.raises(Vanished):
        until_whole(runs, lambda _: None)
    assert len(runs.lost) == MOST_LOSSES + 1


def test_any_other_error_ends_the_run_at_once() -> None:
    runs = Runs(BuildError("no"))
    with pytest.raises(BuildError):
        until_whole(runs, lambda _: None)
    assert len(runs.lost) == 1
