"""Comparison of the saliency maps of a run with their references, within a time limit."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata

from torch import Tensor

from lit_viz.attributions import Attribution, ExtremalPerturbation
from lit_viz.errors import LitVizError, first_line
from lit_viz.evidence.saliency.agreement import FORMULA_TOLERANCE, Agreement
from lit_viz.evidence.saliency.captum_reference import CaptumReference, counterpart_of
from lit_viz.evidence.saliency.families import FEWER_RECOMPUTED, RECOMPUTED, MapCheck, check_map, measure_mask
from lit_viz.evidence.saliency.network_copies import NetworkCopies
from lit_viz.networks import Network
from lit_viz.networks.isolation import torch_warnings_ignored
from lit_viz.runs import evidence as run_evidence
from lit_viz.runs.evidence import NOT_CHECKED, NOT_IN_CAPTUM
from lit_viz.runs.records import SaliencyRecord
from lit_viz.runs.results import Outcome, records_of
from lit_viz.utils.formatting import Notify, ignore, text_table
from lit_viz.utils.limits import MOST_ROWS

_NOTICE_SECONDS = 30.0  # between the reports of how many maps are compared


@dataclass(frozen=True)
class CrossCheck:
    """Comparison of the maps of a run.

    Attributes:
        agreements: comparison by task index, with the float64 map of the reference if the figure may show it.
        unchecked: reason by task index of the maps without a comparison.
        half: half precision of the network that computed the maps, if any.
        masks: area and scores by task index of optimized masks, which are not compared.
    """

    agreements: dict[int, tuple[Agreement, Tensor | None]]
    unchecked: dict[int, str]
    half: str | None = None
    masks: dict[int, Mapping[str, float]] = field(default_factory=dict)

    @property
    def passed(self) -> bool | None:
        """Whether all compared maps have passed; None if no map was compared."""
        if not self.agreements:
            return None
        return all(agreement.passed for agreement, _ in self.agreements.values())

    def table(self, outcomes: Sequence[Outcome], methods: Mapping[str, Attribution]) -> str:
        """Return a table with a row per method: its counterpart in Captum, what is compared, and the largest errors.

        ``delivered`` and ``allowed`` are of the map that is closest to failing the second gate.
        """
        indices: dict[str, list[int]] = defaultdict(list)
        for record in records_of(outcomes, SaliencyRecord):
            indices[record.method].append(record.index)
        return text_table([self._row(name, methods[name], of_method) for name, of_method in indices.items()], words=3)

    def _row(self, name: str, method: Attribution, indices: Sequence[int]) -> dict[str, str]:
        row = {"method": name, "Captum": "-", "compared": self._first_reason(indices)}
        counterpart = counterpart_of(method)
        if counterpart is None:
            return row
        row["Captum"] = counterpart.name or "-"
        agreements = [self.agreements[index][0] for index in indices if index in self.agreements]
        if not agreements:
            return row
        closest = max(agreements, key=lambda agreement: agreement.delivered / agreement.allowed)
        passed = sum(agreement.passed for agreement in agreements)
        formula = max(agreement.formula or 0.0 for agreement in agreements)
        rounding = max(agreement.rounding for agreement in agreements)
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
            if index in self.unchecked:
                return self.unchecked[index]
        return ""

    def evidence(self, outcomes: Sequence[Outcome]) -> run_evidence.CaptumEvidence:
        """Return the part ``captum`` of ``evidence.json``."""
        records = {record.index: record for record in records_of(outcomes, SaliencyRecord)}
        maps, unchecked, masks = [], [], []
        for index, (agreement, _) in self.agreements.items():
            maps.append(agreement.evidence(records[index]))
        for index, reason in self.unchecked.items():
            unchecked.append(run_evidence.UncheckedMap.of(records[index], unchecked=reason))
        for index, values in self.masks.items():
            masks.append(run_evidence.MaskEvidence.of(records[index], **values))
        return run_evidence.CaptumEvidence(
            version=metadata.version("captum"),
            passed=self.passed,
            precision=self.half,
            maps=maps,
            unchecked=unchecked,
            masks=masks or None,
        )


def cross_check(
    outcomes: Sequence[Outcome],
    methods: Mapping[str, Attribution],
    network: Network,
    *,
    seconds: float | None = None,
    half: str | None = None,
    notify: Notify = ignore,
) -> CrossCheck:
    """Compare the maps of a run with their references: Captum, or the original network where Captum has no method.

    The first map of each method is compared first, together with control maps, which must differ.

    With a time limit, maps of many evaluations are verified by the terms that the run recorded. The first map of each
    method is compared even if the time is over, unless it has many evaluations and no terms. The others are compared
    until the time is over. Without a limit, all maps are compared as a whole, with their formulas.

    Args:
        outcomes: of the run.
        methods: by name, bound to the network.
        network: the network.
        seconds: time limit at the end of a run; None for no limit.
        half: half precision of the network that computed the maps, if any.
        notify: receives the number of compared maps every 30 seconds.
    """
    comparisons = _Comparisons(methods, network, CrossCheck({}, {}, half))
    comparisons.compare(_order(outcomes), seconds, notify)
    return comparisons.result


class _Comparisons:
    """The comparisons of some maps, which are added to ``result``."""

    def __init__(self, methods: Mapping[str, Attribution], network: Network, result: CrossCheck) -> None:
        self._methods, self._network, self.result = methods, network, result
        self._copies: NetworkCopies = {}
        self._kept: Counter[bool] = Counter()

    def compare(self, queue: Sequence[tuple[Outcome, SaliencyRecord]], seconds: float | None, notify: Notify) -> None:
        """Compare the first map of each method, and others until the time limit; see :func:`cross_check`."""
        start = notified = time.monotonic()
        end = math.inf if seconds is None else start + seconds
        tried: set[str] = set()  # methods
        complete: set[str] = set()  # methods of which a map was compared, with formula and controls
        for place, (outcome, record) in enumerate(queue):
            now = time.monotonic()
            if now - notified > _NOTICE_SECONDS:
                notified = now
                notify(f"evidence: {place} of {len(queue)} maps compared")
            is_first = record.method not in tried
            tried.add(record.method)
            is_due = is_first or now < end
            if counterpart_of(self._methods[record.method]) is None:
                self.result.unchecked[record.index] = NOT_IN_CAPTUM
                if is_due:
                    self._measure_mask(outcome, record)
                continue
            if not is_due:
                self.result.unchecked[record.index] = NOT_CHECKED
                continue
            recorded = None if seconds is None else outcome.terms()
            is_short = recorded is not None or (record.iterations or 0) <= RECOMPUTED
            deadline = math.inf if is_first and is_short else end
            with self._reasons(record.index, deadline):
                reference, delivered = self._reference(outcome, record, deadline)
                recomputed = RECOMPUTED if is_first else FEWER_RECOMPUTED
                reducer = None if record.scale is None else record.reducer
                check = check_map(reference, delivered, recorded, recomputed, reducer)
                if record.method not in complete or seconds is None:
                    check = check.with_formula()
                if record.method not in complete:
                    check = check.with_controls()
                complete.add(record.method)
                self._add(record.index, check)

    def _add(self, index: int, check: MapCheck) -> None:
        passed = check.agreement.passed
        self._kept[passed] += 1
        is_drawn = self._kept[passed] <= MOST_ROWS  # of passed and of failed maps
        self.result.agreements[index] = check.agreement, check.map if is_drawn else None

    def _measure_mask(self, outcome: Outcome, record: SaliencyRecord) -> None:
        if isinstance(self._methods[record.method], ExtremalPerturbation):
            self.result.masks[record.index] = measure_mask(*self._reference(outcome, record))

    def _reference(
        self, outcome: Outcome, record: SaliencyRecord, deadline: float = math.inf
    ) -> tuple[CaptumReference, Tensor]:
        """Return the reference of a map, and the map."""
        photograph, delivered = outcome.source(), outcome.array()
        if photograph is None or delivered is None:
            raise LitVizError(f"{record.name}: photograph or map is missing")
        assert record.target is not None
        assert record.seed is not None
        reference = CaptumReference(
            self._methods[record.method],
            self._network,
            photograph[None].double(),
            record.target,
            record.seed,
            record.iterations or 0,
            record.against,
            copies=self._copies,
            deadline=deadline,
        )
        return reference, delivered

    @contextmanager
    def _reasons(self, index: int, deadline: float) -> Iterator[None]:
        """If the block raises an exception, record the reason why the map is not checked."""
        try:
            with torch_warnings_ignored():
                yield
        except LitVizError as error:
            self.result.unchecked[index] = str(error)
        except Exception as error:  # TimeoutError, or of the network's own code in float64 or under Captum's hooks
            self._copies.clear()  # hooks may be left on them
            if time.monotonic() > deadline:
                self.result.unchecked[index] = NOT_CHECKED
            else:
                self.result.unchecked[index] = f"not checked, since Captum fails on this network ({first_line(error)})"


def _order(outcomes: Sequence[Outcome]) -> list[tuple[Outcome, SaliencyRecord]]:
    """Return the finished maps: the first of each method before any second, in order of their evaluations."""
    places: dict[str, Iterator[int]] = defaultdict(itertools.count)
    maps = []
    for outcome in outcomes:
        record = outcome.record
        if isinstance(record, SaliencyRecord) and record.status == "done":
            maps.append((outcome, record))
    return sorted(maps, key=lambda entry: (next(places[entry[1].method]), entry[1].iterations or 0))
