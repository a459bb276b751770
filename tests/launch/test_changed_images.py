"""A run reads the same image for every task that starts from it, also after a resume."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import lit_viz as lv
from lit_viz.engine.method import Method
from lit_viz.engine.sources import source_digest
from lit_viz.errors import Interrupted, LitVizError
from lit_viz.images.reading import encode_png
from lit_viz.methods import ClassVisualization, SaliencyMap
from lit_viz.methods.adversarial_example import AdversarialExample
from lit_viz.methods.photographs import PhotographTraining
from lit_viz.methods.universal_perturbation import UniversalPerturbation
from lit_viz.networks import Network
from lit_viz.runs.folder import FolderStorage
from lit_viz.types import Task
from tests.support.marks import slow
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


# -- files that no task has read yet


@pytest.fixture
def thirty(tmp_path: Path) -> list[Path]:
    return [write(tmp_path / f"{index:02d}.png", index) for index in range(30)]


def stopped(network: Network, files: list[Path], index: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Path:
    """Stop a run at the start of a task; return its folder."""
    run = files[0].parent / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, index, SaliencyMap)
        with pytest.raises(Interrupted):
            lv.saliency(network, files, out=run, method="gradient", slots=1, captum="none", logger="none", **options)
    return run


@pytest.mark.parametrize("store", ["files", slow("tar")])
def test_files_that_were_replaced_before_their_task_are_named(
    store: str, smooth: Network, thirty: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped(smooth, thirty, 12, monkeypatch, store=store)
    started = len(FolderStorage.open(run).records())
    for index, file in enumerate(thirty):
        write(file, 100 + index)
    with pytest.raises(LitVizError) as raised:
        lv.resume(run, smooth)
    assert len(FolderStorage.open(run).records()) == started
    unread = thirty[13:]
    named = ", ".join(str(file) for file in unread[:10])
    assert str(raised.value) == (
        f"17 photographs are other files ({named} and 7 more) than at the start of the run, and not read yet: restore "
        "them and resume the run, or start another run"
    )
    for index, file in enumerate(thirty):
        write(file, index)
    assert len(lv.resume(run, smooth)) == 30
    assert lv.check(run, smooth)


def test_one_replaced_file_is_named_before_anything_is_read(
    smooth: Network, thirty: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped(smooth, thirty, 0, monkeypatch)
    write(thirty[29], 100)
    with pytest.raises(LitVizError, match=r"29\.png is another file than at the start of the run, and not read yet: r"):
        lv.resume(run, smooth)
    write(thirty[29], 29)
    assert len(lv.resume(run, smooth)) == 30


def test_a_file_that_is_replaced_during_a_run_before_its_task_is_named(
    smooth: Network, thirty: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = SaliencyMap.start

    def replacing(self: Any, task: Task) -> Tensor:
        if task.index == 3:
            write(thirty[3], 100)
        return start(self, task)

    options: dict[str, Any] = {"method": "gradient", "slots": 1, "captum": "none", "logger": "none"}
    with monkeypatch.context() as patch:
        patch.setattr(SaliencyMap, "start", replacing)
        with pytest.raises(LitVizError, match=r"03\.png is another file than at the start of the run"):
            lv.saliency(smooth, thirty[:6], out=tmp_path / "run", **options)
    write(thirty[3], 3)
    assert [record.status for record in lv.resume(tmp_path / "run", smooth).records] == ["done"] * 6


def test_a_missing_file_fails_its_task_only(
    smooth: Network, thirty: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped(smooth, thirty, 12, monkeypatch)
    thirty[20].unlink()
    with pytest.warns(UserWarning, match="1 failed of 30"):
        lv.resume(run, smooth)


def test_photographs_of_a_universal_perturbation_that_were_replaced_before_its_task_are_named(
    smooth: Network, thirty: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"attack": "universal", "iterations": 4, "logger": "none", "out": tmp_path / "run"}
    with monkeypatch.context() as patch:
        stop_at(patch, 0, PhotographTraining)
        with pytest.raises(Interrupted):
            lv.attack(smooth, thirty[:4], **options)
    # The first task has started, so that its photographs were read; of the queue they have digests too.
    (rows,) = [task.photographs for task in FolderStorage.open(tmp_path / "run").queue()]
    assert rows is not None
    assert [row["source_digest"] for row in rows] == [source_digest(str(file)) for file in thirty[:4]]


def test_the_run_folder_of_a_plain_trainer_names_replaced_files(
    smooth: Network, thirty: list[Path], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "last.ckpt"

    class Stops(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.should_stop = trainer.global_step >= 3

    def fit(*callbacks: pl.Callback, ckpt_path: Path | None = None) -> Any:
        trainer = pl.Trainer(
            callbacks=[lv.callbacks.RunFolder(tmp_path / "run"), *callbacks],
            max_epochs=-1,
            logger=False,
            accelerator="cpu",
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = SaliencyMap(smooth, method="gradient", slots=1)
        trainer.fit(module, lv.ImageTasks(smooth, thirty, label="predicted"), ckpt_path=ckpt_path)
        return module

    fit(Stops(), lv.callbacks.ExactCheckpoint(checkpoint))
    write(thirty[20], 100)
    with pytest.raises(LitVizError, match=r"20\.png is another file than at the start of the run"):
        fit(ckpt_path=checkpoint)
    write(thirty[20], 20)
    assert len(fit(ckpt_path=checkpoint).results) == 30


def test_digests_are_those_of_both_ends_and_the_size(tmp_path: Path) -> None:
    content = bytearray(range(256)) * 1024
    file = tmp_path / "f"

    def changed(place: int) -> str | None:
        other = bytearray(content)
        other[place] ^= 1
        file.write_bytes(other)
        return source_digest(str(file))

    file.write_bytes(content)
    digest = source_digest(str(file))
    ends = bytes(content[: 1 << 16]) + bytes(content[-(1 << 16) :])
    assert digest == f"{len(content)}:{sha256(ends).hexdigest()[:16]}"
    assert changed(100_000) == digest
    assert digest not in (changed(0), changed((1 << 16) - 1), changed(-(1 << 16)), changed(-1))
    for size in (0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 100_000):
        file.write_bytes(content[:size])
        assert source_digest(str(file)) == f"{size}:{sha256(content[:size]).hexdigest()[:16]}"
    for other in (None, "packaged:chelsea", "array:0", str(tmp_path), str(tmp_path / "missing")):
        assert source_digest(other) is None
