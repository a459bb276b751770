"""Diagnostics of failed attacks: signs that the attack, not the network, is the reason, and stronger attacks.

After Croce & Hein 2020 (arXiv:2003.01690) and Pintor et al. 2022, "Indicators of Attack Failure" (arXiv:2106.09947).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from lit_viz.attacks import PGD, Attack, ClimbingAttack, Square, is_adversarial, run_attack
from lit_viz.attacks.norms import L2, TOLERANCE, Norm
from lit_viz.attacks.rounding import is_singleton
from lit_viz.evidence.attacks.robustness import Attacked
from lit_viz.runs.evidence import DiagnosisEvidence
from lit_viz.utils.formatting import pluralize

#: Fraction of zero gradients above which gradients count as masked.
MASKED = 0.5
#: Minimal gradients of a success for that test: one of them may belong to a random start.
_MIN_LOGGED = 3
#: Minimal gain of the final tenth of the iterations, relative to the total, of a score that is still rising.
RISING = 0.1
#: Minimal relative reduction in the final tenth of the iterations of a perturbation that is still shrinking.
SHRINKING = 0.05
#: Minimal number of gradients for a failure to be meaningful.
_MIN_GRADIENTS = 10
#: Queries an image of Square, and random points.
QUERIES, POINTS = 1000, 100
#: Steps of PGD in a ball in which every image can be misclassified.
LARGE_STEPS = 100
_BATCH = 8

#: From an iteration of a task to the number of its restart.
RestartOf = Callable[[int], int]


def diagnostics(outcomes: Sequence[Attacked], attack: Attack, iterations: int) -> DiagnosisEvidence:
    """Examine the traces of an attack of a maximum of ``iterations`` an image, without evaluations.

    The curves ``gradient_norm``, ``objective`` and ``margin`` of the outcomes are read.
    """
    done = _done(outcomes)
    if not done:
        return DiagnosisEvidence(reasons=[], tried=[])
    reasons: list[str] = []
    for text, count in _signs(done, attack, iterations).items():
        if count:
            reasons.append(text.format(pluralize(count, "image")))
    restart_of = restarts_of(attack, iterations)
    reasons += restart_disagreement(done, restart_of, final=restart_of(iterations))
    tried = []
    if any(outcome.logged("gradient_norm") for outcome in done):
        tried.append("gradients")
    if all(len(outcome.logged("objective")) > 1 for outcome in _failed(done)):
        tried.append("final scores")
    tried.append("missed successes")
    if restart_of(iterations) > 0:
        tried.append("restarts")
    return DiagnosisEvidence(reasons=reasons, tried=tried)


def _signs(done: Sequence[Attacked], attack: Attack, iterations: int) -> dict[str, int]:
    """Return the number of images with each sign of a failed attack, by its clause, whose ``{}`` is this number."""
    failed = _failed(done)
    advice = "an attack of more steps, such as pgd" if attack.fixed else "more iterations"
    restart_length = iterations // attack.restart_schedule.count(iterations)
    is_short = attack.backwards_per_step > 0 and restart_length < _MIN_GRADIENTS
    # The successes of an attack that minimizes the perturbation may have too few gradients as well.
    examined = done if attack.minimal and is_short else failed
    if is_short and restart_length < iterations:
        short = len(examined) - _count(_masked, examined)
        per_restart = f" in each restart ({advice}, or fewer restarts)"
    else:
        short = _count(_few_gradients, examined)
        per_restart = f" ({advice})"
    return {
        "the ball of {} holds no other 8-bit image (a larger eps)": _count(_only_source_in_ball, done),
        f"the file of {{}} equals the photograph ({advice}, or larger steps)": _count(_equals_photograph, failed),
        "rounding to 8 bits undid the success of {}": _count(_undone_by_rounding, done),
        f"{{}} had fewer than {_MIN_GRADIENTS} gradients{per_restart}": short,
        f"{{}} had fewer than {QUERIES} queries ({advice})": _count(_few_queries, failed),
        f"the score of {{}} never exceeded that of the photograph ({advice})": _count(_not_improved, failed),
        "the gradients of {} vanish (masked gradients)": _count(_masked, done),
        f"the score of {{}} was still rising at the end ({advice})": _count(_rising, failed),
        f"the perturbation of {{}} was still shrinking at the end ({advice})": _count(_shrinking, done),
        "{} had a success that was not returned": _count(successes, failed),
    }


def _failed(outcomes: Sequence[Attacked]) -> list[Attacked]:
    """Return the finished outcomes without a success as floats."""
    return [outcome for outcome in _done(outcomes) if not outcome.record.success_float]


def _undone_by_rounding(outcome: Attacked) -> bool:
    """Return whether rounding undid a success, although the ball holds other images."""
    record = outcome.record
    is_undone = bool(record.success_float) and not record.success_file
    return is_undone and not _only_source_in_ball(outcome)


def _count(test: Callable[[Attacked], object], outcomes: Sequence[Attacked]) -> int:
    return len(list(filter(test, outcomes)))


def _equals_photograph(outcome: Attacked) -> bool:
    """Return whether the file equals the photograph, although the ball holds other images."""
    return outcome.record.l2 == 0 and not _only_source_in_ball(outcome)


def _masked(outcome: Attacked) -> bool:
    """Return whether most gradients before a success are zero."""
    record = outcome.record
    success = record.success_float
    margins = dict(outcome.logged("margin"))
    if success and record.iterations is not None:
        margins[record.iterations] = math.inf
    norms: list[float] = []
    for k, norm in outcome.logged("gradient_norm"):
        if margins.get(k, 0.0) <= 0:
            norms.append(norm)
    if success and len(norms) < _MIN_LOGGED:
        return False
    return bool(norms) and norms.count(0) > MASKED * len(norms)


def _only_source_in_ball(outcome: Attacked) -> bool:
    """Return whether eps is below one level of a single value."""
    record = outcome.record
    is_picture = record.format is None
    return is_picture and record.eps is not None and is_singleton(record.eps) and record.l2 == 0


def _few_gradients(outcome: Attacked) -> bool:
    record = outcome.record
    backwards = record.backwards or 0
    fewest = backwards if record.fewest is None else record.fewest  # of the members of an ensemble
    return backwards > 0 and min(backwards, fewest) < _MIN_GRADIENTS and not _masked(outcome)


def _few_queries(outcome: Attacked) -> bool:
    """Return whether a black-box attack had few queries."""
    record = outcome.record
    return record.backwards == 0 and (record.iterations or 0) < QUERIES


def _not_improved(outcome: Attacked) -> bool:
    scores = [score for _, score in _in_ball(outcome, "objective")]
    return len(scores) > 1 and max(scores[1:]) <= scores[0] and not _masked(outcome)


def _rising(outcome: Attacked) -> bool:
    trace = _in_ball(outcome, "objective")
    if len(trace) < 2:
        return False
    start, best = trace[0][1], max(score for _, score in trace)
    earlier = max(score for k, score in trace if k <= _final_tenth(trace))
    return best > start and best - earlier >= (1 - 1e-9) * RISING * (best - start)


def _shrinking(outcome: Attacked) -> bool:
    """Return whether the end of an attack without a budget reduced the perturbation notably."""
    margins, fooled = outcome.logged("margin"), set(successes(outcome))
    lengths = {k: length for k, length in outcome.logged(_norm_name(outcome)) if k in fooled}
    if outcome.record.eps is not None or not lengths:
        return False
    end = _final_tenth(margins)
    earlier = [length for k, length in lengths.items() if k <= end]
    return bool(earlier) and min(lengths.values()) < (1 - SHRINKING) * min(earlier)


def _norm_name(outcome: Attacked) -> str:
    return outcome.record.norm or L2.name


def _in_ball(outcome: Attacked, metric: str) -> list[tuple[int, float]]:
    """Return a curve without the iterations outside the ball, which members of an ensemble may have."""
    eps, lengths = outcome.record.eps, dict(outcome.logged(_norm_name(outcome)))
    bound = math.inf if eps is None else eps + TOLERANCE
    return [(k, value) for k, value in outcome.logged(metric) if lengths.get(k, 0.0) <= bound]


def _final_tenth(trace: Sequence[tuple[int, float]]) -> float:
    """Return the iteration at which the final tenth starts, or the final iteration of fewer than ten."""
    first, final = trace[0][0], trace[-1][0]
    return min(final - (final - first) / 10, final - 1)


def successes(outcome: Attacked) -> list[int]:
    """Return the iterations with a success as floats, inside the ball."""
    return [k for k, margin in _in_ball(outcome, "margin") if margin > 0]


def restarts_of(attack: Attack, iterations: int) -> RestartOf:
    """Return the function from iteration to restart, for an attack of this number of iterations."""

    @cache
    def restart(k: int) -> int:
        if not isinstance(attack, ClimbingAttack):
            return 0
        state = {"iteration": torch.tensor([k - 1]), "iterations": torch.tensor([iterations])}
        return int(attack.restart_schedule.locate(state)[0])

    return restart


def restart_disagreement(outcomes: Sequence[Attacked], restart_of: RestartOf, final: int) -> list[str]:
    """Return the disagreements between restarts, and between runs of one photograph with several seeds, as clauses.

    Empty if every image is a success. Otherwise there are two signs that more restarts may succeed: a failed image
    whose best margins differ between restarts by more than the best of them lacks; and a success only in the later half
    of the restarts, or only with some seeds. ``final`` is the number of the final restart.
    """
    if all(outcome.record.success_float for outcome in outcomes):
        return []
    groups: dict[Hashable, list[Attacked]] = defaultdict(list)
    for outcome in outcomes:
        record = outcome.record
        groups[record.source or record.name, record.label, record.target, record.eps].append(outcome)
    partial, wide = 0, []
    for group in groups.values():
        fooled = [bool(outcome.record.success_float) for outcome in group]
        if any(fooled):
            is_late = all(2 * _success_restart(outcome, restart_of) > final for outcome in group)
            partial += not all(fooled) or is_late
            continue
        best: list[float] = []
        for outcome in group:
            best += best_margins(outcome, restart_of)
        if len(best) > 1 and max(best) - min(best) > -max(best):
            wide.append((max(best) - min(best), -max(best)))
    reasons = []
    if partial:
        reasons.append(f"{pluralize(partial, 'image')} fooled only late or by some restarts (increase restarts)")
    if wide:
        spread, missing = max(wide)
        reasons.append(
            f"restarts of {pluralize(len(wide), 'image')} disagree (best margins differ by up to {spread:.3g}, "
            f"{missing:.3g} are missing: increase restarts)"
        )
    return reasons


def best_margins(outcome: Attacked, restart_of: RestartOf) -> list[float]:
    """Return the highest margin of each restart, in order.

    The photograph belongs to no restart; nor does the final margin of several, which is that of the file.
    """
    margins: dict[int, float] = {}
    final = outcome.record.iterations or 0
    several = final > 0 and restart_of(final) != restart_of(1)
    for k, margin in outcome.logged("margin"):
        if k > 0 and not (several and k == final):
            restart = restart_of(k)
            margins[restart] = max(margin, margins.get(restart, margin))
    return [margins[restart] for restart in sorted(margins)]


def _success_restart(outcome: Attacked, restart_of: RestartOf) -> int:
    """Return the restart of the first success; the final one if only the success of the file is logged."""
    for k, margin in outcome.logged("margin"):
        if k > 0 and margin > 0:
            return restart_of(k)
    return restart_of(outcome.record.iterations or 0)


def robust_outcomes(outcomes: Sequence[Attacked]) -> list[Attacked]:
    """Return the failures, as floats, with another 8-bit image in the ball."""
    return [outcome for outcome in _failed(outcomes) if not _only_source_in_ball(outcome)]


def _done(outcomes: Sequence[Attacked]) -> list[Attacked]:
    return [outcome for outcome in outcomes if outcome.record.status == "done"]


def cost_of_stronger_attacks(outcomes: Sequence[Attacked]) -> str:
    """Return a description of :func:`stronger_attacks` with the number of evaluations."""
    robust, done = len(robust_outcomes(outcomes)), len(_done(outcomes))
    return (
        f"{POINTS} random points and Square with {QUERIES:,} queries on {pluralize(robust, 'image')} that resisted, "
        f"and {LARGE_STEPS} steps in a large ball on {pluralize(done, 'image')}: {robust * (POINTS + QUERIES):,} "
        f"forwards and at most {done * LARGE_STEPS:,} evaluations"
    )


def stronger_attacks(
    outcomes: Sequence[Attacked], network: Callable[[Tensor], Tensor], norm: Norm, eps: float
) -> DiagnosisEvidence:
    """Run attacks that must not exceed a gradient attack, and one that must succeed.

    Random points of the ball and Square, both without gradients, on the failures; and PGD on all images, in a ball in
    which every image can be misclassified. The ``eps`` of a record takes precedence over ``eps``.
    """
    by_points = by_square = 0
    square = Square(norm.name, eps)
    for batch in _batches(robust_outcomes(outcomes), eps):
        by_points += _random_points(batch, network, norm)
        by_square += _successes_of(square, batch, network, QUERIES, batch.radii)
    reasons = []
    if by_points:
        reasons.append(f"{POINTS} random points fooled {pluralize(by_points, 'image')} that resisted")
    if by_square:
        reasons.append(f"Square with {QUERIES} queries fooled {pluralize(by_square, 'image')} that resisted")
    large = PGD(norm.name, norm.large_eps, random_start=False)
    fooled = total = 0
    for batch in _batches(_done(outcomes), eps):
        fooled += _successes_of(large, batch, network, LARGE_STEPS)
        total += len(batch.x)
    if fooled < total:
        reasons.append(
            f"only {fooled} of {pluralize(total, 'image')} fooled at a radius of {norm.large_eps:g}, where all must be"
        )
    return DiagnosisEvidence(reasons=reasons, tried=["random points", "Square", "a large radius"])


class _Batch(NamedTuple):
    """Photographs ``(N, C, H, W)`` with labels (-1: unknown), targets (None: untargeted) and radii."""

    x: Tensor
    labels: list[int]
    targets: list[int] | None
    radii: list[float]


def _batches(outcomes: Sequence[Attacked], eps: float) -> Iterator[_Batch]:
    """Yield batches that are either targeted or untargeted."""
    untargeted: list[tuple[Attacked, Tensor]] = []
    targeted: list[tuple[Attacked, Tensor]] = []
    for outcome in outcomes:
        source = outcome.source()
        if source is None:
            continue
        if outcome.record.target is None:
            untargeted.append((outcome, source))
        else:
            targeted.append((outcome, source))
    for group in (untargeted, targeted):
        for first in range(0, len(group), _BATCH):
            yield _batch(group[first : first + _BATCH], eps)


def _batch(photographs: Sequence[tuple[Attacked, Tensor]], eps: float) -> _Batch:
    sources, labels, targets, radii = [], [], [], []
    for outcome, source in photographs:
        record = outcome.record
        sources.append(source)
        labels.append(-1 if record.label is None else record.label)
        if record.target is not None:
            targets.append(record.target)
        radii.append(eps if record.eps is None else record.eps)
    return _Batch(torch.stack(sources), labels, targets or None, radii)


def _successes_of(
    attack: PGD | Square,
    batch: _Batch,
    network: Callable[[Tensor], Tensor],
    iterations: int,
    radii: Sequence[float] | None = None,
) -> int:
    """Return the number of successes of an attack, in the given radii or its own."""
    options = None if radii is None else [{"eps": radius} for radius in radii]
    _, state = run_attack(attack, network, batch.x, batch.labels, batch.targets, iterations=iterations, options=options)
    return int(state["fooled"].sum())


def _random_points(batch: _Batch, network: Callable[[Tensor], Tensor], norm: Norm) -> int:
    """Return the number of images that a random point of their ball fools."""
    x, labels, targets, radii = batch
    goals = torch.tensor(labels if targets is None else targets)
    targeted = torch.full_like(goals, targets is not None, dtype=torch.bool)
    fooled = torch.zeros(len(x), dtype=torch.bool)
    radius = torch.tensor(radii, dtype=torch.float64)
    for draw in range(POINTS):
        points = norm.random_start(x, range(len(x)), [draw] * len(x), radius)
        with torch.no_grad():
            fooled |= is_adversarial(network(points), goals, targeted)
    return int(fooled.sum())
