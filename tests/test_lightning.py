"""The methods with the Trainer of a user: default callbacks, loggers, limits, precision and checkpoints."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
    TQDMProgressBar,
)
from pytorch_lightning.demos.boring_classes import BoringDataModule, BoringModel
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.utilities.model_summary import summarize
from torch import Tensor

import lit_viz as lv
from lit_viz.attacks import PGD
from lit_viz.engine.lightning import PRIVATE_ATTRIBUTES
from lit_viz.engine.queue import TaskQueue
from lit_viz.evidence.saliency_map import SaliencyMapVerifier
from lit_viz.launch.methods import METHODS, read_config
from lit_viz.networks import Network
from lit_viz.networks.loading import class_names
from lit_viz.objectives import Channel
from lit_viz.optim import Adam, Cosine
from lit_viz.types import Task
from tests.support.networks import smooth_network
from tests.support.pages import blocks, read
from tests.support.pages import run as run_block

ROOT = Path(__file__).parents[1]
Fit = Callable[..., pl.Trainer]

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers, devices and logging intervals


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    """Return a function that trains with a default Trainer, except for its folder and its progress bar."""

    def run(module: pl.LightningModule, tasks: pl.LightningDataModule, **options: Any) -> pl.Trainer:
        checkpoint = options.pop("ckpt_path", None)
        defaults: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "default_root_dir": tmp_path}
        trainer = pl.Trainer(**{"logger": CSVLogger(tmp_path), **defaults, **options})
        trainer.fit(module, tasks, ckpt_path=checkpoint)
        return trainer

    return run


def photographs(count: int = 3) -> Tensor:
    return (torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 255).round() / 255


def records(module: Any) -> list[tuple[str, int]]:
    return [(result.record.status, result.record.iterations) for result in module.results]


def test_class_visualization(smooth: Network, fit: Fit) -> None:
    module, tasks = lv.ClassVisualization(smooth, iterations=12, slots=2), lv.ClassTasks(smooth, ["apple", 2, "date"])
    trainer = fit(module, tasks, enable_progress_bar=True)
    assert records(module) == [("done", 12)] * 3
    assert [result.record.target_name for result in module.results] == ["apple", "cherry", "date"]
    assert module.results[0].image.shape == (3, 16, 16)
    assert {"objective", "probability", "images_done"} <= trainer.callback_metrics.keys()
    assert trainer.callback_metrics["images_done"] == 3
    (figures,) = trainer.test(module, tasks)
    probability = sum(result.record.probability for result in module.results) / 3
    assert figures["probability"] == pytest.approx(probability, abs=1e-3)
    assert figures["done"] == 1


def test_the_defaults_of_class_images_are_those_of_the_configuration(smooth: Network) -> None:
    configured = read_config(METHODS["visualize"], "tarantula").build_module(smooth).plain_arguments()
    arguments = lv.ClassVisualization(smooth).plain_arguments()
    for name in ("parameterization", "step_rule", "transforms", "views", "residual_gradient", "picture", "objective"):
        assert arguments[name] == configured[name]
    assert {"decay": 1.15, "sd": 0.01, "chroma": 0.3}.items() <= arguments["parameterization"]["init_args"].items()
    assert arguments["picture"]["octaves"] == {"count": 3, "scale": 1.5}


def test_a_parameterization_that_is_given_has_the_step_rule_of_the_defaults_only(smooth: Network) -> None:
    arguments = lv.ClassVisualization(smooth, parameterization=lv.images.Pixels()).plain_arguments()
    assert arguments["step_rule"] == lv.ClassVisualization(smooth).plain_arguments()["step_rule"]
    assert [arguments[name] for name in ("transforms", "views", "residual_gradient")] == [[], 1, 1.0]
    assert arguments["picture"]["octaves"] is None


def test_saliency_maps_of_several_methods(smooth: Network, fit: Fit) -> None:
    module = lv.SaliencyMap(smooth, method=["gradient", "smoothgrad"])
    tasks = lv.ImageTasks(smooth, photographs())
    trainer = fit(module, tasks)
    assert [result.record.method for result in module.results] == ["gradient"] * 3 + ["smoothgrad"] * 3
    assert {"objective", "probability"} <= trainer.callback_metrics.keys()
    expected = smooth.scores(photographs()).argmax(1).tolist()
    assert [result.record.target for result in module.results] == expected * 2
    (figures,) = trainer.test(module, tasks)
    assert figures["captum/passed"] == figures["captum/checked"] > 0


def test_adversarial_examples(smooth: Network, fit: Fit) -> None:
    module = lv.AdversarialExample(smooth, attack="ddn", iterations=60)
    tasks = lv.ImageTasks(smooth, photographs(), target="banana")
    trainer = fit(module, tasks)
    fooled = [result.record.success_file for result in module.results]
    assert any(fooled)
    assert trainer.callback_metrics["fooled"] == pytest.approx(sum(fooled) / 3)
    assert trainer.test(module, tasks)[0]["fooled"] == pytest.approx(sum(fooled) / 3)
    result = next(result for result in module.results if result.record.success_file)
    assert int(smooth.scores(result.image[None]).argmax()) == 1


def test_universal_perturbations(smooth: Network, fit: Fit) -> None:
    module = lv.UniversalPerturbation(smooth, iterations=4)
    trainer = fit(module, lv.ImageTasks(smooth, photographs()))
    (result,) = module.results
    assert result.record.photographs == 3
    assert trainer.callback_metrics["fooled"] == pytest.approx(result.record.fooling_rate)


def test_files_and_an_unknown_name(smooth: Network, fit: Fit) -> None:
    tasks = lv.ImageTasks(smooth, ["packaged:chelsea"], target=["date"])
    module = lv.SaliencyMap(smooth)
    fit(module, tasks)
    assert module.results[0].record.target_name == "date"
    with pytest.raises(lv.LitVizError, match=r"there is no attack 'pgdd'; did you mean 'pgd'"):
        lv.AdversarialExample(smooth, attack="pgdd")


def test_the_test_stage_of_any_tasks_logs_what_a_run_logs(smooth: Network, fit: Fit) -> None:
    """Not only of the data modules for classes and photographs."""
    tasks = lv.TaskQueue([Task(0, "x", 0, target=1, source="packaged:chelsea")])
    module = lv.SaliencyMap(smooth)
    (figures,) = fit(module, tasks).test(module, tasks)
    run = lv.saliency(smooth, "packaged:chelsea", target=1, captum="captum")
    expected = SaliencyMapVerifier.scalars([outcome.record for outcome in run.outcomes], run.evidence)
    assert figures.keys() == {*expected, "done"}
    assert all(figures[name] == expected[name] for name in expected.keys() - {"cost/seconds"})
    assert figures["captum/passed"] == 1
    image = lv.ClassVisualization(smooth, iterations=2)
    images = lv.TaskQueue([Task(0, "apple", 0, target=0)])
    fit(image, images)
    assert image.judges is not None


def test_a_trainer_of_the_package_lightning_rejects_the_module(smooth: Network) -> None:
    """Its LightningModule is another class; the sentence is Lightning's own, and in the documentation."""
    package = pytest.importorskip("lightning.pytorch")
    trainer = package.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(TypeError) as error:
        trainer.fit(lv.ClassVisualization(smooth), lv.ClassTasks(smooth, ["apple"]))
    assert str(error.value) in (ROOT / "docs" / "lightning.md").read_text().replace("\n", " ")


def test_a_trainer_without_tasks_is_rejected(smooth: Network, fit: Fit) -> None:
    with pytest.raises(lv.LitVizError, match="must be a TaskQueue"):
        fit(lv.ClassVisualization(smooth), pl.LightningDataModule())
    with pytest.raises(lv.LitVizError, match=r"ClassTasks are for methods such as .*, got BoringModel"):
        fit(BoringModel(), lv.ClassTasks(smooth, 1))


def _layer_tasks(net: Network, layer: str = "features.3") -> TaskQueue:
    return lv.LayerTasks(net, layer, channel=[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda net: (lv.ClassVisualization(net), lv.ImageTasks(net, photographs(), target=1)),
            "ClassVisualization takes tasks of classes or layers, got the photograph 'image 0': init= starts from one",
        ),
        (
            lambda net: (lv.SaliencyMap(net), lv.ClassTasks(net, 1)),
            "SaliencyMap takes tasks of photographs, such as ImageTasks, got 'banana'",
        ),
        (
            lambda net: (lv.AdversarialExample(net), _layer_tasks(net)),
            "AdversarialExample takes tasks of photographs, such as ImageTasks, got 'features.3_ch1'",
        ),
        (
            lambda net: (lv.UniversalPerturbation(net), lv.ClassTasks(net, 1)),
            "UniversalPerturbation takes tasks of photographs, such as ImageTasks, got 'banana'",
        ),
        (
            lambda net: (lv.ClassVisualization(net), _layer_tasks(net)),
            "the objective Logit takes tasks of classes, got 'features.3_ch1': give the objective Channel(...), or "
            "ClassTasks",
        ),
        (
            lambda net: (lv.ClassVisualization(net, objective=Channel("features.3")), lv.ClassTasks(net, 1)),
            "the objective Channel takes tasks of channels, got 'banana': give LayerTasks with channel",
        ),
        (
            lambda net: (lv.ClassVisualization(net, objective=Channel("features.3")), _layer_tasks(net, "features.0")),
            "tasks must be of the layer of the objective, features.3, got features.0",
        ),
    ],
)
def test_tasks_of_another_kind_are_rejected(
    smooth: Network, fit: Fit, make: Callable[[Network], tuple[Any, TaskQueue]], message: str
) -> None:
    with pytest.raises(lv.LitVizError, match=f"^{re.escape(message)}$"):
        fit(*make(smooth))


@pytest.mark.parametrize("kind", ["classes", "photographs", "layers"])
def test_tasks_of_another_network_are_rejected(smooth: Network, fit: Fit, kind: str) -> None:
    """Their class c is no class of the module's network."""
    letters = lv.load_network(smooth_network(), labels=list("abcde"), mean=0.5, std=0.25, size=16)
    fewer = lv.load_network(smooth_network(classes=3), labels=["apple", "banana", "cherry"], size=16)
    tasks: dict[str, Callable[[Network], tuple[Any, TaskQueue]]] = {
        "classes": lambda net: (lv.ClassVisualization(smooth), lv.ClassTasks(net, 2)),
        "photographs": lambda net: (lv.SaliencyMap(smooth), lv.ImageTasks(net, photographs(), target=2)),
        "layers": lambda net: (lv.ClassVisualization(smooth, objective=Channel("features.3")), _layer_tasks(net)),
    }
    message = r"for another network \(its class 0 is 'a' instead of 'apple'\): give that of the module"
    with pytest.raises(lv.LitVizError, match=message):
        fit(*tasks[kind](letters))
    with pytest.raises(lv.LitVizError, match=r"\(3 classes instead of 5\)"):
        fit(*tasks[kind](fewer))


def test_a_checkpoint_of_other_tasks_is_rejected(smooth: Network, fit: Fit) -> None:
    module = lv.ClassVisualization(smooth, iterations=6, slots=1)
    path = fit(module, lv.ClassTasks(smooth, ["apple", "date"]), max_steps=2).checkpoint_callback.best_model_path  # type: ignore[union-attr]
    for others in (["apple", "cherry"], ["apple"]):
        with pytest.raises(lv.LitVizError, match=r"^the checkpoint is of other tasks: give the tasks of its run"):
            fit(lv.ClassVisualization(smooth, iterations=6, slots=1), lv.ClassTasks(smooth, others), ckpt_path=path)
    resumed = lv.ClassVisualization(smooth, iterations=6, slots=1)
    fit(resumed, lv.ClassTasks(smooth, ["apple", "date"]), ckpt_path=path)
    assert records(resumed) == [("done", 6)] * 2


def test_a_test_without_results_warns(smooth: Network, tmp_path: Path) -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    with pytest.warns(UserWarning, match=r"trainer\.test evaluates the results of trainer\.fit, and there are none"):
        (figures,) = trainer.test(lv.ClassVisualization(smooth), lv.ClassTasks(smooth, 1))
    assert figures["done"] == 0


def test_notes_are_logged_once(fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    """Those of the network, of the method and of the tasks."""
    caplog.set_level("INFO")
    net = lv.load_network(smooth_network(), size=16)
    module = lv.SaliencyMap(net, method="occlusion", iterations=3)
    for _ in range(2):
        tasks = lv.ImageTasks(net, photographs(1), target=1)
        tasks.notes.append("a remark about the photographs")
        fit(module, tasks)
    for note in ("images are normalized by mean 0 and std 1", "iterations=3 has no effect", "a remark about the photo"):
        assert len([message for message in caplog.messages if note in message]) == 1, note


class Rates(Callback):
    """Learning rates as LearningRateMonitor reads them."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_the_learning_rate_monitor_logs_the_rate_of_the_rule(smooth: Network, fit: Fit, tmp_path: Path) -> None:
    """Step sizes of attacks are learning rates, too; a saliency map has the rate 0."""
    steps = 4
    rules: dict[str, tuple[Any, list[float]]] = {
        "Adam": (lv.ClassVisualization(smooth, step_rule=Adam(lr=0.02), iterations=steps), [0.02] * steps),
        "cosine": (
            lv.ClassVisualization(smooth, step_rule=Adam(Cosine(0.02, 0.5)), iterations=steps),
            [0.01 * (1 + (1 + math.cos(math.pi * k / steps)) / 2) for k in range(steps)],
        ),
        "PGD": (lv.AdversarialExample(smooth, attack=PGD(eps=0.1, alpha=0.02), iterations=steps), [0.02] * steps),
        "steps": (lv.AdversarialExample(smooth, attack=PGD(eps=0.1, random_start=False), iterations=5), [0.05] * 5),
        "saliency": (lv.SaliencyMap(smooth), [0.0]),
    }
    for name, (module, expected) in rules.items():
        photograph = lv.ImageTasks(smooth, photographs(1), target="elder")
        tasks = lv.ClassTasks(smooth, 1) if name in ("Adam", "cosine") else photograph
        rates = Rates()
        logger = CSVLogger(tmp_path / name)
        fit(module, tasks, callbacks=[rates, LearningRateMonitor()], logger=logger, log_every_n_steps=1)
        assert rates.rates == pytest.approx(expected[: len(rates.rates)]), name
        logged = (Path(logger.log_dir) / "metrics.csv").read_text()
        assert "lr-StepRuleOptimizer" in logged


class Descriptions(Callback):
    """Descriptions and totals of the progress bar, as they are after the previous step."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float | None]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        bar: Any = trainer.progress_bar_callback
        if isinstance(bar, TQDMProgressBar):
            self.seen.append((bar.train_progress_bar.desc.rstrip(": "), bar.train_progress_bar.total))
        else:
            (task,) = bar.progress.tasks
            self.seen.append((task.description, task.total))


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
def test_the_progress_bar_counts_images(smooth: Network, fit: Fit, bar: Any) -> None:
    """In place of the epochs, also if their number is unlimited."""
    descriptions = Descriptions()
    module, tasks = lv.ClassVisualization(smooth, iterations=3, slots=1), lv.ClassTasks(smooth, ["apple", "date"])
    fit(module, tasks, callbacks=[bar(), descriptions], enable_progress_bar=True, max_epochs=-1)
    assert descriptions.seen[1:] == [("0/2 images", 6)] * 2 + [("1/2 images", 6)] * 3


def test_the_progress_bar_ends_with_the_steps_that_were_made(smooth: Network, fit: Fit) -> None:
    """Maps of several methods may take more steps than announced, and attacks that succeed early fewer."""
    maps = lv.SaliencyMap(smooth, method=["gradient", "smoothgrad"], iterations=4, slots=2)
    attack = lv.AdversarialExample(smooth, attack=PGD(eps=0.2), iterations=100)
    for module in (maps, attack):
        bar, descriptions = TQDMProgressBar(), Descriptions()
        trainer = fit(module, lv.ImageTasks(smooth, photographs()), callbacks=[bar, descriptions], **SHOWN)
        assert bar.train_progress_bar.total == bar.train_progress_bar.n == trainer.global_step
        for made, (_, total) in enumerate(descriptions.seen[1:], start=1):
            assert total is not None
            assert total > made


SHOWN: dict[str, Any] = {"enable_progress_bar": True, "max_epochs": -1}


def test_warnings_about_intended_settings_are_not_issued(smooth: Network, fit: Fit, tmp_path: Path) -> None:
    module, tasks = lv.ClassVisualization(smooth, iterations=2), lv.ClassTasks(smooth, "apple")
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        fit(module, tasks, callbacks=[ModelCheckpoint(tmp_path / "checkpoints", every_n_train_steps=1)])
    assert not [warning for warning in issued if re.search("max_epochs|ModelCheckpoint", str(warning.message))]
    with pytest.warns(match="`max_epochs` was not set"):
        fit(BoringModel(), BoringDataModule(), limit_train_batches=0)


@pytest.mark.parametrize("fails", [False, True])
def test_a_trainer_is_restored_after_the_training(smooth: Network, fit: Fit, fails: bool) -> None:
    class Failure(Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            assert trainer.precision_plugin.scaler is None  # type: ignore[attr-defined]
            if fails:
                raise ValueError("stop")

    scaler = torch.amp.GradScaler("cpu")
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    module, tasks = lv.ClassVisualization(smooth, iterations=2), lv.ClassTasks(smooth, "apple")
    filters = list(warnings.filters)
    with pytest.raises(ValueError, match="stop") if fails else nullcontext():
        fit(module, tasks, callbacks=[Failure()], plugins=[plugin])
    assert plugin.scaler is scaler
    assert list(warnings.filters) == filters
    broadcast: Any = module.trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor
    assert broadcast.__qualname__ == "_TrainingEpochLoop._broadcast_sigterm_tensor"


@pytest.mark.parametrize("limit", [{"max_steps": 5}, {"max_time": timedelta(milliseconds=200)}])
def test_a_limit_of_the_trainer_leaves_unfinished_results(
    smooth: Network, fit: Fit, limit: dict[str, Any], tmp_path: Path
) -> None:
    module, tasks = lv.ClassVisualization(smooth, iterations=10**6, slots=1), lv.ClassTasks(smooth, ["apple", "date"])
    trainer = fit(module, tasks, **limit)
    ((status, iterations),) = records(module)
    assert status == "unfinished"
    assert iterations == trainer.global_step > 0
    assert module.results[0].image is not None


def test_unfinished_adversarial_examples_are_evaluated(smooth: Network, fit: Fit) -> None:
    """Also if another image is done in the last step."""
    module = lv.AdversarialExample(smooth, attack=PGD(eps=0.2, alpha=0.02, random_start=False))
    fit(module, lv.ImageTasks(smooth, photographs(12)[[11, 1]]), max_steps=2)  # they need 1 and 2 updates
    assert records(module) == [("done", 1), ("unfinished", 2)]
    assert [result.record.success_float for result in module.results] == [True, True]


def test_early_stopping_is_checked_after_every_step(smooth: Network, fit: Fit) -> None:
    stopping = EarlyStopping("objective", mode="max", stopping_threshold=-1e9)
    module = lv.ClassVisualization(smooth, iterations=100)
    trainer = fit(module, lv.ClassTasks(smooth, "apple"), callbacks=[stopping])
    assert trainer.global_step == 1


def test_resuming_from_a_checkpoint_of_the_trainer_is_bit_equal(smooth: Network, fit: Fit, tmp_path: Path) -> None:
    def start() -> tuple[Any, TaskQueue]:
        return lv.ClassVisualization(smooth, iterations=6, slots=1), lv.ClassTasks(smooth, ["apple", "date"])

    undisturbed, tasks = start()
    fit(undisturbed, tasks)
    stopped, tasks = start()
    path = fit(stopped, tasks, max_steps=8).checkpoint_callback.best_model_path  # type: ignore[union-attr]
    assert records(stopped) == [("done", 6), ("unfinished", 2)]
    resumed, tasks = start()
    trainer = fit(resumed, tasks, ckpt_path=path)
    assert records(resumed) == [("done", 6)] * 2
    for result, expected in zip(resumed.results, undisturbed.results, strict=True):
        assert torch.equal(result.image, expected.image)
        assert result.record.amend(seconds=0).to_dict() == expected.record.amend(seconds=0).to_dict()
    tested, tasks = start()
    (figures,) = trainer.test(tested, tasks, ckpt_path=trainer.checkpoint_callback.best_model_path)  # type: ignore[union-attr]
    assert figures["done"] == 1


def test_a_module_can_be_trained_again(smooth: Network, fit: Fit) -> None:
    module = lv.ClassVisualization(smooth, iterations=3)
    fit(module, lv.ClassTasks(smooth, ["apple", "date"]))
    fit(module, lv.ClassTasks(smooth, ["cherry"]))
    assert [result.record.target_name for result in module.results] == ["cherry"]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-true", "64-true"])
def test_precisions_change_the_network_only(smooth: Network, fit: Fit, precision: str) -> None:
    module = lv.ClassVisualization(smooth, iterations=4)
    fit(module, lv.ClassTasks(smooth, ["apple"]), precision=precision)
    reference = lv.ClassVisualization(smooth, iterations=4)
    fit(reference, lv.ClassTasks(smooth, ["apple"]))
    assert records(module) == [("done", 4)]
    assert (module.results[0].image - reference.results[0].image).abs().mean() < 0.01
    assert torch.get_default_dtype() == torch.float32


class Summary(Callback):
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.parameters = summarize(pl_module).trainable_parameters


def test_the_summary_counts_the_pixels(smooth: Network, fit: Fit) -> None:
    summary = Summary()
    fit(lv.SaliencyMap(smooth, slots=2), lv.ImageTasks(smooth, photographs()), callbacks=[summary])
    assert summary.parameters == 2 * 3 * 16 * 16


@pytest.mark.parametrize("path", PRIVATE_ATTRIBUTES)
def test_private_attributes_of_lightning_exist(path: str) -> None:
    module, owner, attribute = path.rsplit(".", 2)
    kind = getattr(import_module(module), owner)
    assert (
        hasattr(kind, attribute)
        or f"self.{attribute}" in Path(str(import_module(kind.__module__).__file__)).read_text()
    )


SCRIPTS = blocks(read("lightning.md"))


@pytest.mark.parametrize("script", SCRIPTS, ids=[re.findall(r"lv\.(\w+)\(", script)[1] for script in SCRIPTS])
def test_the_scripts_of_the_documentation(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small network with the labels of ImageNet."""
    assert len(script.splitlines()) <= 25
    monkeypatch.chdir(tmp_path)
    labels = class_names("efficientnet_lite0")
    network = lv.load_network(smooth_network(classes=1000), labels=labels, mean=0.5, std=0.5, size=32)
    monkeypatch.setattr(lv, "load_network", {"efficientnet_lite0": network}.__getitem__)
    monkeypatch.setattr("lit_viz.evidence.class_visualization.held_out_judge", lambda _: network)
    short = re.sub(r"(iterations|max_steps)=\d+", r"\1=2", script)
    short = short.replace("blocks.3.2", "features.3").replace("[3, 14, 15]", "[0, 1]")
    run_block(short, "docs/lightning.md")
