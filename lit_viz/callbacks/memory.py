"""The callback that keeps a run's outcome in memory, for runs without a folder."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from lit_viz.types import Observation, Result


class Memory(Callback):
    """Keeps every observation and result; for a run of thousands give a folder instead.

    Attributes:
        observations: by task index, in order of iteration.
        results: by task index.
    """

    def __init__(self) -> None:
        self.observations: dict[int, list[Observation]] = defaultdict(list)
        self.results: dict[int, Result] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep what this step observed and finished."""
        for observation in outputs["observations"]:
            self.observations[observation.task.index].append(observation)
        for result in outputs["results"]:
            self.results[result.task.index] = result
