"""On linear networks the best attack is known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_viz.attacks import APGD, DDN, FGSM, PGD, Attack, NormalizedAscentAttack, run_attack
from lit_viz.attacks.norms import NormName
from lit_viz.images.formats import FileFormat
from tests.support.attacks import Linear, longest, margins, photographs, saturated

BUDGET = {
    "pgd": lambda norm, eps: PGD(norm, eps, alpha=eps, early_stop=False),
    "pgd, from the photograph": lambda norm, eps: PGD(norm, eps, random_start=False, early_stop=False),
    "pgd, momentum": lambda norm, eps: PGD(norm, eps, alpha=eps, momentum=0.9, early_stop=False),
    "apgd": lambda norm, eps: APGD(norm, eps, early_stop=False),
}
budget = pytest.mark.parametrize("name", BUDGET)
targeted = pytest.mark.parametrize("targeted", [False, True])


def fooled_into(linear: Linear, x: Tensor, targeted: bool) -> tuple[list[int], list[int] | None, Tensor]:
    """Labels, targets, and for each row the weight of the margin that has to come above zero."""
    labels = linear(x).argmax(1).tolist()
    targets = [1 - label for label in labels]
    weight = torch.stack([linear.between(1 - label, label) for label in labels]).view_as(x)
    return labels, targets if targeted else None, weight


@budget
@targeted
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_budget_attacks_use_the_whole_budget(name: str, targeted: bool, norm: NormName) -> None:
    linear, x, eps = Linear(), photographs(4, 6, 5, 0.4, 0.6), 0.05
    labels, targets, weight = fooled_into(linear, x, targeted)
    out, state = run_attack(BUDGET[name](norm, eps), linear, x, labels, targets, iterations=60)
    gain = margins(linear(out), labels, targets) - margins(linear(x), labels, targets)
    dual = weight.flatten(1).abs().sum(1) if norm == "linf" else weight.flatten(1).norm(dim=1)
    torch.testing.assert_close(gain, eps * dual, rtol=1e-6, atol=0)
    assert torch.equal(state["fooled"], margins(linear(out), labels, targets) > 0)


@budget
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_budget_attacks_use_the_whole_budget_between_black_and_white(name: str, norm: NormName) -> None:
    linear, x = Linear(), saturated()
    eps = 0.1 if norm == "linf" else 0.8
    labels, _, weight = fooled_into(linear, x, False)
    out, _ = run_attack(BUDGET[name](norm, eps), linear, x, labels, iterations=100)
    for n in range(len(x)):
        if norm == "linf":
            best = torch.where(weight[n] > 0, (1 - x[n]).clamp(max=eps), -x[n].clamp(max=eps))
        else:
            best = longest(weight[n], -x[n], 1 - x[n], eps)
        assert float((weight[n] * (out - x)[n]).sum()) == pytest.approx(float((weight[n] * best).sum()), rel=1e-6)


def test_ddn_stays_on_the_lattice_of_8_bits() -> None:
    linear = Linear()
    x = (photographs(4, 6, 5) * 255).round() / 255
    labels, _, weight = fooled_into(linear, x, False)
    out, state = run_attack(DDN(), linear, x, labels)
    assert state["fooled"].all()
    torch.testing.assert_close((out * 255).round(), out * 255, rtol=0, atol=1e-9)
    assert ((linear((out * 255).round() / 255).argmax(1)) != torch.tensor(labels)).all()
    smallest = margins(linear(x), labels).abs() / weight.flatten(1).norm(dim=1)
    assert ((out - x).flatten(1).norm(dim=1) / smallest <= 1.25).all()


@pytest.mark.parametrize("ranges", [((0.0, 10_000.0),) * 3, ((-1000.0, 3000.0), (0.0, 500.0), (0.5, 2000.0))])
def test_ddn_stays_on_the_lattice_of_the_file(ranges: tuple[tuple[float, float], ...]) -> None:
    linear = Linear()
    lattice = FileFormat("int16", ".npy", ranges=ranges)
    x = torch.stack([lattice.image(lattice.nearest(image)).double() for image in photographs(4, 6, 5)])
    labels, _, weight = fooled_into(linear, x, False)
    smallest = margins(linear(x), labels).abs() / weight.flatten(1).norm(dim=1)
    for file_format, is_whole in ((lattice, True), (FileFormat("float32", ".npy", ranges=ranges), False)):
        out, state = run_attack(DDN(), linear, x, labels, options=[{"format": file_format.to_dict()}] * len(x))
        assert state["fooled"].all()
        values = torch.stack([low + out[:, band] * (high - low) for band, (low, high) in enumerate(ranges)], 1)
        assert bool(((values - values.round()).abs().max() < 1e-6) == is_whole)
        assert ((out - x).flatten(1).norm(dim=1) / smallest <= 1.1).all()


@targeted
def test_normalized_ascent_follows_the_gradient_and_stops_at_the_success(targeted: bool) -> None:
    linear, x = Linear(), photographs(4, 6, 5, 0.4, 0.6)
    labels, targets, _ = fooled_into(linear, x, targeted)
    out, state = run_attack(NormalizedAscentAttack(lr=0.02), linear, x, labels, targets)
    for n, label in enumerate(labels):
        way = linear.weight[1 - label] if targeted else -linear.weight[label]
        way = way / way.norm()
        gain = float(way @ linear.between(1 - label, label)) * 0.02  # of the margin, a step
        steps = int(-float(margins(linear(x), labels)[n]) / gain) + 1
        assert int(state["iteration"][n]) == steps
        torch.testing.assert_close((out - x)[n].flatten(), 0.02 * steps * way)


@targeted
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_is_one_step_to_the_boundary_of_the_ball(targeted: bool, norm: NormName) -> None:
    linear, x, eps = Linear(), photographs(4, 6, 5), 0.07
    labels, targets, weight = fooled_into(linear, x, targeted)
    step = weight.sign() if norm == "linf" else weight / weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    inside = slice(None) if norm == "linf" else (x + eps * step == (x + eps * step).clamp(0, 1)).flatten(1).all(1)
    one = PGD(norm, eps, random_start=False)
    for attack, iterations in ((FGSM(norm, eps), None), (FGSM(norm, eps), 30), (one, 1)):
        out, state = run_attack(attack, linear, x, labels, targets, iterations=iterations)
        torch.testing.assert_close(out[inside], (x + eps * step).clamp(0, 1)[inside])
        assert state["iteration"].tolist() == [1] * 4


@pytest.mark.parametrize(
    "attack",
    [NormalizedAscentAttack(), PGD(eps=0.2), APGD(eps=0.2, loss="dlr"), DDN()],
    ids=lambda one: type(one).__name__,
)
def test_results_do_not_depend_on_an_offset_of_the_logits(attack: Attack) -> None:
    linear, low, x = Linear(4), Linear(4), photographs(4, 6, 5, 0.3, 0.7)
    low.bias = low.bias - 1e3
    labels = linear(x).argmax(1).tolist()
    out, state = run_attack(attack, linear, x, labels)
    below, _ = run_attack(attack, low, x, labels)
    assert state["fooled"].all()
    torch.testing.assert_close(below, out, rtol=0, atol=1e-9)
