"""Time of a run by part."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lit_viz.evidence.verifier import OutcomeVerifier
from lit_viz.methods import ClassVisualization, adversarial_example

from .material import PHOTOGRAPHS, WARM

#: Owner, name and part of a timed function.
Place = tuple[Any, str, str]

#: Functions that compute evidence: verification of files, judges, comparison with Captum.
EVIDENCE: tuple[Place, ...] = (
    (adversarial_example, "save_and_verify", "evidence"),
    (ClassVisualization, "judge", "evidence"),
    (OutcomeVerifier, "verify", "evidence"),
)


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """Return seconds and result."""
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


class Clock:
    """Sum the seconds of each part; nested calls count for the innermost part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._parts = ["outside"]
        self._since = time.perf_counter()

    def switch(self) -> None:
        """Add the time since the last switch to the current part."""
        now = time.perf_counter()
        self.seconds[self._parts[-1]] += now - self._since
        self._since = now

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed as the part."""

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
def time_parts(places: Sequence[Place]) -> Iterator[Clock]:
    """Time the body by part; ``outside`` is the remaining time."""
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
    """Return ``seconds`` of a run without its evidence, seconds of the ``evidence``, and the run; after a short run as
    warm-up."""
    start(min(images, PHOTOGRAPHS), min(iterations, WARM))
    with time_parts(EVIDENCE) as clock:
        run = start(images, iterations)
    return {"seconds": clock.seconds["outside"], "evidence": clock.seconds["evidence"]}, run
