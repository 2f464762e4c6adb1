"""The roots of builds against apt's choice for the same sources, as `tests.build_deps_recorded` has
recorded it; no network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from buildit.debian.select import select_build
from tests.build_deps_recorded import NAMES, Recorded, opened

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    with opened(tmp_path_factory.mktemp("indices")) as found:
        yield found


def test_enough_is_recorded(recorded: Recorded) -> None:
    assert set(recorded.answers) == set(NAMES)
    assert len(NAMES) == 96


@pytest.mark.parametrize("name", NAMES)
def test_the_same_as_apt(recorded: Recorded, name: str) -> None:
    version, debs = recorded.answers[name]
    source = recorded.sources.choose(name)
    assert source.version == version
    _, further = select_build(source, (), (), recorded.indices)
    chosen = {f"{deb.name}={deb.version}" for deb in further}
    assert (sorted(chosen - debs), sorted(debs - chosen)) == ([], [])
