"""Evidence for saliency maps: comparison with Captum, localization and saliency metrics."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lit_viz.evidence.saliency.faithfulness import evaluate_maps
from lit_viz.evidence.verifier import EvidencePart, EvidenceSettings, OutcomeVerifier
from lit_viz.localization.objects import Localization, import_opencv, localize_run
from lit_viz.localization.reference_boxes import ReferenceBoxes, match_boxes, read_boxes
from lit_viz.methods import SaliencyMap
from lit_viz.runs.evidence import Evidence, TextEvidence
from lit_viz.runs.records import SaliencyRecord
from lit_viz.runs.results import Outcome
from lit_viz.utils.formatting import pluralize

#: Time limit of the comparison with Captum at the end of a run; ``lit-viz check`` has none.
CAPTUM_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True)
class ComparedMaps(EvidencePart):
    """The comparison with Captum, with maps of the reference by task index."""

    references: Mapping[int, Tensor]


@dataclass(frozen=True, kw_only=True)
class LocalizedMaps(EvidencePart):
    """The localization, with its masks."""

    localization: Localization


class SaliencyMapVerifier(OutcomeVerifier[SaliencyMap, SaliencyRecord]):
    """Verifier of saliency maps."""

    applicable: ClassVar[tuple[str, ...]] = ("faithfulness",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._truth: Mapping[str, ReferenceBoxes] = {}  # by the source of the photograph

    @classmethod
    def check_settings(cls, settings: EvidenceSettings) -> None:
        if reference_boxes(settings) is not None:
            import_opencv()

    def parts(self) -> Mapping[str, Callable[[], EvidencePart]]:
        parts = {
            "captum": self._compare_with_captum,
            "localization": self._localize,
        }
        if self.module.network.output.reads:
            parts["texts"] = self._read_texts
        if self.settings.faithfulness:
            parts["faithfulness"] = self._measure
        return parts

    def _compare_with_captum(self) -> EvidencePart:
        """Compare the maps with Captum's, unless the options exclude it."""
        settings, outcomes, methods = self.settings, self.outcomes, self.module.methods
        if settings.at_end_of_run and settings.captum == "none":
            return EvidencePart()
        from lit_viz.evidence.saliency.cross_check import cross_check  # imports Captum

        settings.notify(f"comparing {pluralize(len(outcomes), 'map')} with Captum")
        comparison, references = cross_check(
            outcomes,
            methods,
            self.module.network,
            seconds=self._time_limit(),
            half=settings.precision,
            notify=settings.notify,
        )
        return ComparedMaps(Evidence(captum=comparison), comparison.passed is not False, references=references)

    def _time_limit(self) -> float | None:
        """Return the seconds of the comparison with Captum; None for no limit."""
        if not self.settings.at_end_of_run:
            return None
        return run_seconds(self.outcomes) if self.settings.captum == "auto" else CAPTUM_SECONDS

    def _localize(self) -> EvidencePart:
        """Localize objects by the maps, and compare their boxes with reference boxes, if the options select it."""
        references = reference_boxes(self.settings)
        if references is None:
            return EvidencePart()
        sources = [str(outcome.record.source) for outcome in self.outcomes if outcome.record.source]
        self._truth, notes = match_boxes(references, sources)
        for note in notes:
            self.settings.notify(note)
        reducers: dict[str, str] = {}
        for name, method in self.module.methods.items():
            reducers[name] = self.module.reducer or method.reducer
        localization = localize_run(self.outcomes, reducers, self._truth, self.storage)
        return LocalizedMaps(Evidence(localization=localization.evidence()), localization=localization)

    def _read_texts(self) -> EvidencePart:
        """Compare the texts of the photographs with those that the network says or reads now."""
        read = 0
        wrong: list[str] = []
        for record, photograph in self._photographs():
            (text,) = self.module.network.read(photograph[None])
            read += 1
            if text != record.text:
                wrong.append(record.name)
                self.settings.notify(f"{record.name}: the text is {text!r}, recorded {record.text!r}")
        return EvidencePart(Evidence(texts=TextEvidence(read=read, wrong=wrong)), not wrong)

    def _photographs(self) -> Iterator[tuple[SaliencyRecord, Tensor]]:
        """Yield each photograph with a text once, with the record of its first map."""
        seen: set[Hashable] = set()
        for outcome in self.outcomes:
            record = outcome.record
            if record.text is None:
                continue
            key = (record.name, record.source, record.text)
            photograph = None if key in seen else outcome.source()
            seen.add(key)
            if photograph is not None:
                yield record, photograph

    def _measure(self) -> EvidencePart:
        """Compute the saliency metrics."""
        metrics = evaluate_maps(
            self.outcomes,
            self.module.methods,
            self.module.network,
            reducer=self.module.reducer,
            truth=self._truth,
            notify=self.settings.notify,
        )
        return EvidencePart(Evidence(faithfulness=metrics))

    @classmethod
    def scalars(cls, records: Sequence[SaliencyRecord], evidence: Evidence) -> dict[str, float]:
        scalars = super().scalars(records, evidence)
        passed = checked = 0
        if evidence.captum is not None:
            passed = sum(comparison.passed for comparison in evidence.captum.maps)
            checked = len(evidence.captum.maps)
        scalars["captum/passed"] = passed
        scalars["captum/checked"] = checked
        return scalars


def reference_boxes(settings: EvidenceSettings) -> Sequence[ReferenceBoxes] | None:
    """Return the reference boxes that the settings name; None without localization."""
    if settings.boxes is not None:
        return read_boxes(settings.boxes)
    return () if settings.localize else None


def run_seconds(outcomes: Sequence[Outcome]) -> float:
    """Return the duration of the run, between 1 and 15 seconds."""
    return min(CAPTUM_SECONDS, max(1.0, sum(outcome.record.seconds or 0.0 for outcome in outcomes)))
