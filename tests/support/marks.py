"""Parameters of tests that are slow, as :func:`pytest.param` marks them."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*values: Any, **options: Any) -> Any:
    """Return parameters of a slow test, whose other parameters are fast ones of the same code."""
    return pytest.param(*values, marks=pytest.mark.slow, **options)
