"""Evidence for saliency maps: comparison with Captum, localization and saliency metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lit_viz.attributions.reducers import reduce_channels
from lit_viz.engine.module import image_digest
from lit_viz.errors import LitVizError
from lit_viz.evidence.comparison import Readings, Scored, different_reading, different_value, report_mismatches
from lit_viz.evidence.pictures import different_picture, different_pictures
from lit_viz.evidence.saliency.faithfulness import evaluate_maps
from lit_viz.evidence.saliency.mismatches import map_mismatches
from lit_viz.evidence.verifier import EvidencePart, EvidenceSettings, OutcomeVerifier
from lit_viz.localization.objects import Localization, import_opencv, localize_run
from lit_viz.localization.reference_boxes import ReferenceBoxes, match_boxes, read_boxes
from lit_viz.methods import SaliencyMap
from lit_viz.runs.evidence import RecordEvidence, SaliencyEvidence, VerifiedFiles
from lit_viz.runs.records import SaliencyRecord
from lit_viz.runs.results import Outcome, records_of
from lit_viz.utils.files import plain
from lit_viz.utils.formatting import pluralize

#: Time limit of the comparison with Captum at the end of a run; ``lit-viz check`` has none.
CAPTUM_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True)
class ComparedMaps(EvidencePart[SaliencyEvidence]):
    """The comparison with Captum, with maps of the reference by task index."""

    references: Mapping[int, Tensor]


@dataclass(frozen=True, kw_only=True)
class LocalizedMaps(EvidencePart[SaliencyEvidence]):
    """The localization, with its masks."""

    localization: Localization


class SaliencyMapVerifier(OutcomeVerifier[SaliencyMap, SaliencyRecord, SaliencyEvidence]):
    """Verifier of saliency maps."""

    evidence_class: ClassVar[type[SaliencyEvidence]] = SaliencyEvidence
    applicable: ClassVar[tuple[str, ...]] = ("faithfulness",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._truth: Mapping[str, ReferenceBoxes] = {}  # by the source of the photograph
        self._reasons: dict[int, list[str]] = defaultdict(list)  # why records do not match, by task
        self._readings = Readings(self.module)

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
        if not self.settings.at_end_of_run:
            parts["records"] = self._verify_records
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
        return ComparedMaps(SaliencyEvidence(captum=comparison), comparison.passed is not False, references=references)

    def _time_limit(self) -> float | None:
        """Return the seconds of the comparison with Captum; None for no limit."""
        if not self.settings.at_end_of_run:
            return None
        if self.settings.captum == "auto":
            return run_seconds(self.outcomes)
        return CAPTUM_SECONDS

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
        before = records_of(self.outcomes)
        localization = localize_run(self.outcomes, reducers, self._truth, self.storage)
        self._compare_boxes(before)
        return LocalizedMaps(SaliencyEvidence(localization=localization.evidence()), localization=localization)

    def _compare_boxes(self, before: Sequence[SaliencyRecord]) -> None:
        """Compare the boxes of records, where they had some, with those that were computed again."""
        computed = {record.index: record for record in records_of(self.outcomes)}
        for record in before:
            for name in ("box", "iou"):
                recorded, value = plain(getattr(record, name)), plain(getattr(computed[record.index], name))
                if recorded is not None and recorded != value:
                    self._reasons[record.index].append(f"{name} {value}, recorded {recorded}")

    def _read_texts(self) -> EvidencePart:
        """Compare the texts of the photographs with those that the network says or reads now."""
        output = self.module.network.output
        texts: dict[str, str] = {}  # by the digest of the photograph
        wrong: dict[str, None] = {}
        for outcome in self.outcomes:
            record = outcome.record
            if record.status != "done" or record.target is None:
                continue
            photograph = outcome.source()
            if photograph is None:
                continue
            key = image_digest(photograph)
            if key not in texts:
                (texts[key],) = self.module.network.read(photograph[None])
            text = texts[key]
            agrees = output.agrees(text, record.target, is_said=True)
            stated = list(different_value(record, "text", text))
            stated += different_value(record, "text_agrees", agrees)
            if stated:
                wrong[record.name] = None
                self.settings.notify(f"{record.name}: {'; '.join(stated)}")
        return EvidencePart(SaliencyEvidence(texts=VerifiedFiles(read=len(texts), wrong=list(wrong))), not wrong)

    def _verify_records(self) -> EvidencePart:
        """Compare each record with its map, its photograph, and the prediction of the original network for it."""
        scores: dict[str, Scored] = {}  # by the digest of the photograph, which maps share
        wrong: list[tuple[str, str]] = []
        names: list[str] = []
        read = missing = 0
        for outcome in self.outcomes:
            record = outcome.record
            if record.status != "done":
                continue
            read += 1
            reasons = self._reasons[record.index]
            try:
                photograph, attribution = outcome.source(), outcome.array()
                missing += photograph is None
                scored = None if photograph is None else self._scored(photograph, record, scores)
                reasons += self._mismatches(outcome, attribution, scored)
            except LitVizError as error:
                reasons.append(str(error))
            if reasons:
                wrong.append((record.file or record.key, "; ".join(reasons)))
                names.append(record.name)
        report_mismatches(wrong, self.settings.notify)
        if missing:
            self.settings.notify(f"{pluralize(missing, 'photograph')} missing, so their predictions can't be verified")
        evidence = RecordEvidence(read=read, tasks=len(self.outcomes), missing=missing, wrong=names)
        return EvidencePart(SaliencyEvidence(records=evidence), not wrong)

    def _scored(self, photograph: Tensor, record: SaliencyRecord, scores: dict[str, Scored]) -> Scored:
        """Return the scores of a photograph, which is evaluated once."""
        key = image_digest(photograph)
        if key not in scores:
            network = self.module.network
            columns = self.module.own_columns([self.storage.task(record.index)])
            (logits,) = network.scores_alone(photograph[None].float(), columns=columns)
            scores[key] = Scored.of(network, logits.cpu())
        return scores[key]

    def _mismatches(
        self, outcome: Outcome[SaliencyRecord], attribution: Tensor | None, scored: Scored | None
    ) -> Iterator[str]:
        """Yield the differences of a record from what is computed."""
        record = outcome.record
        if attribution is None:
            yield "its map is missing"
            return
        is_in_tar = record.offset is not None
        if record.scale is not None and not is_in_tar:
            yield f"scale None, recorded {record.scale}"
        if reference_boxes(self.settings) is None and record.box is not None:
            yield f"box None, recorded {record.box}"
        if reference_boxes(self.settings) is None and record.iou is not None:
            yield f"iou None, recorded {record.iou}"
        task = self.storage.task(record.index)
        yield from map_mismatches(record, task, self.module, attribution, scored)
        yield from different_reading(record, self._readings.fields(task))
        yield from different_pictures(outcome, self.storage.path)
        if self.storage.path is not None and record.file is not None:
            yield from different_picture(self.storage.path / record.file, self._drawn(record, attribution), "the map")

    def _drawn(self, record: SaliencyRecord, attribution: Tensor) -> Tensor:
        """Return the picture of a map ``(3, H, W)``."""
        reduced = reduce_channels(attribution, record.reducer)[0]
        return self.module.picture(self.module.methods[record.method], reduced, attribution).picture

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
        return EvidencePart(SaliencyEvidence(faithfulness=metrics))

    @classmethod
    def scalars(cls, records: Sequence[SaliencyRecord], evidence: SaliencyEvidence) -> dict[str, float]:
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
