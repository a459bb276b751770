"""Verification of a saliency map: by itself, or by the terms that the run recorded.

A whole map is compared with its reference elementwise. Of a map that is a weighted mean of images, or is computed from
the scores of changed images, a run records all terms (see :mod:`lit_viz.attributions.terms`). The map must be what the
reference makes of them, and some of them are computed again by the reference.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_viz.attributions import Attribution, ExtremalPerturbation
from lit_viz.attributions.baselines import Baseline
from lit_viz.attributions.reducers import to_one_channel
from lit_viz.attributions.terms import projections
from lit_viz.errors import LitVizError
from lit_viz.evidence.saliency.agreement import (
    MAX_ALLOWED,
    delivered_gate,
    formula_gate,
    largest_difference,
    similarity_of,
    sum_gate,
)
from lit_viz.evidence.saliency.captum_reference import CaptumReference, Replay, formula_of
from lit_viz.evidence.saliency.metrics import random_map
from lit_viz.evidence.saliency.network_copies import Weights, add_rounding
from lit_viz.rng import Key, generator_for
from lit_viz.runs import evidence as run_evidence
from lit_viz.runs.records import SaliencyRecord
from lit_viz.runs.tar_store import is_reduced

#: Largest rounding error of a map in float16, relative to its largest value.
HALF_ROUNDING = 2.0**-11
#: Number of terms that the reference computes again, of the first map of a method and of each other one.
RECOMPUTED, FEWER_RECOMPUTED = 8, 4
_FORMULA_EVALUATIONS = 16  # the formula does not depend on their number, and float64 is slow
_CONTROL_EVALUATIONS, _CONTROL_TERMS = 8, 2
# Captum's float32 maps with rounding errors added to photograph and weights, computed until one allows the delivered
# map. The later ones have larger errors: a kink of a ReLU may affect one map in ten.
_ROUNDED_MAPS, _MORE_ROUNDED_MAPS, _MORE_ROUNDING_STEPS = 2, 8, 16
_TIE_NOISE = 1e-3  # separates equal neighbors, between which a max-pooling chooses by rounding even in float64


@dataclass(frozen=True)
class Family(ABC):
    """Base class of the ways to verify a map: values that the run delivered are computed again by the reference.

    Args:
        reference: the map's reference, in float64.
        delivered: the map, float32 ``(C, H, W)`` or ``(1, H, W)``.
        recorded: the terms that the run recorded, if any.
        recomputed: largest number of terms that the reference computes again.
    """

    name: ClassVar[str]
    stored: ClassVar[float] = 0.0  # largest rounding error of the stored values
    reference: CaptumReference
    delivered: Tensor
    recorded: Tensor | None = None
    recomputed: int = RECOMPUTED

    @property
    @abstractmethod
    def values(self) -> Tensor:
        """The delivered values, in the shape of the values that :meth:`compute` returns."""

    @abstractmethod
    def compute(self, reference: CaptumReference, most: int | None = None) -> Tensor:
        """Return the values by the reference, or by a change of it; of terms, at most this number of them."""

    @abstractmethod
    def difference(self, values: Tensor, expected: Tensor) -> float:
        """Return the largest difference of values from the expected ones, relative to the latter."""

    @abstractmethod
    def gates(self, expected: Tensor) -> dict[str, Any]:
        """Return the fields of the evidence that are particular to the family."""

    def formula(self, expected: Tensor) -> run_evidence.Gate | None:
        """Return the comparison of formulas in float64; None without one."""
        return None

    @abstractmethod
    def controls(self, expected: Tensor) -> dict[str, run_evidence.Similarity]:
        """Return the similarity of control maps: of another class, of a randomized network, and noise."""

    def wrong_references(self, reference: CaptumReference) -> dict[str, CaptumReference]:
        """Return the references of another class and of a randomized network, by name."""
        wrong = {"randomized network": replace(reference, weights=Weights(randomized=True))}
        classes = reference.network.num_classes
        if classes > 1:
            wrong["another class"] = replace(reference, target=(reference.target + classes // 2) % classes)
        return wrong


class WholeMap(Family):
    """The map is compared with the reference's elementwise, and the formulas in float64."""

    name = run_evidence.WHOLE_MAP

    @property
    def values(self) -> Tensor:
        return self.delivered[None]

    def compute(self, reference: CaptumReference, most: int | None = None) -> Tensor:
        return reference.compute()

    def difference(self, values: Tensor, expected: Tensor) -> float:
        return largest_difference(values, expected)

    def gates(self, expected: Tensor) -> dict[str, Any]:
        return {"similarity": similarity_of(self.delivered, expected[0])}

    def formula(self, expected: Tensor) -> run_evidence.Gate | None:
        """Compare the formulas on the original network, if the reference has a formula of its own.

        If they differ, the comparison is repeated on photograph and baseline with a little noise, since equal neighbors
        tie in a max-pooling.
        """
        if self.reference.counterpart.compute is formula_of:
            return None
        few = self.reference.with_evaluations(_FORMULA_EVALUATIONS)
        reused = expected if few.evaluations == self.reference.evaluations else None
        gate = formula_gate(_formula_difference(few, reused), few.formula_rounding)
        if not gate.passed:
            noise = torch.rand(few.x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(few.x)
            x = (few.x + _TIE_NOISE * (noise - 0.5)).clamp(0, 1)
            untied = replace(few, x=x, method=_with_noisy_baseline(few.method, _TIE_NOISE * noise.flip(-1)))
            gate = formula_gate(_formula_difference(untied, None), few.formula_rounding)
        return gate

    def controls(self, expected: Tensor) -> dict[str, run_evidence.Similarity]:
        cheap = _in_float32(self.reference).with_evaluations(_CONTROL_EVALUATIONS)
        controls = {}
        for name, wrong in self.wrong_references(cheap).items():
            controls[name] = similarity_of(self.compute(wrong)[0], expected[0])
        controls["random map"] = similarity_of(random_map(expected)[0], expected[0])
        return controls


@dataclass(frozen=True)
class ReducedMap(WholeMap):
    """The map was stored with one channel, in float16, and is compared with the reference's map, reduced likewise.

    The formulas are compared on a map with channels.

    Args:
        reducer: how the channels were reduced.
    """

    reducer: str = "max_abs"
    stored = HALF_ROUNDING

    def compute(self, reference: CaptumReference, most: int | None = None) -> Tensor:
        return to_one_channel(super().compute(reference), self.reducer)

    def formula(self, expected: Tensor) -> None:
        return None


class RecordedTerms(Family):
    """Base class of maps that are verified by their recorded terms, of which :attr:`numbers` are computed again.

    Raises:
        LitVizError: the record has another number of terms than the map.
    """

    @cached_property
    def terms(self) -> Tensor:
        """All recorded terms, float64 ``(n, ...)``."""
        assert self.recorded is not None
        if len(self.recorded) != self.reference.evaluations:
            counts = f"{self.reference.evaluations} terms, got {len(self.recorded)}"
            raise LitVizError(f"not checked, since the record of a map must have {counts}")
        return self.recorded.double()

    @cached_property
    def numbers(self) -> Tensor:
        """Numbers of the recomputed terms, ascending: terms that all others depend on, and random ones."""
        count, ends = len(self.terms), self.reference.counterpart.ends
        generator = generator_for(Key(self.reference.seed, 0), "recomputed terms")
        others = ends + torch.randperm(max(count - ends, 0), generator=generator)
        return torch.cat([torch.arange(min(ends, count)), others])[: self.recomputed].sort().values

    @property
    def values(self) -> Tensor:
        return self.terms[self.numbers]

    @abstractmethod
    def sum_difference(self, values: Tensor) -> float:
        """Return the difference of a map ``(C, H, W)`` from the one that follows from the recorded terms."""

    def gates(self, expected: Tensor) -> dict[str, Any]:
        gate = sum_gate(self.sum_difference(self.delivered))
        return {"sum": gate, "terms": len(self.terms), "recomputed": len(self.numbers)}

    def controls(self, expected: Tensor) -> dict[str, run_evidence.Similarity]:
        differences = {}
        for name, wrong in self.wrong_references(_in_float32(self.reference)).items():
            differences[name] = self.difference(self.compute(wrong, _CONTROL_TERMS), expected[:_CONTROL_TERMS])
        differences["random map"] = self.sum_difference(random_map(self.delivered))
        controls: dict[str, run_evidence.Similarity] = {}
        for name, value in differences.items():  # values that are no map have a difference only
            controls[name] = run_evidence.Similarity(difference=value, spearman=None, ssim=None, top_iou=None)
        return controls


class MeanOfImages(RecordedTerms):
    """The dot products of the map must be the weighted sum of the dot products of its terms."""

    name = run_evidence.MEAN_OF_IMAGES

    def compute(self, reference: CaptumReference, most: int | None = None) -> Tensor:
        """Return the dot products of the terms and, as last column, their Euclidean norm."""
        terms = reference.terms(self.numbers[:most])
        norms = torch.linalg.vector_norm(terms.flatten(1), dim=1, keepdim=True)
        return torch.cat([projections(terms), norms], 1).double()

    def difference(self, values: Tensor, expected: Tensor) -> float:
        """Return the estimated norm of the difference of a term, relative to the root mean square of the norms."""
        count = self.terms.shape[1]
        differences = _rms(values[:, :count] - expected[:, :count])
        return _relative(differences.max(), _rms(expected[:, -1]))

    def sum_difference(self, values: Tensor) -> float:
        weighted = self.reference.counterpart.weights(self.reference)[:, None] * self.terms
        differences = projections(values[None].double())[0] - weighted.sum(0)
        # The norm of a mean of independent terms, where they cancel each other.
        norm = torch.maximum(torch.linalg.vector_norm(values.double()), _rms(weighted.T).norm() * len(weighted) ** 0.5)
        return _relative(differences.abs().max(), norm)


class ScalarTerms(RecordedTerms):
    """The reference must compute the map from the recorded scores, with the masks drawn again."""

    name = run_evidence.SCALAR_TERMS

    @cached_property
    def _replayed(self) -> tuple[Tensor, Tensor]:
        """The map of the reference for the recorded scores, and the inputs ``(M, C, H, W)`` of the chosen ones."""
        order = self.reference.counterpart.order
        assert order is not None
        replay = Replay(self.terms, order(self.reference), self.numbers)
        map_ = replace(self.reference, replay=replay).compute()
        return map_, torch.stack([replay.inputs[number] for number in self.numbers.tolist()])

    def compute(self, reference: CaptumReference, most: int | None = None) -> Tensor:
        inputs = self._replayed[1][:most].to(reference.x)
        weights = reference.weights
        if weights.rounding_seed:
            inputs = add_rounding(inputs, weights.rounding_seed, weights.rounding_steps)
        with reference.computing(), torch.no_grad():
            return reference.scores(inputs).double().cpu()

    def difference(self, values: Tensor, expected: Tensor) -> float:
        """Return the largest difference of a score, relative to the range of all scores."""
        return _relative((values - expected).abs().max(), self.terms.max() - self.terms.min())

    def sum_difference(self, values: Tensor) -> float:
        return largest_difference(values[None], self._replayed[0])


def family_of(
    reference: CaptumReference,
    delivered: Tensor,
    recorded: Tensor | None = None,
    recomputed: int = RECOMPUTED,
    reducer: str | None = None,
) -> Family:
    """Return how a map is verified: by its terms if they were recorded and the reference computes them."""
    if reducer is not None:
        return ReducedMap(reference, delivered, reducer=reducer)
    if recorded is None:
        return WholeMap(reference, delivered)
    if reference.counterpart.terms is not None:
        return MeanOfImages(reference, delivered, recorded, recomputed)
    if reference.counterpart.order is not None:
        return ScalarTerms(reference, delivered, recorded, recomputed)
    return WholeMap(reference, delivered)


@dataclass(frozen=True)
class MapCheck:
    """A delivered map and its reference.

    Attributes:
        family: how the map is verified.
        expected: the values by the reference, float64.
        agreement: their comparison.
    """

    family: Family
    expected: Tensor
    agreement: run_evidence.MapAgreement

    @property
    def map(self) -> Tensor | None:
        """The reference's float64 map ``(C, H, W)``, if the whole map was compared."""
        return self.expected[0] if isinstance(self.family, WholeMap) else None

    def with_formula(self) -> MapCheck:
        """Return the check with the comparison of the formulas in float64, if the whole map was compared."""
        gate = self.family.formula(self.expected)
        passed = self.agreement.passed and (gate is None or gate.passed)
        return replace(self, agreement=self.agreement.amend(formula=gate, passed=passed))

    def with_controls(self) -> MapCheck:
        """Return the check with the comparison of control maps."""
        return replace(self, agreement=self.agreement.amend(controls=self.family.controls(self.expected)))


def check_map(
    reference: CaptumReference,
    delivered: Tensor,
    record: SaliencyRecord,
    recorded: Tensor | None = None,
    recomputed: int = RECOMPUTED,
) -> MapCheck:
    """Compare a delivered map with its reference: elementwise, or by the terms that the run recorded.

    The reference is in float64. The allowed difference is twice that of the reference in float32.

    Args:
        reference: with the photograph as the network's input, in float64, and a method that is bound to the network
            and has a counterpart (:func:`~lit_viz.evidence.saliency.captum_reference.counterpart_of`).
        delivered: the map, float32 ``(C, H, W)`` or ``(1, H, W)``.
        record: of the map.
        recorded: the recorded terms; None compares the whole map.
        recomputed: largest number of terms that the reference computes again.

    Raises:
        LitVizError: the comparison is undecided, since float32 maps of the reference differ too much, or impossible.
    """
    if reference.network.any_fast().draws:
        raise LitVizError("not checked, since the network draws random numbers and no two of its maps are equal")
    exact = replace(reference, x=reference.x.to(reference.network.device))
    reducer = record.reducer if is_reduced(record) else None  # of a map that was stored in float16
    family = family_of(exact, delivered, recorded, recomputed, reducer)
    expected = family.compute(exact)
    single = _in_float32(exact)
    difference = family.difference(family.values, expected)
    error = family.difference(family.compute(single), expected)
    gate = delivered_gate(difference, error, family.stored)
    for rounded in _rounded_references(single, difference):
        if gate.passed:
            break
        error = max(error, family.difference(family.compute(rounded), expected))
        gate = delivered_gate(difference, error, family.stored)
    # Float32 does not distinguish the map from a wrong one if Captum's own maps differ as much.
    if MAX_ALLOWED < difference < math.inf and gate.allowed == MAX_ALLOWED:
        raise LitVizError(
            f"not decided, since {exact.counterpart.source}'s own float32 maps differ by {error:.0%} "
            "(flat areas, kinks)"
        )
    gates = family.gates(expected)
    passed = gate.passed and ("sum" not in gates or gates["sum"].passed)
    agreement = run_evidence.MapAgreement.of(
        record,
        passed=passed,
        family=family.name,
        reference=exact.counterpart.source,
        delivered=gate,
        controls={},
        **gates,
    )
    return MapCheck(family, expected, agreement)


def measure_mask(reference: CaptumReference, mask: Tensor) -> dict[str, float]:
    """Return area and score of an optimized mask ``(1, H, W)``, and the score of the photograph, by the original
    network: the values of :class:`~lit_viz.runs.evidence.MaskEvidence`."""
    assert isinstance(reference.method, ExtremalPerturbation)
    exact = replace(reference, x=reference.x.to(reference.network.device))
    inputs = torch.cat([reference.method.masked(exact.x, mask[None].to(exact.x)), exact.x])
    with exact.computing(), torch.no_grad():
        score, score_of_photograph = exact.scores(inputs).tolist()
    return {"area": float(mask.double().mean()), "score": score, "score_of_photograph": score_of_photograph}


def _in_float32(reference: CaptumReference) -> CaptumReference:
    return replace(reference, x=reference.x.float())


def _rounded_references(single: CaptumReference, delivered: float) -> Iterator[CaptumReference]:
    """Yield references with rounding errors added; larger ones only for a map that may be allowed at all."""
    for seed in range(1, 1 + _ROUNDED_MAPS):
        yield single.with_rounding(seed)
    if delivered < MAX_ALLOWED:
        for seed in range(1 + _ROUNDED_MAPS, 1 + _ROUNDED_MAPS + _MORE_ROUNDED_MAPS):
            yield single.with_rounding(seed, _MORE_ROUNDING_STEPS)


def _rms(values: Tensor) -> Tensor:
    """Return the root mean square over the last dimension."""
    return values.square().mean(-1).sqrt()


def _relative(amount: Tensor, scale: Tensor) -> float:
    """Return the quotient; 0 / 0 is 0, and values that are not finite are infinite."""
    if amount == 0:
        return 0.0
    if not bool(amount.isfinite()) or scale <= 0:
        return math.inf
    return float(amount / scale)


def _with_noisy_baseline(method: Attribution, noise: Tensor) -> Attribution:
    """Return the method with noise ``(1, C, H, W)`` added to its baseline, if it has one."""
    baseline, noisy = method.baseline, copy.copy(method)
    if not isinstance(baseline, Baseline):
        return method
    setattr(noisy, "baseline", lambda x, seeds: baseline(x, seeds) + noise)  # noqa: B010 - of several types
    return noisy


def _formula_difference(reference: CaptumReference, expected: Tensor | None) -> float:
    """Return the difference of lit_viz's formula from ``expected``, or from the reference's map if that is None."""
    if expected is None:
        expected = reference.compute()
    with torch.no_grad():
        values = formula_of(reference).cpu()
    return largest_difference(values, expected)
