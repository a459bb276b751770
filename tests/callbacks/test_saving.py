import time
import warnings
from functools import partial

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from lit_viz.callbacks.saving import RunWriter
from lit_viz.engine.snapshots import Result, Snapshot
from lit_viz.errors import LitVizError
from lit_viz.images.reading import read_png
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.results import curves_of
from lit_viz.types import Record, Task, index_of


class Emerging(LightningModule):
    """One image that becomes brighter by every step: the least that the callbacks know of a module."""

    def __init__(self, finishes_at=5, fails_at=None):
        super().__init__()
        self.automatic_optimization = False
        self.task = Task(0, "tarantula", seed=0)
        self.finishes_at, self.fails_at = finishes_at, fails_at

    def configure_optimizers(self):
        return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)

    def training_step(self, batch, batch_idx):
        if batch_idx == self.fails_at:
            raise ValueError("the step failed")
        image = torch.full((3, 4, 4), batch_idx / 10)
        observed = [Snapshot(self.task, batch_idx, {"probability": batch_idx / 10}, image)]
        results = (
            [Result(self.task, Record.of(self.task, iterations=5), image)] if batch_idx == self.finishes_at else []
        )
        return {"snapshots": observed, "results": results}


def train(module, *callbacks):
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice about workers and logging intervals
        trainer.fit(module, DataLoader(torch.zeros(6)))


@pytest.fixture
def folder(tmp_path):
    made = FolderStorage.create(tmp_path / "run")
    made.write_config("")
    return made


def iterations(folder):
    """The present content of the disk, by an independent reader."""
    metrics = {"0000_tarantula": curves_of(FolderStorage.open(folder.path).contents(index_of("0000_tarantula")).rows)}
    return [k for k, _ in metrics["0000_tarantula"].get("probability", [])]


def test_everything_observed_is_on_the_disk_at_the_end(folder):
    train(Emerging(), RunWriter(folder))
    assert iterations(folder) == [0, 1, 2, 3, 4, 5]
    assert [k for k, _ in folder.frames("0000_tarantula")["image"]] == [0, 1, 2, 3, 4, 5]
    (record,) = folder.records()
    assert record.iterations == 5


def test_finished_tasks_are_kept_when_the_run_fails(folder):
    with pytest.raises(ValueError, match="the step failed"):
        train(Emerging(finishes_at=2, fails_at=4), RunWriter(folder))
    assert iterations(folder) == [0, 1, 2]


def test_a_full_disk_does_not_hide_the_first_error(folder, monkeypatch):
    def full():
        raise LitVizError("disk full")

    files = RunWriter(folder)
    monkeypatch.setattr(folder, "commit", full)
    with pytest.warns(UserWarning, match="results were not written: disk full"):
        files.on_exception(None, None, KeyboardInterrupt())


def test_finished_tasks_are_on_the_disk_before_a_checkpoint(folder):
    module, files, checkpoint = Emerging(finishes_at=1), RunWriter(folder), {}
    files.on_train_batch_end(None, module, module.training_step(None, 0), None, 0)
    files.on_save_checkpoint(None, module, checkpoint)
    assert iterations(folder) == []
    assert checkpoint["store"]["segments"] == {}
    assert [row[:2] for row in checkpoint["store"]["in_progress"][0]["rows"]] == [[0, 0]]
    files.on_train_batch_end(None, module, module.training_step(None, 1), None, 1)
    files.on_save_checkpoint(None, module, checkpoint)
    assert iterations(folder) == [0, 1]
    assert checkpoint["store"] == {"segments": {"000000.jsonl": 1}, "in_progress": {}, "snapshots": 2}


def test_images_are_written_as_of_their_snapshot(folder):
    slow, image = FolderStorage.add_snapshot, torch.zeros(3, 4, 4)

    def late(self, snapshot):
        time.sleep(0.1)
        slow(self, snapshot)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderStorage, "add_snapshot", late)
        files = RunWriter(folder)
        outputs = {"snapshots": [Snapshot(Task(0, "tarantula", seed=0), 0, {}, image)], "results": []}
        files.on_train_batch_end(None, None, outputs, None, 0)
        image.fill_(1)  # the next update, before the file is written
        files._wait(0)
    assert read_png(folder.frames("0000_tarantula")["image"][0][1]).max() == 0


def test_a_write_error_ends_the_run_and_later_writes(folder, monkeypatch):
    written = []

    def fails(self, result):
        written.append(result.task.index)
        raise LitVizError("disk full while writing results.jsonl")

    monkeypatch.setattr(FolderStorage, "add_result", fails)
    files = RunWriter(folder)
    results = [Result(task, Record.of(task)) for task in [Task(index, "image", seed=0) for index in range(5)]]

    def hand_over():
        for result in results:
            files._write(partial(folder.add_result, result))
        files.on_save_checkpoint(None, None, {})

    with pytest.raises(LitVizError, match="disk full"):
        hand_over()
    files._wait(0)
    assert written == [0]
    assert len(folder.records()) == 0


def test_a_disk_slower_than_the_run_slows_it_down(folder, monkeypatch):
    monkeypatch.setattr(FolderStorage, "add_snapshot", lambda self, snapshot: time.sleep(0.002))
    files = RunWriter(folder)
    for k in range(300):
        observed = [Snapshot(Task(0, "tarantula", seed=0), k, {}, torch.zeros(3, 4, 4))]
        files.on_train_batch_end(None, None, {"snapshots": observed, "results": []}, None, k)
        assert len(files._pending) <= 64
    files._wait(0)
    assert not files._pending


def test_large_images_that_wait_for_the_disk_take_a_bounded_memory(folder, monkeypatch):
    monkeypatch.setattr(FolderStorage, "add_snapshot", lambda self, snapshot: time.sleep(0.01))
    files, image = RunWriter(folder), torch.zeros(3, 1200, 1200)  # 17 MB
    for k in range(12):
        observed = [Snapshot(Task(0, "slide", seed=0), k, {}, image)]
        files.on_train_batch_end(None, None, {"snapshots": observed, "results": []}, None, k)
        assert len(files._pending) <= 3  # of 64 MB
    files._wait(0)
    assert not files._pending
