from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from PIL import Image
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor

import lit_viz as lv
from lit_viz.attacks import PGD
from lit_viz.attributions import SmoothGrad
from lit_viz.engine.module import ImageTraining
from lit_viz.errors import LitVizError
from lit_viz.images.reading import to_uint8
from lit_viz.networks import Network
from lit_viz.objectives import Channel

Pair = tuple[ImageTraining, lv.TaskQueue]


def photographs() -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255


def visualization(smooth: Network) -> Pair:
    return lv.ClassVisualization(smooth, iterations=4, views=2), lv.ClassTasks(smooth, [1, 3])


def channels(smooth: Network) -> Pair:
    module = lv.ClassVisualization(smooth, objective=Channel("features.0"), iterations=4, views=2)
    return module, lv.LayerTasks(smooth, "features.0", channel=[0, 2])


def saliency(smooth: Network) -> Pair:
    module = lv.SaliencyMap(smooth, method=[SmoothGrad(sigma=0.2)], iterations=4)
    return module, lv.ImageTasks(smooth, photographs(), target=2)


def attack(smooth: Network) -> Pair:
    module = lv.AdversarialExample(smooth, attack=PGD(eps="4/255"), iterations=4)
    return module, lv.ImageTasks(smooth, photographs(), target=2)


def universal(smooth: Network) -> Pair:
    module = lv.UniversalPerturbation(smooth, iterations=4, held_out=0)
    return module, lv.ImageTasks(smooth, photographs())


METHODS = [visualization, channels, saliency, attack, universal]


@pytest.mark.parametrize("build", METHODS, ids=lambda build: build.__name__)
def test_a_run_of_objects_equals_a_plain_trainer(build: Any, smooth: Network, tmp_path: Path) -> None:
    module, tasks = build(smooth)
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(**settings, accelerator="cpu", max_epochs=1)
    trainer.fit(module, tasks)
    in_memory = lv.run(*build(smooth))
    in_folder = lv.run(*build(smooth), out=tmp_path / "run", logger="none")
    assert (tmp_path / "run" / "report.html").is_file()
    for run in (in_memory, in_folder):
        assert len(run.records) == len(module.results)
        for outcome, expected in zip(run, sorted(module.results, key=lambda result: result.task.index), strict=True):
            if expected.array is None:
                torch.testing.assert_close(outcome.image(), expected.image, rtol=0, atol=1 / 255)
            else:
                torch.testing.assert_close(outcome.array(), expected.array, rtol=0, atol=0)
    assert [r["forwards"] for r in in_memory.records] == [r["forwards"] for r in in_folder.records]


def test_a_logger_of_lightning_logs_the_run(smooth: Network, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path / "logs", name="own")
    lv.run(*visualization(smooth), out=tmp_path / "run", logger=logger)
    assert "probability" in (Path(logger.log_dir) / "metrics.csv").read_text()
    assert not list(tmp_path.glob("run/CSVLogger"))
    again = CSVLogger(tmp_path / "logs", name="own")
    lv.run(*visualization(smooth), out=tmp_path / "run", logger=again, overwrite=True)
    assert (Path(again.log_dir) / "metrics.csv").exists()


def hparams_of(logger: CSVLogger) -> dict[str, Any]:
    hparams: dict[str, Any] = yaml.safe_load((Path(logger.log_dir) / "hparams.yaml").read_text())
    return hparams


@pytest.mark.parametrize("build", METHODS, ids=lambda build: build.__name__)
def test_a_run_logs_the_hparams_of_a_plain_trainer(build: Any, smooth: Network, tmp_path: Path) -> None:
    """By the same keys, so that one filter of a logger finds both."""
    plain, own = CSVLogger(tmp_path, name="plain"), CSVLogger(tmp_path, name="own")
    module, tasks = build(smooth)
    pl.Trainer(logger=plain, enable_checkpointing=False, enable_progress_bar=False, max_epochs=1).fit(module, tasks)
    lv.run(*build(smooth), out=tmp_path / "run", logger=[own, "csv"])
    replayed = CSVLogger(tmp_path, name="replayed")
    lv.log(tmp_path / "run", replayed)
    expected = hparams_of(plain)
    assert expected["module"] == type(module).__name__
    assert expected["iterations"] == module.iterations
    named = CSVLogger(tmp_path / "run", name="csv", version="")
    for logger in (own, named, replayed):
        logged = hparams_of(logger)
        assert {name: logged[name] for name in expected} == expected
        assert (logged["seed"], logged["network_options"]["size"]) == (0, [16, 16])


def test_hparams_contain_the_arguments_of_parts(smooth: Network) -> None:
    module, _ = attack(smooth)
    assert module.hparams["attack"]["class_path"].endswith(".PGD")
    assert module.hparams["attack"]["init_args"]["eps"] == 4 / 255
    assert module.hparams["slots"] == module.capacity  # a default of a base class


def test_a_run_of_objects_is_resumed_by_the_same_objects(smooth: Network, tmp_path: Path) -> None:
    first = lv.run(*visualization(smooth), out=tmp_path / "run", logger="none")
    again = lv.run(*visualization(smooth), out=tmp_path / "run", logger="none", resume=True)
    torch.testing.assert_close(again.images, first.images, rtol=0, atol=0)
    module = lv.ClassVisualization(smooth, iterations=5, views=2)
    with pytest.raises(LitVizError, match="iterations"):
        lv.run(module, lv.ClassTasks(smooth, [1, 3]), out=tmp_path / "run", logger="none", resume=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"module": 3}, "module must be an instance of ImageTraining, got 3"),
        ({"tasks": [1]}, r"tasks must be an instance of TaskQueue, got \[1\]"),
        ({"out": ""}, "out must not be empty"),
        ({"out": 3}, "out must be a path, got 3"),
        ({"logger": CSVLogger("logs")}, "logger requires out: loggers log a run folder"),
        ({"captum": "captun"}, "captum must be auto or captum or none, got 'captun'; did you mean 'captum'?"),
    ],
)
def test_invalid_arguments_are_named(arguments: dict[str, Any], message: str, smooth: Network) -> None:
    module, tasks = visualization(smooth)
    with pytest.raises(LitVizError, match=message):
        lv.run(**{"module": module, "tasks": tasks, **arguments})


def _unreadable(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{n}.png" for n in range(count)]
    for path in paths:
        path.write_text("no picture")
    return paths


def test_a_run_in_memory_of_which_everything_failed_raises_the_first_reason(smooth: Network, tmp_path: Path) -> None:
    files = _unreadable(tmp_path, 2)
    with pytest.raises(
        LitVizError, match=r"^2 failed of 2 images: 0: .*0\.png is not an image that Pillow can read: .*"
    ):
        lv.saliency(smooth, files)


def test_a_folder_of_which_everything_failed_is_complete(smooth: Network, tmp_path: Path) -> None:
    files = _unreadable(tmp_path, 1)
    module, tasks = lv.AdversarialExample(smooth, iterations=1), lv.ImageTasks(smooth, files)
    out = tmp_path / "run"
    for resume in (False, True):
        with pytest.raises(LitVizError, match=rf"^1 failed of 1 image: 0: .*; see {out}$"):
            lv.run(module, tasks, out, logger=None, resume=resume)
    with pytest.raises(LitVizError, match=r"^1 failed of 1 image: 0: "):
        lv.resume(out, smooth)
    assert lv.check(out, smooth)
    assert (out / "report.html").exists()


def test_failed_and_skipped_images_give_one_warning(
    smooth: Network, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    (unreadable,) = _unreadable(tmp_path, 1)
    pictures = photographs()
    files = []
    for n, pixels in enumerate(pictures):
        files.append(tmp_path / f"p{n}.png")
        Image.fromarray(to_uint8(pixels)).save(files[-1])
    wrong = (smooth.scores(pictures).argmax(1) + 1) % 5
    labels = [int(wrong[0]), 0, *((wrong[1:] - 1) % 5).tolist()]
    warnings.simplefilter("always")
    run = lv.attack(smooth, [files[0], unreadable, *files[1:]], label=labels, iterations=1)
    assert [record["status"] for record in run.records] == ["skipped", "failed", "done", "done"]
    (warning,) = recwarn.list
    assert warning.category is UserWarning
    assert warning.filename == __file__  # the line of the call
    assert str(warning.message).startswith("1 skipped, 1 failed of 4 images: 0: ")
    assert str(warning.message).endswith("that Pillow can read: save it as PNG or JPEG, or leave it out")
