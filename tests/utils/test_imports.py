from __future__ import annotations

import pytest

from lit_viz.errors import LitVizError
from lit_viz.utils.imports import required


def test_an_unsupported_version_is_named() -> None:
    message = r"^lit_viz requires wandb 0\.31 \(cannot import name 'NoSuchPart' from 'wandb\.errors'.*\)$"
    with pytest.raises(LitVizError, match=message), required("wandb 0.31"):
        from wandb.errors import NoSuchPart  # type: ignore[attr-defined]  # noqa: F401
