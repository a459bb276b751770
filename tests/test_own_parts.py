"""Parts that users write themselves, named by their path from the command line and from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lit_viz as lv
from lit_viz.attacks import Attack, masked_gradient
from lit_viz.attributions import Estimator
from lit_viz.attributions.base import add_rows, gather_rows
from lit_viz.attributions.reducers import reducer
from lit_viz.errors import LitVizError
from lit_viz.images import Canvas, Pixels
from lit_viz.images.priors import Prior
from lit_viz.images.transforms import Transform
from lit_viz.methods import ClassVisualization
from lit_viz.networks import Network
from lit_viz.objectives import Logit, Objective, Outputs, Sum
from lit_viz.optim import Adam, Evaluate, Evaluation, State, StepRule
from lit_viz.optim.rule import never
from lit_viz.rng import Draws
from lit_viz.types import Task
from tests.support.runs import Train, tasks_for

HERE = __name__


def photographs(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255


class SignSteps(Attack):
    """The smallest attack that a user could write: it has no objective of its own."""

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        return (x + 0.02 * masked_gradient(evaluation, x, rows).sign()).clamp(0, 1), state


class Clashing(SignSteps):
    """Keeps something by a name that is taken."""

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        return {**super().init(x, tasks), "logits": torch.zeros(len(x), 2)}


class Summed(Estimator):
    """A gradient that is shown with its sign."""

    reducer = "sum"

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        return {**super().init(x, tasks), "map": torch.zeros_like(x)}

    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        gradient = evaluate(gather_rows(x, slots), slots=slots).gradient
        return {**state, "map": add_rows(state["map"], slots, gradient)}

    def attribution(self, x: Tensor, state: State) -> Tensor:
        return state["map"]


class Remembering(ClassVisualization):
    """Keeps a state in addition to that of the rule."""

    def init_state(self, x: Tensor, tasks: Sequence[Task]) -> State:
        return {**super().init_state(x, tasks), "extra": torch.zeros(len(x))}


class ScalarScore(Objective):
    """A mean over the batch, as other tools have it."""

    task_fields = frozenset({"target"})

    def __call__(self, outputs: Outputs) -> Tensor:
        return outputs.logits[:, 0].mean()


class EveryLogit(Objective):
    task_fields = frozenset({"target"})

    def __call__(self, outputs: Outputs) -> Tensor:
        return outputs.logits


class ScalarInASum(Sum):
    """The number of one term would be added to the scores of all images."""

    def __init__(self) -> None:
        super().__init__([Logit(), ScalarScore()])


class Detached(Objective):
    task_fields = frozenset({"target"})

    def __call__(self, outputs: Outputs) -> Tensor:
        return outputs.logits.detach()[:, 0]


class ScalarPrior(Prior):
    name = "mine"

    def __call__(self, images: Tensor) -> Tensor:
        return images.square().mean()


class Cropping(Transform):
    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return images[..., 1:]


class Grey(Pixels):
    def decode(self, x: Tensor, canvas: Canvas) -> Tensor:
        return super().decode(x, canvas).mean(1)


class Flat(StepRule):
    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        return x.flatten(1), state, never(x)


class Unending(StepRule):
    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        return x, state, None  # type: ignore[return-value]


class Halved(Summed):
    def attribution(self, x: Tensor, state: State) -> Tensor:
        return state["map"][..., ::2]


@pytest.mark.parametrize(
    ("part", "name", "message"),
    [
        ("objective", "ScalarScore", r"must return a score for each input of the network, shape \(\d+,\), got \(\)"),
        ("objective", "EveryLogit", r"shape \(\d+,\), got \(\d+, 5\)"),
        ("objective", "ScalarInASum", None),
        ("objective", "Detached", "must return differentiable scores, got a constant"),
        ("priors", "ScalarPrior", r"a penalty for each image, shape \(2,\), got \(\)"),
        ("transforms", "Cropping", "a view of each image"),
        ("parameterization", "Grey", "an image of each parameter"),
        ("step_rule", "Flat", "an image for each slot"),
        ("step_rule", "Unending", r"whether each slot is done, shape \(2,\), got NoneType"),
    ],
)
def test_custom_parts_with_invalid_results_are_rejected(
    part: str, name: str, message: str | None, smooth: Network
) -> None:
    """The error names the part."""
    given = globals()[name]()
    options = {part: [given] if part in ("priors", "transforms") else given}
    with pytest.raises(LitVizError, match="ScalarScore must return" if message is None else f"{name} .*{message}"):
        lv.visualize(smooth, [0, 1], iterations=3, **options)


def test_a_custom_map_of_the_wrong_shape_is_rejected(smooth: Network) -> None:
    with pytest.raises(LitVizError, match=r"Halved must return a map of each photograph"):
        lv.saliency(smooth, photographs(), method=Halved, captum="none")


def test_a_custom_attack_by_its_class(smooth: Network) -> None:
    run = lv.attack(smooth, photographs(), attack=SignSteps, iterations=30)
    assert all(record["success_file"] for record in run.records if record["status"] == "done")
    assert {record["attack"] for record in run.records} == {"SignSteps"}


def test_a_module_of_the_current_folder_is_importable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lit_viz: Any, records: Any, small_options: Any
) -> None:
    (tmp_path / "my_attacks.py").write_text(f"from {HERE} import SignSteps\n\nclass Own(SignSteps): pass\n")
    root = Path(__file__).parents[1]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(root))
    lit_viz(
        "attack", "packaged:chelsea", *small_options, "--attack", "my_attacks.Own", "--iterations", "3", "--out", "run"
    )
    assert records(tmp_path / "run")[0]["attack"] == "Own"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["attack", "packaged:chelsea", "--attack", "nowhere.Own"],
            "got nowhere.Own: it can't be imported (No module named 'nowhere')",
        ),
        (
            ["saliency", "packaged:chelsea", "--method", f"gradient,{HERE}.Nix"],
            f"module '{HERE}' has no attribute 'Nix'",
        ),
        (
            ["visualize", "0", "--transforms", "lit_viz.images.Fourier"],
            "--transforms must be an instance of Transform, got lit_viz.images.Fourier",
        ),
    ],
)
def test_an_invalid_class_path_gives_a_one_line_error(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], lit_viz: Any, small_options: Any
) -> None:
    lit_viz(*words, *small_options, expect=1)
    assert message in capsys.readouterr().err


def test_options_of_a_part_may_precede_it(tmp_path: Path, lit_viz: Any, records: Any, small_options: Any) -> None:
    lit_viz(
        "attack", "packaged:chelsea", *small_options, "--eps", "0.2", "--attack", "pgd", "--out", str(tmp_path / "run")
    )
    assert records(tmp_path / "run")[0]["settings"]["eps"] == 0.2


def test_a_custom_method_uses_its_reducer(smooth: Network) -> None:
    run = lv.saliency(smooth, photographs(1), method=Summed, captum="none")
    assert run.records[0]["reducer"] == "sum"
    assert reducer("sum").description in " ".join(text.get_text() for text in run.figure().texts).replace("\n", " ")


def test_the_optimizer_preserves_other_state_entries(smooth: Network, train: Train) -> None:
    module = Remembering(smooth, parameterization=Pixels(), step_rule=Adam(0.05), iterations=3, slots=2)
    memory = train(module, tasks_for(smooth, [1, 2]))
    assert {result.record.status for result in memory.results.values()} == {"done"}


def test_the_reserved_state_key_is_rejected(smooth: Network) -> None:
    with pytest.raises(LitVizError, match="Clashing must not use the reserved state key 'logits'"):
        lv.attack(smooth, photographs(), attack=Clashing)


def test_custom_parts_as_instances(smooth: Network) -> None:
    by_name = lv.attack(smooth, photographs(), attack=SignSteps, iterations=2)
    run = lv.attack(smooth, photographs(), iterations=2, attack=SignSteps())
    assert torch.equal(run.images, by_name.images)
    assert lv.visualize(smooth, [1], iterations=1, objective=Logit()).records[0]["status"] == "done"
    with pytest.raises(LitVizError, match="must be a name or an instance, got 5"):
        lv.saliency(smooth, photographs(), method=5)  # type: ignore[arg-type]


def test_arguments_of_parts_are_options_in_python(smooth: Network) -> None:
    few = {"iterations": 1, "views": 1}
    rate = {"step_rule": "NAdam", "lr": 0.1}
    slow, fast = (lv.visualize(smooth, [1], **few, lr=lr).images for lr in (1e-6, 0.5))
    assert (slow - fast).abs().max() > 0.01
    assert lv.visualize(smooth, [1], **few, **rate).records[0]["status"] == "done"
