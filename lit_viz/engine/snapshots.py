"""Snapshots of the images of a run, and the results of finished tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_viz.images.formats import FileFormat
from lit_viz.images.rendering import Heat
from lit_viz.types import JsonObject, Record, Task


class PerturbedImageRecord(JsonObject):
    """A photograph with a universal perturbation: ``held_out`` ones are not trained on, ``skipped`` ones not counted.

    ``correct`` states whether the prediction of the photograph is its given label; None without one.
    A photograph that could not be read has only the required fields and the status ``failed``.
    """

    index: int
    name: str
    source: str | None = None
    held_out: bool = False
    status: str = "done"
    error: str | None = None
    label: int | None = None
    label_source: str | None = None
    target: int | None = None
    target_name: str | None = None
    predicted_before_name: str | None = None
    correct: bool | None = None
    label_name: str | None = None
    probability_before: float | None = None
    predicted: int | None = None
    predicted_name: str | None = None
    probability: float | None = None
    success_float: bool | None = None
    success_file: bool | None = None
    success_jpeg95: bool | None = None
    success_jpeg75: bool | None = None
    l2: float | None = None
    linf: float | None = None
    file: str | None = None
    original: str | None = None


@dataclass(frozen=True)
class PerturbedImage:
    """A photograph with a universal perturbation.

    Attributes:
        record: its outcome.
        image: ``(C, H, W)`` uint8, or float in [0, 1], on the CPU; the path of its file if it was read from a run
            folder; None if the photograph could not be read.
        source: the photograph without the perturbation, in the same form.
    """

    record: PerturbedImageRecord
    image: Tensor | Path | None
    source: Tensor | Path | None


@dataclass(frozen=True)
class Snapshot:
    """The image at an iteration with its metrics.

    Attributes:
        task: its task.
        iteration: updates k of the image; 0 for the initial image.
        metrics: scalars of x_k by name: ``objective``, ``logit``, ``probability``, ``rank`` (1 is the best),
            ``gradient_norm``, penalties.
        content: image ``(C, H, W)`` in [0, 1] on the CPU, as it is drawn, or a map that is drawn when the
            :attr:`image` is read; None if only the metrics are logged.
        top5: the five most probable classes as (name, probability), in descending order; may be empty.
        extra_images: additional images ``(3, H, W)`` of the iteration, by name, such as a magnified difference.
        file_metrics: metrics of the image as its file holds it, if that is not x_k.
        data: all bands of the image, where only some are drawn. Final snapshots only, like all below.
        array: float32 result, if the image only visualizes it.
        source: the photograph ``(C, H, W)`` in [0, 1], as the network receives it.
        perturbed_images: photographs with the perturbation.
        terms: what was recorded of the terms of a saliency map, ``(iterations, ...)``.
    """

    task: Task
    iteration: int
    metrics: Mapping[str, float]
    content: Tensor | Heat | None = None
    top5: tuple[tuple[str, float], ...] = ()
    extra_images: Mapping[str, Tensor] = field(default_factory=dict)
    file_metrics: Mapping[str, float] | None = None
    data: Tensor | None = None
    array: Tensor | None = None
    source: Tensor | None = None
    perturbed_images: Sequence[PerturbedImage] = ()
    terms: Tensor | None = None

    @property
    def image(self) -> Tensor | None:
        """The image as it is drawn."""
        return _drawn(self.content)

    @property
    def ranking(self) -> list[list[Any]]:
        """The most probable classes, as in records."""
        return [[name, round(probability, 6)] for name, probability in self.top5]

    def without_results(self) -> Snapshot:
        """Return the snapshot as it is logged, without the fields that belong to the result."""
        return replace(self, data=None, array=None, source=None, perturbed_images=(), terms=None)


@dataclass(frozen=True)
class Result:
    """A finished task: the record without the paths of its files, and the fields of its final :class:`Snapshot`."""

    task: Task
    record: Record
    content: Tensor | Heat | None = None
    array: Tensor | None = None
    source: Tensor | None = None
    perturbed_images: Sequence[PerturbedImage] = ()
    terms: Tensor | None = None

    @property
    def image(self) -> Tensor | None:
        """The image with all its bands; of a map, as it is drawn."""
        return _drawn(self.content)

    @property
    def picture(self) -> Tensor | None:
        """The image as it is drawn."""
        image = self.image
        if image is None or self.array is not None:
            return image
        return FileFormat.of(self.record.format).draw(image)

    @property
    def source_picture(self) -> Tensor | None:
        """The photograph as it is drawn."""
        if self.source is None:
            return None
        return FileFormat.of(self.record.format).draw(self.source)

    @property
    def is_finished(self) -> bool:
        """Whether the task is done, has failed or was skipped."""
        return self.record.status != "unfinished"

    def dump(self) -> dict[str, Any]:
        """Return the result as plain values and tensors, for a checkpoint."""
        values = dict(vars(self))
        del values["content"]
        values["image"] = self.image
        values["task"] = self.task.to_dict()
        values["record"] = self.record.to_dict()
        values["perturbed_images"] = [(p.record.to_dict(), p.image, p.source) for p in self.perturbed_images]
        return values

    @classmethod
    def restore(cls, values: Mapping[str, Any]) -> Result:
        """Return the result of :meth:`dump`."""
        fields = dict(values)
        fields["content"] = fields.pop("image")
        fields["task"] = Task(**values["task"])
        fields["record"] = Record.read(values["record"])
        fields["perturbed_images"] = []
        for record, image, source in values["perturbed_images"]:
            fields["perturbed_images"].append(PerturbedImage(PerturbedImageRecord.from_dict(record), image, source))
        return cls(**fields)


def _drawn(content: Tensor | Heat | None) -> Tensor | None:
    if isinstance(content, Heat):
        return content.picture
    return content
