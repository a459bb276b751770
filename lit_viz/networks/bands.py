"""Bands of the images of a network: names, the range of their values in files, and those that are drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lit_viz.errors import LitVizError, did_you_mean, require

#: Largest number of channels of a network.
MOST_CHANNELS = 512
#: Largest side of the input of a network, and of a picture, in pixels.
MOST_SIDE = 16_384
#: The range (low, high) of all bands, or one per band, in the unit of the files.
ValueRange = Sequence[float] | Sequence[Sequence[float]]


@dataclass(frozen=True)
class Bands:
    """The channels of a network's images.

    Attributes:
        channels: their number C.
        names: of the bands; empty if none were given.
        shown: indices of the one or three bands that are drawn; empty for the default.
        ranges: values of a file that map to 0 and 1, per band; empty if files are pictures.
    """

    channels: int
    names: tuple[str, ...] = ()
    shown: tuple[int, ...] = ()
    ranges: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of(
        cls,
        channels: int,
        names: Sequence[str] | None = None,
        display: Sequence[str | int] | str | int | None = None,
        value_range: ValueRange | None = None,
    ) -> Bands:
        """Return the bands that the arguments of :func:`lit_viz.load_network` describe.

        Raises:
            LitVizError: an argument is invalid, or of another number of bands.
        """
        given = tuple(map(str, names or ()))
        require(len(given) in (0, channels), f"bands must be one name per channel ({channels})", len(given))
        require(len(set(given)) == len(given), "bands must have different names", ", ".join(given))
        bands = cls(channels, given, ranges=_ranges(value_range, channels))
        if display is None:
            return bands
        listed: list[str | int] = [display] if isinstance(display, int) else list(display)
        if isinstance(display, str):  # of the command line
            listed = [display] if display in given else [word.strip() for word in display.split(",")]
        require(len(listed) in (1, 3), "display must be one or three bands", len(listed))
        return cls(channels, given, tuple(map(bands.index, listed)), bands.ranges)

    @property
    def display(self) -> tuple[int, ...]:
        """Indices of the drawn bands: by default one in gray, of three or more the first three."""
        if self.shown:
            return self.shown
        if self.channels >= 3:
            return (0, 1, 2)
        return (0,)

    @property
    def are_drawn(self) -> bool:
        """Whether an image is drawn as it is."""
        return self.display == tuple(range(self.channels))

    @property
    def are_pictures(self) -> bool:
        """Whether files are pictures in gray or RGB, without a range of their own."""
        return self.are_drawn and not self.ranges

    @property
    def are_rgb(self) -> bool:
        """Whether three bands are red, green and blue, by their names, or without names."""
        names = tuple(name.casefold() for name in self.names)
        return self.channels == 3 and self.are_drawn and names in ((), ("r", "g", "b"), ("red", "green", "blue"))

    @property
    def notes(self) -> list[str]:
        """Remark about a default choice of the drawn bands."""
        if self.shown or self.are_drawn:
            return []
        names = ", ".join(self.name(index) for index in self.display)
        return [f"figures draw {names} of {self.channels} bands: give display=[...] for others"]

    @property
    def span(self) -> float | None:
        """Length of the range in the unit of the files; None without one, and where bands have different lengths."""
        lengths = {high - low for low, high in self.ranges}
        if len(lengths) == 1:
            return lengths.pop()
        return None

    def name(self, index: int) -> str:
        """Return the name of a band."""
        if self.names:
            return self.names[index]
        return f"band {index}"

    def index(self, band: str | int) -> int:
        """Return the index of a band, given by name or index.

        Raises:
            LitVizError: there is none.
        """
        if isinstance(band, int) and 0 <= band < self.channels:
            return band
        if isinstance(band, str) and band in self.names:
            return self.names.index(band)
        if isinstance(band, str) and band.isdecimal():
            return self.index(int(band))
        hint = did_you_mean(str(band), self.names)
        raise LitVizError(f"there is no band {band!r} among the {self.channels} bands{hint}")

    def draw(self, images: Tensor) -> Tensor:
        """Return the drawn bands of images ``(..., C, H, W)``: ``(..., 1, H, W)`` or ``(..., 3, H, W)``."""
        if self.are_drawn:
            return images
        return images[..., list(self.display), :, :]

    def radius(self, length: float) -> float:
        """Return a length in the unit of the files in units of [0, 1].

        Raises:
            LitVizError: there is no range, or the bands have different ones.
        """
        if not self.ranges:
            raise LitVizError("a radius in the unit of the file requires load_network(..., value_range=(low, high))")
        if self.span is None:
            lengths = sorted({high - low for low, high in self.ranges})
            raise LitVizError(
                "a radius in the unit of the file requires one range for all bands, got ranges of length "
                f"{lengths[0]:g} to {lengths[-1]:g}: give eps in units of [0, 1]"
            )
        return length / self.span

    def scaled(self, mean: Sequence[float], std: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std of file values as those of images in [0, 1], so that
        ``(image - mean) / std = (file - mean) / std``."""
        if not self.ranges:
            return tuple(mean), tuple(std)
        means: list[float] = []
        stds: list[float] = []
        for (low, high), center, deviation in zip(self.ranges, mean, std, strict=True):
            means.append((center - low) / (high - low))
            stds.append(deviation / (high - low))
        return tuple(means), tuple(stds)

    def in_files(self, mean: Sequence[float], std: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std for images in [0, 1] as those of file values, the inverse of :meth:`scaled`."""
        if not self.ranges:
            return tuple(mean), tuple(std)
        means: list[float] = []
        stds: list[float] = []
        for (low, high), center, deviation in zip(self.ranges, mean, std, strict=True):
            means.append(_shortest(low + center * (high - low)))
            stds.append(_shortest(deviation * (high - low)))
        return tuple(means), tuple(stds)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of :func:`lit_viz.load_network` that differ from the defaults; plain values."""
        arguments: dict[str, Any] = {}
        if not self.are_drawn:
            arguments["channels"] = self.channels
        if self.names:
            arguments["bands"] = list(self.names)
        if self.shown:
            arguments["display"] = [self.name(index) if self.names else index for index in self.shown]
        if self.ranges:
            pairs = [list(pair) for pair in self.ranges]
            arguments["value_range"] = pairs[0] if len(set(self.ranges)) == 1 else pairs
        return arguments


def _ranges(value_range: ValueRange | None, channels: int) -> tuple[tuple[float, float], ...]:
    """Return a range per band."""
    if value_range is None:
        return ()
    constraint = f"value_range must be (low, high), or one pair per channel ({channels})"
    given: list[Any] = list(value_range)
    if len(given) == 2 and not any(isinstance(value, Sequence) for value in given):
        given = [given] * channels
    require(len(given) == channels, constraint, len(given))
    ranges: list[tuple[float, float]] = []
    for pair in given:
        try:
            low, high = map(float, pair)
        except (TypeError, ValueError) as error:
            raise LitVizError(f"{constraint}, got {value_range!r}") from error
        require(math.isfinite(low) and math.isfinite(high) and low < high, "value_range must ascend", repr(value_range))
        ranges.append((low, high))
    return tuple(ranges)


def _shortest(value: float) -> float:
    """Return a number without the rounding errors of its last digits."""
    return float(f"{value:.14g}")
