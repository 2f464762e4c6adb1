"""The demo, built once as root plain and once as an ordinary user with everything else changed."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.e2e.demo", "tests.integration.compare")

from tests.e2e.demo import demo, second  # noqa: E402
from tests.integration.seeds import here, seed  # noqa: E402

__all__ = ["demo", "here", "second", "seed"]
