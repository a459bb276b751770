"""Several attacks one after another, each on what those before it could not fool."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_viz.attacks.apgd import APGD
from lit_viz.attacks.base import Attack, is_adversarial
from lit_viz.attacks.budget import BudgetAttack
from lit_viz.attacks.fmn import FMN
from lit_viz.attacks.norms import ROUNDING, Norm, extent
from lit_viz.attacks.square import Square
from lit_viz.classifiers import Classifier
from lit_viz.errors import LitVizError
from lit_viz.objectives import DLR, Margin, Outputs
from lit_viz.optim import Evaluate, Evaluation, State
from lit_viz.optim.rule import chosen
from lit_viz.types import Task
from lit_viz.utils.device import to_device, to_list

#: The state of the member that is at work has its keys under this prefix.
_OF = "member."


class Stage(NamedTuple):
    """One attack from the photograph to the last of its iterations.

    Attributes:
        member: its name.
        attack: how images move.
        rival: which of the likeliest other classes an untargeted attack goes to here, from 0; None leaves the label.
    """

    member: str
    attack: Attack
    rival: int | None = None


class Ensemble(BudgetAttack):
    """An ensemble after AutoAttack (Croce and Hein 2020, arXiv:2003.01690, section 5): APGD on the cross-entropy; APGD
    on the targeted DLR loss, towards the likeliest other classes in turn; FMN, here in the place of FAB; and Square.

    Every one of them starts at the photograph, from its own seed, and has its own number of iterations: 100 for a start
    of APGD and for FMN, and Square's queries. Another number in all is split in the same proportions. An image is done
    at the first success of any: a targeted APGD that reaches a third class has left the label. An image of FMN counts
    where it lies inside the ball.

    An attack that is targeted itself has one APGD on DLR, towards the target. A network of fewer than four classes has
    no targeted DLR, nor has an image whose label is not known: that member is left out.

    Args:
        norm, eps: see :class:`~lit_viz.attacks.budget.BudgetAttack`.
        classes: likeliest other classes that an untargeted attack goes to in turn.
        queries: iterations of Square.
        restarts: random starts of each APGD.

    Raises:
        LitVizError: for values that make no attack.
    """

    def __init__(
        self, norm: Norm = "linf", eps: float | None = None, classes: int = 9, queries: int = 5000, restarts: int = 1
    ) -> None:
        super().__init__(norm, eps)
        for name, value in (("classes", classes), ("queries", queries)):
            if value < 1:
                raise LitVizError(f"an ensemble with {name} {value} is none: give a whole number from 1 up.")
        self.classes, self.queries, self.restarts = classes, queries, restarts
        self.objective = Margin()
        self._stage(classes)

    def bind(self, classifier: Classifier) -> None:
        """Leave out what the network has too few classes for."""
        count = classifier.num_classes
        if count < max(DLR.classes):
            self.notes = (f"DLR is not defined for {count} classes: the ensemble goes without apgd_dlr.",)
            self._stage(0)
        else:
            self._stage(min(self.classes, count - 1))

    def _stage(self, rivals: int) -> None:
        dlr = APGD(self.norm, self.eps, "dlr", restarts=self.restarts)
        self.stages = (
            Stage("apgd_ce", APGD(self.norm, self.eps, "ce", restarts=self.restarts)),
            *(Stage("apgd_dlr", dlr, rival) for rival in range(rivals)),
            Stage("fmn", FMN(self.norm)),
            Stage("square", Square(self.norm, self.eps)),
        )
        self.iterations = sum(map(self._updates, self.stages))
        self.backwards_per_step = 1 - self.queries / self.iterations  # Square has none

    def _updates(self, stage: Stage) -> int:
        if isinstance(stage.attack, APGD):
            return stage.attack.iterations * self.restarts
        return self.queries if isinstance(stage.attack, Square) else stage.attack.iterations

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return besides: the likeliest other classes ``rivals`` ``(N, classes)``, known when the photograph was seen;
        ``by`` ``(N,)`` the number of the stage that succeeded, -1 where none did; and what the members keep."""
        own: State = {}
        for stage in self.stages:
            own |= stage.attack.init(x, tasks)
        del own["source"]
        nothing = torch.full((len(x),), -1, device=x.device)
        rivals = nothing[:, None].repeat(1, sum(stage.rival is not None for stage in self.stages))
        members = {_OF + key: value for key, value in own.items()}
        return {**super().init(x, tasks), **members, "rivals": rivals, "by": nothing}

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        """See what the members that are through have made, begin those that are next, and let every one step on its own
        images."""
        number, local, _ = self._where(state, state["iteration"])
        begin = (local == 0) & (state["iteration"] > 0)
        if any(beginning := to_list(begin)):
            rows = to_device([n for n, begins in enumerate(beginning) if begins], x.device)
            evaluation = evaluate(x[rows], gradient=False, slots=rows, logged=True)
            before = _rows(state, rows)
            state = _put(state, rows, before, self.seen(x[rows], before, evaluation))
        begin &= ~state["fooled"]
        moved = chosen(begin, state["source"], x)
        at_work: dict[Attack, list[int]] = defaultdict(list)
        for n, (k, fooled) in enumerate(zip(to_list(number), to_list(state["fooled"]), strict=True)):
            if not fooled:
                at_work[self.stages[k].attack].append(n)
        for attack in dict.fromkeys(stage.attack for stage in self.stages):
            if at_work[attack]:
                rows = to_device(at_work[attack], x.device)
                before = _rows(state, rows)
                here, there = self._member_step(attack, rows, moved[rows], before, evaluate)
                moved, state = moved.index_put((rows,), here), _put(state, rows, before, there)
        return chosen(state["fooled"], x, moved), state, state["fooled"]

    def _member_step(
        self, attack: Attack, rows: Tensor, x: Tensor, state: State, evaluate: Evaluate
    ) -> tuple[Tensor, State]:
        """Return the next images of the slots ``rows``, at which this attack is at work, and their state."""
        evaluation = evaluate(x, gradient=attack.backwards_per_step > 0, slots=rows, logged=True)
        state = self.seen(x, state, evaluation)
        done = state["fooled"]
        if all(to_list(done)):
            return x, state
        moved, state = self.update(x, state, evaluation, ~done)
        return chosen(done, x, moved), state

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        """Let the member that is at work on all of these images move them."""
        number, local, length = self._where(state, state["iteration"])
        attack = self.stages[to_list(number)[0]].attack
        own = {key.removeprefix(_OF): value for key, value in state.items() if key.startswith(_OF)}
        own |= {"source": state["source"], "iteration": local, "iterations": length}
        begun = to_device([n for n, k in enumerate(to_list(local)) if k == 0], x.device, torch.long)
        if len(begun):
            own = _put(own, begun, {}, attack.init(x[begun], self._tasks(_rows(state, begun), number[begun])))
        evaluation.rescore(lambda logits: attack.objective(_outputs(logits, own)))
        own = attack.seen(x, own, evaluation)
        moved, own = attack.update(x, own, evaluation, rows)
        kept = {key: own[key.removeprefix(_OF)] for key in state if key.startswith(_OF)}
        return moved, {**state, **kept}

    def _tasks(self, state: State, number: Tensor) -> list[Task]:
        """Return what the members are asked for in these stages ``(N,)``: where an untargeted attack has a rival, to
        reach it."""
        tasks = []
        known = (to_list(state[key]) for key in ("seed", "goal", "label", "targeted", "eps"))
        for n, (i, seed, goal, label, targeted, eps) in enumerate(zip(to_list(number), *known, strict=True)):
            stage = self.stages[i]
            target = goal if targeted else None
            if target is None and stage.rival is not None:
                target = int(state["rivals"][n, stage.rival])
            true = None if label < 0 else label
            tasks.append(Task(n, "", seed, target=target, label=true, options={"eps": eps}))
        return tasks

    def _ends(self, state: State) -> Tensor:
        """Return the iterations at which the stages end ``(N, stages)``; one that is left out ends where it begins."""
        like = state["iterations"]
        updates = to_device([self._updates(stage) for stage in self.stages], like.device)
        rival = to_device([-1 if stage.rival is None else stage.rival for stage in self.stages], like.device)
        without = ((rival > 0) & state["targeted"][:, None]) | ((rival >= 0) & (state["label"] < 0)[:, None])
        share = torch.where(without, 0, updates).cumsum(1)
        return (like[:, None] * share // share[:, -1:]).clamp(min=1)  # the first member sees what is likely

    def _where(self, state: State, iteration: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the stage that makes the update after these iterations ``(N,)``, how many it has made before, and how
        many it makes in all."""
        ends = self._ends(state)
        number = (iteration[:, None] >= ends).sum(1).clamp(max=len(self.stages) - 1)
        begins = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], 1)
        begin, end = (these.gather(1, number[:, None])[:, 0] for these in (begins, ends))
        return number, iteration - begin, end - begin

    def seen(self, x: Tensor, state: State, evaluation: Evaluation) -> State:
        """Return the state after the images were evaluated: those inside the ball that fool are done, and note which
        stage made them. Of two failures inside the ball the one of the higher margin is better."""
        inside = extent(x - state["source"], self.norm) <= state["eps"] + ROUNDING
        fooled = inside & is_adversarial(evaluation.logits, state["goal"], state["targeted"])
        size = -Margin()(Outputs(evaluation.logits, state["goal"], targeted=state["targeted"]))
        better = fooled | (inside & (state["iteration"] > 0) & (size < state["size"]))
        maker, _, _ = self._where(state, (state["iteration"] - 1).clamp(min=0))
        others = evaluation.logits.scatter(1, state["goal"][:, None], -torch.inf)
        likeliest = others.topk(state["rivals"].shape[1]).indices
        return {
            **state,
            "best": chosen(better, x, state["best"]),
            "size": torch.where(better, size, state["size"]),
            "fooled": state["fooled"] | fooled,
            "by": torch.where(fooled & (state["iteration"] > 0), maker, state["by"]),
            "rivals": torch.where(state["iteration"][:, None] > 0, state["rivals"], likeliest),
        }

    def record_fields(self, state: State) -> dict[str, Any]:
        """Return the ball, the member that succeeded (None where none did), those that tried, and of those with slopes
        the ``fewest`` updates that one was given."""
        by, ends = int(state["by"]), self._ends(state)[0].tolist()
        begins = [0, *ends[:-1]]
        tried = [
            (stage, end - begin)
            for stage, begin, end in zip(self.stages, begins, ends, strict=True)
            if begin < min(end, int(state["iteration"]))
        ]
        return {
            **super().record_fields(state),
            "by": None if by < 0 else self.stages[by].member,
            "tried": list(dict.fromkeys(stage.member for stage, _ in tried)),
            "fewest": min((updates for stage, updates in tried if stage.attack.backwards_per_step), default=0),
        }


def _outputs(logits: Tensor, own: State) -> Outputs:
    """Return what the network said with what the member is asked for, a row an input."""
    views = len(logits) // len(own["goal"])
    targets, labels, targeted = (own[key].repeat_interleave(views) for key in ("goal", "label", "targeted"))
    return Outputs(logits, targets, labels=labels, targeted=targeted)


def _rows(state: State, rows: Tensor) -> State:
    return {key: value[rows] for key, value in state.items()}


def _put(state: State, rows: Tensor, before: State, there: State) -> State:
    """Return the state with what these rows have become; what is there as it was ``before`` is left alone, for the
    method may have written it meanwhile."""
    changed = {key for key, value in there.items() if value is not before.get(key)}
    return {key: value.index_put((rows,), there[key]) if key in changed else value for key, value in state.items()}
