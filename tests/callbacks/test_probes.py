"""Probes: a training with probes is the training without them, bit for bit, and what they log and write."""

from __future__ import annotations

import csv
import json
import logging
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.compile import from_compiled
from pytorch_lightning.utilities.exceptions import SIGTERMException
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import lit_viz as lv
from lit_viz.callbacks.probes import Probe
from lit_viz.cli import main
from lit_viz.errors import LitVizError
from lit_viz.figures.epochs import epoch_figure, epoch_folder
from lit_viz.launch.methods import METHODS, read_config
from lit_viz.networks.isolation import eager_copy
from lit_viz.outputs import Region
from lit_viz.runs.folder import FolderStorage

NAMES = ["zero", "one", "two"]
Build = Callable[[], Any]

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers, devices and logging intervals


class Net(nn.Module):
    """Dropout, batch norm, and random numbers in every forward, also in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten())
        self.head = nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)) + 1e-3 * torch.rand(3, device=x.device)


class Training(pl.LightningModule):
    """A network in training that records its loss curve."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.losses: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        images = images + 0.01 * random.random() + 0.01 * float(np.random.rand())  # noqa: NPY002 - global state
        loss = nn.functional.cross_entropy(self(images).float(), labels)
        self.losses.append(float(loss))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", self(batch[0]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-2)


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.rand(24, 1, 8, 8, generator=generator), torch.arange(24) % 3)


def probes(**options: Any) -> list[Probe]:
    options = {"every_n_epochs": 1, "iterations": 2, "labels": NAMES, **options}
    loader = DataLoader(data(), 4, shuffle=True)
    return [
        lv.callbacks.ClassVisualizationProbe(["two"], **options),
        lv.callbacks.SaliencyProbe(loader, method="smoothgrad", limit=2, **options),
        lv.callbacks.RobustnessProbe(loader, eps=0.1, limit=3, **options),
    ]


def train(
    folder: Path, callbacks: list[Any], build: Build = Training, ckpt_path: Path | None = None, **options: Any
) -> tuple[dict[str, Any], pl.Trainer]:
    """Return the final state of a training and its Trainer."""
    pl.seed_everything(3, verbose=False)
    module = build()
    trainer = pl.Trainer(
        **{
            "max_epochs": 2,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": folder,
            "num_sanity_val_steps": 0,
            "callbacks": callbacks,
            **options,
        }
    )
    trainer.fit(module, DataLoader(data(), 8, shuffle=True), DataLoader(data(), 12), ckpt_path=ckpt_path)
    original = getattr(module, "_orig_mod", module)
    state = {
        "weights": original.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict()["state"],
        "gradients": [p.grad for p in original.parameters()],
        "losses": original.losses,
        "mode": [m.training for m in original.modules()],
        "frozen": [p.requires_grad for p in original.parameters()],
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1],  # noqa: NPY002
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "settings": [
            torch.get_num_threads(),
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            rank_zero_only.rank,
            dict(os.environ),
        ],
    }
    return state, trainer


def assert_equal(a: Any, b: Any) -> None:
    """Compare nested values bit for bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    elif isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        assert np.array_equal(a, b)
    else:
        assert a == b


def compiled_module() -> Any:
    return torch.compile(Training(), backend="eager")


def compiled_network() -> Training:
    module = Training()
    module.net = torch.compile(module.net, backend="eager")
    return module


def compiled_in_place() -> Training:
    module = Training()
    module.net.features.compile(backend="eager")
    return module


class Uncopyable(Training):
    """A module with an attribute that can't be copied: the probes get the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.iterator: Iterator[int] = iter(range(3))
        self.generator = (n for n in range(3))


@pytest.fixture
def deterministic() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], Build]] = {
    "plain": ({}, {}, Training),
    "bf16": ({"max_fraction": 0.5}, {"precision": "bf16-mixed"}, Training),
    "validation": ({"hook": "validation_epoch_end"}, {}, Training),
    "network": ({"network": "net"}, {"deterministic": True}, Training),
    "function": ({"network": lambda module: module.net, "max_seconds": 0.001}, {}, Training),
    "uncopyable": ({}, {}, Uncopyable),
    "compiled": ({}, {}, compiled_module),
    "compiled network": ({"network": "net"}, {}, compiled_network),
    "compiled in place": ({}, {}, compiled_in_place),
}


SLOW = ("compiled", "compiled network", "network", "uncopyable")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES],
)
def test_training_is_unchanged(case: str, tmp_path: Path, deterministic: None) -> None:
    options, trainer_options, build = CASES[case]
    plain, _ = train(tmp_path, [], build, **trainer_options)
    callbacks = probes(**options)
    probed, _ = train(tmp_path, callbacks, build, **trainer_options)
    assert_equal(plain, probed)
    for probe in callbacks:
        assert list(probe.seconds) == [1, 2]
        assert not probe.failures


def test_averaged_weights_are_probed_and_training_is_unchanged(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def network(module: pl.LightningModule) -> nn.Module:
        seen.append(module.net.head.weight.detach().clone())
        return module.net

    plain, _ = train(tmp_path, [WeightAveraging()])
    callbacks = probes(hook="validation_epoch_end", network=network)[:1]
    averaging = WeightAveraging()
    probed, _ = train(tmp_path, [*callbacks, averaging])
    assert_equal(plain, probed)
    assert torch.equal(seen[-1], averaging._average_model.module.net.head.weight)


def test_logs_and_run_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = CSVLogger(tmp_path / "logs", name="", version="")
    callbacks = probes()[:3]
    for probe in callbacks:
        probe.out = tmp_path / probe.name
    train(tmp_path, callbacks, logger=logger)
    with (tmp_path / "logs" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if any(row[key] for key in row if key.startswith("probe/"))]
    assert {row["step"] for row in rows} == {"3", "6"}  # three batches per epoch
    final = {key: value for row in rows if row["step"] == "6" for key, value in row.items() if value}
    assert 0 <= float(final["probe/robust_share"]) <= float(final["probe/accuracy"]) <= 1
    assert float(final["probe/seconds"]) == pytest.approx(sum(probe.seconds[2] for probe in callbacks))
    with (tmp_path / "logs" / "images.csv").open() as file:
        images = list(csv.DictReader(file))
    keys = [row["key"] for row in images if row["step"] == "6"]
    assert keys[:3] == ["probe/class/two", "probe/saliency/0000", "probe/saliency/0001"]
    folder = FolderStorage.open(epoch_folder(tmp_path / "class", 2))
    (record,) = folder.records()
    assert (record.target_name, record.iterations) == ("two", 2)
    assert float(final["probe/probability/two"]) == pytest.approx(record.probability)
    assert folder.recorded["global_step"] == 6
    for probe in callbacks:
        assert (tmp_path / probe.name / "epochs.png").exists()
        assert (tmp_path / probe.name / "epochs.gif").exists() == (probe.name != "robustness")
    runs = [epoch_folder(probe.out, 2) for probe in callbacks]
    methods = ["ClassVisualization", "SaliencyMap", "AdversarialExample"]
    assert [FolderStorage.open(run).recorded["module"] for run in runs] == methods
    assert all((run / "report.html").exists() for run in runs)
    lv.log(runs[1], "csv")
    with pytest.raises(LitVizError, match="epoch_0002 was written by a callback of a Trainer"):
        lv.check(runs[1])
    main(["epochs", str(tmp_path / "class")])
    assert capsys.readouterr().out.split() == [
        "figure", str(tmp_path / "class" / "epochs.png"), "animation", str(tmp_path / "class" / "epochs.gif")
    ]  # fmt: skip
    titles = [text.get_text() for text in epoch_figure(tmp_path / "class").texts]
    assert {"two", "epoch 1", "epoch 2"} <= set(titles)


def test_only_a_continued_training_writes_to_the_folder_of_another(tmp_path: Path) -> None:
    """It replaces the epochs after the checkpoint."""

    def train_with_probe(**options: Any) -> pl.Trainer:
        probe = lv.callbacks.ClassVisualizationProbe(["two"], 1, iterations=1, labels=NAMES, out=tmp_path / "out")
        return train(tmp_path, [probe], **options)[1]

    train_with_probe(max_epochs=2).save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(LitVizError, match="out already holds the epochs of a training: ckpt_path= continues it"):
        train_with_probe()
    train_with_probe(max_epochs=3, ckpt_path=tmp_path / "last.ckpt")
    times = [(tmp_path / "out" / f"epoch_{n:04d}" / "report.html").stat().st_mtime_ns for n in (1, 2, 3)]
    train_with_probe(max_epochs=3, ckpt_path=tmp_path / "last.ckpt")
    again = [(tmp_path / "out" / f"epoch_{n:04d}" / "report.html").stat().st_mtime_ns for n in (1, 2, 3)]
    assert times[:2] == again[:2]
    assert times[2] < again[2]


def test_probes_with_one_folder_are_rejected(tmp_path: Path) -> None:
    pair = [lv.callbacks.ClassVisualizationProbe([i], 1, iterations=1, out=tmp_path / "out") for i in (0, 1)]
    with pytest.raises(LitVizError, match="probes must write to different folders, got out="):
        train(tmp_path, pair, max_epochs=1)


def test_images_of_a_loader_are_network_inputs(tmp_path: Path) -> None:
    images, labels = data().tensors
    given = [
        lv.callbacks.RobustnessProbe(images, 1, label=labels.tolist(), eps=0.05, mean=0.4, std=0.3, iterations=2),
        lv.callbacks.RobustnessProbe(
            DataLoader(TensorDataset((images - 0.4) / 0.3, labels), 5), 1, eps=0.05, mean=0.4, std=0.3, iterations=2
        ),
    ]
    train(tmp_path, given, max_epochs=1)
    first, second = (torch.stack(list(probe._tasks.images)) for probe in given)
    assert torch.allclose(first, second, atol=1e-6)
    assert [task.label for task in given[1]._tasks.tasks] == labels.tolist()


def test_files_and_arrays_are_taken_as_by_image_tasks(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (2, 8, 8), dtype=np.uint8)
    for name, image in zip(("one", "two"), levels, strict=True):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "images" / name / "x.png")
    how: dict[str, Any] = {"every_n_epochs": 1, "labels": NAMES, "size": 8}
    callbacks = [
        lv.callbacks.SaliencyProbe(tmp_path / "images", label="folders", out=tmp_path / "files", **how),
        lv.callbacks.SaliencyProbe(levels[..., None], label=["one", "two"], out=tmp_path / "arrays", **how),
    ]
    train(tmp_path, callbacks, max_epochs=1)
    assert [probe.failures for probe in callbacks] == [{}, {}]
    folders = [FolderStorage.open(epoch_folder(tmp_path / name, 1)) for name in ("files", "arrays")]
    of_files, of_arrays = (folder.outcomes() for folder in folders)
    assert [outcome.record.target_name for outcome in of_files] == ["one", "two"]
    for outcome, other in zip(of_files, of_arrays, strict=True):
        assert torch.equal(outcome.array(), other.array())


class Augmented(Dataset[Any]):
    """Another image whenever an item is read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.read.append(index)
        return torch.rand(1, 8, 8), index % 3


def test_a_dataset_with_random_augmentation_is_read_once(tmp_path: Path) -> None:
    dataset = Augmented()
    probe = lv.callbacks.RobustnessProbe(dataset, 1, eps=0.1, iterations=1, limit=3, labels=NAMES, out=tmp_path / "out")
    train(tmp_path, [probe], max_epochs=2)
    assert dataset.read == [0, 4, 8]
    records = FolderStorage.open(epoch_folder(tmp_path / "out", 2)).records()
    assert [record.label for record in records] == [0, 1, 2]


class Broken(pl.LightningModule):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no forward\nat all")


def test_a_failure_is_one_warning(tmp_path: Path) -> None:
    plain, _ = train(tmp_path, [])

    def broken_later(module: Any) -> Any:
        return Broken() if module.trainer.global_step else module.net

    broken = lv.callbacks.ClassVisualizationProbe(["two"], 1, network=broken_later, labels=NAMES, size=8)
    with pytest.warns(UserWarning, match="ClassVisualizationProbe failed after epoch 1, training continues") as caught:
        probed, _ = train(tmp_path, [broken])
    assert len([w for w in caught if "failed after" in str(w.message)]) == 1
    assert list(broken.failures) == [1, 2]
    assert_equal(plain, probed)


class Forwardless(Training):
    forward = pl.LightningModule.forward

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


def test_the_only_network_of_a_module_without_forward_is_probed(tmp_path: Path) -> None:
    probe = lv.callbacks.ClassVisualizationProbe(["two"], 1, iterations=1, labels=NAMES)
    train(tmp_path, [probe], Forwardless)
    assert not probe.failures


def test_the_time_limit_stops_a_probe(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    probe = lv.callbacks.RobustnessProbe(data(), 1, eps=1e-6, iterations=10**6, max_seconds=0.2, out=tmp_path / "out")
    train(tmp_path, [probe], max_epochs=1)
    assert not probe.failures
    assert re.search(
        r"RobustnessProbe: 1 probe, \d\.\d s, \d+% of the training; 1 stopped by the time limit", caplog.text
    )
    records = FolderStorage.open(epoch_folder(tmp_path / "out", 1)).records()
    assert {record.status for record in records} <= {"done", "skipped"}
    assert max(record.iterations for record in records) < 10**6


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SIGTERMException)], ids=["INT", "TERM"]
)
def test_signals_reach_the_training(number: int, kind: type[BaseException], tmp_path: Path) -> None:
    """The callbacks of the user receive the exception that they receive without a probe."""
    received: list[BaseException] = []

    class Watch(pl.Callback):
        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            received.append(exception)

    class Interrupting(Net):
        def forward(self, x: Tensor) -> Tensor:
            if x.requires_grad:  # in the class visualization only
                signal.raise_signal(number)
            return super().forward(x)

    before = signal.getsignal(number)
    try:
        with pytest.raises(SystemExit):
            train(tmp_path, [*probes(network=lambda module: Interrupting(), iterations=3)[:1], Watch()])
    finally:
        signal.signal(number, before)
    assert [type(error) for error in received] == [kind]


def test_invalid_arguments() -> None:
    for options, message in (
        ({"every_n_epochs": 0}, "every_n_epochs must be at least 1, got 0"),
        ({"max_fraction": -1}, "max_fraction must be positive, got -1"),
        ({"hook": "epoch"}, "hook must be train_epoch_end or validation_epoch_end, got 'epoch'"),
    ):
        with pytest.raises(LitVizError, match=message):
            lv.callbacks.ClassVisualizationProbe([0], **options)
    with pytest.raises(LitVizError, match="DDN minimizes the perturbation"):
        lv.callbacks.RobustnessProbe(torch.rand(1, 1, 8, 8), attack="ddn")


def test_invalid_arguments_of_the_method_are_errors_of_the_constructor() -> None:
    """They are raised before a training starts."""
    images = torch.rand(2, 1, 8, 8)
    for make, message in (
        (
            lambda: lv.callbacks.SaliencyProbe(images, method="smothgrad"),
            "there is no saliency method 'smothgrad'",
        ),
        (lambda: lv.callbacks.RobustnessProbe(images, eps="8/25x"), "8/25x"),
        (
            lambda: lv.callbacks.RobustnessProbe(images, esp=0.1),
            "esp is not an argument of RobustnessProbe; did you mean 'eps'",
        ),
        (lambda: lv.callbacks.SaliencyProbe(images, every_n_epoch=2), "did you mean 'every_n_epochs'"),
        (lambda: lv.callbacks.RobustnessProbe(images, attack="pgdd"), "there is no attack 'pgdd'; did you mean 'pgd'"),
        (lambda: lv.callbacks.RobustnessProbe(images, iterations=0), "iterations must be at least 1, got 0"),
        (
            lambda: lv.callbacks.ClassVisualizationProbe([0], recipe={"iterations": 3}),
            "iterations is an argument",
        ),
        (
            lambda: lv.callbacks.ClassVisualizationProbe([0], recipe={"view": 3}),
            "recipe must have arguments of ClassVisualization, got view; did you mean 'views'",
        ),
    ):
        with pytest.raises(LitVizError, match=message):
            make()
    assert lv.callbacks.RobustnessProbe(images, eps="8/255").attack.eps == 8 / 255


@pytest.mark.parametrize("size", [8, None])
def test_arguments_that_do_not_fit_the_network_stop_the_training_before_it_starts(
    tmp_path: Path, size: int | None
) -> None:
    images = torch.rand(2, 1, 8, 8)
    known: dict[str, Any] = {"labels": NAMES, "size": size}
    normalized = TensorDataset(images * 5 - 2, torch.zeros(2))
    for probe, message in (
        (
            lv.callbacks.ClassVisualizationProbe(["too"], **known),
            "ClassVisualizationProbe: unknown class 'too'",
        ),
        (
            lv.callbacks.SaliencyProbe(images, network="nett", **known),
            "SaliencyProbe: network must be a submodule of Training, got 'nett'; did you mean 'net'?",
        ),
        (
            lv.callbacks.SaliencyProbe(images, network=lambda module: module.nett, **known),
            "SaliencyProbe: the function network= raised AttributeError: ",
        ),
        (
            lv.callbacks.SaliencyProbe(images, method="grad_cam", network=lambda module: nn.Flatten(), size=size),
            "SaliencyProbe: ",
        ),
        (lv.callbacks.RobustnessProbe(images, label=[0, 7], **known), "RobustnessProbe: "),
        (lv.callbacks.RobustnessProbe(images, label=[0], **known), "label must be one class, or one per image: got 1"),
        (lv.callbacks.SaliencyProbe(images * 5 - 2, **known), "floating-point images must be in [0, 1], got -"),
        (lv.callbacks.SaliencyProbe(normalized, **known), "floating-point images must be in [0, 1], got -"),
        (lv.callbacks.SaliencyProbe([images[0], tmp_path / "x.png"], **known), "there is no photograph or folder"),
        (lv.callbacks.SaliencyProbe(5, **known), "an image must be a file"),
        (lv.callbacks.ClassVisualizationProbe(["two"], labels=NAMES[:2], size=size), "labels must be one per class"),
    ):
        epochs: list[int] = []
        watch = pl.callbacks.LambdaCallback(on_train_epoch_end=lambda *_, epochs=epochs: epochs.append(1))
        with pytest.raises(LitVizError, match=re.escape(message)):
            train(tmp_path, [watch, probe])
        assert not epochs


def test_a_trainer_of_the_package_lightning_takes_probes(tmp_path: Path) -> None:
    package = pytest.importorskip("lightning.pytorch")

    class Other(package.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 1e-2)

    callbacks = probes(network="net", out=None)
    trainer = package.Trainer(
        max_epochs=1, accelerator="cpu", logger=package.loggers.CSVLogger(tmp_path), enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, callbacks=callbacks,
    )  # fmt: skip
    trainer.fit(Other(), DataLoader(data(), 8))
    for probe in callbacks:
        assert not probe.failures
        assert list(probe.seconds) == [1]
    assert "probe/robust_share" in (Path(trainer.logger.log_dir) / "metrics.csv").read_text()
    assert list(Path(trainer.logger.log_dir).rglob("*.png"))


def test_the_recipe_of_small_images_is_that_of_the_configuration_but_for_the_weight_of_the_prior() -> None:
    network = lv.load_network(Net(), size=8, labels=NAMES)
    configured = read_config(METHODS["visualize"], "small").build_module(network).plain_arguments()
    probe = lv.callbacks.ClassVisualizationProbe(["two"], iterations=7)
    arguments = probe.method(network).plain_arguments()
    for name in ("parameterization", "step_rule", "transforms", "views", "residual_gradient", "picture"):
        assert arguments[name] == configured[name]
    assert [prior["init_args"] for prior in configured["priors"]] == [{"weight": 1.0}]
    assert [prior["init_args"] for prior in arguments["priors"]] == [{"weight": 0.1}]
    assert (arguments["iterations"], arguments["slots"], arguments["log_at"]) == (7, 32, "last")


def test_a_copy_has_no_hooks_and_no_compiled_code() -> None:
    module = compiled_network()
    module.net.register_forward_hook(lambda *_: pytest.fail("the hook of the user was called"))
    copy = eager_copy(module)
    assert type(copy.net) is Net
    whole = from_compiled(compiled_module())
    assert eager_copy(whole).forward.__func__ is Training.forward
    assert whole.forward is vars(whole)["forward"]  # the module itself is still compiled
    copy.eval()(torch.rand(1, 1, 8, 8))


SCRIPT = """
import json, sys, warnings
from pathlib import Path

warnings.simplefilter("ignore")
sys.path.insert(0, {root!r})

import pytorch_lightning as pl, torch

import lit_viz as lv
from tests.callbacks.test_probes import Broken, Probe, probes, train


class Digest(pl.Callback):
    def on_train_end(self, trainer, module):
        weights = [float(value.double().sum()) for value in module.state_dict().values()]
        epochs = [list(probe.seconds) for probe in trainer.callbacks if isinstance(probe, Probe)]
        state = [module.losses, weights, torch.get_rng_state().tolist(), epochs]
        Path({out!r}, sys.argv[1] + str(trainer.global_rank)).write_text(json.dumps(state))


calls = []


def network(module):
    calls.append(module)
    return module.net if len(calls) == 1 else Broken()  # the first call is the check before the training


broken = lv.callbacks.ClassVisualizationProbe([0], 1, network=network, size=8)
callbacks = {{"plain": [], "probed": [*probes(), broken]}}
train(Path({out!r}), [*callbacks[sys.argv[1]], Digest()], devices=2, strategy="ddp")
"""


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """Rank 0 probes while the other waits; both train as without probes, also if a probe fails."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(root=str(Path(__file__).parents[2]), out=str(tmp_path)))
    states = {}
    for name in ("plain", "probed"):
        subprocess.run([sys.executable, script, name], check=True, timeout=300, capture_output=True, cwd=tmp_path)
        states[name] = [json.loads((tmp_path / f"{name}{rank}").read_text()) for rank in (0, 1)]
    for rank in (0, 1):
        plain, probed = states["plain"][rank], states["probed"][rank]
        assert plain[:3] == probed[:3]
        assert probed[3] == [[1, 2]] * 4
    assert states["plain"][0][0] != states["plain"][1][0]  # losses of different batches


class Segmentation(pl.LightningModule):
    """A segmenter in training on masks."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(1, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, masks = batch
        return nn.functional.cross_entropy(self(images), masks)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-2)


def test_a_segmenter_in_training_is_probed_by_its_output(tmp_path: Path) -> None:
    masks = TensorDataset(torch.rand(8, 1, 8, 8), torch.randint(0, 3, (8, 8, 8)))
    options: dict[str, Any] = {"every_n_epochs": 1, "iterations": 2, "output": Region((2, 2, 6, 6)), "out": None}
    callbacks = [
        lv.callbacks.ClassVisualizationProbe(["class 2"], **options),
        lv.callbacks.SaliencyProbe(masks, limit=2, **options),
        lv.callbacks.RobustnessProbe(masks, eps=0.1, limit=3, **options),
    ]
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=CSVLogger(tmp_path), enable_progress_bar=False, callbacks=callbacks,
        enable_model_summary=False, enable_checkpointing=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(Segmentation(), DataLoader(masks, 4))
    assert [probe.failures for probe in callbacks] == [{}, {}, {}]
    assert 0 <= trainer.callback_metrics.get("probe/robust_share", torch.tensor(0.0)) <= 1


class Bands(Training):
    """A network of four bands in training, whose loaders give standardized values of 12 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.net.features[0] = nn.Conv2d(4, 4, 3)


def test_probes_take_a_loader_of_four_bands(tmp_path: Path) -> None:
    """Images are restored in the unit of the files, and drawn in the chosen bands."""
    generator = torch.Generator().manual_seed(0)
    reflectances = torch.randint(0, 4096, (12, 4, 8, 8), generator=generator).float()
    mean, std = [1000.0, 1200.0, 900.0, 2000.0], [500.0, 400.0, 300.0, 700.0]
    standardized = (reflectances - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    loader = DataLoader(TensorDataset(standardized, torch.arange(12) % 3), 4)
    options: dict[str, Any] = {
        "every_n_epochs": 1, "iterations": 2, "labels": NAMES, "mean": mean, "std": std, "value_range": (0, 4095),
        "bands": ["blue", "green", "red", "nir"], "display": ["nir", "red", "green"], "network": "net",
    }  # fmt: skip
    probes = [
        lv.callbacks.SaliencyProbe(loader, limit=12, out=tmp_path / "maps", **options),
        lv.callbacks.RobustnessProbe(loader, eps=0.1, limit=3, **options),
        lv.callbacks.ClassVisualizationProbe(["two"], **options),
    ]
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=CSVLogger(tmp_path), enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, callbacks=list(probes),
    )  # fmt: skip
    trainer.fit(Bands(), loader)
    assert [probe.failures for probe in probes] == [{}, {}, {}]
    assert 0 <= float(trainer.callback_metrics["probe/robust_share"]) <= 1
    assert float(trainer.callback_metrics["probe/seconds"]) > 0
    maps = probes[0]
    assert isinstance(maps, lv.callbacks.SaliencyProbe)
    read = torch.stack(list(maps._tasks.images))
    assert torch.allclose(read, reflectances, atol=1e-2)
    (run,) = (tmp_path / "maps").glob("*/config.yaml")
    assert "nir" in run.read_text()


def test_a_probe_of_labels_that_do_not_exclude_each_other() -> None:
    probe = lv.callbacks.SaliencyProbe(torch.rand(2, 1, 8, 8), network="net", multi_label=True, size=8)
    assert probe._network(Training()).multi_label
