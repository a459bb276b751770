"""Captum as a reference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor


@pytest.fixture
def exact_captum(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Captum rounds the weights of a quadrature, and the maps of its occlusion, to float32: keep them in float64."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)
