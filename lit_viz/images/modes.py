"""Every mode of Pillow as three float planes, R, G and B."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

Plane = npt.NDArray[np.float32]
#: Weights of R, G and B in a grey picture: ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)


def planes_of(image: Image.Image, *, negative: bool = False, any_depth: bool = False) -> Iterator[Plane]:
    """Yield R, G and B as float32 ``(H, W)`` in [0, 255], one at a time: a large picture is never held as floats whole.

    Transparency is put on white, in floats. 16-bit grey (modes ``I;16`` and ``I``) is divided by 257; float grey
    (mode ``F``) is taken to lie in [0, 1].

    Args:
        image: of any mode.
        negative: whether 0 is white where there are more than 8 bits, which Pillow leaves as they are in the file.
        any_depth: whether the integers may be of 8 or 16 bits, whatever they are kept in: their largest tells.

    Raises:
        ValueError: values of mode ``I`` or ``F`` outside of that range.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        grey = _deep_grey(image, any_depth)
        grey = 255 - grey if negative else grey
        yield from (grey, grey, grey)
    elif image.has_transparency_data:
        *colours, alpha = image.convert("RGBA").split()
        opacity: Plane = np.asarray(alpha, np.float32) / np.float32(255)
        for colour in colours:
            yield np.float32(255) + (np.asarray(colour, np.float32) - np.float32(255)) * opacity
    else:
        for colour in image.convert("RGB").split():
            yield np.asarray(colour, np.float32)


def _deep_grey(image: Image.Image, any_depth: bool) -> Plane:
    # Pillow's own conversion of these modes to 8 bits clips: a 16-bit picture would come out white.
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    limit = 1.0 if image.mode == "F" else 255.0 if any_depth and high <= 255 else 65535.0
    if not (low >= 0 and high <= limit):
        raise ValueError(
            f"its values lie in [{low:g}, {high:g}], where [0, {limit:g}] is understood (Pillow mode {image.mode}): "
            "save it with 8 or 16 bits"
        )
    return (values.astype(np.float64) * (255 / limit)).astype(np.float32)
