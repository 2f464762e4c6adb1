"""Fixtures of the tests that run the real command line with the real toolchain."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.integration.refusing", "tests.integration.compare")

from tests.integration.seeds import here, seed  # noqa: E402

__all__ = ["here", "seed"]
