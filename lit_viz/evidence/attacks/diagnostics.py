"""Is an attack's failure the network's strength, or the attack's own? Signals that come free, and attacks that are run.

After Croce & Hein 2020 (arXiv:2003.01690) and Pintor et al. 2022, "Indicators of Attack Failure" (arXiv:2106.09947).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lit_viz.attacks import PGD, run_attack
from lit_viz.attacks.norms import ROUNDING, Norm, random_start
from lit_viz.attacks.rounding.lattice import holds_no_other
from lit_viz.attacks.square import Square
from lit_viz.evidence.attacks.restart_agreement import RestartOf, restart_disagreement
from lit_viz.runs.results import Outcome
from lit_viz.utils.formatting import pluralize

#: An image's gradients are masked where more of them than this are zero.
MASKED = 0.5
#: Slopes of an image that fell, from which nothing is concluded: one of them may be that of a random start.
_TOO_FEW = 3
#: The score is still rising where the last tenth of the iterations, or the last one of fewer, brought this
#: part or more of all that was gained.
RISING = 0.1
#: Slopes, of fewer of which nothing is concluded where an image resists.
_FEW = 10
#: A perturbation is still shrinking where the last tenth of the iterations took off this part of it, or more.
SHRINKING = 0.05
#: Of black-box attacks: queries an image, and random points tried.
QUERIES, POINTS = 1000, 100
#: A radius at which every image must fall: in the largest value it is enough to make any picture grey all over; in
#: Euclidean length it is, at 224 pixels, a quarter of the range in every value.
LARGE: dict[Norm, float] = {"linf": 0.5, "l2": 100.0}
#: Updates in which they must.
LARGE_STEPS = 100
#: Photographs asked at once.
_BATCH = 8


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
        if not self.reasons and not self.tried:
            return "no verdict: nothing was attacked"
        said = f"do not trust: {'; '.join(self.reasons)}" if self.reasons else "trust: nothing speaks against it"
        return f"{said} (looked at: {', '.join(self.tried)})" if self.tried else said


def diagnostics(
    outcomes: Sequence[Outcome],
    restart_of: RestartOf = lambda k: 0,
    iterations: int = 0,
    further: str = "more iterations",
    part: float = math.inf,
    minimal: bool = False,
) -> Trust:
    """Read the traces of an attack's run, which cost nothing more.

    Args:
        outcomes: of the run; their curves ``gradient_norm``, ``objective`` and ``margin`` are read.
        restart_of: see :func:`restarts_of`; one start an image unless given.
        iterations: that an image takes at most.
        further: what is advised where an attack didn't get far enough.
        part: iterations that follow one another where an attack begins anew after them; infinite if it asks for no
            slopes.
        minimal: whether the smallest perturbation is looked for, so that a success may have had too few slopes, too.
    """
    done = [o for o in outcomes if o.record["status"] == "done"]
    if not done:
        return Trust((), ())
    failed = [o for o in done if not o.record["success_float"]]
    rounded_off = [o for o in done if o.record["success_float"] and not o.record.get("success_file")]
    in_parts, asked = part < min(_FEW, iterations), done if minimal and part < _FEW else failed
    each = f" in each part of the attack ({further}, or fewer parts)" if in_parts else f" ({further})"
    counts = {
        "within eps of {} there is no other 8-bit file than the photograph's (a larger eps)": sum(
            map(_only_source_in_ball, done)
        ),
        f"the file of {{}} is the photograph itself ({further}, or larger steps)": sum(
            _unmoved(o) and not _only_source_in_ball(o) for o in failed
        ),
        "{} fooled the network before it was rounded to 8 bits, and not in the file": sum(
            not _only_source_in_ball(o) for o in rounded_off
        ),
        f"{{}} had fewer than ten slopes{each}": sum(not _masked(o) if in_parts else _short(o) for o in asked),
        f"{{}} had fewer than {QUERIES} queries ({further})": sum(map(_unasked, failed)),
        f"{{}} scored no higher than the photograph in the end ({further})": sum(map(_not_improved, failed)),
        "the gradients of {} vanish (masked gradients)": sum(map(_masked, done)),
        f"the score of {{}} was still rising when the attack ended ({further})": sum(map(_rising, failed)),
        f"the perturbation of {{}} was still shrinking when the attack ended ({further})": sum(map(_shrinking, done)),
        "{} fooled the network on the way and was returned as a failure": sum(map(_missed_success, failed)),
    }
    reasons = [text.format(pluralize(count, "image")) for text, count in counts.items() if count]
    reasons += restart_disagreement(done, restart_of, last=restart_of(iterations))
    logged = any(outcome.curve("gradient_norm") for outcome in done)
    traced = all(len(outcome.curve("objective")) > 1 for outcome in failed)
    tried = {
        "gradients": logged,
        "the end of the traces": traced,
        "silent successes": True,
        "restarts": restart_of(iterations) > 0,
    }
    return Trust(tuple(reasons), tuple(what for what, looked_at in tried.items() if looked_at))


def _masked(outcome: Outcome) -> bool:
    """Return whether most slopes that were asked for are zero, while the image didn't fool."""
    fell = outcome.record["success_float"]
    fooled = {k for k, margin in outcome.curve("margin") if margin > 0}
    norms = [
        value
        for k, value in outcome.curve("gradient_norm")
        if k not in fooled and not (fell and k == outcome.record["iterations"])
    ]
    if fell and len(norms) < _TOO_FEW:
        return False
    return bool(norms) and sum(value == 0 for value in norms) > MASKED * len(norms)


def _unmoved(outcome: Outcome) -> bool:
    return outcome.record.get("l2") == 0


def _only_source_in_ball(outcome: Outcome) -> bool:
    """Return whether eps is less than a level of a single value."""
    return holds_no_other(outcome.record.get("eps", math.inf)) and _unmoved(outcome)


def _short(outcome: Outcome) -> bool:
    slopes = outcome.record["backwards"] or 0  # of an ensemble also of the member that had the fewest
    return slopes > 0 and min(slopes, outcome.record.get("fewest", slopes)) < _FEW and not _masked(outcome)


def _unasked(outcome: Outcome) -> bool:
    """Return whether an attack without slopes had few queries."""
    return outcome.record.get("backwards") == 0 and outcome.record["iterations"] < QUERIES


def _not_improved(outcome: Outcome) -> bool:
    trace = [score for _, score in _inside(outcome, "objective")]
    return len(trace) > 1 and max(trace[1:]) <= trace[0] and not _masked(outcome)


def _rising(outcome: Outcome) -> bool:
    trace = _inside(outcome, "objective")
    if len(trace) < 2:
        return False
    start, best = trace[0][1], max(score for _, score in trace)
    before = max(score for k, score in trace if k <= _late(trace))
    return best > start and best - before >= (1 - 1e-9) * RISING * (best - start)


def _shrinking(outcome: Outcome) -> bool:
    """Return whether the end of an attack without a budget made its perturbation notably smaller."""
    margins, fooled = outcome.curve("margin"), set(fooling(outcome))
    lengths = {k: length for k, length in outcome.curve(_norm(outcome)) if k in fooled}
    if "eps" in outcome.record or not lengths:
        return False
    before = [length for k, length in lengths.items() if k <= _late(margins)]
    return bool(before) and min(lengths.values()) < (1 - SHRINKING) * min(before)


def _norm(outcome: Outcome) -> str:
    return str(outcome.record.get("norm", "l2"))


def _inside(outcome: Outcome, metric: str) -> list[tuple[int, float]]:
    """Return a curve in the ball where there is one: a member of an ensemble may leave it."""
    eps, lengths = outcome.record.get("eps", math.inf), dict(outcome.curve(_norm(outcome)))
    return [(k, value) for k, value in outcome.curve(metric) if lengths.get(k, 0.0) <= eps + ROUNDING]


def _late(trace: Sequence[tuple[int, float]]) -> float:
    """Return where the last tenth of the iterations begins, or the last one of fewer."""
    first, last = trace[0][0], trace[-1][0]
    return min(last - (last - first) / 10, last - 1)


def _missed_success(outcome: Outcome) -> bool:
    return bool(fooling(outcome))


def fooling(outcome: Outcome) -> list[int]:
    """Return the iterations whose image fooled the network as floats, in the ball where there is one."""
    return [k for k, margin in _inside(outcome, "margin") if margin > 0]


def resisted(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return those that fooled nobody, not even as floats, where there was another file to find."""
    failed = [o for o in outcomes if o.record["status"] == "done" and not o.record["success_float"]]
    return [o for o in failed if not _only_source_in_ball(o)]


def cost_of_stronger_attacks(outcomes: Sequence[Outcome]) -> str:
    """Return in words what :func:`stronger_attacks` will do, and with how many evaluations."""
    robust, done = len(resisted(outcomes)), sum(o.record["status"] == "done" for o in outcomes)
    return (
        f"{POINTS} random points and Square with {QUERIES:,} queries on {pluralize(robust, 'image')} that resisted, "
        f"and {LARGE_STEPS} steps in a large ball on {pluralize(done, 'image')}: {robust * (POINTS + QUERIES):,} "
        f"forwards and at most {done * LARGE_STEPS:,} evaluations"
    )


def stronger_attacks(outcomes: Sequence[Outcome], network: Callable[[Tensor], Tensor], norm: Norm, eps: float) -> Trust:
    """Try what must not do better than a gradient attack, and what must succeed.

    Random points of the ball and Square, which ask for no gradient, on the images that resisted; and PGD in a ball so
    large that every image must fall.

    Args:
        outcomes: of a run with a budget.
        network: images ``(N, C, H, W)`` in [0, 1] -> logits.
        norm, eps: of its ball; an outcome whose record has an ``eps`` has that radius.
    """
    done = [o for o in outcomes if o.record["status"] == "done"]
    failed = resisted(outcomes)
    square = Square(norm=norm, eps=eps)
    tries = [
        (_by_points(batch, network, norm), _fooled(batch, network, square, QUERIES, radii=batch.radii))
        for batch in _batches(failed, eps)
    ]
    found = {
        f"{POINTS} random points": sum(by_points for by_points, _ in tries),
        f"Square with {QUERIES} queries": sum(by_square for _, by_square in tries),
    }
    reasons = [f"{what} fooled {pluralize(count, 'image')} that resisted" for what, count in found.items() if count]
    large = PGD(norm=norm, eps=LARGE[norm], random_start=False)
    counts = [(_fooled(batch, network, large, LARGE_STEPS), len(batch.x)) for batch in _batches(done, eps)]
    fallen, asked = sum(fell for fell, _ in counts), sum(size for _, size in counts)
    if fallen < asked:
        reasons.append(
            f"only {fallen} of {pluralize(asked, 'image')} fell at a radius of {LARGE[norm]:g}, where all must"
        )
    return Trust(tuple(reasons), ("random points", "Square", "a large radius"))


class _Batch(NamedTuple):
    """Photographs ``(N, C, H, W)`` with their labels (-1: unknown), targets (None: untargeted) and radii."""

    x: Tensor
    labels: list[int]
    targets: list[int] | None
    radii: list[float]


def _batches(outcomes: Sequence[Outcome], eps: float) -> Iterator[_Batch]:
    """Yield what was asked of photographs, those with a target apart from those without."""
    for targeted in (False, True):
        mine = [o for o in outcomes if (o.record["target"] is not None) == targeted]
        for first in range(0, len(mine), _BATCH):
            known = [(o.record, source) for o in mine[first : first + _BATCH] if (source := o.source()) is not None]
            if not known:
                continue
            records, sources = zip(*known, strict=True)
            yield _Batch(
                torch.stack(sources),
                [-1 if record["label"] is None else int(record["label"]) for record in records],
                [int(record["target"]) for record in records] if targeted else None,
                [float(record.get("eps", eps)) for record in records],
            )


def _fooled(
    batch: _Batch,
    network: Callable[[Tensor], Tensor],
    attack: PGD | Square,
    iterations: int,
    radii: Sequence[float] | None = None,
) -> int:
    """Return how many images an attack fools, in balls of its own radius unless others are given."""
    options = None if radii is None else [{"eps": radius} for radius in radii]
    _, state = run_attack(attack, network, batch.x, batch.labels, batch.targets, iterations=iterations, options=options)
    return int(state["fooled"].sum())


def _by_points(batch: _Batch, network: Callable[[Tensor], Tensor], norm: Norm) -> int:
    """Return how many images a random point of their ball fools."""
    x, labels, targets, radii = batch
    goals = torch.tensor(labels if targets is None else targets)
    fooled = torch.zeros(len(x), dtype=torch.bool)
    radius = torch.tensor(radii, dtype=torch.float64)
    for draw in range(POINTS):
        points = random_start(x, range(len(x)), [draw] * len(x), radius, norm)
        with torch.no_grad():
            fooled |= (network(points).argmax(1) == goals) != (targets is None)
    return int(fooled.sum())
