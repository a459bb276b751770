"""Agreement of a saliency map with its reference: the gates, and the similarity of maps."""

from __future__ import annotations

import math

from torch import Tensor

from lit_viz.images.rendering import rank_correlation, ssim
from lit_viz.runs import evidence as run_evidence

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


def formula_gate(difference: float, rounding: float = 0.0) -> run_evidence.Gate:
    """Return the gate of the formulas; ``rounding`` is the error of Captum's own formula in float64."""
    allowed = FORMULA_TOLERANCE + rounding
    return run_evidence.Gate(difference=difference, allowed=allowed, passed=difference <= allowed)


def sum_gate(difference: float) -> run_evidence.Gate:
    """Return the gate of a map that is verified by its terms, for its difference from their sum."""
    return run_evidence.Gate(difference=difference, allowed=SUM_TOLERANCE, passed=difference <= SUM_TOLERANCE)


def delivered_gate(difference: float, captum_float32: float, stored: float = 0.0) -> run_evidence.Gate:
    """Return the gate of a delivered map or its terms.

    What is allowed is no constant, since at the kinks of a ReLU the last bit decides whether a pixel's gradient passes.

    Args:
        difference: from the reference in float64.
        captum_float32: largest difference of float32 maps or terms of the reference.
        stored: largest rounding error of the stored map, if it is in float16.
    """
    allowed = min(DELIVERED_FACTOR * captum_float32 + DELIVERED_SLACK + stored, MAX_ALLOWED)
    return run_evidence.Gate(
        difference=difference, allowed=allowed, captum_float32=captum_float32, passed=difference <= allowed
    )
