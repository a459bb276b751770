"""An ensemble of attacks: each member attacks the images that resisted the previous ones."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_viz.attacks.apgd import APGD
from lit_viz.attacks.base import Attack, BudgetAttack, is_adversarial
from lit_viz.attacks.fmn import FMN
from lit_viz.attacks.norms import TOLERANCE, NormName
from lit_viz.attacks.square import Square
from lit_viz.errors import require
from lit_viz.networks import Network
from lit_viz.objectives import DLR, Margin, Outputs
from lit_viz.optim import Evaluate, Evaluation, State
from lit_viz.optim.rule import chosen
from lit_viz.types import Task
from lit_viz.utils.device import NO_INDEX, index_or_none, rows_equal, to_device, to_list

_PREFIX = "member."  # of the state keys of the active member


class Stage(NamedTuple):
    """One run of a member, from the photograph to its final iteration.

    ``updates`` is its default length. With a ``rival``, an untargeted attack targets the other class of that rank.
    """

    member: str
    attack: Attack
    updates: int
    rival: int | None = None


class Ensemble(BudgetAttack):
    """An ensemble after AutoAttack (Croce and Hein 2020, arXiv:2003.01690, section 5).

    The members are APGD on the cross-entropy; APGD on the targeted DLR loss, for the likeliest other classes in turn;
    FMN, in place of FAB; and Square. Each starts at the photograph with its own seed. By default APGD and FMN have 100
    iterations a start, and Square its queries; another total is split in the same proportions. An image is done at its
    first success inside the ball: any class but the label counts, also for a targeted member.

    A targeted ensemble has one APGD on DLR, for the target. APGD on DLR is omitted for networks of fewer than four
    classes and for images without a label.

    Args:
        norm, eps: see :class:`~lit_viz.attacks.base.BudgetAttack`.
        classes: number of other classes that APGD on DLR targets.
        queries: iterations of Square.
        restarts: random starts of each APGD.
    """

    def __init__(
        self,
        norm: NormName = "linf",
        eps: float | str | None = None,
        classes: int = 9,
        queries: int = 5000,
        restarts: int = 1,
    ) -> None:
        super().__init__(norm, eps)
        for name, value in (("classes", classes), ("queries", queries)):
            require(value >= 1, f"Ensemble: {name} must be at least 1", value)
        self.classes, self.queries, self.restarts = classes, queries, restarts
        self.objective = Margin()
        self._set_stages(classes)

    def bind(self, network: Network) -> None:
        """Limit the targeted stages to the classes of the network."""
        self.resolve_lengths(network.bands)
        count = network.exclusive_classes
        if count < max(DLR.classes):
            self.notes = (f"DLR needs {max(DLR.classes)} classes, got {count}: the ensemble omits apgd_dlr.",)
            self._set_stages(0)
        else:
            self._set_stages(min(self.classes, count - 1))

    def _set_stages(self, rivals: int) -> None:
        norm, restarts = self.norm.name, self.restarts
        eps = None if math.isnan(self.eps) else self.eps  # in the unit of files that are not known yet
        ce, dlr, fmn = APGD(norm, eps, "ce", restarts=restarts), APGD(norm, eps, "dlr", restarts=restarts), FMN(norm)
        stages = [Stage("apgd_ce", ce, ce.iterations * restarts)]
        for rival in range(rivals):
            stages.append(Stage("apgd_dlr", dlr, dlr.iterations * restarts, rival))
        stages.append(Stage("fmn", fmn, fmn.iterations))
        stages.append(Stage("square", Square(norm, eps), self.queries))
        self.stages = tuple(stages)
        self.iterations = sum(stage.updates for stage in self.stages)
        self.backwards_per_step = 1 - self.queries / self.iterations  # none in Square

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Add the likeliest other classes ``rivals`` ``(N, classes)``, set by the evaluation of the photograph; ``by``
        ``(N,)``, the stage that succeeded, or -1; and the state of the members."""
        members: State = {}
        for stage in self.stages:
            members |= stage.attack.init(x, tasks)
        del members["source"]
        state = super().init(x, tasks)
        for key, value in members.items():
            state[_PREFIX + key] = value
        none = torch.full((len(x),), NO_INDEX, device=x.device)
        rivals = sum(stage.rival is not None for stage in self.stages)
        state["rivals"] = none[:, None].repeat(1, rivals)
        state["by"] = none
        return state

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        """Test the final images of the members that finished, then let each active member step on its images."""
        number, local, _ = self._locate(state, state["iteration"])
        begin = (local == 0) & (state["iteration"] > 0)
        rows = rows_equal(begin, True)
        if len(rows):
            before = _select(state, rows)
            evaluation = evaluate(x[rows], gradient=False, slots=rows, logged=True)
            state = _put(state, rows, before, self.track_best(x[rows], before, evaluation))
        moved = chosen(begin & ~state["fooled"], state["source"], x)
        active: dict[Attack, list[int]] = defaultdict(list)
        for n, (k, fooled) in enumerate(zip(to_list(number), to_list(state["fooled"]), strict=True)):
            if not fooled:
                active[self.stages[k].attack].append(n)
        for attack, slots in active.items():
            rows = to_device(slots, x.device)
            before = _select(state, rows)
            images, after, _ = super().step(moved[rows], before, _evaluate_slots(evaluate, rows, attack))
            moved, state = moved.index_put((rows,), images), _put(state, rows, before, after)
        return chosen(state["fooled"], x, moved), state, state["fooled"]

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        """Move the images by the active member, which is the same for all of them."""
        number, local, length = self._locate(state, state["iteration"])
        attack = self.stages[to_list(number)[0]].attack
        own = _member_state(state)
        own |= {"source": state["source"], "iteration": local, "iterations": length}
        starting = rows_equal(local, 0)
        if len(starting):
            tasks = self._member_tasks(_select(state, starting), number[starting])
            own = _put(own, starting, {}, attack.init(x[starting], tasks))
        evaluation.rescore(lambda logits: attack.objective(_outputs(logits, own)))
        own = attack.track_best(x, own, evaluation)
        moved, own = attack.update(x, own, evaluation, rows)
        updated = dict(state)
        for key in state:
            if key.startswith(_PREFIX):
                updated[key] = own[key.removeprefix(_PREFIX)]
        return moved, updated

    def _member_tasks(self, state: State, number: Tensor) -> list[Task]:
        """Return the tasks of the members in these stages ``(N,)``: a stage with a rival is targeted at it."""
        tasks = []
        seeds, radii = to_list(state["seed"]), to_list(state["eps"])
        goals, labels, targeted = to_list(state["goal"]), to_list(state["label"]), to_list(state["targeted"])
        for n, stage in enumerate(to_list(number)):
            rival = self.stages[stage].rival
            target = None
            if targeted[n]:
                target = goals[n]
            elif rival is not None:
                target = int(state["rivals"][n, rival])
            label = None
            if labels[n] != NO_INDEX:
                label = labels[n]
            tasks.append(Task(n, "", seeds[n], target=target, label=label, eps=radii[n]))
        return tasks

    def _bounds(self, state: State) -> Tensor:
        """Return the iterations after the stages ``(N, stages)``; an omitted stage has no iteration."""
        iterations = state["iterations"]
        updates = to_device([stage.updates for stage in self.stages], iterations.device)
        rival = to_device([index_or_none(stage.rival) for stage in self.stages], iterations.device)
        omitted = ((rival > 0) & state["targeted"][:, None]) | ((rival >= 0) & (state["label"] < 0)[:, None])
        share = torch.where(omitted, 0, updates).cumsum(1)
        # The first stage has at least one update, which sets the rivals.
        return (iterations[:, None] * share // share[:, -1:]).clamp(min=1)

    def _locate(self, state: State, iteration: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``(N,)`` int64 each: the stage of the update after ``iteration``, its previous updates, and its
        updates in total."""
        bounds = self._bounds(state)
        number = (iteration[:, None] >= bounds).sum(1).clamp(max=len(self.stages) - 1)
        starts = torch.cat([torch.zeros_like(bounds[:, :1]), bounds[:, :-1]], 1)
        start = starts.gather(1, number[:, None])[:, 0]
        end = bounds.gather(1, number[:, None])[:, 0]
        return number, iteration - start, end - start

    def track_best(self, x: Tensor, state: State, evaluation: Evaluation) -> State:
        """Return the state after the images were evaluated: successes inside the ball are done and note their stage. Of
        two failures inside the ball, the higher margin is better."""
        inside = self.norm.length(x - state["source"]) <= state["eps"] + TOLERANCE
        fooled = inside & is_adversarial(evaluation.logits, state["goal"], state["targeted"])
        size = -Margin()(Outputs(evaluation.logits, state["goal"], targeted=state["targeted"]))
        better = fooled | (inside & (state["iteration"] > 0) & (size < state["size"]))
        stage, _, _ = self._locate(state, (state["iteration"] - 1).clamp(min=0))
        others = evaluation.logits.scatter(1, state["goal"][:, None], -torch.inf)
        likeliest = others.topk(state["rivals"].shape[1]).indices
        return state | {
            "best": chosen(better, x, state["best"]),
            "size": torch.where(better, size, state["size"]),
            "fooled": state["fooled"] | fooled,
            "by": torch.where(fooled & (state["iteration"] > 0), stage, state["by"]),
            "rivals": torch.where(state["iteration"][:, None] > 0, state["rivals"], likeliest),
        }

    def record_fields(self, state: State) -> dict[str, Any]:
        """Return the ball, the member that succeeded (``by``, or None), the members that ran (``tried``), and the
        ``fewest`` updates of one with gradients."""
        by, start = int(state["by"]), 0
        tried: list[str] = []
        gradient_updates: list[int] = []
        for stage, end in zip(self.stages, self._bounds(state)[0].tolist(), strict=True):
            has_run = start < min(end, int(state["iteration"]))
            if has_run and stage.member not in tried:
                tried.append(stage.member)
            if has_run and stage.attack.backwards_per_step:
                gradient_updates.append(end - start)
            start = end
        fields = super().record_fields(state)
        fields["by"] = None if by == NO_INDEX else self.stages[by].member
        fields["tried"] = tried
        fields["fewest"] = min(gradient_updates, default=0)
        return fields


def _evaluate_slots(evaluate: Evaluate, slots: Tensor, attack: Attack) -> Evaluate:
    gradient = attack.backwards_per_step > 0
    return lambda x, **options: evaluate(x, gradient=gradient, slots=slots, logged=True)


def _outputs(logits: Tensor, own: State) -> Outputs:
    """Return logits, one row a network input, with the member's goals."""
    views = len(logits) // len(own["goal"])
    targets, labels = own["goal"].repeat_interleave(views), own["label"].repeat_interleave(views)
    return Outputs(logits, targets, labels=labels, targeted=own["targeted"].repeat_interleave(views))


def _member_state(state: State) -> State:
    own = {}
    for key, value in state.items():
        if key.startswith(_PREFIX):
            own[key.removeprefix(_PREFIX)] = value
    return own


def _select(state: State, rows: Tensor) -> State:
    return {key: value[rows] for key, value in state.items()}


def _put(state: State, rows: Tensor, before: State, after: State) -> State:
    """Return the state with these rows of ``after``; keys that are unchanged since ``before`` are skipped, because the
    method may have written them in the meantime."""
    merged = dict(state)
    for key, value in state.items():
        if key in after and after[key] is not before.get(key):
            merged[key] = value.index_put((rows,), after[key])
    return merged
