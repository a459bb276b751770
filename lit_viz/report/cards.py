"""Tasks of a run as cards with a slider over the logged iterations, and as rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_viz.figures.curves import spread
from lit_viz.images.rendering import MAGNIFIED
from lit_viz.methods.records import label_with_lr
from lit_viz.presentations.base import CardText
from lit_viz.report.curves import Curve, CurvePlot, plot_curves
from lit_viz.report.embedding import file_in
from lit_viz.runs.folder import RunFolder
from lit_viz.types import Record

MAX_FRAMES = 12  # of a card
_MAX_PERTURBED_IMAGES = 8  # of a universal perturbation


@dataclass(frozen=True)
class Frame:
    """An image at a position of the slider.

    Attributes:
        iteration: None for a result that differs from the last logged image.
        image: file.
        difference: file of the magnified difference to the photograph, if there is one.
    """

    iteration: int | None
    image: Path
    difference: Path | None = None

    @property
    def label(self) -> str:
        """Text of the slider position."""
        return "the result" if self.iteration is None else str(self.iteration)

    @property
    def size(self) -> int:
        """Total size of the files in bytes."""
        return sum(path.stat().st_size for path in (self.image, self.difference) if path is not None)


@dataclass(frozen=True)
class Stack:
    """Images in one place of which the slider selects one: (file, text alternative) each."""

    caption: str
    images: Sequence[tuple[Path, str]]


@dataclass(frozen=True)
class PerturbedPair:
    """A photograph without and with a universal perturbation."""

    name: str
    original: Path
    image: Path
    caption: str


@dataclass(frozen=True)
class TaskCard:
    """A task with its images, curves and record.

    Attributes:
        record: as in ``results.jsonl``.
        title: name of the task.
        text: texts that depend on the method.
        row: row of the results table.
        curves: plots of the metrics.
        stacks: photograph, image and difference.
        labels: text of each slider position.
        omitted: number of logged images that are not embedded, and of all logged images.
        frames_folder: folder of the logged images, relative to the run folder.
        perturbed: images with a universal perturbation.
    """

    record: Record
    title: str
    text: CardText
    row: Mapping[str, str]
    curves: Sequence[CurvePlot]
    stacks: Sequence[Stack]
    labels: Sequence[str]
    omitted: tuple[int, int]
    frames_folder: str
    perturbed: Sequence[PerturbedPair]

    @property
    def has_source(self) -> bool:
        """Whether the images are placed in a row beside the photograph."""
        return bool(self.stacks) and self.stacks[0].caption == "photograph"


def build_cards(
    folder: RunFolder,
    records: Sequence[Record],
    rows: Sequence[Mapping[str, str]],
    text: Callable[[Record], CardText],
    budget: float,
) -> list[TaskCard]:
    """Return the cards of some tasks.

    Args:
        folder: run folder.
        records: of the tasks.
        rows: of the results table.
        text: returns the method's texts for a record.
        budget: total size of the embedded images in bytes, divided evenly.
    """
    metrics = folder.metrics([record.key for record in records])
    share = budget / max(1, len(records))
    return [
        _card(folder, record, row, metrics[record.key], text(record), share)
        for record, row in zip(records, rows, strict=True)
    ]


def _card(
    folder: RunFolder,
    record: Record,
    row: Mapping[str, str],
    metrics: Mapping[str, Curve],
    text: CardText,
    budget: float,
) -> TaskCard:
    key, name = record.key, record.name
    perturbed = _perturbed_pairs(folder, key)
    source = file_in(folder.path, f"sources/{key}.png")
    fixed = [path for pair in perturbed for path in (pair.original, pair.image)] + ([source] if source else [])
    logged = _frames(folder, key, record)
    frames = _fit(logged, budget - sum(path.stat().st_size for path in fixed))
    stacks = [] if source is None else [Stack("photograph", [(source, f"photograph {name}")])]
    if frames:
        stacks.append(Stack(text.caption, [(frame.image, f"{name}, iteration {frame.label}") for frame in frames]))
    differences = [(f.difference, f"difference at iteration {f.label}") for f in frames if f.difference is not None]
    if differences:
        stacks.append(Stack(f"difference × {MAGNIFIED:g}", differences))
    return TaskCard(
        record=record,
        title=label_with_lr(name, record),
        text=text,
        row=row,
        curves=plot_curves(metrics, [frame.iteration for frame in frames]),
        stacks=stacks,
        labels=[frame.label for frame in frames],
        omitted=(len(logged) - len(frames), len(logged)),
        frames_folder=f"frames/{key}/",
        perturbed=perturbed,
    )


def _frames(folder: RunFolder, key: str, record: Record) -> list[Frame]:
    differences = dict(folder.frames(f"{key}.difference"))
    frames = [Frame(iteration, path, differences.get(iteration)) for iteration, path in folder.frames(key)]
    result = file_in(folder.path, record.file)
    if result is not None and not (frames and frames[-1].image.read_bytes() == result.read_bytes()):
        frames.append(Frame(None, result))
    return frames


def _fit(frames: Sequence[Frame], budget: float) -> list[Frame]:
    """Select as many frames as the budget in bytes allows, evenly, the first and the last included."""
    for count in range(min(MAX_FRAMES, len(frames)), 0, -1):
        selected = [frames[place] for place in spread(len(frames), count)]
        if sum(frame.size for frame in selected) <= budget:
            return selected
    return []


def _perturbed_pairs(folder: RunFolder, key: str) -> list[PerturbedPair]:
    pairs = []
    for perturbed in folder.perturbed_images(key):
        record = perturbed.record
        image, original = file_in(folder.path, record.file), file_in(folder.path, record.original)
        if image is not None and original is not None:
            held_out = ", held out" if record.held_out else ""
            status = ", not counted" if record.status == "skipped" else held_out
            change = f"{record.predicted_before_name or '?'} → {record.predicted_name or '?'}"
            pairs.append(PerturbedPair(record.name, original, image, f"{record.name}: {change}{status}"))
    return pairs[:_MAX_PERTURBED_IMAGES]
