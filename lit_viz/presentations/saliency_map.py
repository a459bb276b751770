"""Presentation of saliency maps."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from itertools import chain
from statistics import fmean
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lit_viz.attributions import title_of
from lit_viz.evidence.measures import Compared, Measure, costs, photograph_of
from lit_viz.evidence.saliency_map import ComparedMaps, LocalizedMaps
from lit_viz.evidence.verifier import EvidencePart, OutcomeVerifier
from lit_viz.figures.agreement import agreement_figure
from lit_viz.figures.layout import outlined, page_selection
from lit_viz.figures.localization import localization_figure
from lit_viz.figures.pairs import pairs_cell
from lit_viz.figures.saliency import COLUMNS, SaliencyPanel, overlaid_maps, saliency_figure
from lit_viz.figures.scales import ScaleOf, number
from lit_viz.figures.sentence import Sentence, sentence_figure
from lit_viz.figures.style import save_figure
from lit_viz.figures.tiles import saliency_tiles_figure
from lit_viz.presentations.base import FigureOptions, Presentation, Rows
from lit_viz.presentations.items import VERDICTS, EvidenceItem, listed
from lit_viz.presentations.tables import TableRow, format_value
from lit_viz.runs.evidence import (
    CAPTUM,
    NOT_CHECKED,
    ORIGINAL,
    WHOLE_MAP,
    CaptumEvidence,
    LocalizationEvidence,
    MapAgreement,
    MapEvidence,
    MetricsEvidence,
    RecordEvidence,
    SaliencyEvidence,
    SaliencyMetrics,
    VerifiedFiles,
)
from lit_viz.runs.records import SaliencyRecord
from lit_viz.runs.results import Outcome, records_of
from lit_viz.runs.stitching import tiled_images
from lit_viz.utils.formatting import pluralize, probability_text, text_table
from lit_viz.utils.limits import MOST_PRINTED, MOST_ROWS, on_page, page_count

#: Largest completeness error of a map without a note, relative to the difference of the scores.
MOST_GAP = 0.01


class SaliencyMapPresentation(Presentation[SaliencyRecord, SaliencyEvidence]):
    """Presentation of saliency maps: photographs with their maps, compared with Captum."""

    title: ClassVar[str] = "Saliency maps"
    command: ClassVar[str] = "saliency"
    result: ClassVar[str] = "map"
    files: ClassVar[tuple[str, ...]] = ("masks", "maps", "localization.*", "comparison.*")
    run_options: ClassVar[tuple[str, ...]] = (
        "scale",
        "overlays",
        "rows",
        "captum",
        "faithfulness",
        "localize",
        "boxes",
    )
    task_options: ClassVar[Mapping[str, str]] = {"gamma": "gamma {:g}", "method": "{}"}
    orders: ClassVar[Mapping[Rows, str]] = {
        "worst": ", errors and the least probable classes first",
        "best": ", the most probable classes first",
        "random": ", in random order",
    }

    def subtitle(self, record: SaliencyRecord) -> str:
        method = record.method if record.layer is None else f"{record.method} of {record.layer}"
        texts = [method, record.title]
        if record.correct is False:
            texts.append(record.prediction_text)
        return ", ".join(texts)

    def comes_first(self, record: SaliencyRecord) -> bool:
        return record.correct is False

    def quality(self, record: SaliencyRecord) -> float:
        """Return the probability, or the score, of the class, and less for an error of the network."""
        value = record.score if record.probability is None else record.probability
        if value is None or not math.isfinite(value):
            return -math.inf
        return value - (record.correct is False)

    def confusion(self, records: Sequence[SaliencyRecord]) -> list[TableRow]:
        pairs: Counter[tuple[str, str]] = Counter()
        counted: set[Hashable] = set()
        for record in records:
            photograph = (record.name, record.source, record.tile)
            if record.correct is not False or photograph in counted:
                continue
            counted.add(photograph)
            pairs[str(record.label_name), str(record.predicted_name)] += 1
        rows: list[TableRow] = []
        for (label, predicted), count in pairs.most_common():
            rows.append({"true": label, "seen as": predicted, "photographs": str(count)})
        return rows

    def facets(self, record: SaliencyRecord, evidence: SaliencyEvidence) -> dict[str, str]:
        facets = super().facets(record, evidence)
        facets["method"] = title_of(record.method)
        if record.correct is not None:
            facets["prediction"] = "correct" if record.correct else "error"
            facets["seen as"] = str(record.predicted_name)
        comparison = None if evidence.captum is None else evidence.captum.by_index.get(record.index)
        if comparison is not None:
            verdict = "agrees with" if comparison.passed else "differs from"
            facets["outcome"] = f"{verdict} {comparison.reference or CAPTUM}"
        return facets

    def table(self, records: Sequence[SaliencyRecord]) -> list[TableRow]:
        rows = []
        has_predictions = any(record.prediction_text for record in records)
        for record in records:
            row = {"photograph": record.name, "method": record.method, "class": "-", "status": record.status}
            if record.target_name:
                row["class"] = record.title
            if record.score is None:
                row["probability"] = format_value(record.probability)
            else:
                row["score"] = format_value(record.score)
            if has_predictions:
                row["prediction"] = record.prediction_text or "-"
            row["evaluations"] = str(record.iterations)
            row["error"] = _error_text(record)
            rows.append(row)
        return rows

    def pages(self, outcomes: Sequence[Outcome[SaliencyRecord]]) -> int:
        if any(image is not None for image in tiled_images(outcomes)) or _sentences(outcomes):
            return 1
        return page_count(len(_by_photograph(outcomes)), _photographs_per_page(outcomes))

    def figure(
        self,
        outcomes: Sequence[Outcome[SaliencyRecord]],
        options: FigureOptions,
        evidence: SaliencyEvidence | None = None,
    ) -> Figure:
        tiled = [image for image in tiled_images(outcomes) if image is not None]
        if tiled:
            return saliency_tiles_figure(tiled)
        sentences = _sentences(outcomes)
        if sentences:
            (how,) = _drawn_reducers(records_of(outcomes)).values()
            return sentence_figure(sentences, how, overlays=options.overlays)
        groups = options.ordered(_by_photograph(outcomes), lambda group: self.quality(group[0].record))
        per_page = _photographs_per_page(outcomes)
        panels = [_panel(group) for group in on_page(groups, options.page, per_page)]
        order = self.orders.get(options.rows, "")
        if not order and any(map(self.comes_first, records_of(outcomes))):
            order = ", errors first"
        selected = page_selection(options.page, per_page, len(groups), "photographs", order)
        reducers = _drawn_reducers(records_of(outcomes))
        return saliency_figure(panels, reducers, options.scale, options.overlays, selected=selected)

    def overlays(self, outcomes: Sequence[Outcome[SaliencyRecord]], scale: ScaleOf) -> list[NDArray[np.uint8] | None]:
        """Return each map over its photograph; with a shared scale, that of the maps of the same method."""
        groups: dict[str, dict[int, tuple[Tensor, Tensor]]] = defaultdict(dict)
        for place, outcome in enumerate(outcomes):
            record, photograph, attribution = outcome.record, outcome.photograph(), outcome.array()
            if photograph is not None and attribution is not None:
                groups[record.method][place] = (photograph, attribution)
        reducers = _drawn_reducers(records_of(outcomes))
        pictures: list[NDArray[np.uint8] | None] = [None] * len(outcomes)
        for method, group in groups.items():
            how = reducers[title_of(method)]
            photographs, maps = zip(*group.values(), strict=True)
            for place, picture in zip(group, overlaid_maps(photographs, maps, how, scale), strict=True):
                pictures[place] = picture
        return pictures

    def names(self, records: Sequence[SaliencyRecord]) -> list[str]:
        several_methods = len({record.method for record in records}) > 1
        names = []
        for record in records:
            name = record.title
            if several_methods:
                name += f", {title_of(record.method)}"
            names.append(name)
        return names

    def compared(
        self,
        outcomes: Sequence[Outcome[SaliencyRecord]],
        evidence: SaliencyEvidence,
        radii: Mapping[str, Sequence[float]],
    ) -> list[Compared]:
        """Return the methods, and the random map that is the control of the saliency metrics."""
        metrics: dict[int, Mapping[str, float | None]] = {}
        if evidence.faithfulness is not None:
            metrics = {entry.index: _metrics(entry) for entry in evidence.faithfulness.maps}
        groups: dict[str, list[SaliencyRecord]] = defaultdict(list)
        for record in records_of(outcomes):
            if record.status == "done":
                groups[record.method].append(record)
        compared: list[Compared] = []
        for method, records in groups.items():
            measures = [
                _measure("insertion", "insertion ↑", "higher", records, metrics),
                _measure("deletion", "deletion ↓", "lower", records, metrics),
                _measure("sensitivity", "sensitivity ↓", "lower", records, metrics),
                _measure("top randomized", "top randomized", None, records, metrics),
                _measure("all randomized", "all randomized", None, records, metrics),
                _measure("hit", "hit", "higher", records, metrics),
                *costs(records),
            ]
            compared.append(Compared(title_of(method), len(records), measures, records[0].settings))
        if metrics:
            first = next(iter(groups.values()))
            measures = [
                _measure("insertion", "↑ random", "higher", first, metrics),
                _measure("deletion", "↓ random", "lower", first, metrics),
            ]
            compared.append(Compared("random map (control)", len(first), measures))
        return compared

    def evidence_items(self, evidence: SaliencyEvidence, records: Sequence[SaliencyRecord]) -> list[EvidenceItem]:
        items = super().evidence_items(evidence, records)
        if evidence.captum is None and "captum" not in (evidence.failures or {}):
            items.insert(0, EvidenceItem("No map was compared with Captum.", name="captum"))
        items += _completeness_items(records)
        return items

    def part_items(self, evidence: SaliencyEvidence) -> list[EvidenceItem]:
        items: list[EvidenceItem] = []
        if evidence.captum is not None:
            items.append(_captum_item(evidence.captum))
        if evidence.faithfulness is not None:
            items.append(_metrics_item(evidence.faithfulness))
        if evidence.localization is not None:
            items.append(_localization_item(evidence.localization))
        if evidence.texts is not None:
            items.append(_texts_item(evidence.texts))
        if evidence.records is not None:
            items.append(_records_item(evidence.records))
        return items + super().part_items(evidence)

    def messages(self, verifier: OutcomeVerifier[Any, SaliencyRecord, SaliencyEvidence]) -> list[str]:
        """Return the numbers of incomplete maps, of maps above the tolerance, and of unresolved ones."""
        tolerance = verifier.module.tolerance
        above = 0
        unresolved: Counter[str] = Counter()
        for record in records_of(verifier.outcomes):
            error = record.relative_error
            if error is None:
                continue
            if tolerance is not None and not error <= tolerance:  # also NaN
                above += 1
            if "standard_error" in record.metrics and not error <= 1:
                unresolved[record.method] += 1
        texts = []
        for item in _completeness_items(records_of(verifier.outcomes)):
            texts.append(f"completeness: {item.text}")
        if above:
            total = len(verifier.outcomes)
            texts.append(f"tolerance: {above} of {total} maps ended above {tolerance:g}: give more iterations")
        for method, count in unresolved.items():
            maps = pluralize(count, "map")
            texts.append(f"{method}: {maps} with an error above 100% or not resolved: give more iterations")
        return texts

    def show(
        self,
        verifier: OutcomeVerifier[Any, SaliencyRecord, SaliencyEvidence],
        name: str,
        part: EvidencePart[SaliencyEvidence],
    ) -> None:
        super().show(verifier, name, part)
        if isinstance(part, ComparedMaps) and part.evidence is not None and not verifier.settings.at_end_of_run:
            rows: list[TableRow] = []
            for item in self.part_items(part.evidence):
                rows += item.rows
            verifier.settings.notify(text_table(rows[:MOST_PRINTED], words=5))
        folder = verifier.storage.path
        if folder is None:
            return
        figure = None
        if isinstance(part, ComparedMaps) and part.evidence is not None and part.evidence.captum is not None:
            figure = agreement_figure(part.evidence.captum, part.references, verifier.outcomes)
            file = "evidence.png"
        elif isinstance(part, LocalizedMaps):
            figure = localization_figure(part.localization)
            file = "localization.png"
        if figure is not None:
            save_figure(figure, folder / file)


def _drawn_reducers(records: Sequence[SaliencyRecord]) -> dict[str, str]:
    """Return how pictures reduce the channels, by title of the method: with both signs if a map shows them."""
    reducers: dict[str, str] = {}
    for record in records:
        title = title_of(record.method)
        if title not in reducers or record.signed:
            reducers[title] = record.drawn_reducer
    return reducers


def _sentences(outcomes: Sequence[Outcome[SaliencyRecord]]) -> list[Sentence]:
    """Return the photographs with the maps of the parts of their text by one method; none if a map is of no part."""
    groups: dict[Hashable, list[Outcome[SaliencyRecord]]] = defaultdict(list)
    methods: set[str] = set()
    for outcome in outcomes:
        record = outcome.record
        if outcome.array() is None:
            continue
        if record.place is None:
            return []
        groups[record.name, record.source].append(outcome)
        methods.add(record.method)
    if len(methods) != 1:
        return []
    sentences: list[Sentence] = []
    for group in groups.values():
        group.sort(key=lambda outcome: outcome.record.place or 0)
        sentences.append(_sentence(group))
    return sentences


def _sentence(parts: Sequence[Outcome[SaliencyRecord]]) -> Sentence:
    """Return a photograph with the maps of the parts of its text, in their order."""
    first, photograph = parts[0].record, parts[0].photograph()
    assert photograph is not None
    maps: dict[str, Any] = {}
    notes: dict[str, str] = {}
    for outcome in parts:
        record = outcome.record
        maps[record.title] = outcome.array()
        if record.probability is not None:
            notes[record.title] = probability_text(record.probability)
    return Sentence(first.name, photograph, str(first.text), maps, notes, title_of(first.method))


def _by_photograph(outcomes: Sequence[Outcome[SaliencyRecord]]) -> list[list[Outcome[SaliencyRecord]]]:
    groups: dict[Hashable, list[Outcome[SaliencyRecord]]] = defaultdict(list)
    for outcome in outcomes:
        record = outcome.record
        if record.array is not None or outcome.array() is not None:
            groups[record.name, record.source, record.seed, record.target].append(outcome)
    return sorted(groups.values(), key=_is_no_error)


def _photographs_per_page(outcomes: Sequence[Outcome[SaliencyRecord]]) -> int:
    """Return the number of photographs on a page of the figure: one a row, or of maps of one method several."""
    records = records_of(outcomes)
    has_rows = len({record.method for record in records}) > 1 or any(record.bands for record in records)
    if has_rows:
        return MOST_ROWS
    return MOST_ROWS // 2 * COLUMNS


def _is_no_error(outcomes: Sequence[Outcome[SaliencyRecord]]) -> bool:
    """Return False for a photograph that is not predicted as its label; such ones come first."""
    return outcomes[0].record.correct is not False


def _panel(outcomes: Sequence[Outcome[SaliencyRecord]]) -> SaliencyPanel:
    photograph = outcomes[0].photograph()
    assert photograph is not None
    maps, errors, bands, pairs = {}, {}, {}, None
    for outcome in outcomes:
        attribution = outcome.array()
        if attribution is None:
            continue
        title, error = title_of(outcome.record.method), _error_text(outcome.record)
        if outcome.record.has_map:
            maps[title] = attribution
        if outcome.record.bands is not None:
            bands[title] = outcome.record.bands
        if outcome.record.interactions and outcome.record.places:
            name, values = outcome.record.title, torch.as_tensor(attribution)
            pairs = pairs_cell(name, photograph, values, outcome.record.interactions, outcome.record.places)
        if error != "-":
            errors[title] = error
    record = outcomes[0].record
    return SaliencyPanel(
        name=record.title,
        photograph=photograph,
        maps=maps,
        subtitle=_subtitle(record),
        uncertainty=errors,
        annotate=outlined(record),
        bands=bands,
        pairs=pairs,
    )


def _subtitle(record: SaliencyRecord) -> str:
    """Return the probability of the class, and whether it is predicted, or the score of a number; an error
    of the network, and the photograph's name."""
    parts = []
    if record.correct is False:
        parts.append(record.prediction_text)
    if record.probability is not None:
        parts.append(probability_text(record.probability))
    if record.score is not None:
        parts.append(f"score {record.score:.3g}")
    elif record.target == record.label and record.label_source == "predicted":
        parts.append("predicted")
    if record.name != record.title:
        parts.append(f"of {record.name}")
    return ", ".join(parts)


def _error_text(record: SaliencyRecord) -> str:
    """Return the relative error of the samples, or the completeness gap, as the figure explains it."""
    if record.relative_error is None:
        return "-"
    if not math.isfinite(record.relative_error):
        return "not resolved"
    sign = "gap" if "completeness" in record.metrics else "±"
    digits = 1 if record.relative_error < 0.1 else 0
    return f"{sign} {record.relative_error:.{digits}%}"


# -- evidence


def _completeness_items(records: Sequence[SaliencyRecord]) -> list[EvidenceItem]:
    """Return a note on the methods with maps that do not sum to the difference of the scores."""
    gaps: dict[str, list[float]] = defaultdict(list)
    for record in records:
        if "completeness" in record.metrics:
            error = record.relative_error
            gaps[record.method].append(math.nan if error is None else error)
    texts = []
    for method, errors in gaps.items():
        missed = [error for error in errors if not error <= MOST_GAP]  # also NaN
        if missed:
            count = f"{len(missed)} of {pluralize(len(errors), 'map')}"
            texts.append(
                f"{title_of(method)}: the sum of {count} misses the difference "
                f"of the scores of image and baseline by more than {MOST_GAP:.0%}, by at most {max(missed):.3g} of it."
            )
    if texts:
        return [EvidenceItem(" ".join(texts), name="completeness")]
    return []


def _captum_item(part: CaptumEvidence) -> EvidenceItem:
    notes: list[str] = []
    if any(entry.unchecked == NOT_CHECKED for entry in part.unchecked):
        notes.append("lit-viz check compares the maps that were not checked.")
    if part.precision is not None and part.passed is False:
        notes.append(f"{part.precision} is less accurate than the float32 gates: use the precision 32-true.")
    for mask in part.masks or ():
        area = math.nan if mask.area is None else mask.area
        notes.append(
            f"{_map_name(mask)}: a mask of {area:.1%} of the image, with the score {format_value(mask.score)}, of the "
            f"photograph {format_value(mask.score_of_photograph)}; it is the result of an optimization, not a verdict."
        )
    rows = [_gates(entry) for entry in part.maps]
    return EvidenceItem(_captum_text(part), part.passed, rows, notes, name="captum")


def _captum_text(part: CaptumEvidence) -> str:
    """Return the verdicts on the maps in one sentence."""
    passed: dict[bool, list[bool]] = {False: [], True: []}  # by whether the original network is the reference
    for entry in part.maps:
        passed[entry.reference == ORIGINAL].append(entry.passed)
    clauses: list[str] = []
    if passed[False]:
        count = f"{sum(passed[False])} of {len(passed[False])}"
        clauses.append(f"{count} compared maps agree with Captum {part.version}".rstrip())
    if passed[True]:
        count = f"{sum(passed[True])} of {len(passed[True])}"
        clauses.append(f"{count} maps that Captum lacks agree with the original network in float64")
    if not clauses:
        clauses.append("No map was compared with Captum")
    for reason, number_of_maps in Counter(entry.unchecked for entry in part.unchecked).items():
        if reason == NOT_CHECKED:  # for lack of time
            clauses.append(f"{len(part.maps)} of {len(part.maps) + len(part.unchecked)} maps compared")
        else:
            clauses.append(f"{number_of_maps} {reason}")
    return f"{'; '.join(clauses)}."


def _gates(entry: MapAgreement) -> TableRow:
    """Return the gates of a map, its similarity, and the similarity of the closest control."""
    compared = entry.family or WHOLE_MAP
    if entry.terms is not None:
        compared = f"sum, and {entry.recomputed} of {entry.terms} terms"
    row = {
        "map": _map_name(entry),
        "method": entry.method,
        "compared": compared,
        "reference": entry.reference or CAPTUM,
        "verdict": VERDICTS[entry.passed],
        "formula in float64: difference": "",
        "sum of the terms: difference": "",
        "delivered map: difference": number(_float(entry.delivered.difference)),
        "allowed": number(_float(entry.delivered.allowed)),
        "Spearman": "",
        "most similar control": "",
    }
    if entry.formula is not None:
        row["formula in float64: difference"] = number(_float(entry.formula.difference))
    if entry.sum is not None:
        row["sum of the terms: difference"] = number(_float(entry.sum.difference))
    if entry.similarity is not None:
        row["Spearman"] = f"{_float(entry.similarity.spearman):.4f}"
        controls = [_float(control.spearman) for control in entry.controls.values()]
        if controls:  # computed for one map of each method
            row["most similar control"] = f"{max(controls):.4f}"
    return row


def _map_name(entry: MapEvidence) -> str:
    return f"{entry.name}, {entry.target_name or '-'}"


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def _metrics_item(part: MetricsEvidence) -> EvidenceItem:
    text = (
        "Saliency metrics: mean probability of the class while pixels are replaced, the most salient first, for each "
        "map, a random map and the map moved by half an image; the largest relative L2 change under small random "
        "changes of the photograph; Spearman correlation with the map of a network whose uppermost layer, or all "
        "layers, are randomized; hit: the maximum is in or within 15 pixels of a reference box."
    )
    rows: list[TableRow] = []
    by_method: dict[str, list[Mapping[str, float | None]]] = defaultdict(list)
    for entry in part.maps:
        metrics = _metrics(entry)
        by_method[entry.method].append(metrics)
        cells = {name: format_value(value) for name, value in metrics.items()}
        rows.append({"map": _map_name(entry), "method": entry.method} | cells)
    for method, of_method in by_method.items():
        if len(of_method) > 1:
            rows.append({"map": f"mean of {len(of_method)}", "method": method} | _means(of_method))
    notes = list(dict.fromkeys(chain.from_iterable(entry.remarks for entry in part.maps)))
    return EvidenceItem(text, rows=rows, notes=notes, name="faithfulness", prints_table=True)


def _metrics(entry: SaliencyMetrics) -> dict[str, float | None]:
    """Return the metrics of a map by column of the table."""
    values: dict[str, float | None] = {}
    for name, curves in {"deletion ↓": entry.deletion, "insertion ↑": entry.insertion}.items():
        values[name] = curves["area"]
        for key, area in curves.items():
            if key not in ("area", "curve"):
                values[f"{name[-1]} {key}"] = area
    values["sensitivity ↓"] = entry.max_sensitivity
    values |= {"top randomized": None, "all randomized": None}
    stages = entry.randomization
    if stages:
        values |= {"top randomized": stages[0]["spearman"], "all randomized": stages[-1]["spearman"]}
    if entry.points_at_box is not None:
        values["hit"] = float(entry.points_at_box)
    return values


def _measure(
    name: str,
    column: str,
    better: Literal["higher", "lower"] | None,
    records: Sequence[SaliencyRecord],
    metrics: Mapping[int, Mapping[str, float | None]],
) -> Measure:
    """Return a column of the saliency metrics by photograph."""
    values: dict[Hashable, float] = {}
    for record in records:
        value = metrics.get(record.index, {}).get(column)
        if value is not None:
            values[photograph_of(record)] = value
    return Measure(name, values, better)


def _means(metrics: Sequence[Mapping[str, float | None]]) -> TableRow:
    """Return the means of the finite values by column, with their number where maps are omitted."""
    row: TableRow = {}
    for name in dict.fromkeys(chain.from_iterable(metrics)):
        values = [_float(of_map.get(name)) for of_map in metrics]
        finite = list(filter(math.isfinite, values))
        row[name] = f"{fmean(finite):.3f}" if finite else "-"
        if finite and len(finite) < len(values):
            row[name] += f" ({len(finite)})"
    return row


def _texts_item(part: VerifiedFiles) -> EvidenceItem:
    count = f"Texts of {pluralize(part.read, 'photograph')} read again"
    if not part.wrong:
        return EvidenceItem(f"{count}; all are as recorded.", True, name="texts")
    return EvidenceItem(f"{count}; not as recorded: {listed(part.wrong)}.", False, name="texts")


def _records_item(part: RecordEvidence) -> EvidenceItem:
    count = f"{pluralize(part.read, 'record')} compared with their maps, and with predictions that were computed again"
    if part.missing:
        count += f" ({part.missing} without their photograph)"
    if not part.wrong:
        return EvidenceItem(f"{count}; all match.", True, name="records")
    return EvidenceItem(f"{count}; not as recorded: {listed(part.wrong)}.", False, name="records")


def _localization_item(part: LocalizationEvidence) -> EvidenceItem:
    boxes = sum(entry.box is not None for entry in part.maps)
    text = f"Boxes of {boxes} of {len(part.maps)} maps."
    shares = []
    for method, result in part.corloc.items():
        whole = f"whole photographs: {result['whole_photograph']:.0%}"
        shares.append(f"{method} {result['corloc']:.0%} of {result['maps']} ({whole})")
    if shares:
        text += f" CorLoc, IoU with a reference box ≥ {part.right_from_iou:g}: {', '.join(shares)}."
    errors = [f"{entry.name}: {entry.error}" for entry in part.maps if entry.error]
    notes = errors[:1]
    if len(errors) > 1:
        notes.append(f"{len(errors) - 1} more in evidence.json")
    return EvidenceItem(text, notes=notes, name="localization")
