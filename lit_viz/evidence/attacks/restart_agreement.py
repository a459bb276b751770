"""Do the restarts of an attack agree? Where they don't, more of them would find more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import cache

import torch

from lit_viz.attacks import Attack, ClimbingAttack
from lit_viz.runs.results import Outcome
from lit_viz.utils.formatting import pluralize

#: From the number of an image of a task to that of the restart in which it was made.
RestartOf = Callable[[int], int]


def restarts_of(attack: Attack, iterations: int) -> RestartOf:
    """Return in which restart an image was made, where the attack takes so many iterations."""

    @cache
    def restart(k: int) -> int:
        if not isinstance(attack, ClimbingAttack):
            return 0
        state = {"iteration": torch.tensor([k - 1]), "iterations": torch.tensor([iterations])}
        return int(attack.parts.at(state)[0])

    return restart


def restart_disagreement(outcomes: Sequence[Outcome], restart_of: RestartOf, last: int) -> list[str]:
    """Return what the restarts of an image, and runs of one photograph with several seeds, disagree about.

    Nothing where every image fell. Else an image speaks against the attack

    - if it resisted, and the best margins of its restarts differ by more than what the best of them lacks: another
      restart may be as far above that one as it is above the others;
    - if it fell only in the later half of its restarts, or only to some of its seeds: the images that resisted had no
      more of them.

    Args:
        outcomes: of the run that are done; their curve ``margin`` is read.
        restart_of: see :func:`restarts_of`.
        last: the number of the last restart.

    Returns:
        halves of sentences.
    """
    if all(o.record["success_float"] for o in outcomes):
        return []
    groups: dict[Hashable, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[_question(outcome)].append(outcome)
    partly, wide = 0, []
    for group in groups.values():
        fooled = [bool(o.record["success_float"]) for o in group]
        if any(fooled):
            partly += not all(fooled) or all(2 * _fell_in(o, restart_of) > last for o in group)
            continue
        best = [margin for o in group for margin in best_margins(o, restart_of)]
        if len(best) > 1 and max(best) - min(best) > -max(best):
            wide.append((max(best) - min(best), -max(best)))
    said = (
        [f"{pluralize(partly, 'image')} fell only late, or only to some of the restarts (more restarts)"]
        if partly
        else []
    )
    if wide:
        differ, lacking = max(wide)
        said.append(
            f"the restarts of {pluralize(len(wide), 'image')} disagree (best margins differ by up to {differ:.3g}, "
            f"where {lacking:.3g} is lacking: more restarts)"
        )
    return said


def best_margins(outcome: Outcome, restart_of: RestartOf) -> list[float]:
    """Return the highest margin of each restart, in order; the photograph itself belongs to none.

    Nor does the last margin, where there are several: it is that of the file, which may be of any of them.
    """
    found: dict[int, list[float]] = defaultdict(list)
    last = outcome.record["iterations"]
    several = last > 0 and restart_of(last) != restart_of(1)
    for k, margin in outcome.curve("margin"):
        if k > 0 and not (several and k == last):
            found[restart_of(k)].append(margin)
    return [max(margins) for _, margins in sorted(found.items())]


def _fell_in(outcome: Outcome, restart_of: RestartOf) -> int:
    """Return the restart of the first success; that of the end where only its file is logged, which is none."""
    fell = (k for k, margin in outcome.curve("margin") if k > 0 and margin > 0)
    return restart_of(next(fell, outcome.record["iterations"]))


def _question(outcome: Outcome) -> Hashable:
    record = outcome.record
    return (record.get("source") or record["name"], *(record.get(key) for key in ("label", "target", "eps")))
