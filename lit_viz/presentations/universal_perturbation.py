"""Presentation of universal perturbations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import ClassVar

from matplotlib.figure import Figure
from torch import Tensor

from lit_viz.attacks.norms import L2, LINF, NORMS, format_distance
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.snapshots import PerturbedImage, PerturbedImageRecord
from lit_viz.evidence.attacks.mismatches import RecordedFile
from lit_viz.evidence.attacks.robustness import wilson_interval
from lit_viz.figures.attack import prediction_text
from lit_viz.figures.curves import plot_rate
from lit_viz.figures.layout import Block, Cell, Grid, Plot, Text, compose, pixels, stack
from lit_viz.figures.style import GAP, GRAY, TITLE
from lit_viz.images.reading import read_png
from lit_viz.methods import UniversalPerturbation
from lit_viz.presentations import EvidencePart, EvidenceSettings, FigureOptions, TableRow, format_value
from lit_viz.presentations.adversarial_example import AttackPresentation, find_mismatches
from lit_viz.runs.evidence import Evidence, FileEvidence
from lit_viz.runs.records import UniversalRecord, has_several_radii, label_with_eps
from lit_viz.runs.results import Outcome, Storage, records_of
from lit_viz.types import Curve, Record
from lit_viz.utils.limits import MOST_EXAMPLES

_WIDTH = 1.25  # of an image in inches
#: Tolerance of the distances, in levels, of photographs off the 8-bit lattice, which are stored rounded.
_ROUNDING = 0.5


class UniversalPerturbationPresentation(AttackPresentation):
    """Presentation of universal perturbations: the share of fooled photographs."""

    result: ClassVar[str] = "perturbation"

    def table(self, records: Sequence[Record]) -> list[TableRow]:
        several_radii = has_several_radii(records)
        rows = []
        for record in records:
            row = _row(record)
            if several_radii:
                row["eps"] = _eps(record)
            rows.append(row)
        return rows

    def figure(self, outcomes: Sequence[Outcome], options: FigureOptions, evidence: Evidence | None = None) -> Figure:
        """Return perturbations beside some photographs, over the curve of the fooling rate."""
        caption = (
            "Photographs: original above, with the perturbation beneath, as stored in the 8-bit files. Curve: share of "
            "the photographs of an iteration that fool the network; the last point is the share of all training "
            "photographs."
        )
        return compose(stack(*map(_drawing, outcomes), gap=2 * GAP), caption)

    def scalars(self, records: Sequence[Record], evidence: Evidence) -> dict[str, float]:
        scalars = super().scalars(records, evidence)
        done = [record for record in records if isinstance(record, UniversalRecord)]
        rates = {
            "fooled/file": [record.fooling_rate for record in done],
            "fooled/held_out": [record.held_out_fooling_rate for record in done],
        }
        for name, values in rates.items():
            known = [value for value in values if value is not None]
            if known:
                scalars[name] = sum(known) / len(known)
        return scalars

    def metric_texts(self, metrics: Mapping[str, float]) -> list[str]:
        texts = super().metric_texts(metrics)
        if "fooling_rate" in metrics:
            texts.insert(0, f"fools {metrics['fooling_rate']:.0%}")
        return texts

    def parts(
        self, module: ImageTraining, outcomes: Sequence[Outcome], storage: Storage, settings: EvidenceSettings
    ) -> Mapping[str, EvidencePart]:
        if storage.path is None:
            return {}
        return {"files": partial(_verify_files, module, outcomes, storage, settings)}


def _row(record: Record) -> TableRow:
    if not isinstance(record, UniversalRecord):  # a task that failed before it started
        fooled = held_out = l2 = linf = "-"
    else:
        fooled = _count(record.fooling_rate, record.trained_on)
        held_out = _count(record.held_out_fooling_rate, record.held_out)
        l2 = format_value(record.l2)
        linf = format_distance(record.linf, LINF.name)
    return {
        "target": record.target_name or "any other",
        "status": record.status,
        "fooled in the file": fooled,
        "held out": held_out,
        "iterations": str(record.iterations),
        "L2": l2,
        "Linf": linf,
    }


def _eps(record: Record) -> str:
    return format_distance(record.eps, record.norm or L2.name) if isinstance(record, UniversalRecord) else "-"


# -- evidence


def _verify_files(
    module: ImageTraining, outcomes: Sequence[Outcome], storage: Storage, settings: EvidenceSettings
) -> bool:
    """Re-read the files of all photographs, and evaluate the original network on them."""
    assert isinstance(module, UniversalPerturbation)
    assert storage.path is not None
    if settings.options.trust:
        settings.notify("trust: not available for universal perturbations, no stronger attack is run")
    read = 0
    wrong: list[str] = []
    rates: dict[str, list[str]] = {}
    several_radii = has_several_radii(records_of(outcomes))
    for outcome in outcomes:
        images = outcome.perturbed_images()
        stored = [image for image in images if isinstance(image.image, Path)]
        files = [_recorded_file(image, outcome.record) for image in stored]
        reasons = find_mismatches(files, module, storage.path, settings)
        read += len(files)
        wrong += [image.record.name for image, reason in zip(stored, reasons, strict=True) if reason is not None]
        for image in images:
            if image.record.status == "failed":
                settings.notify(f"{image.record.name}: {image.record.error}")
        name = label_with_eps(outcome.name, outcome.record) if several_radii else outcome.name
        rates[name] = _rates(outcome.record) + _saturation(outcome, module.attack.objective.limit)
    if settings.at_end_of_run and settings.options.explain:
        settings.notify("explain does not apply to universal perturbations: lit-viz saliency explains files")
    files_read = FileEvidence(read=read, wrong=wrong)
    settings.add(Evidence(files=files_read, universal=rates), storage, table=True)
    return not wrong


def _recorded_file(image: PerturbedImage, perturbation: Record) -> RecordedFile:
    """Return a photograph's file with its record."""
    off = _ROUNDING if image.record.source is None else 0.0  # photographs without a source are arrays
    return RecordedFile(Path(str(image.image)), image.record, partial(_read, image.source), perturbation, off)


def _read(source: Tensor | Path | None) -> Tensor | None:
    return read_png(source) if isinstance(source, Path) and source.exists() else None


def _saturation(outcome: Outcome, limit: float) -> list[str]:
    since = saturated_since(outcome.logged("objective"), limit)
    if since is None:
        return []
    reason = f"the cross-entropy of every photograph is at the attack's clip {limit:g}"
    return [f"no gradient after iteration {since}: {reason}: use more photographs or a larger clip"]


def saturated_since(curve: Curve, limit: float) -> int | None:
    """Return the iteration since which the objective is at its limit and its gradient zero; None if that is less than
    the last tenth of the iterations.

    Args:
        curve: (iteration, objective).
        limit: largest value of the objective.
    """
    since = None
    for iteration, value in curve:
        if value < limit * (1 - 1e-6):
            since = None
        elif since is None:
            since = iteration
    return since if since is not None and since <= 0.9 * curve[-1][0] else None


def _rates(record: Record) -> list[str]:
    """Return the numbers of fooled photographs; of those held out with the 95 % Wilson interval, which is not valid for
    photographs that the perturbation was optimized on."""
    if not isinstance(record, UniversalRecord):
        return []
    lines = [f"fools {_count(record.fooling_rate, record.trained_on)} trained on"]
    if record.held_out and record.held_out_fooling_rate is not None:
        low, high = wilson_interval(round(record.held_out_fooling_rate * record.held_out), record.held_out)
        count = _count(record.held_out_fooling_rate, record.held_out)
        lines.append(f"fools {count} held out (95 %: {low:.0%} to {high:.0%})")
    return lines


def _count(rate: float | None, n: int | None) -> str:
    return f"{round(rate * n)} of {n}" if n and rate is not None and math.isfinite(rate) else "-"


# -- figure


def _drawing(outcome: Outcome) -> Grid:
    """Return a perturbation beside some photographs, over the curve of the fooling rate; nothing without an image."""
    record, picture = outcome.record, outcome.image()
    if picture is None or not isinstance(record, UniversalRecord) or record.norm is None:
        return Grid([])
    about = [
        f"{NORMS[record.norm].symbol} {format_distance(record.metrics.get(record.norm), record.norm)}",
        f"magnified {record.magnified:.3g} times",
    ]
    before: list[Block] = []
    after: list[Block] = []
    for image in _shown_photographs(outcome):
        assert image.source is not None
        assert image.image is not None
        before.append(Cell(pixels(image.source), _texts_before(image.record), _WIDTH))
        text = prediction_text(image.record, image.record.predicted_name, image.record.probability)
        after.append(Cell(pixels(image.image), text.split("\n"), _WIDTH))
    rows: list[list[Block | None]] = [
        [None, Text(record.name, (1 + len(before)) * _WIDTH, TITLE, weight="bold")],
        [None, Cell(pixels(picture), about, _WIDTH), *before],
        [None, Text("\n".join(_rates(record)), _WIDTH, lines=3), *after],
    ]
    curve = outcome.logged("fooling_rate")
    if curve:
        label = Text("fooling rate", 0.75, lines=2, color=GRAY)
        rows.append([label, Plot(0.9, partial(plot_rate, curve), below=0.3)])
    return Grid(rows)


def _shown_photographs(outcome: Outcome) -> list[PerturbedImage]:
    """Return the first counted photographs, in turn one that was trained on and one that was held out."""
    parts: dict[bool, list[PerturbedImage]] = {False: [], True: []}
    for image in outcome.perturbed_images():
        if image.record.status == "done":
            parts[image.record.held_out].append(image)
    in_turn = chain.from_iterable(zip_longest(parts[False], parts[True]))
    shown = [image for image in in_turn if image is not None and image.source is not None and image.image is not None]
    return shown[:MOST_EXAMPLES]


def _texts_before(photograph: PerturbedImageRecord) -> list[str]:
    text = prediction_text(photograph, photograph.predicted_before_name, photograph.probability_before)
    texts = text.split("\n")
    if photograph.held_out:
        texts.append("held out")
    return texts
