"""Base class of the probes of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from lit_viz.callbacks.probes.base import Probe
from lit_viz.classifiers import Classifier
from lit_viz.engine.lightning import TaskQueue
from lit_viz.errors import LitVizError
from lit_viz.figures.curves import spread
from lit_viz.types import Task

#: Images ``(N, C, H, W)`` in [0, 1], a list of images and files, a batch (images, labels), a dataset or a loader.
ProbeImages = Tensor | Sequence[Any] | Dataset[Any] | DataLoader[Any]


class ImageProbe(Probe):
    """Base class of the probes of images.

    Args:
        images: tensor ``(N, C, H, W)`` in [0, 1], list of images ``(C, H, W)`` and files, batch ``(images, labels)``,
            or dataset or loader of (image, label). The images of a dataset or loader are network inputs: ``mean`` and
            ``std`` are removed.
        limit: number of images that are taken from a dataset or loader, evenly spaced; a loader is not iterated.
        every_n_epochs, options: see :class:`Probe`.
    """

    def __init__(self, images: ProbeImages, every_n_epochs: int = 5, *, limit: int = 64, **options: Any) -> None:
        super().__init__(every_n_epochs, **options)
        self.given, self.limit = images, limit
        self._tasks: TaskQueue | None = None

    def tasks(self, classifier: Classifier) -> TaskQueue:
        """Return a task per image; the images are read once."""
        if self._tasks is None:
            self._tasks = _image_tasks(classifier, *self._read(classifier))
        return self._tasks

    def _read(self, classifier: Classifier) -> tuple[Sequence[Any], Sequence[Any] | None]:
        """Return images and labels; a loader is left as it is, because its sampler and workers have a state."""
        given: Any = self.given
        if not isinstance(given, (Dataset, DataLoader)):
            return given if isinstance(given, tuple) else (given, None)
        dataset, collate = (given.dataset, given.collate_fn) if isinstance(given, DataLoader) else (given, None)
        if not isinstance(dataset, IterableDataset):
            dataset = Subset(dataset, spread(len(dataset), self.limit))  # type: ignore[arg-type]
        images, labels, *_ = next(iter(DataLoader(dataset, self.limit, collate_fn=collate)))
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (classifier.mean, classifier.std))
        return images * std + mean, labels


def _image_tasks(classifier: Classifier, images: Sequence[Any], labels: Sequence[Any] | None) -> TaskQueue:
    tasks: list[Task] = []
    pictures: list[Tensor] = []
    for i, image in enumerate(images):
        options: dict[str, Any] = {}
        source = None
        if isinstance(image, Tensor):
            options["image"] = len(pictures)
            pictures.append(_checked(image))
        else:
            source = str(image)
        label = None if labels is None else classifier.index_of(labels[i])
        name = f"image {i}" if label is None else f"image {i} {classifier.labels[label]}"
        origin = "predicted" if label is None else "given"
        tasks.append(Task(i, name, i, source=source, label=label, label_source=origin, options=options))
    return TaskQueue(tasks, pictures)


def _checked(image: Tensor) -> Tensor:
    image = image.detach().cpu().clone()
    if image.dtype == torch.uint8:
        return image
    low, high = float(image.min()), float(image.max())
    if not -1e-3 <= low <= high <= 1 + 1e-3:
        raise LitVizError(
            f"images must be in [0, 1], got {low:.3g} to {high:.3g}: pass tensors without normalization, and give mean "
            "and std, which are removed from the images of a loader"
        )
    return image.float().clamp_(0, 1)
