"""The interface of attacks: step rules that move a photograph, inside a feasible set, until another class is seen."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_viz.attacks.restarts import RestartSchedule
from lit_viz.classifiers import Classifier
from lit_viz.errors import LitVizError
from lit_viz.objectives import CrossEntropy, Objective
from lit_viz.objectives.attacks import AttackObjective
from lit_viz.optim import Evaluate, Evaluation, State, StepRule
from lit_viz.optim.bare import bare_evaluate
from lit_viz.optim.rule import chosen, norm
from lit_viz.types import Task
from lit_viz.utils.device import to_device, to_list


class Attack(StepRule):
    """An adversarial example in the making.

    ``x`` is the image ``(N, C, H, W)`` in [0, 1] that is moved; image 0 is the photograph itself, so that one which is
    misclassified already costs one forward and stays as it is. A task asks for its ``target`` (targeted), or, where it
    has none, for any class but its ``label`` (untargeted).

    An update evaluates x_k once: success is tested on the forward, and the backward is paid where the image is not
    done (see :func:`slope`).

    Attributes:
        objective: what is maximized; it reads ``targets``, ``labels`` and ``targeted`` of its outputs.
        iterations: updates an image takes at most unless said otherwise.
        fixed: whether an image takes so many whatever is said.
        minimal: whether the smallest perturbation is looked for, so that a success is no reason to stop.
        early_stop: whether an attack that is not minimal stops at the first success.
        slopes: how many an update asks for on the mean, at most; each is a backward. For none no graph is held.
        parts: in each of which the attack begins anew.
        notes: sentences worth saying once before a run, known when the attack is bound.
        without_objective: how a user goes on without this objective.
    """

    objective: Objective = CrossEntropy()
    iterations: int = 100
    fixed: ClassVar[bool] = False
    minimal: ClassVar[bool] = False
    early_stop: bool = True
    backwards_per_step: float = 1
    parts: RestartSchedule = RestartSchedule()
    notes: Sequence[str] = ()
    without_objective: ClassVar[str] = "leave out --attack.objective"

    def bind(self, classifier: Classifier) -> None:
        """Take from the classifier what the attack has to know of it, before it is used.

        Raises:
            LitVizError: it has too few classes for any attack with this objective (see :meth:`require`).
        """
        if isinstance(self.objective, AttackObjective):
            targeted = self.objective.classes[True] < self.objective.classes[False]  # what needs the fewer
            self.require(classifier, targeted=targeted)

    def require(self, classifier: Classifier, *, targeted: bool) -> None:
        """Refuse a classifier of too few classes for the objective, before a run begins.

        Raises:
            LitVizError: in the words of the options.
        """
        if not isinstance(self.objective, AttackObjective):
            return
        missing = self.objective.class_count_error(classifier.num_classes, targeted=targeted)
        if missing:
            raise LitVizError(f"{missing}: {self.without_objective}.")

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return what every attack needs.

        ``source`` the photograph; ``goal`` ``(N,)`` the class asked for or to be left, ``targeted`` ``(N,)`` bool which
        of the two; ``label`` ``(N,)``, -1 where it isn't known; ``seed`` ``(N,)``; ``best`` the best image so far with
        its ``size`` ``(N,)`` (see :meth:`seen`), infinite as long as there is none; ``fooled`` ``(N,)`` bool, whether
        ``best`` is a success in float.

        Raises:
            LitVizError: a task has neither a target nor a label.
        """
        for task in tasks:
            if task.target is None and task.label is None:
                raise LitVizError(f"{task.name} has no class to leave: give its true label, or a target to reach.")
        goals = [task.goal for task in tasks]
        labels = [-1 if task.label is None else task.label for task in tasks]
        device = x.device
        return {
            "source": x.clone(),
            "goal": to_device(goals, device),
            "targeted": to_device([task.target is not None for task in tasks], device),
            "label": to_device(labels, device),
            "seed": to_device([task.seed for task in tasks], device),
            "best": x.clone(),
            "size": torch.full((len(x),), torch.inf, dtype=x.dtype, device=device),
            "fooled": torch.zeros(len(x), dtype=torch.bool, device=device),
        }

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        """Evaluate x_k, keep it if it is the best one, and update those that are not done."""
        evaluation = evaluate(x, gradient=self.backwards_per_step > 0)
        state = self.seen(x, state, evaluation)
        done = self.finished(state)
        if all(to_list(done)):
            return x, state, done
        moved, state = self.update(x, state, evaluation, ~done)
        return chosen(done, x, moved), state, done

    @abstractmethod
    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        """Return the next images and the next state.

        Args:
            x: the images x_k ``(N, C, H, W)``.
            state: after they were seen.
            evaluation: of x_k, whose backward is not paid yet (see :func:`slope`).
            rows: ``(N,)`` bool, which images are moved, one of them at least; what is returned for the others is
                dropped.
        """

    def finished(self, state: State) -> Tensor:
        """Return which images need no further update ``(N,)`` bool: those that fool the network, or for a minimal
        attack, or one that doesn't stop early, those that do without any perturbation."""
        if self.minimal:
            return state["fooled"] & (state["size"] == 0)
        return state["fooled"] if self.early_stop else state["fooled"] & (state["iteration"] == 0)

    def extent(self, change: Tensor) -> Tensor:
        """Return how large perturbations are ``(N,)``, for an attack that makes them small: Euclidean, unless it says
        otherwise."""
        return norm(change)

    def seen(self, x: Tensor, state: State, evaluation: Evaluation) -> State:
        """Return the state after the images ``x`` were evaluated: each is the best one if it is better than that.

        A success is better than none. Of two successes the one with the smaller perturbation is better where that is
        what the attack looks for, else, as of two failures, the one that scores higher. A photograph that doesn't fool
        is no try.
        """
        fooled = is_adversarial(evaluation.logits, state["goal"], state["targeted"])
        size = -evaluation.score
        if self.minimal:
            size = torch.where(fooled, self.extent(x - state["source"]), size)
        tried = fooled | (state["iteration"] > 0)
        better = (fooled & ~state["fooled"]) | (tried & (fooled == state["fooled"]) & (size < state["size"]))
        return {
            **state,
            "best": chosen(better, x, state["best"]),
            "size": torch.where(better, size, state["size"]),
            "fooled": state["fooled"] | fooled,
        }

    def result(self, x: Tensor, state: State) -> Tensor:
        """Return the attack's outcome ``(N, C, H, W)``: the best image where there is one, else the last."""
        return chosen(state["size"].isfinite(), state["best"], x)

    def record_fields(self, state: State) -> dict[str, Any]:
        """Return what the record of an image says of how it was attacked; ``state`` is its one row."""
        return {}


def masked_gradient(evaluation: Evaluation, x: Tensor, rows: Tensor) -> Tensor:
    """Return the score's gradient with respect to the images ``x`` in ``rows`` ``(N,)`` bool, zero for the others.

    No backward is made where none of them wants one.
    """
    return evaluation.backward(rows=rows) if any(to_list(rows)) else torch.zeros_like(x)


def is_adversarial(logits: Tensor, goal: Tensor, targeted: Tensor) -> Tensor:
    """Return which logits ``(N, K)`` predict the target, or in an untargeted row another class than the label.

    Args:
        logits: ``(N, K)``; a row with NaN is no success.
        goal: ``(N,)`` the class to reach, or to leave.
        targeted: ``(N,)`` bool, whether it is the class to reach.

    Returns:
        ``(N,)`` bool.
    """
    return ((logits.argmax(1) == goal) == targeted) & ~logits.isnan().any(1)


def run_attack(
    attack: Attack,
    network: Callable[[Tensor], Tensor],
    x: Tensor,
    labels: Sequence[int] | None = None,
    targets: Sequence[int] | None = None,
    *,
    iterations: int | None = None,
    seeds: Sequence[int] | None = None,
    options: Sequence[Mapping[str, Any]] | None = None,
) -> tuple[Tensor, State]:
    """Attack with a bare loop, without a run: the reference that runs are held against.

    Args:
        attack: how.
        network: images ``(M, C, H, W)`` in [0, 1] -> logits ``(M, K)``.
        x: photographs ``(N, C, H, W)`` in [0, 1].
        labels: true classes; wanted for an untargeted attack.
        targets: classes to reach; untargeted unless given.
        iterations: updates an image at most, the attack's own number unless given; an image that is done is not
            evaluated again.
        seeds: of the draws, one a row; 0, 1, 2 ... unless given.
        options: of the tasks, one a row: what overrides the attack's own (``eps``, ``lr``).

    Returns:
        the outcomes ``(N, C, H, W)`` and the state, in which ``fooled`` says which succeed in float.
    """
    tasks = [
        Task(
            i,
            f"image {i}",
            i if seeds is None else seeds[i],
            target=None if targets is None else int(targets[i]),
            label=None if labels is None else int(labels[i]),
            options={} if options is None else options[i],
        )
        for i in range(len(x))
    ]
    count = torch.zeros(len(x), dtype=torch.long, device=x.device)
    last = torch.full_like(count, attack.iterations if iterations is None else iterations)
    state = {**attack.init(x, tasks), "iteration": count, "iterations": last, "until": last}
    x = x.clone()
    rows = torch.arange(len(x), device=x.device)  # that are not done
    with torch.no_grad():
        while len(rows):
            mine = {key: value[rows] for key, value in state.items()}
            evaluate = _bare(attack.objective, network, mine)
            if int(mine["iteration"][0]) >= int(last[0]):  # image k of k updates: is it a success?
                mine = attack.seen(x[rows], mine, evaluate(x[rows], gradient=False))
                done = torch.ones_like(rows, dtype=torch.bool)
            else:
                moved, mine, done = attack.step(x[rows], mine, evaluate)
                x = x.index_put((rows,), moved)
                mine["iteration"] = mine["iteration"] + (~done).long()
            state = {key: state[key].index_put((rows,), value) for key, value in mine.items()}
            rows = rows[~done]
    return attack.result(x, state), state


def _bare(objective: Objective, network: Callable[[Tensor], Tensor], state: State) -> Evaluate:
    goals = {"targets": state["goal"], "labels": state["label"], "targeted": state["targeted"]}
    return bare_evaluate(objective, {"plain": lambda x, layers=(): (network(x), {})}, goals)
