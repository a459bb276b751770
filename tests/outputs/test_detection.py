"""Detectors: final detections decide, readers of families, goals in a box, and real weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.outputs import Detection, Output
from lit_viz.outputs.detectors import Candidates


class Peak(Output):
    """Whether any pixel of a color is bright: the largest, and as a score the log-sum-exp, which is never below it."""

    decision = "independent"

    def scores(self, returned: Any, images: int) -> Tensor:
        return returned.flatten(2).logsumexp(2)

    def final(self, returned: Any, images: int) -> Tensor:
        return returned.flatten(2).amax(2)


class Brightness(nn.Module):
    """Log-odds of each pixel: positive above a half."""

    def forward(self, x: Tensor) -> Tensor:
        return 8 * (x - 0.5)


def bright(output: Output) -> Any:
    names = ["red", "green", "blue"]
    return lv.load_network(Brightness().eval(), output=output, size=8, mean=0.0, std=1.0, labels=names)


@pytest.mark.parametrize("attack", ["pgd", "ddn"])
def test_an_image_that_only_the_score_accepts_is_attacked_until_the_final_scores_do(attack: str) -> None:
    net = bright(Peak())
    image = torch.full((1, 3, 8, 8), 0.4)
    assert float(net.scores(image)[0, 0]) > 3
    assert float(net.scores(image, final=True)[0, 0]) < 0
    eps: dict[str, Any] = {"eps": "64/255", "alpha": "4/255"} if attack == "pgd" else {}
    run = lv.attack(net, image, target="red", goal="appear", attack=attack, iterations=40, **eps)
    (record,) = run.records
    assert record["status"] == "done"
    assert record["success_file"] is True
    assert float(net.scores(run.images, final=True)[0, 0]) > 0
    assert record["probability_before"] == pytest.approx(float(torch.tensor(-0.8).sigmoid()), abs=0.01)


def test_an_image_that_meets_the_goal_by_its_final_scores_is_skipped() -> None:
    net = bright(Peak())
    image = torch.full((1, 3, 8, 8), 0.4)
    with pytest.warns(UserWarning, match="1 skipped of 1 image"):
        run = lv.attack(net, image, label="red", goal="vanish", attack="pgd", eps="4/255", iterations=3)
    assert run.records[0]["status"] == "skipped"


def test_the_scores_of_a_detector_are_the_log_sum_exp_of_overlapping_candidates() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 9, 10], [50, 50, 60, 60]])
    log_odds = torch.tensor([[1.0, -1.0], [2.0, 0.0], [9.0, 9.0]])
    detected = {"boxes": boxes, "labels": torch.tensor([0, 1, 1]), "scores": torch.tensor([0.9, 0.2, 0.99])}
    returned = [Candidates(boxes, log_odds, detected)], (64, 64)
    inside = Detection((0, 0, 10, 10), score=0.5)
    assert torch.allclose(inside.scores(returned, 1)[0], log_odds[:2].logsumexp(0))
    assert torch.allclose(inside.final(returned, 1)[0], torch.logit(torch.tensor([0.9, 0.2])))
    anywhere = Detection(score=0.8)
    assert torch.allclose(anywhere.scores(returned, 1)[0], log_odds.logsumexp(0) - torch.logit(torch.tensor(0.8)))


def test_the_nearest_candidates_of_an_empty_box_are_the_same_after_rounding() -> None:
    """Two candidates are equally near, apart from the last bits, which a copy of a network rounds differently."""
    log_odds = torch.tensor([[1.0], [-3.0], [5.0]], requires_grad=True)
    boxes = torch.tensor([[20.0, 0, 30, 10], [0, 20, 10, 30], [40, 40, 50, 50]])
    empty = Detection((0, 0, 10, 10))
    expected = log_odds[:2].logsumexp(0)
    (gradient,) = torch.autograd.grad(expected.sum(), log_odds)
    for shift in (-1e-4, 0.0, 1e-4):
        moved = boxes + shift * torch.tensor([[1.0], [-1.0], [0.0]])
        scores = empty.scores(([Candidates(moved, log_odds)], (64, 64)), 1)
        assert torch.allclose(scores[0], expected)
        assert torch.equal(torch.autograd.grad(scores.sum(), log_odds)[0], gradient)
