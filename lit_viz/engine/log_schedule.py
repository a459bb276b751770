"""The iterations at which an image is logged."""

from __future__ import annotations

from dataclasses import dataclass

from lit_viz.errors import LitVizError


@dataclass(frozen=True)
class LogSchedule:
    """Set of iterations; the last iteration of an image always belongs to it.

    Attributes:
        iterations: explicit iterations.
        every: period, starting at 0; 0 for none.
        geometric: whether 0 and the powers of 2 belong to it.
    """

    iterations: frozenset[int] = frozenset()
    every: int = 0
    geometric: bool = False

    @classmethod
    def parse(cls, text: str | int) -> LogSchedule:
        """Parse ``"1,50,100,200"``, ``"every:10"``, ``"geometric"`` or ``"last"``.

        Raises:
            LitVizError: the text is none of these.
        """
        words = str(text).replace(" ", "")
        if words == "geometric":
            return cls(geometric=True)
        if words == "last":
            return cls()
        kind, _, number = words.rpartition(":")
        numbers = number.split(",")
        if not all(n.isdecimal() for n in numbers) or kind not in ("", "every"):
            raise LitVizError(
                f"a log schedule must be a list such as 1,50,100,200, every:10, geometric or last, got '{text}'."
            )
        if kind == "":
            return cls(iterations=frozenset(map(int, numbers)))
        if len(numbers) != 1 or int(number) == 0:
            raise LitVizError(f"every: in a log schedule requires one number of at least 1, got '{text}'.")
        return cls(every=int(number))

    def due(self, iteration: int, last: int) -> bool:
        """Return whether an image with ``last`` iterations is logged at ``iteration``."""
        return (
            iteration == last
            or iteration in self.iterations
            or (self.every > 0 and iteration % self.every == 0)
            or (self.geometric and iteration & (iteration - 1) == 0)
        )

    def after(self, iteration: int, last: int) -> int:
        """Return the next logged iteration of an image with ``last`` iterations."""
        due = [last, *(k for k in self.iterations if k > iteration)]
        if self.every:
            due.append((iteration // self.every + 1) * self.every)
        if self.geometric:
            due.append(1 << iteration.bit_length())
        return min(due)
