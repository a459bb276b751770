"""The methods with the Trainer of a user: default callbacks, loggers, limits, precision and checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.model_summary import summarize
from torch import Tensor

import lit_viz as lv
from lit_viz.attacks import PGD
from lit_viz.classifiers import Classifier
from lit_viz.classifiers.loading import class_names
from lit_viz.engine.lightning import PRIVATE_ATTRIBUTES, TaskQueue
from lit_viz.launch.commands.visualize import VisualizeCommand
from lit_viz.launch.config import ConfiguredMethod, config_argument
from lit_viz.methods.class_visualization import Recipe, default_recipe
from lit_viz.presentations import presentation_of
from lit_viz.runs.evidence import Evidence
from lit_viz.types import Task
from tests.support.networks import smooth_network

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


def test_class_visualization(smooth: Classifier, fit: Fit) -> None:
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


def test_the_default_recipe_is_that_of_the_configuration(described: Any) -> None:
    parts = ConfiguredMethod(VisualizeCommand(), ["--config", config_argument("visualize", "tarantula")]).parts
    recipe = default_recipe()
    assert (parts["views"], parts["residual_gradient"]) == (recipe.views, recipe.residual_gradient)
    assert (parts["oversample"], parts["shown"]) == (recipe.picture.oversample, recipe.picture.shown)
    configured = Recipe(parts["parameterization"], parts["step_rule"], parts["transforms"])
    for name in ("parameterization", "step_rule"):
        assert described(getattr(configured, name)) == described(getattr(recipe, name))
    assert list(map(described, configured.transforms)) == list(map(described, recipe.transforms))


def test_saliency_maps_of_several_methods(smooth: Classifier, fit: Fit) -> None:
    module = lv.SaliencyMap(smooth, method=["gradient", "smoothgrad"])
    tasks = lv.PhotographTasks(smooth, photographs())
    trainer = fit(module, tasks)
    assert [result.record.method for result in module.results] == ["gradient"] * 3 + ["smoothgrad"] * 3
    assert {"objective", "probability"} <= trainer.callback_metrics.keys()
    expected = smooth.logits(photographs()).argmax(1).tolist()
    assert [result.record.target for result in module.results] == expected * 2
    (figures,) = trainer.test(module, tasks)
    assert figures["captum/passed"] == figures["captum/checked"] > 0


def test_adversarial_examples(smooth: Classifier, fit: Fit) -> None:
    module = lv.AdversarialExample(smooth, attack="ddn", iterations=60)
    tasks = lv.PhotographTasks(smooth, photographs(), targets="banana")
    trainer = fit(module, tasks)
    fooled = [result.record.success_file for result in module.results]
    assert any(fooled)
    assert trainer.callback_metrics["fooled"] == pytest.approx(sum(fooled) / 3)
    assert trainer.test(module, tasks)[0]["fooled"] == pytest.approx(sum(fooled) / 3)
    result = next(result for result in module.results if result.record.success_file)
    assert int(smooth.logits(result.image[None]).argmax()) == 1


def test_universal_perturbations(smooth: Classifier, fit: Fit) -> None:
    module = lv.UniversalPerturbation(smooth, iterations=4)
    trainer = fit(module, lv.PhotographTasks(smooth, photographs()))
    (result,) = module.results
    assert result.record.photographs == 3
    assert trainer.callback_metrics["fooled"] == pytest.approx(result.record.fooling_rate)


def test_files_and_an_unknown_name(smooth: Classifier, fit: Fit) -> None:
    tasks = lv.PhotographTasks(smooth, ["packaged:chelsea"], targets=["date"])
    module = lv.SaliencyMap(smooth)
    fit(module, tasks)
    assert module.results[0].record.target_name == "date"
    with pytest.raises(lv.LitVizError, match=r"there is no attack 'pgdd'; did you mean 'pgd'"):
        lv.AdversarialExample(smooth, attack="pgdd")


def test_the_test_stage_of_any_tasks_logs_what_a_run_logs(smooth: Classifier, fit: Fit) -> None:
    """Not only of the data modules for classes and photographs."""
    tasks = lv.TaskQueue([Task(0, "x", 0, target=1, source="packaged:chelsea")])
    module = lv.SaliencyMap(smooth)
    (figures,) = fit(module, tasks).test(module, tasks)
    run = lv.saliency(smooth, "packaged:chelsea", targets=1, check="captum")
    expected = presentation_of(lv.SaliencyMap).scalars([outcome.record for outcome in run.outcomes], Evidence())
    assert figures.keys() == {*expected, "done"}
    assert all(figures[name] == expected[name] for name in expected.keys() - {"cost/seconds"})
    assert figures["captum/passed"] == 1
    image = lv.ClassVisualization(smooth, iterations=2)
    images = lv.TaskQueue([Task(0, "apple", 0, target=0)])
    fit(image, images)
    assert image.judges is not None


def test_a_trainer_of_the_package_lightning_rejects_the_module(smooth: Classifier) -> None:
    """Its LightningModule is another class; the sentence is Lightning's own, and in the documentation."""
    package = pytest.importorskip("lightning.pytorch")
    trainer = package.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(TypeError) as error:
        trainer.fit(lv.ClassVisualization(smooth), lv.ClassTasks(smooth, ["apple"]))
    assert str(error.value) in (ROOT / "docs" / "lightning.md").read_text().replace("\n", " ")


def test_a_trainer_without_tasks_is_rejected(smooth: Classifier, fit: Fit) -> None:
    with pytest.raises(lv.LitVizError, match="must be a TaskQueue"):
        fit(lv.ClassVisualization(smooth), pl.LightningDataModule())


@pytest.mark.parametrize("limit", [{"max_steps": 5}, {"max_time": {"seconds": 1}}])
def test_a_limit_of_the_trainer_leaves_unfinished_results(
    smooth: Classifier, fit: Fit, limit: dict[str, Any], tmp_path: Path
) -> None:
    module, tasks = lv.ClassVisualization(smooth, iterations=10**6, slots=1), lv.ClassTasks(smooth, ["apple", "date"])
    trainer = fit(module, tasks, **limit)
    ((status, iterations),) = records(module)
    assert status == "unfinished"
    assert iterations == trainer.global_step > 0
    assert module.results[0].image is not None


def test_unfinished_adversarial_examples_are_evaluated(smooth: Classifier, fit: Fit) -> None:
    """The final image was not evaluated, if another one was done in the last step."""
    module = lv.AdversarialExample(smooth, attack=PGD(eps=0.2, alpha=0.02, random_start=False))
    fit(module, lv.PhotographTasks(smooth, photographs(12)[[11, 1]]), max_steps=2)  # they need 1 and 2 updates
    assert records(module) == [("done", 1), ("unfinished", 2)]
    assert [result.record.success_float for result in module.results] == [True, True]


def test_early_stopping_is_checked_after_every_step(smooth: Classifier, fit: Fit) -> None:
    stopping = EarlyStopping("objective", mode="max", stopping_threshold=-1e9)
    module = lv.ClassVisualization(smooth, iterations=100)
    trainer = fit(module, lv.ClassTasks(smooth, "apple"), callbacks=[stopping])
    assert trainer.global_step == 1


def test_resuming_from_a_checkpoint_of_the_trainer_is_bit_equal(smooth: Classifier, fit: Fit, tmp_path: Path) -> None:
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


def test_a_module_can_be_trained_again(smooth: Classifier, fit: Fit) -> None:
    module = lv.ClassVisualization(smooth, iterations=3)
    fit(module, lv.ClassTasks(smooth, ["apple", "date"]))
    fit(module, lv.ClassTasks(smooth, ["cherry"]))
    assert [result.record.target_name for result in module.results] == ["cherry"]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-true", "64-true"])
def test_precisions_change_the_network_only(smooth: Classifier, fit: Fit, precision: str) -> None:
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


def test_the_summary_counts_the_pixels(smooth: Classifier, fit: Fit) -> None:
    summary = Summary()
    fit(lv.SaliencyMap(smooth, slots=2), lv.PhotographTasks(smooth, photographs()), callbacks=[summary])
    assert summary.parameters == 2 * 3 * 16 * 16


@pytest.mark.parametrize("path", PRIVATE_ATTRIBUTES)
def test_private_attributes_of_lightning_exist(path: str) -> None:
    module, owner, attribute = path.rsplit(".", 2)
    kind = getattr(import_module(module), owner)
    assert (
        hasattr(kind, attribute)
        or f"self.{attribute}" in Path(str(import_module(kind.__module__).__file__)).read_text()
    )


SCRIPTS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "lightning.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("script", SCRIPTS, ids=[re.findall(r"lv\.(\w+)\(", script)[1] for script in SCRIPTS])
def test_the_scripts_of_the_documentation(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small network with the labels of ImageNet."""
    assert len(script.splitlines()) <= 25
    monkeypatch.chdir(tmp_path)
    labels = class_names("efficientnet_lite0")
    network = lv.load_classifier(smooth_network(classes=1000), labels=labels, mean=0.5, std=0.5, size=32)
    monkeypatch.setattr(lv, "load_classifier", {"efficientnet_lite0": network}.__getitem__)
    short = re.sub(r"(iterations|max_steps)=\d+", r"\1=2", script)
    short = short.replace("blocks.3.2", "features.3").replace("[3, 14, 15]", "[0, 1]")
    exec(compile(short, "docs/lightning.md", "exec"), {"__name__": "__main__"})
