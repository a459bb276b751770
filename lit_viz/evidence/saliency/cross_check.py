"""The certificate of a saliency run: which of its maps Captum was asked about, and what came of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

from torch import Tensor

from lit_viz.attributions import Attribution
from lit_viz.classifiers import Classifier
from lit_viz.classifiers.isolation import torch_warnings_ignored
from lit_viz.errors import LitVizError, first_line
from lit_viz.evidence.saliency.agreement import Agreement
from lit_viz.evidence.saliency.captum_check import as_record, check_map, randomized
from lit_viz.evidence.saliency.captum_reference import is_in_captum
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.results import Outcome
from lit_viz.utils.formatting import Notify, command_line

#: What a record says of a map of a method that Captum doesn't have, and of one that wasn't checked for want of time.
NOT_IN_CAPTUM, NOT_CHECKED = "not in Captum", "not checked"
#: Times as long as a map its check takes, about: in float64, with its controls. And of the time for all checks that for
#: the first one, if it needs more.
_TIMES, _FIRST = 20, 4
#: Passed and failed maps, each, whose reference maps are kept for the figure.
KEPT_REFERENCES = 20
_SOON = 10.0  # seconds after which it is told how long the rest will take


@dataclass(frozen=True)
class CrossCheck:
    """What the cross-check found.

    Attributes:
        agreements: by task index; with Captum's map in float64, of those that a figure may draw.
        unchecked: by task index, why there is none.
        half: the precision of the network that made the maps, if it was half.
    """

    agreements: Mapping[int, tuple[Agreement, Tensor | None]]
    unchecked: Mapping[int, str]
    half: str | None = None

    @property
    def passed(self) -> bool | None:
        """Whether every map that was checked passed both gates; None where none was checked."""
        return all(agreement.passed for agreement, _ in self.agreements.values()) if self.agreements else None

    def sentence(self, folder: str | None = None) -> str:
        """Return the outcome in one line."""
        failed = sum(not agreement.passed for agreement, _ in self.agreements.values())
        checked = len(self.agreements)
        parts = [f"{checked - failed} of {checked} maps checked agree with Captum"] if checked else []
        for why in (NOT_IN_CAPTUM, NOT_CHECKED):
            count = sum(reason == why for reason in self.unchecked.values())
            parts += [f"{count} {'is' if count == 1 else 'are'} {why}"] if count else []
        if failed and self.half is not None:
            parts += [f"in {self.half} they can't be within what float32 allows (leave out --trainer.precision)"]
        others = [reason for reason in self.unchecked.values() if reason not in (NOT_IN_CAPTUM, NOT_CHECKED)]
        parts += others[:1]
        left = folder is not None and NOT_CHECKED in self.unchecked.values()
        more = f" ({command_line('check', folder)} checks them)" if left else ""
        return f"evidence: {', '.join(parts) or 'there was no map to check'}{more}"


def cross_check(
    outcomes: Sequence[Outcome],
    methods: Mapping[str, Attribution],
    classifier: Classifier,
    *,
    seconds: float | None = None,
    half: str | None = None,
    notify: Notify = lambda _: None,
) -> CrossCheck:
    """Hold the maps of a run against Captum.

    Args:
        outcomes: of the run.
        methods: by name, bound to the classifier.
        classifier: the network.
        seconds: no further map is begun after so long, nor one that would take longer, as those before it did for each
            of their evaluations; the first one is left out only if it would take four times as long. All unless given.
        half: the precision of the network that made the maps, if it was half.
        notify: is told once how much longer it will take, where that is long.
    """
    agreements: dict[int, tuple[Agreement, Tensor | None]] = {}
    unchecked: dict[int, str] = {}
    untrained = cache(lambda: randomized(classifier))
    kept: Counter[bool] = Counter()
    began, paid, told = time.monotonic(), 0, False
    maps = _one_of_each_first([outcome for outcome in outcomes if outcome.record["status"] == "done"])
    for outcome in maps:
        record = outcome.record
        if not is_in_captum(methods[record["method"]]):
            unchecked[record["index"]] = NOT_IN_CAPTUM
            continue
        spent = time.monotonic() - began
        expected = record["iterations"] * spent / paid if paid else _TIMES * (record.get("seconds") or 0.0)
        if seconds is not None and spent + expected > seconds * (1 if paid else _FIRST):
            unchecked[record["index"]] = NOT_CHECKED
            continue
        try:
            with torch_warnings_ignored():
                found = _checked(outcome, methods[record["method"]], classifier, untrained)
        except LitVizError as error:
            unchecked[record["index"]] = str(error)
            continue
        except Exception as error:  # whatever the network's own code raises in float64 or under Captum's hooks
            unchecked[record["index"]] = f"not checked, as Captum fails on this network ({first_line(error)})"
            continue
        if found is None:
            unchecked[record["index"]] = NOT_IN_CAPTUM
            continue
        agreement, reference = found
        spent = time.monotonic() - began
        if seconds is None and spent > _SOON and not told:
            told = True
            whole = sum(o.record["iterations"] for o in maps if is_in_captum(methods[o.record["method"]]))
            left = spent * (whole / (paid + record["iterations"]) - 1)
            if left > _SOON:
                notify(f"evidence: Captum will take about {left / 60:.1f} minutes more")
        kept[agreement.passed] += 1
        agreements[record["index"]] = agreement, reference if kept[agreement.passed] <= KEPT_REFERENCES else None
        paid += record["iterations"]
    return CrossCheck(agreements, unchecked, half)


def _one_of_each_first(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes so that a method's second map comes after all methods' first."""
    seen: Counter[str] = Counter()
    turns: list[tuple[int, Outcome]] = []
    for outcome in outcomes:
        turns.append((seen[outcome.record["method"]], outcome))
        seen[outcome.record["method"]] += 1
    # Of the first ones the cheapest first, whose time tells what the others will take.
    return [outcome for _, outcome in sorted(turns, key=lambda turn: (turn[0], turn[1].record["iterations"]))]


def _checked(
    outcome: Outcome, method: Attribution, classifier: Classifier, untrained: Callable[[], Classifier]
) -> tuple[Agreement, Tensor] | None:
    record, photograph, delivered = outcome.record, outcome.source(), outcome.array()
    assert photograph is not None
    assert delivered is not None
    target, seed, count = record["target"], record["seed"], record["iterations"]
    return check_map(method, classifier, photograph, target, seed, delivered, count, untrained)


def verdicts(certificate: CrossCheck) -> dict[int, dict[str, Any]]:
    """Return by task index what the record's key ``captum`` holds; of a map that wasn't checked ``passed`` is None."""
    known = {
        index: {
            "passed": agreement.passed,
            "formula": agreement.formula,
            "delivered": agreement.delivered,
            "allowed": agreement.allowed,
        }
        for index, (agreement, _) in certificate.agreements.items()
    }
    return {**known, **{index: {"passed": None, "why": why} for index, why in certificate.unchecked.items()}}


def write_cross_check(folder: RunFolder, certificate: CrossCheck, outcomes: Sequence[Outcome]) -> None:
    """Write the part ``captum`` of ``evidence.json``."""
    by_index = {outcome.record["index"]: outcome for outcome in outcomes}
    maps = [
        {**_named(by_index[index].record), **as_record(agreement)}
        for index, (agreement, _) in certificate.agreements.items()
    ]
    unchecked = [{**_named(by_index[index].record), "unchecked": why} for index, why in certificate.unchecked.items()]
    whole = {
        "captum": {
            "version": metadata.version("captum"),
            "passed": certificate.passed,
            **({} if certificate.half is None else {"precision": certificate.half}),
            "maps": maps,
            "unchecked": unchecked,
        }
    }
    folder.merge_evidence(whole)


def _named(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("index", "name", "method", "target_name")}
