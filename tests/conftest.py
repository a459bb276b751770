"""Shared fixtures: small smooth networks, a Trainer around a method, and runs without drawing."""

from __future__ import annotations

import gc
import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread per worker
    gc.disable()  # until the tests are collected: a third of that time would go to objects that all stay

import logging
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from PIL import Image

from lit_viz.callbacks.saving import RunWriter
from lit_viz.engine.lightning import AtomicCheckpointIO
from lit_viz.engine.module import ImageTraining
from lit_viz.engine.queue import TaskQueue
from lit_viz.images.reading import encode_png
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from lit_viz.runs.memory import MemoryStorage
from lit_viz.types import Task
from tests.support.networks import NAMES, smooth_network
from tests.support.runs import Train

pytest_plugins = [
    "tests.plugins.browser",
    "tests.plugins.command_line",
    "tests.plugins.figures",
    "tests.plugins.peers",
    "tests.plugins.slurm",
    "tests.plugins.wandb_server",
]


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all but their own tests (``-m gpu``): the others compare runs bit by bit.

    SIGINT gets its handler of Python, also in subprocesses: a shell ignores the signal in its background jobs.
    Messages of Lightning reach ``caplog`` with each version of pytest.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.getLogger("pytorch_lightning").propagate = True
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_finish() -> None:
    """Collect garbage from here on, without looking at modules and tests, and seldom: 5 % of the time went to it."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same numbers in each test, whatever ran before it in the same process."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_service_of_wandb() -> None:
    """Let processes of a test start their own service of W&B; that of a test before it, in the environment, may end."""
    os.environ.pop("WANDB_SERVICE", None)


@pytest.fixture(scope="session", autouse=True)
def _comparisons_have_time() -> Iterator[None]:
    """Give the comparison with Captum more than its 15 seconds, since other processes may take most of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lit_viz.evidence.saliency_map.CAPTUM_SECONDS", 900.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def _files_are_not_flushed() -> Iterator[None]:
    """Leave the files of tests in the cache of the disk; tests of flushing put functions of their own in its place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr("lit_viz.utils.files._SYNCFS", lambda _: 0)
        yield


@pytest.fixture(scope="module", autouse=True)
def _blank_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Write blank figures into run folders, since drawing takes most of a short run; modules marked ``draws`` draw."""
    if request.node.get_closest_marker("draws"):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lit_viz.launch.run.Run.draw", _draw_blank)
        patch.setattr("lit_viz.presentations.saliency_map.agreement_figure", lambda *_: Figure(figsize=(0.1, 0.1)))
        yield


def _draw_blank(run: Any) -> None:
    (run.folder / f"figure.{run._options.figure}").write_bytes(encode_png(torch.zeros(3, 1, 1)))
    if any(change.is_animated for change in run.presentation.evolutions(run.outcomes)):
        Image.new("RGB", (1, 1)).save(run.folder / "evolution.gif")


@pytest.fixture
def few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the queries of the stronger attacks (``--trust``) to 100 per image."""
    monkeypatch.setattr("lit_viz.evidence.attacks.diagnostics.QUERIES", 100)


@pytest.fixture(scope="session")
def smooth() -> Network:
    return load_network(smooth_network(), labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16)


@pytest.fixture(scope="session")
def lite0() -> Network:
    return load_network("efficientnet_lite0")


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Return a function that trains a module's tasks and returns its results."""

    def run(
        module: ImageTraining, tasks: Sequence[Task], callbacks: Sequence[pl.Callback] = (), **options: Any
    ) -> MemoryStorage:
        storage = MemoryStorage()
        trainer = pl.Trainer(
            max_epochs=-1,
            accelerator="cpu",
            callbacks=[RunWriter(storage), *callbacks],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            inference_mode=False,
            default_root_dir=tmp_path,
            plugins=[AtomicCheckpointIO()],
            **{key: value for key, value in options.items() if key != "ckpt_path"},
        )
        trainer.fit(module, datamodule=TaskQueue(tasks), ckpt_path=options.get("ckpt_path"), weights_only=True)
        return storage

    return run
