"""Tasks of a run as cards: images with a slider over the logged iterations, curves, and the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lit_viz.engine.snapshots import PerturbedImageRecord
from lit_viz.images.reading import IMAGE_ERRORS
from lit_viz.images.rendering import MAGNIFIED
from lit_viz.presentations import Presentation, TableRow
from lit_viz.report.images import image_uri, is_embeddable
from lit_viz.report.plots import CurvePlot, plot_curves
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.records import label_with_lr
from lit_viz.runs.results import Outcome
from lit_viz.types import Picture, Record
from lit_viz.utils.limits import MOST_PERTURBED, evenly

MAX_FRAMES = 12  # of a card


@dataclass(frozen=True)
class LoggedImage:
    """Files of an iteration."""

    iteration: int | None  # None for a result that differs from the last logged image
    image: Picture
    difference: Picture | None  # magnified, to the photograph

    def embed(self) -> Frame:
        """Return the images as data URIs."""
        difference = ""
        if self.difference is not None:
            difference = image_uri(self.difference)
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
        title, subtitle: texts.
        facets: what the index filters by.
        row: of the results table, without what the title states.
        curves: plots of the metrics.
        stacks: images in one place with their text alternatives, of which the slider selects one, by caption.
        labels: texts of the slider positions.
        logged: number of logged images, of which some may be omitted.
        perturbed: photographs with a universal perturbation.
    """

    record: Record
    title: str
    subtitle: str
    facets: Mapping[str, str]
    row: TableRow
    curves: Sequence[CurvePlot]
    stacks: Mapping[str, Sequence[tuple[str, str]]]
    labels: Sequence[str]
    logged: int
    perturbed: Sequence[PerturbedPair]


def build_card(
    outcome: Outcome,
    row: TableRow,
    presentation: Presentation,
    evidence: Evidence,
    budget: float,
) -> Card:
    """Return the card of a task.

    Args:
        outcome: of the task.
        row: of the results table.
        presentation: of the method.
        evidence: of the run.
        budget: size of the embedded images in bytes.
    """
    record = outcome.record
    perturbed = _perturbed_pairs(outcome)
    for pair in perturbed:
        budget -= len(pair.original) + len(pair.image)
    logged = _logged_images(outcome)
    frames = _fit(logged, budget)
    subtitle = presentation.subtitle(record)
    return Card(
        record=record,
        title=label_with_lr(record.name, record),
        subtitle=subtitle,
        facets=presentation.facets(record, evidence),
        row=_without_titles(row, record.name, subtitle),
        curves=plot_curves(outcome.curves(), [frame.iteration for frame in frames]),
        stacks=_stacks(record.name, frames, presentation.result),
        labels=[frame.label for frame in frames],
        logged=len(logged),
        perturbed=perturbed,
    )


def _stacks(name: str, frames: Sequence[Frame], result: str) -> dict[str, list[tuple[str, str]]]:
    """Return the images of the slider positions with their text alternatives, by caption."""
    images, differences = [], []
    for frame in frames:
        images.append((frame.image, f"{name}, iteration {frame.label}"))
        if frame.difference:
            differences.append((frame.difference, f"difference at iteration {frame.label}"))
    stacks = {}
    if images:
        stacks[result] = images
    if differences:
        stacks[f"difference × {MAGNIFIED:g}"] = differences
    return stacks


def _without_titles(row: TableRow, name: str, subtitle: str) -> TableRow:
    """Return a row without empty cells, without cells that repeat the titles, and without the usual status."""
    stated = {"-", "", "done", name}
    for part in subtitle.split(", "):
        first, _, rest = part.partition(" ")  # "target stingray", "grad_cam of layer4"
        stated |= {part, first, rest}
    return {column: text for column, text in row.items() if text not in stated}


def _logged_images(outcome: Outcome) -> list[LoggedImage]:
    """Return the logged images of a task, and its result if that differs from the last one; of a single evaluation the
    last image only."""
    differences = dict(outcome.frames("difference"))
    images = []
    for iteration, picture in outcome.frames():
        images.append(LoggedImage(iteration, picture, differences.get(iteration)))
    _, result = outcome.pictures()
    if result is None or not is_embeddable(result):
        return images
    record = outcome.record
    if not images or not _have_equal_pixels(images[-1].image, result):
        images.append(LoggedImage(None, result, None))
    if record.iterations is not None and record.iterations <= 1:
        return images[-1:]
    return images


def _have_equal_pixels(first: Picture, second: Picture) -> bool:
    """Compare two image files, of which a logged one also contains the most probable classes; damaged ones differ."""
    if not isinstance(first, Path) or not isinstance(second, Path):
        return False
    if first.read_bytes() == second.read_bytes():
        return True
    try:
        with Image.open(first) as one, Image.open(second) as other:
            return bool(one.size == other.size and one.mode == other.mode and one.tobytes() == other.tobytes())
    except IMAGE_ERRORS:
        return False


def _fit(images: Sequence[LoggedImage], budget: float) -> list[Frame]:
    """Embed as many images as the budget in bytes allows, evenly, the first and the last included."""
    frames = [image.embed() for image in evenly(images, MAX_FRAMES)]
    for count in range(len(frames), 0, -1):
        selected = []
        size = 0
        for frame in evenly(frames, count):
            selected.append(frame)
            size += frame.size
        if size <= budget:
            return selected
    return []


def _perturbed_pairs(outcome: Outcome) -> list[PerturbedPair]:
    """Return the first photographs of a universal perturbation."""
    pairs = []
    for perturbed in outcome.perturbed_images()[:MOST_PERTURBED]:
        record, original, image = perturbed.record, perturbed.source, perturbed.image
        if original is None or image is None:
            continue
        if is_embeddable(original) and is_embeddable(image):
            pairs.append(PerturbedPair(record.name, image_uri(original), image_uri(image), _caption(record)))
    return pairs


def _caption(record: PerturbedImageRecord) -> str:
    caption = f"{record.name}: {record.predicted_before_name or '?'} → {record.predicted_name or '?'}"
    if record.status == "skipped":
        return f"{caption}, not counted"
    if record.held_out:
        return f"{caption}, held out"
    return caption
