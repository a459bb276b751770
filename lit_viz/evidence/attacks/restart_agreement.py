"""Agreement of an attack's restarts: where they disagree, more restarts may succeed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import cache

import torch

from lit_viz.attacks import Attack, ClimbingAttack
from lit_viz.evidence.attacks.robustness import attack_record
from lit_viz.runs.results import Outcome
from lit_viz.utils.formatting import pluralize

#: From an iteration of a task to the number of its restart.
RestartOf = Callable[[int], int]


def restarts_of(attack: Attack, iterations: int) -> RestartOf:
    """Return the function from iteration to restart, for an attack of this number of iterations."""

    @cache
    def restart(k: int) -> int:
        if not isinstance(attack, ClimbingAttack):
            return 0
        state = {"iteration": torch.tensor([k - 1]), "iterations": torch.tensor([iterations])}
        return int(attack.restart_schedule.locate(state)[0])

    return restart


def restart_disagreement(outcomes: Sequence[Outcome], restart_of: RestartOf, final: int) -> list[str]:
    """Return the disagreements between restarts, and between runs of one photograph with several seeds, as clauses.

    Empty if every image is a success. Otherwise there are two signs that more restarts may succeed:

    - a failed image whose best margins differ between restarts by more than the best of them lacks;
    - a success only in the later half of the restarts, or only with some seeds.

    Args:
        outcomes: finished tasks of the run; their curve ``margin`` is read.
        restart_of: see :func:`restarts_of`.
        final: number of the final restart.
    """
    if all(attack_record(o).success_float for o in outcomes):
        return []
    groups: dict[Hashable, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        record = attack_record(outcome)
        groups[record.source or record.name, record.label, record.target, record.eps].append(outcome)
    partial, wide = 0, []
    for group in groups.values():
        fooled = [bool(attack_record(o).success_float) for o in group]
        if any(fooled):
            partial += not all(fooled) or all(2 * _success_restart(o, restart_of) > final for o in group)
            continue
        best = [margin for o in group for margin in best_margins(o, restart_of)]
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


def best_margins(outcome: Outcome, restart_of: RestartOf) -> list[float]:
    """Return the highest margin of each restart, in order.

    The photograph belongs to no restart; nor does the final margin of several, which is that of the file.
    """
    margins: dict[int, list[float]] = defaultdict(list)
    final = outcome.record.iterations or 0
    several = final > 0 and restart_of(final) != restart_of(1)
    for k, margin in outcome.curve("margin"):
        if k > 0 and not (several and k == final):
            margins[restart_of(k)].append(margin)
    return [max(values) for _, values in sorted(margins.items())]


def _success_restart(outcome: Outcome, restart_of: RestartOf) -> int:
    """Return the restart of the first success; the final one if only the success of the file is logged."""
    successes = (k for k, margin in outcome.curve("margin") if k > 0 and margin > 0)
    return restart_of(next(successes, outcome.record.iterations or 0))
