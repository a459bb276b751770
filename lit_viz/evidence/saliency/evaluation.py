"""What are the maps of a run good for? Each is measured, beside maps that know nothing of the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from lit_viz.attributions import Attribution, attribute
from lit_viz.attributions.baselines import Baseline, Kind
from lit_viz.attributions.reducers import reduce_channels
from lit_viz.classifiers import Classifier, FrozenNetwork, layer_names
from lit_viz.errors import LitVizError
from lit_viz.evidence.saliency.agreement import random_map
from lit_viz.evidence.saliency.appraisal import MapMetrics, table
from lit_viz.evidence.saliency.faithfulness import Curve, is_pointing_hit, max_sensitivity, replacement_curve
from lit_viz.evidence.saliency.randomization import Stage, cascading_randomization
from lit_viz.images.fitting import Box
from lit_viz.localization.localization import photograph_of
from lit_viz.localization.reference_boxes import ReferenceBoxes
from lit_viz.rng import Draws, Key
from lit_viz.runs.folder import RunFolder
from lit_viz.runs.results import Outcome
from lit_viz.utils.formatting import Notify

#: Maps that know nothing of the network: noise, and the map itself half a picture away, as smooth as it was.
_CONTROLS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "random": random_map,
    "moved": lambda saliency, seed: saliency.roll([side // 2 for side in saliency.shape], (0, 1)),
}


@dataclass(frozen=True)
class Settings:
    """What is measured, and how finely.

    A map of n evaluations costs ``6 (steps + 1)`` evaluations, forward only, and ``(samples + stages) n`` of its
    method: 198 and ``14 n`` by default.

    Attributes:
        steps: of deletion and insertion.
        deleted: what is put in the place of pixels, a kind of :class:`~lit_viz.attributions.baselines.Baseline`.
        inserted: what pixels are put into; the blur is one of 10 pixels.
        samples: perturbations for the max-sensitivity.
        radius: of the perturbations, in units of [0, 1].
        stages: of the cascading randomization.
        dearest: evaluations a map, above which sensitivity and randomization are left out.
    """

    steps: int = 32
    deleted: Kind | float = "mean"
    inserted: Kind | float = "blurred"
    samples: int = 8
    radius: float = 0.02
    stages: int = 6
    dearest: int = 200

    def cost(self, evaluations: int) -> tuple[int, int]:
        """Return the evaluations for a map of so many: forward only, and of its method."""
        maps = self.samples + self.stages if evaluations <= self.dearest else 0
        return 2 * (1 + len(_CONTROLS)) * (self.steps + 1), maps * evaluations


DEFAULT = Settings()


def evaluate_maps(
    outcomes: Sequence[Outcome],
    methods: Mapping[str, Attribution],
    classifier: Classifier,
    folder: RunFolder | None,
    *,
    reducer: str | None = None,
    settings: Settings = DEFAULT,
    truth: Mapping[str, ReferenceBoxes] | None = None,
    notify: Notify,
) -> None:
    """Compute the metrics of a run's maps, report them, and write the part ``faithfulness`` of ``evidence.json``."""
    known = {outcome.record["index"]: reference_boxes_in_image(outcome, truth or {}) for outcome in outcomes}
    boxes = {index: found for index, found in known.items() if found}
    found = compute_map_metrics(
        outcomes, methods, classifier, reducer=reducer, settings=settings, boxes=boxes, notify=notify
    )
    if folder is not None:
        maps = [one.as_record() for one in found]
        folder.merge_evidence({"faithfulness": {"settings": asdict(settings), "maps": maps}})
    for line in (table(found), *dict.fromkeys(line for one in found for line in one.remarks)):
        notify(line)


def compute_map_metrics(
    outcomes: Sequence[Outcome],
    methods: Mapping[str, Attribution],
    classifier: Classifier,
    *,
    reducer: str | None = None,
    settings: Settings = DEFAULT,
    boxes: Mapping[int, Sequence[Box]] | None = None,
    notify: Notify = lambda line: None,
) -> list[MapMetrics]:
    """Measure the maps of a saliency run.

    Args:
        outcomes: of the run; those that failed are passed over.
        methods: by name, bound to the classifier.
        classifier: the network.
        reducer: how the channels become one map; the method's own unless given.
        settings: what is measured.
        boxes: true boxes in pixels of the classifier's input, by task index, for the pointing game.
        notify: is told what it will cost.
    """
    done = [outcome for outcome in outcomes if outcome.record["status"] == "done"]
    costs = [settings.cost(outcome.record["iterations"]) for outcome in done]
    forwards, more = (sum(cost[i] for cost in costs) for i in (0, 1))
    notify(f"faithfulness of {len(done)} maps: {forwards} evaluations (forward), and {more} of their methods")
    return [
        _Subject(outcome, methods[outcome.record["method"]], classifier, settings).appraised(
            reducer, (boxes or {}).get(outcome.record["index"])
        )
        for outcome in done
    ]


def reference_boxes_in_image(outcome: Outcome, truth: Mapping[str, ReferenceBoxes]) -> list[Box]:
    """Return the true boxes of a photograph in pixels of the classifier's input; what was cut off is left out."""
    known = truth.get(str(outcome.record["source"]))
    if known is None or (pixels := outcome.source()) is None:
        return []
    photograph = photograph_of(outcome.record, pixels)
    if known.size not in (None, photograph.original_size):
        return []
    height, width = pixels.shape[-2:]
    edges = torch.tensor([width, height, width, height])
    inside = [photograph.from_original(box).clamp(min=0).minimum(edges).tolist() for box in known.boxes]
    return [(left, top, right, bottom) for left, top, right, bottom in inside if left < right and top < bottom]


class _Subject:
    """A map that is measured."""

    def __init__(self, outcome: Outcome, method: Attribution, classifier: Classifier, settings: Settings) -> None:
        photograph, attribution = outcome.source(), outcome.array()
        assert photograph is not None
        assert attribution is not None
        self.record, self.method, self.classifier, self.settings = outcome.record, method, classifier, settings
        self.x, self.attribution = photograph.float().to(classifier.device), attribution
        self.seed: int = outcome.record["seed"]
        self.network = classifier.fast()

    def appraised(self, reducer: str | None, boxes: Sequence[Box] | None) -> MapMetrics:
        saliency = reduce_channels(self.attribution, reducer or self.method.reducer)[0]
        deletion, insertion = self.curves(saliency)
        controls = {name: self.curves(control(saliency, self.seed)) for name, control in _CONTROLS.items()}
        left_out, sensitivity, stages = self.left_out(), None, list[Stage]()
        if left_out is None:
            sensitivity = self.sensitivity()
            try:
                stages = self.stages()
            except LitVizError as error:
                left_out = str(error)
        return MapMetrics(
            of=self.record,
            deletion=deletion,
            insertion=insertion,
            controls={name: (deleted.area, inserted.area) for name, (deleted, inserted) in controls.items()},
            sensitivity=sensitivity,
            stages=stages,
            pointed=None if boxes is None else is_pointing_hit(saliency, boxes),
            left_out=left_out,
        )

    def score(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)[0]
        return logits.softmax(1)[:, self.record["target"]]

    def curves(self, saliency: Tensor) -> tuple[Curve, Curve]:
        x, steps = self.x, self.settings.steps
        emptied, blurred = (
            Baseline(kind)(x[None], [self.seed])[0] for kind in (self.settings.deleted, self.settings.inserted)
        )
        return (
            replacement_curve(self.score, x, emptied, saliency, steps=steps),
            replacement_curve(self.score, blurred, x, saliency, steps=steps),
        )

    def left_out(self) -> str | None:
        n, maps = self.record["iterations"], self.settings.samples + self.settings.stages
        return f"it takes {maps} more maps of {n} evaluations each" if n > self.settings.dearest else None

    def sensitivity(self) -> float:
        draws = Draws([Key(self.seed, 0, view) for view in range(self.settings.samples)], self.x.device)
        return max_sensitivity(
            partial(self.maps, self.copies(self.method.layers)),
            self.x,
            self.attribution,
            draws.scoped("max_sensitivity"),
            radius=self.settings.radius,
        )

    def stages(self) -> list[Stage]:
        return cascading_randomization(
            lambda networks: self.maps(networks, self.x[None])[0],
            self.copies(
                layer_names(self.classifier.original)
            ),  # the layers as the network has them, none folded into another
            self.attribution,
            seed=self.seed,
            stages=self.settings.stages,
        )

    def copies(self, keep: Sequence[str]) -> dict[str, FrozenNetwork]:
        return {name: self.classifier.fast(keep, backprop=name) for name in self.method.networks}

    def maps(self, networks: Mapping[str, FrozenNetwork], images: Tensor) -> Tensor:
        """Return maps made as the delivered one was, with its draws."""
        count, target = len(images), self.record["target"]
        maps, _ = attribute(
            self.method,
            networks,
            images,
            [target] * count,
            evaluations=self.record["iterations"],
            seeds=[self.seed] * count,
        )
        return maps.cpu()
