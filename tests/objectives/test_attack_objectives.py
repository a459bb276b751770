"""The losses of attacks, held against their formulas written out row by row."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.objectives import DLR, AttackObjective, CrossEntropy, Margin, Outputs, TargetLogit

LOGITS = torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 - 10
TARGETS = torch.arange(40) % 6
LABELS = (TARGETS + 1 + torch.arange(40) % 5) % 6
TARGETED = torch.arange(40) % 2 == 0
OBJECTIVES: list[AttackObjective] = [CrossEntropy(), TargetLogit(), Margin(), DLR()]


def outputs(logits: Tensor = LOGITS) -> Outputs:
    """Half of the rows are targeted; the others leave ``TARGETS``, which is their label."""
    labels = torch.where(TARGETED, LABELS, TARGETS)
    return Outputs(logits, TARGETS, labels=labels, targeted=TARGETED)


def by_hand(objective: AttackObjective, z: list[float], goal: int, label: int, targeted: bool) -> float:
    sign = 1 if targeted else -1
    others = max(value for k, value in enumerate(z) if k != goal)
    down = sorted(z, reverse=True)
    if isinstance(objective, CrossEntropy):
        return sign * (z[goal] - math.log(sum(map(math.exp, z))))
    if isinstance(objective, TargetLogit):
        return sign * z[goal]
    if isinstance(objective, Margin):
        return sign * (z[goal] - others)
    if targeted:
        return -(z[label] - z[goal]) / (down[0] - (down[2] + down[3]) / 2)
    return -(z[goal] - others) / (down[0] - down[2])


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: type(one).__name__)
def test_formulas(objective: AttackObjective) -> None:
    message = outputs()
    assert message.labels is not None
    rows = zip(LOGITS.tolist(), TARGETS.tolist(), message.labels.tolist(), TARGETED.tolist(), strict=True)
    expected = [by_hand(objective, *row) for row in rows]
    torch.testing.assert_close(objective(message), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("objective", [CrossEntropy(), TargetLogit(), Margin()], ids=lambda one: type(one).__name__)
def test_more_of_the_right_class_is_better(objective: AttackObjective) -> None:
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(outputs(logits)).sum(), logits)
    own = gradient.gather(1, TARGETS[:, None])[:, 0]
    assert torch.equal(own > 0, TARGETED)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: type(one).__name__)
def test_gradients_are_finite_differences(objective: AttackObjective) -> None:
    assert torch.autograd.gradcheck(lambda z: objective(outputs(z)), LOGITS.clone().requires_grad_())


def test_the_margin_is_above_zero_where_the_attack_succeeds() -> None:
    seen = LOGITS.argmax(1) == TARGETS
    assert torch.equal(Margin()(outputs()) > 0, seen == TARGETED)
    untargeted = Outputs(LOGITS, TARGETS, targeted=torch.zeros(40, dtype=torch.bool))
    assert torch.equal(DLR()(untargeted) > 0, ~seen)


def test_the_ratio_is_invariant_to_shift_and_scale() -> None:
    torch.testing.assert_close(DLR()(outputs(1000 * LOGITS + 7)), DLR()(outputs()))


def test_ties_are_finite() -> None:
    logits = torch.zeros(40, 6).requires_grad_()
    for objective in OBJECTIVES:
        score = objective(outputs(logits))
        (gradient,) = torch.autograd.grad(score.sum(), logits)
        assert score.isfinite().all()
        assert gradient.isfinite().all()


def test_rows_are_targeted_by_default() -> None:
    assert torch.equal(TargetLogit()(Outputs(LOGITS, TARGETS)), LOGITS.gather(1, TARGETS[:, None])[:, 0])


def test_invalid_arguments_are_rejected() -> None:
    away = torch.zeros(2, dtype=torch.bool)
    two = torch.tensor([0, 1])
    with pytest.raises(LitVizError, match="DLR requires 3 classes in untargeted attacks, got a network with 2"):
        DLR()(Outputs(torch.zeros(2, 2), two, targeted=away))
    with pytest.raises(LitVizError, match="DLR requires 4 classes in targeted attacks, got a network with 3"):
        DLR()(Outputs(torch.zeros(2, 3), two, labels=two, targeted=~away))
    assert DLR()(Outputs(torch.zeros(2, 3), two, targeted=away)).tolist() == [0, 0]
    for labels in (None, torch.tensor([2, -1])):
        with pytest.raises(LitVizError, match="DLR requires the true label"):
            DLR()(Outputs(torch.zeros(2, 4), two, labels=labels, targeted=~away))
    for objective in OBJECTIVES:
        with pytest.raises(LitVizError, match="requires a target or the true label"):
            objective(Outputs(torch.zeros(2, 4), torch.tensor([0, -1]), targeted=away))


def test_a_missing_label_is_allowed_if_none_is_needed() -> None:
    targeted = torch.tensor([True, False])
    message = Outputs(LOGITS[:2], TARGETS[:2], labels=torch.tensor([3, -1]), targeted=targeted)
    assert DLR()(message).isfinite().all()
