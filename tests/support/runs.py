"""Tasks, results and outcomes, without a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lit_viz.networks import Network
from lit_viz.runs.memory import MemoryStorage
from lit_viz.runs.records import AdversarialRecord
from lit_viz.runs.results import Outcome
from lit_viz.types import Curve, Item, Task

#: Folder of files that are not part of the project.
SHARED = Path(__file__).parents[3] / "shared"

#: Trains the tasks of a module; the fixture ``train``.
Train = Callable[..., MemoryStorage]


def tasks_for(network: Network, targets: Sequence[int], seed: int = 0) -> list[Task]:
    names = network.labels
    return [Task(i, names[t], seed + i, target=t, target_name=names[t]) for i, t in enumerate(targets)]


def amend_items(outcome: Any, **items: Any) -> None:
    """Replace items of an outcome's record, also those of its metrics and settings."""
    record = outcome.record
    for name, value in items.items():
        item = next((vars(kind)[name] for kind in type(record).__mro__ if name in vars(kind)), None)
        if isinstance(item, Item):
            name, value = item.home, {**getattr(record, item.home), name: value}
        record = record.amend(**{name: value})
    outcome.record = record


class Traced(Outcome):
    """An outcome with curves only."""

    def __init__(self, success: bool, **curves: list[float]) -> None:
        length = max(map(len, curves.values()), default=1) - 1
        known = {"label": 0, "target": None, "name": "x", "iterations": length, "success_file": success}
        record = {"index": 0, "attack": "pgd", "status": "done", "success_float": success, **known}
        super().__init__(AdversarialRecord.from_dict(record))
        self.values = curves

    def with_record(self, **record: Any) -> Traced:
        amend_items(self, **record)
        return self

    def curves(self) -> dict[str, Curve]:
        return {name: list(enumerate(values)) for name, values in self.values.items()}
