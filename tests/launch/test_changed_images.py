"""A run reads the same image for every task that starts from it, also after a resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import lit_viz as lv
from lit_viz.engine.method import Method
from lit_viz.errors import Interrupted, LitVizError
from lit_viz.images.reading import encode_png
from lit_viz.methods import ClassVisualization, SaliencyMap
from lit_viz.methods.adversarial_example import AdversarialExample
from lit_viz.methods.photographs import PhotographTraining
from lit_viz.methods.universal_perturbation import UniversalPerturbation
from lit_viz.networks import Network
from lit_viz.runs.folder import FolderStorage
from lit_viz.types import Task
from tests.support.shards import stop_at

ANOTHER = r"is another picture than this run has read before \(sha256 \w{12}\.\.\., got \w{12}\.\.\.\): "


def noise(seed: int, count: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 16, 16, generator=generator).mul(255).round() / 255


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    return write(tmp_path / "q.png", 0)


def write(file: Path, seed: int) -> Path:
    file.write_bytes(encode_png(noise(seed)[0]))
    return file


def statuses(run: Path) -> list[str]:
    return [record.status for record in FolderStorage.open(run).records()]


def sources(run: Path) -> set[bytes]:
    return {file.read_bytes() for file in (run / "sources").iterdir()}


def attack(network: Network, file: Path, **options: Any) -> Any:
    return lv.attack(network, file, attack="pgd", eps=["1/255", "2/255", "4/255"], **options)


def explain(network: Network, file: Path, **options: Any) -> Any:
    return lv.saliency(network, file, method=["gradient", "input_x_gradient", "occlusion"], captum="none", **options)


@pytest.mark.parametrize(("call", "kind"), [(attack, AdversarialExample), (explain, SaliencyMap)])
def test_a_file_that_was_replaced_before_a_resume_is_named(
    call: Callable[..., Any],
    kind: type[Method],
    smooth: Network,
    photograph: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    options = {"out": run, "slots": 1, "iterations": 6, "wandb": "disabled"}
    with monkeypatch.context() as patch:
        stop_at(patch, 1, kind)
        with pytest.raises(Interrupted):
            call(smooth, photograph, **options)
    write(photograph, 1)
    with pytest.raises(LitVizError, match=rf"q\.png {ANOTHER}restore the file and resume the run, or start another"):
        lv.resume(run, smooth)
    assert "failed" not in statuses(run)
    write(photograph, 0)
    lv.resume(run, smooth)
    assert "failed" not in statuses(run)
    assert len(statuses(run)) == 3
    assert len(sources(run)) == 1


def test_a_file_that_is_replaced_during_a_run_is_named(
    smooth: Network, photograph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = AdversarialExample.start

    def replacing(self: Any, task: Task) -> Tensor:
        write(photograph, task.index)
        return start(self, task)

    monkeypatch.setattr(AdversarialExample, "start", replacing)
    with pytest.raises(LitVizError, match=rf"q\.png {ANOTHER}"):
        attack(smooth, photograph, slots=1, iterations=6)


def as_tensor(images: Tensor) -> Tensor:
    return images


def as_dataset(images: Tensor) -> TensorDataset:
    return TensorDataset(images, torch.arange(len(images)) % 2)


def as_loader(images: Tensor) -> DataLoader[Any]:
    return DataLoader(as_dataset(images), batch_size=2)


@pytest.mark.parametrize("given", [as_tensor, as_dataset, as_loader])
def test_other_images_without_files_are_named_by_their_index(
    given: Callable[[Tensor], Any], smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image has one task."""
    run, images = tmp_path / "run", noise(0, count=3)
    options = {"out": run, "method": "gradient", "slots": 1, "captum": "none", "wandb": "disabled"}
    with monkeypatch.context() as patch:
        stop_at(patch, 1, SaliencyMap)
        with pytest.raises(Interrupted):
            lv.saliency(smooth, given(images), **options)
    with pytest.raises(LitVizError, match=f"image 0 {ANOTHER}give the same images in the same order and resume"):
        lv.saliency(smooth, given(images.flip(0)), resume=True, **options)
    finished = lv.saliency(smooth, given(images), resume=True, **options)
    assert [record["status"] for record in finished.records] == ["done"] * 3


def test_other_photographs_of_a_universal_perturbation_are_named(
    smooth: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read again by a resume in the middle of the task."""
    files = [write(tmp_path / f"{seed}.png", seed) for seed in range(3)]
    run = tmp_path / "run"

    def start(resume: bool) -> Any:
        module = UniversalPerturbation(smooth, iterations=8, slots=1)
        tasks = lv.ImageTasks(smooth, files, vary={"eps": ["8/255"]})
        return lv.run(module, tasks, out=run, logger="none", resume=resume)

    with monkeypatch.context() as patch:
        stop_at(patch, 1, PhotographTraining)
        with pytest.raises(Interrupted):
            start(resume=False)
    write(files[2], 9)
    with pytest.raises(LitVizError, match=rf"2\.png {ANOTHER}"):
        start(resume=True)
    write(files[2], 2)
    assert len(start(resume=True).records) == 1


def test_another_initial_image_of_class_images_is_named(
    smooth: Network, photograph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    options = {"init": photograph, "out": run, "slots": 1, "iterations": 3, "wandb": "disabled"}
    with monkeypatch.context() as patch:
        stop_at(patch, 1, ClassVisualization)
        with pytest.raises(Interrupted):
            lv.visualize(smooth, [0, 1, 2], config="small", **options)
    write(photograph, 1)
    with pytest.raises(LitVizError, match=rf"init .*q\.png {ANOTHER}give the same image and resume"):
        lv.resume(run, smooth)
