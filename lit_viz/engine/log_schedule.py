"""When to look: the iterations at which an image is logged."""

from __future__ import annotations

from dataclasses import dataclass

from lit_viz.errors import LitVizError


@dataclass(frozen=True)
class LogSchedule:
    """A set of iterations; the last one of an image always belongs to it.

    Attributes:
        iterations: these iterations.
        every: and every so many, from 0; 0 means none.
        geometric: and 0, 1, 2, 4, 8 ...
    """

    iterations: frozenset[int] = frozenset()
    every: int = 0
    geometric: bool = False

    @classmethod
    def parse(cls, text: str | int) -> LogSchedule:
        """Read ``"1,50,100,200"``, ``"every:10"``, ``"geometric"`` or ``"last"``.

        Raises:
            LitVizError: for anything else.
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
                f"'{text}' names no iterations: give 1,50,100,200 (a list), every:10, geometric, or last."
            )
        if kind == "":
            return cls(iterations=frozenset(map(int, numbers)))
        if len(numbers) != 1 or int(number) == 0:
            raise LitVizError(f"'{text}' names no iterations: every: takes one number from 1 up, such as every:10.")
        return cls(every=int(number))

    def due(self, iteration: int, last: int) -> bool:
        """Return whether image ``iteration`` of an image with ``last`` iterations is looked at."""
        return (
            iteration == last
            or iteration in self.iterations
            or (self.every > 0 and iteration % self.every == 0)
            or (self.geometric and iteration & (iteration - 1) == 0)
        )

    def after(self, iteration: int, last: int) -> int:
        """Return the next iteration that is due, for an image with ``last`` iterations."""
        due = [last, *(k for k in self.iterations if k > iteration)]
        if self.every:
            due.append((iteration // self.every + 1) * self.every)
        if self.geometric:
            due.append(1 << iteration.bit_length())
        return min(due)
