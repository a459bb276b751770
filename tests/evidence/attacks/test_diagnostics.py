"""Diagnostics of attacks: networks with masked gradients are not trusted, plain ones are."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lit_viz as lv
from lit_viz.attacks import PGD, CarliniWagner, run_attack
from lit_viz.attacks.norms import LINF, NORMS
from lit_viz.evidence.attacks.diagnostics import diagnostics, stronger_attacks
from lit_viz.images.reading import read_photograph
from lit_viz.networks import Network
from lit_viz.outputs import load_network
from lit_viz.runs.results import Outcome
from tests.support.marks import slow
from tests.support.networks import Around, smooth_network
from tests.support.runs import Traced, amend_items


class Pictured(Traced):
    """An outcome with a photograph only."""

    def __init__(self, photograph: Tensor, success_float: bool = True, **record: Any) -> None:
        super().__init__(success_float)
        amend_items(self, **record)
        self.photograph = photograph

    def source(self) -> Tensor:
        return self.photograph


RISE = [float(k) for k in range(20)]
FLAT = [0.0, 5.0, 8.0, 9.0] + [9.5] * 16


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (Traced(True, gradient_norm=[1.0] * 20, objective=FLAT, margin=[-1.0, 1.0]), ""),
        (Traced(False, gradient_norm=[1.0] * 20, objective=FLAT, margin=[-1.0] * 20), ""),
        (Traced(False, gradient_norm=[0.0] * 20, objective=FLAT, margin=[-1.0] * 20), "masked gradients"),
        (Traced(False, gradient_norm=[1.0] * 20, objective=RISE, margin=[-1.0] * 20), "still rising"),
        (Traced(False, gradient_norm=[1.0] * 20, objective=FLAT, margin=[-1.0, 0.5, -1.0]), "was not returned"),
        (Traced(True, gradient_norm=[1.0] * 20, objective=RISE, margin=[-1.0, 0.5]), ""),
        # Of few iterations the final one decides.
        (Traced(False, gradient_norm=[1.0] * 6, objective=RISE[:6], margin=[-1.0] * 6), "still rising"),
        (Traced(False, gradient_norm=[1.0] * 2, objective=RISE[:2], margin=[-1.0] * 2), "still rising"),
        (Traced(False, gradient_norm=[1.0] * 6, objective=[0.0, 5, 8, 9.5, 9.9, 10], margin=[-1.0] * 6), ""),
        # Random starts and successes have no gradient; of the final image only the file is logged.
        (Traced(True, gradient_norm=[0.0, 0.0], objective=[0.0, 1.0], margin=[-1.0, 0.5]), ""),
        (Traced(True, gradient_norm=[0.0, 1.0, 1.0, 0.0], objective=FLAT, margin=[-1.0, -1.0, -1.0, -0.1]), ""),
        (Traced(True, gradient_norm=[1.0] * 8 + [0.0] * 12, objective=FLAT, margin=[-1.0] * 8 + [1.0] * 12), ""),
        (Traced(True, gradient_norm=[0.0] * 20, objective=FLAT, margin=[-1.0] * 19 + [1.0]), "masked gradients"),
        (Traced(False, objective=[0.0, -1.0, -2.0], margin=[-1.0] * 3), "never exceeded that of the photograph"),
        (Traced(False, objective=FLAT, margin=[-1.0] * 20).with_record(backwards=4), "fewer than 10 gradients"),
        (Traced(False, objective=FLAT, margin=[-1.0] * 20).with_record(backwards=19), ""),
        (
            Traced(False, objective=FLAT, margin=[-1.0] * 20).with_record(backwards=19, fewest=2),
            "fewer than 10 gradients",
        ),
        (Traced(False, objective=FLAT, margin=[-1.0] * 20).with_record(backwards=0), "fewer than 1000 queries"),
        (Traced(False, objective=FLAT).with_record(backwards=0, iterations=1000), ""),
        # A member of an ensemble that was outside the ball, where scores are high, is not the end of its traces.
        (
            Traced(False, objective=[*RISE[:4], 99.0, *RISE[5:]], linf=[0.01] * 4 + [0.1] + [0.01] * 15).with_record(
                norm="linf", eps=0.03
            ),
            "still rising",
        ),
        (Traced(True, margin=[-1.0, 0.5] + [0.5] * 18, l2=[0.0] + [20.0 - k for k in range(19)]), "still shrinking"),
        (Traced(True, margin=[-1.0, 0.5] + [0.5] * 18, l2=[0.0, 9.0, 5.0, 3.0] + [2.0] * 16), ""),
        (Traced(True, margin=[-1.0] * 19 + [0.5], l2=[float(k) for k in range(20)]), ""),
        (Traced(True).with_record(success_file=False, l2=0.5), "rounding to 8 bits undid"),
        (Traced(True).with_record(success_file=False, l2=0.0, eps=0.9 / 255), "holds no other 8-bit image"),
        (Traced(False).with_record(success_file=False, l2=0.0, eps=0.9 / 255), "holds no other 8-bit image"),
        (Traced(False).with_record(success_file=False, l2=0.0, eps=1 / 255), "equals the photograph"),
    ],
)
def test_diagnostics_from_curves(outcome: Outcome, message: str) -> None:
    trust = diagnostics([outcome], PGD(), 20)
    assert bool(trust.reasons) == bool(message)
    assert message in trust.sentence
    assert trust.sentence.startswith("Do not trust" if message else "Trust")


def test_few_gradients_per_restart_are_reported_for_successes_of_minimal_attacks() -> None:
    """Sixty iterations of nine values of c have six gradients each."""
    fell = Traced(True, margin=[-1.0] + [0.5] * 60).with_record(backwards=40)
    failed = Traced(False, objective=FLAT, margin=[-1.0] * 20).with_record(backwards=19)
    message = "fewer than 10 gradients in each restart (more iterations, or fewer restarts)"
    assert f"1 image had {message}" in diagnostics([fell], CarliniWagner(steps=9), 60).sentence
    assert diagnostics([fell], PGD(restarts=9), 60).reasons == []
    assert diagnostics([fell], CarliniWagner(steps=9), 900).reasons == []
    assert f"1 image had {message}" in diagnostics([fell, failed], PGD(restarts=9), 19).sentence
    once = Traced(True, margin=[-1.0] + [0.5] * 8).with_record(backwards=8)
    assert "had fewer than 10 gradients (more" in diagnostics([once], CarliniWagner(steps=1), 8).sentence


@pytest.mark.parametrize(("attack", "hasty"), [("carlini_wagner", True), (CarliniWagner(steps=2), False)])
def test_values_of_c_share_the_iterations(attack: Any, hasty: bool, smooth: Network, tmp_path: Path) -> None:
    labels = smooth.scores(images(2)).argmax(1).tolist()
    lv.attack(smooth, images(2), label=labels, attack=attack, iterations=60, out=tmp_path / "run", wandb="disabled")
    reasons = json.loads((tmp_path / "run" / "evidence.json").read_text())["trust"]["reasons"]
    assert any("2 images had fewer than 10 gradients in each restart" in reason for reason in reasons) is hasty


def rounded() -> nn.Module:
    """Return a network that rounds its inputs: their gradient is zero everywhere."""
    return Around(smooth_network(), lambda net, x: net((x * 20).round() / 20))


def overflowing() -> nn.Module:
    """Return a network whose logits are so large that the cross-entropy's gradient is zero in float32."""
    return Around(smooth_network(), lambda net, x: net(x) * 1e5)


def wrapped(network: nn.Module) -> Network:
    return load_network(network, labels=list("abcde"), mean=[0.5] * 3, std=[0.25] * 3, size=16)


def images(n: int = 6) -> Tensor:
    noise = torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    return (noise * 255).round() / 255


def logits_of(classifier: Network) -> Callable[[Tensor], Tensor]:
    network = classifier.fast()
    return lambda x: network(x)[0]


def attacked(network: Network, eps: float) -> Sequence[Outcome]:
    labels = network.scores(images()).argmax(1).tolist()
    run = lv.attack(network, images(), label=labels, attack="pgd", random_start=False, eps=eps, norm="linf")
    return run.outcomes


@pytest.mark.parametrize("network", [rounded, overflowing])
def test_masked_gradients_are_not_trusted(network: type[nn.Module]) -> None:
    outcomes = attacked(wrapped(network()), 0.3)
    trust = diagnostics(outcomes, PGD(), 20)
    assert not all(o.record.success_float for o in outcomes)
    assert "masked gradients" in trust.sentence


@pytest.mark.usefixtures("few_queries")
def test_stronger_attacks_succeed_despite_rounded_activations() -> None:
    network = wrapped(rounded())
    outcomes = attacked(network, 0.3)
    trust = stronger_attacks(outcomes, logits_of(network), LINF, 0.3)
    assert "Square with 100 queries fooled" in trust.sentence
    assert "at a radius of 0.5, where all must" in trust.sentence


@pytest.mark.usefixtures("few_queries")
def test_a_plain_network_is_trusted() -> None:
    network = wrapped(smooth_network())
    outcomes = attacked(network, 0.03)
    assert diagnostics(outcomes, PGD(), 20).tried == ["gradients", "final scores", "missed successes"]
    trust = stronger_attacks(outcomes, logits_of(network), LINF, 0.03)
    assert trust.reasons == []


@pytest.mark.usefixtures("few_queries")
@pytest.mark.slow
def test_an_adversarially_trained_network_is_trusted() -> None:
    """Half of the images are brighter on the left; the network is trained against PGD of 0.05 in a few steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Softplus(), nn.Flatten(), nn.Linear(16, 2))
        x = torch.rand(32, 3, 16, 16) * 0.6 + 0.2
        y = torch.arange(32) % 2
        x[y == 0, :, :, :8] += 0.15
        x[y == 1, :, :, 8:] += 0.15
        optimizer = torch.optim.Adam(network.parameters(), 0.02)
        for step in range(40):
            hard, _ = run_attack(
                PGD(eps=0.05, early_stop=False), network, x, y.tolist(), iterations=3, seeds=[step] * 32
            )
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(hard), y).backward()
            optimizer.step()
    classifier = load_network(network.eval(), labels=["left", "right"], mean=[0.0] * 3, std=[1.0] * 3, size=16)
    photographs = (x[:8] * 255).round() / 255
    run = lv.attack(
        classifier, photographs, label=y[:8].tolist(), attack="pgd", random_start=False, eps=0.05, norm="linf"
    )
    assert sum(r["success_float"] for r in run.records) <= 2
    assert diagnostics(run.outcomes, PGD(), 20).reasons == []
    assert stronger_attacks(run.outcomes, logits_of(classifier), LINF, 0.05).reasons == []


@pytest.mark.parametrize("norm", [slow("linf"), "l2"])
@pytest.mark.parametrize(("network", "trusted"), [(rounded, False), (overflowing, False), (smooth_network, True)])
def test_every_image_of_a_plain_network_is_fooled_at_a_large_radius(
    norm: Any, network: Callable[[], nn.Module], trusted: bool
) -> None:
    classifier = wrapped(network())
    labels = classifier.scores(images()).argmax(1).tolist()
    outcomes = [Pictured(x, label=y) for x, y in zip(images(), labels, strict=True)]
    message = stronger_attacks(outcomes, logits_of(classifier), NORMS[norm], 0.1)
    assert bool(message.reasons) != trusted
    assert trusted or "fooled at a radius of" in message.sentence


@pytest.mark.slow
def test_real_weights_are_fooled_at_a_large_radius(lite0: Network) -> None:
    names = ("chelsea", "coffee", "rocket", "astronaut")
    photographs = torch.stack([read_photograph(f"packaged:{name}", lite0.size).pixels for name in names])
    predicted = lite0.scores(photographs).argmax(1).tolist()
    network = lite0.fast()
    evaluated: list[int] = []

    def counted(x: Tensor) -> Tensor:
        evaluated.append(len(x))
        return network(x)[0]

    for norm in NORMS.values():
        evaluated.clear()
        outcomes = [Pictured(x, label=y) for x, y in zip(photographs, predicted, strict=True)]
        assert stronger_attacks(outcomes, counted, norm, norm.large_eps / 100).reasons == []
        assert sum(evaluated) <= 4 * 10  # a few steps suffice


@pytest.mark.usefixtures("few_queries")
def test_stronger_attacks_use_the_radius_of_each_image() -> None:
    network = wrapped(smooth_network())
    labels = network.scores(images()).argmax(1).tolist()

    def diagnosis(eps: float, default: float) -> str:
        record = {"success_float": False, "eps": eps}
        outcomes = [Pictured(x, label=y, **record) for x, y in zip(images(), labels, strict=True)]
        return stronger_attacks(outcomes, logits_of(network), LINF, default).sentence

    assert "Trust: no sign" in diagnosis(0.001, 0.4)
    assert "Square with 100 queries fooled" in diagnosis(0.4, 0.001)


@pytest.mark.usefixtures("few_queries")
def test_stronger_attacks_on_targeted_and_untargeted_images() -> None:
    network = wrapped(smooth_network())
    labels = network.scores(images()).argmax(1).tolist()
    outcomes = [
        Pictured(x, label=y, target=None if i % 2 else (y + 1) % 5)
        for i, (x, y) in enumerate(zip(images(), labels, strict=True))
    ]
    assert stronger_attacks(outcomes, logits_of(network), LINF, 0.002).reasons == []


def test_gradients_that_were_not_logged_are_not_listed_as_checked() -> None:
    logged, unlogged = (Traced(True, margin=[-1.0, 1.0], **more) for more in ({"gradient_norm": [1.0, 1.0]}, {}))
    assert "(checked: gradients, final scores" in diagnostics([logged], PGD(), 20).sentence
    assert "(checked: final scores" in diagnostics([unlogged], PGD(), 20).sentence


def test_traces_that_were_not_logged_are_not_listed_as_checked() -> None:
    logged, unlogged = (Traced(False, margin=[-1.0] * 20, **more) for more in ({"objective": FLAT}, {}))
    assert diagnostics([logged], PGD(), 20).tried == ["final scores", "missed successes"]
    assert diagnostics([logged, unlogged], PGD(), 20).tried == ["missed successes"]
    assert diagnostics([logged], PGD(restarts=2), 20).tried[-1] == "restarts"  # of which there are several


def test_runs_without_attacked_or_moved_images_are_not_trusted() -> None:
    assert diagnostics([], PGD(), 20).sentence == "No diagnosis: no attacked image."
    still = Traced(False, objective=FLAT, margin=[-1.0] * 20)
    amend_items(still, l2=0.0)
    assert "Do not trust: the file of 1 image equals the photograph" in diagnostics([still], PGD(), 20).sentence
    amend_items(still, l2=0.1)
    assert diagnostics([still], PGD(), 20).reasons == []


@pytest.mark.parametrize("count", [5, 10, 11, 20, 25, 99, 100, 200])
def test_a_steady_increase_is_still_rising_at_any_length(count: int) -> None:
    climb = Traced(False, objective=[0.1 * k for k in range(count + 1)], margin=[-1.0] * (count + 1))
    assert "still rising" in diagnostics([climb], PGD(), 20).sentence
