"""Rows of a run folder, received by an adapter that keeps them."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

import lit_viz as lv
from lit_viz.engine.snapshots import Result, Snapshot
from lit_viz.loggers import rows as rows_module
from lit_viz.loggers.base import CaptionedImage, ImageAdapter, LogRow
from lit_viz.loggers.rows import FolderRows, caption
from lit_viz.methods import AdversarialExample, ClassVisualization, SaliencyMap
from lit_viz.networks import Network
from lit_viz.presentations.adversarial_example import AdversarialExamplePresentation
from lit_viz.presentations.saliency_map import SaliencyMapPresentation
from lit_viz.runs import stored
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.records import AdversarialRecord, SaliencyRecord
from lit_viz.types import Record, Task


class Kept(ImageAdapter):
    """An adapter that keeps the rows: step, metrics and images."""

    def __init__(self) -> None:
        super().__init__(logger=None)
        self.rows: list[tuple[int, Mapping[str, float], Mapping[str, CaptionedImage]]] = []

    def log(self, metrics: Mapping[str, float], images: Mapping[str, CaptionedImage], step: int) -> None:
        self.rows.append((step, metrics, images))


def kept(rows: Sequence[LogRow]) -> list[tuple[int, Mapping[str, float], Mapping[str, CaptionedImage]]]:
    adapter = Kept()
    for row in rows:
        row(adapter)
    return adapter.rows


def tarantulas(count: int) -> list[Task]:
    return [Task(i, "tarantula", seed=i, target=76, target_name="tarantula") for i in range(count)]


def new_folder(path: Path, tasks: Sequence[Task]) -> FolderStorage:
    folder = FolderStorage.create(path)
    folder.write_start("seed: 0\n", {}, tasks)
    return folder


def rows_of(folder: FolderStorage) -> FolderRows:
    return FolderRows(folder, ClassVisualization, separate=3)


def snapshot(task: Task, iteration: int) -> Snapshot:
    """Return a snapshot whose grey depends on the task."""
    pixels = torch.full((3, 8, 8), 0.2 + 0.1 * task.index)
    return Snapshot(task, iteration, {"probability": iteration / 100, "rank": 1.0}, pixels, (("tarantula", 0.93),))


def write(folder: FolderStorage, task: Task, iterations: Iterable[int]) -> None:
    for k in iterations:
        folder.add_snapshot(snapshot(task, k))
    folder.commit()


@pytest.fixture
def many(tmp_path: Path) -> FolderStorage:
    """A folder with 18 tasks, of which the first 16 have frames; the eighth has one more."""
    tasks = tarantulas(18)
    folder = new_folder(tmp_path / "run", tasks)
    for task in tasks[:16]:
        write(folder, task, (0, 50))
    write(folder, tasks[8], (60,))
    of_file = Record.of(tasks[9], metrics={"probability": 0.25})  # of another picture than the last iteration's
    folder.add_result(Result(tasks[9], of_file, snapshot(tasks[9], 50).image))
    folder.commit()
    return folder


def test_many_tasks_share_grids(many: FolderStorage) -> None:
    first, second, last = kept(rows_of(many).rows(range(16)))
    assert [row[0] for row in (first, second, last)] == [0, 50, 60]
    means = [row[1]["probability/0000-0015"] for row in (first, second, last)]
    assert means == pytest.approx([0, 0.5, (15 * 0.5 + 0.6) / 16])
    grid, text = last[2]["image/grid/0000-0015"]
    assert grid.shape == (4 * 12 - 4, 4 * 12 - 4, 3)
    assert [grid[7, x, 0] for x in (7, 19, 31)] == [51, 76, 102]  # in their order
    lines = text.splitlines()
    assert lines[:2] == ["iteration 60", "tarantula - p = 0.50 (rank 1)"]
    assert lines[9:11] == ["tarantula - p = 0.60 (rank 1)", "tarantula - p = 0.25 (rank 1)"]


def test_a_grid_waits_for_its_tasks(many: FolderStorage) -> None:
    rows = rows_of(many)
    assert rows.rows(range(15)) == []
    assert len(rows.rows(range(17))) == 3


def test_grids_keep_the_records_of_their_own_tasks(tmp_path: Path) -> None:
    """With those of all tasks, the memory of a log grows with their number, once per grid."""
    tasks = tarantulas(40)
    folder = new_folder(tmp_path / "run", tasks)
    for task in tasks:
        write(folder, task, (0,))
        folder.add_result(Result(task, Record.of(task, metrics={"probability": 0.5}), snapshot(task, 0).image))
    folder.commit()
    rows = rows_of(folder).rows(range(40))
    gc.collect()
    before = sum(type(value) is Record for value in gc.get_objects())
    assert len(kept(rows)) == 3  # grids of 16, 16 and 8 tasks
    gc.collect()
    assert sum(type(value) is Record for value in gc.get_objects()) - before == 40


def test_rows_begin_with_the_earlier_ones(many: FolderStorage) -> None:
    """The last task failed before it had a picture."""
    rows = rows_of(many)
    before = kept(rows.rows(range(16)))
    write(many, tarantulas(17)[16], (0,))
    after = kept(rows.rows(range(18)))
    assert [(step, list(images)) for step, _, images in after[3:]] == [(0, ["image/grid/0016-0017"])]
    for (step, metrics, _), (same_step, same_metrics, _) in zip(before, after[:3], strict=True):
        assert (step, metrics) == (same_step, same_metrics)


def test_means_and_summary(tmp_path: Path) -> None:
    tasks = tarantulas(4)
    folder = new_folder(tmp_path / "run", tasks)
    for task in tasks:
        write(folder, task, (0, 50) if task.index else (0,))
        metrics = {"probability": 0.1 * task.index}
        success = task.index > 0
        record = AdversarialRecord.of(task, iterations=50, metrics=metrics, attack="pgd", success_file=success)
        folder.add_result(Result(task, record, snapshot(task, 50).image))
    folder.commit()
    rows = FolderRows(folder, AdversarialExample, separate=3)
    means = {step: metrics["probability/mean"] for step, metrics, images in kept(rows.all()) if not images}
    assert means == {0: 0, 50: 3 * 0.5 / 4}
    results = rows.results()
    assert results.iteration == 50
    assert results.summary == pytest.approx(
        {
            "count/done": 4,
            "share/success_file": 0.75,
            "median/probability": 0.15,
            "cost/forwards": 0,
            "cost/backwards": 0,
            "cost/seconds": 0,
            "fooled/file": 0.75,
        }
    )


@pytest.mark.parametrize(("most", "reads"), [(5, 1), (4, 3)])
def test_results_read_each_record_once_unless_they_need_much_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, reads: int
) -> None:
    """For the summary, the cost and the items of the evidence: reading a record takes a tenth of a millisecond."""
    monkeypatch.setattr(rows_module, "MOST_SUMMARIZED", most)
    tasks = tarantulas(5)
    folder = new_folder(tmp_path / "run", tasks)
    for task in tasks:
        record = SaliencyRecord.of(task, iterations=7, method="gradient", reducer="abs_max", forwards=2, seconds=0.5)
        folder.add_result(Result(task, record, snapshot(task, 7).image))
    folder.commit()
    read: list[int] = []

    def counted(values: dict[str, Any]) -> Record:
        read.append(values["index"])
        return read_record(values)

    read_record = stored.read_record
    monkeypatch.setattr(stored, "read_record", counted)
    results = FolderRows(folder, SaliencyMap, separate=3).results()
    assert results.iteration == 7
    assert (results.summary["cost/forwards"], results.summary["cost/seconds"]) == (10, 2.5)
    assert sorted(read) == sorted(reads * list(range(5)))


def test_hyperparameters_are_those_of_the_module_and_the_other_options(smooth: Network, tmp_path: Path) -> None:
    module = lv.ClassVisualization(smooth, iterations=1, views=1)
    run = lv.run(module, lv.ClassTasks(smooth, 2, seed=5), out=tmp_path / "run", logger="none")
    assert run.folder is not None
    found = rows_of(FolderStorage.open(run.folder)).hyperparameters()
    assert {name: found[name] for name in module.hparams} == dict(module.hparams)
    assert (found["seed"], found["target"], found["captum"]) == (5, [2], "auto")
    assert (found["network"], found["network_options"]["size"]) == (smooth.name, [16, 16])
    assert found["recorded"]["module"] == "ClassVisualization"


def test_means_skip_values_that_are_not_finite(tmp_path: Path) -> None:
    tasks = tarantulas(4)
    folder = new_folder(tmp_path / "run", tasks)
    for task, value in zip(tasks, (np.inf, -np.inf, 1.0, 2.0), strict=True):
        folder.add_snapshot(Snapshot(task, 0, {"logit": value, "margin": np.nan}))
        folder.add_result(Result(task, Record.of(task), None))
    folder.commit()
    assert kept(rows_of(folder).all()) == [(0, {"logit/mean": 1.5}, {})]


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (("goldfish", "hay"), ["image/goldfish", "image/hay"]),
        (("hay", "hay"), ["image/0000_hay", "image/0001_hay"]),
    ],
)
def test_names_are_keys_if_they_are_unique(tmp_path: Path, names: tuple[str, str], keys: list[str]) -> None:
    tasks = [Task(index, name, 0) for index, name in enumerate(names)]
    folder = new_folder(tmp_path / "run", tasks)
    for task in tasks:
        write(folder, task, (0,))
    assert [key for _, _, images in kept(rows_of(folder).rows(())) for key in images] == keys


def test_captions_name_target_and_options() -> None:
    attack, saliency = AdversarialExamplePresentation(), SaliencyMapPresentation()
    attacked = Task(0, "quail", seed=0, target=6, target_name="stingray", eps=0.25)
    assert caption(Snapshot(attacked, 7, {"probability": 0.126}), attack) == (
        "quail -> stingray, eps 0.25 - iteration 7 - p = 0.13"
    )
    assert caption(Snapshot(Task(0, "quail", seed=0), 7, {}), attack) == "quail - iteration 7"
    mapped = Task(0, "quail", seed=0, method="smoothgrad")
    assert caption(Snapshot(mapped, 7, {}), saliency) == "quail, smoothgrad - iteration 7"


def test_the_final_image_of_an_attack_has_the_metrics_of_its_file() -> None:
    last = Snapshot(Task(0, "cat", 0), 9, {"probability": 0.9, "margin": -3.0}, file_metrics={"margin": 2.0})
    assert caption(last, AdversarialExamplePresentation()) == "cat - iteration 9 - fooled"


def test_file_metrics_of_an_attack_equal_its_record(smooth: Network, tmp_path: Path) -> None:
    last: dict[int, Snapshot] = {}

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, *_: Any) -> None:
            last.update({snapshot.task.index: snapshot for snapshot in outputs["snapshots"]})

    photographs = torch.rand(3, 3, 16, 16).mul(255).round() / 255
    module = lv.AdversarialExample(smooth, attack="carlini_wagner", iterations=20)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        default_root_dir=tmp_path,
        callbacks=[Watch()],
        enable_model_summary=False,
        **quiet,
    )
    trainer.fit(module, lv.ImageTasks(smooth, photographs))
    assert len(module.results) == 3
    for result in module.results:
        of_file = last[result.task.index].file_metrics
        assert of_file["margin"] == result.record.metrics["margin"]
        assert of_file["probability"] == result.record.metrics["probability"]
