"""Saliency metrics of the maps of a run, beside those of control maps that do not depend on the network."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from lit_viz.attributions import Attribution, attribute, title_of
from lit_viz.attributions.baselines import Baseline, Kind
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


@dataclass(frozen=True)
class Settings:
    """Parameters of the saliency metrics. By default a map takes 198 forward passes, and 14 further maps.

    Attributes:
        steps: of deletion and insertion.
        deleted: replacement of deleted pixels (see :class:`~lit_viz.attributions.baselines.Baseline`).
        inserted: initial image of insertion.
        samples: perturbations of the sensitivity.
        radius: of the perturbations, in units of [0, 1].
        stages: of the cascading randomization.
        dearest: number of evaluations above which sensitivity and randomization are omitted.
    """

    steps: int = 32
    deleted: Kind | float = "mean"
    inserted: Kind | float = "blurred"
    samples: int = 8
    radius: float = 0.02
    stages: int = 6
    dearest: int = 200

    def cost(self, evaluations: int) -> tuple[int, int]:
        """Return the number of forward passes, and of evaluations of the method, for a map of ``evaluations``."""
        maps = self.samples + self.stages if evaluations <= self.dearest else 0
        return 2 * (1 + len(_CONTROLS)) * (self.steps + 1), maps * evaluations


DEFAULT = Settings()


@dataclass(frozen=True)
class MapMetrics:
    """Metrics of one map.

    Attributes:
        record: of the map.
        deletion, insertion: curves of the class's probability.
        controls: areas (deletion, insertion) of the control maps, by name.
        sensitivity: None if omitted.
        stages: of the cascading randomization; empty if omitted.
        pointing_hit: result of the pointing game; None without reference boxes.
        omitted: reason why sensitivity and randomization are omitted.
    """

    record: SaliencyRecord
    deletion: Curve
    insertion: Curve
    controls: Mapping[str, tuple[float, float]]
    sensitivity: float | None = None
    stages: Sequence[Stage] = field(default_factory=list)
    pointing_hit: bool | None = None
    omitted: str | None = None

    @property
    def remarks(self) -> list[str]:
        """Omitted metrics, and insensitivity of the map to the network."""
        title, last = title_of(self.record.method), last_unchanged(self.stages)
        remarks = [] if self.omitted is None else [f"sensitivity and randomization of {title} omitted: {self.omitted}"]
        if last is not None:
            count = "all" if last is self.stages[-1] else f"the {last.layers} uppermost"
            layers = f"{count} layers are" if last.layers > 1 else "the uppermost layer is"
            remarks.append(
                f"{title} of {self.record.name} is insensitive to the network: the map does not change (Spearman "
                f"{last.spearman:.2f}) when {layers} randomized"
            )
        return remarks

    def row(self) -> dict[str, float | None]:
        """Return the row of the table."""
        areas: dict[str, float | None] = {}
        for place, (name, curve) in enumerate({"deletion ↓": self.deletion, "insertion ↑": self.insertion}.items()):
            areas[name] = curve.area
            areas |= {f"{name[-1]} {control}": values[place] for control, values in self.controls.items()}
        first, last = (self.stages[place].spearman if self.stages else None for place in (0, -1))
        hit = {} if self.pointing_hit is None else {"hit": float(self.pointing_hit)}
        return {**areas, "sensitivity ↓": self.sensitivity, "top randomized": first, "all randomized": last, **hit}

    def evidence(self) -> SaliencyMetrics:
        """Return the metrics as in ``evidence.json``."""
        curves = {
            name: {
                "area": _to_json(curve.area),
                **{control: _to_json(areas[place]) for control, areas in self.controls.items()},
                "curve": [_to_json(value) for value in curve.scores.tolist()],
            }
            for place, (name, curve) in enumerate({"deletion": self.deletion, "insertion": self.insertion}.items())
        }
        return SaliencyMetrics.of(
            self.record,
            **curves,
            max_sensitivity=_to_json(self.sensitivity),
            randomization=[{key: _to_json(value) for key, value in vars(stage).items()} for stage in self.stages],
            points_at_box=self.pointing_hit,
            left_out=self.omitted,
            remarks=self.remarks,
        )


def _to_json(value: Any) -> Any:
    """Round floats to six decimals; None if not finite."""
    if not isinstance(value, float):
        return value
    return round(value, 6) if math.isfinite(value) else None


def evaluate_maps(
    outcomes: Sequence[Outcome],
    methods: Mapping[str, Attribution],
    classifier: Classifier,
    folder: RunFolder | None = None,
    *,
    reducer: str | None = None,
    settings: Settings = DEFAULT,
    truth: Mapping[str, ReferenceBoxes] | None = None,
    notify: Notify = lambda _: None,
) -> list[MapMetrics]:
    """Compute and report the metrics of the finished maps of a run.

    Args:
        outcomes: of the run.
        methods: by name, bound to the classifier.
        classifier: the network.
        folder: run folder, for the part ``faithfulness`` of ``evidence.json``.
        reducer: of the channels; the method's default if None.
        settings: parameters of the metrics.
        truth: reference boxes by the ``source`` of the photograph, for the pointing game.
        notify: receives the cost, the table and the remarks.
    """
    done = [o for o in outcomes if isinstance(o.record, SaliencyRecord) and o.record.status == "done"]
    costs = [settings.cost(outcome.record.iterations or 0) for outcome in done]
    forwards, evaluations = (sum(cost[place] for cost in costs) for place in (0, 1))
    notify(f"saliency metrics of {len(done)} maps: {forwards} forward passes, {evaluations} evaluations of the methods")
    metrics = [
        _MeasuredMap(outcome, methods, classifier, settings).metrics(
            reducer, reference_boxes_in_image(outcome, truth or {})
        )
        for outcome in done
    ]
    if folder is not None:
        maps = [entry.evidence() for entry in metrics]
        folder.merge_evidence(Evidence(faithfulness=MetricsEvidence(settings=asdict(settings), maps=maps)))
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
        self, outcome: Outcome, methods: Mapping[str, Attribution], classifier: Classifier, settings: Settings
    ) -> None:
        record, photograph, attribution = outcome.record, outcome.source(), outcome.array()
        assert isinstance(record, SaliencyRecord)
        assert photograph is not None
        assert attribution is not None
        self.record, self.method = record, methods[record.method]
        self.classifier, self.settings, self.network = classifier, settings, classifier.fast()
        self.x, self.attribution = photograph.float().to(classifier.device), attribution
        self.seed, self.evaluations = record.seed or 0, record.iterations or 0

    def metrics(self, reducer: str | None, boxes: Sequence[Box]) -> MapMetrics:
        saliency = reduce_channels(self.attribution, reducer or self.method.reducer)[0]
        deletion, insertion = self.curves(saliency)
        controls = {name: self.curves(control(saliency, self.seed)) for name, control in _CONTROLS.items()}
        omitted, sensitivity, stages = None, None, list[Stage]()
        if self.evaluations > self.settings.dearest:
            maps = self.settings.samples + self.settings.stages
            omitted = f"they take {maps} more maps of {self.evaluations} evaluations each"
        else:
            sensitivity = self.sensitivity()
            try:
                stages = self.randomization(reducer or self.method.reducer)
            except LitVizError as error:
                omitted = str(error)
        return MapMetrics(
            record=self.record,
            deletion=deletion,
            insertion=insertion,
            controls={name: (deleted.area, inserted.area) for name, (deleted, inserted) in controls.items()},
            sensitivity=sensitivity,
            stages=stages,
            pointing_hit=is_pointing_hit(saliency, boxes) if boxes else None,
            omitted=omitted,
        )

    def curves(self, saliency: Tensor) -> tuple[Curve, Curve]:
        kinds = self.settings.deleted, self.settings.inserted
        blank, blurred = (Baseline(kind)(self.x[None], [self.seed])[0] for kind in kinds)
        deletion, insertion = (
            replacement_curve(self.score, start, end, saliency, steps=self.settings.steps)
            for start, end in ((self.x, blank), (blurred, self.x))
        )
        return deletion, insertion

    def score(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)[0]
        return probabilities(logits, multi_label=self.classifier.multi_label)[:, self.record.target]

    def sensitivity(self) -> float:
        draws = Draws([Key(self.seed, 0, view) for view in range(self.settings.samples)], self.x.device)
        explain = partial(self.maps, self.copies(self.method.layers))
        scoped = draws.scoped("max_sensitivity")
        return max_sensitivity(explain, self.x, self.attribution, scoped, radius=self.settings.radius)

    def randomization(self, reducer: str) -> list[Stage]:
        networks = self.copies(layer_names(self.classifier.original))  # named layers are not folded into others
        stages = cascading_randomization(networks, self.seed, self.settings.stages)
        return [
            Stage(layer, count, *map_similarity(self.maps(copies, self.x[None])[0], self.attribution, reducer))
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


def table(metrics: Sequence[MapMetrics]) -> str:
    """Return a table with a row per map, and a row of means per method with several maps."""
    rows = [((m.record.name, m.record.method, m.record.target_name or "-"), m.row()) for m in metrics]
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
            **{column: _format(row.get(column)) for column in columns},
        }
        for names, row in [*rows[:_MAX_ROWS], *means]
    ]
    return f"{text_table(cells, words=3)}\n{_LEGEND}"


def _mean(rows: Sequence[Mapping[str, float | None]], column: str) -> float | None:
    values = [value for row in rows if (value := row.get(column)) is not None]
    return fmean(values) if values else None


def _format(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"
