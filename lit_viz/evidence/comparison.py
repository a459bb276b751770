"""Comparison of recorded values with those that are computed again, beyond what another machine explains."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from lit_viz.engine.sources import input_name, is_replaced
from lit_viz.errors import LitVizError
from lit_viz.methods.photographs import DATASET, OF_READING, PhotographTraining
from lit_viz.networks import Network
from lit_viz.networks.isolation import logits_tolerance
from lit_viz.networks.outputs import Output
from lit_viz.types import Task
from lit_viz.utils.files import plain
from lit_viz.utils.formatting import Notify, pluralize
from lit_viz.utils.limits import MOST_NAMES

_TOLERANCE = 1e-6  # of a probability that a record has rounded


@dataclass(frozen=True)
class Scored:
    """Scores of an image by the original network.

    Attributes:
        logits: ``(K,)``.
        tolerance: difference of a logit, or of a margin, that rounding on another machine or in another batch explains.
    """

    logits: Tensor
    tolerance: float

    @classmethod
    def of(cls, network: Network, logits: Tensor) -> Scored:
        """Return scores ``(K,)`` with their tolerance."""
        return cls(logits, float(logits_tolerance(network.original, logits[None])))


def goal_task(module: PhotographTraining, task: Task, record: Any) -> Task:
    """Return a task of the queue with the label of its image; the recorded one if the dataset is not at hand."""
    if task.label is not None or task.label_source != DATASET:
        return task
    labelled = module.with_dataset_label(task)
    if labelled.label is not None:
        return labelled
    label = record.label if record.label_source == DATASET else None
    return replace(task, label=label, label_source=record.label_source)


class Readings:
    """What reading the files of photographs finds, each once.

    Args:
        module: the method.
    """

    def __init__(self, module: PhotographTraining) -> None:
        self._module = module
        self._fields: dict[str, Mapping[str, Any] | None] = {}

    def fields(self, task: Task) -> Mapping[str, Any] | None:
        """Return the fields of a record by the file of a task; None if it is missing or another one, or not a file."""
        name = input_name(task)
        if name not in self._fields:
            self._fields[name] = None
            if task.source is not None and not is_replaced(task):
                with suppress(LitVizError):
                    self._fields[name] = self._module.read_fields(task)
        return self._fields[name]


def different_reading(record: Any, found: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield where the place of a photograph in its file, and what the file has, are not those of :class:`Readings`."""
    if found is not None:
        yield from different_fields({name: found.get(name) for name in OF_READING}, vars(record))


def different_iterations(record: Any, most: int, fewest: int = 0) -> Iterator[str]:
    """Yield a mismatch if more or fewer iterations are recorded than a task can have."""
    recorded = record.iterations
    if recorded is None or not fewest <= recorded <= most:
        expected = f"{most}" if fewest == most else f"{fewest} to {most}"
        yield f"iterations {expected}, recorded {recorded}"


def different_region(record: Any, output: Output) -> Iterator[str]:
    """Yield where the region that the scores are about is another one than that of the network."""
    expected = {"output_box": output.box, "output_outline": output.outline, "output_note": output.note}
    yield from different_fields(expected, vars(record))


def are_close(scored: Scored, a: int | None, b: int | None) -> bool:
    """Return whether rounding may exchange two classes in the order of the logits."""
    if a is None or b is None:
        return False
    return abs(float(scored.logits[a] - scored.logits[b])) <= scored.tolerance


def different_prediction(record: Any, scored: Scored, goal: int, network: Network, suffix: str = "") -> Iterator[str]:
    """Yield where the recorded prediction of a file, or with a suffix of the photograph, is another one."""
    yield from different_probability(record, scored, goal, network, suffix)
    if network.rule.has_prediction:
        yield from different_class(record, scored, network, suffix)


def different_probability(record: Any, scored: Scored, goal: int, network: Network, suffix: str = "") -> Iterator[str]:
    """Yield a mismatch if the probability of a class, or the score where scores are numbers, is another one."""
    if not network.rule.has_prediction:
        yield from different_number(record, f"score{suffix}", float(scored.logits[goal]), scored.tolerance)
        return
    probability = network.prediction(scored.logits, goal)["probability"]
    tolerance = _of_probability(probability, scored.tolerance)
    yield from different_number(record, f"probability{suffix}", probability, tolerance)


def different_class(record: Any, scored: Scored, network: Network, suffix: str = "") -> Iterator[str]:
    """Yield a mismatch if another class is predicted, beyond the order of scores that are close."""
    logits = scored.logits
    predicted = int(logits.argmax())
    name = getattr(record, f"predicted{suffix}_name")
    index = _recorded_class(record, f"predicted{suffix}", logits, network.labels)
    is_same = False
    if index is not None:
        is_close = float(logits[predicted] - logits[index]) <= scored.tolerance
        is_same = is_close and network.labels[index] == name
    if not is_same:
        yield f"predicted{suffix} {network.labels[predicted]}, recorded {name if index is not None else index}"


def _recorded_class(record: Any, field: str, logits: Tensor, labels: Sequence[str]) -> int | None:
    """Return the recorded index of a class; without a field for it, the most probable class of the recorded name."""
    if hasattr(record, field):
        index: int | None = getattr(record, field)
        if index is not None and 0 <= index < len(labels):
            return index
        return None
    return max(_classes(getattr(record, f"{field}_name"), labels), key=lambda n: float(logits[n]), default=None)


def _of_probability(probability: float, tolerance: float) -> float:
    """Return the tolerance of a probability, to first order, where each logit has this tolerance."""
    return 2 * tolerance * probability * (1 - probability) + _TOLERANCE


def _classes(name: str | None, labels: Sequence[str]) -> list[int]:
    return [index for index, label in enumerate(labels) if label == name]


def different_ranking(record: Any, scored: Scored, network: Network) -> Iterator[str]:
    """Yield a mismatch if the most probable classes, or their probabilities, are others."""
    if not hasattr(record, "top5"):
        return
    recorded, computed = record.top5 or (), network.top5(scored.logits)
    is_same = len(recorded) == len(computed)
    chances = network.rule.values(scored.logits)
    for (name, probability), (_, expected) in zip(recorded, computed, strict=False):
        tolerance = _of_probability(expected, scored.tolerance)
        of_name = [float(chances[index]) for index in _classes(name, network.labels)]
        nearest = min((abs(chance - expected) for chance in of_name), default=math.inf)
        is_same &= probability is not None and abs(probability - expected) <= tolerance and nearest <= tolerance
    if not is_same:
        yield f"top5 {_ranking_text(computed)}, recorded {_ranking_text(recorded)}"


def _ranking_text(ranking: Sequence[tuple[str, float | None]]) -> str:
    texts = [f"{name} {math.nan if probability is None else probability:.3g}" for name, probability in ranking]
    return " ".join(texts) or "none"


def different_value(record: Any, name: str, value: object) -> Iterator[str]:
    """Yield a mismatch if a recorded value is another one."""
    recorded = getattr(record, name, value)
    if recorded != value:
        yield f"the {name} is {value!r}, recorded {recorded!r}"


def different_number(record: Any, name: str, value: float, tolerance: float) -> Iterator[str]:
    """Yield a mismatch if a recorded number differs; one that is not finite is recorded as None."""
    if hasattr(record, name):
        yield from _difference(name, value, getattr(record, name), tolerance)


def _difference(name: str, value: float, recorded: float | None, tolerance: float) -> Iterator[str]:
    if recorded is None or not math.isfinite(value):
        if recorded is not None or math.isfinite(value):
            yield f"{name} {value:.4g}, recorded {'none' if recorded is None else f'{recorded:.4g}'}"
    elif abs(value - recorded) > tolerance:
        yield f"{name} {value:.4g}, recorded {recorded:.4g}"


def different_rank(record: Any, scored: Scored, goal: int) -> Iterator[str]:
    """Yield a mismatch if the rank of a class is another one, beyond the order of scores that are close."""
    logits, tolerance = scored.logits, scored.tolerance
    others = logits.clone()
    others[goal] = -math.inf
    first = 1 + int((others > logits[goal] + tolerance).sum())
    last = 1 + int((others >= logits[goal] - tolerance).sum())
    recorded = record.metrics.get("rank")
    if recorded is None or not first <= recorded <= last:
        yield f"rank {first}, recorded {recorded}"


def different_metric(record: Any, name: str, value: float, tolerance: float) -> Iterator[str]:
    """Yield a mismatch if a recorded metric differs; one that is not finite is recorded as None."""
    yield from _difference(name, value, record.metrics.get(name), tolerance)


def different_fields(expected: Mapping[str, Any], recorded: Mapping[str, Any]) -> Iterator[str]:
    """Yield where recorded values are not the expected ones, by name."""
    for name, value in expected.items():
        if plain(value) != plain(recorded.get(name)):
            yield f"{name} {value}, recorded {recorded.get(name)}"


def report_mismatches(reasons: Sequence[tuple[str, str]], notify: Notify) -> None:
    """Pass the first mismatches to a function as messages, and the number of the others.

    Args:
        reasons: file and reason of each mismatch.
        notify: receives the messages.
    """
    for name, reason in reasons[:MOST_NAMES]:
        notify(f"{name} is not as recorded: {reason}")
    if len(reasons) > MOST_NAMES:
        notify(f"{pluralize(len(reasons) - MOST_NAMES, 'further file')} not as recorded")
