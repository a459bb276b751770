"""The outcomes of a run, and the rows of its metrics."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any, Generic

from PIL import Image
from torch import Tensor
from typing_extensions import TypeVar

from lit_viz.engine.snapshots import PerturbedImage
from lit_viz.errors import LitVizError, did_you_mean
from lit_viz.images.formats import FileFormat
from lit_viz.images.rendering import side_by_side
from lit_viz.types import Curve, Picture, Record
from lit_viz.utils.formatting import probability_text

#: Class of the records of a method.
R = TypeVar("R", bound=Record, default=Record)
R_co = TypeVar("R_co", bound=Record, covariant=True, default=Record)


class Outcome(Generic[R_co]):
    """The outcome of a task, of which its store has images and arrays: here are those of a task without a result.

    A notebook displays the photograph, if there is one, next to the final image.

    Args:
        record: its record.
    """

    def __init__(self, record: R_co) -> None:
        self.record = record

    def __repr__(self) -> str:
        text = f"{self.record.key}: {self.record.status}"
        if self.record.probability is not None:
            text += f", {probability_text(self.record.probability)}"
        return f"Outcome({text})"

    def _repr_png_(self) -> bytes | None:
        """Return photograph and final image as PNG, which a notebook displays."""
        pictures = [picture for picture in (self.photograph(), self.drawn()) if picture is not None]
        if not pictures:
            return None
        buffer = BytesIO()
        Image.fromarray(side_by_side(pictures)).save(buffer, "PNG")
        return buffer.getvalue()

    @property
    def name(self) -> str:
        """The target's name, or the task's where it has none."""
        return self.record.title

    @property
    def has_image(self) -> bool:
        """Whether there is a final image."""
        return self.record.file is not None

    def image(self) -> Tensor | None:
        """Return the final image ``(C, H, W)`` in [0, 1]; None if the task failed before it had one."""
        return None

    def file_image(self) -> Tensor | None:
        """Return the final image as its file has it, which evidence is about; None if there is none."""
        return self.image()

    def array(self) -> Tensor | None:
        """Return the raw float32 result; None if it would repeat the image."""
        return None

    def terms(self) -> Tensor | None:
        """Return what was recorded of the terms of a saliency map ``(evaluations, ...)``; None if nothing was."""
        return None

    def source(self) -> Tensor | None:
        """Return the photograph ``(C, H, W)`` in [0, 1] as the network received it; None if there is none."""
        return None

    def photograph(self) -> Tensor | None:
        """Return the bands ``(1, H, W)`` or ``(3, H, W)`` of the photograph that are drawn; None if there is none."""
        source = self.source()
        return None if source is None else FileFormat.of(self.record.format).draw(source)

    def drawn(self) -> Tensor | None:
        """Return the final image as it is drawn; None if there is none."""
        image = self.image()
        if image is None or self.record.format is None or self.array() is not None:
            return image
        return FileFormat.of(self.record.format).draw(image)

    def pictures(self) -> tuple[Picture | None, Picture | None]:
        """Return photograph and final image for a figure, as files where there are any: a figure draws only some."""
        return self.photograph(), self.drawn()

    def perturbed_images(self) -> Sequence[PerturbedImage]:
        """Return the photographs of a universal perturbation; none for other tasks."""
        return ()

    def frames(self, name: str = "image") -> Sequence[tuple[int, Picture]]:
        """Return the logged images as (iteration, image), in order of iteration.

        Args:
            name: ``image``, or of additional images of the iterations, such as ``difference``.
        """
        return ()

    def curves(self) -> Mapping[str, Curve]:
        """Return the logged metrics by name, as (iteration, value) in order of iteration."""
        return {}

    def curve(self, metric: str) -> Curve:
        """Return a metric as (iteration, value).

        Raises:
            LitVizError: it was not logged.
        """
        curves = self.curves()
        if metric not in curves:
            names = sorted(curves)
            known = ", ".join(names) or "none"
            raise LitVizError(
                f"{self.record.key} has no curve {metric!r}{did_you_mean(metric, names)} (it has {known})"
            )
        return curves[metric]

    def logged(self, metric: str) -> Curve:
        """Return a metric as (iteration, value); empty if it was not logged."""
        return self.curves().get(metric, ())

    def amend(self, **values: Any) -> None:
        """Replace fields of the record; ``amend`` of the storage stores them."""
        self.record = self.record.amend(**values)


def records_of(outcomes: Iterable[Outcome[R]]) -> list[R]:
    """Return the records of outcomes."""
    return [outcome.record for outcome in outcomes]


#: First line of ``metrics.csv``.
HEADER = "task,iteration,metric,value\n"

#: Key and rows of each task, in task order.
TaskRows = Iterable[tuple[str, list[Any]]]


def csv_lines(tasks: TaskRows) -> Iterator[str]:
    """Yield the lines of ``metrics.csv`` about each task, without the header."""
    for key, rows in tasks:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for _, iteration, values in rows:
            writer.writerows((key, iteration, name, f"{float(value):.9g}") for name, value in values.items())
        yield text.getvalue()


def curves_of(rows: Iterable[Any]) -> dict[str, Curve]:
    """Return the metrics of a task by name, as (iteration, value) in order of iteration."""
    curves: dict[str, dict[int, float]] = {}
    for _, iteration, values in rows:
        for name, value in values.items():
            curves.setdefault(name, {})[iteration] = float(value)
    return {name: sorted(curve.items()) for name, curve in curves.items()}
