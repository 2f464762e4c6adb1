"""Fixtures of the tests that run the real command line with the real toolchain."""

from __future__ import annotations

from tests.integration.seeds import here, seed

__all__ = ["here", "seed"]
