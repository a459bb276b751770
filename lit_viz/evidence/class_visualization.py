"""Evidence for class images: predictions for the files, held-out networks, and comparison with photographs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lit_viz.engine.snapshots import Result
from lit_viz.errors import LitVizError
from lit_viz.evidence.class_images import class_image_naturalness
from lit_viz.evidence.comparison import (
    Scored,
    different_fields,
    different_iterations,
    different_metric,
    different_probability,
    different_rank,
    different_ranking,
    report_mismatches,
)
from lit_viz.evidence.judges import held_out_judge
from lit_viz.evidence.pictures import different_pictures
from lit_viz.evidence.verifier import EvidencePart, OutcomeVerifier, means
from lit_viz.methods import ClassVisualization
from lit_viz.methods.photographs import contrast_fields
from lit_viz.networks import Network
from lit_viz.runs.evidence import ImageEvidence, VisualizationEvidence
from lit_viz.runs.records import Judgment, VisualizationRecord
from lit_viz.runs.results import Outcome, records_of
from lit_viz.types import Record, Task

#: Relative tolerance of an objective, and that of a probability by a held-out network: the run evaluated fast copies.
_TOLERANCE = 0.01
_OF_RANK = 0.02  # relative: the ranks of improbable classes are close


class ClassVisualizationVerifier(OutcomeVerifier[ClassVisualization, VisualizationRecord, VisualizationEvidence]):
    """Verifier of images of classes, layers and channels."""

    evidence_class: ClassVar[type[VisualizationEvidence]] = VisualizationEvidence
    applicable: ClassVar[tuple[str, ...]] = ("images",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._reasons: dict[int, list[str]] = defaultdict(list)  # why records do not match, by task

    @classmethod
    def prepare(cls, module: ClassVisualization) -> None:
        """Evaluate each image by the held-out networks."""
        if module.judges is None:
            module.judges = held_out_judge(module.network)

    def parts(self) -> Mapping[str, Callable[[], EvidencePart]]:
        if self.settings.at_end_of_run:
            return {"held_out": self._raise_judge_error}
        if not self.settings.reads_files:
            return {}
        parts = {"held_out": self._judge, "pictures": self._verify_files}
        if self.settings.images:
            parts["naturalness"] = self._compare_with_photographs
        return parts

    def _raise_judge_error(self) -> EvidencePart:
        """Raise the error of a held-out network during the run, if there was one; the run has judged its images."""
        if self.module.judge_error is not None:
            raise LitVizError(self.module.judge_error)
        return EvidencePart()

    def _judge(self) -> EvidencePart:
        """Evaluate the held-out networks on the files."""
        judges = held_out_judge(self.module.network)
        for outcome in self.done:
            image, record = outcome.file_image(), outcome.record
            if record.target is not None:
                assert image is not None
                computed = self.module.judge(image, record.target, judges)
                self._reasons[record.index] += _different_judges(record.judgments, computed)
                outcome.amend(judges=computed)
        self.storage.amend(records_of(self.done))
        return EvidencePart()

    def _verify_files(self) -> EvidencePart:
        """Evaluate the original network on the files, which are read again, and compare the records with the results.

        The probabilities and objectives that are stated are the computed ones.
        """
        verdicts: list[dict[str, Any]] = []
        wrong: list[tuple[str, str]] = []
        names: list[str] = []
        for outcome in self.done:
            record = outcome.record
            evaluated = _evaluate(outcome, self.storage.task(record.index), self.module)
            reasons = [*self._reasons[record.index], *evaluated.mismatches(record, self.module)]
            reasons += different_pictures(outcome, self.storage.path)
            verdicts.append({"index": record.index} | evaluated.verdict(record, self.module.network))
            if reasons:
                wrong.append((record.file or record.key, "; ".join(reasons)))
                names.append(record.name)
        report_mismatches(wrong, self.settings.notify)
        count = len(verdicts)
        pictures = ImageEvidence(
            read=count, tasks=len(self.outcomes), same=count - len(wrong), wrong=names, verdicts=verdicts
        )
        return EvidencePart(VisualizationEvidence(pictures=pictures), not wrong)

    def _compare_with_photographs(self) -> EvidencePart:
        """Compute how natural the images are, compared with photographs of their classes."""
        images: list[tuple[Record, Tensor]] = []
        for outcome in self.done:
            image = outcome.file_image()
            if outcome.record.target is not None and image is not None:
                images.append((outcome.record, image))
        naturalness = class_image_naturalness(self.module.network, self.settings.images, images)
        return EvidencePart(VisualizationEvidence(naturalness=naturalness))

    @classmethod
    def scalars(cls, records: Sequence[VisualizationRecord], evidence: VisualizationEvidence) -> dict[str, float]:
        scalars = super().scalars(records, evidence)
        verdicts = correct = 0
        for record in records:
            verdicts += len(record.judgments)
            correct += record.correct_judges
        if verdicts:
            scalars["judges/agreement"] = correct / verdicts
        return scalars

    @classmethod
    def test_numbers(cls, module: ClassVisualization, results: Sequence[Result]) -> dict[str, float]:
        """Return the mean probability of the class, and the share of images for which it has rank 1, by network."""
        values: dict[str, list[float]] = defaultdict(list)
        for result in results:
            target = result.task.target
            if result.image is None or target is None:
                continue
            logits, _ = module.evaluate_original(result.image, result.task)
            prediction = module.network.prediction(logits, target)
            if "score" in prediction:
                values["score"].append(prediction["score"])
                continue
            values["probability"].append(prediction["probability"])
            values["rank_1"].append(float(prediction["rank"] == 1))
            for name, verdict in getattr(result.record, "judges", {}).items():
                values[name].append(float(verdict["rank"] == 1))
        return super().test_numbers(module, results) | means(values)


@dataclass(frozen=True)
class _Evaluated:
    """What the original network computes of a file: the scores, and the objective.

    Attributes:
        task: its task in the queue.
    """

    task: Task
    scored: Scored
    objective: float

    def verdict(self, record: VisualizationRecord, network: Network) -> dict[str, Any]:
        """Return the prediction, with the verdicts of the judges in the record; without a target the objective."""
        if self.task.target is None:
            return {"objective_file": self.objective}
        return {**network.prediction(self.scored.logits, self.task.target), "judges": record.judgments}

    def mismatches(self, record: VisualizationRecord, module: ClassVisualization) -> Iterator[str]:
        """Yield the differences of a record from what is computed, beyond what another machine explains."""
        task, network = self.task, module.network
        yield from different_ranking(record, self.scored, network)
        if task.target is None:
            tolerance = _TOLERANCE * max(abs(self.objective), 1e-6)
            yield from different_metric(record, "objective_file", self.objective, tolerance)
        else:
            yield from different_probability(record, self.scored, task.target, network)
        if task.target is not None and network.rule.has_prediction:
            logit = float(self.scored.logits[task.target])
            yield from different_metric(record, "logit", logit, self.scored.tolerance)
            yield from different_rank(record, self.scored, task.target)
        expected = {name: getattr(task, name) for name in record.fields_of_task}
        if task.target is None:
            expected["judges"] = None
        contrast = contrast_fields(task, module.objective)
        expected |= {"against": contrast.get("against"), "gamma": contrast.get("gamma")}
        expected["format"] = module.format.to_dict()
        expected |= {"clipped": None, "filled": None, "no_data": None}  # of photographs
        yield from different_fields(expected, vars(record))
        yield from _different_updates(record, task, module)


def _different_updates(record: VisualizationRecord, task: Task, module: ClassVisualization) -> Iterator[str]:
    """Yield where the number of updates is not that of the task and its restarts, which the updates include."""
    restarts, limit = record.restarts or 0, module.last_iteration(task)
    if not 0 <= restarts <= module.restarts:
        yield f"restarts {module.restarts} at most, recorded {restarts}"
    first = restarts * limit if restarts else limit  # an image that started again may end early, with an error
    yield from different_iterations(record, limit + restarts * limit, fewest=first)


def _evaluate(outcome: Outcome[VisualizationRecord], task: Task, module: ClassVisualization) -> _Evaluated:
    """Evaluate the file of an outcome by the original network."""
    image = outcome.file_image()
    assert image is not None
    logits, objective = module.evaluate_original(image, task)
    return _Evaluated(task, Scored.of(module.network, logits), objective)


def _different_judges(recorded: Mapping[str, Judgment], computed: Mapping[str, Judgment]) -> Iterator[str]:
    """Yield the verdicts of held-out networks that are others; of networks that are not installed nothing is known."""
    for name in recorded.keys() & computed.keys():
        before, now = recorded[name], computed[name]
        chance = -1.0 if before["probability"] is None else before["probability"]
        is_same = abs(chance - (now["probability"] or 0.0)) <= _TOLERANCE
        if not is_same or abs(before["rank"] - now["rank"]) > _OF_RANK * now["rank"]:
            yield f"judges: {name} {now}, recorded {before}"
