"""Runs of two processes: started, stopped, killed and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.support.ranks import (
    FROZEN,
    TWO,
    children_of,
    environment,
    finish,
    free_port,
    freeze,
    has_exited,
    start,
    torchrun,
)

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow  # every process takes seconds to start


@pytest.fixture(scope="session")
def own_words(small_options: list[str]) -> list[str]:
    """Arguments of a run that takes long enough to be interrupted."""
    words = ["visualize", "0", "1", "2", "3", "4", *small_options, "--slots", "2", "--trainer.accelerator", "cpu"]
    return [*words, "--iterations", "150", "--checkpoint-every", "20", "--log-at", "every:50"]


def changed(words: list[str], option: str, value: str) -> list[str]:
    """Return words with another value of an option."""
    position = words.index(option) + 1
    return [*words[:position], value, *words[position + 1 :]]


def start_run(run: Path, *words: str, own_words: Any, **surroundings: str) -> subprocess.Popen[str]:
    return start([sys.executable, "-m", "lit_viz", *own_words, *TWO, "--out", str(run), *words], **surroundings)


def other_process(first: subprocess.Popen[str]) -> int:
    """Return the second process, which Lightning started."""
    (found,) = children_of(first.pid)
    return found


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, contents: Any, own_words: Any, records: Any
) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("two") / "run"
    process = start_run(run, own_words=own_words)
    message = finish(process)
    assert process.returncode == 0, message
    assert [record["index"] for record in records(run)] == [0, 1, 2, 3, 4]
    assert message.count("5 images, 750 updates") == 1  # by rank 0 only
    assert "Initializing" not in message
    return contents(run)


@pytest.mark.parametrize("target", ["first", "other"])
def test_a_killed_process_ends_all_and_the_run_resumes_bit_equal(
    target: str, undisturbed: dict[str, Any], tmp_path: Path, contents: Any, own_words: Any, wait_for: Any
) -> None:
    run = tmp_path / "run"
    process = start_run(run, own_words=own_words)
    wait_for((run / "checkpoints" / "last.ckpt").exists, lambda: process.poll() is None)
    other = other_process(process)
    os.kill(process.pid if target == "first" else other, signal.SIGKILL)
    start_time = time.monotonic()
    finish(process)
    while not has_exited(other):
        assert time.monotonic() - start_time < 120
        time.sleep(0.05)
    assert time.monotonic() - start_time < 120
    assert process.returncode != 0
    resumed = start([sys.executable, "-m", "lit_viz", "resume", str(run)])
    message = finish(resumed)
    assert resumed.returncode == 0, message
    assert contents(run) == undisturbed


@pytest.mark.parametrize(("launcher", "target"), FROZEN)
def test_a_frozen_process_is_named_and_ends_the_run(
    launcher: str, target: int, undisturbed: dict[str, Any], tmp_path: Path, contents: Any, own_words: Any
) -> None:
    """Nothing is lost: the resumed run is equal."""
    assert freeze(launcher, target, tmp_path / "run", own_words) == ""
    assert contents(tmp_path / "run") == undisturbed


def test_a_signal_stops_all_processes_and_another_number_resumes(
    undisturbed: dict[str, Any], tmp_path: Path, contents: Any, lit_viz: Any, own_words: Any, wait_for: Any
) -> None:
    run = tmp_path / "run"
    process = start_run(run, own_words=own_words)
    wait_for((run / "frames" / "0000_class_0" / "iter_000050.png").exists, lambda: process.poll() is None)
    os.kill(process.pid, signal.SIGTERM)
    message = finish(process)
    assert process.returncode == 143, message
    assert message.count(f"lit-viz resume {run}") == 1
    lit_viz(*changed(own_words, "--slots", "1"), "--out", str(run), "--resume")  # one process with one slot
    kept = contents(run)
    assert [r["index"] for r in kept["records"]] == [0, 1, 2, 3, 4]
    assert kept.keys() == undisturbed.keys()
    for actual, its in zip(kept["records"], undisturbed["records"], strict=True):
        assert actual["forwards"] == its["forwards"]
        assert actual["metrics"]["logit"] == pytest.approx(its["metrics"]["logit"], rel=0.05)


def test_an_error_of_one_process_ends_all(tmp_path: Path, own_words: Any) -> None:
    run = tmp_path / "run"
    start_time = time.monotonic()
    command = [sys.executable, "-m", "lit_viz", *own_words, *TWO, "--out", str(run)]
    command[command.index("tests.support.networks:smooth_network")] = "tests.support.networks:only_on_the_first"
    process = start(command)
    message = finish(process, 120)
    assert process.returncode != 0
    assert "there is no network for the other processes" in message
    assert time.monotonic() - start_time < 120


def test_torchrun_on_two_nodes(undisturbed: dict[str, Any], tmp_path: Path, contents: Any, own_words: Any) -> None:
    run, port = tmp_path / "run", free_port()
    words = ["-m", "lit_viz", *own_words, "--out", str(run)]
    nodes = [start(torchrun(*words, processes=1, node=(rank, 2, port))) for rank in (0, 1)]
    message = [finish(node) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], message
    assert contents(run) == undisturbed


def test_wandb_receives_the_logs_of_all_processes(
    tmp_path: Path, own_words: Any, wait_for: Any, wandb_server: Any
) -> None:
    """The run is stopped once and resumed."""
    run = tmp_path / "run"
    with wandb_server() as server:
        online = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": 40 * "a", "WANDB_MODE": "online"}
        process = start_run(run, **online, own_words=changed(own_words, "--wandb", "online"))
        wait_for((run / "frames" / "0000_class_0" / "iter_000050.png").exists, lambda: process.poll() is None)
        os.kill(process.pid, signal.SIGTERM)
        message = finish(process)
        assert process.returncode == 143, message
        assert "Traceback" not in message
        assert "W&B" not in message
        resumed = start([sys.executable, "-m", "lit_viz", "resume", str(run)], **online)
        message = finish(resumed)
        assert resumed.returncode == 0, message
    assert server.unknown == []
    (rows,) = server.history.values()
    assert list(server.exits.values()) == [[1, 0]]
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    shown = {(key, row["iteration"]): row[key] for row in rows for key in row if key.startswith("image/")}
    assert shown.keys() == {(f"image/class_{k}", at) for k in range(5) for at in (0, 50, 100, 150)}
    for (key, at), printed in shown.items():
        frame = run / "frames" / f"000{key[-1]}_{key.removeprefix('image/')}" / f"iter_{at:06}.png"
        assert np.array_equal(read(BytesIO(server.files[printed["path"]])), read(frame))
    assert {"artifact/results.jsonl", "artifact/images/0004_class_4.png"} <= server.files.keys()


def read(picture: Path | BytesIO) -> NDArray[np.uint8]:
    return np.asarray(Image.open(picture).convert("RGB"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, slurm: Any) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("slurm")
    program = folder / "bin" / "lit-viz"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m lit_viz "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    with slurm(folder, {**environment(), "PATH": path}) as running:
        yield running


@pytest.fixture(scope="module")
def longer_words(own_words: Any) -> list[str]:
    """Arguments of a run that takes long enough for a signal that takes a second to arrive."""
    return changed(own_words, "--iterations", "800")


@pytest.fixture(scope="module")
def long_undisturbed(tmp_path_factory: pytest.TempPathFactory, contents: Any, longer_words: Any) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("long") / "run"
    process = start_run(run, own_words=longer_words)
    message = finish(process)
    assert process.returncode == 0, message
    return contents(run)


@pytest.mark.parametrize("why", ["preempted", "out of time"])
def test_a_requeued_slurm_job_resumes_bit_equal(
    why: str, cluster: Any, long_undisturbed: dict[str, Any], tmp_path: Path, contents: Any, longer_words: Any
) -> None:
    run, output = tmp_path / "run", tmp_path / "output.txt"
    where = ["--parsable", "--nodes", "2", "--ntasks-per-node", "1", "--chdir", str(ROOT), "--output", str(output)]
    words = [*changed(longer_words, "--wandb", "offline"), "--out", str(run)]
    job = cluster("sbatch", *where, "scripts/slurm.sh", *words).strip()
    cluster.wait((run / "checkpoints" / "last.ckpt").exists)
    if why == "preempted":
        cluster("sbatch", "--partition", "urgent", "--nodes", "2", "--output", "/dev/null", "--wrap", "true")
    else:
        cluster("scancel", "--signal", "TERM", job)  # as SLURM does before the time limit
    cluster.wait(lambda: cluster.job(job)["JobState"] == "PENDING")
    message = output.read_text()
    assert message.count("lit-viz: stopped after") == 1
    cluster("scontrol", "update", f"JobId={job}", "StartTime=now+5")  # SLURM requeues after two minutes
    cluster.wait(lambda: cluster.job(job)["JobState"] == "COMPLETED")
    assert cluster.job(job)["Restarts"] == "1"
    assert "Traceback" not in output.read_text()
    assert contents(run) == long_undisturbed


PLAIN_TRAINER = """
import sys
import pytorch_lightning as pl
import torch
import lit_viz as lv
from tests.support.networks import NAMES, smooth_network

net = lv.load_network(smooth_network(), labels=NAMES, mean=[0.5] * 3, std=[0.25] * 3, size=16)
module, tasks = lv.ClassVisualization(net, iterations=4, slots=1), lv.ClassTasks(net, NAMES)
options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
several = {"devices": 1} if sys.argv[1] == "1" else {"devices": 2, "strategy": sys.argv[1]}
trainer = pl.Trainer(accelerator="cpu", **several, **options)
trainer.fit(module, tasks)
(figures,) = trainer.test(module, tasks, verbose=False)
images = torch.stack([result.image for result in module.results])
torch.save((images, figures, trainer.world_size), f"{sys.argv[2]}.{trainer.global_rank}")
"""


def test_a_plain_trainer_shares_the_images(tmp_path: Path) -> None:
    """The devices compute the images of one device, whose batches are the same with one slot.

    Results and evidence are complete on every rank, and the strategy need not be named.
    """
    script = tmp_path / "train.py"
    script.write_text(PLAIN_TRAINER)
    saved = []
    for strategy in ("1", "lit_viz", "auto"):
        process = start([sys.executable, str(script), strategy, str(tmp_path / strategy)], PYTHONPATH=str(ROOT))
        output = finish(process)
        assert process.returncode == 0, output
        assert "sync_dist" not in output
        for rank in range(1 if strategy == "1" else 2):
            saved.append(torch.load(tmp_path / f"{strategy}.{rank}"))
    (expected, figures, _), *others = saved
    del figures["cost/seconds"]
    for images, other_figures, world_size in others:
        assert world_size == 2
        assert torch.equal(images, expected)
        del other_figures["cost/seconds"]
        assert other_figures == pytest.approx(figures)
