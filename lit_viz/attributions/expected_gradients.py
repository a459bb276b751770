"""Expected gradients: GradientSHAP with photographs as baselines."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_viz.attributions.base import GradientRule
from lit_viz.attributions.gradient_shap import GradientShap
from lit_viz.errors import LitVizError, require
from lit_viz.images.listing import photographs
from lit_viz.images.rasters import read_image
from lit_viz.images.reading import PACKAGED, PACKAGED_PREFIX, Fit
from lit_viz.networks import Network
from lit_viz.networks.bands import Bands
from lit_viz.networks.resizing import Resizing
from lit_viz.optim import State
from lit_viz.rng import Draws

_DEFAULT = tuple(map(f"{PACKAGED_PREFIX}{{}}".format, PACKAGED))


class ExpectedGradients(GradientShap):
    """Mean of ``(x - b) * gradient at b + a (x - b)`` over random positions a and photographs b.

    Erion et al. 2021, arXiv:1906.10670, equation 3. Each sample draws one photograph. The explained photograph is no
    baseline of its own map: baselines with the same pixels are omitted. The map sums to the score less the mean score
    of the baselines, in expectation.

    Args:
        baselines: files, folders or ``zoo:NAME`` of photographs, best a hundred or more of the training data; or a
            tensor ``(B, C, H, W)`` in [0, 1]. They are fitted to the network's input as photographs are, and rounded to
            8 bits. Each takes C x H x W bytes of memory. Default: the photographs of scikit-image.
        sigma: standard deviation of noise that is added to the image, for images in [0, 1].
        backprop: ``libra`` detaches attention weights, deviations of norms and gates of activations in the backward
            (:class:`~lit_viz.attributions.gradient.LibraGradient`).
    """

    def __init__(
        self,
        baselines: str | Sequence[str] | Tensor = _DEFAULT,
        sigma: float = 0.0,
        backprop: GradientRule = "plain",
    ) -> None:
        super().__init__(sigma=sigma, backprop=backprop)
        self.photographs = [baselines] if isinstance(baselines, str) else baselines
        require(len(self.photographs) > 0, "ExpectedGradients must have at least one baseline", "none")
        self._fit: Fit | Resizing = "crop"
        self._bands: Bands | None = None
        self._pictures: dict[tuple[int, ...], Tensor] = {}
        self._sha256 = ""  # of the pictures for the network's input

    def bind(self, network: Network) -> None:
        """Read the baselines for the network's input."""
        super().bind(network)
        self._fit, self._bands = network.resizing or "crop", network.bands
        self._pictures.clear()
        pictures = self.pictures((network.channels, *network.size))
        self._sha256 = hashlib.sha256(pictures.numpy().tobytes()).hexdigest()

    def record_fields(self) -> dict[str, Any]:
        """Return the checksum of the baselines' pixels."""
        return {"baselines_sha256": self._sha256}

    def pictures(self, shape: tuple[int, ...]) -> Tensor:
        """Return the baselines as uint8 ``(B, C, H, W)`` for inputs of a shape ``(C, H, W)``, read once."""
        require(len(shape) == 3, "ExpectedGradients requires images (N, C, H, W)", f"shape (N, {shape})")
        if shape not in self._pictures:
            channels, *size = shape
            sources: list[Any] = list(self.photographs)
            if not isinstance(self.photographs, Tensor):
                sources = [entry.path for entry in photographs(self.photographs).entries]
            pictures = []
            for source in sources:
                bands = self._bands or Bands(channels)
                pictures.append(_levels(read_image(source, (size[0], size[1]), bands, self._fit).pixels, bands))
            self._pictures[shape] = torch.stack(pictures)
        return self._pictures[shape]

    def baseline_state(self, x: Tensor, seeds: Sequence[int]) -> State:
        """Return per slot the indices of the baselines, and the number of those with other pixels, which are first."""
        pictures = self.pictures(tuple(x.shape[1:])).to(x.device)
        orders, counts = [], []
        for image in x:
            levels = _levels(image, self._bands or Bands(len(image)))
            differs = (pictures != levels).flatten(1).any(1)
            orders.append(differs.int().argsort(descending=True, stable=True))
            counts.append(differs.sum())
        if min(counts) == 0:
            raise LitVizError("ExpectedGradients must have a baseline other than the photograph itself, got no other")
        return {"order": torch.stack(orders), "count": torch.stack(counts)}

    def draw_baselines(self, draws: Draws, x: Tensor, state: State, slots: Tensor) -> Tensor:
        counts = state["count"][slots]
        chosen = (draws.uniform("photograph").double() * counts).long().minimum(counts - 1)
        indices = state["order"][slots, chosen]
        return self.pictures(tuple(x.shape[1:]))[indices.cpu()].to(x) / 255


def _levels(image: Tensor, bands: Bands) -> Tensor:
    """Return an image in /255: as uint8 of a picture, else unrounded."""
    return (image * 255).round().byte() if bands.are_pictures else image * 255
