"""Evidence for adversarial examples: verification of the files, robustness, diagnosis and transfer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_viz.attacks import BudgetAttack
from lit_viz.attacks.rounding import Verifier
from lit_viz.attributions import SmoothGrad, attribute
from lit_viz.engine.snapshots import Result
from lit_viz.errors import LitVizError
from lit_viz.evidence.attacks import robustness
from lit_viz.evidence.attacks.diagnostics import cost_of_stronger_attacks, diagnostics, stronger_attacks
from lit_viz.evidence.attacks.files import FileValues, RecordedFile
from lit_viz.evidence.attacks.mismatches import mismatches
from lit_viz.evidence.comparison import Readings, goal_task
from lit_viz.evidence.pictures import different_pictures
from lit_viz.evidence.verifier import EvidencePart, OutcomeVerifier
from lit_viz.images.formats import FileFormat
from lit_viz.methods import AdversarialExample
from lit_viz.runs.evidence import (
    AdversarialEvidence,
    DiagnosisEvidence,
    FileEvidence,
    RobustnessEvidence,
    RobustnessPoint,
)
from lit_viz.runs.records import AdversarialRecord, radius_text
from lit_viz.runs.results import Outcome, records_of
from lit_viz.utils.parts import settings_of, short_name

#: Figure of the saliency maps of originals and adversarial images.
EXPLAINED = "explained.png"
_EXPLANATION_EVALUATIONS = 32  # of each saliency map


@dataclass(frozen=True)
class ExplainedAttack:
    """Saliency maps ``(C, H, W)`` of the predicted classes of a photograph and of its adversarial image."""

    record: AdversarialRecord
    photograph: Tensor
    image: Tensor
    map_before: Tensor
    map_after: Tensor


@dataclass(frozen=True, kw_only=True)
class Explanation(EvidencePart):
    """The saliency maps of the attacked images."""

    attacks: Sequence[ExplainedAttack]


class AdversarialExampleVerifier(OutcomeVerifier[AdversarialExample, AdversarialRecord, AdversarialEvidence]):
    """Verifier of adversarial examples; all of their evidence reads files."""

    evidence_class: ClassVar[type[AdversarialEvidence]] = AdversarialEvidence
    applicable: ClassVar[tuple[str, ...]] = ("trust",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._valid = self.outcomes  # whose files match their records
        self._readings = Readings(self.module)

    def parts(self) -> Mapping[str, Callable[[], EvidencePart]]:
        if not self.settings.reads_files:
            return {}
        attack = self.module.attack
        if self.settings.trust and not isinstance(attack, BudgetAttack):
            raise LitVizError(f"{short_name(type(attack))} has no budget for stronger attacks: leave out trust")
        parts = {
            "explanation": self._explain,
            "files": self._verify_files,
            "survivors": self._break_down,
            "robustness": self._measure_robustness,
            "trust": self._diagnose,
        }
        if not self.settings.at_end_of_run:
            parts["transfer"] = self._measure_transfer
        return parts

    def _explain(self) -> EvidencePart:
        """Compute saliency maps of originals and adversarial images, if the options select them."""
        folder = self.storage.path  # the figure is drawn there
        if folder is None or not self.settings.explain:
            return EvidencePart()
        if not self.settings.at_end_of_run and (folder / EXPLAINED).exists():
            return EvidencePart()
        network = self.module.network.fast()
        explained: list[ExplainedAttack] = []
        for outcome in self.outcomes:
            record, photograph, image = outcome.record, outcome.source(), outcome.image()
            if photograph is None or image is None:
                continue
            before, after = record.predicted_before, record.predicted
            if before is None or after is None:
                continue
            maps, _ = attribute(
                SmoothGrad(),
                network,
                torch.stack([photograph, image]),
                [before, after],
                evaluations=_EXPLANATION_EVALUATIONS,
                seeds=[record.seed or 0] * 2,  # equal noise, so that the maps differ by the images only
            )
            draw = self.module.network.bands.draw
            explained.append(ExplainedAttack(record, draw(photograph), draw(image), maps[0], maps[1]))
        return Explanation(attacks=explained)

    def _verify_files(self) -> EvidencePart:
        """Compute the verdicts on the files, and compare the records with them.

        The counts are of the computed verdicts. A record gets these where they differ by no more than rounding; of a
        file that is not as recorded, the verdicts are withdrawn.
        """
        stored = [outcome for outcome in self.outcomes if outcome.has_image and outcome.record.status != "failed"]
        files = [self._recorded_file(outcome) for outcome in stored]
        results = mismatches(files, self.module.network, self.module.capacity, self.settings.notify)
        amended: list[AdversarialRecord] = []
        wrong: dict[int, str] = {}  # name by task
        counts: Counter[str] = Counter()
        for outcome, (values, reason) in zip(stored, results, strict=True):
            before = outcome.record
            if reason is not None:
                wrong[before.index] = before.name
            counts[before.status] += 1
            counts["fooled"] += before.status == "done" and reason is None and values.success
            outcome.amend(**_verdicts(before, values, reason))
            record = outcome.record
            if record.to_dict() != before.to_dict():
                amended.append(record)
        self.storage.amend(amended)
        self._valid = [outcome for outcome in self.outcomes if outcome.record.index not in wrong]
        evidence = FileEvidence(
            read=counts["done"],
            tasks=len(self.outcomes),
            skipped=counts["skipped"],
            fooled=counts["fooled"],
            wrong=[*wrong.values()],
        )
        return EvidencePart(AdversarialEvidence(files=evidence), not wrong)

    def _recorded_file(self, outcome: Outcome[AdversarialRecord]) -> RecordedFile:
        module, record = self.module, outcome.record
        task = goal_task(module, self.storage.task(record.index), record)
        eps = None
        if isinstance(module.attack, BudgetAttack):
            eps = module.attack.eps if task.eps is None else float(task.eps)
        return RecordedFile(
            file=record.file or record.key,
            read=outcome.file_image,
            record=record,
            source=outcome.source,
            resolve=partial(module.resolve_task, task),
            attack=short_name(type(module.attack)),
            norm=module.attack.norm,
            eps=eps,
            settings=settings_of(module.attack),
            iterations=module.last_iteration(task),
            reading=None if self.settings.at_end_of_run else self._readings.fields(task),
            pictures=() if self.settings.at_end_of_run else [*different_pictures(outcome, self.storage.path)],
        )

    def _break_down(self) -> EvidencePart:
        """Count the successes of the members of an ensemble."""
        members = robustness.ensemble_breakdown(self.outcomes)
        return EvidencePart(AdversarialEvidence(survivors=members) if members else None)

    def _measure_robustness(self) -> EvidencePart:
        """Compute the share of robust photographs by radius."""
        shares = robustness.robust_share(self.outcomes)
        if not shares:
            return EvidencePart()
        records = records_of(self.outcomes)
        norm = robustness.attack_norm(records)
        texts = {record.eps: radius_text(record) for record in records}
        points: list[RobustnessPoint] = []
        for accuracy in shares:
            low, high = accuracy.interval
            point = RobustnessPoint(
                eps=texts[accuracy.eps],
                robust=accuracy.robust,
                photographs=accuracy.total,
                share=accuracy.accuracy,
                low=low,
                high=high,
            )
            points.append(point)
        label = robustness.accuracy_label(self.outcomes)
        are_pictures = all(record.format is None for record in records)
        files = None if are_pictures else "other than pictures of 8 bits"
        evidence = RobustnessEvidence(what=label, norm=norm, points=points, files=files)
        return EvidencePart(AdversarialEvidence(robustness=evidence))

    def _diagnose(self) -> EvidencePart:
        """Determine whether the failures of the attack are credible."""
        signs = diagnostics(self._valid, self.module.attack, self.module.iterations)
        reasons, tried = list(signs.reasons), list(signs.tried)
        harder = self._stronger_attacks()
        if harder is not None:
            reasons += harder.reasons
            tried += harder.tried
        return EvidencePart(AdversarialEvidence(trust=DiagnosisEvidence(reasons=reasons, tried=tried, harder=harder)))

    def _stronger_attacks(self) -> DiagnosisEvidence | None:
        """Return the results of stronger attacks, which ``trust`` selects, or else of an earlier check."""
        settings, attack, original = self.settings, self.module.attack, self.module.network
        if not settings.trust:
            earlier = None if settings.at_end_of_run else self.storage.evidence(AdversarialEvidence).trust
            return None if earlier is None else earlier.harder  # of the same files
        assert isinstance(attack, BudgetAttack)
        original.rule.require_exclusive("trust")
        settings.notify(f"trying {cost_of_stronger_attacks(self._valid)}")
        network = original.fast()
        return stronger_attacks(self._valid, lambda x: network(x)[0].to(x.device), attack.norm, attack.eps)

    def _measure_transfer(self) -> EvidencePart:
        """Evaluate held-out networks on the files."""
        return EvidencePart(AdversarialEvidence(transfer=robustness.transfers(self.outcomes, self.module.network)))

    @classmethod
    def scalars(cls, records: Sequence[AdversarialRecord], evidence: AdversarialEvidence) -> dict[str, float]:
        scalars = super().scalars(records, evidence)
        if evidence.robustness is not None:
            for point in evidence.robustness.points:
                scalars[f"robust/eps {point.eps}"] = point.share
        fooled: list[bool] = []
        for record in records:
            if record.status == "done":
                fooled.append(bool(record.success_file))
        if fooled:
            scalars["fooled/file"] = sum(fooled) / len(fooled)
        if evidence.trust is not None:
            scalars["trust"] = float(not evidence.trust.reasons)
        return scalars

    @classmethod
    def test_numbers(cls, module: AdversarialExample, results: Sequence[Result]) -> dict[str, float]:
        """Return the share of 8-bit files that fool the original network, and their mean norms."""
        numbers = super().test_numbers(module, results)
        records, images, goals, targeted, thresholds = [], [], [], [], []
        against: list[int] = []
        fooled_jpeg = 0
        for result in results:
            task, record = result.task, result.record
            if result.image is None or task.goal is None or record.status != "done":
                continue
            records.append(record)
            file_format = FileFormat.of(record.format)
            images.append(file_format.decode(file_format.encode(result.image)))
            goals.append(task.goal)
            targeted.append(task.target is not None)
            thresholds.append(task.threshold or 0.0)
            against.append(task.against if isinstance(task.against, int) else -1)
            fooled_jpeg += bool(getattr(record, "success_jpeg75", False))
        if not records:
            return numbers
        decided = [torch.tensor(values) for values in (goals, targeted, thresholds, against)]
        verifier = Verifier(module.network, *decided)
        fooled = verifier.success(module.network.scores(torch.stack(images), final=True).cpu())
        numbers["fooled"] = float(fooled.float().mean())
        numbers["fooled_jpeg75"] = fooled_jpeg / len(records)
        records = list(compress(records, fooled.tolist()))
        if records:
            for name in ("l2", "linf"):
                numbers[name] = sum(record.metrics[name] or 0.0 for record in records) / len(records)
        return numbers


def _verdicts(record: AdversarialRecord, values: FileValues, reason: str | None) -> dict[str, bool | None]:
    """Return the verdicts on a file; None of a file that is not as recorded or has no photograph, and of a skipped
    one."""
    if reason is not None or values.before is None or record.status == "skipped":
        return dict.fromkeys(("success_file", "success_jpeg95", "success_jpeg75"))
    return {
        "success_file": values.success,
        "success_jpeg95": values.success_after(95),
        "success_jpeg75": values.success_after(75),
    }
