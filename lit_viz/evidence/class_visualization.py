"""Evidence for class images: predictions for the files, held-out networks, and comparison with photographs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from lit_viz.engine.snapshots import Result
from lit_viz.errors import LitVizError
from lit_viz.evidence.class_images import class_image_naturalness
from lit_viz.evidence.judges import held_out_judge
from lit_viz.evidence.verifier import EvidencePart, OutcomeVerifier, means
from lit_viz.methods import ClassVisualization
from lit_viz.runs.evidence import Evidence, ImageEvidence
from lit_viz.runs.records import VisualizationRecord
from lit_viz.runs.results import Outcome, records_of
from lit_viz.types import Record, Task

#: Tolerance of a probability, and relative one of an objective: the run evaluated the fast copy, in other batches.
_TOLERANCE = 0.01


class ClassVisualizationVerifier(OutcomeVerifier[ClassVisualization, VisualizationRecord]):
    """Verifier of images of classes, layers and channels."""

    applicable: ClassVar[tuple[str, ...]] = ("images",)

    @classmethod
    def prepare(cls, module: ClassVisualization) -> None:
        """Evaluate each image by the held-out networks."""
        if module.judges is None:
            module.judges = held_out_judge(module.network)

    def parts(self) -> Mapping[str, Callable[[], EvidencePart]]:
        if self.settings.at_end_of_run:
            return {"held_out": self._raise_judge_error}
        if self.storage.path is None:
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
            image, target = outcome.image(), outcome.record.target
            if target is not None:
                assert image is not None
                outcome.amend(judges=self.module.judge(image, target, judges))
        self.storage.amend(records_of(self.done))
        return EvidencePart()

    def _verify_files(self) -> EvidencePart:
        """Evaluate the original network on the files, which are read again."""
        same = 0
        verdicts = []
        for outcome in self.done:
            verdict = _evaluate(outcome, self.module)
            same += _agrees(verdict, outcome.record)
            verdicts.append({"index": outcome.record.index} | verdict)
        pictures = ImageEvidence(read=len(verdicts), tasks=len(self.outcomes), same=same, verdicts=verdicts)
        return EvidencePart(Evidence(pictures=pictures), same == len(verdicts))

    def _compare_with_photographs(self) -> EvidencePart:
        """Compute how natural the images are, compared with photographs of their classes."""
        images: list[tuple[Record, Tensor]] = []
        for outcome in self.done:
            image = outcome.image()
            if outcome.record.target is not None and image is not None:
                images.append((outcome.record, image))
        naturalness = class_image_naturalness(self.module.network, self.settings.images, images)
        return EvidencePart(Evidence(naturalness=naturalness))

    @classmethod
    def scalars(cls, records: Sequence[VisualizationRecord], evidence: Evidence) -> dict[str, float]:
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


def _evaluate(outcome: Outcome[VisualizationRecord], module: ClassVisualization) -> dict[str, Any]:
    """Return the prediction of the original network for the file of an outcome, and the verdicts of the judges."""
    image, record = outcome.image(), outcome.record
    assert image is not None
    task = Task(record.index, record.name, record.seed or 0, target=record.target, channel=record.channel)
    logits, objective = module.evaluate_original(image, task)
    if task.target is None:
        return {"objective_file": objective}
    return {**module.network.prediction(logits, task.target), "judges": record.judgments}


def _agrees(verdict: Mapping[str, Any], record: VisualizationRecord) -> bool:
    """Return whether the prediction for a file is the recorded one."""
    if record.target is None:
        return _is_close(verdict["objective_file"], record.objective_file or 0.0)
    if record.score is not None:
        return _is_close(verdict["score"], record.score)
    return record.probability is not None and abs(verdict["probability"] - record.probability) < _TOLERANCE


def _is_close(value: float, recorded: float) -> bool:
    return abs(value - recorded) <= _TOLERANCE * max(abs(recorded), 1e-6)
