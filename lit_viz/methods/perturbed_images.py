"""What became of the photographs that bear a perturbation: their sums with it, in 8 bits, and who is fooled by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_viz.attacks import is_adversarial
from lit_viz.attacks.norms import NORMS, Norm
from lit_viz.attacks.rounding.verification import Saved, save_and_verify
from lit_viz.classifiers import Classifier, FrozenNetwork
from lit_viz.methods.photograph_set import HELD_OUT, PhotographSet, packed
from lit_viz.types import PerturbedImage, PerturbedImageRecord, Task

_AT_ONCE = 16  # photographs that are asked about together


def borne(
    delta: Tensor, photographs: PhotographSet, classifier: Classifier, network: FrozenNetwork, norm: Norm, eps: Tensor
) -> list[PerturbedImage]:
    """Return the photographs with a perturbation, in their order, as their files would hold them.

    Args:
        delta: the perturbation ``(C, H, W)``.
        photographs: that it is added to; the sums are clipped to [0, 1].
        classifier: whose original network is asked about the 8 bits.
        network: its fast copy, which is asked about the floats.
        norm, eps: of the ball, which the 8 bits keep to; ``eps`` a scalar.
    """
    perturbed_images = [_broken(task, error) for task, error in photographs.broken]
    for first in range(0, len(photographs.tasks), _AT_ONCE):
        places = list(range(first, min(first + _AT_ONCE, len(photographs.tasks))))
        sources, goal, targeted = (
            photographs.images(places, delta),
            photographs.goal[places],
            photographs.targeted[places],
        )
        sums = (sources + delta).clamp(0, 1)
        logits = network(sums)[0].cpu()
        fooled = is_adversarial(logits, goal, targeted)
        never = torch.zeros_like(fooled)  # a repair would make the perturbation another for each photograph
        saved = save_and_verify(classifier, sums, sources, goal, targeted, never, norm=norm, eps=eps.expand(len(goal)))
        for place, one, success in zip(places, saved, fooled.tolist(), strict=True):
            record = _record(photographs, place, one, success, classifier.labels)
            perturbed_images.append(PerturbedImage(record, packed(one.image), photographs.pixels[place]))
    return sorted(perturbed_images, key=lambda perturbed_image: perturbed_image.record.index)


def rate(perturbed_images: Sequence[PerturbedImage], key: str, *, held_out: bool) -> float:
    """Return which share of the photographs that count is fooled."""
    records = [perturbed_image.record for perturbed_image in perturbed_images]
    fooled = [getattr(r, key) for r in records if r.status == "done" and r.held_out == held_out]
    return sum(fooled) / len(fooled) if fooled else float("nan")


def _record(
    photographs: PhotographSet, place: int, saved: Saved, success: bool, labels: Sequence[str]
) -> PerturbedImageRecord:
    """Return the record of a photograph."""
    task = photographs.tasks[place]
    goal, before, after = int(photographs.goal[place]), photographs.before[place], saved.logits
    return PerturbedImageRecord.make(
        **_named(task),
        status="done" if bool(photographs.counted[place]) else "skipped",
        label=task.label,
        label_source=task.label_source,
        target=task.target,
        target_name=task.target_name,
        predicted_before_name=labels[int(before.argmax())],
        label_name=None if task.label is None else labels[task.label],
        probability_before=float(before.softmax(0)[goal]),
        predicted=int(after.argmax()),
        predicted_name=labels[int(after.argmax())],
        probability=float(after.softmax(0)[goal]),
        success_float=success,
        success_file=saved.success,
        success_jpeg95=saved.success and saved.jpeg[95],
        success_jpeg75=saved.success and saved.jpeg[75],
        **{name: saved.distances[name] for name in NORMS},
    )


def _named(task: Task) -> dict[str, Any]:
    return {
        "index": task.index,
        "name": task.name,
        "source": task.source,
        "held_out": bool(task.options.get(HELD_OUT)),
    }


def _broken(task: Task, error: str) -> PerturbedImage:
    return PerturbedImage(PerturbedImageRecord(**_named(task), status="failed", error=error), None, None)
