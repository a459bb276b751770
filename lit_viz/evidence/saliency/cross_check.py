"""Comparison of the saliency maps of a run with their references, within a time limit."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata

from torch import Tensor

from lit_viz.attributions import Attribution, ExtremalPerturbation
from lit_viz.errors import LitVizError, first_line
from lit_viz.evidence.saliency.captum_reference import CaptumReference, counterpart_of
from lit_viz.evidence.saliency.families import FEWER_RECOMPUTED, RECOMPUTED, MapCheck, check_map, measure_mask
from lit_viz.evidence.saliency.network_copies import NetworkCopies
from lit_viz.networks import Network
from lit_viz.networks.isolation import torch_warnings_ignored
from lit_viz.runs import evidence as run_evidence
from lit_viz.runs.evidence import NOT_CHECKED, NOT_IN_CAPTUM
from lit_viz.runs.records import SaliencyRecord
from lit_viz.runs.results import Outcome
from lit_viz.utils.formatting import Notify, ignore
from lit_viz.utils.limits import MOST_ROWS

_NOTICE_SECONDS = 30.0  # between the reports of how many maps are compared


def cross_check(
    outcomes: Sequence[Outcome[SaliencyRecord]],
    methods: Mapping[str, Attribution],
    network: Network,
    *,
    seconds: float | None = None,
    half: str | None = None,
    notify: Notify = ignore,
) -> tuple[run_evidence.CaptumEvidence, dict[int, Tensor]]:
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

    Returns:
        the part ``captum`` of ``evidence.json``, and float64 maps of the reference by task index for the figure.
    """
    comparisons = _Comparisons(methods, network)
    comparisons.compare(_order(outcomes), seconds, notify)
    maps = comparisons.maps
    evidence = run_evidence.CaptumEvidence(
        version=metadata.version("captum"),
        passed=all(agreement.passed for agreement in maps) if maps else None,
        precision=half,
        maps=maps,
        unchecked=comparisons.unchecked,
        masks=comparisons.masks or None,
    )
    return evidence, comparisons.references


class _Comparisons:
    """The comparisons of some maps, the reasons of maps without one, and what is measured of optimized masks."""

    def __init__(self, methods: Mapping[str, Attribution], network: Network) -> None:
        self._methods, self._network = methods, network
        self.maps: list[run_evidence.MapAgreement] = []
        self.unchecked: list[run_evidence.UncheckedMap] = []
        self.masks: list[run_evidence.MaskEvidence] = []
        self.references: dict[int, Tensor] = {}
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
                self._leave_out(record, NOT_IN_CAPTUM)
                if is_due:
                    self._measure_mask(outcome, record)
                continue
            if not is_due:
                self._leave_out(record, NOT_CHECKED)
                continue
            recorded = None if seconds is None else outcome.terms()
            is_short = recorded is not None or (record.iterations or 0) <= RECOMPUTED
            deadline = math.inf if is_first and is_short else end
            with self._reasons(record, deadline):
                reference, delivered = self._reference(outcome, record, deadline)
                recomputed = RECOMPUTED if is_first else FEWER_RECOMPUTED
                check = check_map(reference, delivered, record, recorded, recomputed)
                if record.method not in complete or seconds is None:
                    check = check.with_formula()
                if record.method not in complete:
                    check = check.with_controls()
                complete.add(record.method)
                self._add(record, check)

    def _add(self, record: SaliencyRecord, check: MapCheck) -> None:
        passed = check.agreement.passed
        self._kept[passed] += 1
        if check.map is not None and self._kept[passed] <= MOST_ROWS:  # of passed and of failed maps
            self.references[record.index] = check.map
        self.maps.append(check.agreement)

    def _leave_out(self, record: SaliencyRecord, reason: str) -> None:
        self.unchecked.append(run_evidence.UncheckedMap.of(record, unchecked=reason))

    def _measure_mask(self, outcome: Outcome, record: SaliencyRecord) -> None:
        if isinstance(self._methods[record.method], ExtremalPerturbation):
            values = measure_mask(*self._reference(outcome, record))
            self.masks.append(run_evidence.MaskEvidence.of(record, **values))

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
    def _reasons(self, record: SaliencyRecord, deadline: float) -> Iterator[None]:
        """If the block raises an exception, record the reason why the map is not checked."""
        try:
            with torch_warnings_ignored():
                yield
        except LitVizError as error:
            self._leave_out(record, str(error))
        except Exception as error:  # TimeoutError, or of the network's own code in float64 or under Captum's hooks
            self._copies.clear()  # hooks may be left on them
            is_late = time.monotonic() > deadline
            failure = f"not checked, since Captum fails on this network ({first_line(error)})"
            self._leave_out(record, NOT_CHECKED if is_late else failure)


def _order(outcomes: Sequence[Outcome[SaliencyRecord]]) -> list[tuple[Outcome, SaliencyRecord]]:
    """Return the finished maps: the first of each method before any second, in order of their evaluations."""
    places: dict[str, Iterator[int]] = defaultdict(itertools.count)
    maps = []
    for outcome in outcomes:
        record = outcome.record
        if record.status == "done":
            maps.append((outcome, record))
    return sorted(maps, key=lambda entry: (next(places[entry[1].method]), entry[1].iterations or 0))
