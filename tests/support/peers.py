"""The other packages that lit_viz is compared with."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

from tests.support import environment

#: Environment variable that turns the skip without the packages into a failure.
REQUIRED = "LIT_VIZ_REQUIRE_PEERS"


def require_peers() -> None:
    """Skip the test if packages of ``tests/support/environment.py`` are missing."""
    absent = environment.missing(environment.default_folder())
    if absent:
        _skip_or_fail(f"missing {', '.join(absent)}: python tests/support/environment.py")


def require_package(name: str) -> None:
    """Skip the test if a package is missing."""
    if find_spec(name) is None:
        _skip_or_fail(f"missing {name}: pip install 'lit-viz[{name}]'")


def _skip_or_fail(message: str) -> None:
    if os.environ.get(REQUIRED):
        pytest.fail(message)
    pytest.skip(message)
