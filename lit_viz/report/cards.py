"""Tasks of a run as cards: images with a slider over the logged iterations, curves, and the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_viz.engine.snapshots import PerturbedImageRecord
from lit_viz.figures.curves import spread
from lit_viz.images.rendering import MAGNIFIED
from lit_viz.methods.records import label_with_lr
from lit_viz.presentations import Presentation, TableRow
from lit_viz.report.images import image_uri, is_embeddable
from lit_viz.report.plots import CurvePlot, plot_curves
from lit_viz.runs.folder import FolderStorage
from lit_viz.types import Curve, Record

MAX_FRAMES = 12  # of a card
_MAX_PERTURBED_IMAGES = 8  # of a universal perturbation


@dataclass(frozen=True)
class LoggedImage:
    """Files of an iteration."""

    iteration: int | None  # None for a result that differs from the last logged image
    image: Path
    difference: Path | None  # magnified, to the photograph

    def embed(self) -> Frame:
        """Return the images as data URIs."""
        difference = "" if self.difference is None else image_uri(self.difference)
        return Frame(self.iteration, image_uri(self.image), difference)


@dataclass(frozen=True)
class Frame:
    """Images at a position of the slider, as data URIs."""

    iteration: int | None  # None for a result that differs from the last logged image
    image: str
    difference: str  # magnified, to the photograph; empty if there is none

    @property
    def label(self) -> str:
        """Text of the slider position."""
        return "the result" if self.iteration is None else str(self.iteration)

    @property
    def size(self) -> int:
        """Size in bytes."""
        return len(self.image) + len(self.difference)


@dataclass(frozen=True)
class PerturbedPair:
    """A photograph without and with a universal perturbation, as data URIs."""

    name: str
    original: str
    image: str
    caption: str


@dataclass(frozen=True)
class Card:
    """A task as ``card.html`` takes it.

    Attributes:
        record: of the task.
        title, subtitle, note: texts.
        row: of the results table.
        curves: plots of the metrics.
        stacks: images in one place with their text alternatives, of which the slider selects one, by caption.
        labels: texts of the slider positions.
        logged: number of logged images, of which some may be omitted.
        perturbed: photographs with a universal perturbation.
    """

    record: Record
    title: str
    subtitle: str
    note: str
    row: TableRow
    curves: Sequence[CurvePlot]
    stacks: Mapping[str, Sequence[tuple[str, str]]]
    labels: Sequence[str]
    logged: int
    perturbed: Sequence[PerturbedPair]


def build_cards(
    folder: FolderStorage,
    records: Sequence[Record],
    rows: Sequence[TableRow],
    presentation: Presentation,
    budget: float,
) -> list[Card]:
    """Return the cards of some tasks.

    Args:
        folder: run folder.
        records: of the tasks.
        rows: of the results table.
        presentation: of the method.
        budget: total size of the embedded images in bytes, divided evenly.
    """
    metrics = folder.metrics([record.key for record in records])
    cards = []
    for record, row in zip(records, rows, strict=True):
        card = _build_card(folder, record, row, metrics[record.key], presentation, budget / len(records))
        cards.append(card)
    return cards


def _build_card(
    folder: FolderStorage,
    record: Record,
    row: TableRow,
    metrics: Mapping[str, Curve],
    presentation: Presentation,
    budget: float,
) -> Card:
    perturbed = _perturbed_pairs(folder, record.key)
    source = folder.path / "sources" / f"{record.key}.png"
    photograph = image_uri(source) if source.exists() else ""
    used = len(photograph) + sum(len(pair.original) + len(pair.image) for pair in perturbed)
    logged = _logged_images(folder, record)
    frames = _fit(logged, budget - used)
    stacks: dict[str, list[tuple[str, str]]] = {}
    if photograph:
        stacks["photograph"] = [(photograph, f"photograph {record.name}")]
    if frames:
        stacks[presentation.result] = [(f.image, f"{record.name}, iteration {f.label}") for f in frames]
    differences = [(f.difference, f"difference at iteration {f.label}") for f in frames if f.difference]
    if differences:
        stacks[f"difference × {MAGNIFIED:g}"] = differences
    return Card(
        record=record,
        title=label_with_lr(record.name, record),
        subtitle=presentation.subtitle(record),
        note=presentation.note,
        row=row,
        curves=plot_curves(metrics, [frame.iteration for frame in frames]),
        stacks=stacks,
        labels=[frame.label for frame in frames],
        logged=len(logged),
        perturbed=perturbed,
    )


def _logged_images(folder: FolderStorage, record: Record) -> list[LoggedImage]:
    """Return the logged images of a task, and its result if that differs from the last one."""
    differences = dict(folder.frames(f"{record.key}.difference"))
    images = []
    for iteration, path in folder.frames(record.key):
        images.append(LoggedImage(iteration, path, differences.get(iteration)))
    result = folder.path / (record.file or "")
    if not is_embeddable(result):
        return images
    if not images or images[-1].image.read_bytes() != result.read_bytes():
        images.append(LoggedImage(None, result, None))
    return images


def _fit(images: Sequence[LoggedImage], budget: float) -> list[Frame]:
    """Embed as many images as the budget in bytes allows, evenly, the first and the last included."""
    frames = [images[place].embed() for place in spread(len(images), MAX_FRAMES)]
    for count in range(len(frames), 0, -1):
        selected = [frames[place] for place in spread(len(frames), count)]
        if sum(frame.size for frame in selected) <= budget:
            return selected
    return []


def _perturbed_pairs(folder: FolderStorage, key: str) -> list[PerturbedPair]:
    """Return the first photographs of a universal perturbation."""
    pairs = []
    for perturbed in folder.perturbed_images(key)[:_MAX_PERTURBED_IMAGES]:
        record = perturbed.record
        original, image = folder.path / (record.original or ""), folder.path / (record.file or "")
        if is_embeddable(original) and is_embeddable(image):
            pairs.append(PerturbedPair(record.name, image_uri(original), image_uri(image), _caption(record)))
    return pairs


def _caption(record: PerturbedImageRecord) -> str:
    caption = f"{record.name}: {record.predicted_before_name or '?'} → {record.predicted_name or '?'}"
    if record.status == "skipped":
        return f"{caption}, not counted"
    return f"{caption}, held out" if record.held_out else caption
