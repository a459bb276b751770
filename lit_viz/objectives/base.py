"""The interface of objectives and their arithmetic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from torch import Tensor

from lit_viz.errors import LitVizError


@dataclass(frozen=True)
class Outputs:
    """What the network said of M inputs.

    Attributes:
        logits: ``(M, K)``.
        targets: ``(M,)`` int64, the class that each input's task asks for; where it asks for none, the true class.
        activations: ``{layer: (M, ...)}`` of the layers that the objective asked for.
        labels: ``(M,)`` int64, the true class; -1 where it is not known.
        towards: ``(M,)`` bool, whether ``targets`` is the class to reach (else it is the class to leave: an untargeted
            attack); all, unless given.
    """

    logits: Tensor
    targets: Tensor
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    towards: Tensor | None = None


class Objective(ABC):
    """A differentiable score; higher is better. Objectives add, subtract and multiply, also with numbers.

    Example:
        >>> from lit_viz.objectives import Logit, LogProbability
        >>> objective = Logit() + 0.5 * LogProbability()
    """

    #: Names of the layers whose activations the objective reads.
    layers: tuple[str, ...] = ()

    @abstractmethod
    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the scores ``(M,)``; row m depends on input m alone."""

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


def _layers(terms: Sequence[Objective]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(layer for term in terms for layer in term.layers))


class Sum(Objective):
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
        self.terms = list(terms)
        self.layers = _layers(self.terms)

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the weighted sum ``(M,)``."""
        first, *others = (weight * term(outputs) for term, weight in zip(self.terms, self.weights, strict=True))
        return sum(others, start=first)


class Product(Objective):
    """Product of objectives."""

    def __init__(self, terms: list[Objective]) -> None:
        if not terms:
            raise LitVizError("a product of objectives has no terms: give at least one.")
        self.terms = list(terms)
        self.layers = _layers(self.terms)

    def __call__(self, outputs: Outputs) -> Tensor:
        """Return the product ``(M,)``."""
        first, *others = (term(outputs) for term in self.terms)
        return prod(others, start=first)
