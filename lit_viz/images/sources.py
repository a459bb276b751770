"""Images as Python users pass them: files, Pillow images, arrays, tensors, datasets and data loaders."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from lit_viz.errors import LitVizError, require
from lit_viz.images.listing import ARRAY_PREFIX
from lit_viz.images.reading import from_pil
from lit_viz.networks.bands import Bands

#: An image: a file or folder, ``packaged:NAME``, a Pillow image, or an array or tensor ``(H, W, C)``, ``(C, H, W)`` or
#: ``(N, ...)``, uint8 or floating-point in [0, 1], of any size.
ImageLike: TypeAlias = str | Path | Image.Image | np.ndarray[Any, Any] | Tensor
#: One or several images; rows with the keys ``file``, ``label``, ``target`` and ``against``; or a map-style dataset of
#: images or of (image, label), or the loader of one.
Images: TypeAlias = (
    ImageLike | Mapping[str, Any] | Iterable[ImageLike | Mapping[str, Any]] | Dataset[Any] | DataLoader[Any]
)
#: Mean and standard deviation, one value or one per channel.
Normalization: TypeAlias = tuple[float | Sequence[float], float | Sequence[float]]

_LEAST_STD = 1e-12  # of a normalization, in any unit
#: Keys of the image and of the label in the items of a dataset that are mappings.
_IMAGE_KEYS = ("image", "pixel_values", "img")
_LABEL_KEYS = ("label", "labels", "target")


def image_inputs(
    images: ImageLike | Mapping[str, Any] | Iterable[ImageLike | Mapping[str, Any]],
    normalization: Normalization | None = None,
    bands: Bands | None = None,
    axes: str | None = None,
) -> tuple[list[Tensor], list[Any]]:
    """Split one or several images into pictures and names.

    Args:
        images: one or several.
        normalization: of floating-point arrays and tensors, which is removed.
        bands: of the network; by default pictures in gray or RGB.
        axes: order of the axes of arrays and tensors, such as ``HWC``.

    Returns:
        Pictures as :func:`~lit_viz.images.reading.read_photograph` takes them, and the name of each image: a file, a
        row, or ``array:<index of the picture>``.
    """
    is_one = isinstance(images, (str, Path, Mapping, Image.Image, np.ndarray, Tensor)) or not isinstance(
        images, Iterable
    )
    listed: Any = [images] if is_one else images
    pictures: list[Tensor] = []
    names: list[Any] = []
    for image in listed:
        if isinstance(image, Mapping):
            names.append(dict(image))
            continue
        if isinstance(image, (str, Path)):
            names.append(str(image))
            continue
        batch = to_pictures(image, normalization, bands, axes)
        names += [f"{ARRAY_PREFIX}{len(pictures) + index}" for index in range(len(batch))]
        pictures += batch
    if not names:
        raise LitVizError("there must be at least one image, got 0")
    return pictures, names


def picture_size(images: Any) -> tuple[int, int] | None:
    """Return the size (height, width) of arrays and tensors that all have the same one; None for other images.

    The channels of an image are its first or its last axis, whichever is shorter, and the first if both are equal.
    """
    listed = [images] if isinstance(images, (Tensor, np.ndarray)) else images
    if not isinstance(listed, (list, tuple)) or not all(isinstance(image, (Tensor, np.ndarray)) for image in listed):
        return None
    sizes: set[tuple[int, int]] = set()
    for image in listed:
        shape = tuple(image.shape)
        if len(shape) == 2:
            height, width = shape
        elif len(shape) not in (3, 4):
            return None
        elif shape[-1] < shape[-3]:
            height, width = shape[-3:-1]
        else:
            height, width = shape[-2:]
        sizes.add((height, width))
    if len(sizes) == 1:
        return sizes.pop()
    return None


def initial_image(image: ImageLike, bands: Bands | None = None) -> tuple[str | Tensor, str]:
    """Return one image as a file or a picture, and its name as in :func:`image_inputs`."""
    pictures, names = image_inputs(image, bands=bands)
    if len(names) > 1:
        raise LitVizError(f"init must be one image, got {len(names)}")
    return (pictures[0] if pictures else names[0]), names[0]


def to_pictures(
    image: Any, normalization: Normalization | None = None, bands: Bands | None = None, axes: str | None = None
) -> list[Tensor]:
    """Convert a Pillow image, or an array or tensor with one or several images, to pictures ``(C, H, W)``.

    Args:
        image: one or several images.
        normalization: of floating-point arrays and tensors, which is removed.
        bands: of the network, for values in the unit of its files; by default pictures in gray or RGB.
        axes: order of the axes of an array or tensor, such as ``HWC``.

    Raises:
        LitVizError: it is no image, or its values are not in [0, 1].
    """
    _check_unmasked(image)
    if bands is not None and not bands.are_pictures:
        return _to_values(image, normalization, bands, axes)
    if axes is not None and isinstance(image, (Tensor, np.ndarray)):
        image = _in_order(torch.as_tensor(image), axes)
    if isinstance(image, Image.Image):
        return [from_pil(image)]
    values = _as_tensor(image)
    if values is not None:
        images = _with_batch(values)
        if images.ndim == 4 and images.numel() and (images.dtype == torch.uint8 or images.is_floating_point()):
            first, last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
            if last and (not first or images.dtype == torch.uint8):
                images, first = images.movedim(3, 1), True
            if first:
                return list(checked_pictures(_without_normalization(images, normalization)))
    actual = f"{image.dtype} {tuple(image.shape)}" if hasattr(image, "shape") else type(image).__name__
    if isinstance(image, Tensor) and (image.is_meta or image.layout != torch.strided):
        actual += f", {image.layout} on {image.device}"
    raise LitVizError(
        "an image must be a file, a Pillow image, or an array or tensor (H, W, C), (C, H, W) or (N, ...) with 1 or 3 "
        f"channels, uint8 or floating-point, got {actual}"
    )


def _check_unmasked(image: Any) -> None:
    """Raise an error for an array of NumPy with masked values, which have values of their own beneath the mask."""
    count = int(np.ma.getmaskarray(image).sum()) if isinstance(image, np.ma.MaskedArray) else 0
    require(count == 0, "images must have no masked values", count, hint="fill them, as by image.filled(0)")


def _to_values(image: Any, normalization: Normalization | None, bands: Bands, axes: str | None) -> list[Tensor]:
    """Return one or several images of these bands as values ``(C, H, W)`` in the unit of files."""
    if isinstance(image, Image.Image):
        image = np.asarray(image)
    if not isinstance(image, (Tensor, np.ndarray)):
        raise LitVizError(f"an image of {bands.channels} bands must be a file, an array or a tensor, got {type(image)}")
    values = torch.as_tensor(np.array(image) if isinstance(image, np.ndarray) else image.detach().cpu())
    count, described = bands.channels, " x ".join(map(str, values.shape))
    if axes is not None:
        values = _in_order(values, axes)
    elif values.ndim == 2:
        values = values[None]
    elif values.ndim in (3, 4):
        first, last = values.shape[-3] == count, values.shape[-1] == count
        if first and last:
            raise LitVizError(f"the bands of an image may be first or last in {described}: give axes=CHW or axes=HWC")
        if last:
            values = values.movedim(-1, -3)
    is_valid = values.ndim in (3, 4) and values.shape[-3] == count
    require(is_valid, f"images must have {count} bands first or last", described, hint="give axes for another order")
    images = values if values.ndim == 4 else values[None]
    pictures: list[Tensor] = []
    for picture in images:
        restored = _without_normalization(picture, normalization)
        if restored.dtype in (torch.float16, torch.bfloat16):
            restored = restored.float()
        with torch.inference_mode(False):
            pictures.append(restored.clone(memory_format=torch.contiguous_format))
    return pictures


def _in_order(values: Tensor, axes: str) -> Tensor:
    """Return an image, or a batch of images, as ``(..., C, H, W)``."""
    extra = values.ndim - len(axes)
    require(extra in (0, 1), f"axes={axes} requires {len(axes)} axes, or one more of a batch", values.ndim)
    if "C" not in axes:
        values, axes = values.unsqueeze(extra), f"C{axes}"
    return values.permute(*range(extra), *(extra + axes.index(axis) for axis in "CHW"))


def _as_tensor(image: Any) -> Tensor | None:
    """Return the values of an array or tensor; None if they are no image."""
    if isinstance(image, Tensor):
        if image.layout == torch.strided and not image.is_meta:
            return image.detach()
        return None
    if isinstance(image, np.ndarray) and (image.dtype == np.uint8 or np.issubdtype(image.dtype, np.floating)):
        dtype = image.dtype if image.dtype in (np.uint8, np.float64) else np.float32
        return torch.from_numpy(np.array(image, dtype=dtype, order="C"))
    return None


def _with_batch(values: Tensor) -> Tensor:
    if values.ndim == 2:
        return values[None, None]
    if values.ndim == 3:
        return values[None]
    return values


def checked_pictures(pictures: Tensor) -> Tensor:
    """Return pictures ``(..., H, W)`` in [0, 1], without a copy where none is needed; 8-bit pictures have any values.

    Raises:
        LitVizError: values are outside of [0, 1], as in a normalized image, or NaN.
    """
    values = pictures.detach().cpu().contiguous()
    if values.is_inference():  # which cannot be optimized
        with torch.inference_mode(False):
            values = values.clone()
    if values.dtype == torch.uint8:
        return values
    low, high = map(float, values.aminmax())
    if math.isnan(low):
        raise LitVizError("images must not contain NaN")
    if low < -1e-6 or high > 1 + 1e-6:
        raise LitVizError(
            f"floating-point images must be in [0, 1], got {low:.3g} to {high:.3g}: pass them without normalization, "
            "which the network applies, as uint8, or to saliency and attack with normalization=(mean, std)"
        )
    if values.dtype != torch.float64:
        values = values.float()
    if low < 0 or high > 1:
        return values.clamp(0, 1)
    return values


def _without_normalization(pictures: Tensor, normalization: Normalization | None) -> Tensor:
    """Return floating-point pictures ``(..., C, H, W)`` without their normalization; 8-bit pictures have none.

    Raises:
        LitVizError: the normalization is no pair of one value, or one per channel.
    """
    if normalization is None or not pictures.is_floating_point():
        return pictures
    constraint = "normalization must be (mean, std), one value or one per channel"
    try:
        mean, std = (torch.as_tensor(value, dtype=pictures.dtype).flatten() for value in normalization)
    except (TypeError, ValueError) as error:
        raise LitVizError(f"{constraint}, got {normalization!r}") from error
    channels = pictures.shape[-3]
    is_valid = {len(mean), len(std)} <= {1, channels}
    require(is_valid, constraint, f"{len(mean)} and {len(std)} values for {channels} channels")
    are_finite = bool(mean.isfinite().all() and (std >= _LEAST_STD).all() and std.isfinite().all())
    require(are_finite, f"normalization must have finite means, and stds of at least {_LEAST_STD:g}", normalization)
    return pictures.cpu() * std.view(-1, 1, 1).cpu() + mean.view(-1, 1, 1).cpu()


# -- datasets


class Pictures(Protocol):
    """Pictures ``(C, H, W)`` by index: a list, or a dataset that reads them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


class DatasetImages:
    """Pictures of a map-style dataset, read by index when they are needed; no picture is kept.

    Items are images, ``(image, label, ...)``, or mappings with the keys ``image`` and ``label``. The normalization of a
    ``torchvision`` transform that ends in ``Normalize`` is removed.

    Args:
        dataset: map-style dataset, or a loader, of which the dataset is taken.
        normalization: mean and standard deviation that the images were normalized by; by default from the
            dataset's transform.
        bands, axes: see :func:`to_pictures`.

    Attributes:
        class_names: names of the dataset's classes by label; None if it does not state them.
        network_classes: the network's class of each label; None if labels are classes of the network.

    Raises:
        LitVizError: the dataset is empty or can only be iterated.
    """

    def __init__(
        self,
        dataset: Dataset[Any] | DataLoader[Any],
        normalization: Normalization | None = None,
        bands: Bands | None = None,
        axes: str | None = None,
    ) -> None:
        source: Any = dataset.dataset if isinstance(dataset, DataLoader) else dataset
        if isinstance(source, IterableDataset) or not hasattr(source, "__len__"):
            raise LitVizError(
                f"images must be a map-style dataset, with items by index, got {type(source).__name__}: "
                "pass a list of its images"
            )
        if len(source) == 0:
            raise LitVizError("there must be at least one image, got a dataset of 0")
        self.dataset = source
        self.normalization = normalization or _normalization(_transform(source))
        self._bands, self._axes = bands, axes
        names = _attribute(source, "classes")
        self.class_names: list[str] | None = None if names is None else [str(name) for name in names]
        self.network_classes: Sequence[int] | None = None
        self._labels: dict[int, int] = {}  # of images that were read

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Tensor:
        item = self.dataset[index]
        image, label = _image_and_label(item)
        if label is not None:
            self._labels[index] = int(label)
        (checked,) = to_pictures(image, self.normalization, self._bands, self._axes)
        return checked

    def known_labels(self) -> list[int] | None:
        """Return the classes that the dataset lists without reading its images; None if it lists none."""
        labels = _listed_labels(self.dataset)
        if labels is None:
            return None
        return list(map(self._network_class, labels))

    def label(self, index: int) -> int | None:
        """Return the class of an image that has been read; None if the dataset has none."""
        label = self._labels.get(index)
        if label is None:
            return None
        return self._network_class(label)

    def _network_class(self, label: int) -> int:
        if self.network_classes is None:
            return label
        return self.network_classes[label]


def is_dataset(images: object) -> bool:
    """Return whether images are a dataset or a loader of one."""
    return isinstance(images, (Dataset, DataLoader))


def _image_and_label(item: Any) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        image = _first_value(item, _IMAGE_KEYS)
        if image is None:
            raise LitVizError(f"an item of the dataset must have the key image, got {', '.join(map(str, item))}")
        return image, _first_value(item, _LABEL_KEYS)
    if isinstance(item, (tuple, list)):
        image, *rest = item
        if rest and _is_number(rest[0]):
            return image, rest[0]
        return image, None
    return item, None


def _first_value(item: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """Return the value of the first of these keys that an item has; None if it has none."""
    for key in keys:
        if key in item:
            return item[key]
    return None


def _is_number(label: Any) -> bool:
    return isinstance(label, (int, np.integer)) or (isinstance(label, Tensor) and label.numel() == 1)


def _attribute(dataset: Any, name: str) -> Any:
    """Return an attribute of a dataset, or of that in a subset; None if there is none."""
    while isinstance(dataset, Subset) and not hasattr(dataset, name):
        dataset = dataset.dataset
    return getattr(dataset, name, None)


def _transform(dataset: Any) -> Any:
    return _attribute(dataset, "transform")


def _listed_labels(dataset: Any) -> list[int] | None:
    if isinstance(dataset, Subset):
        labels = _listed_labels(dataset.dataset)
        if labels is None:
            return None
        return [labels[index] for index in dataset.indices]
    listed = getattr(dataset, "targets", None)
    if listed is None or len(listed) != len(dataset):
        return None
    if hasattr(listed, "tolist"):
        listed = listed.tolist()
    for label in listed:
        if not isinstance(label, int):
            return None
    return list(listed)


def _normalization(transform: Any) -> Normalization | None:
    """Return mean and standard deviation of the last step of a transform, if it normalizes."""
    if type(transform).__name__ == "Normalize" and hasattr(transform, "mean") and hasattr(transform, "std"):
        return tuple(transform.mean), tuple(transform.std)
    if hasattr(transform, "mean") and hasattr(transform, "std") and not hasattr(transform, "transforms"):
        return tuple(transform.mean), tuple(transform.std)  # the presets of torchvision's weights
    steps = getattr(transform, "transforms", None)
    if not steps:
        return None
    return _normalization(list(steps)[-1])
