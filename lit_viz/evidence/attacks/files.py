"""Evaluation of saved adversarial examples: everything that evidence states of a file is computed from it here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lit_viz.attacks.norms import Norm
from lit_viz.attacks.rounding import JPEG_QUALITIES, LatticeBall, Verifier, distances
from lit_viz.engine.snapshots import PerturbedImageRecord
from lit_viz.errors import LitVizError
from lit_viz.evidence.comparison import Scored
from lit_viz.images.formats import PICTURE, FileFormat
from lit_viz.images.reading import decode, encode_jpeg
from lit_viz.networks import Network
from lit_viz.runs.records import AdversarialRecord, NamedBox, named_boxes
from lit_viz.types import Task

_BATCH = 16  # reduces the time of a file by a quarter


@dataclass(frozen=True)
class RecordedFile:
    """An adversarial example in a file, with the recorded values.

    Attributes:
        file, record: name of the image file, and its record.
        read: returns the image ``(C, H, W)`` in the file.
        source: returns the photograph ``(C, H, W)`` in [0, 1], or None if it is missing.
        resolve: returns the task with label and target, given the logits ``(K,)`` of the photograph.
        attack, settings: name and settings of the attack.
        norm, eps: of the ball, in units of [0, 1]; ``eps`` is None for an attack without budget.
        iterations: most updates of the image; None if they are not compared.
        reading: what reading the photograph finds; None if it is not compared.
        pictures: which pictures do not show the values that they are drawn from.
    """

    file: str
    read: Callable[[], Tensor | None]
    record: AdversarialRecord | PerturbedImageRecord
    source: Callable[[], Tensor | None]
    resolve: Callable[[Tensor], Task]
    attack: str = ""
    norm: Norm | None = None
    eps: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    iterations: int | None = None
    reading: Mapping[str, Any] | None = None
    pictures: Sequence[str] = ()

    @property
    def format(self) -> FileFormat:
        """Format of the file."""
        return FileFormat.of(getattr(self.record, "format", None))

    def image(self) -> Tensor:
        """Return the image ``(C, H, W)`` in the file.

        Raises:
            LitVizError: it is missing or damaged.
        """
        image = self.read()
        if image is None:
            raise LitVizError(f"{self.file} is missing: compute the run again")
        return image

    @property
    def targeted(self) -> bool:
        """Whether the attack had a target."""
        return self.record.target is not None

    @property
    def goal(self) -> int:
        """Class to reach or to leave.

        Raises:
            LitVizError: the record has neither, since it was edited.
        """
        goal = self.record.target if self.targeted else self.record.label
        if goal is None:
            raise LitVizError(f"the record of {self.file} has neither a target nor a label: start another run")
        return goal

    @property
    def against(self) -> int:
        """Class to leave beside the one to reach; -1 for none."""
        against = getattr(self.record, "against", None)
        return -1 if against is None else against


@dataclass(frozen=True)
class Verdict(Scored):
    """A prediction of the original network, tested against the goal of an attack.

    Attributes:
        success: whether the prediction meets the goal.
        margin: in logits, positive for a success.
        text: what the network says or reads of the image; None where it gives no text.
        text_agrees: whether the text confirms the prediction; a success that it does not is none.
        boxes: final detections; None where the network detects nothing.
    """

    success: bool
    margin: float
    text: str | None
    text_agrees: bool | None
    boxes: Sequence[NamedBox] | None

    @property
    def is_close(self) -> bool:
        """Whether rounding on another machine may reverse the verdict."""
        return abs(self.margin) <= self.tolerance


@dataclass(frozen=True)
class FileValues:
    """What was computed from a file and its photograph.

    Attributes:
        file: of the file.
        jpeg: of the JPEGs of the image, by quality; empty where the file is no picture of 8 bits.
        before: of the photograph; None if it is missing, like the next three.
        task: the task with label and target by the prediction of the photograph.
        inside: whether the image is in the ball.
        distances: see :func:`~lit_viz.attacks.rounding.distances`.
    """

    file: Verdict
    jpeg: Mapping[int, Verdict]
    before: Verdict | None
    task: Task | None
    inside: bool | None
    distances: Mapping[str, float] | None

    @property
    def success(self) -> bool:
        """Whether the image is in its ball and fools the network, and its text confirms it; False without its
        photograph."""
        return self.file.success and bool(self.inside) and self.file.text_agrees is not False

    def success_after(self, quality: int) -> bool | None:
        """Return whether the image still fools the network after JPEG compression; None for other files."""
        return self.success and self.jpeg[quality].success if self.jpeg else None


def evaluate_files(files: Sequence[RecordedFile], network: Network, batch: int) -> Iterator[FileValues]:
    """Yield what is computed from each file, as if it was evaluated alone.

    Args:
        files: the files.
        network: the network.
        batch: maximum number of files that are evaluated at once.

    Raises:
        LitVizError: a file is missing, damaged, or of another size than the network's input, or its photograph is.
    """
    step = min(_BATCH, batch)
    for first in range(0, len(files), step):
        yield from _evaluate_batch(files[first : first + step], network)


def _evaluate_batch(files: Sequence[RecordedFile], network: Network) -> Iterator[FileValues]:
    images, sources = dict[int, Tensor](), dict[int, Tensor]()
    for n, file in enumerate(files):
        images[n] = _checked(file.image(), file.file, network)
        source = file.source()
        if source is not None:
            sources[n] = _checked(source, f"the photograph of {file.file}", network)
    tasks = _resolved_tasks(files, sources, network)
    verifier = _verifier(files, tasks, network)
    of_files, of_sources = _verdicts(verifier, images), _verdicts(verifier, sources)
    of_jpegs: dict[int, dict[int, Verdict]] = {}
    for quality in JPEG_QUALITIES:
        of_jpegs[quality] = _verdicts(verifier, _compressed(files, images, quality), reads=False)
    for n, file in enumerate(files):
        inside, lengths = None, None
        if n in sources:
            inside = LatticeBall(sources[n], file.norm, file.eps, file.format).contains(file.format.levels(images[n]))
            lengths = distances(_as_saved(file, sources[n]), images[n], file.format)
        jpeg = {quality: verdicts[n] for quality, verdicts in of_jpegs.items() if n in verdicts}
        yield FileValues(of_files[n], jpeg, of_sources.get(n), tasks.get(n), inside, lengths)


def _resolved_tasks(files: Sequence[RecordedFile], sources: Mapping[int, Tensor], network: Network) -> dict[int, Task]:
    if not sources:
        return {}
    logits = network.scores_alone(torch.stack([source.float() for source in sources.values()]), final=True).cpu()
    return {n: files[n].resolve(row) for n, row in zip(sources, logits, strict=True)}


def _verifier(files: Sequence[RecordedFile], tasks: Mapping[int, Task], network: Network) -> Verifier:
    goals, targeted = [file.goal for file in files], [file.targeted for file in files]
    thresholds = []
    for n in range(len(files)):
        thresholds.append(tasks[n].threshold or 0.0 if n in tasks else 0.0)
    against = [file.against for file in files]
    return Verifier(network, *(torch.tensor(values) for values in (goals, targeted, thresholds, against)))


def _compressed(files: Sequence[RecordedFile], images: Mapping[int, Tensor], quality: int) -> dict[int, Tensor]:
    """Return the JPEGs of the pictures of 8 bits."""
    compressed: dict[int, Tensor] = {}
    for n, image in images.items():
        if files[n].format == PICTURE:
            compressed[n] = decode(encode_jpeg(image, quality))
    return compressed


def _checked(image: Tensor, name: str, network: Network) -> Tensor:
    shape = (network.channels, *network.size)
    if image.shape != shape:
        raise LitVizError(f"{name} must have the shape {shape} of {network.name}, got {tuple(image.shape)}")
    return image


def _verdicts(verifier: Verifier, images: Mapping[int, Tensor], *, reads: bool = True) -> dict[int, Verdict]:
    """Evaluate images, given by the row of their goal; without their texts and boxes unless these are read too."""
    if not images:
        return {}
    network, of_rows = verifier.network, verifier[list(images)]
    batch = torch.stack([image.float() for image in images.values()])
    logits = of_rows.logits(batch)
    success = of_rows.success(logits)
    margins, tolerances = of_rows.margin(logits).tolist(), of_rows.tolerance(logits).tolist()
    texts: list[str | None] = [None] * len(images)
    agrees: list[bool | None] = [None] * len(images)
    boxes: list[list[NamedBox] | None] = [None] * len(images)
    if reads:
        texts, agrees = of_rows.texts(batch, success)
    if reads and network.output.detects:
        boxes = [named_boxes(detections, network.labels) for detections in network.detections(batch)]
    verdicts: dict[int, Verdict] = {}
    for n, *values in zip(images, logits, tolerances, success.tolist(), margins, texts, agrees, boxes, strict=True):
        verdicts[n] = Verdict(*values)
    return verdicts


def _as_saved(file: RecordedFile, source: Tensor) -> Tensor:
    """Return a photograph as the distances were measured to it when the file was written."""
    return file.format.image(file.format.levels(source))
