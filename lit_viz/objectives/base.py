"""Base class of objectives, the outputs that they read, and their arithmetic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy as copy_shallow
from dataclasses import dataclass, field
from math import prod

from torch import Tensor

from lit_viz.errors import check_shape, require
from lit_viz.networks import Network
from lit_viz.utils.parts import Part


@dataclass(frozen=True)
class Outputs:
    """Outputs of the network for M inputs, and the goals of their tasks.

    Rows are ordered by task, image of the task's group, and view.

    Attributes:
        logits: ``(M, K)``.
        targets: ``(M,)`` int64, target class of each input; the true class for tasks without a target.
        activations: ``{layer: (M, ...)}`` for the layers of the objective.
        labels: ``(M,)`` int64, true class; -1 if unknown.
        targeted: ``(M,)`` bool, True where ``targets`` is the class to reach, False where it is the class to leave (an
            untargeted attack). None means all True.
        channels: ``(M,)`` int64, channel of each input's task; -1 if it has none.
        against: ``(M,)`` int64, class that the target is contrasted with; -1 if there is none.
        members: ``(M,)`` int64, index of the input's image in the group of its task. None means one image per task.
        inputs: number of inputs per task; M is a multiple.
        thresholds: ``(M,)``, score that divides success from failure, of scores that are numbers; None means 0.
        restarted: ``(M,)`` bool, True for an image that has started again; None means all False.
    """

    logits: Tensor
    targets: Tensor
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    targeted: Tensor | None = None
    channels: Tensor | None = None
    against: Tensor | None = None
    members: Tensor | None = None
    inputs: int = 1
    thresholds: Tensor | None = None
    restarted: Tensor | None = None


class Objective(Part, ABC):
    """Base class of differentiable scores to maximize.

    Subclasses implement :meth:`__call__`. Objectives support ``+``, ``-`` and ``*``, also with numbers.

    Example:
        >>> from lit_viz.objectives import Logit, LogProbability
        >>> objective = Logit() + 0.5 * LogProbability()
    """

    #: Layers whose activations the objective reads.
    layers: tuple[str, ...] = ()
    #: Fields of the task that the objective reads: ``target`` (a class), ``against`` (its contrast), ``channel``.
    task_fields: frozenset[str] = frozenset()
    #: Number of channels that a task can select, set by :meth:`bind`; None if tasks select none.
    channels: int | None = None
    #: Whether the score of an input depends on the other inputs of its task.
    couples: bool = False
    #: Whether the objective reads the logits; a forward for other objectives stops at the last of their layers.
    reads_logits: bool = True

    def bind(self, network: Network) -> None:
        """Validate the objective for a network and read its properties; called before the first evaluation."""

    @abstractmethod
    def __call__(self, outputs: Outputs) -> Tensor:
        """Compute the scores ``(M,)``; row m depends on input m, or on the inputs of its task, only."""

    def __add__(self, other: Objective) -> Objective:
        return Sum([self, other])

    def __sub__(self, other: Objective) -> Objective:
        return Sum([self, other], [1.0, -1.0])

    def __mul__(self, other: Objective | float) -> Objective:
        if isinstance(other, Objective):
            return Product([self, other])
        return Sum([self], [float(other)])

    def __rmul__(self, factor: float) -> Objective:
        return self * factor

    def __neg__(self) -> Objective:
        return self * -1.0


def copied(objective: Objective) -> Objective:
    """Return a copy of an objective and of its terms; :meth:`Objective.bind` changes the copy only."""
    copy = copy_shallow(objective)
    terms = getattr(objective, "terms", None)
    if terms is not None:
        copy.terms = [copied(term) for term in terms]  # type: ignore[attr-defined]
    return copy


def evaluate_objective(objective: Objective, outputs: Outputs) -> Tensor:
    """Compute the scores ``(M,)`` and validate their shape."""
    scores = objective(outputs)
    check_shape(objective, scores, outputs.logits.shape[:1], meaning="a score for each input of the network")
    return scores


class _Composed(Objective):
    """Base class of combinations of objectives."""

    completed = ("terms",)

    def __init__(self, terms: Sequence[Objective]) -> None:
        self.terms = list(terms)
        self.reads_logits = False
        for term in self.terms:
            self.task_fields |= term.task_fields
            self.couples |= term.couples
            self.reads_logits |= term.reads_logits

    @property
    def layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """Layers of all terms; some terms define their layers in :meth:`bind`."""
        layers: dict[str, None] = {}
        for term in self.terms:
            layers |= dict.fromkeys(term.layers)
        return tuple(layers)

    def bind(self, network: Network) -> None:
        """Bind the terms; a task can select the channels that all of them have."""
        counts = []
        for term in self.terms:
            term.bind(network)
            if term.channels is not None:
                counts.append(term.channels)
        self.channels = min(counts, default=None)


class Sum(_Composed):
    """Weighted sum of objectives.

    Args:
        terms: objectives.
        weights: one per term; default 1 each.
    """

    def __init__(self, terms: list[Objective], weights: list[float] | None = None) -> None:
        self.weights = [1.0] * len(terms) if weights is None else list(weights)
        got = f"{len(self.weights)} for {len(terms)} terms"
        require(len(self.weights) == len(terms) > 0, "Sum must have one weight per term", got)
        super().__init__(terms)

    def __call__(self, outputs: Outputs) -> Tensor:
        scores = [evaluate_objective(term, outputs) for term in self.terms]
        total = self.weights[0] * scores[0]
        for weight, score in zip(self.weights[1:], scores[1:], strict=True):
            total = total + weight * score
        return total


class Product(_Composed):
    """Product of objectives."""

    def __init__(self, terms: list[Objective]) -> None:
        require(terms, "Product must have at least one term", "none")
        super().__init__(terms)

    def __call__(self, outputs: Outputs) -> Tensor:
        first, *others = [evaluate_objective(term, outputs) for term in self.terms]
        return prod(others, start=first)
