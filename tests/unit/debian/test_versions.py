from __future__ import annotations

import itertools
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.debian.relations import debian_key
from tests.scale import examples

pytestmark = pytest.mark.unit

# deb-version(7) and Policy 5.6.12; each list is sorted
SORTED = [
    ["0~~", "0~~a", "0~", "0", "0a", "0+"],
    ["1.0~beta1~svn1245", "1.0~beta1", "1.0", "1.0-1", "1.0-1+b1", "1.0-1.1", "1.0-2", "1.0.1"],
    ["9", "10", "1:0", "2:0~rc1", "2:0"],
    ["2.36-9", "2.36-9+deb12u3", "2.36-9+deb12u13", "2.37~1"],
    ["1.2", "1.2a", "1.2b", "1.2+", "1.2.3"],
    ["1", "1-a", "1-a1", "1-b", "1-+"],
]
EQUAL = [("1.0", "1.00"), ("1.0", "1.0-0"), ("0:1", "1"), ("1a", "1a0"), ("1-0~", "1-00~")]
BAD = ["", ":1", "1:", "a b", "1_2", "-1", "1-", "~1", "x:1", "1-2_3", "1\n", "é1", "1:2" * 400]

chars = "0123456789abzAZ.+~"
versions = st.builds(
    lambda epoch, upstream, revision: f"{epoch}{upstream}{revision}",
    st.sampled_from(["", "0:", "1:", "12:"]),
    st.text(chars + "-", min_size=1, max_size=8).map(lambda text: f"1{text}".strip("-")),
    st.one_of(st.just(""), st.text(chars, min_size=1, max_size=5).map("-{}".format)),
)


@pytest.mark.parametrize("listed", SORTED)
def test_known_orders(listed: list[str]) -> None:
    keys = [debian_key(version) for version in listed]
    assert all(lower < higher for lower, higher in itertools.pairwise(keys))


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal_versions(one: str, other: str) -> None:
    assert debian_key(one) == debian_key(other)


@pytest.mark.parametrize("version", BAD)
def test_what_is_no_version(version: str) -> None:
    with pytest.raises(ValueError, match="not a Debian version"):
        debian_key(version)


@pytest.mark.skipif(not shutil.which("dpkg"), reason="dpkg is not installed")
@settings(max_examples=examples(40), deadline=None)
@given(versions, versions)
def test_order_is_dpkgs(one: str, other: str) -> None:
    a, b = debian_key(one), debian_key(other)
    ours = "lt" if a < b else "gt" if a > b else "eq"
    argv = ["dpkg", "--compare-versions", one, ours, other]
    assert subprocess.run(argv, check=False, stderr=subprocess.DEVNULL).returncode == 0


@given(st.text(max_size=20))
def test_any_text_is_a_version_or_refused(text: str) -> None:
    try:
        assert debian_key(text) == debian_key(text)
    except ValueError:
        return
