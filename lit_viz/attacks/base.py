"""The interface of attacks with and without a budget, and a loop that runs one on tensors."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_viz.attacks.norms import L2, Norm, NormName, is_in_file_units, norm_of, parse_radius
from lit_viz.errors import ArgumentError, LitVizError, require
from lit_viz.networks import Network
from lit_viz.networks.bands import Bands
from lit_viz.objectives import CrossEntropy, Objective
from lit_viz.objectives.classes import AttackObjective
from lit_viz.optim import Evaluate, Evaluation, State, StepRule
from lit_viz.optim.evaluation import bare_evaluate
from lit_viz.optim.rule import chosen
from lit_viz.types import Task, seeds_of
from lit_viz.utils.device import index_or_none, to_device, to_list


@dataclass(frozen=True)
class RestartSchedule:
    """Split of an image's iterations into restarts of equal length; the final one takes the remainder.

    There are at most ``maximum``, fewer where the iterations allow less than two updates each. ``noun`` names them in
    messages.
    """

    maximum: int = 1
    noun: str = "restarts"

    def count(self, iterations: int) -> int:
        """Return the number of restarts for this number of iterations."""
        return max(1, min(self.maximum, iterations // 2))

    def notes(self, iterations: int) -> list[str]:
        """Return a remark if the iterations allow fewer restarts than configured."""
        count = self.count(iterations)
        if count == self.maximum:
            return []
        allowed = f"{iterations} iterations allow {count} of {self.maximum} {self.noun}"
        return [f"{allowed}: each takes at least two iterations"]

    def locate(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``(N,)`` int64 each: the number of the restart, the updates made in it, and its updates in total."""
        iterations, iteration = state["iterations"], state["iteration"]
        count = (iterations // 2).clamp(1, self.maximum)
        length = iterations // count
        number = torch.minimum(iteration // length.clamp(min=1), count - 1)
        total = torch.where(number == count - 1, iterations - number * length, length)
        return number, iteration - number * length, total


class Attack(StepRule):
    """A step rule that moves an image until its class changes.

    ``x`` holds images ``(N, C, H, W)`` in [0, 1]; x_0 is the photograph. A task with a ``target`` is targeted, any
    other leaves its ``label``. Each update evaluates x_k once. Success is tested on the forward; the backward is
    computed for the other images only (see :func:`masked_gradient`).

    Attributes:
        objective: what is maximized; it reads ``targets``, ``labels`` and ``targeted`` of its outputs.
        norm: norm of the perturbation that is minimized or bounded.
        iterations: default maximum of updates.
        fixed: whether the number of updates is not configurable.
        minimal: whether the perturbation is minimized, so that the attack continues after a success.
        early_stop: whether an attack that is not minimal stops at the first success.
        backwards_per_step: see :class:`~lit_viz.optim.StepRule`; 0 for black-box attacks, which hold no graph.
        restart_schedule: how the iterations are split into restarts.
        notes: remarks that are printed once before a run, available after :meth:`bind`.
    """

    objective: Objective = CrossEntropy()
    norm: Norm = L2
    iterations: int = 100
    fixed: ClassVar[bool] = False
    minimal: ClassVar[bool] = False
    early_stop: bool = True
    restart_schedule: RestartSchedule = RestartSchedule()
    notes: Sequence[str] = ()
    _in_files: Mapping[str, str] = {}  # lengths in the unit of the files, by attribute

    def length(self, name: str, value: float | str) -> float:
        """Return a length in units of [0, 1]; NaN of one in the unit of the files, which :meth:`resolve_lengths` sets
        as the attribute ``name``."""
        if is_in_file_units(value):
            self._in_files = {**self._in_files, name: str(value)}
        return parse_radius(value)

    def step_length(self, alpha: float | str | None) -> float | None:
        """Return the length of a step in units of [0, 1]; None of an attack that chooses it.

        Raises:
            LitVizError: it is not positive.
        """
        if alpha is None:
            return None
        length = self.length("alpha", alpha)
        require(math.isnan(length) or 0 < length < math.inf, "alpha must be positive", length)
        return length

    def resolve_lengths(self, bands: Bands) -> None:
        """Set the lengths that are given in the unit of the files.

        Raises:
            LitVizError: the bands have no range, or different ones.
        """
        for name, value in self._in_files.items():
            setattr(self, name, parse_radius(value, bands))

    def bind(self, network: Network) -> None:
        """Adapt the attack to a network before it is used.

        Raises:
            LitVizError: the objective needs more classes, targeted or not.
        """
        self.resolve_lengths(network.bands)
        if isinstance(self.objective, AttackObjective):
            untargeted, targeted = self.objective.classes
            self.check_classes(network, targeted=targeted < untargeted)

    def check_classes(self, network: Network, *, targeted: bool) -> None:
        """Raise :class:`LitVizError` unless the network has enough classes for the objective."""
        if isinstance(self.objective, AttackObjective):
            count = network.exclusive_classes
            self.objective.check_classes(count, targeted=targeted, hint="use the cross-entropy")

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return the state that every attack has.

        Keys: ``source`` the photographs; ``goal`` ``(N,)`` the class to reach or to leave; ``targeted`` ``(N,)`` bool;
        ``label`` ``(N,)``, -1 if unknown; ``seed`` ``(N,)``; ``best`` the best images with their ``size`` ``(N,)`` (see
        :meth:`track_best`), infinite before the first; ``fooled`` ``(N,)`` bool, whether ``best`` is a success in
        float.

        Raises:
            LitVizError: a task has neither a target nor a label.
        """
        for task in tasks:
            if task.target is None and task.label is None:
                raise LitVizError(f"{task.name} needs a true label or a target, got neither")
        device = x.device
        return {
            "source": x.clone(),
            "goal": to_device([task.goal for task in tasks], device),
            "targeted": to_device([task.target is not None for task in tasks], device),
            "label": to_device([index_or_none(task.label) for task in tasks], device),
            "seed": to_device(seeds_of(tasks), device),
            "best": x.clone(),
            "size": torch.full((len(x),), torch.inf, dtype=x.dtype, device=device),
            "fooled": torch.zeros(len(x), dtype=torch.bool, device=device),
        }

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        """Evaluate x_k, track the best image, and update the images that are not done."""
        evaluation = evaluate(x, gradient=self.backwards_per_step > 0)
        state = self.track_best(x, state, evaluation)
        done = self.is_done(state)
        if all(to_list(done)):
            return x, state, done
        moved, state = self.update(x, state, evaluation, ~done)
        return chosen(done, x, moved), state, done

    @abstractmethod
    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        """Return the next images and the next state.

        Args:
            x: images x_k ``(N, C, H, W)``.
            state: after :meth:`track_best`.
            evaluation: of x_k, without a backward so far (see :func:`masked_gradient`).
            rows: ``(N,)`` bool, images to move, at least one; the results of the other rows are discarded.
        """

    def is_done(self, state: State) -> Tensor:
        """Return the images that need no more updates ``(N,)`` bool.

        A minimal attack, or one without early stop, is done with an image only if the photograph itself is a success.
        """
        if self.minimal:
            return state["fooled"] & (state["size"] == 0)
        if self.early_stop:
            return state["fooled"]
        return state["fooled"] & (state["iteration"] == 0)

    def track_best(self, x: Tensor, state: State, evaluation: Evaluation) -> State:
        """Return the state with the best images updated by the evaluated images ``x``.

        A success is better than a failure. Of two successes of a minimal attack, the smaller perturbation is better; of
        any other pair, the higher score. A photograph that is not a success is not a candidate.
        """
        fooled = is_adversarial(evaluation.logits, state["goal"], state["targeted"])
        size = -evaluation.score
        if self.minimal:
            size = torch.where(fooled, self.norm.length(x - state["source"]), size)
        candidate = fooled | (state["iteration"] > 0)
        better = (fooled & ~state["fooled"]) | (candidate & (fooled == state["fooled"]) & (size < state["size"]))
        return state | {
            "best": chosen(better, x, state["best"]),
            "size": torch.where(better, size, state["size"]),
            "fooled": state["fooled"] | fooled,
        }

    def result(self, x: Tensor, state: State) -> Tensor:
        """Return the adversarial examples ``(N, C, H, W)``: the best image, or the final one where there is none."""
        return chosen(state["size"].isfinite(), state["best"], x)

    def record_fields(self, state: State) -> dict[str, Any]:
        """Return the attack's fields of an image's record; ``state`` has one row."""
        return {"norm": self.norm.name}


class BudgetAttack(Attack):
    """An attack inside a ball around the photograph and inside [0, 1].

    Args:
        norm: norm of the ball.
        eps: radius in units of [0, 1], also as ``"4/255"``, or as ``"20 file"`` in the unit of the files; 4/255 for
            linf and 1.0 for l2 by default. A task's option ``eps`` overrides it.
        early_stop: whether an image is done at its first success; else its score is raised to the final iteration.

    Raises:
        LitVizError: for an unknown norm or a radius that is not a length.
    """

    def __init__(self, norm: NormName, eps: float | str | None, early_stop: bool = True) -> None:
        self.norm = norm_of(norm)
        self._given_eps = eps
        if eps is None:
            self.eps = self.norm.default_eps
        else:
            self.eps = self.length("eps", eps)
        if not is_in_file_units(eps):
            self.check_radius(self.eps, type(self).__name__)
            if eps is not None:
                self._given_eps = self.eps
        self.early_stop = early_stop

    @property
    def arguments(self) -> dict[str, Any]:
        return super().arguments | {"eps": self._given_eps}

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        return super().init(x, tasks) | {"eps": self.radii(x, tasks)}

    def radii(self, x: Tensor, tasks: Sequence[Task]) -> Tensor:
        """Return the radii ``(N,)``: the tasks' option ``eps``, by default the attack's."""
        radii: list[float] = []
        for task in tasks:
            eps = self.eps if task.eps is None else float(task.eps)
            radii.append(self.check_radius(eps, task.name))
        return to_device(radii, x.device, torch.float64)

    def check_radius(self, eps: float, owner: str) -> float:
        """Return a radius; raise :class:`LitVizError`, which names its ``owner``, unless it is valid in the norm."""
        if not 0 <= eps < math.inf:
            problem = f"of {owner} must be 0 or more and finite, got {eps:g}: try 0.0157 (4/255)"
            raise ArgumentError("eps", problem, value=eps)
        if eps > self.norm.max_eps:
            raise LitVizError(f"eps of {owner} must be at most {self.norm.max_eps:g}, got {eps:g}: write {eps:g}/255")
        return eps

    def record_fields(self, state: State) -> dict[str, Any]:
        return {**super().record_fields(state), "eps": float(state["eps"])}

    def project(self, x: Tensor, state: State) -> Tensor:
        """Return the nearest feasible images."""
        return self.norm.project(x, state["source"], state["eps"])


class ClimbingAttack(BudgetAttack):
    """An attack that ascends the score inside the ball, from one or several starts.

    The iterations are split evenly over the restarts. A random start is the first update of its restart, without a
    backward.

    Args:
        norm, eps, early_stop: see :class:`BudgetAttack`.
        random_start: whether a restart starts at random in the ball, else at the photograph.
        restarts: number of starts, each of at least two updates.

    Raises:
        LitVizError: for fewer than one restart, or several without a random start.
    """

    def __init__(
        self, norm: NormName, eps: float | str | None, random_start: bool, restarts: int, early_stop: bool
    ) -> None:
        super().__init__(norm, eps, early_stop)
        require(restarts >= 1, "restarts must be at least 1", restarts)
        require(restarts == 1 or random_start, "restarts must be 1 without random_start", restarts)
        self.random_start = random_start
        self.restart_schedule = RestartSchedule(restarts)

    def update(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        restart, iteration, _ = self.locate(state)
        starting = rows & (iteration < 0)
        moved, state = self.climb(x, state, evaluation, rows & ~starting)
        if self.random_start and bool(starting.any()):
            n = starting.nonzero()[:, 0]
            source, seeds, restarts = state["source"][n], state["seed"][n].tolist(), restart[n].tolist()
            start = self.norm.random_start(source, seeds, restarts, state["eps"][n])
            moved = moved.index_put((n,), start)
        return moved, state

    @abstractmethod
    def climb(self, x: Tensor, state: State, evaluation: Evaluation, rows: Tensor) -> tuple[Tensor, State]:
        """Return the next images and state, as :meth:`update`; ``rows`` may be False throughout."""

    def locate(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``(N,)`` int64 each: the number of the restart, the updates made since its start (-1 if the next
        update is the random start), and the updates after its start in total."""
        restart, iteration, total = self.restart_schedule.locate(state)
        start = int(self.random_start)
        return restart, iteration - start, (total - start).clamp(min=1)


def masked_gradient(evaluation: Evaluation, x: Tensor, rows: Tensor) -> Tensor:
    """Return the score's gradient by the images ``x`` in ``rows`` ``(N,)`` bool, zero elsewhere.

    No backward is computed where ``rows`` is False throughout.
    """
    if not any(to_list(rows)):
        return torch.zeros_like(x)
    return evaluation.backward(rows=rows)


def is_adversarial(logits: Tensor, goal: Tensor, targeted: Tensor) -> Tensor:
    """Return which logits predict the target, or in an untargeted row another class than the label.

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
    label: Sequence[int] | None = None,
    target: Sequence[int] | None = None,
    *,
    iterations: int | None = None,
    seeds: Sequence[int] | None = None,
    options: Sequence[Mapping[str, Any]] | None = None,
) -> tuple[Tensor, State]:
    """Attack a batch of images in a plain loop, without slots, trainer or run folder.

    Args:
        attack: the attack.
        network: images ``(M, C, H, W)`` in [0, 1] -> logits ``(M, K)``.
        x: photographs ``(N, C, H, W)`` in [0, 1].
        label: true classes; required for an untargeted attack.
        target: classes to reach; untargeted if None.
        iterations: maximum of updates, by default the attack's own. Images that are done are not evaluated again.
        seeds: of the random draws, one a row; 0, 1, 2 ... by default.
        options: task options, one mapping a row, which override the attack's (``eps``, ``lr``).

    Returns:
        the adversarial examples ``(N, C, H, W)`` and the state; its ``fooled`` marks the successes in float.
    """
    if iterations is None:
        iterations = attack.iterations
    if seeds is None:
        seeds = range(len(x))
    if options is None:
        options = [{}] * len(x)
    tasks = []
    for i in range(len(x)):
        target_class = None if target is None else int(target[i])
        true_class = None if label is None else int(label[i])
        tasks.append(Task(i, f"image {i}", seeds[i], target=target_class, label=true_class, **options[i]))
    count = torch.zeros(len(x), dtype=torch.long, device=x.device)
    maximum = torch.full_like(count, iterations)
    state = attack.init(x, tasks) | {"iteration": count, "iterations": maximum, "until": maximum}
    x = x.clone()
    active = torch.arange(len(x), device=x.device)
    with torch.no_grad():
        while len(active):
            rows = {key: value[active] for key, value in state.items()}
            evaluate = plain_evaluate(attack.objective, network, rows)
            if int(rows["iteration"][0]) >= int(maximum[0]):  # the image after the final update is tested too
                rows = attack.track_best(x[active], rows, evaluate(x[active], gradient=False))
                done = torch.ones_like(active, dtype=torch.bool)
            else:
                moved, rows, done = attack.step(x[active], rows, evaluate)
                x = x.index_put((active,), moved)
                rows["iteration"] = rows["iteration"] + (~done).long()
            state = {key: state[key].index_put((active,), value) for key, value in rows.items()}
            active = active[~done]
    return attack.result(x, state), state


def plain_evaluate(objective: Objective, network: Callable[[Tensor], Tensor], state: State) -> Evaluate:
    """Return the evaluation of a plain network, images -> logits, for the goals of an attack's state."""
    goals = {"targets": state["goal"], "labels": state["label"], "targeted": state["targeted"]}
    return bare_evaluate(objective, {"plain": lambda x, layers=(): (network(x), {})}, goals)
