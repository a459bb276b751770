"""Baselines: uninformative inputs that replace an image or parts of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lit_viz.errors import LitVizError, did_you_mean, require, value_text
from lit_viz.images.filters import gaussian_blur
from lit_viz.images.listing import photographs
from lit_viz.images.rasters import read_image
from lit_viz.images.reading import NAMED_PREFIXES, Fit
from lit_viz.networks import Network
from lit_viz.networks.bands import Bands
from lit_viz.networks.resizing import Resizing
from lit_viz.rng import Draws, Key

BaselineKind = Literal["black", "mean", "blurred", "random"]
#: A kind, a gray value, files or folders, ``mean:FOLDER``, or images ``(C, H, W)`` or ``(B, C, H, W)`` in [0, 1]: a
#: tensor, an array or nested lists.
BaselineLike: TypeAlias = float | str | Sequence[Any] | Tensor

_MEAN_PREFIX = "mean:"


class BaselinePhotographs:
    """Photographs that are read for a network's input and rounded to 8 bits; each takes C x H x W bytes of memory.

    Args:
        sources: files, folders or ``zoo:NAME``; or images ``(B, C, H, W)`` in [0, 1].

    Attributes:
        sha256: checksum of their pixels for the network's input, after :meth:`bind`.
    """

    def __init__(self, sources: Sequence[str] | Tensor) -> None:
        self._sources: Sequence[str] | Tensor = sources
        if not isinstance(sources, Tensor):
            self._sources = [entry.path for entry in photographs(sources).entries]
        self._fit: Fit | Resizing = "crop"
        self._bands: Bands | None = None
        self._by_shape: dict[tuple[int, ...], Tensor] = {}
        self._averages: dict[tuple[int, ...], Tensor] = {}
        self.sha256 = ""

    def bind(self, network: Network) -> None:
        """Read the photographs for the network's input."""
        self._fit, self._bands = network.resizing or "crop", network.bands
        self._by_shape.clear()
        self._averages.clear()
        pictures = self((network.channels, *network.size))
        self.sha256 = hashlib.sha256(pictures.numpy().tobytes()).hexdigest()

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        """Return ``(B, C, H, W)`` in /255 for inputs of a shape ``(C, H, W)``, uint8 of pictures; read once."""
        require(
            len(shape) == 3,
            "baselines that are photographs require images (N, C, H, W)",
            f"shape (N, {shape})",
            is_argument=False,
        )
        if shape not in self._by_shape:
            channels, height, width = shape
            bands = self._bands_of(channels)
            images = [read_image(source, (height, width), bands, self._fit).pixels for source in self._sources]
            self._by_shape[shape] = self.levels(torch.stack(images))
        return self._by_shape[shape]

    def average(self, shape: tuple[int, ...]) -> Tensor:
        """Return the average in [0, 1], float64 ``(C, H, W)``, computed once for inputs of a shape."""
        if shape not in self._averages:
            self._averages[shape] = self(shape).double().mean(0) / 255
        return self._averages[shape]

    def levels(self, images: Tensor) -> Tensor:
        """Return images ``(N, C, H, W)`` in /255: as uint8 of pictures, else unrounded."""
        levels = images * 255
        if self._bands_of(images.shape[1]).are_pictures:
            return levels.round().byte()
        return levels

    def _bands_of(self, channels: int) -> Bands:
        return self._bands or Bands(channels)


class Baseline:
    """A baseline in [0, 1], possibly computed from the image.

    Args:
        kind: ``black``; ``mean``, the image's mean color; ``blurred`` (Fong and Vedaldi 2017, arXiv:1704.03296);
            ``random``, uniform noise keyed by the task's seed; a gray value; an image ``(C, H, W)`` in [0, 1] of the
            input's shape; or several images, of which it is the average: ``(B, C, H, W)``, or files or folders, which
            are fitted to the network's input as photographs are. ``mean:FOLDER`` is the average of a folder.
        sigma: of the blur, in pixels.
    """

    def __init__(self, kind: BaselineLike, sigma: float = 10.0) -> None:
        self.kind = _parsed(kind)
        valid = 0 < sigma < math.inf
        require(valid, "sigma of the blurred baseline must be positive", sigma, hint="10 is usual")
        self.sigma = sigma

    def bind(self, network: Network) -> None:
        """Read files for the network's input."""
        if isinstance(self.kind, BaselinePhotographs):
            self.kind.bind(network)

    def record_fields(self) -> dict[str, Any]:
        """Return the checksum of the pixels of files."""
        if isinstance(self.kind, BaselinePhotographs):
            return {"baselines_sha256": self.kind.sha256}
        return {}

    def __call__(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        """Compute the baselines of ``x`` ``(N, ...)``, same shape.

        The mean is over all dimensions but the channels, or over all without channels; the blur requires ``(N, C, H,
        W)``.

        Raises:
            LitVizError: the baseline is an image of another shape.
        """
        if isinstance(self.kind, BaselinePhotographs):
            return self.kind.average(tuple(x.shape[1:])).to(x).expand_as(x).clone()
        if isinstance(self.kind, Tensor):
            shapes = tuple(self.kind.shape), tuple(x.shape[1:])
            require(
                shapes[0] == shapes[1],
                f"a baseline image must have the shape {shapes[1]} of the input",
                shapes[0],
                is_argument=False,
            )
            return self.kind.to(x).expand_as(x).clone()
        if self.kind == "random":
            draws = Draws([Key(seed, 0) for seed in seeds], x.device).scoped("baseline")
            return draws.uniform("random", shape=x.shape[1:]).to(x.dtype)
        if self.kind == "mean":
            return x.mean(tuple(range(min(2, x.ndim - 1), x.ndim)), keepdim=True).expand_as(x).clone()
        if self.kind == "blurred":
            require(
                x.ndim == 4,
                "the blurred baseline requires images (N, C, H, W)",
                f"shape {tuple(x.shape)}",
                is_argument=False,
            )
            return gaussian_blur(x, torch.full((len(x),), self.sigma))
        if self.kind == "black":
            return torch.zeros_like(x)
        return torch.full_like(x, float(self.kind))


class DrawnBaselines:
    """Baselines of which every sample draws one.

    Args:
        given: one or several of the kinds of :class:`Baseline`; or photographs, as files, folders or a tensor
            ``(B, C, H, W)``. A photograph with the pixels of the explained image is not drawn.
    """

    def __init__(self, given: BaselineLike) -> None:
        self._pictures: BaselinePhotographs | None = None
        self._baselines: list[Baseline] = []
        if _are_kinds(given):
            self._baselines = [Baseline(kind) for kind in given]  # type: ignore[union-attr]
        elif isinstance(given, Tensor) and given.ndim == 4:
            self._pictures = BaselinePhotographs(_checked_images(given))
        else:
            baseline = Baseline(given)
            is_average = isinstance(given, str) and given.startswith(_MEAN_PREFIX)
            if isinstance(baseline.kind, BaselinePhotographs) and not is_average:
                self._pictures = baseline.kind
            else:
                self._baselines = [baseline]

    def bind(self, network: Network) -> None:
        """Read files for the network's input."""
        if self._pictures is not None:
            self._pictures.bind(network)
        for baseline in self._baselines:
            baseline.bind(network)

    def record_fields(self) -> dict[str, Any]:
        """Return the checksum of the pixels of files."""
        if self._pictures is not None:
            return {"baselines_sha256": self._pictures.sha256}
        fields: dict[str, Any] = {}
        for baseline in self._baselines:
            fields |= baseline.record_fields()
        return fields

    def init(self, x: Tensor, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Return the state that :meth:`draw` reads, of images ``(N, ...)`` with these seeds.

        Of photographs these are their order per slot, and the number of those with other pixels, which are first.
        """
        if self._pictures is None:
            return {"baselines": torch.stack([baseline(x, seeds) for baseline in self._baselines], 1)}
        pictures = self._pictures(tuple(x.shape[1:])).to(x.device)
        orders, counts = [], []
        for levels in self._pictures.levels(x):
            differs = (pictures != levels).flatten(1).any(1)
            orders.append(differs.int().argsort(descending=True, stable=True))
            counts.append(differs.sum())
        if min(counts) == 0:
            raise LitVizError("there must be a baseline other than the photograph itself, got no other")
        return {"order": torch.stack(orders), "count": torch.stack(counts)}

    def draw(self, draws: Draws, x: Tensor, state: Mapping[str, Tensor], slots: Tensor) -> Tensor:
        """Draw a baseline of ``x[slots]`` for each row of the draws, ``(M, ...)``."""
        if self._pictures is None:
            return state["baselines"][slots, draws.integers("baseline", 0, len(self._baselines) - 1)]
        counts = state["count"][slots]
        chosen = (draws.uniform("photograph").double() * counts).long().minimum(counts - 1)
        indices = state["order"][slots, chosen]
        return self._pictures(tuple(x.shape[1:]))[indices.cpu()].to(x) / 255


def _are_kinds(given: BaselineLike) -> bool:
    """Return whether a baseline is a list of kinds, gray values or averages of folders."""
    if isinstance(given, (str, Real, Tensor)) or not isinstance(given, Sequence):
        return False
    for item in given:
        is_kind = isinstance(item, str) and (item in get_args(BaselineKind) or item.startswith(_MEAN_PREFIX))
        if not is_kind and not isinstance(item, Real):
            return False
    return True


def _parsed(given: BaselineLike) -> str | float | Tensor | BaselinePhotographs:
    """Return a kind, a gray value, an image ``(C, H, W)``, or photographs.

    Raises:
        LitVizError: it is none of these.
    """
    if isinstance(given, Real):
        return _checked_gray(given)
    kinds = get_args(BaselineKind)
    if isinstance(given, str) and given in kinds:
        return given
    if isinstance(given, str):
        is_named = given.startswith((_MEAN_PREFIX, *NAMED_PREFIXES)) or Path(given).exists()
        constraint = f"baseline must be one of {', '.join(kinds)}, a gray value, images or files"
        require(is_named, constraint, f"{given!r}{did_you_mean(given, kinds)}")
        return BaselinePhotographs([given.removeprefix(_MEAN_PREFIX)])
    if isinstance(given, Sequence) and given and all(isinstance(item, str) for item in given):
        return BaselinePhotographs(given)
    return _checked_images(given).mean(0)


def _checked_gray(gray: Any) -> float:
    valid = math.isfinite(gray) and not isinstance(gray, bool)
    require(valid, "a gray baseline must be a finite number", repr(gray), is_argument=False)
    return float(gray)


def _checked_images(given: Any) -> Tensor:
    """Return images ``(B, C, H, W)`` in [0, 1] that are given as a tensor, an array or nested lists, one or several.

    Raises:
        LitVizError: they have another shape, or other values.
    """
    try:
        images = torch.as_tensor(given).detach().float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise LitVizError(f"a baseline image must be numbers (C, H, W) in [0, 1], got {value_text(given)}") from error
    shape = tuple(images.shape)
    if images.ndim == 3:
        images = images[None]
    require(
        images.ndim == 4 and images.numel(),
        "a baseline image must be (C, H, W) or (B, C, H, W)",
        f"shape {shape}",
        is_argument=False,
    )
    low, high = float(images.min()), float(images.max())
    require(low >= 0 and high <= 1, "a baseline image must be in [0, 1]", f"{low:.3g} to {high:.3g}", is_argument=False)
    return images
