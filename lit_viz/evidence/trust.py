"""Is an attack's failure the network's strength, or the attack's own? Signals that come free, and attacks that are run.

After Croce & Hein 2020 (arXiv:2003.01690) and Pintor et al. 2022, "Indicators of Attack Failure" (arXiv:2106.09947).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_viz.attacks import PGD, run_attack
from lit_viz.attacks.feasible import Norm, random_start
from lit_viz.attacks.square import Square
from lit_viz.outcomes import Outcome

#: An image's gradients are masked where more of them than this are zero.
MASKED = 0.5
#: The score is still rising where the last tenth of the iterations brought more than this part of all that was gained.
RISING = 0.1
#: A length may pass eps by rounding.
_ROUNDING = 1e-6
#: Of black-box attacks: queries an image, and random points tried.
QUERIES, POINTS = 1000, 100
#: A radius at which every image must fall, since any picture lies within it.
LARGE = {"linf": 0.5, "l2": 100.0}


@dataclass(frozen=True)
class Trust:
    """Whether what an attack found can be trusted.

    Attributes:
        reasons: why not, in sentences' halves; none where nothing speaks against it.
        tried: what was tried to find some.
    """

    reasons: tuple[str, ...]
    tried: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The verdict in one line."""
        if self.reasons:
            return f"do not trust: {'; '.join(self.reasons)}"
        return f"trust: nothing speaks against it ({', '.join(self.tried)})"


def free_signals(outcomes: Sequence[Outcome]) -> Trust:
    """Read the traces of an attack's run, which cost nothing more.

    Args:
        outcomes: of the run; their curves ``gradient_norm``, ``objective`` and ``margin`` are read.
    """
    done = [o for o in outcomes if o.record["status"] == "done"]
    failed = [o for o in done if not o.record["success_float"]]
    counts = {
        "the gradients of {} vanish (masked gradients)": sum(map(_masked, done)),
        "the score of {} was still rising when the attack ended (more iterations)": sum(map(_rising, failed)),
        "{} fooled the network on the way and was returned as a failure": sum(map(_silent, failed)),
    }
    reasons = [text.format(_images(count)) for text, count in counts.items() if count]
    return Trust(tuple(reasons), ("gradients", "the end of the traces", "silent successes"))


def _masked(outcome: Outcome) -> bool:
    norms = [value for _, value in outcome.curve("gradient_norm")]
    return bool(norms) and sum(value == 0 for value in norms) > MASKED * len(norms)


def _rising(outcome: Outcome) -> bool:
    scores = [value for _, value in outcome.curve("objective")]
    if len(scores) < 10:
        return False
    gained = max(scores) - scores[0]
    return gained > 0 and max(scores) - max(scores[: -max(1, len(scores) // 10)]) > RISING * gained


def _silent(outcome: Outcome) -> bool:
    return bool(fooling(outcome))


def fooling(outcome: Outcome) -> list[int]:
    """Return the iterations whose image fooled the network as floats, in the ball where there is one: a member of an
    ensemble may leave it."""
    eps = outcome.record.get("eps", math.inf)
    lengths = dict(outcome.curve(outcome.record.get("norm", "l2")))
    return [k for k, margin in outcome.curve("margin") if margin > 0 and lengths.get(k, 0.0) <= eps + _ROUNDING]


def harder_tries(outcomes: Sequence[Outcome], network: Callable[[Tensor], Tensor], norm: Norm, eps: float) -> Trust:
    """Try what must not do better than a gradient attack, and what must succeed.

    Random points of the ball and Square, which ask for no gradient, on the images that resisted; and PGD in a ball so
    large that every image must fall.

    Args:
        outcomes: of a run with a budget.
        network: images ``(N, C, H, W)`` in [0, 1] -> logits.
        norm, eps: of its ball.
    """
    done = [o for o in outcomes if o.record["status"] == "done"]
    reasons = []
    resisted = _questions([o for o in done if not o.record["success_float"]])
    if resisted is not None:
        found = {
            f"{POINTS} random points": _by_points(network, *resisted, norm, eps),
            f"Square with {QUERIES} queries": _fooled(
                Square(norm=norm, eps=eps), network, *resisted, iterations=QUERIES
            ),
        }
        reasons += [f"{what} fooled {_images(count)} that resisted" for what, count in found.items() if count]
    everything = _questions(done)
    if everything is not None:
        large = PGD(norm=norm, eps=LARGE[norm], random_start=False)
        fallen = _fooled(large, network, *everything, iterations=100)
        if fallen < len(done):
            reasons.append(f"only {fallen} of {_images(len(done))} fell at a radius of {LARGE[norm]:g}, where all must")
    return Trust(tuple(reasons), ("random points", "Square", "a large radius"))


def _questions(outcomes: Sequence[Outcome]) -> tuple[Tensor, list[int], list[int] | None] | None:
    """Return photographs, labels and targets (None where untargeted)."""
    sources = [source for o in outcomes if (source := o.source()) is not None]
    if not sources:
        return None
    labels = [-1 if o.record["label"] is None else int(o.record["label"]) for o in outcomes]
    targets = [o.record["target"] for o in outcomes]
    return torch.stack(sources), labels, None if targets[0] is None else [int(target) for target in targets]


def _fooled(
    attack: PGD | Square,
    network: Callable[[Tensor], Tensor],
    x: Tensor,
    labels: list[int],
    targets: list[int] | None,
    *,
    iterations: int,
) -> int:
    _, state = run_attack(attack, network, x, labels, targets, iterations=iterations)
    return int(state["fooled"].sum())


def _by_points(
    network: Callable[[Tensor], Tensor],
    x: Tensor,
    labels: list[int],
    targets: list[int] | None,
    norm: Norm,
    eps: float,
) -> int:
    """Return how many images a random point of their ball fools."""
    goals = torch.tensor(labels if targets is None else targets)
    fooled = torch.zeros(len(x), dtype=torch.bool)
    radius = torch.full((len(x),), eps, dtype=torch.float64)
    for draw in range(POINTS):
        points = random_start(x, range(len(x)), [draw] * len(x), radius, norm)
        with torch.no_grad():
            fooled |= (network(points).argmax(1) == goals) != (targets is None)
    return int(fooled.sum())


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"
