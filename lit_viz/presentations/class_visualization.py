"""Presentation of class visualizations and of images of layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any, ClassVar

from matplotlib.figure import Figure

from lit_viz.evidence.verifier import EvidencePart, OutcomeVerifier
from lit_viz.figures.evolution import Evolution, evolution_figure
from lit_viz.figures.layout import Cell, pixels
from lit_viz.figures.sheet import channel_grid, sweep_figure
from lit_viz.presentations.base import FigureOptions, Presentation
from lit_viz.presentations.items import NOT_RECOGNIZED, EvidenceItem, held_out_item, not_recognized_item
from lit_viz.presentations.tables import TableRow, format_value
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.records import ClassImageRecord, LayerImageRecord, VisualizationRecord, label_with_lr
from lit_viz.runs.results import Outcome, records_of
from lit_viz.types import Record
from lit_viz.utils.formatting import probability_text, unique_labels

#: Columns of options, which tables have only if their values differ.
_OPTION_COLUMNS = ("iterations", "lr")


class ClassVisualizationPresentation(Presentation):
    """Presentation of images of classes, layers and channels."""

    title: ClassVar[str] = "Class images"
    command: ClassVar[str] = "visualize"
    task_options: ClassVar[Mapping[str, str]] = {"gamma": "gamma {:g}", "lr": "lr {:g}"}

    def heading(self, records: Sequence[Record]) -> str:
        for record in records:
            if isinstance(record, LayerImageRecord) and record.layer:
                return "Layer images"
        return self.title

    def table(self, records: Sequence[Record]) -> list[TableRow]:
        """Return probability and rank of the target, for the network and for each judge; of an image without a target
        the objective. Options that vary have a column."""
        judges: set[str] = set()
        for record in records:
            if isinstance(record, ClassImageRecord):
                judges |= record.judges.keys()
        rows = [_row(record, sorted(judges)) for record in records]
        if any(map(_restarts, records)):
            for record, row in zip(records, rows, strict=True):
                row["restarts"] = str(_restarts(record))
        for column in _OPTION_COLUMNS:
            if len({row[column] for row in rows}) == 1:
                for row in rows:
                    del row[column]
        return rows

    def figure(self, outcomes: Sequence[Outcome], options: FigureOptions, evidence: Evidence | None = None) -> Figure:
        """Return the logged images over the curve of the probability or the objective; channels, and options that vary,
        as a grid."""
        records = records_of(outcomes)
        varied = varied_options(records)
        if varied:
            return _grid(outcomes, varied)
        if len(records) > 1 and all(map(_is_channel, records)):
            return channel_grid(outcomes)
        return evolution_figure(self.evolutions(outcomes))

    def evolutions(self, outcomes: Sequence[Outcome]) -> list[Evolution]:
        evolutions = []
        for outcome, evolution in zip(outcomes, super().evolutions(outcomes), strict=True):
            if not _is_recognized(outcome.record):
                evolution = replace(evolution, name=f"{evolution.name} ({NOT_RECOGNIZED})")
            evolutions.append(evolution)
        return evolutions

    def facets(self, record: Record, evidence: Evidence) -> dict[str, str]:
        return super().facets(record, evidence) | {"outcome": _status(record)}

    def class_summary(self, records: Sequence[Record]) -> TableRow:
        summary: TableRow = {}
        if any(isinstance(record, ClassImageRecord) for record in records):
            summary["recognized"] = str(sum(map(_is_recognized, records)))
        return summary | super().class_summary(records)

    def names(self, records: Sequence[Record]) -> list[str]:
        return unique_labels([label_with_lr(record.title, record) for record in records], records)

    def curve(self, record: Record) -> str:
        has_objective = isinstance(record, LayerImageRecord) and record.objective_file is not None
        return "objective" if has_objective else super().curve(record)

    def evidence_items(self, evidence: Evidence, records: Sequence[Record]) -> list[EvidenceItem]:
        """Return the items of the evidence, and the predictions of the own and of held-out networks in the records."""
        items = super().evidence_items(evidence, records)
        for item in (not_recognized_item(records), held_out_item(records)):
            if item is not None:
                items.append(item)
        return items

    def show(self, verifier: OutcomeVerifier[Any], name: str, part: EvidencePart) -> None:
        super().show(verifier, name, part)
        item = None
        if name == "not_recognized":
            item = not_recognized_item(part.details)
        elif name == "held_out" and part.details is not None:
            item = held_out_item(part.details)
        if item is not None:
            self.print(item, verifier)


def _is_recognized(record: Record) -> bool:
    return not isinstance(record, ClassImageRecord) or record.is_recognized


def _restarts(record: Record) -> int:
    return record.restarts or 0 if isinstance(record, ClassImageRecord) else 0


def _status(record: Record) -> str:
    """Return the status of a record, or that the network does not recognize the image."""
    return record.status if _is_recognized(record) else NOT_RECOGNIZED


def _is_channel(record: Record) -> bool:
    return isinstance(record, LayerImageRecord) and record.channel is not None


# -- options that vary


def varied_options(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return the values of the options of which a run has every combination for each image, by option.

    The options are the learning rate and the iterations; the one that changes from record to record is the last. The
    result is empty if no image was optimized several times.
    """
    repetitions = Counter((record.name, record.target, record.seed) for record in records)
    variants = max(repetitions.values(), default=0)
    if variants < 2:
        return {}
    rates: dict[float, None] = {}  # in order of appearance
    lengths: dict[float, None] = {}
    first_rates = set()
    for record in records:
        if not isinstance(record, VisualizationRecord):
            continue
        if record.lr is not None:
            rates[record.lr] = None
        if record.status == "done":  # a failed image has the iterations until its failure
            lengths[float(record.iterations or 0)] = None
        if record.index % variants < 2:
            first_rates.add(record.lr)
    if len(rates) == variants:
        return {"lr": list(rates)}
    if len(lengths) == variants:
        return {"iterations": list(lengths)}
    if len(rates) * len(lengths) != variants:
        return {}
    if len(first_rates) > 1:
        return {"iterations": list(lengths), "lr": list(rates)}
    return {"lr": list(rates), "iterations": list(lengths)}


def _grid(outcomes: Sequence[Outcome], varied: Mapping[str, Sequence[float]]) -> Figure:
    """Return a grid with a column for each value of the last of the ``varied`` options, and a row for each image and
    combination of the others."""
    *others, (across, columns) = varied.items()
    combinations = list(product(*[values for _, values in others]))
    variants = prod(map(len, varied.values()))
    rows: dict[tuple[int, int], list[Cell | None]] = {}
    labels: dict[tuple[int, int], list[str]] = {}
    for outcome in outcomes:
        image, variant = divmod(outcome.record.index, variants)
        row, column = divmod(variant, len(columns))
        if (image, row) not in rows:
            rows[image, row] = [None] * len(columns)
            labels[image, row] = [outcome.record.title]
            for (name, _), value in zip(others, combinations[row], strict=True):
                labels[image, row].append(f"{name} {value:g}")
        picture = outcome.pictures()[1]
        if picture is not None:
            rows[image, row][column] = Cell(pixels(picture), [image_caption(outcome.record)])
    titles = [f"{across} {value:g}" for value in columns]
    caption = grid_caption(records_of(outcomes))
    return sweep_figure(list(labels.values()), titles, list(rows.values()), caption)


# -- texts of an image


def image_caption(record: Record) -> str:
    """Return the probability of the class and the number of judges that predict it, or the objective of the file."""
    if not isinstance(record, ClassImageRecord):
        return f"objective {getattr(record, 'objective_file', None) or 0.0:.3g}"
    if record.score is not None:
        return f"score {record.score:.3g}"
    text = probability_text(record.probability or 0.0)
    if record.judges:
        text += f" · judges {record.correct_judges} of {len(record.judges)}"
    return text


def grid_caption(records: Iterable[Record]) -> str:
    """Return the caption of a grid of images with :func:`image_caption`."""
    has_probability = has_judges = False
    for record in records:
        if isinstance(record, ClassImageRecord):
            has_probability |= record.probability is not None
            has_judges |= bool(record.judges)
    caption = ""
    if has_probability:
        caption = "p: probability of the class."
    if has_judges:
        caption += " Judges: held-out networks that predict the class."
    return caption


def _row(record: Record, judges: Sequence[str]) -> TableRow:
    image = record if isinstance(record, VisualizationRecord) else None
    if record.target is None:
        row = {
            "image": record.name,
            "status": record.status,
            "objective": format_value(image and image.objective, "{:.4g}"),
            "in the file": format_value(image and image.objective_file, "{:.4g}"),
        }
    else:
        row = {
            "class": record.title,
            "status": _status(record),
            "probability": format_value(record.probability),
            "rank": format_value(image and image.rank, "{}"),
        }
        if record.score is not None:
            row = {"score of": record.title, "status": record.status, "score": format_value(record.score)}
        verdicts = record.judges if isinstance(record, ClassImageRecord) else {}
        for name in judges:
            row[f"by {name}"] = _judgment(verdicts.get(name))
    row["iterations"] = format_value(record.iterations, "{:g}")
    row["lr"] = format_value(record.lr, "{:g}")
    return row


def _judgment(verdict: Mapping[str, Any] | None) -> str:
    return "-" if verdict is None else f"{verdict['probability']:.2f} ({verdict['rank']})"
