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
from lit_viz.presentations.items import EvidenceItem, listed
from lit_viz.presentations.tables import TableRow, format_value
from lit_viz.runs.evidence import ImageEvidence, NaturalnessEvidence, VisualizationEvidence
from lit_viz.runs.records import LEAST_PROBABILITY, VisualizationRecord, label_with_lr
from lit_viz.runs.results import Outcome, records_of
from lit_viz.utils.formatting import pluralize, probability_text, unique_labels

#: Flag of a finished class image to which the network itself gives less than 0.5 of the probability of its class.
NOT_RECOGNIZED = "not recognized"
#: Columns of options, which tables have only if their values differ.
_OPTION_COLUMNS = ("iterations", "lr")


class ClassVisualizationPresentation(Presentation[VisualizationRecord, VisualizationEvidence]):
    """Presentation of images of classes, layers and channels."""

    title: ClassVar[str] = "Class images"
    command: ClassVar[str] = "visualize"
    task_options: ClassVar[Mapping[str, str]] = {"gamma": "gamma {:g}", "lr": "lr {:g}"}

    def heading(self, records: Sequence[VisualizationRecord]) -> str:
        for record in records:
            if record.layer:
                return "Layer images"
        return self.title

    def table(self, records: Sequence[VisualizationRecord]) -> list[TableRow]:
        """Return probability and rank of the target, for the network and for each judge; of an image without a target
        the objective. Options that vary have a column."""
        judges: set[str] = set()
        for record in records:
            judges |= record.judgments.keys()
        rows = [_row(record, sorted(judges)) for record in records]
        if any(record.restarts for record in records):
            for record, row in zip(records, rows, strict=True):
                row["restarts"] = str(record.restarts or 0)
        for column in _OPTION_COLUMNS:
            if len({row[column] for row in rows}) == 1:
                for row in rows:
                    del row[column]
        return rows

    def figure(
        self,
        outcomes: Sequence[Outcome[VisualizationRecord]],
        options: FigureOptions,
        evidence: VisualizationEvidence | None = None,
    ) -> Figure:
        """Return the logged images over the curve of the probability or the objective; channels, and options that vary,
        as a grid."""
        records = records_of(outcomes)
        varied = varied_options(records)
        if varied:
            return _grid(outcomes, varied)
        if len(records) > 1 and all(record.channel is not None for record in records):
            return channel_grid(outcomes)
        return evolution_figure(self.evolutions(outcomes))

    def evolutions(self, outcomes: Sequence[Outcome[VisualizationRecord]]) -> list[Evolution]:
        evolutions = []
        for outcome, evolution in zip(outcomes, super().evolutions(outcomes), strict=True):
            if not outcome.record.is_recognized:
                evolution = replace(evolution, name=f"{evolution.name} ({NOT_RECOGNIZED})")
            evolutions.append(evolution)
        return evolutions

    def facets(self, record: VisualizationRecord, evidence: VisualizationEvidence) -> dict[str, str]:
        return super().facets(record, evidence) | {"outcome": _status(record)}

    def class_summary(self, records: Sequence[VisualizationRecord]) -> TableRow:
        summary: TableRow = {}
        if any(record.target is not None for record in records):
            summary["recognized"] = str(sum(record.is_recognized for record in records))
        return summary | super().class_summary(records)

    def names(self, records: Sequence[VisualizationRecord]) -> list[str]:
        return unique_labels([label_with_lr(record.title, record) for record in records], records)

    def curve(self, record: VisualizationRecord) -> str:
        is_objective = record.target is None and record.objective_file is not None
        if is_objective:
            return "objective"
        return super().curve(record)

    def evidence_items(
        self, evidence: VisualizationEvidence, records: Sequence[VisualizationRecord]
    ) -> list[EvidenceItem]:
        """Return the items of the evidence, and the predictions of the own and of held-out networks in the records."""
        items = super().evidence_items(evidence, records)
        return items + _not_recognized_items(records) + _held_out_items(records)

    def part_items(self, evidence: VisualizationEvidence) -> list[EvidenceItem]:
        items: list[EvidenceItem] = []
        if evidence.pictures is not None:
            items.append(_images_item(evidence.pictures))
        if evidence.naturalness is not None:
            items.append(_naturalness_item(evidence.naturalness))
        return items + super().part_items(evidence)

    def messages(self, verifier: OutcomeVerifier[Any, VisualizationRecord, VisualizationEvidence]) -> list[str]:
        """Return the images that the network itself does not recognize."""
        lines: list[str] = []
        for item in _not_recognized_items(records_of(verifier.outcomes)):
            lines += item.lines
        return lines

    def show(
        self,
        verifier: OutcomeVerifier[Any, VisualizationRecord, VisualizationEvidence],
        name: str,
        part: EvidencePart[VisualizationEvidence],
    ) -> None:
        super().show(verifier, name, part)
        if name == "held_out" and not verifier.settings.at_end_of_run:
            for item in _held_out_items(records_of(verifier.done)):
                for line in item.lines:
                    verifier.settings.notify(line)


def _status(record: VisualizationRecord) -> str:
    """Return the status of a record, or that the network does not recognize the image."""
    return record.status if record.is_recognized else NOT_RECOGNIZED


# -- options that vary


def varied_options(records: Sequence[VisualizationRecord]) -> dict[str, list[float]]:
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


def _grid(outcomes: Sequence[Outcome[VisualizationRecord]], varied: Mapping[str, Sequence[float]]) -> Figure:
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


def image_caption(record: VisualizationRecord) -> str:
    """Return the probability of the class and the number of judges that predict it, or the objective of the file."""
    if record.target is None:
        return f"objective {record.objective_file or 0.0:.3g}"
    if record.score is not None:
        return f"score {record.score:.3g}"
    text = probability_text(record.probability or 0.0)
    if record.judgments:
        text += f" · judges {record.correct_judges} of {len(record.judgments)}"
    return text


def grid_caption(records: Iterable[VisualizationRecord]) -> str:
    """Return the caption of a grid of images with :func:`image_caption`."""
    has_probability = has_judges = False
    for record in records:
        has_probability |= record.target is not None and record.probability is not None
        has_judges |= bool(record.judgments)
    caption = ""
    if has_probability:
        caption = "p: probability of the class."
    if has_judges:
        caption += " Judges: held-out networks that predict the class."
    return caption


def _row(record: VisualizationRecord, judges: Sequence[str]) -> TableRow:
    if record.target is None:
        row = {
            "image": record.name,
            "status": record.status,
            "objective": format_value(record.objective, "{:.4g}"),
            "in the file": format_value(record.objective_file, "{:.4g}"),
        }
    else:
        row = {
            "class": record.title,
            "status": _status(record),
            "probability": format_value(record.probability),
            "rank": format_value(record.rank, "{}"),
        }
        if record.score is not None:
            row = {"score of": record.title, "status": record.status, "score": format_value(record.score)}
        for name in judges:
            row[f"by {name}"] = _judgment(record.judgments.get(name))
    row["iterations"] = format_value(record.iterations, "{:g}")
    row["lr"] = format_value(record.lr, "{:g}")
    return row


def _judgment(verdict: Mapping[str, Any] | None) -> str:
    if verdict is None:
        return "-"
    return f"{verdict['probability']:.2f} ({verdict['rank']})"


# -- evidence


def _not_recognized_items(records: Sequence[VisualizationRecord]) -> list[EvidenceItem]:
    """Return the class images that the network itself does not recognize; empty if there are none."""
    rows = []
    names = []
    count = 0
    for record in records:
        count += record.target is not None and record.status == "done"
        if not record.is_recognized:
            names.append(label_with_lr(record.title, record))
            row = {
                "class": label_with_lr(f"{record.index} {record.target_name}", record),
                "this network": _prediction(record.probability, record.rank),
                "restarts": str(record.restarts or 0),
            }
            rows.append(row)
    if not rows:
        return []
    text = (
        f"{len(rows)} of {pluralize(count, 'image')} {NOT_RECOGNIZED}: the network itself gives its class a "
        f"probability below {LEAST_PROBABILITY:g} ({listed(names)})."
    )
    return [EvidenceItem(text, passed=False, rows=rows, name="not_recognized")]


def _held_out_items(records: Sequence[VisualizationRecord]) -> list[EvidenceItem]:
    """Return the predictions of held-out networks for class images; empty if no image was judged."""
    judged = [record for record in records if record.judgments]
    if not judged:
        return []
    first_places: Counter[str] = Counter()
    rows = []
    for record in judged:
        row = {
            "class": label_with_lr(f"{record.index} {record.target_name}", record),
            "this network": _prediction(record.probability, record.rank),
        }
        for name, verdict in record.judgments.items():
            row[name] = _prediction(verdict["probability"], verdict["rank"])
            first_places[name] += verdict["rank"] == 1
        rows.append(row)
    counts = [f"{name} predicts the class for {count} of {len(judged)}" for name, count in first_places.items()]
    return [EvidenceItem(f"Held-out networks: {', '.join(counts)}.", rows=rows, name="held_out")]


def _prediction(probability: float | None, rank: float | None) -> str:
    if probability is None:
        return "-"
    return f"{probability:.2f} (rank {rank})"


def _images_item(part: ImageEvidence) -> EvidenceItem:
    if not part.read:
        return EvidenceItem("No image was verified.", name="pictures")
    count = f"{part.same} of {pluralize(part.tasks or part.read, 'file')}"
    text = f"{count} classified as recorded by the original network, {_files_read(part.read, part.tasks)}"
    if part.wrong:
        text += f"; not as recorded: {listed(part.wrong)}"
    return EvidenceItem(f"{text}.", part.same == part.read, name="pictures")


def _files_read(read: int, tasks: int | None) -> str:
    """Return how many files of the tasks were read."""
    if tasks in (None, read):
        return "re-read from the disk"
    return f"{read} re-read from the disk, the others have none"


def _naturalness_item(part: NaturalnessEvidence) -> EvidenceItem:
    rows: list[TableRow] = []
    decidable = compared = flagged = 0
    for entry in part.images:
        row = {"image": f"{entry.index} {entry.target_name or entry.name}", "photographs": str(entry.photographs)}
        for figure in entry.layers:
            text = "not decidable"
            if figure.is_decidable:
                text = f"{figure.value:.2f} ({figure.low:.2f} to {figure.high:.2f})"
            row[figure.layer] = text
        if not entry.layers:
            row["verdict"] = "not decidable"
        if entry.flag:
            row["flag"] = entry.flag
        decidable += any(figure.is_decidable for figure in entry.layers)
        compared += entry.deviation is not None
        flagged += bool(entry.flag)
        rows.append(row)
    text = (
        f"Similarity of class images to photographs of their class: decidable for {decidable} of {len(part.images)}, "
        f"with {pluralize(part.photographs, 'photograph')}. "
    )
    if compared:
        text += f"Flagged as unnatural: {flagged} of {compared}."
    else:
        text += "Whether one is unnatural is not decidable."
    notes = [
        "By layer, Spearman correlation of the channel means: 1 as among photographs of the class, 0 as of other "
        "photographs, with a 95 % interval. A low value is no proof of manipulation: clean networks have low ones too. "
        "Unnatural: the best figure of the second half of the layers is far below those of the other class images; not "
        "decidable with fewer than nine of them, and where the network does not recognize the class."
    ]
    return EvidenceItem(text, rows=rows, notes=notes, name="naturalness", prints_table=True)
