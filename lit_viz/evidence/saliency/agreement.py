"""Agreement of a saliency map with its reference: the gates, and the similarity of maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from lit_viz.images.rendering import rank_correlation, ssim
from lit_viz.runs import evidence as run_evidence
from lit_viz.runs.records import SaliencyRecord

#: Gate of the formula in float64: largest difference, relative to the map's maximum.
FORMULA_TOLERANCE = 1e-8
#: Gate of the delivered float32 map: multiple of the error of Captum's own float32 maps, and an additional tolerance.
DELIVERED_FACTOR, DELIVERED_SLACK = 2.0, 1e-6
#: Upper limit of the second gate. A larger tolerance would pass maps of another class or of a randomized network.
MAX_ALLOWED = 0.2
#: Gate of a map that is verified by its terms: difference from their sum.
SUM_TOLERANCE = 1e-5
_TOP = 0.1  # share of the pixels that count as the most salient


def largest_difference(values: Tensor, reference: Tensor) -> float:
    """Return ``max |values - reference| / max |reference|``: 0 for equal maps, infinite for non-finite values."""
    difference = (values.double() - reference.double()).abs().max()
    largest = reference.double().abs().max()
    if difference == 0:
        return 0.0
    if not bool(difference.isfinite()) or largest <= 0:
        return math.inf
    return float(difference / largest)


def similarity_of(values: Tensor, reference: Tensor) -> run_evidence.Similarity:
    """Return the similarity of ``values`` to ``reference``, maps ``(C, H, W)``."""
    if not bool(values.isfinite().all() and reference.isfinite().all()):
        return run_evidence.Similarity(difference=math.inf, spearman=math.nan, ssim=math.nan, top_iou=math.nan)
    reduced, expected = values.double().abs().amax(0), reference.double().abs().amax(0)
    span = float(expected.max()) or 1.0
    top, expected_top = _top_pixels(reduced), _top_pixels(expected)
    return run_evidence.Similarity(
        difference=largest_difference(values, reference),
        spearman=rank_correlation(values, reference),
        ssim=ssim((reduced / span).float()[None], (expected / span).float()[None]),
        top_iou=len(top & expected_top) / len(top | expected_top),
    )


def _top_pixels(values: Tensor) -> set[int]:
    """Return the flat indices of the most salient pixels of a map ``(H, W)``."""
    count = max(1, round(_TOP * values.numel()))
    return set(values.flatten().topk(count).indices.tolist())


@dataclass(frozen=True)
class Agreement:
    """Comparison of one map with its reference. Differences are relative to the maximum of the float64 map, or of its
    terms.

    Attributes:
        formula: difference of lit_viz's formula from the reference, both in float64; None if the terms are compared.
        delivered: difference of the delivered float32 map or its terms.
        captum_float32: largest difference of float32 maps or terms of the reference.
        similarity: of the delivered map; None if the terms are compared.
        controls: similarity of control maps, which must differ, by name.
        rounding: error of Captum's own formula in float64.
        family: how the map was verified.
        reference: what computed the reference: Captum or the original network.
        sum: difference of the map from the sum of its terms; None if the whole map is compared.
        terms, recomputed: number of the terms of the map, and of the terms that the reference computed.
        stored: largest rounding error of the stored map, if it is in float16.
    """

    formula: float | None
    delivered: float
    captum_float32: float
    similarity: run_evidence.Similarity | None = None
    controls: Mapping[str, run_evidence.Similarity] = field(default_factory=dict)
    rounding: float = 0.0
    family: str = run_evidence.WHOLE_MAP
    reference: str = run_evidence.CAPTUM
    sum: float | None = None
    terms: int | None = None
    recomputed: int | None = None
    stored: float = 0.0

    @property
    def formula_passed(self) -> bool:
        """Whether the formulas are equal."""
        return self.formula is None or self.formula <= FORMULA_TOLERANCE + self.rounding

    @property
    def sum_passed(self) -> bool:
        """Whether the map is the sum of its terms."""
        return self.sum is None or self.sum <= SUM_TOLERANCE

    @property
    def allowed(self) -> float:
        """Largest allowed difference of the delivered map.

        It is no constant, since at the kinks of a ReLU the last bit decides whether a pixel's gradient passes.
        """
        return min(DELIVERED_FACTOR * self.captum_float32 + DELIVERED_SLACK + self.stored, MAX_ALLOWED)

    @property
    def delivered_passed(self) -> bool:
        """Whether the delivered map is as accurate as float32 maps of the reference."""
        return self.delivered <= self.allowed

    @property
    def decided(self) -> bool:
        """Whether float32 distinguishes the map from a wrong one; not if Captum's own maps differ as much."""
        return self.delivered == math.inf or self.delivered <= MAX_ALLOWED or self.allowed < MAX_ALLOWED

    @property
    def passed(self) -> bool:
        """Whether all gates are passed."""
        return self.formula_passed and self.sum_passed and self.delivered_passed

    def evidence(self, record: SaliencyRecord) -> run_evidence.MapAgreement:
        """Return the comparison as in ``evidence.json``."""
        formula = sum_ = None
        if self.formula is not None:
            formula = run_evidence.FormulaGate(difference=self.formula, passed=self.formula_passed)
        if self.sum is not None:
            sum_ = run_evidence.SumGate(difference=self.sum, allowed=SUM_TOLERANCE, passed=self.sum_passed)
        return run_evidence.MapAgreement.of(
            record,
            passed=self.passed,
            family=self.family,
            reference=self.reference,
            terms=self.terms,
            recomputed=self.recomputed,
            formula=formula,
            sum=sum_,
            delivered=run_evidence.DeliveredGate(
                difference=self.delivered,
                allowed=self.allowed,
                captum_float32=self.captum_float32,
                passed=self.delivered_passed,
            ),
            similarity=self.similarity,
            controls=self.controls,
        )
