"""Every step rule, on quadratics whose every iterate is known or can be had from torch itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_viz.errors import LitVizError
from lit_viz.optim import SGD, Adam, Adapted, Cosine, Evaluation, GradientAscent, NAdam, NormalizedAscent, RMSprop
from lit_viz.optim.rule import State, StepRule, norm, unit
from lit_viz.types import Task
from tests.support.step_rules import TOP, ExtraGradient, HillClimb

RULES: dict[str, Callable[[], StepRule]] = {
    "adam": lambda: Adam(0.1),
    "adam_cosine": lambda: Adam(Cosine(0.2, final=0.1)),
    "nadam": lambda: NAdam(0.1),
    "sgd": lambda: SGD(0.05),
    "nesterov": lambda: SGD(0.05, nesterov=True),
    "plain_sgd": lambda: SGD(0.05, momentum=0.0),
    "rmsprop": lambda: RMSprop(0.05),
    "ascent": lambda: GradientAscent(0.1),
    "normalized": lambda: NormalizedAscent(0.3),
    "forward_only": HillClimb,
    "two_evaluations": ExtraGradient,
}


def hill(x: Tensor, *, gradient: bool = True, slots: Tensor | None = None, network: str = "plain") -> Evaluation:
    """Score ``-||x - TOP||^2 / 2``."""
    with torch.set_grad_enabled(gradient):
        x = x.detach().requires_grad_(gradient)
        return Evaluation(x, -((x - TOP).flatten(1) ** 2).sum(1) / 2, torch.zeros(len(x), 2))


def tasks(n: int, **options: float) -> list[Task]:
    return [Task(i, f"t{i}", i, **options) for i in range(n)]


def counted(rule: StepRule, x: Tensor, n: int = 40) -> State:
    k, last = torch.zeros(len(x), dtype=torch.long), torch.full((len(x),), n)
    return {**rule.init(x, tasks(len(x))), "iteration": k, "iterations": last}


def run(rule: StepRule, x: Tensor, steps: int) -> list[Tensor]:
    state, path = counted(rule, x), []
    for _ in range(steps):
        x, state, done = rule.step(x, state, hill)
        state["iteration"] = state["iteration"] + (~done).long()
        path.append(x)
    return path


@pytest.mark.parametrize("name", RULES)
def test_rules_increase_the_score_and_preserve_their_input(name: str) -> None:
    rule, x = RULES[name](), torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    kept = x.clone()
    path = run(rule, x, 40)
    assert torch.equal(x, kept)
    assert (hill(path[-1]).score > hill(x).score / 5).all()


class _ChannelsLastGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", RULES)
def test_results_do_not_depend_on_the_memory_layout(name: str, layout: torch.memory_format) -> None:
    """Gradients of a network are channels-last; the fused Adam of torch requires images and gradients of one layout."""
    tops = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))

    def other_hill(x: Tensor, *, gradient: bool = True, slots: Tensor | None = None) -> Evaluation:
        with torch.set_grad_enabled(gradient):
            leaf = x.detach().requires_grad_(gradient)
            inner = _ChannelsLastGradient.apply(leaf)  # type: ignore[no-untyped-call]
            return Evaluation(leaf, -((inner - tops).flatten(1) ** 2).sum(1) / 2, torch.zeros(len(x), 2))

    x = torch.zeros(3, 2, 4, 4)
    paths = []
    for now in (x, x.contiguous(memory_format=layout)):
        rule = RULES[name]()
        state = counted(rule, now)
        for _ in range(6):
            now, state, done = rule.step(now, state, other_hill)  # type: ignore[arg-type]
            state["iteration"] = state["iteration"] + (~done).long()
        paths.append(now)
    torch.testing.assert_close(paths[1], paths[0], rtol=0, atol=1e-6)
    if name != "forward_only":  # which looks for a top of its own
        assert (paths[0] * tops > 0).float().mean() > 0.95  # every value goes to its own top


@pytest.mark.parametrize("name", RULES)
def test_state_has_a_leading_slot_dimension(name: str) -> None:
    rule, x = RULES[name](), torch.zeros(3, 5)
    state = counted(rule, x)
    _, after, done = rule.step(x, dict(state), hill)
    assert after.keys() == state.keys()
    assert all(len(value) == 3 for value in [*after.values(), done])


@pytest.mark.parametrize("name", RULES)
def test_results_do_not_depend_on_the_iterations_of_other_slots(name: str) -> None:
    """Slots of different age: each image has its own moments, bias correction and learning rate."""
    rule = RULES[name]()
    early, late = torch.full((1, 6), -2.0), torch.linspace(-1, 1, 6)[None]
    alone = run(RULES[name](), late, 8)[-1]
    x, state = early, counted(rule, early)
    for step in range(11):
        if step == 3:
            fresh = counted(rule, late)
            x, state = torch.cat([x, late]), {key: torch.cat([state[key], fresh[key]]) for key in state}
        x, state, done = rule.step(x, state, hill)
        state["iteration"] = state["iteration"] + (~done).long()
    assert torch.equal(x[1:], alone)


@pytest.mark.parametrize(
    ("rule", "reference"),
    [
        (Adam(0.1), lambda p: torch.optim.Adam(p, 0.1)),
        (NAdam(0.1), lambda p: torch.optim.NAdam(p, 0.1)),
        (SGD(0.1, 0.8), lambda p: torch.optim.SGD(p, 0.1, 0.8)),
        (SGD(0.1, 0.8, nesterov=True), lambda p: torch.optim.SGD(p, 0.1, 0.8, nesterov=True)),
        (RMSprop(0.1), lambda p: torch.optim.RMSprop(p, 0.1)),
        (Adapted(torch.optim.Adagrad, 0.1), lambda p: torch.optim.Adagrad(p, 0.1)),
    ],
    ids=["Adam", "NAdam", "SGD", "Nesterov", "RMSprop", "Adagrad"],
)
def test_adapted_optimizers_equal_torch(
    rule: StepRule, reference: Callable[[list[Tensor]], torch.optim.Optimizer]
) -> None:
    x = torch.linspace(-1, 1, 12).view(2, 6)
    plain = [row.clone().requires_grad_() for row in x]
    optimizer = reference(plain)
    for _ in range(7):
        optimizer.zero_grad()
        sum(((p - TOP) ** 2).sum() / 2 for p in plain).backward()
        optimizer.step()
    torch.testing.assert_close(run(rule, x, 7)[-1], torch.stack(plain).detach(), rtol=0, atol=1e-6)


def test_normalized_step_has_the_length_of_the_rate_and_zero_gradients_rest() -> None:
    x = torch.stack([torch.zeros(5), torch.full((5,), TOP)])
    moved = run(NormalizedAscent(0.7), x, 1)[0] - x
    torch.testing.assert_close(norm(moved), torch.tensor([0.7, 0.0]))


def test_rates_follow_the_images_own_iteration_and_task() -> None:
    cosine = Cosine(0.4, final=0.25)
    state = cosine.init(torch.zeros(3, 1), [*tasks(2), Task(2, "swept", 0, lr=0.8)])
    state |= {"iteration": torch.tensor([0, 10, 5]), "iterations": torch.tensor([10, 10, 10])}
    torch.testing.assert_close(cosine(state), torch.tensor([0.4, 0.1, 0.8 * 0.625], dtype=torch.float64))


def test_coupling_optimizers_are_rejected() -> None:
    with pytest.raises(LitVizError, match="LBFGS is not supported"):
        Adapted(torch.optim.LBFGS, 1.0)


@pytest.mark.parametrize(
    "make", [lambda: Adam(betas=(2.0, 0.9)), lambda: RMSprop(alpha=-1), lambda: SGD(momentum=0, nesterov=True)]
)
def test_unknown_optimizer_options_are_rejected_at_once(make: Callable[[], Adapted]) -> None:
    with pytest.raises(LitVizError, match="invalid options of "):
        make()


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan")])
def test_an_invalid_learning_rate_is_rejected(lr: float) -> None:
    with pytest.raises(LitVizError, match="lr must be positive and finite"):
        Adam(lr)


def test_a_row_does_not_depend_on_the_batch() -> None:
    x = torch.randn(2, 3, 7, 5, generator=torch.Generator().manual_seed(0))
    batch_with_zeros = torch.stack([x[0], torch.zeros_like(x[0])])  # an image that is done has no gradient
    assert torch.equal(unit(batch_with_zeros)[0], unit(x)[0])
    assert not unit(batch_with_zeros)[1].any()


def test_a_row_whose_square_underflows_or_overflows_has_a_direction() -> None:
    x = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(norm(unit(x)), torch.ones(4))
    for scale in (1e-30, 1e30):
        torch.testing.assert_close(unit(x * scale), unit(x))
