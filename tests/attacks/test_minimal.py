"""DeepFool, FMN and Carlini and Wagner: minimal perturbations of linear networks in closed form; steps by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from lit_viz.attacks import DDN, FMN, Attack, CarliniWagner, DeepFool, run_attack
from lit_viz.attacks.carlini_wagner import to_tanh
from lit_viz.attacks.norms import NormName
from lit_viz.optim import Evaluation, State
from lit_viz.types import Task
from tests.support.attacks import Curved, Linear, Watched, margins, photographs, saturated
from tests.support.marks import slow

Case = tuple[Callable[[], Attack], NormName]
CASES: dict[str, Case] = {
    "deepfool": (DeepFool, "l2"),
    "deepfool, linf": (lambda: DeepFool("linf"), "linf"),
    "fmn": (FMN, "l2"),
    "fmn, linf": (lambda: FMN("linf"), "linf"),
    "carlini and wagner": (CarliniWagner, "l2"),
    "ddn": (lambda: DDN(quantize=False), "l2"),
}
every = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
#: Carlini and Wagner's attack takes ten times as long as the others.
few = pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow if case[0] is CarliniWagner else ()) for case in CASES.values()],
    ids=list(CASES),
)
targeted = pytest.mark.parametrize("targeted", [False, True])
both = pytest.mark.parametrize("norm", ["linf", "l2"])
CURVED = Curved()
GREY = photographs(6, low=0.3, high=0.7)
LABELS = CURVED(GREY).argmax(1).tolist()
TARGETS = [(label + 2) % 5 for label in LABELS]


def lengths(change: Tensor, norm: NormName) -> Tensor:
    return change.flatten(1).norm(dim=1) if norm == "l2" else change.flatten(1).abs().amax(1)


def smallest(x: Tensor, weight: Tensor, gap: float, norm: NormName) -> float:
    """The length of the shortest change inside [0, 1] with ``weight . change = gap``: clip(t * w) or clip(t * sign w),
    by bisection."""
    way = weight if norm == "l2" else weight.sign()
    least, most = 0.0, 1e3
    for _ in range(200):
        t = (least + most) / 2
        if float((weight * (t * way).clamp(-x, 1 - x)).sum()) < gap:
            least = t
        else:
            most = t
    return float(lengths((most * way).clamp(-x, 1 - x)[None], norm))


def optima(linear: Linear, x: Tensor, norm: NormName, reached: list[int] | None = None) -> Tensor:
    """The distances to the boundary between the predicted class and the one to reach, or to the nearest boundary."""
    logits, shape = linear(x), x.shape[1:]
    labels = logits.argmax(1).tolist()
    return torch.tensor([
        min(
            smallest(x[n], linear.between(k, label).view(shape), float(logits[n, label] - logits[n, k]), norm)
            for k in (range(logits.shape[1]) if reached is None else reached[n : n + 1])
            if k != label
        )
        for n, label in enumerate(labels)
    ], dtype=torch.float64)  # fmt: skip


def in_float64(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return network(x.double()).to(x)


def near(classes: int = 2, x: Tensor | None = None, seed: int = 0) -> Linear:
    """A linear network for which photographs are a small distance from the boundary, and logits far below zero."""
    linear, x = Linear(classes, seed=seed), photographs(3, low=0.3, high=0.7) if x is None else x
    linear.bias = -(linear(x).mean(0) - linear.bias) - 200 + 2 * torch.arange(classes).double()
    return linear


@every
def test_the_smallest_perturbation_is_found(case: Case) -> None:
    """Targeted; untargeted attacks are tested below."""
    make, norm = case
    x = photographs(3, low=0.3, high=0.7)
    linear = near(2, x)
    labels = linear(x).argmax(1).tolist()
    out, state = run_attack(make(), linear, x, labels, [1 - label for label in labels])
    ratio = lengths(out - x, norm) / optima(linear, x, norm)
    assert state["fooled"].all()
    assert (ratio >= 1 - 1e-9).all()
    assert (ratio <= 1.05).all()


@few
def test_the_nearest_of_several_classes_is_found_from_saturated_pixels(case: Case) -> None:
    """Half of the pixels cannot move in the direction of the gradient."""
    make, norm = case
    x = saturated(3)
    linear = near(4, x)
    out, state = run_attack(make(), linear, x, linear(x).argmax(1).tolist())
    reached = linear(out).argmax(1).tolist()  # DeepFool finds the nearest class, the others the most probable one
    ratio = lengths(out - x, norm) / optima(linear, x, norm, None if make is DeepFool else reached)
    assert state["fooled"].all()
    assert out.min() >= 0
    assert out.max() <= 1
    assert (ratio >= 1 - 1e-9).all()
    assert (ratio <= 1.05).all()


@every
def test_the_smallest_success_is_the_outcome(case: Case) -> None:
    """In the norm of the attack, of all evaluated images."""
    make, norm = case
    for n in range(3):
        network = Watched(CURVED)
        out, state = run_attack(make(), network, GREY[n : n + 1], LABELS[n : n + 1], iterations=40)
        seen = torch.cat(network.inputs)
        fooled = margins(CURVED(seen), LABELS[n : n + 1] * len(seen)) > 0
        assert bool(fooled.any())
        assert torch.equal(state["fooled"], torch.tensor([True]))
        assert float(lengths(out - GREY[n : n + 1], norm)) == float(lengths(seen - GREY[n : n + 1], norm)[fooled].min())


# DeepFool.


@both
@targeted
def test_deepfool_crosses_a_plane_in_one_step_and_two_hundredths_more(norm: NormName, targeted: bool) -> None:
    x = photographs(3, low=0.3, high=0.7)
    linear = near(2 if targeted else 5, x)
    labels = linear(x).argmax(1).tolist()
    targets = [1 - label for label in labels] if targeted else None
    out, state = run_attack(DeepFool(norm), linear, x, labels, targets)
    assert state["iteration"].tolist() == [1, 1, 1]
    torch.testing.assert_close(lengths(out - x, norm), 1.02 * optima(linear, x, norm), rtol=1e-6, atol=0)
    further, _ = run_attack(DeepFool(norm, overshoot=0.5), linear, x, labels, targets)
    torch.testing.assert_close(further - x, (out - x) * 1.5 / 1.02, rtol=1e-9, atol=1e-12)


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """The logits ``(K,)`` of one image and their gradients ``(K, C, H, W)``."""
    leaf = x.clone().requires_grad_()
    logits = CURVED(leaf[None])[0]
    return logits.detach(), torch.stack([torch.autograd.grad(z, leaf, retain_graph=True)[0] for z in logits])


@both
@targeted
def test_deepfool_follows_the_paper(norm: NormName, targeted: bool) -> None:
    """Algorithm 2 of Moosavi-Dezfooli et al. 2016, the overshoot on the sum of the steps."""
    steps = 0
    for n in range(6):
        network = Watched(CURVED)
        targets = TARGETS[n : n + 1] if targeted else None
        run_attack(DeepFool(norm, overshoot=0.1), network, GREY[n : n + 1], LABELS[n : n + 1], targets)
        total = torch.zeros_like(GREY[n])
        for images in network.inputs:
            x = GREY[n] + 1.1 * total
            torch.testing.assert_close(images[0], x, rtol=0, atol=1e-9)
            z, w = gradients(x)
            own = TARGETS[n] if targeted else LABELS[n]
            others = [k for k in range(5) if k != own]
            if targeted:
                others = [max(others, key=lambda k: float(z[k]))]
            dual = [float((w[k] - w[own]).abs().sum() if norm == "linf" else (w[k] - w[own]).norm()) for k in others]
            distance, k = min((abs(float(z[k] - z[own])) / d, k) for k, d in zip(others, dual, strict=True))
            way = (w[own] - w[k]) if targeted else (w[k] - w[own])
            total = total + distance * (way.sign() if norm == "linf" else way / way.norm())
        steps += len(network.inputs) - 1
    assert steps > (6 if targeted else 5)


def test_deepfool_costs_a_backward_per_class() -> None:
    linear, x = Linear(15), photographs(3)
    labels = linear(x).argmax(1).tolist()
    ordered = linear(x).argsort(1, descending=True)
    for classes, rivals in ((10, 9), (2, 1), (99, 14)):
        network = Watched(linear)
        out, state = run_attack(DeepFool(classes=classes), network, x, labels, iterations=3)
        updates = state["iteration"]
        assert network.backwards == rivals * int(updates.sum())
        assert network.forwards == int((updates + 1).sum())
        if classes == 2:
            assert torch.equal(linear(out).argmax(1), ordered[:, 1])
    network = Watched(linear)
    _, state = run_attack(DeepFool(), network, x, labels, [int(t) for t in ordered[:, 7]])
    assert network.backwards == int(state["iteration"].sum())


def test_deepfool_in_one_batch_with_and_without_targets() -> None:
    """A targeted image has one boundary."""
    tasks = [Task(n, str(n), n, label=LABELS[n], target=TARGETS[n] if n % 2 else None) for n in range(6)]
    backwards: list[list[bool]] = []

    def evaluate(x: Tensor, **how: object) -> Evaluation:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            logits = CURVED(leaf)
            return Evaluation(leaf, logits[:, 0] * 0, logits, on_backward=backwards.append)

    attack = DeepFool()
    state = {**attack.init(GREY, tasks), "iteration": torch.zeros(6, dtype=torch.long)}
    moved, _, done = attack.step(GREY, state, evaluate)
    assert not done.any()
    assert backwards == [[True] * 6] + [[True, False] * 3] * 3
    for n in range(6):
        network = Watched(CURVED)
        run_attack(attack, network, GREY[n : n + 1], LABELS[n : n + 1], TARGETS[n : n + 1] if n % 2 else None)
        torch.testing.assert_close(moved[n], network.inputs[1][0], rtol=0, atol=1e-9)


def test_deepfool_reads_the_mean_of_the_views() -> None:
    """Two views of every image: gap and gradient are those of their mean."""
    x = GREY[:2]
    tasks = [Task(n, str(n), n, label=LABELS[n]) for n in range(2)]
    attack = DeepFool()
    state = {**attack.init(x, tasks), "iteration": torch.zeros(2, dtype=torch.long)}

    def mean(rows: Tensor) -> Tensor:
        return rows.view(2, 2, *rows.shape[1:]).mean(1)

    def views(x: Tensor) -> Tensor:
        return CURVED(torch.stack([0.9 * x, 1.1 * x], 1).flatten(0, 1))

    def evaluate(x: Tensor, **how: object) -> Evaluation:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            logits = views(leaf)
            return Evaluation(leaf, mean(logits)[:, 0] * 0, logits, average_views=mean)

    moved, _, _ = attack.step(x, state, evaluate)
    for n in range(2):
        network = Watched(lambda one: mean(views(one.expand(2, -1, -1, -1)))[:1])
        run_attack(attack, network, x[n : n + 1], [LABELS[n]], iterations=1)
        torch.testing.assert_close(moved[n], network.inputs[1][0], rtol=0, atol=1e-9)


@both
def test_deepfool_ignores_saturated_pixels(norm: NormName) -> None:
    """Otherwise it would approach the boundary without crossing it."""
    x = saturated(3)
    linear = near(4, x)
    _, state = run_attack(DeepFool(norm), linear, x, linear(x).argmax(1).tolist())
    assert (state["iteration"] <= 3).all()


@both
def test_deepfool_leaves_the_boundary_itself(norm: NormName) -> None:
    """Of two equal logits the first is the prediction, and the distance is zero."""
    linear, x = Linear(2), torch.full((1, 3, 6, 5), 0.5, dtype=torch.float64)
    linear.weight, linear.bias = linear.weight.mul(8).round(), linear.bias * 0
    linear.bias[1] = linear(x)[0, 0] - linear(x)[0, 1]
    assert linear(x)[0, 0] == linear(x)[0, 1]
    assert run_attack(DeepFool(norm), linear, x, [0])[1]["fooled"].all()


# FMN.


def test_fmn_estimates_the_boundary_before_the_first_success() -> None:
    """A first step by hand: eps is the gap over the dual norm, so on a plane the image is at the boundary, and a
    thousandth beyond."""
    x = photographs(3, low=0.3, high=0.7)
    linear = near(2, x)
    labels = linear(x).argmax(1).tolist()
    gap = -margins(linear(x), labels)
    weight = torch.stack([linear.between(1 - label, label) for label in labels]).view_as(x)
    network = Watched(linear)
    run_attack(FMN("l2", alpha=5.0), network, x, labels, iterations=1)
    by_hand = x + 1.001 * (gap / weight.flatten(1).square().sum(1)).view(-1, 1, 1, 1) * weight
    torch.testing.assert_close(network.inputs[1], by_hand, rtol=0, atol=1e-9)
    network = Watched(linear)
    run_attack(FMN("linf", alpha=1e6), network, x, labels, iterations=1)
    by_hand = x + 1.001 * (gap / weight.flatten(1).abs().sum(1)).view(-1, 1, 1, 1) * weight.sign()
    torch.testing.assert_close(network.inputs[1], by_hand, rtol=0, atol=1e-9)
    network = Watched(linear)
    run_attack(FMN("l2", alpha=1e-3), network, x, labels, iterations=1)
    torch.testing.assert_close(lengths(network.inputs[1] - x, "l2"), torch.full((3,), 1e-3).double())


@both
@pytest.mark.parametrize("targeted", [False, slow(True)])
def test_fmn_follows_the_paper(norm: NormName, targeted: bool) -> None:
    """Algorithm 1 of Pintor et al. 2021, far from black and white."""
    total, alpha0 = 30, {"l2": 0.6, "linf": 2.0}[norm]
    both_kinds = set()
    for n in range(6):
        network = Watched(CURVED)
        targets = TARGETS[n : n + 1] if targeted else None
        run_attack(FMN(norm, alpha0), network, GREY[n : n + 1], LABELS[n : n + 1], targets, iterations=total)
        delta, eps, best = torch.zeros_like(GREY[n]), math.inf, math.inf
        for k in range(total):
            torch.testing.assert_close(network.inputs[k][0], GREY[n] + delta, rtol=0, atol=1e-9)
            z, w = gradients(GREY[n] + delta)
            own = TARGETS[n] if targeted else LABELS[n]
            other = max((k for k in range(5) if k != own), key=lambda k: float(z[k]))
            g = (w[own] - w[other]) if targeted else (w[other] - w[own])
            success = (int(z.argmax()) == own) == targeted
            length = float(delta.norm() if norm == "l2" else delta.abs().max())
            best = min(best, length) if success else best
            half = (1 + math.cos(math.pi * k / total)) / 2
            gamma = 0.001 + (0.05 - 0.001) * half
            if success:
                eps = min(eps * (1 - gamma), best * (1 - 1e-6))
            elif best < math.inf:
                eps = eps * (1 + gamma)
            else:
                dual = float(g.norm() if norm == "l2" else g.abs().sum())
                eps = 1.001 * (length + abs(float(z[own] - z[other])) / dual)
            both_kinds.add((success, best < math.inf))
            delta = delta + alpha0 * (0.01 + 0.99 * half) * g / g.norm()
            delta = delta.clamp(-eps, eps) if norm == "linf" else delta * min(1.0, eps / float(delta.norm()))
            assert bool(((GREY[n] + delta).clamp(0, 1) == GREY[n] + delta).all())
    assert both_kinds == {(True, True), (False, True), (False, False)}


def test_fmn_bounds_eps_by_the_largest_change_of_an_image() -> None:
    """With a gradient near zero the estimated boundary is far away."""
    flat = Watched(lambda x: CURVED(x) * 1e-9 + torch.eye(5, dtype=torch.float64)[LABELS[0]] * 1e3)
    _, state = run_attack(FMN(), flat, GREY[:1], LABELS[:1], iterations=5)
    assert float(state["eps"]) == pytest.approx(float(torch.maximum(GREY[0], 1 - GREY[0]).norm()))
    assert not state["fooled"].any()


# Carlini and Wagner.


class Recorded(CarliniWagner):
    """Keeps the state after every update."""

    def __init__(self, *args: float, **options: float) -> None:
        super().__init__(*args, **options)
        self.states: list[State] = []

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        moved, state = super().update(x, state, evaluation, rows)
        self.states.append({key: value.clone() for key, value in state.items()})
        return moved, state


@targeted
def test_carlini_wagner_equals_adam_of_torch_in_tanh_space(targeted: bool) -> None:
    """The loss over c by autograd, with black and white pixels, at which w is clamped."""
    c, x = 0.1, photographs(6, low=-0.3, high=1.3).clamp(0, 1)
    labels = CURVED(x).argmax(1).tolist()
    targets = [(label + 2) % 5 for label in labels]
    for n in range(3):
        network = Watched(CURVED)
        attack = CarliniWagner(c, steps=1)
        run_attack(attack, network, x[n : n + 1], labels[n : n + 1], targets[n : n + 1] if targeted else None,
                   iterations=25)  # fmt: skip
        w = ((2 * x[n : n + 1] - 1) * 0.9).atanh().requires_grad_()
        adam = torch.optim.Adam([w], lr=0.01, eps=1e-16)
        for images in network.inputs:
            here = (w.tanh() / 0.9 + 1) / 2
            here = here + (here.clamp(0, 1) - here).detach()  # to the last bits
            torch.testing.assert_close(images, here.detach(), rtol=0, atol=1e-9)
            z = CURVED(here)[0]
            own = targets[n] if targeted else labels[n]
            other = torch.stack([z[k] for k in range(5) if k != own]).max()
            missing = (other - z[own]) if targeted else (z[own] - other)
            adam.zero_grad()
            ((here - x[n]).square().sum() / c + missing.clamp(min=0)).backward()
            adam.step()
            w.data.clamp_(-math.atanh(0.9), math.atanh(0.9))


def test_black_and_white_pixels_have_a_finite_w_and_move() -> None:
    ends = torch.tensor([0.0, 1.0, -3e-8, 1 + 3e-8, 0.25])
    for dtype in (torch.float32, torch.float64):
        w = to_tanh(ends.to(dtype))
        assert w.isfinite().all()
        torch.testing.assert_close((w.tanh() / 0.9 + 1) / 2, ends.to(dtype).clamp(0, 1), rtol=0, atol=1e-6)
        x, linear = saturated(2).to(dtype), Linear(2)
        linear.bias[0] += 1e3
        out, _ = run_attack(CarliniWagner(c=1e6, steps=1), partial(in_float64, linear), x, [0, 0], iterations=60)
        free = (linear.between(1, 0).view_as(x[0]) > 0) == (x == 0)
        assert ((out - x).abs()[free] > 10 / 255).all()
        assert torch.equal(out[~free], x[~free])


def test_pixels_without_influence_are_unchanged() -> None:
    """Adam would amplify rounding errors to whole steps."""
    seen = torch.zeros(3, 6, 5)
    seen[:, :3] = 1
    for dtype in (torch.float32, torch.float64):
        x = GREY[:2].to(dtype)
        network = partial(in_float64, lambda x: CURVED(x * seen))
        out, state = run_attack(CarliniWagner(), network, x, network(x).argmax(1).tolist(), iterations=180)
        assert state["fooled"].all()
        assert torch.equal(out[:, :, 3:], x[:, :, 3:])


@pytest.mark.slow
def test_carlini_wagner_brackets_c() -> None:
    """In closed form on a plane: the gap closes if and only if ``c > 2 * gap / ||w||^2``."""
    x = photographs(2, low=0.4, high=0.6)
    linear = near(2, x)
    linear.weight *= 0.05
    linear.bias = -(linear(x).mean(0) - linear.bias) + torch.tensor([0.0, 0.2], dtype=torch.float64)
    labels = linear(x).argmax(1).tolist()
    attack, network = Recorded(), Watched(linear)
    run_attack(attack, network, x, labels)
    threshold = 2 * -margins(linear(x), labels) / linear.between(0, 1).square().sum()
    last = attack.states[-1]
    assert (last["low"] < threshold * 1.03).all()
    assert (last["high"] > threshold * 0.97).all()
    assert (last["high"] - last["low"] < 0.1 * threshold).all()
    c = torch.stack([state["c"] for state in attack.states]).view(9, 100, 2)
    assert torch.equal(c, c[:, :1].expand_as(c))
    seen = torch.stack(network.inputs)[1:].view(9, 100, *x.shape)[:, 50:]
    for n in range(2):
        low, high, now = 0.0, math.inf, 1e-3
        for k in range(9):
            assert float(c[k, 0, n]) == pytest.approx(now)
            enough = bool((margins(linear(seen[k, :, n]), labels[n : n + 1] * 50) > 0).any())
            low, high = (low, now) if enough else (now, high)
            now = (low + high) / 2 if high < math.inf else 10 * now


def test_each_c_starts_at_the_photograph_with_an_empty_state() -> None:
    """Adam's first step does not depend on c: the same image follows the photograph each time."""
    network = Watched(CURVED)
    _, state = run_attack(CarliniWagner(steps=4), network, GREY[:1], LABELS[:1], iterations=50)
    starts = [0, 13, 25, 37]  # the last part takes what is left over, and the first has no way back
    for start in starts:
        assert torch.equal(network.inputs[start], GREY[:1])
        torch.testing.assert_close(network.inputs[start + 1], network.inputs[1], rtol=0, atol=1e-9)
    assert sum(torch.equal(images, GREY[:1]) for images in network.inputs) == 4
    assert (network.forwards, int(state["iteration"])) == (51, 50)


def test_carlini_wagner_computes_no_backward_after_a_success() -> None:
    network = Watched(CURVED)
    run_attack(CarliniWagner(steps=3), network, GREY[:1], LABELS[:1], iterations=60)
    fooled = margins(CURVED(torch.cat(network.inputs)), LABELS[:1] * 61) > 0
    fooled[[20, 40]] = True  # the ways back need none
    assert network.backwards == int((~fooled[:60]).sum())
    assert 20 < network.backwards < 50


@pytest.mark.parametrize(("steps", "iterations"), [(9, 1), (9, 2), (9, 5), (1, 7), (3, 20)])
def test_few_iterations_have_fewer_values_of_c(steps: int, iterations: int) -> None:
    attack = Recorded(steps=steps)
    network = Watched(CURVED)
    run_attack(attack, network, GREY[:1], LABELS[:1], iterations=iterations)
    assert network.forwards == iterations + 1
    tried = {float(state["c"]) for state in attack.states}
    assert len(tried) == max(1, min(steps, iterations // 2))
    assert not torch.equal(network.inputs[1], GREY[:1])


def test_learning_rate_of_a_task() -> None:
    network = Watched(CURVED)
    run_attack(CarliniWagner(), network, GREY[:2], LABELS[:2], iterations=1, options=[{"lr": 1e-4}, {"lr": 2e-4}])
    w = to_tanh(network.inputs[1]) - to_tanh(GREY[:2])
    torch.testing.assert_close(w.abs()[0], torch.full_like(w[0], 1e-4))
    torch.testing.assert_close(w.abs()[1], torch.full_like(w[1], 2e-4))
