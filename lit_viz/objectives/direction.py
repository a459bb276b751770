"""How far what a layer gives goes in a direction of its space of channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.objectives.base import Outputs
from lit_viz.objectives.layers import Axis, LayerObjective


class Direction(LayerObjective):
    """The dot product or the cosine of the activation with a vector, the mean over the places (Olah, Mordvintsev and
    Schubert 2017, "Feature Visualization"; Kim et al. 2018, arXiv:1711.11279, for directions that mean something).

    The dot product alone soon leaves the direction for a channel that is easily raised; their product,
    ``Direction(layer, v) * Direction(layer, v, "cosine")``, keeps to it.

    Args:
        layer, axis: see :class:`~lit_viz.objectives.layers.LayerObjective`.
        vector: one number a channel; or a file that holds them: ``.npy``, or ``.pt`` with a tensor.
        kind: ``dot`` or ``cosine``; the cosine of a place without activation is 0.

    Raises:
        LitVizError: the file can't be read, or holds no vector.
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
            raise LitVizError(f"the kind of Direction is 'dot' or 'cosine', not {kind!r}.")
        self.vector = _read(Path(vector)) if isinstance(vector, str) else torch.tensor(vector, dtype=torch.float64)
        if self.vector.ndim != 1 or not bool(self.vector.isfinite().all()) or not bool(self.vector.any()):
            raise LitVizError(
                f"a direction is one vector of finite numbers, not all 0, and this has the shape "
                f"{tuple(self.vector.shape)}: give one number a channel of layer {layer!r}."
            )
        self.kind = kind

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the mean over the places ``(M,)``; a cosine lies in [-1, 1]."""
        maps = self.maps(outputs)
        vector = self.vector.to(maps)
        along = torch.einsum("mchw,c->mhw", maps, vector)
        if self.kind == "cosine":
            along = along / (vector.norm() * maps.square().sum(1).clamp(min=_TINY).sqrt())
        return along.mean((1, 2))

    def _fit(self, channels: int) -> None:
        if len(self.vector) != channels:
            raise LitVizError(
                f"layer {self.layer!r} has {channels} channels and the direction {len(self.vector)} numbers: give as "
                "many numbers as channels."
            )


_TINY = 1e-24  # under the root: where nothing is active a gradient has to stay finite


def _read(file: Path) -> Tensor:
    try:
        held: Any = (
            np.load(file, allow_pickle=False)
            if file.suffix == ".npy"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
        return torch.as_tensor(held).double()
    except Exception as error:  # numpy and torch raise half a dozen kinds for files that are not theirs
        raise LitVizError(
            f"the direction {file} can't be read ({type(error).__name__}): give a .npy file or a .pt file with a "
            "tensor in it."
        ) from error
