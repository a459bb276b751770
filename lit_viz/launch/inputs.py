"""Conversion of what Python users pass (images, classes, options) to the values of a configuration."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeAlias

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.images.listing import ARRAY_PREFIX
from lit_viz.images.reading import from_pil

#: An image: a file or folder, ``packaged:NAME``, a Pillow image, or an array or tensor ``(H, W, C)``, ``(C, H, W)`` or
#: ``(N, ...)``, uint8 or floating-point in [0, 1], of any size.
ImageLike: TypeAlias = "str | Path | Image.Image | np.ndarray[Any, Any] | Tensor"

#: Types of option values that a configuration file can hold, after conversion.
_PLAIN_TYPES = (str, int, float, list, tuple, dict, Path, np.generic, np.ndarray, Tensor, NoneType)


def image_inputs(images: ImageLike | Iterable[ImageLike]) -> tuple[list[Tensor], list[str]]:
    """Split one or several images into pictures and names.

    Returns:
        Pictures as :func:`~lit_viz.images.reading.read_photograph` takes them, and the name of each image: a file, or
        ``array:<index of the picture>``.
    """
    is_list = isinstance(images, Iterable) and not isinstance(images, (str, Path, Image.Image, np.ndarray, Tensor))
    listed: Any = images if is_list else [images]
    pictures: list[Tensor] = []
    names: list[str] = []
    for image in listed:
        if isinstance(image, (str, Path)):
            names.append(str(image))
        else:
            batch = _pictures(image)
            names += [f"{ARRAY_PREFIX}{len(pictures) + index}" for index in range(len(batch))]
            pictures += batch
    if not names:
        raise LitVizError("there must be at least one image, got 0")
    return pictures, names


def initial_image(image: ImageLike | None) -> tuple[Tensor | None, str | None]:
    """Split the initial image of a class visualization into a picture and a name, as :func:`image_inputs`."""
    if image is None:
        return None, None
    pictures, names = image_inputs(image)
    if len(names) > 1:
        raise LitVizError(f"init must be one image, got {len(names)}")
    return next(iter(pictures), None), names[0]


def _pictures(image: Any) -> list[Tensor]:
    """Convert a Pillow image, or an array or tensor with one or several images, to pictures ``(C, H, W)``."""
    if isinstance(image, Image.Image):
        return [from_pil(image)]
    values = image.detach() if isinstance(image, Tensor) else None
    if isinstance(image, np.ndarray) and (image.dtype == np.uint8 or np.issubdtype(image.dtype, np.floating)):
        dtype = image.dtype if image.dtype in (np.uint8, np.float64) else np.float32
        values = torch.from_numpy(np.array(image, dtype=dtype, order="C"))
    if values is not None and values.layout == torch.strided and not values.is_meta:
        images = values[None] if values.ndim == 3 else values[None, None] if values.ndim == 2 else values
        if images.ndim == 4 and images.numel() and (images.dtype == torch.uint8 or images.is_floating_point()):
            first, last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
            if last and (not first or images.dtype == torch.uint8):
                images, first = images.movedim(3, 1), True
            if first:
                return [_checked(picture) for picture in images]
    actual = f"{image.dtype} {tuple(image.shape)}" if hasattr(image, "shape") else type(image).__name__
    if isinstance(image, Tensor) and (image.is_meta or image.layout != torch.strided):
        actual += f", {image.layout} on {image.device}"
    raise LitVizError(
        "an image must be a file, a Pillow image, or an array or tensor (H, W, C), (C, H, W) or (N, ...) with 1 or 3 "
        f"channels, uint8 or floating-point, got {actual}"
    )


def _checked(picture: Tensor) -> Tensor:
    """Return a copy of a picture in [0, 1]; 8-bit pictures have any values."""
    with torch.inference_mode(False):  # inference tensors cannot be optimized
        copy = picture.cpu().clone(memory_format=torch.contiguous_format)
    if copy.dtype == torch.uint8:
        return copy
    low, high = float(copy.min()), float(copy.max())
    if math.isnan(low):
        raise LitVizError("images must not contain NaN")
    if low < -1e-6 or high > 1 + 1e-6:
        raise LitVizError(
            f"floating-point images must be in [0, 1], got {low:.3g} to {high:.3g}: pass them without normalization, "
            "which the classifier applies, or as uint8"
        )
    return (copy if copy.dtype == torch.float64 else copy.float()).clamp_(0, 1)


def photograph_options(files: Sequence[str], targets: Any, labels: Any, against: Any = None) -> dict[str, Any]:
    """Return the options ``photographs``, ``target``, ``labels`` and ``against``."""
    rows: list[dict[str, Any]] = [{"file": file} for file in files]
    targets, labels, against = to_plain(targets), to_plain(labels), to_plain(against)
    for key, classes in (("target", targets), ("label", labels), ("against", against)):
        if classes is None or _is_yaml_string(classes):
            continue
        per_file = classes if isinstance(classes, list) else [classes] * len(files)
        if len(per_file) != len(files):
            raise LitVizError(f"there must be one {key}, or one per image: got {len(per_file)} for {len(files)} images")
        for row, value in zip(rows, per_file, strict=True):
            row[key] = to_class(value)
    return {
        "photographs": rows if any(len(row) > 1 for row in rows) else list(files),
        "target": targets if _is_yaml_string(targets) else None,
        "labels": labels if isinstance(labels, str) else None,
        **({"against": against} if _is_yaml_string(against) else {}),
    }


def _is_yaml_string(value: Any) -> bool:
    """Return whether a value is a string that the parser, which reads YAML, does not convert to another type."""
    try:
        return isinstance(value, str) and bool(yaml.safe_load(value) == value)
    except yaml.YAMLError:
        return False


def to_plain(value: Any) -> Any:
    """Return one value or a list of values from a tensor, array or sequence."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else value


def to_path(name: str, value: Any) -> str:
    """Return a path as text.

    Raises:
        LitVizError: it is no path.
    """
    if not isinstance(value, (str, Path)):
        raise LitVizError(f"{name} must be a path, got {value!r}")
    return str(value)


def to_class(value: Any) -> str | int:
    """Return a class name or index."""
    if isinstance(value, str):
        return value
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise LitVizError(f"a class must be a name or an index, got {value!r}")


def to_classes(value: Any) -> list[str | int]:
    """Return one or several class names or indices as a list."""
    plain = to_plain(value)
    return [to_class(word) for word in (plain if isinstance(plain, list) else [plain])]


def to_option(name: str, value: Any) -> Any:
    """Return the value of an option in the form of the command line, for iterations, channels and layers."""
    if name in ("classifier", "model", "trainer") and not isinstance(value, Mapping):
        raise LitVizError(f"{name} must be a mapping of options, got {value!r}")
    if name == "layer" and isinstance(value, (int, np.integer)):  # of a Sequential
        return str(value)
    if name in ("log_at", "curve_at", "channel") and isinstance(value, (list, tuple, range, np.ndarray, Tensor)):
        return ",".join(map(str, np.asarray(value).ravel().tolist()))
    if not isinstance(value, _PLAIN_TYPES) and not name.startswith("model__"):
        raise LitVizError(f"{name} must be a value of a configuration file, got {type(value).__name__}")
    return value
