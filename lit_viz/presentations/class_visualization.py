"""Presentation of class visualizations and of images of layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any, ClassVar

from jsonargparse import Namespace
from matplotlib.figure import Figure

from lit_viz.engine.module import ImageTraining
from lit_viz.evidence.judges import held_out_judge
from lit_viz.figures.evolution import evolution_figure
from lit_viz.figures.layout import Cell, pixels
from lit_viz.figures.sheet import channel_grid, sweep_figure
from lit_viz.methods import ClassVisualization
from lit_viz.methods.class_visualization import Judges
from lit_viz.methods.records import ClassImageRecord, LayerImageRecord, VisualizationRecord, label_with_lr
from lit_viz.presentations import EvidenceSettings, Presentation, Row, format_value
from lit_viz.runs.evidence import Evidence, ImageEvidence
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.results import Outcome
from lit_viz.types import Record, Task
from lit_viz.utils.formatting import pluralize, probability_text, unique_labels

#: Tolerance of a probability, and relative one of an objective: the run evaluated the fast copy, in other batches.
_TOLERANCE = 0.01


class ClassVisualizationPresentation(Presentation):
    """Presentation of images of classes, layers and channels."""

    title: ClassVar[str] = "Class images"
    task_options: ClassVar[Mapping[str, str]] = {"gamma": "gamma {:g}", "lr": "lr {:g}"}

    def heading(self, records: Sequence[Record]) -> str:
        is_layer = any(isinstance(record, LayerImageRecord) and record.layer for record in records)
        return "Layer images" if is_layer else self.title

    def table(self, records: Sequence[Record]) -> list[Row]:
        """Return probability and rank of the target, for the network and for each judge; of an image without a target
        the objective. Options that vary have a column."""
        images = [record for record in records if isinstance(record, ClassImageRecord)]
        judges = sorted({name for record in images for name in record.judges})
        rows = [{**_row(record, judges), **_varying(record)} for record in records]
        constant = {name for name in ("iterations", "lr") if len({row[name] for row in rows}) == 1}
        return [{name: value for name, value in row.items() if name not in constant} for row in rows]

    def figure(self, outcomes: Sequence[Outcome], config: Namespace) -> Figure:
        """Return the logged images over the curve of the probability or the objective; channels, and options that vary,
        as a grid."""
        if config.vary:
            return _grid(outcomes, config.vary)
        records = [outcome.record for outcome in outcomes]
        if len(records) > 1 and all(isinstance(r, LayerImageRecord) and r.channel is not None for r in records):
            return channel_grid(outcomes)
        return evolution_figure(self.evolutions(outcomes))

    def names(self, records: Sequence[Record]) -> list[str]:
        return unique_labels([label_with_lr(record.title, record) for record in records], records)

    def curve(self, record: Record) -> str:
        has_objective = isinstance(record, LayerImageRecord) and record.objective_file is not None
        return "objective" if has_objective else "probability"

    def scalars(self, records: Sequence[Record], evidence: Evidence) -> dict[str, float]:
        ranks = [v["rank"] for r in records if isinstance(r, ClassImageRecord) for v in r.judges.values()]
        agreement = {"judges/agreement": ranks.count(1) / len(ranks)} if ranks else {}
        return {**super().scalars(records, evidence), **agreement}

    def verify(
        self, module: ImageTraining, outcomes: Sequence[Outcome], folder: RunFolder | None, settings: EvidenceSettings
    ) -> bool:
        """Re-read the files and evaluate the original network and the judges on them (``lit-viz check`` only)."""
        if folder is None or settings.at_end_of_run:
            return True
        assert isinstance(module, ClassVisualization)
        judges = held_out_judge(module.classifier)
        done = [outcome for outcome in outcomes if outcome.record.status == "done"]
        verdicts = [_evaluate(outcome, module, judges) for outcome in done]
        same = sum(_agrees(verdict, o.record) for verdict, o in zip(verdicts, done, strict=True))
        for outcome, verdict in zip(done, verdicts, strict=True):
            if "judges" in verdict:
                outcome.amend(judges=verdict["judges"])
        folder.amend(outcome.record for outcome in done)
        entries = [{"index": o.record.index, **verdict} for o, verdict in zip(done, verdicts, strict=True)]
        folder.merge_evidence(Evidence(pictures=ImageEvidence(read=len(done), same=same, verdicts=entries)))
        if not done:
            settings.notify("evidence: no finished image")
            return True
        settings.notify(f"evidence: {same} of {pluralize(len(done), 'file')} classified as recorded")
        for name in dict.fromkeys(name for verdict in verdicts for name in verdict.get("judges", ())):
            right = sum(verdict["judges"][name]["rank"] == 1 for verdict in verdicts)
            settings.notify(f"evidence: {name} predicts the class of {right} of {len(done)}")
        return same == len(done)


def _grid(outcomes: Sequence[Outcome], vary: Mapping[str, Sequence[float]]) -> Figure:
    """Return a grid with a column for each value of the last option of ``vary``, and a row for each image and
    combination of the others."""
    *others, (across, columns) = vary.items()
    combinations = list(product(*(values for _, values in others)))
    rows: dict[tuple[int, int], list[Cell | None]] = {}
    labels: dict[tuple[int, int], list[str]] = {}
    for outcome in outcomes:
        image, variant = divmod(outcome.record.index, prod(map(len, vary.values())))
        row, column = divmod(variant, len(columns))
        options = [f"{name} {value:g}" for (name, _), value in zip(others, combinations[row], strict=True)]
        labels[image, row] = [outcome.record.title, *options]
        cells = rows.setdefault((image, row), [None] * len(columns))
        if (picture := outcome.pictures()[1]) is not None:
            cells[column] = Cell(pixels(picture), [image_caption(outcome.record)])
    titles = [f"{across} {value:g}" for value in columns]
    return sweep_figure(list(labels.values()), titles, list(rows.values()), grid_caption(o.record for o in outcomes))


def image_caption(record: Record) -> str:
    """Return the probability of the class and the number of judges that predict it, or the objective of the file."""
    if not isinstance(record, ClassImageRecord):
        return f"objective {getattr(record, 'objective_file', None) or 0.0:.3g}"
    correct = sum(judge["rank"] == 1 for judge in record.judges.values())
    judges = f" · judges {correct} of {len(record.judges)}" if record.judges else ""
    return probability_text(record.probability or 0.0) + judges


def grid_caption(records: Iterable[Record]) -> str:
    """Return the caption of a grid of images with :func:`image_caption`."""
    images = [record for record in records if isinstance(record, ClassImageRecord)]
    judges = " Judges: held-out networks that predict the class." if any(record.judges for record in images) else ""
    return f"p: probability of the class.{judges}" if images else ""


def _row(record: Record, judges: Sequence[str]) -> Row:
    image = record if isinstance(record, VisualizationRecord) else None
    if record.target is None:
        return {
            "image": record.name,
            "status": record.status,
            "objective": format_value(image and image.objective, "{:.4g}"),
            "in the file": format_value(image and image.objective_file, "{:.4g}"),
        }
    verdicts = record.judges if isinstance(record, ClassImageRecord) else {}
    return {
        "class": record.title,
        "status": record.status,
        "probability": format_value(record.probability),
        "rank": format_value(image and image.rank, "{}"),
        **{
            f"by {name}": f"{verdicts[name]['probability']:.2f} ({verdicts[name]['rank']})" if name in verdicts else "-"
            for name in judges
        },
    }


def _varying(record: Record) -> Row:
    lr = record.lr if isinstance(record, VisualizationRecord) else None
    return {"iterations": format_value(record.iterations, "{:g}"), "lr": format_value(lr, "{:g}")}


def _evaluate(outcome: Outcome, module: ClassVisualization, judges: Judges) -> dict[str, Any]:
    """Return the predictions of the original network and the judges for the file of an outcome."""
    image, record = outcome.image(), outcome.record
    assert image is not None
    channel = record.channel if isinstance(record, LayerImageRecord) else None
    options = {} if channel is None else {"channel": channel}
    task = Task(record.index, record.name, record.seed or 0, target=record.target, options=options)
    logits, objective = module.evaluate_original(image, task)
    if task.target is None:
        return {"objective_file": objective}
    return {
        "probability": module.classifier.prediction(logits, task.target)["probability"],
        "judges": module.judge(image, task.target, judges),
    }


def _agrees(verdict: Mapping[str, Any], record: Record) -> bool:
    if isinstance(record, LayerImageRecord):
        recorded = record.objective_file or 0.0
        return bool(abs(verdict["objective_file"] - recorded) <= _TOLERANCE * max(abs(recorded), 1e-6))
    return record.probability is not None and abs(verdict["probability"] - record.probability) < _TOLERANCE
