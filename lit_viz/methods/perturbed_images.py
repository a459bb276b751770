"""The photographs of a universal perturbation: reading, mini-batches, and verification of the perturbed images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lit_viz.attacks import is_adversarial
from lit_viz.attacks.norms import NORMS, Norm
from lit_viz.attacks.rounding.verification import Saved, save_and_verify
from lit_viz.classifiers import Classifier, FrozenNetwork
from lit_viz.errors import LitVizError
from lit_viz.methods.targets import check_goal, resolve
from lit_viz.rng import Draws, Key
from lit_viz.types import PerturbedImage, PerturbedImageRecord, Task
from lit_viz.utils.device import to_device

#: Option of a photograph's task: it is not trained on.
HELD_OUT = "held_out"

_CHUNK = 16  # photographs that are verified at once


@dataclass(frozen=True)
class PhotographSet:
    """The M photographs of a task.

    Attributes:
        tasks: task of each photograph, with label and target.
        pixels: ``(C, H, W)`` each; uint8 if it is on the 8-bit lattice.
        logits: ``(M, K)`` of the original network.
        goal, targeted: ``(M,)`` class to reach, or to leave if not targeted.
        counted: ``(M,)`` bool; False if the network is misled without a perturbation.
        held_out: ``(M,)`` bool; not trained on.
        failed: photographs that can't be used, with the error.
    """

    tasks: Sequence[Task]
    pixels: Sequence[Tensor]
    logits: Tensor
    goal: Tensor
    targeted: Tensor
    counted: Tensor
    held_out: Tensor
    failed: Sequence[tuple[Task, str]]

    @property
    def trained_on(self) -> list[int]:
        """Indices of the photographs that are trained on."""
        indices: list[int] = (self.counted & ~self.held_out).nonzero()[:, 0].tolist()
        return indices

    def images(self, indices: Sequence[int], like: Tensor) -> Tensor:
        """Return photographs ``(len(indices), C, H, W)`` in [0, 1], with device and dtype of ``like``."""
        return to_device(torch.stack([_to_float(self.pixels[index]) for index in indices]), like.device, like.dtype)

    def batch(self, seed: int, iteration: int, views: int) -> list[int]:
        """Return the indices of the mini-batch of an iteration: consecutive parts of shuffled epochs."""
        indices = self.trained_on
        count = len(indices)
        positions = range(iteration * views, (iteration + 1) * views)
        return [indices[_permutation(seed, p // count, count)[p % count]] for p in positions]


def read_photographs(tasks: Sequence[Task], read: Callable[[Task], Tensor], classifier: Classifier) -> PhotographSet:
    """Read photographs and evaluate each once by the original network.

    Args:
        tasks: one task per photograph.
        read: returns the pixels ``(C, H, W)`` in [0, 1] of a task.
        classifier: the classifier.

    Raises:
        LitVizError: no photograph can be trained on.
    """
    resolved: list[Task] = []
    pixels, logits, failed = [], [], []
    for task in tasks:
        try:
            image = read(task)
            row = classifier.logits(image[None])[0].cpu()
            resolved.append(check_goal(resolve(task, row, classifier.labels)))
        except LitVizError as error:
            failed.append((task, str(error)))
            continue
        pixels.append(_to_bytes(image))
        logits.append(row)
    goal = torch.tensor([task.goal for task in resolved], dtype=torch.long)
    targeted = torch.tensor([task.target is not None for task in resolved], dtype=torch.bool)
    all_logits = torch.stack(logits) if logits else torch.empty(0, classifier.num_classes)
    photographs = PhotographSet(
        tasks=resolved,
        pixels=pixels,
        logits=all_logits,
        goal=goal,
        targeted=targeted,
        counted=~is_adversarial(all_logits, goal, targeted),
        held_out=torch.tensor([bool(task.options.get(HELD_OUT)) for task in resolved], dtype=torch.bool),
        failed=failed,
    )
    if not photographs.trained_on:
        reason = f" ({failed[0][1]})" if failed else ""
        raise LitVizError(
            f"a universal perturbation requires a readable photograph that is classified correctly, and not as the "
            f"target, got none{reason}."
        )
    return photographs


def apply_perturbation(
    delta: Tensor, photographs: PhotographSet, classifier: Classifier, network: FrozenNetwork, norm: Norm, eps: Tensor
) -> list[PerturbedImage]:
    """Add a perturbation to all photographs, round them to 8 bits and verify them on the original network.

    Args:
        delta: perturbation ``(C, H, W)``.
        photographs: photographs; the sums are clipped to [0, 1].
        classifier: classifier with the original network, for the 8-bit images.
        network: its fast copy, for the images before rounding.
        norm, eps: ball that contains the rounded changes; ``eps`` is a scalar tensor.

    Returns:
        the perturbed images in the order of the photographs.
    """
    perturbed = [
        PerturbedImage(PerturbedImageRecord(**_common_fields(task), status="failed", error=error), None, None)
        for task, error in photographs.failed
    ]
    for first in range(0, len(photographs.tasks), _CHUNK):
        indices = list(range(first, min(first + _CHUNK, len(photographs.tasks))))
        sources = photographs.images(indices, delta)
        goal, targeted = photographs.goal[indices], photographs.targeted[indices]
        sums = (sources + delta).clamp(0, 1)
        fooled = is_adversarial(network(sums)[0].cpu(), goal, targeted)
        # No repair of rounding failures: it would change the perturbation of each photograph.
        no_repair = torch.zeros_like(fooled)
        saved = save_and_verify(
            classifier, sums, sources, goal, targeted, no_repair, norm=norm, eps=eps.expand(len(goal))
        )
        for index, file, success in zip(indices, saved, fooled.tolist(), strict=True):
            record = _record(photographs, index, file, success, classifier.labels)
            perturbed.append(PerturbedImage(record, _to_bytes(file.image), photographs.pixels[index]))
    return sorted(perturbed, key=lambda image: image.record.index)


def fooling_rate(images: Sequence[PerturbedImage], field: str, *, held_out: bool) -> float:
    """Return the fraction of counted photographs whose record field is true; NaN if there are none."""
    records = [image.record for image in images if image.record.status == "done"]
    fooled = [getattr(record, field) for record in records if record.held_out == held_out]
    return sum(fooled) / len(fooled) if fooled else float("nan")


def _record(
    photographs: PhotographSet, index: int, saved: Saved, success: bool, labels: Sequence[str]
) -> PerturbedImageRecord:
    task, goal = photographs.tasks[index], int(photographs.goal[index])
    before, after = photographs.logits[index], saved.logits
    return PerturbedImageRecord.make(
        **_common_fields(task),
        status="done" if bool(photographs.counted[index]) else "skipped",
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


def _common_fields(task: Task) -> dict[str, Any]:
    held_out = bool(task.options.get(HELD_OUT))
    return {"index": task.index, "name": task.name, "source": task.source, "held_out": held_out}


def _to_bytes(image: Tensor) -> Tensor:
    """Return an image as uint8 if this is lossless."""
    levels = (image * 255).round().to(torch.uint8)
    return levels if torch.equal(levels.float() / 255, image) else image


def _to_float(pixels: Tensor) -> Tensor:
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


@lru_cache(maxsize=64)
def _permutation(seed: int, epoch: int, count: int) -> list[int]:
    draws = Draws([Key(seed, epoch)]).uniform("universal/order", shape=(count,))
    permutation: list[int] = draws[0].argsort().tolist()
    return permutation
