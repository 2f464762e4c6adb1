"""The lines of `buildit why`."""

from __future__ import annotations

import pytest

from buildit.cli.planned import Why, why_lines
from buildit.commands.forecast import State
from buildit.digest import BuildKey, digest_bytes, key_uuid
from buildit.model.plan import Task
from buildit.remote.binhost.nearby import Closest, Untrusted

pytestmark = pytest.mark.unit

KEY = BuildKey(digest_bytes(b"hello"))
HELLO = Task(KEY, "package", "app/hello", "1.0", "{}")
TITLE = f"app/hello-1.0  {key_uuid(KEY)}"
ADA = Untrusted("far", "signed by SHA256:abc", "if you know this key: buildit trust add SHA256:abc")


def test_what_nobody_has() -> None:
    assert why_lines((Why(HELLO, State.BUILD, "", None),)) == (
        TITLE,
        "  no known place has it",
        "  and no place that lists names has a build of this package",
    )


def test_what_a_stranger_has_is_not_said_to_be_nowhere() -> None:
    assert why_lines((Why(HELLO, State.BUILD, "", None, (ADA,)),)) == (
        TITLE,
        "  no place whose builder is trusted has it",
        f"  {ADA}",
    )


def test_the_closest_build_and_what_differs() -> None:
    other = BuildKey(digest_bytes(b"other"))
    closest = Closest(other, "'far'", ("patch x.patch is new",))
    assert why_lines((Why(HELLO, State.BUILD, "", closest),))[2:] == (
        f"  closest: {key_uuid(other)} in 'far'",
        "    patch x.patch is new",
    )


def test_nothing_to_explain() -> None:
    assert why_lines(()) == (
        "Every package is at hand: none would be built. Of steps, see `buildit plan`.",
    )
