"""The other packages that lit_viz is compared with."""

from __future__ import annotations

import os

import pytest

from scripts.benchmarks import environment

#: Environment variable that turns the skip without the packages into a failure.
REQUIRED = "LIT_VIZ_REQUIRE_PEERS"


def require_peers() -> None:
    """Skip the test if packages of ``scripts/benchmarks/environment.py`` are missing."""
    absent = environment.missing(environment.default_folder())
    if not absent:
        return
    message = f"missing {', '.join(absent)}: python scripts/benchmarks/environment.py"
    if os.environ.get(REQUIRED):
        pytest.fail(message)
    pytest.skip(message)
