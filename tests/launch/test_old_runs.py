"""Run folders of the version before runs were recorded from objects (``data/``), killed after a checkpoint.

Each has a finished task, or part of one, and a task that has not started. They were written by the commands below.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import lit_viz as lv
from lit_viz.runs.folder import FolderStorage

ROOT = Path(__file__).parents[2]
DATA = Path("tests") / "launch" / "data"
PHOTOGRAPH = str(DATA / "photograph.png")
COMMANDS = {
    "old_layer": [
        "visualize", "--layer", "features.3", "--channel", "3,7", "--neuron", "1,2", "--model.size", "16",
        "--views", "2", "--iterations", "8", "--log-at", "0,4", "--trainer.precision", "64-true",
        "--checkpoint-every", "6",
    ],
    "old_saliency": [
        "saliency", PHOTOGRAPH, "--target", "1", "--method", "smoothgrad,integrated_gradients",
        "--method.smoothgrad.sigma", "0.2", "--iterations", "12", "--batch", "2", "--check", "none",
        "--log-at", "last", "--checkpoint-every", "4",
    ],
    "old_attack": [
        "attack", PHOTOGRAPH, "--attack", "pgd", "--eps", "2/255,4/255", "--attack.early_stop", "false",
        "--iterations", "8", "--log-at", "last", "--trainer.precision", "64-true", "--checkpoint-every", "6",
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(params=COMMANDS)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a copy of an old run folder."""
    return shutil.copytree(DATA / request.param, tmp_path / request.param)


def test_an_old_run_resumes_bit_equal(
    old: Path, tmp_path: Path, lit_viz: Any, records: Any, contents: Any, small_options: list[str]
) -> None:
    tasks = FolderStorage.open(old).queue()
    done = records(old) if (old / "results.jsonl").exists() else []
    assert len(done) < len(tasks) == 2
    undisturbed = tmp_path / "undisturbed"
    lit_viz(*COMMANDS[old.name], *small_options, "--slots", "1", "--out", str(undisturbed))
    config = (old / "config.yaml").read_bytes()
    lit_viz("resume", str(old))
    assert contents(old) == contents(undisturbed)
    for array in (undisturbed / "arrays").glob("*"):
        resumed = old / "arrays" / array.name
        if resumed.name == "0000_photograph.terms.npy":  # the state in the old checkpoint has no record
            assert not resumed.exists()
        else:
            assert resumed.read_bytes() == array.read_bytes()
    assert (old / "config.yaml").read_bytes() == config
    lit_viz("resume", str(old))  # a finished run prints its results


def test_an_old_run_resumes_in_python(old: Path) -> None:
    run = lv.resume(old)
    assert [record["status"] for record in run.results] == ["done", "done"]
    assert run.folder == old


def test_the_command_of_an_old_run_continues_it(
    old: Path,
    capsys: pytest.CaptureFixture[str],
    lit_viz: Any,
    records: Any,
    sentence: Any,
    small_options: list[str],
) -> None:
    """Its configuration is that of the new run, except for options that old ones lack."""
    options = [option.replace("tests.support.networks", "tests.conftest") for option in small_options]
    command = [*COMMANDS[old.name], *options, "--slots", "1", "--out", str(old), "--resume"]
    lit_viz(*command, "--iterations", "9", expect=1)
    assert "--iterations can't be changed" in sentence(capsys)
    lit_viz(*command)
    assert [record["status"] for record in records(old)] == ["done", "done"]
