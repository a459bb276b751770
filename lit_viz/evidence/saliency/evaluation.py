"""Saliency metrics of the maps of a run, beside those of control maps that do not depend on the network."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from lit_viz.attributions import Attribution, attribute, title_of
from lit_viz.attributions.baselines import Baseline
from lit_viz.attributions.reducers import reduce_channels
from lit_viz.classifiers import Classifier, FrozenNetwork, layer_names
from lit_viz.classifiers.outputs import probabilities
from lit_viz.errors import LitVizError
from lit_viz.evidence.saliency.metrics import (
    Curve,
    Stage,
    cascading_randomization,
    is_pointing_hit,
    last_unchanged,
    map_similarity,
    max_sensitivity,
    random_map,
    replacement_curve,
)
from lit_viz.images.reading import Box
from lit_viz.localization import photograph_of
from lit_viz.localization.reference_boxes import ReferenceBoxes
from lit_viz.methods.records import SaliencyRecord
from lit_viz.rng import Draws, Key
from lit_viz.runs.evidence import Evidence, MetricsEvidence, SaliencyMetrics
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.results import Outcome
from lit_viz.utils.formatting import Notify, text_table

#: Steps of deletion and insertion, replacement of deleted pixels, and initial image of insertion.
STEPS, DELETED, INSERTED = 32, Baseline("mean"), Baseline("blurred")
#: Perturbations of the sensitivity, and their radius in units of [0, 1].
SAMPLES, RADIUS = 8, 0.02
#: Stages of the cascading randomization.
STAGES = 6
#: Number of evaluations above which sensitivity and randomization are omitted.
DEAREST = 200
#: Control maps: noise, and the map shifted by half an image.
_CONTROLS: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "random": random_map,
    "moved": lambda saliency, seed: saliency.roll([side // 2 for side in saliency.shape], (0, 1)),
}
_MAX_ROWS = 40  # of the printed table
_LEGEND = (
    "deletion, insertion: mean probability of the class while pixels are replaced, the most salient first; also for a "
    "random map and for the map moved by half an image. sensitivity: largest relative L2 change of the map under small "
    "random changes of the photograph. top, all randomized: Spearman correlation with the map of a network whose "
    "uppermost layer, or all layers, are randomized. hit: the maximum is in or within 15 pixels of a reference box."
)


def cost(evaluations: int) -> tuple[int, int]:
    """Return the number of forward passes, and of evaluations of the method, for a map of ``evaluations``."""
    maps = SAMPLES + STAGES if evaluations <= DEAREST else 0
    return 2 * (1 + len(_CONTROLS)) * (STEPS + 1), maps * evaluations


def remarks(record: SaliencyRecord, stages: Sequence[Stage], omitted: str | None) -> list[str]:
    """Return sentences about omitted metrics, and about the insensitivity of a map to the network."""
    title, last = title_of(record.method), last_unchanged(stages)
    sentences = [] if omitted is None else [f"sensitivity and randomization of {title} omitted: {omitted}"]
    if last is not None:
        count = "all" if last is stages[-1] else f"the {last.layers} uppermost"
        layers = f"{count} layers are" if last.layers > 1 else "the uppermost layer is"
        sentences.append(
            f"{title} of {record.name} is insensitive to the network: the map does not change (Spearman "
            f"{last.spearman:.2f}) when {layers} randomized"
        )
    return sentences


def rounded(value: Any) -> Any:
    """Round the floats of nested mappings and lists to six decimals; None if they are not finite."""
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value if not isinstance(value, float) else round(value, 6) if math.isfinite(value) else None


def evaluate_maps(
    outcomes: Sequence[Outcome],
    methods: Mapping[str, Attribution],
    classifier: Classifier,
    folder: RunFolder | None = None,
    *,
    reducer: str | None = None,
    truth: Mapping[str, ReferenceBoxes] | None = None,
    notify: Notify = lambda _: None,
) -> list[SaliencyMetrics]:
    """Compute and report the metrics of the finished maps of a run. By default a map takes 198 forward passes, and 14
    further maps.

    Args:
        outcomes: of the run.
        methods: by name, bound to the classifier.
        classifier: the network.
        folder: run folder, for the part ``faithfulness`` of ``evidence.json``.
        reducer: of the channels; the method's default if None.
        truth: reference boxes by the ``source`` of the photograph, for the pointing game.
        notify: receives the cost, the table and the remarks.
    """
    done = [o for o in outcomes if isinstance(o.record, SaliencyRecord) and o.record.status == "done"]
    costs = [cost(outcome.record.iterations or 0) for outcome in done]
    forwards, evaluations = (sum(cost[place] for cost in costs) for place in (0, 1))
    notify(f"saliency metrics of {len(done)} maps: {forwards} forward passes, {evaluations} evaluations of the methods")
    metrics = [
        _MeasuredMap(outcome, methods, classifier, reducer).metrics(reference_boxes_in_image(outcome, truth or {}))
        for outcome in done
    ]
    if folder is not None:
        kinds = {"deleted": DELETED.kind, "inserted": INSERTED.kind}
        settings = {"steps": STEPS, **kinds, "samples": SAMPLES, "radius": RADIUS, "stages": STAGES, "dearest": DEAREST}
        folder.merge_evidence(Evidence(faithfulness=MetricsEvidence(settings=settings, maps=metrics)))
    notify(table(metrics))
    for remark in dict.fromkeys(remark for entry in metrics for remark in entry.remarks):
        notify(remark)
    return metrics


def reference_boxes_in_image(outcome: Outcome, truth: Mapping[str, ReferenceBoxes]) -> list[Box]:
    """Return the reference boxes of a photograph in pixels of the classifier's input, cropped to it."""
    reference, pixels = truth.get(str(outcome.record.source)), outcome.source()
    if reference is None or pixels is None or not isinstance(outcome.record, SaliencyRecord):
        return []
    photograph = photograph_of(outcome.record, pixels)
    if reference.size not in (None, photograph.original_size):
        return []
    height, width = pixels.shape[-2:]
    limits = torch.tensor([width, height, width, height])
    cropped = [photograph.from_original(box).clamp(min=0).minimum(limits).tolist() for box in reference.boxes]
    return [(left, top, right, bottom) for left, top, right, bottom in cropped if left < right and top < bottom]


class _MeasuredMap:
    """A map with all that is needed to compute further maps in the same way."""

    def __init__(
        self, outcome: Outcome, methods: Mapping[str, Attribution], classifier: Classifier, reducer: str | None
    ) -> None:
        record, photograph, attribution = outcome.record, outcome.source(), outcome.array()
        assert isinstance(record, SaliencyRecord)
        assert photograph is not None
        assert attribution is not None
        self.record, self.method = record, methods[record.method]
        self.classifier, self.network, self.reducer = classifier, classifier.fast(), reducer or self.method.reducer
        self.x, self.attribution = photograph.float().to(classifier.device), attribution
        self.seed, self.evaluations = record.seed or 0, record.iterations or 0

    def metrics(self, boxes: Sequence[Box]) -> SaliencyMetrics:
        saliency = reduce_channels(self.attribution, self.reducer)[0]
        curves = self.curves(saliency)
        controls = {name: self.curves(control(saliency, self.seed)) for name, control in _CONTROLS.items()}
        omitted, sensitivity, stages = None, None, list[Stage]()
        if self.evaluations > DEAREST:
            omitted = f"they take {SAMPLES + STAGES} more maps of {self.evaluations} evaluations each"
        else:
            sensitivity = self.sensitivity()
            try:
                stages = self.randomization()
            except LitVizError as error:
                omitted = str(error)
        deletion, insertion = (
            {
                "area": curves[place].area,
                **{name: control[place].area for name, control in controls.items()},
                "curve": curves[place].scores.tolist(),
            }
            for place in (0, 1)
        )
        return SaliencyMetrics.of(
            self.record,
            deletion=rounded(deletion),
            insertion=rounded(insertion),
            max_sensitivity=rounded(sensitivity),
            randomization=rounded([vars(stage) for stage in stages]),
            points_at_box=is_pointing_hit(saliency, boxes) if boxes else None,
            left_out=omitted,
            remarks=remarks(self.record, stages, omitted),
        )

    def curves(self, saliency: Tensor) -> tuple[Curve, Curve]:
        blank, blurred = (baseline(self.x[None], [self.seed])[0] for baseline in (DELETED, INSERTED))
        deletion, insertion = (
            replacement_curve(self.score, start, end, saliency, steps=STEPS)
            for start, end in ((self.x, blank), (blurred, self.x))
        )
        return deletion, insertion

    def score(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)[0]
        return probabilities(logits, multi_label=self.classifier.multi_label)[:, self.record.target]

    def sensitivity(self) -> float:
        draws = Draws([Key(self.seed, 0, view) for view in range(SAMPLES)], self.x.device)
        explain = partial(self.maps, self.copies(self.method.layers))
        scoped = draws.scoped("max_sensitivity")
        return max_sensitivity(explain, self.x, self.attribution, scoped, radius=RADIUS)

    def randomization(self) -> list[Stage]:
        networks = self.copies(layer_names(self.classifier.original))  # named layers are not folded into others
        stages = cascading_randomization(networks, self.seed, STAGES)
        return [
            Stage(layer, count, *map_similarity(self.maps(copies, self.x[None])[0], self.attribution, self.reducer))
            for layer, count, copies in stages
        ]

    def copies(self, keep: Sequence[str]) -> dict[str, FrozenNetwork]:
        return {name: self.classifier.fast(keep, backprop=name) for name in self.method.networks}

    def maps(self, networks: Mapping[str, FrozenNetwork], images: Tensor) -> Tensor:
        """Return maps computed like the delivered one, with its random draws."""
        assert self.record.target is not None
        targets, seeds = [self.record.target] * len(images), [self.seed] * len(images)
        against = None if self.record.against is None else [self.record.against] * len(images)
        maps, _ = attribute(
            self.method, networks, images, targets, evaluations=self.evaluations, seeds=seeds, against=against
        )
        return maps.cpu()


def table(metrics: Sequence[SaliencyMetrics]) -> str:
    """Return a table with a row per map, and a row of means per method with several maps."""
    rows = [((m.name, m.method, m.target_name or "-"), _row(m)) for m in metrics]
    by_method: dict[str, list[dict[str, float | None]]] = defaultdict(list)
    for (_, method, _), row in rows:
        by_method[method].append(row)
    columns = dict.fromkeys(column for _, row in rows for column in row)
    means = [
        ((f"mean of {len(of_method)}", method, ""), {column: _mean(of_method, column) for column in columns})
        for method, of_method in by_method.items()
        if len(of_method) > 1
    ]
    cells = [
        {
            **dict(zip(("photograph", "method", "class"), names, strict=True)),
            **{column: "-" if (value := row.get(column)) is None else f"{value:.3f}" for column in columns},
        }
        for names, row in [*rows[:_MAX_ROWS], *means]
    ]
    return f"{text_table(cells, words=3)}\n{_LEGEND}"


def _row(metrics: SaliencyMetrics) -> dict[str, float | None]:
    areas: dict[str, float | None] = {}
    for name, values in {"deletion ↓": metrics.deletion, "insertion ↑": metrics.insertion}.items():
        areas |= {name: values["area"], **{f"{name[-1]} {control}": values[control] for control in _CONTROLS}}
    stages = metrics.randomization
    first, last = (stages[place]["spearman"] if stages else None for place in (0, -1))
    hit = {} if metrics.points_at_box is None else {"hit": float(metrics.points_at_box)}
    return {**areas, "sensitivity ↓": metrics.max_sensitivity, "top randomized": first, "all randomized": last, **hit}


def _mean(rows: Sequence[Mapping[str, float | None]], column: str) -> float | None:
    values = [value for row in rows if (value := row.get(column)) is not None]
    return fmean(values) if values else None
