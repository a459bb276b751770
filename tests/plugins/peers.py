"""Fixture with the other packages that lit_viz is compared with."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.support.peers import environment, require_peers


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
