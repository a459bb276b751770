"""The ranks of a distributed run: how they share the work, and how they decide together.

``devices_mode`` selects how the ranks share the work:

- ``images``: each rank optimizes its share of the queue;
- ``views``: all ranks optimize the same images. Each evaluates its share of the views (of the rows of the batch, if an
  image has one view), and scores and gradients are summed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lit_viz.engine.heartbeat import Heartbeat, connect_store, rank_timeout
from lit_viz.engine.snapshots import Result, Snapshot
from lit_viz.errors import LitVizError

DevicesMode = Literal["images", "views"]
T = TypeVar("T")

# Ranks synchronize about once per second: a failure stops all ranks soon, at negligible cost.
_SECONDS_BETWEEN = 1.0
_MAX_STEPS_BETWEEN = 50


@dataclass(frozen=True)
class InputShard:
    """The network inputs, ordered by image and view, that one rank evaluates.

    View v belongs to rank v mod R; if an image has one view, row m of the batch belongs to rank m mod R. A rank without
    inputs evaluates the first one and does not count it.

    Attributes:
        inputs: ``(P,)`` indices into the whole batch.
        counted: ``(images * views,)`` bool, inputs that are counted on this rank.
    """

    inputs: Tensor
    counted: Tensor

    def scatter(self, rows: Tensor) -> Tensor:
        """Return the outputs ``(P, ...)`` at their indices in the whole batch, with zeros elsewhere."""
        whole = rows.new_zeros(len(self.counted), *rows.shape[1:]).index_copy(0, self.inputs.to(rows.device), rows)
        return self.mask(whole)

    def mask(self, whole: Tensor) -> Tensor:
        """Return the whole batch with zeros for inputs of the other ranks."""
        counted = self.counted.to(whole.device).view(-1, *[1] * (whole.dim() - 1))
        return torch.where(counted, whole, whole.new_zeros(()))


@dataclass(frozen=True)
class RankGroup:
    """The ranks of a run; a single one by default.

    Attributes:
        group: process group on the CPU, for objects and status.
        heartbeat: watchdog of the ranks.
    """

    rank: int = 0
    size: int = 1
    mode: DevicesMode = "images"
    group: Any = None
    heartbeat: Heartbeat | None = None

    @classmethod
    def connect(cls, mode: DevicesMode, size: int) -> RankGroup:
        """Return the ranks that Lightning has connected for a run of this world size, and watch them until
        :meth:`close`.

        A collective of the group raises an error after :func:`~lit_viz.engine.heartbeat.rank_timeout`.
        """
        if size == 1:  # a process group that was initialized outside of the run does not belong to it
            return cls(mode=mode)
        rank, size, timeout = dist.get_rank(), dist.get_world_size(), rank_timeout()
        heartbeat = Heartbeat(connect_store(), rank, size)
        # On the CPU: synchronizing never waits for a GPU, and the end of a process raises an error.
        group = dist.new_group(backend="gloo", timeout=timeout)
        heartbeat.start()
        return cls(rank, size, mode, group, heartbeat)

    def close(self) -> None:
        """End the watch."""
        if self.heartbeat is not None:
            self.heartbeat.stop()

    @property
    def shares_views(self) -> bool:
        """Whether several ranks evaluate the same images."""
        return self.size > 1 and self.mode == "views"

    def owns(self, index: int) -> bool:
        """Return whether this rank optimizes the task with this index."""
        return self.mode == "views" or index % self.size == self.rank

    def gather(self, items: list[T]) -> list[T]:
        """Return the items of all ranks on rank 0, in rank order, and nothing elsewhere.

        In mode ``views`` all ranks have the same items, and the list of rank 0 is returned.
        """
        if self.size == 1 or self.mode == "views":
            return items if self.rank == 0 else []
        if self.rank != 0:
            dist.gather_object(items, group=self.group)
            return []
        gathered: list[list[T]] = [items] * self.size
        dist.gather_object(items, gathered, group=self.group)
        return list(chain.from_iterable(gathered))

    def all_gather(self, item: T) -> list[T]:
        """Return the items of all ranks, in rank order, on every rank."""
        gathered = [item] * self.size
        if self.size > 1:
            dist.all_gather_object(gathered, item, group=self.group)
        return gathered

    def broadcast(self, item: T) -> T:
        """Return the item of rank 0 on every rank."""
        if self.size == 1:
            return item
        boxed = [item]
        dist.broadcast_object_list(boxed, group=self.group)
        return boxed[0]

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over the ranks that share views, bitwise equal on each."""
        if not self.shares_views:
            return tensor
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    def shard(self, images: int, views: int) -> InputShard | None:
        """Return the network inputs that this rank evaluates; None for all."""
        if not self.shares_views:
            return None
        inputs = torch.arange(images * views)
        divided, fallback = inputs, inputs[:1]
        if views > 1:
            divided, fallback = inputs % views, inputs[::views]
        counted = divided % self.size == self.rank
        own = inputs[counted]
        if not len(own):
            own = fallback
        return InputShard(own, counted)


@dataclass
class RankStatus:
    """Status of one rank, or of all ranks together.

    Attributes:
        unfinished: whether tasks are unfinished.
        signal: number of the signal that stops the run, or 0.
        save: whether a checkpoint is due.
        updates: updates of the images that are not finished.
        seconds: duration of the last step of a rank.
        digest: sum of the images of a rank, which are equal on all ranks in mode ``views``.
    """

    unfinished: bool = True
    signal: int = 0
    save: bool = False
    updates: int = 0
    seconds: float = 0.0
    digest: float = 0.0

    @classmethod
    def joint(cls, statuses: Sequence[RankStatus], ranks: RankGroup) -> RankStatus:
        """Combine the statuses of all ranks.

        Raises:
            LitVizError: the images of the ranks differ in mode ``views``.
        """
        joint = cls(unfinished=False)
        digests = set()
        for status in statuses:
            joint.unfinished |= status.unfinished
            joint.signal = max(joint.signal, status.signal)
            joint.save |= status.save
            joint.updates += status.updates
            digests.add(status.digest)
        if ranks.mode == "views":  # all ranks update the same images
            joint.updates = statuses[ranks.rank].updates
            if len(digests) > 1:
                raise LitVizError(
                    "images must be equal on all ranks with devices_mode='views', and differ: "
                    "use devices of one kind, or devices_mode='images'"
                )
        return joint


class RankExchange:
    """Snapshots, results and status of this rank between two synchronizations.

    A single rank synchronizes after every step.

    Attributes:
        status: status of this rank; callbacks set its ``signal`` and ``save``.
        decision: joint status of all ranks at the last synchronization; the callback that saves resets its ``save``.
        finished: status of each finished task, by index; complete on rank 0.
    """

    def __init__(self) -> None:
        self.status = RankStatus()
        self.decision = RankStatus()
        self.finished: dict[int, str] = {}
        self._snapshots: list[Snapshot] = []
        self._results: list[Result] = []
        self._steps_left = 1

    def is_due(self, snapshots: Iterable[Snapshot], results: Iterable[Result]) -> bool:
        """Add the output of a step, and return whether the ranks synchronize after it."""
        self._snapshots += snapshots
        self._results += results
        self._steps_left -= 1
        return self._steps_left <= 0

    def synchronize(self, ranks: RankGroup) -> dict[str, list[Any]]:
        """Exchange the status of all ranks.

        Returns:
            the ``snapshots`` and ``results`` of all ranks since the last exchange; empty on ranks other than 0.
        """
        statuses = ranks.all_gather(self.status)
        if ranks.size > 1:
            slowest = max(status.seconds for status in statuses)
            self._steps_left = max(1, min(_MAX_STEPS_BETWEEN, int(_SECONDS_BETWEEN / max(slowest, 1e-6))))
        self.decision = RankStatus.joint(statuses, ranks)
        self.status.save = False
        snapshots, results = ranks.gather(self._snapshots), ranks.gather(self._results)
        self._snapshots, self._results = [], []
        self.finished |= {result.task.index: result.record.status for result in results}
        return {"snapshots": snapshots, "results": results}
