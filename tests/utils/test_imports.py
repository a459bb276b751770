from __future__ import annotations

import pytest

from lit_viz.errors import LitVizError
from lit_viz.utils.imports import supported_versions


def test_an_unsupported_version_is_named() -> None:
    message = r"^wandb \d[\d.]* is not supported \(.*NoSuchPart.*\): install wandb 0\.31$"
    with pytest.raises(LitVizError, match=message), supported_versions("wandb", "0.31"):
        from wandb.errors import NoSuchPart  # type: ignore[attr-defined]  # noqa: F401
