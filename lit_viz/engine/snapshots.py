"""What is seen of an image while it is trained, and of a run on its way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from lit_viz.types import PerturbedImage, Snapshot


@dataclass(frozen=True)
class Look:
    """An image as it is shown, and what the network says of just that.

    Attributes:
        image: ``(C, H, W)`` in [0, 1].
        metrics: by name; those of the last look go into the record.
        traced: where the record tells of another picture than x_k (its file): what is logged of x_k instead.
        top5: the most probable classes as (name, probability).
        array: float32 result that the image only pictures; None where the image says it all.
        source: the photograph that it belongs to, ``(C, H, W)`` in [0, 1], as the network saw it.
        extra_images: further pictures ``(3, H, W)`` of the same iteration, by name (a magnified difference).
        perturbed_images: photographs that bear what was trained, at the end.
    """

    image: Tensor
    metrics: Mapping[str, float]
    top5: tuple[tuple[str, float], ...] = ()
    traced: Mapping[str, float] | None = None
    array: Tensor | None = None
    source: Tensor | None = None
    extra_images: Mapping[str, Tensor] = field(default_factory=dict)
    perturbed_images: Sequence[PerturbedImage] = ()

    @property
    def ranking(self) -> list[list[Any]]:
        """The most probable classes as records have them."""
        return [[name, round(probability, 6)] for name, probability in self.top5]


@dataclass(frozen=True)
class RunProgress:
    """How far a run is; ``updates`` are counted over all images, ``objective`` is told where no class is asked for.

    An image that has ended (it is done, has ``failed``, or was ``skipped``) counts in ``updates_done`` with all that it
    was allowed, and in ``updates_made`` with what it took.
    """

    total: int
    ended: int
    failed: int
    skipped: int
    updates_done: int
    updates_made: int
    updates_total: int
    iteration: int
    probability: float | None = None
    objective: float | None = None


def joined(snapshots: Sequence[Snapshot], last: Snapshot) -> list[Snapshot]:
    """Return the observations with a task's last one, joined with that of the same iteration where there is one: an
    image that was found done was looked at before."""
    key = (last.task.index, last.iteration)
    same = [o for o in snapshots if (o.task.index, o.iteration) == key]
    others = [o for o in snapshots if (o.task.index, o.iteration) != key]
    metrics = {name: value for o in same for name, value in o.metrics.items()}
    return [*others, replace(last, metrics={**metrics, **last.metrics})]
