"""The callback that keeps a run's outcome in memory, for runs without a folder."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from lit_viz.types import Result, Snapshot


class Memory(Callback):
    """Keeps every observation and result; for a run of thousands give a folder instead.

    Attributes:
        snapshots: by task index, in order of iteration.
        results: by task index.
    """

    def __init__(self) -> None:
        self.snapshots: dict[int, list[Snapshot]] = defaultdict(list)
        self.results: dict[int, Result] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep what this step observed and finished."""
        for snapshot in outputs["snapshots"]:
            self.snapshots[snapshot.task.index].append(snapshot)
        for result in outputs["results"]:
            self.results[result.task.index] = result
