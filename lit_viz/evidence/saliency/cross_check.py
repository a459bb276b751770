"""Agreement of saliency maps with Captum: two gates per map, and negative controls."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import metadata

import torch
from torch import Tensor

from lit_viz.attributions import Attribution, attribute
from lit_viz.attributions.reducers import reduce_channels
from lit_viz.classifiers import Classifier, FrozenNetwork
from lit_viz.classifiers.isolation import torch_warnings_ignored
from lit_viz.classifiers.loading import load
from lit_viz.errors import LitVizError, first_line
from lit_viz.evidence.saliency.captum_reference import CaptumReference, NetworkCopies, counterpart_of
from lit_viz.evidence.saliency.metrics import random_map, randomize_layer
from lit_viz.images.rendering import clip_limits, heat, rank_correlation, ssim
from lit_viz.methods.records import SaliencyRecord
from lit_viz.optim.evaluation import Network
from lit_viz.runs import evidence as run_evidence
from lit_viz.runs.evidence import NOT_CHECKED, NOT_IN_CAPTUM
from lit_viz.runs.results import Outcome, records_of
from lit_viz.utils.formatting import Notify, text_table
from lit_viz.utils.limits import MOST_ROWS

#: Gate of the formula in float64: largest difference, relative to the map's maximum.
FORMULA_TOLERANCE = 1e-8
#: Gate of the delivered float32 map: multiple of the error of Captum's own float32 maps, and an additional tolerance.
DELIVERED_FACTOR, DELIVERED_SLACK = 2.0, 1e-6
#: Upper limit of the second gate. A larger tolerance would pass maps of another class or of a randomized network.
MAX_ALLOWED = 0.2
_TOP = 0.1  # share of the pixels that count as the most salient
_FORMULA_EVALUATIONS = 16  # the formula does not depend on their number, and float64 is slow
_CONTROL_EVALUATIONS = 8
# Captum's float32 maps with rounding errors added to photograph and weights, computed until one allows the delivered
# map. The later ones have larger errors: a kink of a ReLU may affect one map in ten.
_ROUNDED_MAPS, _MORE_ROUNDED_MAPS, _MORE_ROUNDING_STEPS = 2, 8, 16
_TIE_NOISE = 1e-3  # separates equal neighbors, between which a max-pooling chooses by rounding even in float64
_RELATIVE_COST = 20  # estimated duration of a comparison, relative to that of the map
_FIRST_LIMIT = 4  # factor of the time limit for the first map
_PICTURE_TOLERANCE = 4 / 255
_NOTICE_SECONDS = 10.0  # before the remaining time is reported


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
    """Comparison of one map with Captum. Differences are relative to the maximum of Captum's float64 map.

    Attributes:
        formula: difference of lit_viz's formula from Captum's, both in float64.
        delivered: difference of the delivered float32 map.
        captum_float32: largest difference of Captum's own float32 maps.
        similarity: of the delivered map.
        controls: similarity of maps that must not agree, by name.
        rounding: error of Captum's own formula in float64.
    """

    formula: float
    delivered: float
    captum_float32: float
    similarity: run_evidence.Similarity
    controls: Mapping[str, run_evidence.Similarity] = field(default_factory=dict)
    rounding: float = 0.0

    @property
    def formula_passed(self) -> bool:
        """Whether the formulas are equal."""
        return self.formula <= FORMULA_TOLERANCE + self.rounding

    @property
    def allowed(self) -> float:
        """Largest allowed difference of the delivered map.

        It is no constant, since at the kinks of a ReLU the last bit decides whether a pixel's gradient passes.
        """
        return min(DELIVERED_FACTOR * self.captum_float32 + DELIVERED_SLACK, MAX_ALLOWED)

    @property
    def delivered_passed(self) -> bool:
        """Whether the delivered map is as accurate as Captum's own float32 maps."""
        return self.delivered <= self.allowed

    @property
    def decided(self) -> bool:
        """Whether float32 distinguishes the map from a wrong one; not if Captum's own maps differ as much."""
        return self.delivered == math.inf or self.delivered <= MAX_ALLOWED or self.allowed < MAX_ALLOWED

    @property
    def passed(self) -> bool:
        """Whether both gates are passed."""
        return self.formula_passed and self.delivered_passed

    def evidence(self, record: SaliencyRecord) -> run_evidence.MapAgreement:
        """Return the comparison as in ``evidence.json``."""
        return run_evidence.MapAgreement.of(
            record,
            passed=self.passed,
            formula=run_evidence.FormulaGate(difference=self.formula, passed=self.formula_passed),
            delivered=run_evidence.DeliveredGate(
                difference=self.delivered,
                allowed=self.allowed,
                captum_float32=self.captum_float32,
                passed=self.delivered_passed,
            ),
            similarity=self.similarity,
            controls=self.controls,
        )


def check_map(
    reference: CaptumReference, delivered: Tensor, randomized: Callable[[], Classifier] | None
) -> tuple[Agreement, Tensor]:
    """Compare a delivered map with Captum elementwise.

    The first gate compares the formulas in float64 on the original network. If they differ, the comparison is
    repeated on photograph and baseline with a little noise, since equal neighbors tie in a max-pooling. The second gate
    compares the delivered map with Captum's float64 map; it allows twice the difference of Captum's float32 maps.

    Args:
        reference: with the photograph as the network sees it, in float64, and a method that is bound to the classifier
            and in Captum (see :func:`counterpart_of`).
        delivered: the map, float32 ``(C, H, W)`` or ``(1, H, W)``.
        randomized: returns the classifier with randomized weights for a control (see :func:`randomize`); None for a
            comparison without controls.

    Returns:
        the comparison and Captum's float64 map.

    Raises:
        LitVizError: the comparison is undecided, since Captum's own float32 maps differ too much, or impossible.
    """
    if reference.classifier.fast().draws:
        raise LitVizError("not checked, since the network draws random numbers and no two of its maps are equal")
    exact = replace(reference, x=reference.x.to(reference.classifier.device))
    expected = exact.compute()
    single = replace(exact, x=exact.x.float())
    few = exact.with_evaluations(_FORMULA_EVALUATIONS)
    networks = _float64_networks(few)
    known = expected if few.evaluations == exact.evaluations else None
    controls: Mapping[str, run_evidence.Similarity] = {}
    if randomized is not None:
        controls = _controls(exact, expected[0], randomized)
    agreement = Agreement(
        formula=_formula_difference(few, networks, known),
        delivered=largest_difference(delivered[None], expected),
        captum_float32=largest_difference(single.compute(), expected),
        similarity=similarity_of(delivered, expected[0]),
        controls=controls,
        rounding=few.formula_rounding,
    )
    if not agreement.formula_passed:
        noise = torch.rand(few.x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(few.x)
        x = (few.x + _TIE_NOISE * (noise - 0.5)).clamp(0, 1)
        untied = replace(few, x=x, method=_with_noisy_baseline(few.method, _TIE_NOISE * noise.flip(-1)))
        agreement = replace(agreement, formula=_formula_difference(untied, networks, None))
    for rounded in _rounded_references(single, agreement.delivered):
        if agreement.delivered_passed:
            break
        error = largest_difference(rounded.compute(), expected)
        agreement = replace(agreement, captum_float32=max(agreement.captum_float32, error))
    if not agreement.decided:
        raise LitVizError(
            f"not decided, since Captum's own float32 maps differ by {agreement.captum_float32:.0%} (flat areas, kinks)"
        )
    return agreement, expected[0]


def _rounded_references(single: CaptumReference, delivered: float) -> Iterator[CaptumReference]:
    """Yield references with rounding errors added; larger ones only for a map that may be allowed at all."""
    for seed in range(1, 1 + _ROUNDED_MAPS):
        yield single.with_rounding(seed)
    if delivered < MAX_ALLOWED:
        for seed in range(1 + _ROUNDED_MAPS, 1 + _ROUNDED_MAPS + _MORE_ROUNDED_MAPS):
            yield single.with_rounding(seed, _MORE_ROUNDING_STEPS)


def _with_noisy_baseline(method: Attribution, noise: Tensor) -> Attribution:
    """Return the method with noise ``(1, C, H, W)`` added to its baseline, if it has one."""
    if not hasattr(method, "baseline"):
        return method
    baseline, noisy = method.baseline, copy.copy(method)
    setattr(noisy, "baseline", lambda x, seeds: baseline(x, seeds) + noise)  # noqa: B010 - of several types
    return noisy


def _formula_difference(reference: CaptumReference, networks: Mapping[str, Network], expected: Tensor | None) -> float:
    """Return the difference of lit_viz's formula from ``expected``, or from Captum's map if that is None."""
    r = reference
    against = None if r.against is None else [r.against]
    values, _ = attribute(
        r.method, networks, r.x, [r.target], evaluations=r.evaluations, seeds=[r.seed], against=against
    )
    return largest_difference(values.cpu(), r.compute() if expected is None else expected)


def _float64_networks(reference: CaptumReference) -> Mapping[str, Network]:
    """Return the fast copies in float64; Captum's copy replaces one that exists in float32 only."""
    method, classifier = reference.method, reference.classifier
    copies: dict[str, Network] = {
        name: classifier.fast(method.layers, dtype=torch.float64, backprop=name) for name in method.networks
    }
    plain = copies.get("plain")
    if not isinstance(plain, FrozenNetwork) or plain.scale.dtype == torch.float64 or method.layers:
        return copies
    return {**copies, "plain": lambda x, layers=(): (reference.network(x), {})}


def _controls(
    reference: CaptumReference, expected: Tensor, randomized: Callable[[], Classifier]
) -> dict[str, run_evidence.Similarity]:
    """Return the similarity of maps that must not agree: of another class, of a randomized network, and noise."""
    classes = reference.classifier.num_classes
    cheap = replace(reference, x=reference.x.float()).with_evaluations(_CONTROL_EVALUATIONS)
    maps = {}
    if classes > 1:
        maps["another class"] = replace(cheap, target=(reference.target + classes // 2) % classes).compute()
    maps |= {
        "randomized network": replace(cheap, classifier=randomized()).compute(),
        "random map": random_map(expected[None]),
    }
    return {name: similarity_of(values[0], expected) for name, values in maps.items()}


def randomize(classifier: Classifier) -> Classifier:
    """Return the classifier with random weights of the same mean and standard deviation per parameter."""
    network = copy.deepcopy(classifier.original)
    for name, layer in network.named_modules():
        randomize_layer(layer, name, seed=0)
    return load(
        network,
        labels=list(classifier.labels),
        mean=list(classifier.mean),
        std=list(classifier.std),
        size=classifier.size,
        multi_label=classifier.multi_label,
        output=classifier.output,
    )


@dataclass(frozen=True)
class CrossCheck:
    """Comparison of the maps of a run.

    Attributes:
        agreements: comparison by task index, with Captum's float64 map if the figure may show it.
        unchecked: reason by task index of the maps without a comparison.
        damaged: reason by task index of the maps whose files do not belong to their record; they fail.
        half: half precision of the network that computed the maps, if any.
    """

    agreements: Mapping[int, tuple[Agreement, Tensor | None]]
    unchecked: Mapping[int, str]
    damaged: Mapping[int, str] = field(default_factory=dict)
    half: str | None = None

    @property
    def passed(self) -> bool | None:
        """Whether no map is damaged and all compared maps agree; None if no map was compared."""
        if not self.agreements and not self.damaged:
            return None
        return not self.damaged and not self.failed

    @property
    def failed(self) -> int:
        """Number of compared maps that do not agree."""
        return sum(not agreement.passed for agreement, _ in self.agreements.values())

    def table(self, outcomes: Sequence[Outcome], methods: Mapping[str, Attribution]) -> str:
        """Return a table with a row per method: its counterpart in Captum, what is compared, and the largest errors.

        ``delivered`` and ``allowed`` are those of the map that is closest to failing the second gate.
        """
        indices: dict[str, list[int]] = defaultdict(list)
        for record in records_of(outcomes, SaliencyRecord):
            indices[record.method].append(record.index)
        return text_table([self._row(name, methods[name], of_method) for name, of_method in indices.items()], words=3)

    def _row(self, name: str, method: Attribution, indices: Sequence[int]) -> dict[str, str]:
        counterpart = counterpart_of(method)
        row = {"method": name, "Captum": "-", "compared": ""}
        if counterpart is not None:
            row["Captum"] = counterpart.name
        found = [self.agreements[index][0] for index in indices if index in self.agreements]
        if counterpart is None or not found:
            row["compared"] = self._first_reason(indices)
            return row
        closest = max(found, key=lambda agreement: agreement.delivered / agreement.allowed)
        passed = sum(agreement.passed for agreement in found)
        formula = max(agreement.formula for agreement in found)
        rounding = max(agreement.rounding for agreement in found)
        row["compared"] = counterpart.compared
        row["agree"] = f"{passed} of {len(indices)}"
        row["formula"] = f"{formula:.1e}"
        row["allowed "] = f"{FORMULA_TOLERANCE + rounding:.1e}"
        row["delivered"] = f"{closest.delivered:.1e}"
        row["allowed"] = f"{closest.allowed:.1e}"
        return row

    def _first_reason(self, indices: Sequence[int]) -> str:
        """Return the reason of the first of some maps that was not compared; empty without any."""
        for index in indices:
            reason = self.damaged.get(index) or self.unchecked.get(index)
            if reason:
                return reason
        return ""

    def evidence(self, outcomes: Sequence[Outcome]) -> run_evidence.CaptumEvidence:
        """Return the part ``captum`` of ``evidence.json``."""
        records = {record.index: record for record in records_of(outcomes, SaliencyRecord)}
        maps, unchecked, damaged = [], [], []
        for index, (agreement, _) in self.agreements.items():
            maps.append(agreement.evidence(records[index]))
        for index, reason in self.unchecked.items():
            unchecked.append(run_evidence.UncheckedMap.of(records[index], unchecked=reason))
        for index, reason in self.damaged.items():
            damaged.append(run_evidence.UncheckedMap.of(records[index], damaged=reason))
        return run_evidence.CaptumEvidence(
            version=metadata.version("captum"),
            passed=self.passed,
            precision=self.half,
            maps=maps,
            unchecked=unchecked,
            damaged=damaged or None,
        )


def cross_check(
    outcomes: Sequence[Outcome],
    methods: Mapping[str, Attribution],
    classifier: Classifier,
    *,
    seconds: float | None = None,
    is_strict: bool = False,
    half: str | None = None,
    notify: Notify = lambda _: None,
) -> CrossCheck:
    """Compare the maps of a run with Captum.

    Args:
        outcomes: of the run.
        methods: by name, bound to the classifier.
        classifier: the network.
        seconds: time limit at the end of a run. Maps whose estimated duration exceeds it are not checked. If None,
            there is no limit, and the files are compared with their records.
        is_strict: whether the limit also holds for the first map, which otherwise may take four times as long.
        half: half precision of the network that computed the maps, if any.
        notify: receives the estimated remaining time once, if that is long.
    """
    agreements: dict[int, tuple[Agreement, Tensor | None]] = {}
    unchecked: dict[int, str] = {}
    damaged: dict[int, str] = {}
    kept: Counter[bool] = Counter()
    randomized = cache(lambda: randomize(classifier))
    copies: NetworkCopies = {}
    controlled: set[str] = set()  # methods whose controls were computed
    queue = _order(outcomes)
    total = 0
    for _, record in queue:
        if counterpart_of(methods[record.method]) is not None:
            total += record.iterations or 0
    start, evaluations, notified = time.monotonic(), 0, False
    durations = _Durations()
    for outcome, record in queue:
        index, method, count = record.index, methods[record.method], record.iterations or 0
        if seconds is None and (damage := _damage(outcome, record)):
            damaged[index] = damage
            continue
        if counterpart_of(method) is None:
            unchecked[index] = NOT_IN_CAPTUM
            continue
        elapsed = time.monotonic() - start
        expected = durations.expected(record)
        if seconds is not None:
            is_first = not evaluations and not is_strict
            limit = seconds * _FIRST_LIMIT if is_first else seconds
            if elapsed + expected > limit:
                unchecked[index] = NOT_CHECKED
                continue
        photograph, delivered = outcome.source(), outcome.array()
        assert photograph is not None
        assert delivered is not None
        assert record.target is not None
        assert record.seed is not None
        try:
            with torch_warnings_ignored():
                x = photograph[None].double()
                task = CaptumReference(
                    method, classifier, x, record.target, record.seed, count, record.against, copies=copies
                )
                is_controlled = record.method in controlled
                agreement, reference = check_map(task, delivered, None if is_controlled else randomized)
        except LitVizError as error:
            unchecked[index] = str(error)
            continue
        except Exception as error:  # raised by the network's own code in float64 or under Captum's hooks
            copies.clear()  # hooks may be left on them
            unchecked[index] = f"not checked, since Captum fails on this network ({first_line(error)})"
            continue
        durations.add(record, time.monotonic() - start - elapsed)
        controlled.add(record.method)
        kept[agreement.passed] += 1
        is_drawn = kept[agreement.passed] <= MOST_ROWS  # of passed and of failed maps
        agreements[index] = agreement, reference if is_drawn else None
        evaluations += count
        elapsed = time.monotonic() - start
        remaining = elapsed * (total / max(1, evaluations) - 1)
        if seconds is None and not notified and min(elapsed, remaining) > _NOTICE_SECONDS:
            notified = True
            notify(f"evidence: the comparison with Captum takes about {remaining / 60:.1f} more minutes")
    return CrossCheck(agreements, unchecked, damaged, half)


@dataclass
class _Durations:
    """Seconds per evaluation of the last comparison of each method; the first one of a method copies networks."""

    of_method: dict[str, float] = field(default_factory=dict)

    def add(self, record: SaliencyRecord, seconds: float) -> None:
        self.of_method[record.method] = seconds / max(1, record.iterations or 0)

    def expected(self, record: SaliencyRecord) -> float:
        """Return the expected seconds of a comparison; of a new method at the rate of the fastest one."""
        if not self.of_method:
            return _RELATIVE_COST * (record.seconds or 0.0)
        rate = self.of_method.get(record.method, min(self.of_method.values()))
        return rate * (record.iterations or 0)


def _damage(outcome: Outcome, record: SaliencyRecord) -> str | None:
    """Return why the files of a map do not belong to its record; None if they do."""
    files: list[Tensor] = []
    readers = {
        record.array or "array": outcome.array,
        "photograph": outcome.source,
        record.file or "image": outcome.image,
    }
    for name, read in readers.items():
        try:
            values = read()
        except Exception as error:  # of NumPy and PIL, by the kind of the damage
            return f"{record.name}: {name} can't be read: {first_line(error)}"
        if values is None:
            return f"{record.name}: {name} is missing"
        files.append(values)
    map_, photograph, picture = files
    maximum = record.maximum
    has_maximum = maximum is not None and math.isclose(float(map_.abs().max()), maximum, rel_tol=1e-6)
    if map_.shape[-2:] != photograph.shape[-2:] or not has_maximum:
        return f"{record.name}: {record.array} is not the map of the record, whose maximum is {maximum}"
    reduced = reduce_channels(map_, record.reducer)[0]
    drawn = heat(reduced, clip_limits([reduced])[0])
    if picture.shape != drawn.shape or float((picture - drawn).abs().max()) > _PICTURE_TOLERANCE:
        return f"{record.name}: {record.file} is not the picture of its map"
    return None


def _order(outcomes: Sequence[Outcome]) -> list[tuple[Outcome, SaliencyRecord]]:
    """Return the finished maps: the first of each method before any second, those with few evaluations first."""
    places: dict[str, Iterator[int]] = defaultdict(itertools.count)
    maps = []
    for outcome in outcomes:
        record = outcome.record
        if isinstance(record, SaliencyRecord) and record.status == "done":
            maps.append((outcome, record))
    return sorted(maps, key=lambda entry: (next(places[entry[1].method]), entry[1].iterations or 0))
