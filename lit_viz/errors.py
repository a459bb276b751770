"""The one exception for everything a user can mend, and the near-name hint its sentences use."""

from __future__ import annotations

import difflib
import re
import signal
from collections.abc import Iterable, Sequence
from typing import Any

#: Where a gradient is wanted of a network that gives none.
NO_GRADIENT = (
    "the classifier gives no gradient by its input: take torch.no_grad, torch.inference_mode, detach or quantized "
    "layers out of its forward, or choose what only asks for forwards (rise, occlusion, square)"
)


class LitVizError(Exception):
    """One plain sentence: what was wrong, where, and what to do.

    The command line prints the sentence without a traceback and exits with a status that is not 0; in Python it is an
    ordinary exception.

    Args:
        sentence: the sentence.
        exit_status: of the command line.
    """

    def __init__(self, sentence: str, *, exit_status: int = 1) -> None:
        super().__init__(sentence)
        self.exit_status = exit_status


class NetworkError(RuntimeError):
    """The classifier's own code failed in a forward; its error is the cause."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which the command line takes as it takes Ctrl-C."""


def interrupt_exit_status(stop: BaseException | None) -> int:
    """Return the exit status after a KeyboardInterrupt: 128 + its signal."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def did_you_mean(name: str, choices: Iterable[str], limit: int = 4) -> str:
    """Return ``"; did you mean 'a' or 'b'?"`` for the nearest choices, or an empty string where none is near.

    Args:
        name: what the user wrote.
        choices: what would have been understood.
        limit: at most so many are offered.
    """
    by_folded: dict[str, str] = {}
    for choice in choices:
        by_folded.setdefault(choice.casefold(), choice)
    folded = name.casefold()
    near = [c for c in by_folded if len(folded) > 2 and folded in c]
    near += [c for c in difflib.get_close_matches(folded, by_folded, n=limit, cutoff=0.7) if c not in near]
    near = near or [word for word in re.split(r"[\W_]+", folded) if len(word) > 2 and word in by_folded]
    if not near:
        return ""
    return "; did you mean " + " or ".join(repr(by_folded[c]) for c in near[:limit]) + "?"


def check_shape(part: object, value: Any, *shapes: Sequence[int], meaning: str) -> None:
    """Hold what a part (an objective, a rule ...) has returned against the shapes that it may have.

    Args:
        part: that returned it; its class is named, for it may be of the user's own.
        value: a tensor, it is hoped.
        shapes: that are right.
        meaning: what they stand for, such as ``a score for each input``.

    Raises:
        LitVizError: it has none of them.
    """
    found = tuple(value.shape) if hasattr(value, "shape") else type(value).__name__
    if found not in [tuple(shape) for shape in shapes]:
        wanted = " or ".join(str(tuple(shape)) for shape in shapes)
        raise LitVizError(f"{type(part).__name__} returned {found} and not {wanted}: {meaning} is wanted")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind where it has none; without a full stop. TorchScript
    begins with itself, and ends with what was wrong."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if "TorchScript" in lines[0] else 0][:200].rstrip(".")
