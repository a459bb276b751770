"""The interface of attacks: step rules that move a photograph, inside a feasible set, until another class is seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from lit_viz.engine.tasks import Task
from lit_viz.objectives import Objective, Outputs
from lit_viz.optim import Evaluate, Evaluation, State, StepRule
from lit_viz.optim.rule import per_slot


class Attack(StepRule):
    """An adversarial example in the making.

    ``x`` is the image ``(N, C, H, W)`` in [0, 1] that is moved, image 0 the photograph or a start near it. A task asks
    for its ``target`` (targeted), or, where it has none, for any class but its ``label`` (untargeted). The state holds
    the photograph, what is asked for, and the best image so far.

    Attributes:
        objective: what is maximized; it reads ``targets``, ``labels`` and ``towards`` of its outputs.
        minimal: whether the smallest perturbation is looked for, so that a success is no reason to stop.
    """

    objective: Objective
    minimal: ClassVar[bool] = False

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return what every attack needs.

        ``source`` the photograph; ``goal`` ``(N,)`` the class asked for or to be left, ``towards`` ``(N,)`` bool which
        of the two; ``label`` ``(N,)``, -1 where it isn't known; ``seed`` ``(N,)``; ``best`` the best image so far with
        its ``size`` ``(N,)`` (the norm of its perturbation, for minimal attacks; else minus its score), infinite as
        long as there is none; ``fooled`` ``(N,)`` bool, whether ``best`` is a success in float.
        """
        goals = [task.label if task.target is None else task.target for task in tasks]
        device = x.device
        return {
            "source": x.clone(),
            "goal": torch.tensor([-1 if goal is None else goal for goal in goals], device=device),
            "towards": torch.tensor([task.target is not None for task in tasks], device=device),
            "label": torch.tensor([-1 if task.label is None else task.label for task in tasks], device=device),
            "seed": torch.tensor([task.seed for task in tasks], device=device),
            "best": x.clone(),
            "size": torch.full((len(x),), torch.inf, dtype=x.dtype, device=device),
            "fooled": torch.zeros(len(x), dtype=torch.bool, device=device),
        }

    def size(self, x: Tensor, state: State, score: Tensor) -> Tensor:
        """Return what makes one success better than another ``(N,)``, less is better: minus the score ``(N,)``, or for a
        minimal attack the norm of the perturbation."""
        return -score

    def seen(self, x: Tensor, state: State, evaluation: Evaluation) -> State:
        """Return the state after the images ``x`` were evaluated: each is the best one if it is better than that."""
        fooled = succeeded(evaluation.logits, state)
        size = self.size(x, state, evaluation.score)
        better = (fooled & ~state["fooled"]) | ((fooled == state["fooled"]) & (size < state["size"]))
        return {
            **state,
            "best": torch.where(per_slot(better, x) > 0, x, state["best"]),
            "size": torch.where(better, size, state["size"]),
            "fooled": state["fooled"] | fooled,
        }

    def result(self, x: Tensor, state: State) -> Tensor:
        """Return the attack's outcome ``(N, C, H, W)``: the best image where there is one, else the last."""
        return torch.where(per_slot(state["size"], x).isfinite(), state["best"], x)


def succeeded(logits: Tensor, state: State) -> Tensor:
    """Return where the network sees what is asked for ``(N,)`` bool: the target, or another class than the label."""
    return (logits.argmax(1) == state["goal"]) == state["towards"]


def run_attack(
    attack: Attack,
    network: Callable[[Tensor], Tensor],
    x: Tensor,
    labels: Sequence[int] | None = None,
    targets: Sequence[int] | None = None,
    *,
    iterations: int,
    seeds: Sequence[int] | None = None,
) -> tuple[Tensor, State]:
    """Attack with a bare loop, without a run: the reference that runs are held against.

    Args:
        attack: how.
        network: images ``(M, C, H, W)`` in [0, 1] -> logits ``(M, K)``.
        x: photographs ``(N, C, H, W)`` in [0, 1].
        labels: true classes; wanted for an untargeted attack.
        targets: classes to reach; untargeted unless given.
        iterations: updates an image at most; an image that is done is not evaluated again.
        seeds: of the draws, one a row; 0, 1, 2 ... unless given.

    Returns:
        the outcomes ``(N, C, H, W)`` and the state, in which ``fooled`` says which succeed in float.
    """
    rows = range(len(x))
    tasks = [
        Task(
            i,
            f"image {i}",
            i if seeds is None else seeds[i],
            target=None if targets is None else int(targets[i]),
            label=None if labels is None else int(labels[i]),
        )
        for i in rows
    ]
    count = torch.zeros(len(x), dtype=torch.long, device=x.device)
    last = torch.full_like(count, iterations)
    state = {**attack.init(x, tasks), "iteration": count, "iterations": last, "until": last}
    moved = attack.place(x, state)
    open_ = torch.arange(len(x), device=x.device)  # rows that are not done
    outcome, whole = moved.clone(), {key: value.clone() for key, value in state.items()}
    with torch.no_grad():
        while len(open_):
            mine = {key: value[open_] for key, value in whole.items()}
            evaluate = _bare(attack.objective, network, mine)
            if bool((mine["iteration"] >= mine["iterations"]).all()):  # image k of k updates: is it a success?
                mine = attack.seen(outcome[open_], mine, evaluate(outcome[open_], gradient=False))
                done = torch.ones_like(open_, dtype=torch.bool)
            else:
                here = outcome[open_]
                after, mine, done = attack.step(here, mine, evaluate)
                outcome[open_] = torch.where(per_slot(done, here) > 0, here, after)
                mine["iteration"] = mine["iteration"] + (~done).long()
            for key, value in mine.items():
                whole[key][open_] = value
            open_ = open_[~done]
    return attack.result(outcome, whole), whole


def _bare(objective: Objective, answer: Callable[[Tensor], Tensor], state: State) -> Evaluate:
    def evaluate(
        x: Tensor, *, gradient: bool = True, slots: Tensor | None = None, network: str = "plain"
    ) -> Evaluation:
        whose = torch.arange(len(x), device=x.device) if slots is None else slots
        with torch.set_grad_enabled(gradient):
            leaf = x.detach().requires_grad_(gradient)
            logits = answer(leaf)
            said = Outputs(logits, state["goal"][whose], labels=state["label"][whose], towards=state["towards"][whose])
            score = objective(said)
        return Evaluation(leaf, score, logits)

    return evaluate
