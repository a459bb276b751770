"""The task queue as a Lightning data module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytorch_lightning as pl

from lit_viz.types import Task


class EndlessLoader:
    """Endless batches without data: the engine fills the slots itself, and ends the run by ``trainer.should_stop``.

    A finite loader would cost an extra step, because Lightning prefetches one batch, and would restart at batch 0 in a
    resumed run.
    """

    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0


class TaskQueue(pl.LightningDataModule):
    """The tasks of a run, in the order of their results."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)

    def setup(self, stage: str) -> None:
        """Broadcast the queue of rank 0, which alone has listed the photographs."""
        assert self.trainer is not None
        self.tasks = self.trainer.strategy.broadcast(self.tasks)

    def train_dataloader(self) -> EndlessLoader:
        """Return the endless loader."""
        return EndlessLoader()
