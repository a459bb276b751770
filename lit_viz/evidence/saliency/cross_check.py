"""Cross-check of the maps of a run with Captum."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

from torch import Tensor

from lit_viz.attributions import Attribution
from lit_viz.classifiers import Classifier
from lit_viz.classifiers.isolation import torch_warnings_ignored
from lit_viz.errors import LitVizError, first_line
from lit_viz.evidence.saliency.agreement import Agreement, check_map, randomize
from lit_viz.evidence.saliency.captum_reference import is_in_captum
from lit_viz.methods.records import SaliencyRecord
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.results import Outcome
from lit_viz.utils.formatting import Notify, command_line

#: Reasons in the records of maps without a comparison: the method is missing, or the time limit was reached.
NOT_IN_CAPTUM, NOT_CHECKED = "not in Captum", "not checked"
#: Number of passed and of failed maps whose reference is kept for the figure.
MAX_REFERENCES = 20
_RELATIVE_COST = 20  # estimated duration of a comparison, relative to that of the map
_FIRST_LIMIT = 4  # factor of the time limit for the first map
_NOTICE_SECONDS = 10.0  # before the remaining time is reported


@dataclass(frozen=True)
class CrossCheck:
    """Result of a cross-check.

    Attributes:
        agreements: comparison by task index, with Captum's float64 map if the figure may show it.
        unchecked: reason by task index of the maps without a comparison.
        half: half precision of the network that computed the maps, if any.
    """

    agreements: Mapping[int, tuple[Agreement, Tensor | None]]
    unchecked: Mapping[int, str]
    half: str | None = None

    @property
    def passed(self) -> bool | None:
        """Whether all compared maps agree; None if no map was compared."""
        return all(agreement.passed for agreement, _ in self.agreements.values()) if self.agreements else None

    def sentence(self, folder: str | None = None) -> str:
        """Return the result in one line."""
        checked = len(self.agreements)
        failed = sum(not agreement.passed for agreement, _ in self.agreements.values())
        parts = [f"{checked - failed} of {checked} checked maps agree with Captum"] if checked else []
        counts = Counter(self.unchecked.values())
        parts += [f"{counts[reason]} {reason}" for reason in (NOT_IN_CAPTUM, NOT_CHECKED) if counts[reason]]
        if failed and self.half is not None:
            parts.append(f"{self.half} is less accurate than the float32 gates (omit --trainer.precision)")
        parts += [reason for reason in counts if reason not in (NOT_IN_CAPTUM, NOT_CHECKED)][:1]
        advice = f" ({command_line('check', folder)} checks them)" if folder and counts[NOT_CHECKED] else ""
        return f"evidence: {', '.join(parts) or 'no map to check'}{advice}"


def cross_check(
    outcomes: Sequence[Outcome],
    methods: Mapping[str, Attribution],
    classifier: Classifier,
    *,
    seconds: float | None = None,
    half: str | None = None,
    notify: Notify = lambda _: None,
) -> CrossCheck:
    """Compare the maps of a run with Captum.

    Args:
        outcomes: of the run.
        methods: by name, bound to the classifier.
        classifier: the network.
        seconds: time limit. A map whose estimated duration exceeds it is not checked; the first map may take four
            times as long. No limit if None.
        half: half precision of the network that computed the maps, if any.
        notify: receives the estimated remaining time once, if that is long.
    """
    agreements: dict[int, tuple[Agreement, Tensor | None]] = {}
    unchecked: dict[int, str] = {}
    kept: Counter[bool] = Counter()
    randomized = cache(lambda: randomize(classifier))
    queue = _order(outcomes)
    total = sum(record.iterations or 0 for _, record in queue if is_in_captum(methods[record.method]))
    start, evaluations, notified = time.monotonic(), 0, False
    for outcome, record in queue:
        index, method, count = record.index, methods[record.method], record.iterations or 0
        if not is_in_captum(method):
            unchecked[index] = NOT_IN_CAPTUM
            continue
        elapsed = time.monotonic() - start
        expected = count * elapsed / evaluations if evaluations else _RELATIVE_COST * (record.seconds or 0.0)
        if seconds is not None and elapsed + expected > seconds * (1 if evaluations else _FIRST_LIMIT):
            unchecked[index] = NOT_CHECKED
            continue
        photograph, delivered = outcome.source(), outcome.array()
        assert photograph is not None
        assert delivered is not None
        assert record.target is not None
        assert record.seed is not None
        try:
            with torch_warnings_ignored():
                result = check_map(
                    method, classifier, photograph, record.target, record.seed, delivered, count, randomized
                )
        except LitVizError as error:
            unchecked[index] = str(error)
            continue
        except Exception as error:  # raised by the network's own code in float64 or under Captum's hooks
            unchecked[index] = f"not checked, since Captum fails on this network ({first_line(error)})"
            continue
        if result is None:
            unchecked[index] = NOT_IN_CAPTUM
            continue
        agreement, reference = result
        kept[agreement.passed] += 1
        agreements[index] = agreement, reference if kept[agreement.passed] <= MAX_REFERENCES else None
        evaluations += count
        elapsed = time.monotonic() - start
        if seconds is None and elapsed > _NOTICE_SECONDS and not notified:
            notified = True
            remaining = elapsed * (total / max(1, evaluations) - 1)
            if remaining > _NOTICE_SECONDS:
                notify(f"evidence: the comparison with Captum takes about {remaining / 60:.1f} more minutes")
    return CrossCheck(agreements, unchecked, half)


def _order(outcomes: Sequence[Outcome]) -> list[tuple[Outcome, SaliencyRecord]]:
    """Return the finished maps: the first of each method before any second, those with few evaluations first."""
    done = [(o, o.record) for o in outcomes if isinstance(o.record, SaliencyRecord) and o.record.status == "done"]
    counts: Counter[str] = Counter()
    rounds = []
    for _, record in done:
        rounds.append(counts[record.method])
        counts[record.method] += 1
    order = sorted(range(len(done)), key=lambda place: (rounds[place], done[place][1].iterations or 0))
    return [done[place] for place in order]


def verdicts(result: CrossCheck) -> dict[int, dict[str, Any]]:
    """Return the field ``captum`` of the records by task index; ``passed`` is None for maps without a comparison."""
    checked = {
        index: {
            "passed": agreement.passed,
            "formula": agreement.formula,
            "delivered": agreement.delivered,
            "allowed": agreement.allowed,
        }
        for index, (agreement, _) in result.agreements.items()
    }
    return {**checked, **{index: {"passed": None, "why": reason} for index, reason in result.unchecked.items()}}


def write_cross_check(folder: RunFolder, result: CrossCheck, outcomes: Sequence[Outcome]) -> None:
    """Write the part ``captum`` of ``evidence.json``."""
    names = {
        record.index: {
            "index": record.index,
            "name": record.name,
            "method": record.method,
            "target_name": record.target_name,
        }
        for record in (outcome.record for outcome in outcomes)
        if isinstance(record, SaliencyRecord)
    }
    part = {
        "version": metadata.version("captum"),
        "passed": result.passed,
        **({} if result.half is None else {"precision": result.half}),
        "maps": [{**names[index], **agreement.to_dict()} for index, (agreement, _) in result.agreements.items()],
        "unchecked": [{**names[index], "unchecked": reason} for index, reason in result.unchecked.items()],
    }
    folder.merge_evidence({"captum": part})
