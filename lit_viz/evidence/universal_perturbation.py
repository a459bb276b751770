"""Evidence for universal perturbations: verification of the files, and fooling rates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_viz.attacks.norms import lengths
from lit_viz.engine.snapshots import PerturbedImage, PerturbedImageRecord, Result
from lit_viz.evidence.attacks.files import RecordedFile
from lit_viz.evidence.attacks.mismatches import mismatches
from lit_viz.evidence.attacks.robustness import wilson_interval
from lit_viz.evidence.comparison import goal_task
from lit_viz.evidence.pictures import different_picture
from lit_viz.evidence.verifier import EvidencePart, OutcomeVerifier, means
from lit_viz.images.formats import PICTURE
from lit_viz.images.reading import decode, encode_png
from lit_viz.images.rendering import difference
from lit_viz.methods import UniversalPerturbation
from lit_viz.methods.photographs import resolve
from lit_viz.methods.universal_perturbation import magnification
from lit_viz.runs.evidence import FileEvidence, UniversalEvidence
from lit_viz.runs.records import UniversalRecord, has_several_radii, label_with_eps
from lit_viz.runs.results import Outcome, records_of
from lit_viz.runs.task_files import exact_image
from lit_viz.types import Curve, Picture, Record, Task
from lit_viz.utils.parts import short_name

_TOLERANCE = 1e-6  # relative, of a length, for another order of summation


class UniversalPerturbationVerifier(OutcomeVerifier[UniversalPerturbation, UniversalRecord, UniversalEvidence]):
    """Verifier of universal perturbations; their evidence reads the files of all photographs."""

    evidence_class: ClassVar[type[UniversalEvidence]] = UniversalEvidence
    applicable: ClassVar[tuple[str, ...]] = ("trust",)

    def parts(self) -> Mapping[str, Callable[[], EvidencePart]]:
        if not self.settings.reads_files:
            return {}
        return {"files": self._verify_files}

    def _verify_files(self) -> EvidencePart:
        """Compute the verdicts on the files of all photographs, compare the records with them, and state the fooling
        rates that they give."""
        settings = self.settings
        if settings.trust:
            settings.notify("trust: not available for universal perturbations, no stronger attack is run")
        read = 0
        wrong: list[str] = []
        rates: dict[str, list[str]] = {}
        amended: list[Record] = []
        several_radii = has_several_radii(records_of(self.outcomes))
        for outcome in self.outcomes:
            name, record = label_with_eps(outcome.name, outcome.record, several_radii), outcome.record
            rates[name] = []
            if record.status == "failed" and record.array is None:
                continue
            count, computed, names = self._verify(outcome, record)
            read += count
            wrong += names
            rates[name] = fooling_rates(computed) + _saturation(outcome, self.module.attack.objective.limit)
            outcome.record = _without_rates(record) if names else computed
            if outcome.record.to_dict() != record.to_dict():
                amended.append(outcome.record)
        self.storage.amend(amended)
        if settings.at_end_of_run and settings.explain:
            settings.notify("explain does not apply to universal perturbations: lit-viz saliency explains files")
        return EvidencePart(UniversalEvidence(files=FileEvidence(read=read, wrong=wrong), universal=rates), not wrong)

    def _verify(self, outcome: Outcome, record: UniversalRecord) -> tuple[int, UniversalRecord, list[str]]:
        """Return the number of files of a perturbation, its record with the rates of the files that are as recorded,
        and the names of the others."""
        module, notify = self.module, self.settings.notify
        task = self.storage.task(record.index)
        photographs = {int(fields["index"]): Task(**fields) for fields in task.photographs or ()}
        files: list[RecordedFile] = []
        wrong: list[str] = []
        images = outcome.perturbed_images()
        for image in images:
            if image.record.status == "failed":
                notify(f"{image.record.name}: {image.record.error}")
            elif image.image is not None and image.record.index in photographs:
                files.append(self._recorded_file(image, task, photographs[image.record.index]))
            else:
                wrong.append(image.record.name)
        verified: list[PerturbedImageRecord] = []
        results = mismatches(files, module.network, module.capacity, notify)
        for file, (values, reason) in zip(files, results, strict=True):
            assert isinstance(file.record, PerturbedImageRecord)
            held_out = bool(photographs[file.record.index].held_out)
            if reason is not None or file.record.held_out != held_out:
                wrong.append(file.record.name)
            else:
                verified.append(file.record.amend(success_file=values.success))
        if not wrong:
            reasons = list(self._reasons(outcome, record, [image.record for image in images]))
            if reasons:
                notify(f"{record.name} is not as recorded: {'; '.join(reasons)}")
                wrong.append(record.name)
        return len(files), _with_rates(record, verified), wrong

    def _recorded_file(self, image: PerturbedImage, task: Task, photograph: Task) -> RecordedFile:
        """Return a photograph's file with its record."""
        module, record = self.module, image.record
        return RecordedFile(
            file=record.file or record.name,
            read=partial(_file_image, image.image),
            record=record,
            source=partial(_photograph, image.source),
            resolve=partial(resolve, goal_task(module, photograph, record), labels=module.network.labels),
            norm=module.attack.norm,
            eps=self._eps(task),
        )

    def _eps(self, task: Task) -> float:
        return self.module.attack.eps if task.eps is None else float(task.eps)

    def _reasons(
        self, outcome: Outcome, record: UniversalRecord, photographs: Sequence[PerturbedImageRecord]
    ) -> Iterator[str]:
        """Yield where the record of a perturbation is not that of its photographs, its array and the attack."""
        attack = self.module.attack
        eps = self._eps(self.storage.task(record.index))
        expected = _with_rates(record, photographs)
        array = outcome.array()
        measured = {} if array is None else lengths(array.double())
        values: dict[str, Any] = {"attack": short_name(type(attack)), "norm": attack.norm.name, "eps": eps, **measured}
        values["photographs"] = len(photographs)
        values["magnified"] = magnification(attack.norm, eps)
        root = self.storage.path
        if root is not None and record.file is not None and array is not None:
            picture = difference(array, torch.zeros_like(array), values["magnified"])[0]
            yield from different_picture(root / record.file, picture, "the perturbation")
        for name in ("trained_on", "held_out", "fooling_rate", "held_out_fooling_rate"):
            values[name] = getattr(expected, name)
        for name, value in values.items():
            recorded = getattr(record, name)
            is_number = isinstance(value, float) and isinstance(recorded, float)
            if recorded != value and not (is_number and math.isclose(value, recorded, rel_tol=_TOLERANCE)):
                yield f"{name} {value}, recorded {recorded}"

    @classmethod
    def scalars(cls, records: Sequence[UniversalRecord], evidence: UniversalEvidence) -> dict[str, float]:
        scalars = super().scalars(records, evidence)
        rates: dict[str, list[float]] = defaultdict(list)
        for record in records:
            if record.fooling_rate is not None:
                rates["fooled/file"].append(record.fooling_rate)
            if record.held_out_fooling_rate is not None:
                rates["fooled/held_out"].append(record.held_out_fooling_rate)
        return scalars | means(rates)

    @classmethod
    def test_numbers(cls, module: UniversalPerturbation, results: Sequence[Result]) -> dict[str, float]:
        """Return the mean fooling rates; the files were verified when the perturbation was finished."""
        rates: dict[str, list[float]] = defaultdict(list)
        for result in results:
            for name, rate in module.finished_metrics(result.record).items():
                rates[name].append(rate)
        return super().test_numbers(module, results) | means(rates)


def _file_image(picture: Picture | None) -> Tensor | None:
    """Return the image ``(C, H, W)`` in [0, 1] of a file, or as a file has it."""
    if picture is None:
        return None
    if isinstance(picture, Path):
        return PICTURE.read(picture)
    return decode(encode_png(picture))


def _photograph(picture: Picture | None) -> Tensor | None:
    """Return a photograph ``(C, H, W)`` in [0, 1] as the network received it."""
    if isinstance(picture, Path):
        return exact_image(picture)
    if picture is None or picture.dtype != torch.uint8:
        return picture
    return picture.float() / 255


def _with_rates(record: UniversalRecord, photographs: Sequence[PerturbedImageRecord]) -> UniversalRecord:
    """Return the record of a perturbation with the fooling rates of these photographs."""
    fooled: dict[bool, list[bool]] = {False: [], True: []}  # by whether they are held out
    for photograph in photographs:
        if photograph.status == "done":
            fooled[photograph.held_out].append(bool(photograph.success_file))
    rates: dict[bool, float | None] = {}
    for part, successes in fooled.items():
        rates[part] = sum(successes) / len(successes) if successes else None
    return record.amend(
        trained_on=len(fooled[False]),
        held_out=len(fooled[True]),
        metrics={**record.metrics, "fooling_rate": rates[False]},
        held_out_fooling_rate=rates[True],
    )


def _without_rates(record: UniversalRecord) -> UniversalRecord:
    """Return the record of a perturbation whose files are not as recorded."""
    return record.amend(metrics={**record.metrics, "fooling_rate": None}, held_out_fooling_rate=None)


def _saturation(outcome: Outcome, limit: float) -> list[str]:
    since = saturated_since(outcome.logged("objective"), limit)
    if since is None:
        return []
    reason = f"the cross-entropy of every photograph is at the attack's clip {limit:g}"
    return [f"no gradient after iteration {since}: {reason}: use more photographs or a larger clip"]


def saturated_since(curve: Curve, limit: float) -> int | None:
    """Return the iteration since which the objective is at its limit and its gradient zero; None if that is less than
    the last tenth of the iterations.

    Args:
        curve: (iteration, objective).
        limit: largest value of the objective.
    """
    since = None
    for iteration, value in curve:
        if value < limit * (1 - 1e-6):
            since = None
        elif since is None:
            since = iteration
    if since is not None and since <= 0.9 * curve[-1][0]:
        return since
    return None


def fooling_rates(record: UniversalRecord) -> list[str]:
    """Return the numbers of fooled photographs; of held-out ones with the 95 % Wilson interval, which is not valid for
    photographs that the perturbation was optimized on."""
    lines = [f"fools {count_text(record.fooling_rate, record.trained_on)} trained on"]
    if record.held_out and record.held_out_fooling_rate is not None:
        low, high = wilson_interval(round(record.held_out_fooling_rate * record.held_out), record.held_out)
        count = count_text(record.held_out_fooling_rate, record.held_out)
        lines.append(f"fools {count} held out (95 %: {low:.0%} to {high:.0%})")
    return lines


def count_text(rate: float | None, n: int | None) -> str:
    """Return a rate of ``n`` as a count, ``3 of 8``; ``-`` without a finite rate."""
    if n and rate is not None and math.isfinite(rate):
        return f"{round(rate * n)} of {n}"
    return "-"
