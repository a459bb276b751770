"""Presentation of universal perturbations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain, zip_longest
from typing import ClassVar

from matplotlib.figure import Figure

from lit_viz.attacks.norms import LINF, NORMS, format_distance
from lit_viz.engine.snapshots import PerturbedImage, PerturbedImageRecord
from lit_viz.evidence.universal_perturbation import count_text, fooling_rates
from lit_viz.figures.attack import prediction_text
from lit_viz.figures.curves import plot_rate
from lit_viz.figures.layout import Block, Cell, Grid, Plot, Text, compose, pixels, stack
from lit_viz.figures.style import GAP, GRAY, TITLE
from lit_viz.presentations.adversarial_example import AttackPresentation, files_item
from lit_viz.presentations.base import FigureOptions
from lit_viz.presentations.items import EvidenceItem
from lit_viz.presentations.tables import TableRow, format_value
from lit_viz.runs.evidence import UniversalEvidence
from lit_viz.runs.records import UniversalRecord, has_several_radii, radius_text
from lit_viz.runs.results import Outcome
from lit_viz.utils.limits import MOST_EXAMPLES

_WIDTH = 1.25  # of an image in inches


class UniversalPerturbationPresentation(AttackPresentation[UniversalRecord, UniversalEvidence]):
    """Presentation of universal perturbations: the share of fooled photographs."""

    result: ClassVar[str] = "perturbation"

    def table(self, records: Sequence[UniversalRecord]) -> list[TableRow]:
        several_radii = has_several_radii(records)
        rows = []
        for record in records:
            row = _row(record)
            if several_radii:
                row["eps"] = radius_text(record)
            rows.append(row)
        return rows

    def figure(
        self,
        outcomes: Sequence[Outcome[UniversalRecord]],
        options: FigureOptions,
        evidence: UniversalEvidence | None = None,
    ) -> Figure:
        """Return perturbations next to some photographs, over the curve of the fooling rate."""
        caption = (
            "Photographs: original above, with the perturbation beneath, as stored in the 8-bit files. Curve: share of "
            "the photographs of an iteration that fool the network; the last point is the share of all training "
            "photographs."
        )
        return compose(stack(*map(_drawing, outcomes), gap=2 * GAP), caption)

    def metric_texts(self, metrics: Mapping[str, float]) -> list[str]:
        texts = super().metric_texts(metrics)
        if "fooling_rate" in metrics:
            texts.insert(0, f"fools {metrics['fooling_rate']:.0%}")
        return texts

    def part_items(self, evidence: UniversalEvidence) -> list[EvidenceItem]:
        items: list[EvidenceItem] = []
        if evidence.files is not None:
            items.append(files_item(evidence.files))
        if evidence.universal is not None:
            items.append(_universal_item(evidence.universal))
        return items + super().part_items(evidence)


def _row(record: UniversalRecord) -> TableRow:
    return {
        "target": record.target_name or "any other",
        "status": record.status,
        "fooled in the file": count_text(record.fooling_rate, record.trained_on),
        "held out": count_text(record.held_out_fooling_rate, record.held_out),
        "iterations": str(record.iterations),
        "L2": format_value(record.l2),
        "Linf": format_distance(record.linf, LINF.name),
    }


def _universal_item(part: Mapping[str, Sequence[str]]) -> EvidenceItem:
    rows = [{"perturbation": name, "photographs": "; ".join(rates) or "none evaluated"} for name, rates in part.items()]
    text = "Fooling rates of the universal perturbations."
    return EvidenceItem(text, rows=rows, name="universal", prints_table=True)


# -- figure


def _drawing(outcome: Outcome[UniversalRecord]) -> Grid:
    """Return a perturbation next to some photographs, over the curve of the fooling rate; nothing without an image."""
    record, picture = outcome.record, outcome.image()
    if picture is None or record.norm is None:
        return Grid([])
    about = [
        f"{NORMS[record.norm].symbol} {format_distance(record.metrics.get(record.norm), record.norm)}",
        f"magnified {record.magnified:.3g} times",
    ]
    before: list[Block] = []
    after: list[Block] = []
    for image in _drawn_photographs(outcome):
        assert image.source is not None
        assert image.image is not None
        before.append(Cell(pixels(image.source), _texts_before(image.record), _WIDTH))
        text = prediction_text(image.record, image.record.predicted_name, image.record.probability)
        after.append(Cell(pixels(image.image), text.split("\n"), _WIDTH))
    rows: list[list[Block | None]] = [
        [None, Text(record.name, (1 + len(before)) * _WIDTH, TITLE, weight="bold")],
        [None, Cell(pixels(picture), about, _WIDTH), *before],
        [None, Text("\n".join(fooling_rates(record)), _WIDTH, lines=3), *after],
    ]
    curve = outcome.logged("fooling_rate")
    if curve:
        label = Text("fooling rate", 0.75, lines=2, color=GRAY)
        rows.append([label, Plot(0.9, partial(plot_rate, curve), below=0.3)])
    return Grid(rows)


def _drawn_photographs(outcome: Outcome[UniversalRecord]) -> list[PerturbedImage]:
    """Return the first counted photographs, in turn one that was trained on and one that was held out."""
    parts: dict[bool, list[PerturbedImage]] = {False: [], True: []}
    for image in outcome.perturbed_images():
        if image.record.status == "done":
            parts[image.record.held_out].append(image)
    in_turn = chain.from_iterable(zip_longest(parts[False], parts[True]))
    drawn = [image for image in in_turn if image is not None and image.source is not None and image.image is not None]
    return drawn[:MOST_EXAMPLES]


def _texts_before(photograph: PerturbedImageRecord) -> list[str]:
    text = prediction_text(photograph, photograph.predicted_before_name, photograph.probability_before)
    texts = text.split("\n")
    if photograph.held_out:
        texts.append("held out")
    return texts
