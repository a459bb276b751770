"""Where the time of a run goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lit_viz.methods import ClassVisualization, adversarial_example
from lit_viz.presentations.adversarial_example import AdversarialExamplePresentation
from lit_viz.presentations.class_visualization import ClassVisualizationPresentation
from lit_viz.presentations.saliency_map import SaliencyMapPresentation
from lit_viz.presentations.universal_perturbation import UniversalPerturbationPresentation

from .material import PHOTOGRAPHS, WARM

#: Owner, name and part of a function whose time is counted.
Place = tuple[Any, str, str]

#: Functions that compute evidence: verification of files, judges, comparison with Captum.
EVIDENCE: tuple[Place, ...] = (
    (adversarial_example, "save_and_verify", "evidence"),
    (ClassVisualization, "judge", "evidence"),
    *(
        (presentation, "verify", "evidence")
        for presentation in (
            AdversarialExamplePresentation,
            ClassVisualizationPresentation,
            SaliencyMapPresentation,
            UniversalPerturbationPresentation,
        )
    ),
)


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Return seconds and result."""
    began = time.perf_counter()
    result = action()
    return time.perf_counter() - began, result


class Clock:
    """Counts each moment for the innermost part that is under way."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._parts = ["outside"]
        self._since = time.perf_counter()

    def switch(self) -> None:
        """Count what went by since the last switch."""
        now = time.perf_counter()
        self.seconds[self._parts[-1]] += now - self._since
        self._since = now

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time counted for the part."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.switch()
            self._parts.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.switch()
                self._parts.pop()

        return timed


@contextmanager
def taken_apart(places: Sequence[Place]) -> Iterator[Clock]:
    """Count the time of every run in the body by its parts; ``outside`` is what no part has."""
    before = [getattr(owner, name) for owner, name, _ in places]
    clock = Clock()
    for (owner, name, part), function in zip(places, before, strict=True):
        setattr(owner, name, clock.around(part, function))
    try:
        yield clock
        clock.switch()
    finally:
        for (owner, name, _), function in zip(places, before, strict=True):
            setattr(owner, name, function)


def evidence_apart(start: Callable[[int, int], Any], images: int, iterations: int) -> tuple[dict[str, Any], Any]:
    """Return ``seconds`` of a run without its evidence, and of its ``evidence``; and the run.

    Before it a short run loads and warms up whatever the run needs.
    """
    start(min(images, PHOTOGRAPHS), min(iterations, WARM))
    with taken_apart(EVIDENCE) as clock:
        done = start(images, iterations)
    return {"seconds": clock.seconds["outside"], "evidence": clock.seconds["evidence"]}, done
