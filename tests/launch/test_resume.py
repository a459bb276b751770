"""A resume recomputes missing results and rejects what does not fit the run."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lit_viz as lv
from lit_viz.attacks import ATTACKS
from lit_viz.attributions import ATTRIBUTIONS
from lit_viz.engine.lightning import AtomicCheckpointIO
from lit_viz.errors import Interrupted, LitVizError
from lit_viz.methods import ClassVisualization
from lit_viz.methods.photographs import PhotographTraining
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import LAST_CHECKPOINT
from lit_viz.types import Task
from tests.support.marks import slow
from tests.support.networks import NAMES
from tests.support.segments import lose


@pytest.fixture(scope="module")
def finished(smooth: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    lv.visualize(smooth, [0, 1, 2], config="small", iterations=4, out=folder, wandb="disabled")
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of a finished run."""
    return shutil.copytree(finished, tmp_path / "run")


def without(*indices: int) -> Callable[[Path], None]:
    """Return a function that removes the lines of these tasks from the segments."""
    return lambda run: lose(run, *indices)


def recorded(run: Path) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in record.to_dict().items() if k != "seconds"} for record in FolderStorage.open(run).records()
    ]


def unlink(pattern: str) -> Callable[[Path], None]:
    return lambda run: next(iter(sorted(run.glob(pattern)))).unlink()


def cut(pattern: str) -> Callable[[Path], None]:
    """Return a function that keeps the first half of a file."""

    def edit(run: Path) -> None:
        file = next(iter(sorted(run.glob(pattern))))
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return edit


def flip(pattern: str) -> Callable[[Path], None]:
    """Return a function that changes a byte of a file."""

    def edit(run: Path) -> None:
        file = next(iter(sorted(run.glob(pattern))))
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 4
        file.write_bytes(content)

    return edit


@pytest.mark.parametrize(
    "damage",
    [
        without(1),
        slow(without(0, 1, 2)),
        *(change("records/*") for change in (unlink, cut, flip)),
        unlink("images/*"),
        flip("frames/*/*"),
        cut("results.jsonl"),
        *(slow(change("images/*")) for change in (cut, flip)),
        *(slow(change("frames/*/*")) for change in (unlink, cut)),
        *(slow(change("results.jsonl")) for change in (unlink, flip)),
        *(slow(change("metrics.csv")) for change in (unlink, cut, flip)),
    ],
)
def test_missing_results_are_recomputed(damage: Callable[[Path], None], run: Path, smooth: Network) -> None:
    """Of tasks that are finished in the checkpoint."""
    before, files = recorded(run), contents(run)
    damage(run)
    lv.resume(run, smooth)
    assert recorded(run) == before
    assert contents(run) == files


def contents(run: Path) -> dict[str, Any]:
    """Return the images, and the rows of the metrics in any order."""
    images = {str(file.relative_to(run)): file.read_bytes() for file in run.rglob("0*/*.png")}
    images |= {file.name: file.read_bytes() for file in (run / "images").iterdir()}
    return {**images, "rows": sorted((run / "metrics.csv").read_text().splitlines())}


@pytest.mark.parametrize(
    "lines", ['{"index": 0, "na\n', '{"index": 0}\n', "3\n", '{"index": 1, "name": "a", "seed": 0}\n']
)
def test_a_damaged_queue_gives_a_one_line_error(lines: str, run: Path, smooth: Network) -> None:
    (run / "queue.jsonl").write_text(lines)
    with pytest.raises(LitVizError, match=r"queue\.jsonl was changed after the start of the run: restore it"):
        lv.resume(run, smooth)
    (run / "manifest.json").unlink()
    with pytest.raises(LitVizError, match=r"queue\.jsonl is damaged .*: start it again with overwrite=True"):
        lv.resume(run, smooth)


def attack_arrays(network: Network, run: Path, **options: Any) -> Any:
    """Attack three arrays in one slot: they end one after another."""
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    given = {"attack": "pgd", "iterations": 6, "slots": 1, "wandb": "disabled"}
    return lv.attack(network, x, out=run, **{**given, **options})


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Send SIGINT at the start of task ``at``."""
    start = PhotographTraining.start

    def stopping(self: PhotographTraining, task: Task) -> torch.Tensor:
        if task.index == at:
            os.kill(os.getpid(), signal.SIGINT)
        return start(self, task)

    monkeypatch.setattr(PhotographTraining, "start", stopping)


def test_a_resume_keeps_the_precision(run: Path, smooth: Network) -> None:
    """Aliases of a precision are equal."""
    lv.resume(run, smooth, trainer={"precision": 32})
    with pytest.raises(
        LitVizError, match=r"trainer.precision can't be changed: .* was started with 32-true, got bf16-mi"
    ):
        lv.resume(run, smooth, trainer={"precision": "bf16-mixed"})


def test_no_parser_takes_part_in_python(run: Path, smooth: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("parse_args", "parse_known_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, lambda *_, **__: pytest.fail("a parser was used"))
    lose(run, 1)
    assert len(lv.resume(run, smooth, slots=1).records) == 3
    assert len(lv.visualize(smooth, [0], config="small", iterations=1).records) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"slots": 1},
        {"devices_mode": "views"},
        {"logger": "csv", "figure": "svg", "checkpoint_every": 1},
        {"trainer": {"accelerator": "cpu", "devices": 1}},
        {"logging.project": "other", "tags": ["a"], "wandb": "disabled"},
        {"iterations": 4, "objective": "logit", "seed": 0, "lr": 0.05},  # as in the run
        {"network.size": 16, "network.mean": 0.5, "picture": {"size": None}},
    ],
)
def test_arguments_that_may_change(changes: dict[str, Any], run: Path, smooth: Network) -> None:
    before = recorded(run)
    lose(run, 1)
    lv.resume(run, smooth, **changes)
    assert recorded(run) == before


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("iterations", 5, "iterations can't be changed: {run} was started with 4, got 5;"),
        ("seed", 3, "seed can't be changed: {run} was started with 0, got 3;"),
        ("target", [4], "target can't be changed: {run} was started with [0, 1, 2], got [4];"),
        ("log_at", "last", "log_at can't be changed: {run} was started with every:10, got last;"),
        ("step_rule.lr", 0.3, "step_rule.lr can't be changed: {run} was started with 0.05, got 0.3;"),
        ("lr", 0.3, "step_rule.lr can't be changed: {run} was started with 0.05, got 0.3;"),
        ("size", 20, "picture.size can't be changed: {run} was started with None, got 20;"),
        ("network.size", 20, "network.size can't be changed: {run} was started with [16, 16], got 20;"),
        ("config", "small", "config only applies to a new run: leave it out to continue {run}"),
        ("out", "other", "out only applies to a new run: leave it out to continue {run}"),
        ("iteration", 3, "iteration is not an argument of "),
    ],
)
def test_arguments_that_determine_the_images_are_fixed(
    name: str, value: Any, sentence: str, run: Path, smooth: Network
) -> None:
    before = recorded(run)
    lose(run, 1)
    with pytest.raises(LitVizError) as error:
        lv.resume(run, smooth, **{name: value})
    assert str(error.value).startswith(sentence.format(run=run))
    assert "\n" not in str(error.value)
    assert len(recorded(run)) == 2
    lv.resume(run, smooth)
    assert recorded(run) == before


@pytest.mark.filterwarnings("ignore:. skipped of 3 images")
@pytest.mark.parametrize("labels", ["predicted", 2])
def test_a_resume_requires_the_arrays_of_the_run(
    labels: str | int, smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unfinished tasks are not recorded as failed."""
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        interrupt(patched, at=1)
        with pytest.raises(Interrupted, match="continue in Python with the same call and resume=True"):
            attack_arrays(smooth, run, label=labels)
    with pytest.raises(LitVizError, match="are arrays: resume it in Python"):
        lv.resume(run, smooth)
    assert all(record["status"] != "failed" for record in recorded(run))
    whole = attack_arrays(smooth, run, label=labels, resume=True)
    assert [record["index"] for record in whole.records] == [0, 1, 2]
    assert all(record["status"] in ("done", "skipped") for record in whole.records)
    assert len(lv.resume(run, smooth).records) == 3  # a finished run needs no arrays


def test_the_interrupt_message_without_a_folder(smooth: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, at=1)
    with pytest.raises(Interrupted) as stop:
        lv.attack(smooth, torch.rand(3, 3, 16, 16), attack="pgd", iterations=3, slots=1)
    assert "saved" not in str(stop.value)
    assert "continue" not in str(stop.value)


def test_an_interrupt_during_preparation_gives_a_one_line_error(
    smooth: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning exits with 1, and leaves SIGINT ignored."""

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(ClassVisualization, "prepare", stopped)
    with pytest.raises(Interrupted, match="stopped immediately") as stop:
        lv.visualize(smooth, [0], iterations=1)
    assert stop.value.exit_status == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_is_replaced_only_by_a_valid_run(run: Path, smooth: Network) -> None:
    before = recorded(run)
    with pytest.raises(LitVizError, match="unknown class 'zzz'"):
        lv.visualize(smooth, ["zzz"], config="small", out=run, overwrite=True, wandb="disabled")
    assert recorded(run) == before
    lv.visualize(smooth, [3], config="small", iterations=2, out=run, overwrite=True, wandb="disabled")
    assert [record["target"] for record in recorded(run)] == [3]


def test_an_old_report_does_not_mark_a_resumed_run_as_complete(
    run: Path, smooth: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resume is killed before its evidence is written."""
    lose(run, 1)
    assert (run / "report.html").exists()
    monkeypatch.setattr("lit_viz.launch.run.write_report", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        lv.resume(run, smooth)
    assert not (run / "report.html").exists()
    monkeypatch.undo()
    lv.resume(run, smooth)
    assert (run / "report.html").exists()


@pytest.mark.parametrize("found", ["1", "3", "null", "x"])
def test_a_run_of_another_format_is_refused(found: str, run: Path, smooth: Network) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("  format: 2\n", f"  format: {found}\n"))
    for call in (lv.resume, lv.check, lambda *_: lv.log(run, "csv")):
        with pytest.raises(LitVizError, match=r"must have format 2, got [13]: use the release|format must be"):
            call(run, smooth)


def test_a_resume_with_the_module_has_the_recorded_labels(run: Path, smooth: Network) -> None:
    lose(run, 2)
    lv.resume(run, smooth.original)
    assert {record["target_name"] for record in recorded(run)} == set(NAMES[:3])
    assert all(name in NAMES for record in recorded(run) for name, _ in record["top5"])
    other = load_network(smooth.original, labels=list("vwxyz"), mean=0.5, std=0.25, size=16)
    with pytest.raises(LitVizError, match="was started with other labels"):
        lv.resume(run, other)


@pytest.mark.parametrize("found", [1, 3])
def test_a_checkpoint_of_another_format_changes_nothing(found: int, run: Path, smooth: Network) -> None:
    lose(run, 1)
    before = recorded(run)
    checkpoint = torch.load(run / LAST_CHECKPOINT, weights_only=True)
    checkpoint["lit_viz"] = {"format": found, "slots": []}
    AtomicCheckpointIO().save_checkpoint(checkpoint, run / LAST_CHECKPOINT)
    with pytest.raises(LitVizError, match=f"the checkpoint must have format 2, got {found}"):
        lv.resume(run, smooth)
    assert recorded(run) == before


def test_an_overlong_folder_name_gives_a_one_line_error() -> None:
    with pytest.raises(LitVizError, match=r"is not a lit_viz run: give the folder"):
        lv.resume("x" * 300)


def test_the_modules_in_recorded_class_paths_do_not_move() -> None:
    """``config.yaml`` names the parts of a run by module and class; a resume imports and compares them."""
    modules = {name: kind.__module__.rpartition(".")[2] for name, kind in {**ATTRIBUTIONS, **ATTACKS}.items()}
    shared = {
        **dict.fromkeys(("libra_gradient", "input_x_gradient", "guided_backprop", "deconvolution"), "gradient"),
        **dict.fromkeys(("smoothgrad_squared", "vargrad"), "smoothgrad"),
        **dict.fromkeys(("guided_grad_cam", "grad_cam_plus_plus", "layer_cam", "hires_cam"), "grad_cam"),
        "fgsm": "pgd",
    }
    assert modules == {name: shared.get(name, name) for name in modules}
