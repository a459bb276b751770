"""The interface of saliency methods: step rules that leave the photograph where it is and accumulate what they find."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_viz.classifiers import Classifier
from lit_viz.classifiers.fast import Backprop
from lit_viz.objectives import Logit, Objective
from lit_viz.optim import Evaluate, State, StepRule
from lit_viz.optim.evaluation import Network, bare_evaluate
from lit_viz.optim.rule import never
from lit_viz.rng import Key
from lit_viz.types import Task
from lit_viz.utils.device import to_device, to_list


class Attribution(StepRule):
    """A saliency map in the making.

    ``x`` is the photograph, which stays. The state holds what was accumulated so far, so that the map can be seen at
    any time (:meth:`attribution`) with how far it may be off (:meth:`uncertainty`). An iteration is an evaluation.

    Attributes:
        evaluations: that a map takes unless said otherwise.
        spatial: one channel for all colours: maps are ``(N, 1, H, W)`` instead of ``(N, C, H, W)``.
        networks: the copies of the classifier that are asked (see :class:`~lit_viz.optim.Evaluate`).
        layers: whose activations are read.
        objective: what the map explains; the target's logit unless the method's paper says otherwise.
        tolerance: a map is done when its ``error`` is not above it; None goes on to the last evaluation.
        batch: inputs that are evaluated at once, over all slots; at least one a slot.
        reducer: how the channels become one map to be seen (a name of :data:`~lit_viz.attributions.reducers.REDUCERS`).
    """

    evaluations: int = 1
    spatial: ClassVar[bool] = False
    networks: tuple[Backprop, ...] = ("plain",)
    layers: tuple[str, ...] = ()
    objective: Objective = Logit()
    tolerance: float | None = None
    batch: int = 16
    reducer: ClassVar[str] = "max_abs"

    @property
    def fixed(self) -> bool:
        """Whether a map takes its own number of evaluations, however many a run asks for."""
        return self.evaluations == 1

    def bind(self, classifier: Classifier) -> None:
        """Take from the classifier what the method has to know of it, before it is used; nothing by default.

        Raises:
            LitVizError: the method makes no sense for it.
        """

    def record_fields(self) -> dict[str, Any]:
        """Return what the record of a map says of how it was made, once the method is bound."""
        return {}

    def default_evaluations(self, shape: Sequence[int]) -> int:
        """Return how many evaluations a map of an input ``(C, H, W)``, or of any shape, takes unless said otherwise."""
        return self.evaluations

    def init(self, x: Tensor, tasks: Sequence[Task]) -> State:
        """Return what every method needs: the tasks' seeds ``(N,)``."""
        return {"seed": to_device([task.seed for task in tasks], x.device)}

    def advance(self, state: State) -> Tensor:
        """Return how many evaluations the next step makes a slot, ``(N,)``: never past one that is looked at."""
        at_once = max(1, self.batch // len(state["iteration"]))
        return (state["until"] - state["iteration"]).clamp(1, at_once)

    @abstractmethod
    def attribution(self, x: Tensor, state: State) -> Tensor:
        """Return the maps as they are after ``state["iteration"]`` evaluations, signed where the method is.

        Args:
            x: the photographs ``(N, C, H, W)``, or whatever shape was explained.
            state: of these slots.

        Returns:
            of the shape of ``x``, or ``(N, 1, H, W)`` where the method is spatial; zero where nothing was found yet.
        """

    def uncertainty(self, x: Tensor, state: State) -> dict[str, Tensor]:
        """Return how far the maps may be off, ``(N,)`` each by name; nothing where the method is exact.

        The key ``error`` is relative to the map's largest value, as it is drawn, and what ``tolerance`` is held
        against; infinite as long as it can't be told. Others are ``standard_error`` or ``completeness``, as in the
        records.
        """
        return {}

    def converged(self, x: Tensor, state: State) -> Tensor:
        """Return which maps are exact enough ``(N,)`` bool: none without a tolerance."""
        if self.tolerance is None:
            return never(x)
        error = self.uncertainty(x, state).get("error")
        return never(x) if error is None else (error <= self.tolerance) & (state["iteration"] > 0)


class Estimator(Attribution):
    """A map that is the sum of the contributions of evaluations, each for itself."""

    def step(self, x: Tensor, state: State, evaluate: Evaluate) -> tuple[Tensor, State, Tensor]:
        """Make the next evaluations of the maps that are not exact enough."""
        done = self.converged(x, state) | (state["iteration"] >= state["iterations"])
        counts = self.advance(state).masked_fill(done, 0)
        made = to_list(state["iteration"])
        mine = [(n, k + i) for n, (k, c) in enumerate(zip(made, to_list(counts), strict=True)) for i in range(c)]
        if not mine:
            return x, state, done
        slots, numbers = (to_device(column, x.device) for column in zip(*mine, strict=True))
        return x, self.accumulate(x, dict(state), slots, numbers, evaluate), done

    @abstractmethod
    def accumulate(self, x: Tensor, state: State, slots: Tensor, numbers: Tensor, evaluate: Evaluate) -> State:
        """Make evaluations and add what they give to the state.

        Args:
            x: the photographs ``(N, ...)``.
            state: of the slots; a dictionary of the method's own, whose tensors are not changed in place.
            slots: ``(M,)``, whose evaluation each is; in order of the slots.
            numbers: ``(M,)``, its number: evaluation 0 is the first of a map.
            evaluate: asks the network.
        """


def keys(state: State, slots: Tensor, numbers: Tensor) -> list[Key]:
    """Return who draws in these evaluations: the task's seed and the evaluation's number, and nothing else."""
    seeds = to_list(state["seed"])
    return [Key(seeds[n], number) for n, number in zip(to_list(slots), to_list(numbers), strict=True)]


def gather_rows(images: Tensor, slots: Tensor) -> Tensor:
    """Return ``images[slots]``: the images themselves where all of them are asked for once, in order."""
    return images if _each_once(slots, len(images)) else images.index_select(0, slots)


def add_rows(total: Tensor, slots: Tensor, rows: Tensor) -> Tensor:
    """Return ``total`` ``(N, ...)`` with ``rows`` ``(M, ...)`` added to their slots, one after another.

    In a fixed order, so that the sum doesn't depend on how many evaluations were made at once.
    """
    if _each_once(slots, len(total)):
        return total + rows
    total = total.clone()
    for n, row in zip(to_list(slots), rows, strict=True):
        total[n].add_(row)
    return total


def _each_once(slots: Tensor, count: int) -> bool:
    return to_list(slots) == list(range(count))


def relative(amount: Tensor, reference: Tensor) -> Tensor:
    """Return ``amount`` ``(N,)`` over the largest absolute value in each row of ``reference``; zero stays zero."""
    return torch.where(amount == 0, 0.0, amount / reference.reshape(len(amount), -1).abs().amax(1))


def attribute(
    method: Attribution,
    network: Network | Mapping[str, Network],
    x: Tensor,
    targets: Tensor | Sequence[int],
    *,
    evaluations: int | None = None,
    seeds: Sequence[int] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute maps with a bare loop, without a run: the reference that runs are held against.

    Args:
        method: how.
        network: what is asked; a mapping where the method asks several (see :attr:`Attribution.networks`).
        x: what is explained ``(N, ...)``, of any shape that method and network take.
        targets: ``(N,)`` class indices.
        evaluations: a map; the method's own number unless given.
        seeds: of the draws, one a row; 0, 1, 2 ... unless given.

    Returns:
        the maps (see :meth:`Attribution.attribution`) and their uncertainty.
    """
    networks: dict[str, Network] = dict(
        network if isinstance(network, Mapping) else dict.fromkeys(method.networks, network)
    )
    wanted = torch.as_tensor(targets, device=x.device)
    seeds = range(len(x)) if seeds is None else seeds
    tasks = [Task(i, f"input {i}", seed, target=int(t)) for i, (seed, t) in enumerate(zip(seeds, wanted, strict=True))]
    total = method.default_evaluations(x.shape[1:]) if evaluations is None else evaluations

    evaluate = bare_evaluate(method.objective, networks, {"targets": wanted}, method.layers)
    count = torch.zeros(len(x), dtype=torch.long, device=x.device)
    last = torch.full_like(count, total)
    state = {**method.init(x, tasks), "iteration": count, "iterations": last, "until": last}
    with torch.no_grad():
        while bool((state["iteration"] < last).any()):
            advance = method.advance(state)
            _, state, done = method.step(x, state, evaluate)
            if bool(done.all()):
                break
            state["iteration"] = state["iteration"] + advance.masked_fill(done, 0)
    return method.attribution(x, state), method.uncertainty(x, state)
