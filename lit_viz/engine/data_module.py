"""The data of a run: its queue of tasks. The loader is an endless tick, for the engine fills the slots itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytorch_lightning as pl

from lit_viz.types import Task


class Ticks:
    """Endless batches; the run ends by ``trainer.should_stop``.

    A loader that ended itself would cost a step too many (Lightning fetches one batch ahead) and would start again at
    0 in a resumed run.
    """

    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0


class TaskQueue(pl.LightningDataModule):
    """The tasks of a run, in the order in which their results come out."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)

    def setup(self, stage: str) -> None:
        """Take the queue of the first process, where there are several: it alone has read the photographs' list."""
        assert self.trainer is not None
        self.tasks = self.trainer.strategy.broadcast(self.tasks)

    def train_dataloader(self) -> Ticks:
        """Return the endless tick."""
        return Ticks()
