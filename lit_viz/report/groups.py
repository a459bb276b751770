"""Tasks of the same photograph, or of the same class and seed, as groups of cards."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from lit_viz.presentations import Presentation, TableRow
from lit_viz.report.cards import Card, build_card
from lit_viz.report.images import image_uri
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.results import Outcome
from lit_viz.types import Record
from lit_viz.utils.formatting import pluralize


@dataclass(frozen=True)
class Group:
    """The tasks of a photograph, such as its methods or radii; or the variants of a class image.

    Attributes:
        cards: of the tasks.
        photograph: data URI; empty if there is none.
    """

    cards: Sequence[Card]
    photograph: str

    @property
    def name(self) -> str:
        """Name of the tasks."""
        return self.cards[0].record.name

    @property
    def common(self) -> list[str]:
        """Parts of the subtitles that all tasks have, such as the class."""
        common = _parts(self.cards[0])
        for card in self.cards[1:]:
            parts = _parts(card)
            common = [part for part in common if part in parts]
        return common

    @property
    def size(self) -> int:
        """Number of images side by side: a result of each task, and the photograph."""
        return len(self.cards) + bool(self.photograph)

    def heading(self, card: Card) -> str:
        """Return what distinguishes a task of several, such as its method or radius."""
        common = self.common
        parts = [part for part in _parts(card) if part not in common]
        if parts:
            return ", ".join(parts)
        if card.title != self.name:
            return card.title.removeprefix(f"{self.name}, ")
        return pluralize(card.record.iterations or 0, "iteration")


def _parts(card: Card) -> list[str]:
    return card.subtitle.split(", ")


def group_tasks(records: Sequence[Record]) -> list[list[int]]:
    """Return the places of the records with the same photograph, or the same class and seed, in order."""
    groups: dict[Hashable, list[int]] = {}
    for place, record in enumerate(records):
        seed = record.seed
        if seed is None:
            seed = -1 - place  # equals no other
        groups.setdefault((record.name, record.source, seed), []).append(place)
    return list(groups.values())


def build_groups(
    outcomes: Sequence[Outcome],
    rows: Sequence[TableRow],
    places: Sequence[Sequence[int]],
    presentation: Presentation,
    evidence: Evidence,
    budget: float,
) -> list[Group]:
    """Return groups of cards.

    Args:
        outcomes: of all tasks.
        rows: of the results table.
        places: of the outcomes of each group.
        presentation: of the method.
        evidence: of the run.
        budget: total size of the embedded images in bytes, divided evenly.
    """
    count = sum(map(len, places))
    groups = []
    for group in places:
        photograph = _photograph([outcomes[place] for place in group])
        share = budget / count - len(photograph) / len(group)
        cards = []
        for place in group:
            cards.append(build_card(outcomes[place], rows[place], presentation, evidence, share))
        groups.append(Group(cards, photograph))
    return groups


def _photograph(group: Sequence[Outcome]) -> str:
    """Return the photograph of a group as a data URI; an empty text if there is none."""
    for outcome in group:
        photograph, _ = outcome.pictures()
        if photograph is not None:
            return image_uri(photograph)
    return ""
