"""An element or a function of what a network returns, as numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from lit_viz.errors import LitVizError, did_you_mean, first_line
from lit_viz.networks.decisions import Decision
from lit_viz.networks.outputs import Output, checked_scores
from lit_viz.networks.sources import import_object


class Regression(Output):
    """Numbers in a network's return value, or a function of it.

    Args:
        element: index or key of the return value, or a function of it (also ``module:function``), that gives the scores
            ``(N, K)`` or ``(N,)``; the whole return value by default.
        names: K names of the scores.
        unit: what one score is, for captions: ``years``.
        decision: what the scores decide, if they are no numbers; see
            :data:`~lit_viz.networks.decisions.Decision`.

    Attributes:
        other_names: what the name of the element may have been meant as, if there is no such element.
    """

    other_names: Sequence[str] = ()

    def __init__(
        self,
        element: int | str | Callable[..., Any] | None = None,
        *,
        names: Sequence[str] | None = None,
        unit: str = "score",
        decision: Decision = "number",
    ) -> None:
        if isinstance(element, str) and ":" in element:  # as configurations name a function
            element = import_object(element, "output")
        self.element, self.unit, self.decision = element, unit, decision
        self._names = None if names is None else tuple(names)

    @property
    def names(self) -> Sequence[str] | None:
        return self._names

    def scores(self, returned: Any, images: int) -> Tensor:
        return checked_scores(self._selected(returned), images, f"output {self._element_name}")

    @property
    def _element_name(self) -> str:
        if self.element is None:
            return "of the network"
        return getattr(self.element, "__name__", repr(self.element))

    def _selected(self, returned: Any) -> Any:
        if self.element is None:
            return returned
        try:
            if callable(self.element):
                return self.element(returned)
            if isinstance(self.element, str) and hasattr(returned, self.element):
                return getattr(returned, self.element)
            return returned[self.element]
        except LitVizError:
            raise
        except Exception as error:  # any error of the user's function
            kind = type(returned).__name__
            reason = f"{type(error).__name__}: {first_line(error)}"
            near = self._near(returned)
            raise LitVizError(
                f"output {self._element_name} fails on what the network returned, a {kind} ({reason}){near}"
            ) from error

    def _near(self, returned: Any) -> str:
        """Return the outputs and keys with names similar to that of the element, as a suggestion."""
        if not isinstance(self.element, str):
            return ""
        names = list(self.other_names)
        if isinstance(returned, Mapping):
            names += map(str, returned)
        return did_you_mean(self.element, names)
