"""The meetings of a run's processes: what each has found comes together, and all decide alike how to go on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lit_viz.engine.distributed import JointDecision, LocalRequests, RankGroup, RankStatus
from lit_viz.engine.queue import Queue
from lit_viz.engine.slots import Slots
from lit_viz.types import Result, Snapshot


class RankExchange:
    """What one process brings to the meetings, and takes from them. A process alone meets itself after every step.

    Attributes:
        asked: what a callback wants of all at their next meeting: to stop (a signal) or to save.
        agreed: what all do after the last one.
        finished: by task, how it ended; known on the first process.
    """

    def __init__(self) -> None:
        self.requests = LocalRequests()
        self.decision = JointDecision()
        self.finished: dict[int, str] = {}
        self._observations: list[Snapshot] = []  # since the last meeting
        self._results: list[Result] = []

    def tell(self, snapshots: Iterable[Snapshot], results: Iterable[Result]) -> None:
        """Keep what this process has found in a step."""
        self._observations += snapshots
        self._results += results

    def hold(self, processes: RankGroup, slots: Slots, queue: Queue, *, seconds: float) -> dict[str, list[Any]]:
        """Meet if it is time, and return what was found since, on the first process what all have found.

        Args:
            processes: that meet.
            slots: of this process.
            queue: what waits for one of them.
            seconds: that its last step took.

        Returns:
            ``observations`` and ``results``; none of them between two meetings.
        """
        if not processes.meets():
            return {"snapshots": [], "results": []}
        self.decision = processes.agree(
            RankStatus(
                unfinished=bool(slots.tasks) or bool(queue),
                signal=self.requests.signal,
                save=self.requests.save,
                updates=sum(slots.iteration) + queue.updates,
                seconds=seconds,
                digest=float(slots.x.double().sum()) if processes.shares_views else 0.0,
            )
        )
        self.requests.save = False
        snapshots = processes.gather(self._observations)
        results = processes.gather(self._results)
        self._observations, self._results = [], []
        for result in results:
            self.finished[result.task.index] = result.record.status
        return {"snapshots": snapshots, "results": results}
