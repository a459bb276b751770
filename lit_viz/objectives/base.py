"""The interface of objectives and their arithmetic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from torch import Tensor

from lit_viz.classifiers import Classifier
from lit_viz.errors import LitVizError, check_shape


@dataclass(frozen=True)
class Outputs:
    """What the network said of M inputs.

    Attributes:
        logits: ``(M, K)``.
        targets: ``(M,)`` int64, the class that each input's task asks for; where it asks for none, the true class.
        activations: ``{layer: (M, ...)}`` of the layers that the objective asked for.
        labels: ``(M,)`` int64, the true class; -1 where it is not known.
        targeted: ``(M,)`` bool, whether ``targets`` is the class to reach (else it is the class to leave: an untargeted
            attack); all, unless given.
        channels: ``(M,)`` int64, the channel that each input's task asks for; -1 where it asks for none.
        members: ``(M,)`` int64, which image of its task's group each input shows, from 0; the rows are in the order
            task, image, view. A task has one image unless given.
        inputs: of each task; M is a multiple.
    """

    logits: Tensor
    targets: Tensor
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    targeted: Tensor | None = None
    channels: Tensor | None = None
    members: Tensor | None = None
    inputs: int = 1


class Objective(ABC):
    """A differentiable score; higher is better. Objectives add, subtract and multiply, also with numbers.

    Example:
        >>> from lit_viz.objectives import Logit, LogProbability
        >>> objective = Logit() + 0.5 * LogProbability()
    """

    #: Names of the layers whose activations the objective reads.
    layers: tuple[str, ...] = ()
    #: What it takes from the task: ``target`` (a class), ``channel``.
    task_fields: frozenset[str] = frozenset()
    #: How many channels a task can choose from, once it is bound; None where it chooses none.
    channels: int | None = None
    #: Whether the score of an input depends on the other inputs of its task.
    couples: bool = False

    def bind(self, classifier: Classifier) -> None:  # noqa: B027 - most have nothing to know
        """Take from the classifier what the objective has to know of it, before it is used; nothing by default.

        Raises:
            LitVizError: the objective makes no sense for it: a layer that it doesn't have, a channel too many.
        """

    @abstractmethod
    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the scores ``(M,)``; row m depends on input m alone, or on the inputs of its task."""

    def __add__(self, other: Objective) -> Objective:
        return Sum([self, other])

    def __sub__(self, other: Objective) -> Objective:
        return Sum([self, other], [1.0, -1.0])

    def __mul__(self, other: Objective | float) -> Objective:
        return Product([self, other]) if isinstance(other, Objective) else Sum([self], [float(other)])

    def __rmul__(self, factor: float) -> Objective:
        return self * factor

    def __neg__(self) -> Objective:
        return self * -1.0


def evaluate_objective(objective: Objective, outputs: Outputs) -> Tensor:
    """Return the scores ``(M,)``.

    Raises:
        LitVizError: the objective returned something else.
    """
    scores = objective(outputs)
    check_shape(objective, scores, outputs.logits.shape[:1], meaning="a score for each input of the network")
    return scores


class _Composed(Objective):
    """Of terms: it reads, asks and has to know what they do."""

    def __init__(self, terms: Sequence[Objective]) -> None:
        self.terms = list(terms)
        self.task_fields = frozenset().union(*(term.task_fields for term in terms))
        self.couples = any(term.couples for term in terms)

    @property
    def layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the terms read; some know it once they are bound."""
        return tuple(dict.fromkeys(layer for term in self.terms for layer in term.layers))

    def bind(self, classifier: Classifier) -> None:
        """Bind the terms; a task can choose what all of them have."""
        for term in self.terms:
            term.bind(classifier)
        self.channels = min((term.channels for term in self.terms if term.channels is not None), default=None)


class Sum(_Composed):
    """Weighted sum of objectives.

    Args:
        terms: the objectives.
        weights: one number a term; 1 each unless given.
    """

    def __init__(self, terms: list[Objective], weights: list[float] | None = None) -> None:
        self.weights = [1.0] * len(terms) if weights is None else list(weights)
        if not terms or len(self.weights) != len(terms):
            raise LitVizError(
                f"a sum of objectives needs one weight a term, not {len(self.weights)} for {len(terms)}: "
                "give as many weights as terms."
            )
        super().__init__(terms)

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the weighted sum ``(M,)``."""
        scores = [evaluate_objective(term, outputs) for term in self.terms]
        first, *others = (weight * score for score, weight in zip(scores, self.weights, strict=True))
        return sum(others, start=first)


class Product(_Composed):
    """Product of objectives."""

    def __init__(self, terms: list[Objective]) -> None:
        if not terms:
            raise LitVizError("a product of objectives has no terms: give at least one.")
        super().__init__(terms)

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the product ``(M,)``."""
        first, *others = (evaluate_objective(term, outputs) for term in self.terms)
        return prod(others, start=first)
