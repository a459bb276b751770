"""The figures of the evidence of saliency maps: agreement with Captum, and localization."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from lit_viz.attributions import title_of
from lit_viz.evidence.saliency.agreement import FORMULA_TOLERANCE, Agreement
from lit_viz.evidence.saliency.cross_check import CrossCheck
from lit_viz.figures.evidence import EvidenceRow, Gate, LocalizationPanel, evidence_figure, localization_figure
from lit_viz.localization.localization import Localization, LocalizedMap
from lit_viz.methods.records import SaliencyRecord
from lit_viz.runs.results import Outcome


def figure_of_cross_check(certificate: CrossCheck, outcomes: Sequence[Outcome]) -> Figure | None:
    """Return the checked maps beside those of Captum; None where no map was checked."""
    by_index = {outcome.record.index: outcome for outcome in outcomes}
    rows = [
        _row(by_index[index], agreement, reference, certificate.half)
        for index, (agreement, reference) in certificate.agreements.items()
        if reference is not None
    ]
    if not rows:
        return None
    passed = [agreement.passed for agreement, _ in certificate.agreements.values()]
    return evidence_figure(rows, passed)


def _row(outcome: Outcome, agreement: Agreement, reference: Tensor, half: str | None) -> EvidenceRow:
    delivered = outcome.array()
    assert delivered is not None
    alike = {"this map": agreement.similarity, **agreement.controls}
    return EvidenceRow(
        name=outcome.name,
        method=title_of(_method(outcome)),
        attribution=delivered,
        reference=reference,
        gates=[
            Gate(
                "formula in float64",
                agreement.formula,
                FORMULA_TOLERANCE + agreement.rounding,
                agreement.formula_passed,
            ),
            Gate(
                "map as delivered" if half is None else f"map in {half}",
                agreement.delivered,
                agreement.allowed,
                agreement.delivered_passed,
            ),
        ],
        similarity={
            name: {"Spearman": s.spearman, "SSIM": s.ssim, "top 10 % IoU": s.top_iou} for name, s in alike.items()
        },
    )


def _method(outcome: Outcome) -> str:
    assert isinstance(outcome.record, SaliencyRecord)
    return outcome.record.method


def figure_of_localization(localization: Localization) -> Figure | None:
    """Return photographs, seeds, masks and boxes; None where no map was localized."""
    panels = [_panel(outcome, finding) for outcome, finding in localization.panels]
    if not panels:
        return None
    seeds = localization.seeds
    return localization_figure(panels, seeds.foreground, seeds.background, len(localization.maps))


def _panel(outcome: Outcome, finding: LocalizedMap) -> LocalizationPanel:
    found = finding.segment
    return LocalizationPanel(
        name=outcome.name,
        subtitle=title_of(_method(outcome)),
        photograph=finding.photograph.pixels,
        values=finding.values,
        seeds=None if found is None else found.seeds,
        mask=None if found is None else found.mask,
        box=None if found is None else found.box,
        truth=[tuple(finding.photograph.from_original(box).tolist()) for box in finding.reference],
        notes=[*([] if finding.iou is None else [f"IoU {finding.iou:.2f}"]), finding.error or ""],
    )
