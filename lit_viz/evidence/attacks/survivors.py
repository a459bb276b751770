"""Which member of an ensemble of attacks fooled how many images, and how many it left to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lit_viz.runs.results import Outcome


@dataclass(frozen=True)
class Left:
    """What a member did.

    Attributes:
        member: its name.
        tried: images that it tried to fool.
        fooled: images that it fooled, as floats.
        left: images that nobody had fooled after it.
    """

    member: str
    tried: int
    fooled: int
    left: int

    @property
    def sentence(self) -> str:
        """In one line."""
        return f"{self.member} fooled {self.fooled} of {self.tried}, {self.left} left"


def survivors(outcomes: Sequence[Outcome]) -> list[Left]:
    """Return what each member of an ensemble did, in their order; nothing where there was no ensemble.

    Args:
        outcomes: of the run; those that are done count.
    """
    records = [o.record for o in outcomes if o.record["status"] == "done" and "tried" in o.record]
    longest: list[str] = max((record["tried"] for record in records), key=len, default=[])
    found, left = [], len(records)
    for member in longest:
        fooled = sum(record["by"] == member for record in records)
        left -= fooled
        found.append(Left(member, sum(member in record["tried"] for record in records), fooled, left))
    return found
