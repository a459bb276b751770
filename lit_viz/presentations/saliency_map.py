"""Presentation of saliency maps."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from jsonargparse import Namespace
from matplotlib.figure import Figure

from lit_viz.attributions import title_of
from lit_viz.engine.method import half_precision
from lit_viz.engine.module import ImageTraining
from lit_viz.evidence.saliency.evaluation import evaluate_maps
from lit_viz.figures.saliency import MOST, SaliencyPanel, saliency_figure
from lit_viz.figures.style import save_figure
from lit_viz.localization import localize_run
from lit_viz.localization.reference_boxes import ReferenceBoxes, match_boxes, read_boxes
from lit_viz.methods import SaliencyMap
from lit_viz.methods.records import SaliencyRecord
from lit_viz.presentations import CAPTUM_SECONDS, EvidenceSettings, Presentation, Row, format_value
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.results import Outcome, records_of
from lit_viz.types import Record
from lit_viz.utils.formatting import pluralize, probability_text

if TYPE_CHECKING:
    from lit_viz.evidence.saliency.cross_check import CrossCheck  # imports Captum

#: Duration of the first comparison with Captum: copies of the network in float64, float32 and with random weights.
_CHECK_SECONDS_PER_PARAMETER = 2e-6
_NOT_CHECKED = "not checked, since it would take longer than the run: check='captum' checks"


class SaliencyMapPresentation(Presentation):
    """Presentation of saliency maps: photographs with their maps, compared with Captum."""

    title: ClassVar[str] = "Saliency maps"
    result: ClassVar[str] = "map"
    files: ClassVar[tuple[str, ...]] = ("masks", "localization.*")
    flags: ClassVar[tuple[str, ...]] = ("--overlays", "--localize")
    resumable: ClassVar[tuple[str, ...]] = ("check",)
    evidence_options: ClassVar[tuple[str, ...]] = ("faithfulness",)
    task_options: ClassVar[Mapping[str, str]] = {"gamma": "gamma {:g}", "method": "{}"}

    def subtitle(self, record: Record) -> str:
        if not isinstance(record, SaliencyRecord):
            return ""
        method = record.method if record.layer is None else f"{record.method} of {record.layer}"
        return f"{method}, {record.title}"

    def table(self, records: Sequence[Record]) -> list[Row]:
        return [
            {
                "photograph": record.name,
                "method": record.method if isinstance(record, SaliencyRecord) else "-",
                "class": record.title if record.target_name else "-",
                "status": record.status,
                "probability": format_value(record.probability),
                "evaluations": str(record.iterations),
                "error": _error_text(record),
            }
            for record in records
        ]

    def figure(self, outcomes: Sequence[Outcome], config: Namespace) -> Figure:
        groups = _by_photograph(outcomes)
        reducers = {title_of(record.method): record.reducer for record in records_of(outcomes, SaliencyRecord)}
        classes = Counter(group[0].record.target_name for group in groups[:MOST])
        panels = [_panel(group, classes[group[0].record.target_name] > 1) for group in groups[:MOST]]
        return saliency_figure(panels, reducers, scale=config.scale, overlays=config.overlays, total=len(groups))

    def names(self, records: Sequence[Record]) -> list[str]:
        methods = [record.method if isinstance(record, SaliencyRecord) else None for record in records]
        several = len({*methods} - {None}) > 1
        return [
            f"{record.title}, {title_of(method)}" if several and method else record.title
            for record, method in zip(records, methods, strict=True)
        ]

    def scalars(self, records: Sequence[Record], evidence: Evidence) -> dict[str, float]:
        verdicts = [r.captum["passed"] for r in records if isinstance(r, SaliencyRecord) and r.captum is not None]
        checked = {"captum/passed": verdicts.count(True), "captum/checked": len(verdicts) - verdicts.count(None)}
        return {**super().scalars(records, evidence), **checked}

    def verify(
        self, module: ImageTraining, outcomes: Sequence[Outcome], folder: RunFolder | None, settings: EvidenceSettings
    ) -> bool:
        """Compare the maps with Captum's, and on request their boxes with reference boxes."""
        assert isinstance(module, SaliencyMap)
        config, notify = settings.config, settings.notify
        comparison = None
        is_limited = settings.at_end_of_run and config.check == "auto"  # to the duration of the run
        parameters = sum(parameter.numel() for parameter in module.classifier.original.parameters())
        if is_limited and _CHECK_SECONDS_PER_PARAMETER * parameters > _run_seconds(outcomes):
            maps = [outcome for outcome in outcomes if isinstance(outcome.record, SaliencyRecord)]
            for outcome in maps:
                outcome.amend(captum={"passed": None, "why": _NOT_CHECKED})
            if folder is not None:
                folder.amend(outcome.record for outcome in maps)
        elif not (settings.at_end_of_run and config.check == "none"):
            comparison = _compare_with_captum(module, outcomes, folder, settings, is_limited)
            outcomes = [outcome for outcome in outcomes if outcome.record.index not in comparison.damaged]
        tolerance = config.model.tolerance
        errors = [(r, e) for r in records_of(outcomes, SaliencyRecord) if (e := r.relative_error) is not None]
        if above := sum(tolerance is not None and not error <= tolerance for _, error in errors):
            notify(f"tolerance: {above} of {len(outcomes)} maps ended above {tolerance:g}: give more --iterations")
        noisy = Counter(r.method for r, error in errors if "standard_error" in r.metrics and not error <= 1)
        for method, count in noisy.items():
            notify(
                f"{method}: {pluralize(count, 'map')} with an error above 100% or not resolved: give more --iterations"
            )
        references = reference_boxes(config)
        truth, notes = match_boxes(references or (), (str(o.record.source) for o in outcomes if o.record.source))
        for note in notes:
            notify(note)
        if references is not None:
            from lit_viz.figures.evidence import localization_figure  # imports Captum

            reducers = {name: module.reducer or method.reducer for name, method in module.methods.items()}
            localization = localize_run(outcomes, reducers, truth, folder)
            if folder is not None and (figure := localization_figure(localization)) is not None:
                save_figure(figure, folder.path / "localization.png")
            notify(localization.sentence())
        if settings.faithfulness:
            evaluate_maps(
                outcomes,
                module.methods,
                module.classifier,
                folder,
                reducer=module.reducer,
                truth=truth,
                notify=notify,
            )
        return comparison is None or comparison.passed is not False


def reference_boxes(config: Namespace) -> Sequence[ReferenceBoxes] | None:
    """Return the reference boxes of a configuration; None without localization."""
    if config.boxes is None:
        return () if config.localize else None
    return read_boxes(config.boxes)


def _by_photograph(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    groups: dict[Hashable, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        record = outcome.record
        if record.array is not None or outcome.array() is not None:
            groups[record.name, record.source, record.seed, record.target].append(outcome)
    return list(groups.values())


def _panel(outcomes: Sequence[Outcome], is_repeated: bool) -> SaliencyPanel:
    photograph = outcomes[0].source()
    assert photograph is not None
    maps, errors = {}, {}
    for outcome in outcomes:
        if not isinstance(outcome.record, SaliencyRecord) or (attribution := outcome.array()) is None:
            continue
        title, error = title_of(outcome.record.method), _error_text(outcome.record)
        maps[title] = attribution
        if error != "-":
            errors[title] = error
    record = outcomes[0].record
    return SaliencyPanel(
        name=record.title,
        photograph=photograph,
        maps=maps,
        subtitle=_subtitle(record, is_repeated),
        uncertainty=errors,
    )


def _subtitle(record: Record, is_repeated: bool) -> str:
    """Return the probability of the class, and whether it is predicted; the photograph's name if the class is not its
    label, or that of several photographs."""
    parts = [] if record.probability is None else [probability_text(record.probability)]
    if record.target == record.label and record.label_source == "predicted":
        parts.append("predicted")
    if record.target != record.label or is_repeated:
        parts.append(f"of {record.name}")
    return ", ".join(parts)


def _error_text(record: Record) -> str:
    """Return the relative error of the samples, or the completeness gap, as the figure explains it."""
    if not isinstance(record, SaliencyRecord) or record.relative_error is None:
        return "-"
    if not math.isfinite(record.relative_error):
        return "not resolved"
    sign = "gap" if "completeness" in record.metrics else "±"
    return f"{sign} {record.relative_error:.{1 if record.relative_error < 0.1 else 0}%}"


# -- evidence


def _run_seconds(outcomes: Sequence[Outcome]) -> float:
    """Return the time that a comparison may take if it must not take longer than the run: at least one second."""
    return min(CAPTUM_SECONDS, max(1.0, sum(outcome.record.seconds or 0.0 for outcome in outcomes)))


def _compare_with_captum(
    module: SaliencyMap,
    outcomes: Sequence[Outcome],
    folder: RunFolder | None,
    settings: EvidenceSettings,
    is_limited: bool,
) -> CrossCheck:
    from lit_viz.evidence.saliency.cross_check import cross_check  # imports Captum
    from lit_viz.figures.evidence import evidence_figure

    settings.notify(f"evidence: comparing {pluralize(len(outcomes), 'map')} with Captum")
    result = cross_check(
        outcomes,
        module.methods,
        module.classifier,
        seconds=_run_seconds(outcomes) if is_limited else settings.seconds,
        is_strict=is_limited,
        half=half_precision(settings.config),
        notify=settings.notify,
    )
    by_index = result.verdicts()
    for outcome in outcomes:
        record = outcome.record
        if isinstance(record, SaliencyRecord):
            outcome.amend(captum=by_index.get(record.index))
        else:  # failed before the method made its record
            outcome.amend(extra={**record.extra, "captum": None})
    if folder is not None:
        folder.amend(outcome.record for outcome in outcomes if outcome.record.index in by_index)
        result.write(folder, outcomes)
        if (figure := evidence_figure(result, outcomes)) is not None:
            save_figure(figure, folder.path / "evidence.png")
    if not settings.at_end_of_run:
        settings.notify(result.table(outcomes, module.methods))
    settings.notify(result.sentence(None if folder is None else str(folder.path)))
    return result
