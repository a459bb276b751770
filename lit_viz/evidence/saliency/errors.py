"""Comparison of the recorded errors of saliency maps with those that follow from the maps.

The evaluations of a map are not stored, so its standard error and its completeness gap can't be computed again. Its
relative error follows from the map and one of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lit_viz.attributions import Attribution, ExtremalPerturbation, KernelShap
from lit_viz.attributions.base import MAX_COARSE_ERROR, Sampling, mean_square, relative_error
from lit_viz.evidence.comparison import different_metric
from lit_viz.runs.records import SaliencyRecord

_TOLERANCE = 1e-6  # relative, of a sum in another order
_OF_RATIO = 1e-2  # relative, of a ratio of numbers that are small differences


def different_errors(record: SaliencyRecord, method: Attribution, attribution: Tensor) -> Iterator[str]:
    """Yield where the error of a map is not the one that follows from the map.

    Args:
        record: of the map.
        method: that computed it.
        attribution: the map ``(C, H, W)`` as it was computed.
    """
    maps = attribution[None].double()
    if isinstance(method, ExtremalPerturbation):
        area = float(maps.mean())
        yield from different_metric(record, "area_error", abs(area - method.area), _TOLERANCE)
    if "completeness" in record.metrics:
        yield from _different_gap(record, maps)
    elif "standard_error" in record.metrics:
        yield from _different_standard_error(record, method, maps)


def _different_gap(record: SaliencyRecord, maps: Tensor) -> Iterator[str]:
    """Yield a mismatch if the relative error is not the gap relative to the difference of the scores."""
    gap, total = _number(record, "completeness"), float(maps.sum())
    differences = [total - gap, total + gap]  # the sign of the gap is not recorded
    rounding = _TOLERANCE * float(maps.abs().sum())
    smallest = min(abs(difference) for difference in differences)
    if smallest * _OF_RATIO <= rounding:
        return
    expected = [gap / abs(difference) for difference in differences]
    recorded = _number(record, "relative_error")
    if not any(math.isclose(error, recorded, rel_tol=_OF_RATIO) for error in expected):
        yield f"relative_error {expected[0]:.4g} by the completeness {gap:.4g}, recorded {recorded:.4g}"


def _different_standard_error(record: SaliencyRecord, method: Attribution, maps: Tensor) -> Iterator[str]:
    """Yield a mismatch if the relative error is not that of the standard error and the map."""
    error = _number(record, "standard_error")
    variance = torch.tensor([error**2], dtype=torch.float64)
    if isinstance(method, Sampling) and _estimates_as(method, Sampling):
        largest = method.max_error
        count = torch.tensor([(record.iterations or 0) - method.skipped])
        expected = float(method.error_of(maps, variance, count))
    elif isinstance(method, KernelShap) and _estimates_as(method, KernelShap):
        largest = MAX_COARSE_ERROR
        expected = float(relative_error(variance, mean_square(maps), largest))
    else:
        return
    # An error near the largest one may be either.
    recorded = _number(record, "relative_error")
    if not math.isclose(min(expected, largest), min(recorded, largest), rel_tol=_OF_RATIO):
        yield f"relative_error {expected:.4g} by the standard_error {error:.4g}, recorded {recorded:.4g}"


def _estimates_as(method: Attribution, base: type[Any]) -> bool:
    """Return whether map and error of a method are those of a base class, which a method of a user may replace."""
    kind = type(method)
    return kind.attribution is base.attribution and kind.uncertainty is base.uncertainty


def _number(record: SaliencyRecord, name: str) -> float:
    """Return a recorded number; one that is not finite is None."""
    value = record.metrics.get(name)
    return math.inf if value is None else value
