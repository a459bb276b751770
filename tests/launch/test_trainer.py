"""The Trainer of a run: devices, precision and signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.plugins.precision import MixedPrecision

import lit_viz as lv
from lit_viz.callbacks.saving import ExactCheckpoint, RunWriter
from lit_viz.cli import main
from lit_viz.engine.queue import TaskQueue
from lit_viz.errors import Interrupted, LitVizError
from lit_viz.images import Fourier
from lit_viz.launch import execute as execute_module
from lit_viz.launch.options import RunOptions
from lit_viz.launch.resume import changed_form, stored_form, stored_tasks
from lit_viz.launch.trainer import build_trainer, failures_of_run, resume_hint
from lit_viz.methods import ClassVisualization
from lit_viz.networks import Network
from lit_viz.networks.fast import FrozenNetwork
from lit_viz.optim import Adam
from lit_viz.outputs import load_network
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import LAST_CHECKPOINT
from lit_viz.runs.memory import MemoryStorage
from lit_viz.runs.segments import segment_files
from tests.support.runs import tasks_for


def options_of(**trainer: Any) -> RunOptions:
    return RunOptions(trainer={"devices": "1", **trainer})


def test_the_processor_is_taken_without_a_word_where_a_gpu_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytorch_lightning.trainer.setup.CUDAAccelerator.is_available", lambda: True)
    assert build_trainer(options_of(accelerator="cpu"), "/nowhere").strategy.root_device.type == "cpu"


@pytest.mark.parametrize(("processors", "most"), [(2, 8), (16, 16)])
def test_processes_on_cpus_are_limited(monkeypatch: pytest.MonkeyPatch, processors: int, most: int) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    assert build_trainer(options_of(accelerator="cpu", devices=str(most)), "/nowhere").num_devices == most
    with pytest.raises(LitVizError, match=f"devices on CPUs must be at most {most} processes, got 99"):
        build_trainer(options_of(accelerator="cpu", devices="99"), "/nowhere")


def photographs(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.dtype, bool]]:
    """Return of every forward of a fast copy that is trained against: the dtype of its weights, and whether autocast is
    on."""
    seen: list[tuple[torch.dtype, bool]] = []
    forward = FrozenNetwork.forward

    def noted(self: FrozenNetwork, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if x.requires_grad:
            assert x.dtype == torch.float32
            seen.append((self.scale.dtype, torch.is_autocast_enabled("cpu")))
        return forward(self, x, *args, **kwargs)

    monkeypatch.setattr(FrozenNetwork, "forward", noted)
    return seen


@pytest.mark.filterwarnings("ignore:. skipped of . images")
def test_mixed_precision_applies_to_the_network_only(smooth: Network, calls: list[tuple[torch.dtype, bool]]) -> None:
    options: dict[str, Any] = {"trainer": {"precision": "bf16-mixed"}}
    image = lv.visualize(smooth, [1], iterations=30, views=2, **options)
    assert image.records[0]["status"] == "done"
    output = float(
        smooth.scores(image.images).softmax(1)[0, 1]
    )  # the record describes the file and the original network
    assert image.records[0]["probability"] == pytest.approx(output, abs=1e-6)
    levels = image.images * 255
    assert (levels - levels.round()).abs().max() < 1e-3
    fooled = lv.attack(smooth, photographs(), attack="pgd", eps=0.2, iterations=20, **options)
    assert all(record["success_file"] for record in fooled.records if record["status"] == "done")
    maps = lv.saliency(smooth, photographs(), method="smoothgrad", iterations=8, captum="none", **options)
    exact = lv.saliency(smooth, photographs(), method="smoothgrad", iterations=8, captum="none")
    assert {dtype for dtype, _ in calls} == {torch.bfloat16, torch.float32}
    assert not any(autocast for _, autocast in calls)
    difference = (maps.arrays - exact.arrays).norm() / exact.arrays.norm()
    assert 1e-4 < difference < 0.05
    assert [record["label"] for record in maps.records] == smooth.scores(photographs()).argmax(1).tolist()
    aimed = lv.saliency(smooth, photographs(), target=1, method="gradient", iterations=1, captum="none", **options)
    left = lv.attack(smooth, photographs(), label=1, attack="pgd", eps=0.2, iterations=2, **options)
    probability = smooth.scores(photographs()).softmax(1)[:, 1].tolist()  # of the original
    assert [record["probability"] for record in aimed.records] == pytest.approx(probability, abs=1e-6)
    assert [record["probability_before"] for record in left.records] == pytest.approx(probability, abs=1e-6)


def test_half_precision_needs_no_loss_scaling(smooth: Network, calls: list[tuple[torch.dtype, bool]]) -> None:
    """On a processor Lightning takes bfloat16 for float16, so its part for GPUs is put in by hand."""
    module = ClassVisualization(smooth, parameterization=Fourier(), step_rule=Adam(0.05), iterations=5)
    storage = MemoryStorage()
    trainer = pl.Trainer(
        max_epochs=-1,
        accelerator="cpu",
        plugins=[MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))],
        callbacks=[RunWriter(storage)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=TaskQueue(tasks_for(smooth, [0, 1])))
    assert [result.record.status for result in storage.results.values()] == ["done", "done"]
    assert set(calls) == {(torch.float16, False)}


class Regression(BoringModel):
    """An ordinary module that records whether its loss is scaled."""

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.scaler_at_step = self.trainer.precision_plugin.scaler  # type: ignore[attr-defined]


def failing(*_: Any, **__: Any) -> None:
    raise ValueError("no step")


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers, precision and folders
@pytest.mark.parametrize("fails", [False, True])
def test_a_given_trainer_is_left_as_it_was(
    smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    scaler = torch.amp.GradScaler("cpu")
    trainer = pl.Trainer(
        max_epochs=2,
        limit_train_batches=3,
        limit_val_batches=0,
        accelerator="cpu",
        plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)],
        logger=CSVLogger(tmp_path),
        enable_progress_bar=False,
        default_root_dir=tmp_path,
    )
    before = _state_of(trainer)
    module, tasks = ClassVisualization(smooth, iterations=2), lv.ClassTasks(smooth, "apple")
    if fails:
        monkeypatch.setattr(ClassVisualization, "score", failing)
        with pytest.raises(ValueError, match="no step"):
            lv.run(module, tasks, trainer=trainer, logger=None)
    else:
        assert lv.run(module, tasks, trainer=trainer, logger=None).records[0]["status"] == "done"
    assert _state_of(trainer) == before
    assert trainer.precision_plugin.scaler is scaler  # type: ignore[attr-defined]
    ordinary = Regression()
    trainer.fit(ordinary)
    assert ordinary.scaler_at_step is scaler
    assert (trainer.current_epoch, trainer.global_step) == (2, 6)
    path = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    assert torch.load(path, weights_only=True)["global_step"] == 6
    again = Regression.load_from_checkpoint(path, weights_only=True)
    assert torch.equal(again.layer.weight, ordinary.layer.weight)


def _state_of(trainer: pl.Trainer) -> dict[str, Any]:
    """Return what a run must not change of a Trainer."""
    broadcast: Any = trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor
    return {
        "checkpoint_io": trainer.strategy.checkpoint_io,
        "callbacks": list(trainer.callbacks),  # type: ignore[attr-defined]
        "loggers": list(trainer.loggers),
        "datamodule": trainer.datamodule,  # type: ignore[attr-defined]
        "progress": (trainer.current_epoch, trainer.global_step, trainer.max_epochs),
        "broadcast": broadcast.__qualname__,
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    }


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_that_has_reached_its_last_epoch_makes_a_run(smooth: Network, tmp_path: Path) -> None:
    trainer = pl.Trainer(
        max_epochs=1,
        limit_train_batches=3,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(BoringModel())
    run = lv.run(ClassVisualization(smooth, iterations=2), lv.ClassTasks(smooth, "apple"), trainer=trainer, logger=None)
    assert [record["iterations"] for record in run.records] == [2]
    assert trainer.global_step == 3


@pytest.mark.filterwarnings("ignore:The `srun` command")
@pytest.mark.parametrize(
    ("limit", "name"),
    [
        ({"max_steps": 3}, "max_steps=3"),
        ({"limit_train_batches": 3, "max_epochs": 1}, "limit_train_batches=3"),
        ({"max_time": {"seconds": 0}}, "max_time"),
    ],
)
def test_a_limit_of_the_trainer_that_ends_a_run_is_named(
    smooth: Network, tmp_path: Path, limit: dict[str, Any], name: str
) -> None:
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, **limit, **quiet)
    module, tasks = ClassVisualization(smooth, iterations=40, slots=1), lv.ClassTasks(smooth, ["apple", "date"])
    with pytest.warns(UserWarning, match=f"^{name} of the Trainer ended the run with 2 of 2 images unfinished$"):
        lv.run(module, tasks, trainer=trainer, logger=None)


def test_slurm_does_not_requeue_behind_our_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"NTASKS": "1", "JOB_NAME": "job", "JOB_ID": "7", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    trainer = build_trainer(options_of(accelerator="cpu"), str(tmp_path))
    environment = trainer._accelerator_connector.cluster_environment
    assert isinstance(environment, SLURMEnvironment)
    assert not environment.auto_requeue


def test_a_signal_before_the_first_step_is_no_success(smooth: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    start = ExactCheckpoint.on_train_start

    def stopped(self: ExactCheckpoint, *args: Any) -> None:
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL  # Lightning's, by now
        os.kill(os.getpid(), signal.SIGTERM)
        start(self, *args)

    monkeypatch.setattr(ExactCheckpoint, "on_train_start", stopped)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="stopped before the first step") as stop:
        lv.visualize(smooth, [1], iterations=5)
    assert stop.value.exit_status == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_gpu_without_float64_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert isinstance(build_trainer(options_of(), str(tmp_path)).accelerator, pl.accelerators.CPUAccelerator)
    with pytest.raises(LitVizError, match=r"GPUs of Apple have no float64 and are not supported: use accelerator=cpu"):
        build_trainer(options_of(accelerator="mps"), str(tmp_path))


def test_a_further_process_does_not_take_a_folder_in_the_making_for_a_finished_run(
    smooth: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    lv.visualize(smooth, [1], iterations=1, out=folder, wandb="disabled")
    stored = FolderStorage.open(folder)
    form = changed_form(stored, stored_form(stored), {"trainer": {"devices": 2, "accelerator": "cpu"}})
    module, tasks, options = form.build_module(smooth), stored_tasks(stored, form, smooth), form.options()
    joined: list[Any] = []
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")))
    monkeypatch.setattr(execute_module, "build_trainer", lambda *_: trainer)
    monkeypatch.setattr(execute_module, "fit", lambda *args: joined.append(args))
    monkeypatch.setenv("LOCAL_RANK", "1")
    execute_module.execute(module, tasks, options)
    assert not joined  # it is finished
    for path in ("queue.jsonl", "checkpoints/last.ckpt", "manifest.json", *segment_files(folder)):
        (folder / path).unlink()
    FolderStorage(folder).write_config(form.to_yaml())
    execute_module.execute(module, form.build_tasks(smooth), options)
    assert len(joined) == 1


def test_a_further_process_leaves_a_run_of_one_process_to_the_first(
    smooth: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A script's second run, of one device: Lightning has started the script twice for the first run, of two. A
    process that takes part in no run of lit_viz has its own."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(execute_module, "_FOLLOWED_RUNS", [])
    own = lv.visualize(smooth, [1], iterations=1, out=tmp_path / "own", wandb="disabled")
    assert len(own.records) == 1
    monkeypatch.setattr(execute_module, "_FOLLOWED_RUNS", ["run"])
    assert not lv.visualize(smooth, [1], iterations=1, out=tmp_path / "run", wandb="disabled").records
    assert not (tmp_path / "run").exists()
    assert len(lv.visualize(smooth, [1], iterations=1).records) == 1  # a run in memory needs no lock


@pytest.mark.parametrize("steps", [0, -3])
def test_a_checkpoint_is_saved_after_a_step_at_least(steps: int) -> None:
    with pytest.raises(LitVizError, match=rf"^checkpoint_every must be at least 1, got {steps}"):
        RunOptions(checkpoint_every=steps)


def method(**arguments: Any) -> ClassVisualization:
    """Return a method whose network was loaded by its name."""
    network = load_network("tests.support.networks:smooth_network", weights="none", size=16, mean=0.5, std=0.25)
    return ClassVisualization(network, iterations=1, slots=8, **arguments)


def test_a_run_from_an_array_is_continued_in_python(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "000000.jsonl").touch()
    options = RunOptions(out=tmp_path)
    assert resume_hint(method(), options) == f"; continue with: lit-viz resume {tmp_path}"
    started = method(init=torch.zeros(3, 16, 16))
    assert resume_hint(started, options) == "; continue in Python with the same call and resume=True"


def test_exhausted_memory_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "000000.jsonl").touch()
    module = method()
    with (
        pytest.raises(LitVizError, match=r"out of CPU memory: use fewer slots \(now 8\).*resume .* and fewer slots"),
        failures_of_run(module, RunOptions(out=tmp_path)),
    ):
        torch.empty(1 << 60)
    with pytest.raises(LitVizError, match="out of GPU memory"), failures_of_run(module, RunOptions()):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    for words in ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "CUDA out of memory."):
        with pytest.raises(LitVizError, match="out of GPU memory"), failures_of_run(module, RunOptions()):
            raise RuntimeError(words)
    with pytest.raises(RuntimeError, match="size mismatch"), failures_of_run(module, RunOptions()):
        raise RuntimeError("size mismatch")


def test_too_little_memory_for_the_weights_is_reported_without_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("lit_viz.outputs.loading.load", load)
    with pytest.raises(SystemExit) as end:
        main(["visualize", "tarantula", "--out", str(tmp_path / "run")])
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert "out of memory while efficientnet_lite0 is loaded" in error
    assert "slots" not in error
    assert "resume" not in error
    assert not (tmp_path / "run").exists()


_SWEEP = """
import os, signal, sys, threading
import torch
from torch import nn
import lit_viz as lv
from lit_viz.engine.step import Step

finish = Step.finish

def finish_and_stop(*arguments):
    os.kill(os.getpid(), int(sys.argv[1]))
    return finish(*arguments)

if len(sys.argv) > 1:
    Step.finish = finish_and_stop
network = lv.load_network(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).eval(), size=4, mean=0.5, std=0.5)
for seed in range(3):
    try:
        lv.visualize(network, [0, 1], iterations=3, seed=seed, slots=1, out=f"run{seed}", logger="none")
    except Exception as error:
        print("goes on after", type(error).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_loop_that_handles_exceptions(number: int, status: int, tmp_path: Path) -> None:
    """Such as a user's sweep over networks, which must not go on after ``kill`` or ``timeout``."""
    ended = subprocess.run(
        [sys.executable, "-c", _SWEEP, str(int(number))], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.stdout == ""
    assert ended.returncode == status
    message = ended.stderr.splitlines()[-1]
    assert re.match("lit_viz: stopped after . of 2 images, progress is saved; continue", message)
    assert "Traceback" not in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run0"]
    assert (tmp_path / "run0" / LAST_CHECKPOINT).exists()
