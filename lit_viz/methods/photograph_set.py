"""The photographs that one task owns together: what is asked of each, and which are looked at in an iteration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from lit_viz.attacks.base import is_adversarial
from lit_viz.classifiers import Classifier
from lit_viz.errors import LitVizError
from lit_viz.methods.targets import resolve, with_goal
from lit_viz.rng import Draws, Key
from lit_viz.types import Task
from lit_viz.utils.device import to_device

#: Option of a photograph's task: it is not trained on.
HELD_OUT = "held_out"


@dataclass(frozen=True)
class PhotographSet:
    """The M photographs of a task.

    Attributes:
        tasks: what is asked of each, with label and target.
        pixels: ``(C, H, W)`` each; bytes where it lies on the 8-bit lattice.
        before: logits of each ``(M, K)``, of the original network.
        goal, targeted: ``(M,)`` the class to leave or to reach, and which of the two.
        counted: ``(M,)`` bool, which are not as wanted from the start.
        held_out: ``(M,)`` bool, which are not trained on.
        broken: those that can't be asked, and why.
    """

    tasks: Sequence[Task]
    pixels: Sequence[Tensor]
    before: Tensor
    goal: Tensor
    targeted: Tensor
    counted: Tensor
    held_out: Tensor
    broken: Sequence[tuple[Task, str]]

    @property
    def trained_on(self) -> list[int]:
        """The places of those that are trained on."""
        places: list[int] = (self.counted & ~self.held_out).nonzero()[:, 0].tolist()
        return places

    def images(self, places: Sequence[int], like: Tensor) -> Tensor:
        """Return some of the photographs ``(len(places), C, H, W)`` in [0, 1]."""
        return to_device(torch.stack([_unpacked(self.pixels[place]) for place in places]), like.device, like.dtype)

    def batch(self, seed: int, iteration: int, views: int) -> list[int]:
        """Return the places of the photographs that are looked at in an iteration, one a view.

        One round through those that are trained on follows another, each in an order of its own.
        """
        among, places = self.trained_on, range(iteration * views, (iteration + 1) * views)
        return [among[_order(seed, place // len(among), len(among))[place % len(among)]] for place in places]


def read_photographs(tasks: Sequence[Task], read: Callable[[Task], Tensor], classifier: Classifier) -> PhotographSet:
    """Return the photographs of these tasks, each read and shown to the original network once.

    Args:
        tasks: one a photograph.
        read: returns its pixels ``(C, H, W)`` in [0, 1].
        classifier: which is asked.

    Raises:
        LitVizError: none of them can be trained on.
    """
    known: list[tuple[Task, Tensor, Tensor]] = []
    broken = []
    for task in tasks:
        try:
            image = read(task)
            before = classifier.logits(image[None])[0].cpu()
            known.append((with_goal(resolve(task, before, classifier.labels)), packed(image), before))
        except LitVizError as error:
            broken.append((task, str(error)))
    whole = [task for task, _, _ in known]
    goal = torch.tensor([task.goal for task in whole], dtype=torch.long)
    targeted = torch.tensor([task.target is not None for task in whole], dtype=torch.bool)
    before = torch.stack([logits for _, _, logits in known]) if known else torch.empty(0, classifier.num_classes)
    found = PhotographSet(
        tasks=whole,
        pixels=[pixels for _, pixels, _ in known],
        before=before,
        goal=goal,
        targeted=targeted,
        counted=~is_adversarial(before, goal, targeted),
        held_out=torch.tensor([bool(task.options.get(HELD_OUT)) for task in whole], dtype=torch.bool),
        broken=broken,
    )
    if not found.trained_on:
        why = f" ({broken[0][1]})" if broken else ""
        raise LitVizError(
            f"there is no photograph to train on{why}: give some that can be read and that the network is right about, "
            "that don't show the target."
        )
    return found


def packed(image: Tensor) -> Tensor:
    """Return an image as bytes, a quarter of the memory, where that loses nothing."""
    levels = (image * 255).round().to(torch.uint8)
    return levels if torch.equal(levels.float() / 255, image) else image


def _unpacked(pixels: Tensor) -> Tensor:
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


@lru_cache(maxsize=64)
def _order(seed: int, number: int, count: int) -> list[int]:
    """Return the numbers below ``count`` in the order of a round."""
    order: list[int] = Draws([Key(seed, number)]).uniform("universal/order", shape=(count,))[0].argsort().tolist()
    return order
