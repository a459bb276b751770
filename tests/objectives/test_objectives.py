from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lit_viz.errors import LitVizError
from lit_viz.objectives import Logit, LogProbability, Objective, Outputs, Probability, Sum
from lit_viz.outputs import Regression, load_network

LOGITS = torch.tensor([[1.0, 2.0, 4.0], [0.5, -1.0, 3.0]], dtype=torch.float64)
OUTPUTS = Outputs(LOGITS, torch.tensor([2, 1]))


class Mean(Objective):
    layers = ("features",)

    def __call__(self, outputs: Outputs) -> Tensor:
        return outputs.activations["features"].flatten(1).mean(1)


def test_logit_picks_each_rows_target() -> None:
    assert Logit()(OUTPUTS).tolist() == [4.0, -1.0]
    assert Logit(target=0)(OUTPUTS).tolist() == [1.0, 0.5]


def test_log_probability_is_minus_cross_entropy() -> None:
    expected = -torch.nn.functional.cross_entropy(LOGITS, OUTPUTS.targets, reduction="none")
    torch.testing.assert_close(LogProbability()(OUTPUTS), expected)


def test_the_logit_of_a_restarted_image_is_its_log_probability() -> None:
    outputs = replace(OUTPUTS, restarted=torch.tensor([False, True]))
    expected = torch.stack([Logit()(OUTPUTS)[0], LogProbability()(OUTPUTS)[1]])
    torch.testing.assert_close(Logit()(outputs), expected)


def test_arithmetic() -> None:
    a, b = Logit(), Logit(target=0)
    left, right = a(OUTPUTS), b(OUTPUTS)
    for objective, expected in (
        (a + b, left + right),
        (a - b, left - right),
        (2 * a, 2 * left),
        (a * 0.5 - 3 * b, left / 2 - 3 * right),
        (a * b, left * right),
        (-a, -left),
    ):
        torch.testing.assert_close(objective(OUTPUTS), expected)


def test_sums_list_all_layers_of_their_terms() -> None:
    objective = Logit() + 2 * Mean()
    outputs = Outputs(LOGITS, OUTPUTS.targets, {"features": torch.ones(2, 3, 4)})
    assert objective.layers == ("features",)
    torch.testing.assert_close(objective(outputs), Logit()(outputs) + 2)


def test_a_sum_without_terms_is_rejected() -> None:
    with pytest.raises(LitVizError, match="one weight per term"):
        Sum([])


@pytest.mark.parametrize("objective", [Probability(), LogProbability()])
def test_numbers_have_no_probability_to_maximize(objective: Objective) -> None:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    network = load_network(layers, output=Regression(), mean=[0.0] * 3, std=[1.0] * 3, size=16)
    objective.bind(network)
    with pytest.raises(LitVizError, match="are numbers, which have no probability"):
        objective(Outputs(network(torch.rand(1, 3, 16, 16)), torch.tensor([0])))
