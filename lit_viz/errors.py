"""Errors with a message for the user, and suggestions of similar names."""

from __future__ import annotations

import difflib
import re
import signal
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

#: Names in other tools, and the name to use.
OTHER_NAMES = {
    "epsilon": "eps",
    "steps": "iterations",
    "max_steps": "iterations",
    "max_epochs": "iterations",
    "n_samples": "iterations",
    "batch_size": "slots",
    "targets": "target",
    "labels": "label",
    "channels": "channel",
    "classes": "target",
    "radii": "eps",
    "photographs": "images",
    "check": "captum",
    "classifier": "network",
}

#: Raised where a gradient is required of a network that has none.
NO_GRADIENT = (
    "the network is not differentiable with respect to its input: remove torch.no_grad, torch.inference_mode, "
    "detach or quantized layers from its forward, or choose a gradient-free method (rise, occlusion, square)"
)


# Escape sequences of terminals, other control characters but tabs and line ends, and marks that reorder text.
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


def printable(text: str) -> str:
    """Remove escape sequences and other control characters from text of files, such as names and labels."""
    return _CONTROL.sub("", text)


# Long values in a message: quoted or in brackets, of more than 200 characters, or a word that is longer than the name
# of a file; and tensors and arrays. Paths are kept, since commands to copy contain them.
_LONG_VALUE = re.compile(
    r"(?<!\w)'(?!/)[^'\n]{200,}'(?!\w)|\[[^\[\]]{200,}\]|[^\s/:;]{260,}|\b(?:tensor|array)\((?:[^()]|\([^()]*\)){200,}\)"
)


def _shortened(value: re.Match[str]) -> str:
    """Return the beginning and the end of a long value in one line."""
    text = " ".join(value[0].split())
    return f"{text[:60]} ... {text[-20:]}"


class LitVizError(Exception):
    """An error that the user can correct. The command line prints the message without a traceback.

    Values of more than 200 characters are shortened to their beginning and end.

    Args:
        message: one sentence: the constraint, the value, and at most one suggestion.
        exit_status: exit status of the command line.
        argument: name of the argument at the beginning of the message; the command line shows its option.
        value: value of the argument.
    """

    def __init__(
        self, message: str, *, exit_status: int = 1, argument: str | None = None, value: object = None
    ) -> None:
        super().__init__(_LONG_VALUE.sub(_shortened, printable(message)))
        self.exit_status, self.argument, self.value = exit_status, argument, value

    @property
    def as_option(self) -> str:
        """The message with dashes in place of underscores in its first word, if this is the argument."""
        message = str(self)
        if self.argument is None or not message.startswith(f"{self.argument} "):
            return message
        option = self.argument if "." in self.argument else self.argument.replace("_", "-")
        return f"--{option}{message.removeprefix(self.argument)}"


class WriteError(LitVizError):
    """A file cannot be written; what has been written is kept."""


class ChangedInput(LitVizError):
    """An input image differs from the one that the run has read before. The run stops."""


class NetworkError(RuntimeError):
    """The forward of the user's network raised; its exception is the cause."""


class Terminated(KeyboardInterrupt):
    """SIGTERM; the command line handles it as it handles Ctrl-C."""


def interrupt_exit_status(interrupt: BaseException | None) -> int:
    """Return the exit status after a KeyboardInterrupt: 128 + the signal number."""
    if isinstance(interrupt, Terminated):
        return 128 + signal.SIGTERM
    return 128 + signal.SIGINT


def did_you_mean(name: str, choices: Iterable[str], limit: int = 4) -> str:
    """Return ``"; did you mean 'a' or 'b'?"`` with the choices most similar to a name, or an empty string.

    Options are compared without their dashes, and suggested with them.
    """
    by_folded: dict[str, str] = {}
    for choice in choices:
        by_folded.setdefault(choice.casefold().removeprefix("--"), choice)
    folded = name.casefold().removeprefix("--")
    near: dict[str, None] = {}  # in their order
    if len(folded) > 2:
        near.update(dict.fromkeys(choice for choice in by_folded if folded in choice))
        near.update(dict.fromkeys(choice for choice in by_folded if sorted(choice) == sorted(folded)))  # esp: eps
    near.update(dict.fromkeys(difflib.get_close_matches(folded, by_folded, n=limit, cutoff=0.7)))
    letters = sorted(folded)
    near.update(dict.fromkeys(choice for choice in by_folded if sorted(choice) == letters))  # pdg and pgd
    if not near:
        words = re.split(r"[\W_]+", folded)
        near.update(dict.fromkeys(word for word in words if len(word) > 2 and word in by_folded))
    if not near:
        return ""
    names = []
    for folded in list(near)[:limit]:
        suggestion = by_folded[folded]
        names.append(suggestion if suggestion.startswith("--") else repr(suggestion))
    return f"; did you mean {' or '.join(names)}?"


def find_part(name: str, classes: Mapping[str, type[T]], noun: str) -> type[T]:
    """Return the class with a short name, in any case, with or without dashes and underscores."""
    letters = _letters(name)
    for key, part in classes.items():
        if _letters(key) == letters:
            return part
    near = did_you_mean(name.strip().lower().replace("-", "_"), classes) or f": choose one of {', '.join(classes)}"
    raise LitVizError(f"there is no {noun} {name.strip()!r}{near}")


def _letters(name: str) -> str:
    return name.strip().lower().replace("-", "").replace("_", "")


def require(valid: object, constraint: str, *values: object, hint: str = "") -> None:
    """Raise a LitVizError ``<constraint>, got <values>: <hint>`` unless ``valid`` is true.

    A constraint starts with the name of its argument: ``eps must be positive``.
    """
    if valid:
        return
    message = f"{constraint}, got {' and '.join(map(str, values))}"
    if hint:
        message += f": {hint}"
    argument = re.match(r"[a-z][\w.]*(?= )", constraint)
    raise LitVizError(message, argument=argument and argument[0], value=next(iter(values), None))


def value_text(value: object) -> str:
    """Return a value as a message states it; an array or tensor by its class and shape."""
    shape = getattr(value, "shape", ())
    if isinstance(shape, tuple) and len(shape):
        return f"{type(value).__name__} of shape {tuple(shape)}"
    return repr(value)


def check_shape(component: object, value: Any, *shapes: Sequence[int], meaning: str) -> None:
    """Raise a LitVizError unless a component (an objective, a step rule ...) returned a tensor of one of the shapes.

    ``meaning`` describes the expected value, such as ``a score for each input``.
    """
    actual: object = type(value).__name__
    if hasattr(value, "shape"):
        actual = tuple(value.shape)
    expected = list(map(tuple, shapes))
    if actual not in expected:
        shape = " or ".join(map(str, expected))
        raise LitVizError(f"{type(component).__name__} must return {meaning}, shape {shape}, got {actual}")


def place_of(error: BaseException) -> str:
    """Return the last line of an exception's traceback that is not in an installed package, ``net.py:12``; or nothing.

    The command line prints no traceback.
    """
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        file = Path(frame.filename)
        if not {"site-packages", "lit_viz"} & set(file.parts) and file.suffix == ".py":
            place = f"{file.name}:{frame.lineno}"
    return place


def first_line(error: BaseException) -> str:
    """Return the first line of an error message (TorchScript: the last) without a full stop, or the error's class."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = lines[0]
    if "TorchScript" in line:
        line = lines[-1]
    return line[:200].rstrip(".")
