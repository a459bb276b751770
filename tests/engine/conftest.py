"""Fixture with a method on scalars, all of whose numbers are known, for tests of the engine without a network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_viz.engine.method import Method
from lit_viz.engine.snapshots import Snapshot
from lit_viz.errors import LitVizError
from lit_viz.networks import Network
from lit_viz.optim import Evaluation, GradientAscent
from lit_viz.outputs import load_network
from lit_viz.types import Record, Task
from tests.support.networks import smooth_network


def tasks(count: int, **options: Any) -> list[Task]:
    return [Task(index, f"task {index}", seed=10 + index, options=options) for index in range(count)]


@cache
def network() -> Network:
    return load_network(smooth_network(), size=16)


class StubMethod(Method):
    """Score ``x`` itself; task n starts at n."""

    def __init__(self, iterations: int = 4, slots: int = 2, fails: Sequence[int] = ()) -> None:
        super().__init__(
            network(),
            GradientAscent(1.0),
            iterations=iterations,
            slots=slots,
            log_at="every:2",
            curve_at="every:1",
        )
        self.fails = fails
        self.filled: list[int] = []

    @property
    def image_shape(self) -> tuple[int, ...]:
        return (1,)

    def prepare(self, device: torch.device) -> None:
        pass

    def start(self, task: Task) -> Tensor:
        if task.index in self.fails:
            raise LitVizError(f"{task.name} fails")
        return torch.full((1,), float(task.index))

    def can_batch(self, task: Task, other: Task, iteration: int) -> bool:
        return task.layer == other.layer

    def on_slots_filled(self, rows: Sequence[int]) -> None:
        self.filled += [self.slots.tasks[n].index for n in rows]

    def score(self, x: Tensor, rows: Sequence[int], *, gradient: bool, network: str = "plain") -> Evaluation:
        leaf = x.detach().requires_grad_(gradient)
        self.slots.count_evaluations(rows, forwards=1)
        return Evaluation(leaf, leaf.sum(1), leaf, metrics={"objective": leaf.detach().sum(1)})

    def snapshots(self, x: Tensor, rows: Sequence[int], *, final: bool = False) -> list[Snapshot]:
        array = torch.ones(1) if final else None
        return [self.snapshot(n, {"value": float(x[m])}, x[m], array=array) for m, n in enumerate(rows)]

    def record(self, n: int, snapshot: Snapshot, common: Record) -> Record:
        return common


@pytest.fixture(scope="session")
def stub() -> SimpleNamespace:
    """Return the class of the method, and a function that makes tasks for it."""
    return SimpleNamespace(Method=StubMethod, tasks=tasks)
