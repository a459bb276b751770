"""Errors with a message for the user, and suggestions of similar names."""

from __future__ import annotations

import difflib
import re
import signal
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
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
    "n_steps": "iterations",
    "nt_samples": "iterations",
    "stdevs": "sigma",
}

#: Classes of other tools in lower case (``docs/migrate``), the part that has their task, and its arguments.
OTHER_PARTS = {
    "saliency": ("gradient", ""),
    "noisetunnel": ("smoothgrad", ""),
    "bim": ("pgd", "random_start=False"),
    "mifgsm": ("pgd", "random_start=False and momentum=1"),
    "nifgsm": ("pgd", "random_start=False, momentum=1 and nesterov=True"),
    "cw": ("carlini_wagner", ""),
    "fab": ("fmn", ""),
    "autoattack": ("ensemble", ""),
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


def _shown(message: str) -> str:
    """Return a message without control characters, with long values shortened."""
    return _LONG_VALUE.sub(_shortened, printable(message))


class LitVizError(Exception):
    """An error that the user can correct. The command line prints the message without a traceback.

    Values of more than 200 characters are shortened to their beginning and end.

    Args:
        message: one sentence: the constraint, the value, and at most one suggestion.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_shown(message))

    @property
    def as_option(self) -> str:
        """The message as the command line prints it."""
        return str(self)


class ArgumentError(LitVizError):
    """An error of an argument, whose message starts with its name. The command line prints its option instead.

    Args:
        argument: name of the argument.
        problem: the rest of the message: the constraint, the value, and at most one suggestion.
        value: value of the argument.
    """

    def __init__(self, argument: str, problem: str, *, value: object = None) -> None:
        super().__init__(f"{argument} {problem}")
        self.argument, self.problem, self.value = argument, problem, value

    @property
    def as_option(self) -> str:
        """The message with the option in place of the argument."""
        option = self.argument if "." in self.argument else self.argument.replace("_", "-")
        return _shown(f"--{option} {self.problem}")


class WriteError(LitVizError):
    """A file cannot be written; what has been written is kept."""


class SkippedTask(LitVizError):
    """A task about which there is nothing to compute; its record has the status ``skipped``, with this reason."""


class ChangedInput(LitVizError):
    """An input image differs from the one that the run has read before. The run stops."""


class NetworkError(RuntimeError):
    """The forward of the user's network raised; its exception is the cause."""


class Terminated(KeyboardInterrupt):
    """SIGTERM; the command line handles it as it handles Ctrl-C."""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM stopped a run. With a run folder, the finished steps are saved.

    It is no ``Exception``: a program that handles the errors of its runs by ``except Exception`` ends too. A script
    that does not handle it prints the message without a traceback, and has its exit status.

    Args:
        event: what has been stopped, such as ``stopped after 2 of 3 images``.
        continuation: how it is continued, such as ``continue with: lit-viz resume RUN``; empty if it can't be.
        exit_status: 128 + the signal number.
    """

    def __init__(self, event: str, continuation: str, exit_status: int) -> None:
        super().__init__(_shown("; ".join(filter(None, (event, continuation)))))
        self.event, self.continuation, self.exit_status = event, continuation, exit_status
        if sys.excepthook is not _report_interrupt:
            _other_hooks.append(sys.excepthook)
            sys.excepthook = _report_interrupt


#: Hooks for uncaught exceptions that were replaced; the last one receives other exceptions.
_other_hooks: list[Any] = []


def _report_interrupt(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End a script with the exit status of an interrupt; pass other uncaught exceptions on."""
    is_interactive = hasattr(sys, "ps1")  # which goes on
    if is_interactive or not isinstance(error, Interrupted):
        _other_hooks[-1](kind, error, trace)
        return
    print(f"lit_viz: {error}", file=sys.stderr)
    sys.exit(error.exit_status)


def interrupt_exit_status(interrupt: BaseException | None) -> int:
    """Return the exit status after a KeyboardInterrupt: 128 + the signal number."""
    if isinstance(interrupt, Terminated):
        return 128 + signal.SIGTERM
    return 128 + signal.SIGINT


#: Of the loader of libraries, the host, GPUs, and CUDA's libraries.
_MEMORY_TEXTS = (
    "failed to map segment", "cannot allocate memory", "can't allocate memory", "out of memory", "alloc_failed",
)  # fmt: skip


def is_out_of_memory(error: Exception) -> bool:
    """Return whether memory is exhausted, on a GPU or the host, also while a library is loaded."""
    if isinstance(error, MemoryError):
        return True
    message = str(error).lower()
    return any(text in message for text in _MEMORY_TEXTS)


def is_out_of_gpu_memory(error: Exception) -> bool:
    """Return whether exhausted memory is that of a GPU: ``CUDA``, ``CUDNN`` and ``CUBLAS`` in the message of torch."""
    return is_out_of_memory(error) and "CU" in str(error)


def did_you_mean(name: str, choices: Iterable[str], limit: int = 4) -> str:
    """Return ``"; did you mean 'a' or 'b'?"`` with the choices most similar to a name, or an empty string.

    Options are compared without their dashes, and suggested with them.
    """
    by_folded: dict[str, str] = {}
    for choice in choices:
        by_folded.setdefault(choice.casefold().removeprefix("--"), choice)
    folded = name.casefold().removeprefix("--")
    near: dict[str, None] = {}  # in their order
    one_typo = [choice for choice in by_folded if len(folded) > 2 and _is_one_typo(folded, choice)]
    one_typo.sort(key=lambda choice: abs(len(choice) - len(folded)))  # another letter first
    near.update(dict.fromkeys(one_typo))  # hey: hay, then they, then heyday
    if len(folded) > 2:
        near.update(dict.fromkeys(choice for choice in by_folded if _contains(choice, folded)))
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


def _contains(choice: str, part: str) -> bool:
    """Return whether a choice contains a part of it: three letters at the start of a word, as deepfool is not foo."""
    start = r"(?<![a-z])" if len(part) == 3 else ""
    return re.search(start + re.escape(part), choice) is not None


def _is_one_typo(a: str, b: str) -> bool:
    """Return whether two words differ by one letter: another, a missing or an added one."""
    if a == b or abs(len(a) - len(b)) > 1:
        return False
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    if len(a) == len(b):
        return a[start + 1 :] == b[start + 1 :]
    return longer[start + 1 :] == shorter[start:]


def find_part(name: str, classes: Mapping[str, type[T]], noun: str) -> type[T]:
    """Return the class with a short name, in any case, with or without dashes and underscores."""
    letters = _letters(name)
    for key, part in classes.items():
        if _letters(key) == letters:
            return part
    other, arguments = OTHER_PARTS.get(letters, ("", ""))
    if other in classes:
        hint = f": use {other}"
        if arguments:
            hint += f" with {arguments}"
    else:
        hint = did_you_mean(name.strip().lower().replace("-", "_"), classes) or f": choose one of {', '.join(classes)}"
    raise LitVizError(f"there is no {noun} {name.strip()!r}{hint}")


def _letters(name: str) -> str:
    return name.strip().lower().replace("-", "").replace("_", "")


#: Name of an argument, in contrast to that of a class.
_ARGUMENT = re.compile(r"[a-z][\w.]*")


def require(valid: object, constraint: str, *values: object, hint: str = "", is_argument: bool = True) -> None:
    """Raise a LitVizError ``<constraint>, got <values>: <hint>`` unless ``valid`` is true.

    Args:
        valid: whether the constraint is satisfied.
        constraint: starts with the name of its argument, ``eps must be positive``, or of a class, ``RISE requires``.
        values: what is given.
        hint: suggestion.
        is_argument: false for a constraint on anything else, such as a file. Arguments are options on the command line.
    """
    if valid:
        return
    message = f"{constraint}, got {' and '.join(map(str, values))}"
    if hint:
        message += f": {hint}"
    argument, _, problem = message.partition(" ")
    if not is_argument or not _ARGUMENT.fullmatch(argument):
        raise LitVizError(message)
    raise ArgumentError(argument, problem, value=next(iter(values), None))


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
    place, package = "", Path(__file__).parent
    for frame in traceback.extract_tb(error.__traceback__):
        file = Path(frame.filename)
        is_installed = "site-packages" in file.parts or file.is_relative_to(package)
        if file.suffix == ".py" and not is_installed:
            place = f"{file.name}:{frame.lineno}"
    return place


def first_line(error: BaseException) -> str:
    """Return the first line of an error message (TorchScript: the last) without a full stop, or the error's class."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = lines[0]
    if "TorchScript" in line:
        line = lines[-1]
    return line[:200].rstrip(".")
