"""Image logging and run folders of a plain Trainer."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.figures.layout import pixels
from lit_viz.loggers.rows import task_curves
from lit_viz.networks import Network
from lit_viz.presentations import presentation_of, recorded_method, stored_method
from lit_viz.presentations.saliency_map import SaliencyMapPresentation
from lit_viz.runs.folder import FolderStorage


def fit(smooth: Network, tmp_path: Path, *callbacks: pl.Callback, **options: Any) -> Any:
    module = lv.ClassVisualization(smooth, iterations=4, views=1, log_at="0,2,4", curve_at="every:1", slots=1)
    options = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu", **options}
    ckpt_path = options.pop("ckpt_path", None)
    trainer = pl.Trainer(
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        max_epochs=-1,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, lv.ClassTasks(smooth, ["apple", "date"]), ckpt_path=ckpt_path)
    return module


def test_images_of_a_plain_trainer_are_logged_over_iterations(smooth: Network, tmp_path: Path) -> None:
    """To several loggers at once."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folders = tmp_path / "csv", tmp_path / "tensorboard"
    loggers = [CSVLogger(folders[0], name=None, version=""), TensorBoardLogger(folders[1], name=None, version="")]
    module = fit(smooth, tmp_path, lv.callbacks.ImageLogger(), logger=loggers)
    with (folders[0] / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["probability/date"]]
    assert [int(row["iteration"]) for row in rows] == [0, 1, 2, 3, 4]
    assert float(rows[-1]["probability/date"]) == pytest.approx(module.results[1].record.probability)
    with (folders[0] / "images.csv").open() as file:
        images = list(csv.DictReader(file))
    assert [(row["iteration"], row["key"]) for row in images] == [
        (k, f"image/{name}") for name in ("apple", "date") for k in ("0", "2", "4")
    ]
    assert images[-1]["caption"].startswith("date - iteration 4 - p = ")
    last = np.asarray(Image.open(folders[0] / images[-1]["file"]))
    assert np.array_equal(last, pixels(module.results[1].image))
    events = reader.EventAccumulator(str(folders[1])).Reload()
    assert [image.step for image in events.Images("image/apple")] == [0, 2, 4]
    assert [event.step for event in events.Scalars("probability/apple")] == [0, 1, 2, 3, 4]


def test_only_the_first_images_are_logged(smooth: Network, tmp_path: Path) -> None:
    fit(smooth, tmp_path, lv.callbacks.ImageLogger(max_images=1), logger=CSVLogger(tmp_path, name=None, version=""))
    assert [path.name for path in (tmp_path / "image").iterdir()] == ["apple"]


def test_the_run_folder_of_a_plain_trainer_continues(smooth: Network, tmp_path: Path) -> None:
    run, checkpoint = tmp_path / "run", tmp_path / "last.ckpt"

    class Stops(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, *_: Any) -> None:
            trainer.should_stop = trainer.global_step >= 6

    callbacks = lv.callbacks.RunFolder(run), Stops(), lv.callbacks.ExactCheckpoint(checkpoint)
    fit(smooth, tmp_path, *callbacks)
    assert len(FolderStorage(run).records()) == 1
    assert not (run / "report.html").exists()  # marks a complete run
    module = fit(smooth, tmp_path, lv.callbacks.RunFolder(run), ckpt_path=checkpoint)
    folder = FolderStorage.open(run)
    assert [record.name for record in folder.records()] == ["apple", "date"]
    assert task_curves(folder.metrics(), "probability")["0001_date"][-1][0] == 4
    assert (run / "report.html").exists()
    lv.log(run, "csv")
    assert (run / "csv" / "image" / "date" / "000004.png").exists()
    assert np.array_equal(pixels(run / "images" / "0001_date.png"), pixels(module.results[1].image))


def test_a_second_training_does_not_add_to_the_folder_of_a_failed_one(smooth: Network, tmp_path: Path) -> None:
    class Fails(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            raise RuntimeError("stop")

    writer = lv.callbacks.RunFolder(tmp_path / "run")
    with pytest.raises(RuntimeError, match="stop"):
        fit(smooth, tmp_path, writer, Fails())
    with pytest.raises(LitVizError, match="run"):
        fit(smooth, tmp_path, writer)


def test_subclasses_of_a_method_have_its_presentation(smooth: Network, tmp_path: Path) -> None:
    class OwnMap(lv.SaliencyMap):
        pass

    assert type(presentation_of(OwnMap)) is SaliencyMapPresentation
    assert recorded_method(OwnMap) == {"module": "OwnMap", "presentation": "SaliencyMapPresentation"}
    fit_maps = lv.callbacks.RunFolder(tmp_path / "run")
    trainer = pl.Trainer(max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=fit_maps)
    trainer.fit(OwnMap(smooth), datamodule=lv.ImageTasks(smooth, torch.rand(1, 3, 16, 16)))
    folder = FolderStorage.open(tmp_path / "run")
    assert folder.recorded["module"] == "OwnMap"
    assert stored_method(folder) is lv.SaliencyMap


def test_the_presentation_of_an_unknown_method_is_an_error(smooth: Network, tmp_path: Path) -> None:
    class Unknown(lv.SaliencyMap):
        presentation = None

    with pytest.raises(LitVizError, match="Unknown has no presentation"):
        presentation_of(Unknown)
    folder = FolderStorage.create(tmp_path / "run")
    folder.write_config("iterations: 1\n", {"module": "Unknown"})
    with pytest.raises(LitVizError, match=r"must be one of AdversarialExample, .*, got Unknown"):
        stored_method(folder)
    folder.write_config("iterations: 1\n", recorded_method(lv.AdversarialExample))
    assert stored_method(folder) is lv.AdversarialExample


def test_the_interval_of_checkpoints_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(LitVizError, match="every_steps must be at least 1, got 0"):
        lv.callbacks.ExactCheckpoint(tmp_path / "last.ckpt", every_steps=0)
