"""Saliency metrics of the maps of a run, and of control maps that do not depend on the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_viz.attributions import Attribution, attribute, title_of
from lit_viz.attributions.baselines import Baseline
from lit_viz.attributions.reducers import reduce_channels
from lit_viz.errors import LitVizError
from lit_viz.evidence.saliency.metrics import (
    RandomizationStage,
    ReplacementCurve,
    cascading_randomization,
    is_pointing_hit,
    last_unchanged,
    map_similarity,
    max_sensitivity,
    random_map,
    replacement_curve,
)
from lit_viz.images.rasters import mask_of
from lit_viz.images.reading import Box
from lit_viz.localization.objects import box_in_image, photograph_of
from lit_viz.localization.reference_boxes import ReferenceBoxes
from lit_viz.networks import FrozenNetwork, Network, layer_names
from lit_viz.rng import Draws, Key
from lit_viz.runs.evidence import MetricsEvidence, SaliencyMetrics
from lit_viz.runs.records import SaliencyRecord
from lit_viz.runs.results import Outcome
from lit_viz.utils.formatting import Notify, ignore

#: Steps of deletion and insertion, replacement of deleted pixels, and initial image of insertion.
STEPS, DELETED, INSERTED = 32, Baseline("mean"), Baseline("blurred")
#: Perturbations of the sensitivity, and their radius in units of [0, 1].
SAMPLES, RADIUS = 8, 0.02
#: Stages of the cascading randomization.
STAGES = 6
#: Number of evaluations above which sensitivity and randomization are omitted.
DEAREST = 200
_PARAMETERS = {
    "steps": STEPS,
    "deleted": DELETED.kind,
    "inserted": INSERTED.kind,
    "samples": SAMPLES,
    "radius": RADIUS,
    "stages": STAGES,
    "dearest": DEAREST,
}
#: Control maps: noise, and the map shifted by half an image.
_CONTROLS: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "random": random_map,
    "moved": lambda saliency, seed: saliency.roll([side // 2 for side in saliency.shape], (0, 1)),
}


def evaluation_counts(evaluations: int) -> tuple[int, int]:
    """Return the number of forward passes, and of evaluations of the method, for a map of ``evaluations``."""
    maps = SAMPLES + STAGES if evaluations <= DEAREST else 0
    return 2 * (1 + len(_CONTROLS)) * (STEPS + 1), maps * evaluations


def remarks(record: SaliencyRecord, stages: Sequence[RandomizationStage], omitted: str | None) -> list[str]:
    """Return sentences about omitted metrics, and about the insensitivity of a map to the network."""
    title, last = title_of(record.method), last_unchanged(stages)
    sentences = []
    if omitted is not None:
        sentences.append(f"sensitivity and randomization of {title} omitted: {omitted}")
    if last is not None:
        layers = f"the {last.layers} uppermost layers are"
        if last.layers == 1:
            layers = "the uppermost layer is"
        elif last is stages[-1]:
            layers = "all layers are"
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
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    return round(value, 6)


def evaluate_maps(
    outcomes: Sequence[Outcome[SaliencyRecord]],
    methods: Mapping[str, Attribution],
    network: Network,
    *,
    reducer: str | None = None,
    truth: Mapping[str, ReferenceBoxes] | None = None,
    notify: Notify = ignore,
) -> MetricsEvidence:
    """Compute the metrics of the finished maps of a run. By default a map takes 198 forwards and 14 more maps.

    Args:
        outcomes: of the run.
        methods: by name, bound to the network.
        network: the network.
        reducer: of the channels; the method's default if None.
        truth: reference boxes by the ``source`` of the photograph, for the pointing game.
        notify: receives the cost.
    """
    done, forwards, evaluations = [], 0, 0
    for outcome in outcomes:
        if outcome.record.status == "done":
            passes, of_method = evaluation_counts(outcome.record.iterations or 0)
            forwards += passes
            evaluations += of_method
            done.append(outcome)
    notify(f"saliency metrics of {len(done)} maps: {forwards} forward passes, {evaluations} evaluations of the methods")
    metrics = []
    for outcome in done:
        boxes = reference_boxes_in_image(outcome, truth or {})
        metrics.append(_MeasuredMap(outcome, methods, network, reducer).metrics(boxes))
    return MetricsEvidence(settings=_PARAMETERS, maps=metrics)


def reference_boxes_in_image(outcome: Outcome[SaliencyRecord], truth: Mapping[str, ReferenceBoxes]) -> list[Box]:
    """Return the reference boxes of a photograph in pixels of the network's input, cropped to it."""
    reference, pixels = truth.get(str(outcome.record.source)), outcome.source()
    if reference is None or pixels is None:
        return []
    photograph = photograph_of(outcome.record, pixels)
    if reference.size not in (None, photograph.original_size):
        return []
    boxes = []
    for box in reference.boxes:
        left, top, right, bottom = box_in_image(photograph, box)
        if left < right and top < bottom:
            boxes.append((left, top, right, bottom))
    return boxes


class _MeasuredMap:
    """A map with what is needed to compute more maps in the same way."""

    def __init__(
        self,
        outcome: Outcome[SaliencyRecord],
        methods: Mapping[str, Attribution],
        network: Network,
        reducer: str | None,
    ) -> None:
        record, photograph, attribution = outcome.record, outcome.source(), outcome.array()
        assert photograph is not None
        assert attribution is not None
        self.record, self.method = record, methods[record.method]
        self.network, self.fast_copy, self.reducer = network, network.fast(), reducer or self.method.reducer
        self.x, self.attribution = photograph.float().to(network.device), attribution
        self.seed, self.evaluations = record.seed or 0, record.iterations or 0
        self.has_data = ~mask_of(record.no_data, network.size)
        self.with_data = self.has_data.to(network.device)

    def metrics(self, boxes: Sequence[Box]) -> SaliencyMetrics:
        saliency = reduce_channels(self.attribution, self.reducer)[0]
        deletion, insertion = self.areas(saliency)
        omitted, sensitivity, stages = None, None, list[RandomizationStage]()
        if self.evaluations > DEAREST:
            omitted = f"they take {SAMPLES + STAGES} more maps of {self.evaluations} evaluations each"
        else:
            sensitivity = self.sensitivity()
            try:
                stages = self.randomization()
            except LitVizError as error:
                omitted = str(error)
        return SaliencyMetrics.of(
            self.record,
            deletion=rounded(deletion),
            insertion=rounded(insertion),
            max_sensitivity=rounded(sensitivity),
            randomization=rounded([vars(stage) for stage in stages]),
            points_at_box=is_pointing_hit(saliency.masked_fill(~self.has_data, -torch.inf), boxes) if boxes else None,
            left_out=omitted,
            remarks=remarks(self.record, stages, omitted),
        )

    def areas(self, saliency: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the areas of deletion and of insertion, for the map and the controls, and the curve of the map."""
        deletion_curve, insertion_curve = self.curves(saliency)
        deletion: dict[str, Any] = {"area": deletion_curve.area}
        insertion: dict[str, Any] = {"area": insertion_curve.area}
        for name, control in _CONTROLS.items():
            control_deletion, control_insertion = self.curves(control(saliency, self.seed))
            deletion[name] = control_deletion.area
            insertion[name] = control_insertion.area
        deletion["curve"] = deletion_curve.scores.tolist()
        insertion["curve"] = insertion_curve.scores.tolist()
        return deletion, insertion

    def curves(self, saliency: Tensor) -> tuple[ReplacementCurve, ReplacementCurve]:
        """Return the curves of deletion and of insertion, in which pixels without data do not change."""
        neutral = self.x.clone()
        neutral[:, ~self.with_data] = self.x[:, self.with_data].mean(1, keepdim=True)
        blank = torch.where(self.with_data, DELETED(neutral[None], [self.seed])[0], self.x)
        blurred = torch.where(self.with_data, INSERTED(neutral[None], [self.seed])[0], self.x)
        deletion = replacement_curve(self.score, self.x, blank, saliency, self.has_data, steps=STEPS)
        insertion = replacement_curve(self.score, blurred, self.x, saliency, self.has_data, steps=STEPS)
        return deletion, insertion

    def score(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fast_copy(images)[0]
        return self.network.rule.values(logits)[:, self.record.target]

    def sensitivity(self) -> float:
        draws = Draws([Key(self.seed, 0, view) for view in range(SAMPLES)], self.x.device)
        copies = self.copies(self.method.layers)

        def explain(images: Tensor) -> Tensor:
            return self.maps(copies, torch.where(self.with_data, images, self.x)) * self.has_data

        scoped = draws.scoped("max_sensitivity")
        return max_sensitivity(explain, self.x, self.attribution * self.has_data, scoped, radius=RADIUS)

    def randomization(self) -> list[RandomizationStage]:
        networks = self.copies(layer_names(self.network.original))  # named layers are not folded into others
        stages = []
        for layer, count, copies in cascading_randomization(networks, self.seed, STAGES):
            attribution = self.maps(copies, self.x[None])[0]
            spearman, similarity = map_similarity(attribution, self.attribution, self.reducer, self.has_data)
            stages.append(RandomizationStage(layer, count, spearman, similarity))
        return stages

    def copies(self, keep: Sequence[str]) -> dict[str, FrozenNetwork]:
        return {name: self.network.fast(keep, backprop=name) for name in self.method.networks}

    def maps(self, networks: Mapping[str, FrozenNetwork], images: Tensor) -> Tensor:
        """Return maps computed like the delivered one, with its random draws."""
        assert self.record.target is not None
        targets, seeds = [self.record.target] * len(images), [self.seed] * len(images)
        against = None if self.record.against is None else [self.record.against] * len(images)
        maps, _ = attribute(
            self.method, networks, images, targets, evaluations=self.evaluations, seeds=seeds, against=against
        )
        return maps.cpu()
