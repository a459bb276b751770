"""Evidence for universal perturbations: verification of the files, and fooling rates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from lit_viz.engine.snapshots import PerturbedImage, Result
from lit_viz.evidence.attacks.mismatches import RecordedFile, mismatches
from lit_viz.evidence.attacks.robustness import wilson_interval
from lit_viz.evidence.verifier import EvidencePart, OutcomeVerifier, means
from lit_viz.images.reading import read_png
from lit_viz.methods import UniversalPerturbation
from lit_viz.runs.evidence import Evidence, FileEvidence
from lit_viz.runs.records import UniversalRecord, has_several_radii, label_with_eps
from lit_viz.runs.results import Outcome, records_of
from lit_viz.types import Curve, Record

#: Tolerance of the distances, in levels, of photographs off the 8-bit lattice, which are stored rounded.
_ROUNDING = 0.5


class UniversalPerturbationVerifier(OutcomeVerifier[UniversalPerturbation]):
    """Verifier of universal perturbations; their evidence reads the files of all photographs."""

    applicable: ClassVar[tuple[str, ...]] = ("trust",)

    def parts(self) -> Mapping[str, Callable[[], EvidencePart]]:
        if self.storage.path is None:
            return {}
        return {"files": self._verify_files}

    def _verify_files(self) -> EvidencePart:
        """Compare the files of all photographs with their records, and state the fooling rates."""
        folder, settings, module = self.storage.path, self.settings, self.module
        assert folder is not None
        if settings.trust:
            settings.notify("trust: not available for universal perturbations, no stronger attack is run")
        read = 0
        wrong: list[str] = []
        rates: dict[str, list[str]] = {}
        several_radii = has_several_radii(records_of(self.outcomes))
        for outcome in self.outcomes:
            images = outcome.perturbed_images()
            stored = [image for image in images if isinstance(image.image, Path)]
            files = [_recorded_file(image, outcome.record) for image in stored]
            reasons = mismatches(files, module.network, module.capacity, folder, settings.notify)
            read += len(files)
            wrong += [image.record.name for image, reason in zip(stored, reasons, strict=True) if reason is not None]
            for image in images:
                if image.record.status == "failed":
                    settings.notify(f"{image.record.name}: {image.record.error}")
            name = label_with_eps(outcome.name, outcome.record, several_radii)
            rates[name] = fooling_rates(outcome.record) + _saturation(outcome, module.attack.objective.limit)
        if settings.at_end_of_run and settings.explain:
            settings.notify("explain does not apply to universal perturbations: lit-viz saliency explains files")
        return EvidencePart(Evidence(files=FileEvidence(read=read, wrong=wrong), universal=rates), not wrong)

    @classmethod
    def scalars(cls, records: Sequence[Record], evidence: Evidence) -> dict[str, float]:
        scalars = super().scalars(records, evidence)
        rates: dict[str, list[float]] = defaultdict(list)
        for record in records:
            if not isinstance(record, UniversalRecord):
                continue
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


def _recorded_file(image: PerturbedImage, perturbation: Record) -> RecordedFile:
    """Return a photograph's file with its record."""
    tolerance = _ROUNDING if image.record.source is None else 0.0  # photographs without a source are arrays
    return RecordedFile(Path(str(image.image)), image.record, partial(_read, image.source), perturbation, tolerance)


def _read(source: Tensor | Path | None) -> Tensor | None:
    return read_png(source) if isinstance(source, Path) and source.exists() else None


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
    return since if since is not None and since <= 0.9 * curve[-1][0] else None


def fooling_rates(record: Record) -> list[str]:
    """Return the numbers of fooled photographs; of held-out ones with the 95 % Wilson interval, which is not valid for
    photographs that the perturbation was optimized on."""
    if not isinstance(record, UniversalRecord):
        return []
    lines = [f"fools {count_text(record.fooling_rate, record.trained_on)} trained on"]
    if record.held_out and record.held_out_fooling_rate is not None:
        low, high = wilson_interval(round(record.held_out_fooling_rate * record.held_out), record.held_out)
        count = count_text(record.held_out_fooling_rate, record.held_out)
        lines.append(f"fools {count} held out (95 %: {low:.0%} to {high:.0%})")
    return lines


def count_text(rate: float | None, n: int | None) -> str:
    """Return a rate of ``n`` as a count, ``3 of 8``; ``-`` without a finite rate."""
    return f"{round(rate * n)} of {n}" if n and rate is not None and math.isfinite(rate) else "-"
