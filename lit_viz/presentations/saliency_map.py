"""Presentation of saliency maps."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.attributions import title_of
from lit_viz.evidence.saliency.faithfulness import distinct_remarks, table
from lit_viz.evidence.verifier import EvidencePart, OutcomeVerifier
from lit_viz.figures.layout import outlined
from lit_viz.figures.localization import localization_figure
from lit_viz.figures.saliency import SaliencyPanel, overlaid_maps, saliency_figure
from lit_viz.figures.scales import ScaleOf
from lit_viz.figures.style import save_figure
from lit_viz.presentations.base import FigureOptions, Presentation
from lit_viz.presentations.items import EvidenceItem
from lit_viz.presentations.tables import TableRow, format_value
from lit_viz.runs.evidence import CAPTUM, Evidence
from lit_viz.runs.records import SaliencyRecord
from lit_viz.runs.results import Outcome, records_of
from lit_viz.types import Record
from lit_viz.utils.formatting import probability_text
from lit_viz.utils.limits import MOST_PHOTOGRAPHS


class SaliencyMapPresentation(Presentation):
    """Presentation of saliency maps: photographs with their maps, compared with Captum."""

    title: ClassVar[str] = "Saliency maps"
    command: ClassVar[str] = "saliency"
    result: ClassVar[str] = "map"
    figure_is_first: ClassVar[bool] = True
    files: ClassVar[tuple[str, ...]] = ("masks", "localization.*")
    run_options: ClassVar[tuple[str, ...]] = ("scale", "overlays", "captum", "localize", "boxes")
    task_options: ClassVar[Mapping[str, str]] = {"gamma": "gamma {:g}", "method": "{}"}

    def subtitle(self, record: Record) -> str:
        if not isinstance(record, SaliencyRecord):
            return ""
        method = record.method if record.layer is None else f"{record.method} of {record.layer}"
        return f"{method}, {record.title}"

    def facets(self, record: Record, evidence: Evidence) -> dict[str, str]:
        facets = super().facets(record, evidence)
        if isinstance(record, SaliencyRecord):
            facets["method"] = title_of(record.method)
        comparison = None if evidence.captum is None else evidence.captum.by_index.get(record.index)
        if comparison is not None:
            verdict = "agrees with" if comparison.passed else "differs from"
            facets["outcome"] = f"{verdict} {comparison.reference or CAPTUM}"
        return facets

    def table(self, records: Sequence[Record]) -> list[TableRow]:
        rows = []
        for record in records:
            method = record.method if isinstance(record, SaliencyRecord) else "-"
            row = {"photograph": record.name, "method": method, "class": "-", "status": record.status}
            if record.target_name:
                row["class"] = record.title
            if record.score is None:
                row["probability"] = format_value(record.probability)
            else:
                row["score"] = format_value(record.score)
            row["evaluations"] = str(record.iterations)
            row["error"] = _error_text(record)
            rows.append(row)
        return rows

    def figure(self, outcomes: Sequence[Outcome], options: FigureOptions, evidence: Evidence | None = None) -> Figure:
        groups = _by_photograph(outcomes)
        drawn = groups[:MOST_PHOTOGRAPHS]
        reducers = {title_of(record.method): record.reducer for record in records_of(outcomes, SaliencyRecord)}
        classes = Counter([group[0].record.target_name for group in drawn])
        panels = [_panel(group, classes[group[0].record.target_name] > 1) for group in drawn]
        return saliency_figure(panels, reducers, scale=options.scale, overlays=options.overlays, total=len(groups))

    def overlays(self, outcomes: Sequence[Outcome], scale: ScaleOf) -> list[NDArray[np.uint8] | None]:
        """Return each map over its photograph; with a shared scale, that of the maps of the same method."""
        groups: dict[tuple[str, str], dict[int, tuple[Tensor, Tensor]]] = defaultdict(dict)
        for place, outcome in enumerate(outcomes):
            record, photograph, attribution = outcome.record, outcome.photograph(), outcome.array()
            if isinstance(record, SaliencyRecord) and photograph is not None and attribution is not None:
                groups[record.method, record.reducer][place] = (photograph, attribution)
        pictures: list[NDArray[np.uint8] | None] = [None] * len(outcomes)
        for (_, how), group in groups.items():
            photographs, maps = zip(*group.values(), strict=True)
            for place, picture in zip(group, overlaid_maps(photographs, maps, how, scale), strict=True):
                pictures[place] = picture
        return pictures

    def names(self, records: Sequence[Record]) -> list[str]:
        several_methods = len({record.method for record in records if isinstance(record, SaliencyRecord)}) > 1
        names = []
        for record in records:
            name = record.title
            if several_methods and isinstance(record, SaliencyRecord):
                name += f", {title_of(record.method)}"
            names.append(name)
        return names

    def evidence_items(self, evidence: Evidence, records: Sequence[Record]) -> list[EvidenceItem]:
        items = super().evidence_items(evidence, records)
        if evidence.captum is None and "captum" not in (evidence.failures or {}):
            items.insert(0, EvidenceItem("No map was compared with Captum."))
        return items

    def show(self, verifier: OutcomeVerifier[Any], name: str, part: EvidencePart) -> None:
        if name == "faithfulness":
            for text in [table(part.details), *distinct_remarks(part.details)]:
                verifier.settings.notify(text)
            return
        super().show(verifier, name, part)
        folder = verifier.storage.path
        if folder is None or part.details is None:
            return
        figure = None
        if name == "captum":
            from lit_viz.figures.agreement import agreement_figure  # imports Captum

            figure = agreement_figure(part.details, verifier.outcomes)
            file = "evidence.png"
        elif name == "localization":
            figure = localization_figure(part.details)
            file = "localization.png"
        if figure is not None:
            save_figure(figure, folder / file)


def _by_photograph(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    groups: dict[Hashable, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        record = outcome.record
        if record.array is not None or outcome.array() is not None:
            groups[record.name, record.source, record.seed, record.target].append(outcome)
    return list(groups.values())


def _panel(outcomes: Sequence[Outcome], is_repeated: bool) -> SaliencyPanel:
    photograph = outcomes[0].photograph()
    assert photograph is not None
    maps, errors, bands = {}, {}, {}
    for outcome in outcomes:
        attribution = outcome.array()
        if not isinstance(outcome.record, SaliencyRecord) or attribution is None:
            continue
        title, error = title_of(outcome.record.method), _error_text(outcome.record)
        maps[title] = attribution
        if outcome.record.bands is not None:
            bands[title] = outcome.record.bands
        if error != "-":
            errors[title] = error
    record = outcomes[0].record
    return SaliencyPanel(
        name=record.title,
        photograph=photograph,
        maps=maps,
        subtitle=_subtitle(record, is_repeated),
        uncertainty=errors,
        annotate=outlined(record),
        bands=bands,
    )


def _subtitle(record: Record, is_repeated: bool) -> str:
    """Return the probability of the class, and whether it is predicted, or the score of a number; the photograph's name
    if the class is not its label, or that of several photographs."""
    parts = []
    if record.probability is not None:
        parts.append(probability_text(record.probability))
    if record.score is not None:
        parts.append(f"score {record.score:.3g}")
    elif record.target == record.label and record.label_source == "predicted":
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
    digits = 1 if record.relative_error < 0.1 else 0
    return f"{sign} {record.relative_error:.{digits}%}"
