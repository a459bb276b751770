"""Presentation of universal perturbations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar

from jsonargparse import Namespace
from matplotlib.figure import Figure
from torch import Tensor

from lit_viz.attacks.norms import L2, LINF, NORMS, format_distance
from lit_viz.engine.module import ImageTraining
from lit_viz.evidence.attacks.mismatches import RecordedFile
from lit_viz.evidence.attacks.robustness import wilson_interval
from lit_viz.figures.attack import prediction_text
from lit_viz.figures.curves import plot_rate
from lit_viz.figures.layout import Block, Cell, Grid, Plot, Text, compose, pixels, stack
from lit_viz.figures.style import GAP, GRAY, TITLE
from lit_viz.images.reading import read_png
from lit_viz.methods import UniversalPerturbation
from lit_viz.methods.records import UniversalRecord, has_several_radii, label_with_eps
from lit_viz.presentations import EvidenceSettings, Row, format_value
from lit_viz.presentations.adversarial_example import AttackPresentation, find_mismatches
from lit_viz.runs.evidence import Evidence, FileEvidence
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.results import Outcome, records_of
from lit_viz.types import PerturbedImage, Record

_WIDTH = 1.25  # of an image in inches
_MAX_PHOTOGRAPHS = 4  # beside a perturbation


class UniversalPerturbationPresentation(AttackPresentation):
    """Presentation of universal perturbations: the share of fooled photographs."""

    result: ClassVar[str] = "perturbation"

    def table(self, records: Sequence[Record]) -> list[Row]:
        several_radii = has_several_radii(records)
        return [{**_row(record), **(_eps(record) if several_radii else {})} for record in records]

    def figure(self, outcomes: Sequence[Outcome], config: Namespace) -> Figure:
        """Return perturbations beside some photographs, over the curve of the fooling rate."""
        caption = (
            "Photographs: original above, with the perturbation beneath, as stored in the 8-bit files. Curve: share of "
            "the photographs of an iteration that fool the network; the last point is the share of all training "
            "photographs."
        )
        return compose(stack(*map(_drawing, outcomes), gap=2 * GAP), caption)

    def scalars(self, records: Sequence[Record], evidence: Evidence) -> dict[str, float]:
        done = [record for record in records if isinstance(record, UniversalRecord)]
        rates = {
            "fooled/file": [r.fooling_rate for r in done if r.fooling_rate is not None],
            "fooled/held_out": [r.held_out_fooling_rate for r in done if r.held_out_fooling_rate is not None],
        }
        means = {name: sum(values) / len(values) for name, values in rates.items() if values}
        return {**super().scalars(records, evidence), **means}

    def metric_texts(self, metrics: Mapping[str, float]) -> list[str]:
        rate = [f"fools {metrics['fooling_rate']:.0%}"] if "fooling_rate" in metrics else []
        return [*rate, *super().metric_texts(metrics)]

    def verify(
        self, module: ImageTraining, outcomes: Sequence[Outcome], folder: RunFolder | None, settings: EvidenceSettings
    ) -> bool:
        """Re-read the files of all photographs, and evaluate the original network on them."""
        if folder is None:
            return True
        assert isinstance(module, UniversalPerturbation)
        config, notify = settings.config, settings.notify
        if settings.trust:
            notify("trust: not available for universal perturbations, no stronger attack is run")
        read = 0
        wrong: list[str] = []
        rates: dict[str, list[str]] = {}
        several = has_several_radii(outcome.record for outcome in outcomes)
        for outcome in outcomes:
            images = outcome.perturbed_images()
            stored = [image for image in images if isinstance(image.image, Path)]
            files = [_recorded_file(image, outcome.record) for image in stored]
            reasons = find_mismatches(files, module.classifier, folder, settings)
            read += len(files)
            wrong += [image.record.name for image, reason in zip(stored, reasons, strict=True) if reason is not None]
            for image in images:
                if image.record.status == "failed":
                    notify(f"{image.record.name}: {image.record.error}")
            name = label_with_eps(outcome.name, outcome.record) if several else outcome.name
            rates[name] = _rates(outcome.record) + _saturation(outcome, module.attack.objective.limit)
            for line in rates[name]:
                notify(f"evidence: {name}: {line}")
        held_out = sum(record.held_out for record in records_of(outcomes, UniversalRecord))
        if settings.at_end_of_run and config.held_out and not held_out:
            notify(f"--held-out {config.held_out:g} holds out no photograph: give more photographs")
        if settings.at_end_of_run and config.explain:
            notify("--explain does not apply to universal perturbations: lit-viz saliency explains files")
        folder.merge_evidence(Evidence(files=FileEvidence(read=read, wrong=wrong), universal=rates))
        verdict = f"{len(wrong)} of them not as recorded" if wrong else "all as recorded"
        notify(f"evidence: {read} files read back from the disk, {verdict}")
        return not wrong


def _row(record: Record) -> Row:
    known = record if isinstance(record, UniversalRecord) else None
    return {
        "target": record.target_name or "any other",
        "status": record.status,
        "fooled in the file": "-" if known is None else _count(known.fooling_rate, known.trained_on),
        "held out": "-" if known is None else _count(known.held_out_fooling_rate, known.held_out),
        "iterations": str(record.iterations),
        "L2": format_value(known and known.l2),
        "Linf": format_distance(None if known is None else known.linf, LINF.name),
    }


def _eps(record: Record) -> Row:
    return {"eps": format_distance(record.eps, record.norm or L2.name) if isinstance(record, UniversalRecord) else "-"}


def _recorded_file(image: PerturbedImage, perturbation: Record) -> RecordedFile:
    """Return a photograph's file with its record. Of an array off the 8-bit lattice the stored photograph is rounded,
    by up to half a level."""
    off = 0.5 if image.record.source is None else 0.0
    return RecordedFile(Path(str(image.image)), image.record, partial(_read, image.source), perturbation, off)


def _read(source: Tensor | Path | None) -> Tensor | None:
    return read_png(source) if isinstance(source, Path) and source.exists() else None


def _saturation(outcome: Outcome, limit: float) -> list[str]:
    since = saturated_since(outcome.curve("objective"), limit)
    if since is None:
        return []
    return [
        f"no gradient after iteration {since}: the cross-entropy of every photograph is at --attack.clip {limit:g}: "
        "use more photographs or a larger clip"
    ]


def saturated_since(curve: Sequence[tuple[int, float]], limit: float) -> int | None:
    """Return the iteration since which the objective is at its limit and its gradient zero; None if that is less than
    the last tenth of the iterations.

    Args:
        curve: (iteration, objective).
        limit: largest value of the objective.
    """
    last = curve[-1][0] if curve else 0
    learning = [iteration for iteration, value in curve if value < limit * (1 - 1e-6)]
    after = [iteration for iteration, _ in curve if iteration > max(learning, default=-1)]
    return after[0] if after and after[0] <= 0.9 * last else None


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


def _drawing(outcome: Outcome) -> Grid:
    """Return a perturbation beside some photographs, over the curve of the fooling rate; nothing without an image."""
    record, picture = outcome.record, outcome.image()
    if picture is None or not isinstance(record, UniversalRecord) or record.norm is None:
        return Grid([])
    about = [
        f"{NORMS[record.norm].symbol} {format_distance(record.metrics.get(record.norm), record.norm)}",
        f"magnified {record.magnified:.3g} times",
    ]
    counted = [image for image in outcome.perturbed_images() if image.record.status == "done"]
    parts = ([image for image in counted if image.record.held_out == held_out] for held_out in (False, True))
    images = [image for pair in zip_longest(*parts) for image in pair if image is not None]  # of both parts in turn
    shown = [(i.record, i.source, i.image) for i in images if i.source is not None and i.image is not None]
    before, after = [], []
    for photograph, source, result in shown[:_MAX_PHOTOGRAPHS]:
        text = prediction_text(photograph, photograph.predicted_before_name, photograph.probability_before)
        held_out = ["held out"] if photograph.held_out else []
        before.append(Cell(pixels(source), [*text.split("\n"), *held_out], _WIDTH))
        text = prediction_text(photograph, photograph.predicted_name, photograph.probability)
        after.append(Cell(pixels(result), text.split("\n"), _WIDTH))
    rows: list[list[Block | None]] = [
        [None, Text(record.name, (1 + len(before)) * _WIDTH, TITLE, weight="bold")],
        [None, Cell(pixels(picture), about, _WIDTH), *before],
        [None, Text("\n".join(_rates(record)), _WIDTH, lines=3), *after],
    ]
    if curve := outcome.curve("fooling_rate"):
        label = Text("fooling rate", 0.75, lines=2, color=GRAY)
        rows.append([label, Plot(0.9, partial(plot_rate, curve), below=0.3)])
    return Grid(rows)
