"""Conversion of the values that Python users pass: images, classes, and options."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from lit_viz.classifiers import Classifier
from lit_viz.errors import LitVizError
from lit_viz.images.listing import ARRAY_PREFIX
from lit_viz.images.reading import from_pil

#: Types of option values that a configuration file can hold, after conversion.
_PLAIN_TYPES = (str, int, float, list, tuple, dict, Path, np.generic, np.ndarray, Tensor, NoneType)


def image_inputs(images: Any, classifier: Classifier) -> tuple[Tensor | None, list[str]]:
    """Split images into array and file names."""
    if isinstance(images, np.ndarray):
        images = _tensor(images)
    if not isinstance(images, Tensor):
        items = list(images) if isinstance(images, Iterable) and not isinstance(images, str) else [images]
        if not items or not all(isinstance(item, (Tensor, np.ndarray)) for item in items):
            if wrong := [type(item).__name__ for item in items if not isinstance(item, (str, Path))]:
                raise LitVizError(
                    f"images must be a tensor (N, C, H, W) in [0, 1] or files and folders, got {wrong[0]}: convert "
                    "images with torchvision's to_tensor"
                )
            return None, [str(item) for item in items]
        if len({tuple(item.shape) for item in items}) > 1:
            raise LitVizError("images must have one size, the classifier's: resize them, or pass files")
        images = torch.stack([_tensor(item) for item in items])
    expected = (classifier.channels, *classifier.size)
    if images.ndim != 4 or tuple(images.shape[1:]) != expected or not images.is_floating_point():
        raise LitVizError(
            f"images for {classifier.name} must be floating-point (N, {', '.join(map(str, expected))}) in [0, 1], got "
            f"{images.dtype} {tuple(images.shape)}: resize them, or pass files"
        )
    if not len(images):
        raise LitVizError("there must be at least one image, got 0")
    return _check_range(images), [f"{ARRAY_PREFIX}{index}" for index in range(len(images))]


def initial_image(image: Any, classifier: Classifier) -> tuple[Tensor | None, str | None]:
    """Split the initial image of a class visualization into array and file name."""
    if image is None or isinstance(image, (str, Path)):
        return None, None if image is None else str(image)
    name = f"{ARRAY_PREFIX}0"
    if isinstance(image, Image.Image):
        return from_pil(image, classifier.channels), name
    pixels = _tensor(image) if isinstance(image, (Tensor, np.ndarray)) else torch.empty(0)
    pixels = pixels[0] if pixels.ndim == 4 and len(pixels) == 1 else pixels
    if pixels.ndim != 3 or len(pixels) != classifier.channels or not pixels.numel() or not pixels.is_floating_point():
        got = f"{pixels.dtype} {tuple(pixels.shape)}" if pixels.numel() else type(image).__name__
        raise LitVizError(
            f"init must be a file, packaged:NAME, a PIL image, or floating-point ({classifier.channels}, H, W) in "
            f"[0, 1], got {got}"
        )
    return _check_range(pixels), name


def _tensor(array: Tensor | np.ndarray[Any, Any]) -> Tensor:
    if isinstance(array, Tensor):
        return array
    if array.dtype.kind not in "bfiu":
        raise LitVizError(f"images must be numbers, got an array of {array.dtype}")
    return torch.from_numpy(np.ascontiguousarray(array))  # torch takes no views with negative strides


def _check_range(images: Tensor) -> Tensor:
    """Return a copy of images that are in [0, 1]."""
    if images.layout != torch.strided or images.is_meta:
        raise LitVizError(f"images must be dense tensors with values, got {images.layout} on {images.device}")
    if bool(images.isnan().any()):
        raise LitVizError("images must not contain NaN")
    low, high = float(images.min()), float(images.max())
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise LitVizError(
            f"images must be in [0, 1], got {low:.3g} to {high:.3g}: pass them without normalization, which the "
            "classifier applies"
        )
    with torch.inference_mode(False):  # inference tensors cannot be optimized
        return images.detach().clone().clamp_(0, 1)


def photograph_options(files: Sequence[str], targets: Any, labels: Any) -> dict[str, Any]:
    """Return the options ``photographs``, ``target`` and ``labels``."""
    rows: list[dict[str, Any]] = [{"file": file} for file in files]
    targets, labels = to_plain(targets), to_plain(labels)
    for key, classes in (("target", targets), ("label", labels)):
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


def to_option(name: str, value: Any) -> Any:
    """Return the value of an option in the form of the command line, for iterations, channels and layers."""
    if name in ("classifier", "model", "trainer") and not isinstance(value, Mapping):
        raise LitVizError(f"{name} must be a mapping of options, got {value!r}")
    if name == "layer" and isinstance(value, (int, np.integer)):  # of a Sequential
        return str(value)
    if name in ("log_at", "curve_at", "channel") and isinstance(value, (list, tuple, range, np.ndarray, Tensor)):
        return ",".join(map(str, np.asarray(value).ravel().tolist()))
    if not isinstance(value, _PLAIN_TYPES):
        raise LitVizError(
            f"{name} must be the name of a class or {{'class_path': ..., 'init_args': {{...}}}}, got an instance of "
            f"{type(value).__name__}: a run stores its configuration"
        )
    return value
