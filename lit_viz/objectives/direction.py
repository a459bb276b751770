"""Objective on the activation along a direction of a layer's channel space."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.objectives.base import Outputs
from lit_viz.objectives.layers import Axis, LayerObjective

_EPS = 1e-24  # under the square root: keeps the gradient finite where the activation is 0


class Direction(LayerObjective):
    """Dot product or cosine similarity of the activation and a vector, averaged over the positions (Olah, Mordvintsev
    and Schubert 2017, "Feature Visualization"; Kim et al. 2018, arXiv:1711.11279, for meaningful directions).

    The dot product alone tends to raise single channels that are easy to activate. The product
    ``Direction(layer, v) * Direction(layer, v, "cosine")`` keeps the direction.

    Args:
        layer, axis: see :class:`~lit_viz.objectives.layers.LayerObjective`.
        vector: one number per channel, or a file: ``.npy``, or ``.pt`` with a tensor.
        kind: ``dot`` or ``cosine``; the cosine at a position without activation is 0.

    Raises:
        LitVizError: if the file can't be read, or the vector is invalid.
    """

    def __init__(
        self,
        layer: str,
        vector: list[float] | str,
        kind: Literal["dot", "cosine"] = "dot",
        axis: Axis | None = None,
    ) -> None:
        super().__init__(layer, axis)
        if kind not in ("dot", "cosine"):
            raise LitVizError(f"kind of Direction must be 'dot' or 'cosine', got {kind!r}")
        self.vector = _read(Path(vector)) if isinstance(vector, str) else torch.tensor(vector, dtype=torch.float64)
        if self.vector.ndim != 1 or not bool(self.vector.isfinite().all()) or not bool(self.vector.any()):
            raise LitVizError(
                f"vector of Direction must be one finite nonzero vector, got shape {tuple(self.vector.shape)}: give "
                f"one number per channel of layer {layer!r}"
            )
        self.kind = kind

    def __call__(self, outputs: Outputs) -> Tensor:
        """Compute the mean over the positions ``(M,)``; a cosine is in [-1, 1]."""
        maps = self.maps(outputs)
        vector = self.vector.to(maps)
        projection = torch.einsum("mchw,c->mhw", maps, vector)
        if self.kind == "cosine":
            projection = projection / (vector.norm() * maps.square().sum(1).clamp(min=_EPS).sqrt())
        return projection.mean((1, 2))

    def _bind_channels(self, channels: int) -> None:
        if len(self.vector) != channels:
            raise LitVizError(
                f"vector of Direction must have {channels} numbers, one per channel of layer {self.layer!r}, got "
                f"{len(self.vector)}"
            )


def _read(file: Path) -> Tensor:
    try:
        content: Any = (
            np.load(file, allow_pickle=False)
            if file.suffix == ".npy"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
        return torch.as_tensor(content).double()
    except Exception as error:  # numpy and torch raise many types for invalid files
        raise LitVizError(
            f"the direction {file} can't be read ({type(error).__name__}): give a .npy file, or a .pt file "
            "with a tensor"
        ) from error
