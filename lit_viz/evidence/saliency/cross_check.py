"""Comparison of the saliency maps of a run with their references, within a time limit."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata

from torch import Tensor

from lit_viz.attributions import Attribution, ExtremalPerturbation
from lit_viz.attributions.reducers import reduce_channels
from lit_viz.classifiers import Classifier
from lit_viz.classifiers.isolation import torch_warnings_ignored
from lit_viz.errors import LitVizError, first_line
from lit_viz.evidence.saliency.agreement import FORMULA_TOLERANCE, Agreement
from lit_viz.evidence.saliency.captum_reference import (
    CaptumReference,
    NetworkCopies,
    counterpart_of,
    has_reference,
    reference_of,
)
from lit_viz.evidence.saliency.families import RECOMPUTED, MapCheck, check_map, measure_mask
from lit_viz.images.rendering import clip_limits, heat
from lit_viz.methods.records import SaliencyRecord
from lit_viz.runs import evidence as run_evidence
from lit_viz.runs.evidence import NOT_CHECKED, NOT_IN_CAPTUM
from lit_viz.runs.results import Outcome, records_of
from lit_viz.utils.formatting import Notify, text_table
from lit_viz.utils.limits import MOST_ROWS

_RELATIVE_COST = 20  # estimated duration of a comparison of a whole map, relative to that of the map
_FIRST_LIMIT = 4  # factor of the time limit for the first map
_SHARE_OF_MAPS = 2 / 3  # share of the time limit for the maps; the rest is for formulas and controls
_COST_OF_CONTROLS = 1  # estimated duration of formula and controls, relative to that of the comparison
_PICTURE_TOLERANCE = 4 / 255
_NOTICE_SECONDS = 10.0  # before the remaining time is reported


@dataclass(frozen=True)
class CrossCheck:
    """Comparison of the maps of a run.

    Attributes:
        agreements: comparison by task index, with the float64 map of the reference if the figure may show it.
        unchecked: reason by task index of the maps without a comparison.
        damaged: reason by task index of the maps whose files do not belong to their record; they fail.
        half: half precision of the network that computed the maps, if any.
        masks: area and scores by task index of optimized masks, which are not compared.
    """

    agreements: Mapping[int, tuple[Agreement, Tensor | None]]
    unchecked: Mapping[int, str]
    damaged: Mapping[int, str] = field(default_factory=dict)
    half: str | None = None
    masks: Mapping[int, Mapping[str, float]] = field(default_factory=dict)

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
        row = {"method": name, "Captum": "-", "compared": ""}
        counterpart = counterpart_of(method)
        if counterpart is not None:
            row["Captum"] = counterpart.name
        found = [self.agreements[index][0] for index in indices if index in self.agreements]
        if not found:
            row["compared"] = self._first_reason(indices)
            return row
        closest = max(found, key=lambda agreement: agreement.delivered / agreement.allowed)
        passed = sum(agreement.passed for agreement in found)
        formula = max(agreement.formula or 0.0 for agreement in found)
        rounding = max(agreement.rounding for agreement in found)
        row["compared"] = reference_of(method).compared
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
        maps, unchecked, damaged, masks = [], [], [], []
        for index, (agreement, _) in self.agreements.items():
            maps.append(agreement.evidence(records[index]))
        for index, reason in self.unchecked.items():
            unchecked.append(run_evidence.UncheckedMap.of(records[index], unchecked=reason))
        for index, reason in self.damaged.items():
            damaged.append(run_evidence.UncheckedMap.of(records[index], damaged=reason))
        for index, values in self.masks.items():
            masks.append(run_evidence.MaskEvidence.of(records[index], **values))
        return run_evidence.CaptumEvidence(
            version=metadata.version("captum"),
            passed=self.passed,
            precision=self.half,
            maps=maps,
            unchecked=unchecked,
            damaged=damaged or None,
            masks=masks or None,
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
    """Compare the maps of a run with their references: Captum, or the original network where Captum has no method.

    Maps that must not agree are compared for the first map of each method. With a time limit, maps of many evaluations
    are verified by the terms that the run recorded: by 8 of each map, or as many as the time allows for all maps. Of
    the first map of each method, formulas and maps that must not agree are compared in the time that is left. Without a
    limit, all maps are compared as a whole, with their formulas.

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
    comparisons = _Comparisons(methods, classifier)
    queue = _order(outcomes)
    if seconds is None:
        comparisons.compare_whole(queue, notify)
    else:
        comparisons.compare_within(queue, seconds, is_strict)
    return CrossCheck(
        comparisons.agreements, comparisons.unchecked, comparisons.damaged, half=half, masks=comparisons.masks
    )


_Entry = tuple[Outcome, SaliencyRecord]


class _Comparisons:
    """The comparisons of some maps; the attributes are those of :class:`CrossCheck`."""

    def __init__(self, methods: Mapping[str, Attribution], classifier: Classifier) -> None:
        self.agreements: dict[int, tuple[Agreement, Tensor | None]] = {}
        self.unchecked: dict[int, str] = {}
        self.damaged: dict[int, str] = {}
        self.masks: dict[int, Mapping[str, float]] = {}
        self._methods, self._classifier = methods, classifier
        self._copies: NetworkCopies = {}
        self._kept: Counter[bool] = Counter()

    def compare_whole(self, queue: Sequence[_Entry], notify: Notify) -> None:
        """Compare the files with their records and all maps as a whole, and report a long remaining time once."""
        compared: set[str] = set()
        total = sum(record.iterations or 0 for _, record in queue if has_reference(self._methods[record.method]))
        start, evaluations, notified = time.monotonic(), 0, False
        for outcome, record in queue:
            damage = _damage(outcome, record)
            if damage is not None:
                self.damaged[record.index] = damage
                continue
            if not has_reference(self._methods[record.method]):
                self.unchecked[record.index] = NOT_IN_CAPTUM
                self._measure_mask(outcome, record)
                continue
            with self._reasons(record.index):
                check = self._check(outcome, record).with_formula()
                if record.method not in compared:
                    check = check.with_controls()
                self._add(record.index, check)
                compared.add(record.method)
            evaluations += record.iterations or 0
            elapsed = time.monotonic() - start
            remaining = elapsed * (total / max(1, evaluations) - 1)
            if not notified and min(elapsed, remaining) > _NOTICE_SECONDS:
                notified = True
                notify(f"evidence: the comparison with Captum takes about {remaining / 60:.1f} more minutes")

    def compare_within(self, queue: Sequence[_Entry], seconds: float, is_strict: bool) -> None:
        """Compare as many maps as possible in the time, then formulas and controls of the first one of each method."""
        start = time.monotonic()
        left, durations = _Remaining(), _Durations()
        firsts: dict[str, _First] = {}
        for _, record in queue:
            left.add(record, self._methods[record.method])
        for outcome, record in queue:
            method = self._methods[record.method]
            elapsed = time.monotonic() - start
            if not has_reference(method):
                self.unchecked[record.index] = NOT_IN_CAPTUM
                if elapsed < seconds:
                    self._measure_mask(outcome, record)
                continue
            recorded = outcome.terms() if record.method in left.by_terms else None
            terms = durations.terms_for_each(left, _SHARE_OF_MAPS * seconds - elapsed)
            terms = max(terms, reference_of(method).fewest)
            left.remove(record)
            cost = record.iterations or 0
            if recorded is not None:
                cost = min(cost, terms)
            limit = seconds
            if durations.is_empty and not is_strict:
                limit *= _FIRST_LIMIT
            if elapsed + durations.expected(record, cost) > limit:
                self.unchecked[record.index] = NOT_CHECKED
                continue
            with self._reasons(record.index):
                check = self._check(outcome, record, recorded, terms)
                self._add(record.index, check)
                duration = time.monotonic() - start - elapsed
                durations.add(record, cost, duration)
                firsts.setdefault(record.method, _First(record.index, check, duration))
        self._add_controls(firsts.values(), start + seconds)

    def _add_controls(self, firsts: Iterable[_First], end: float) -> None:
        """Compare formulas and controls of these maps, as far as the time suffices."""
        for first in firsts:
            if time.monotonic() + _COST_OF_CONTROLS * first.seconds > end:
                continue
            with self._reasons(first.index):
                check = first.check.with_formula().with_controls()
                self.agreements[first.index] = check.agreement, self.agreements[first.index][1]

    def _check(
        self, outcome: Outcome, record: SaliencyRecord, recorded: Tensor | None = None, terms: int = RECOMPUTED
    ) -> MapCheck:
        reference, delivered = self._reference(outcome, record)
        return check_map(reference, delivered, recorded, recomputed=terms)

    def _add(self, index: int, check: MapCheck) -> None:
        passed = check.agreement.passed
        self._kept[passed] += 1
        is_drawn = self._kept[passed] <= MOST_ROWS  # of passed and of failed maps
        self.agreements[index] = check.agreement, check.map if is_drawn else None

    def _measure_mask(self, outcome: Outcome, record: SaliencyRecord) -> None:
        if isinstance(self._methods[record.method], ExtremalPerturbation):
            self.masks[record.index] = measure_mask(*self._reference(outcome, record))

    def _reference(self, outcome: Outcome, record: SaliencyRecord) -> tuple[CaptumReference, Tensor]:
        """Return the reference of a map, and the map."""
        photograph, delivered = outcome.source(), outcome.array()
        assert photograph is not None
        assert delivered is not None
        assert record.target is not None
        assert record.seed is not None
        reference = CaptumReference(
            self._methods[record.method],
            self._classifier,
            photograph[None].double(),
            record.target,
            record.seed,
            record.iterations or 0,
            record.against,
            copies=self._copies,
        )
        return reference, delivered

    @contextmanager
    def _reasons(self, index: int) -> Iterator[None]:
        """If the block raises an exception, record the reason why the map is not checked, in place of an agreement."""
        try:
            with torch_warnings_ignored():
                yield
        except LitVizError as error:
            self._exclude(index, str(error))
        except Exception as error:  # raised by the network's own code in float64 or under Captum's hooks
            self._copies.clear()  # hooks may be left on them
            self._exclude(index, f"not checked, since Captum fails on this network ({first_line(error)})")

    def _exclude(self, index: int, reason: str) -> None:
        self.agreements.pop(index, None)
        self.unchecked[index] = reason


@dataclass(frozen=True)
class _First:
    """The first comparison of a method, and its duration."""

    index: int
    check: MapCheck
    seconds: float


class _Remaining:
    """The maps that are not verified yet.

    Attributes:
        whole: evaluations of the maps that are compared as a whole, by method.
        by_terms: number of the maps that are verified by their terms, by method.
    """

    def __init__(self) -> None:
        self.whole: Counter[str] = Counter()
        self.by_terms: Counter[str] = Counter()

    def add(self, record: SaliencyRecord, method: Attribution) -> None:
        if not has_reference(method):
            return
        if method.recorded is not None and reference_of(method).has_terms:
            self.by_terms[record.method] += 1
        else:
            self.whole[record.method] += record.iterations or 0

    def remove(self, record: SaliencyRecord) -> None:
        if record.method in self.by_terms:
            self.by_terms[record.method] -= 1
        else:
            self.whole[record.method] -= record.iterations or 0


@dataclass
class _Durations:
    """Seconds per recomputed evaluation of the last comparison of each method; the first one of a method copies
    networks."""

    of_method: dict[str, float] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not self.of_method

    def add(self, record: SaliencyRecord, cost: int, seconds: float) -> None:
        self.of_method[record.method] = seconds / max(1, cost)

    def rate(self, method: str) -> float:
        """Return the expected seconds per evaluation of a method: of a new one, those of the fastest one."""
        return self.of_method.get(method, min(self.of_method.values()))

    def expected(self, record: SaliencyRecord, cost: int) -> float:
        """Return the expected seconds of a comparison of ``cost`` evaluations."""
        if self.is_empty:
            return _RELATIVE_COST * (record.seconds or 0.0) * cost / max(1, record.iterations or 0)
        return self.rate(record.method) * cost

    def terms_for_each(self, left: _Remaining, seconds: float) -> int:
        """Return the number of terms to recompute of a map, so that all remaining maps are verified in time."""
        if self.is_empty:
            return RECOMPUTED
        for method, evaluations in left.whole.items():
            seconds -= self.rate(method) * evaluations
        of_a_term = sum(self.rate(method) * count for method, count in left.by_terms.items())
        if seconds >= RECOMPUTED * of_a_term:
            return RECOMPUTED
        return max(1, int(seconds / of_a_term))


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
