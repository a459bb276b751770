"""Outcomes, panels and curves for the tests of figures."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from lit_viz.engine.snapshots import Result, Snapshot
from lit_viz.evidence.attacks.robustness import RobustAccuracy
from lit_viz.figures.agreement import agreement_figure
from lit_viz.figures.evolution import Evolution
from lit_viz.figures.localization import localization_figure
from lit_viz.figures.saliency import SaliencyPanel
from lit_viz.figures.sentence import Sentence
from lit_viz.images.reading import Photograph
from lit_viz.localization.objects import Localization, LocalizedMap, Segment
from lit_viz.runs.evidence import CAPTUM, CaptumEvidence, Gate, LocalizedObject, MapAgreement, Similarity
from lit_viz.runs.memory import MemoryStorage
from lit_viz.runs.records import AdversarialRecord, LayerImageRecord, SaliencyRecord
from lit_viz.types import Task

LONG = "American Staffordshire terrier, American pit bull terrier"


def levels(seed, channels=3, size=(8, 8)):
    """Return an image of whole 255ths."""
    drawn = torch.randint(20, 236, (channels, *size), generator=torch.Generator().manual_seed(seed))
    return drawn / 255


def trace(count=10, flip=6):
    """Return curves by metric, with a first success at ``flip``."""
    ks = range(count)
    return {
        "probability": [(k, k / count) for k in ks],
        "margin": [(k, k - flip + 0.5 if flip is not None else -1.0 - k) for k in ks],
        "l2": [(k, 0.1 * k) for k in ks],
        "linf": [(k, k / 255) for k in ks],
    }


def attacked(seed=0, size=(8, 8), channels=3, *, original=None, result=None, curves=None, **fields):
    """Return the outcome of an attack with these curves and fields of its record."""
    original = levels(seed, channels, size) if original is None else original
    if result is None:
        result = (original + levels(seed + 100, channels, size).sub(0.5).mul(10).round() / 255).clamp(0, 1)
    default = {
        "name": f"image {seed}", "target": 1, "target_name": "stingray", "iterations": 12, "attack": "pgd",
        "predicted_before_name": "quail", "predicted_name": "stingray", "probability_before": 0.03,
        "metrics": {"probability": 0.41}, "success_file": True, "success_jpeg75": False,
    }  # fmt: skip
    record = AdversarialRecord(index=seed, **{**default, **fields})
    task = Task(seed, record.name, seed)
    values = {}
    for metric, curve in (trace() if curves is None else curves).items():
        for k, value in curve:
            values.setdefault(k, {})[metric] = value
    snapshots = [Snapshot(task, k, metrics) for k, metrics in sorted(values.items())]
    storage = MemoryStorage([Result(task, record, result, source=original)])
    for snapshot in snapshots:
        storage.add_snapshot(snapshot)
    return storage.outcomes()[0]


def noise(seed, *size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def panels(count, methods=("gradient",), size=(8, 8)):
    return [
        SaliencyPanel(
            f"class {n}",
            noise(n, 3, *size).sigmoid(),
            {method: (n + 1) * noise(n, 3, *size) for method in methods},
            f"explains: class {n}, p = 0.9{n}",
        )
        for n in range(count)
    ]


AGREEMENT = MapAgreement(
    index=0,
    name="",
    method="gradient",
    target_name=None,
    passed=True,
    reference=CAPTUM,
    formula=Gate(difference=2e-15, allowed=1e-8, passed=True),
    delivered=Gate(difference=1e-7, allowed=1.2e-6, captum_float32=1e-7, passed=True),
    similarity=Similarity(difference=0.0, spearman=0.99987, ssim=1.0, top_iou=1.0),
    controls={"another class": Similarity(difference=1.0, spearman=-1e-7, ssim=math.nan, top_iou=0.0)},
)


BROKEN = replace(AGREEMENT, passed=False, delivered=replace(AGREEMENT.delivered, difference=0.25, passed=False))


def outcome(index=0, array=None, name=None):
    record = SaliencyRecord(index=index, name=name or f"class {index}", method="gradient", reducer="max_abs", top5=[])
    (made,) = MemoryStorage([Result(Task(index, record.name, 0), record, array=array)]).outcomes()
    return made


def evidence_of(maps):
    return CaptumEvidence(version="1", passed=None, maps=maps, unchecked=[])


def compare(*agreements, size=(8, 8), name=None, references=None):
    """Return the figure of maps whose reference differs in one channel and one pixel."""
    outcomes, maps, kept = [], [], {}
    for index, agreement in enumerate(agreements):
        map_ = torch.randn(3, *size, generator=torch.Generator().manual_seed(index))
        reference = map_.double()
        reference[-1, 0, 0] += 2.0
        if references is not None:
            map_, reference = references[index]
        outcomes.append(outcome(index, map_, name))
        maps.append(agreement.amend(index=index))
        kept[index] = reference
    return agreement_figure(evidence_of(maps), kept, outcomes)


def localized(seed=0, size=(12, 16), **more):
    generator = torch.Generator().manual_seed(seed)
    seeds, mask = np.zeros(size, np.int8), np.zeros(size, bool)
    seeds[2, 3], seeds[0, 0], mask[2:5, 3:9] = 1, -1, True
    photograph = Photograph(torch.rand(3, *size, generator=generator), "cat.png", size, (0, 0, size[1], size[0]))
    values = torch.randn(size, generator=generator).abs()
    evidence = LocalizedObject(
        index=0,
        name="cat",
        method="gradient",
        target_name=None,
        box=[3, 2, 9, 5],
        box_in_image=[3, 2, 9, 5],
        mask=None,
        true_boxes=[[3.0, 2.0, 15.0, 5.0]],
        iou=0.5,
        iou_whole=None,
        error=None,
    )
    found = LocalizedMap(photograph, values, Segment(seeds, mask, (3, 2, 9, 5)), evidence)
    return replace(found, **more)


def without_a_box(error="the map is constant"):
    return localized(segment=None, evidence=replace(localized().evidence, true_boxes=[], iou=None, error=error))


def localization(found, name=None):
    panels = [(outcome(index, name=name), one) for index, one in enumerate(found)]
    return localization_figure(Localization([{}] * len(panels), panels))


def picture(seed, channels=3, size=16):
    return torch.rand(channels, size, size, generator=torch.Generator().manual_seed(seed))


def evolution(name="tabby", iterations=(0, 1, 50, 100, 200), channels=3, size=16):
    frames = [(k, picture(k, channels, size)) for k in iterations]
    return Evolution(name, frames, [(k, min(1.0, 0.01 + k / 200)) for k in iterations])


class ChannelOutcome:
    """An outcome as figures read it."""

    name = "features.3_ch5"

    def __init__(self, channel: int, shape: tuple[int, int] = (16, 16)) -> None:
        common = {"index": channel, "name": self.name, "metrics": {"objective_file": 1.5}, "top5": []}
        self.record = LayerImageRecord.from_dict({**common, "layer": "features.3", "channel": channel})
        self.shape = shape

    def image(self) -> torch.Tensor:
        return torch.rand(3, *self.shape, generator=torch.Generator().manual_seed(0))

    def pictures(self) -> tuple[None, torch.Tensor]:
        return None, self.image()

    def frames(self) -> list[tuple[int, torch.Tensor]]:
        return [(0, self.image()), (10, self.image())]

    def logged(self, metric: str) -> list[tuple[int, float]]:
        return {"objective": [(0, -0.2), (10, 12.34)]}.get(metric, [])


def accuracies(count: int) -> dict[str, list[RobustAccuracy]]:
    return {
        f"network {n} {LONG if n % 2 else ''}": [
            RobustAccuracy(eps / 255, round(90 / (1 + n + eps)), 100) for eps in (8, 0, 4)
        ]
        for n in range(count)
    }


def sentence(name: str, text: str, factor: float = 1.0) -> Sentence:
    parts = [f"{place} {part}" for place, part in enumerate(text.split(), 1)]
    maps = {part: factor * torch.full((1, 8, 8), place + 1.0) for place, part in enumerate(parts)}
    return Sentence(name, torch.rand(3, 8, 8), text, maps, dict.fromkeys(parts, "p = 0.93"), "Gradient")
