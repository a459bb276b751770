"""Fixture with the other packages that lit_viz is compared with."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

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


@pytest.fixture(scope="module")
def peers() -> Iterator[None]:
    """Add the folder of the packages to the search path; other modules do not import from it."""
    require_peers()
    folder = str(environment.default_folder())
    loaded = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, folder])
        environment.patch_kornia()
        yield
    for name in set(sys.modules) - loaded:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(folder):
            del sys.modules[name]
