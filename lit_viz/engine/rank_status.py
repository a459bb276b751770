"""Exchange of the rank status: results reach rank 0, and all ranks take the same decision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lit_viz.engine.distributed import RankGroup
from lit_viz.engine.queue import Queue
from lit_viz.engine.slots import Slots
from lit_viz.errors import LitVizError
from lit_viz.types import Result, Snapshot

# Ranks synchronize about once per second: a failure stops all ranks soon, at negligible cost.
_SECONDS_BETWEEN = 1.0
_MAX_STEPS_BETWEEN = 50


@dataclass
class LocalRequests:
    """Requests of one rank for the next synchronization.

    Attributes:
        signal: number of the signal that requests a stop, or 0.
        save: whether a checkpoint is due.
    """

    signal: int = 0
    save: bool = False


class RankStatus(NamedTuple):
    """Status that one rank sends to all.

    Attributes:
        unfinished: whether it has tasks left.
        signal, save: see :class:`LocalRequests`.
        updates: updates of the images in its slots and of restored images in its queue.
        seconds: duration of its last step.
        digest: sum of its images, which are equal on all ranks in mode ``views``.
    """

    unfinished: bool
    signal: int = 0
    save: bool = False
    updates: int = 0
    seconds: float = 0.0
    digest: float = 0.0


@dataclass
class JointDecision:
    """Decision of all ranks.

    Attributes:
        unfinished: whether any rank has tasks left.
        signal: number of the signal that stops the run, or 0.
        save: whether a checkpoint is due; reset by the callback that saves it.
        updates: updates of all images that are not finished.
    """

    unfinished: bool = True
    signal: int = 0
    save: bool = False
    updates: int = 0

    @classmethod
    def of(cls, statuses: Sequence[RankStatus], ranks: RankGroup) -> JointDecision:
        """Combine the statuses of all ranks.

        Raises:
            LitVizError: the images of the ranks differ in mode ``views``.
        """
        if ranks.mode == "views" and len({status.digest for status in statuses}) > 1:
            raise LitVizError(
                "images must be equal on all ranks in --devices-mode views, and differ: "
                "use devices of one kind, or --devices-mode images."
            )
        updates = [status.updates for status in statuses]
        return cls(
            unfinished=any(status.unfinished for status in statuses),
            signal=max(status.signal for status in statuses),
            save=any(status.save for status in statuses),
            updates=updates[ranks.rank] if ranks.mode == "views" else sum(updates),
        )


class RankExchange:
    """Snapshots, results and requests of this rank between two synchronizations.

    A single rank synchronizes after every step.

    Attributes:
        requests: requests of this rank for the next synchronization.
        decision: decision of the last synchronization.
        finished: status of each finished task, by index; complete on rank 0.
    """

    def __init__(self) -> None:
        self.requests = LocalRequests()
        self.decision = JointDecision()
        self.finished: dict[int, str] = {}
        self._snapshots: list[Snapshot] = []
        self._results: list[Result] = []
        self._steps_left = 1

    def add(self, snapshots: Iterable[Snapshot], results: Iterable[Result]) -> None:
        """Add the output of a step."""
        self._snapshots += snapshots
        self._results += results

    def synchronize(self, ranks: RankGroup, slots: Slots, queue: Queue, *, seconds: float) -> dict[str, list[Any]]:
        """Exchange the rank status if it is due, and return the output since the last exchange.

        Args:
            ranks: the ranks of the run.
            slots: slots of this rank.
            queue: queue of this rank.
            seconds: duration of its last step.

        Returns:
            ``snapshots`` and ``results``: of all ranks on rank 0 after an exchange, empty otherwise.
        """
        self._steps_left -= 1
        if self._steps_left > 0:
            return {"snapshots": [], "results": []}
        statuses = ranks.all_gather(
            RankStatus(
                unfinished=bool(slots.tasks) or bool(queue),
                signal=self.requests.signal,
                save=self.requests.save,
                updates=sum(slots.iteration) + queue.updates,
                seconds=seconds,
                digest=float(slots.x.double().sum()) if ranks.shares_views else 0.0,
            )
        )
        if ranks.size > 1:
            slowest = max(status.seconds for status in statuses)
            self._steps_left = max(1, min(_MAX_STEPS_BETWEEN, int(_SECONDS_BETWEEN / max(slowest, 1e-6))))
        self.decision = JointDecision.of(statuses, ranks)
        self.requests.save = False
        snapshots, results = ranks.gather(self._snapshots), ranks.gather(self._results)
        self._snapshots, self._results = [], []
        self.finished |= {result.task.index: result.record.status for result in results}
        return {"snapshots": snapshots, "results": results}
