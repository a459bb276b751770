"""The index of a report: thumbnails of the tasks, and the values by which they are filtered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lit_viz.presentations import Presentation
from lit_viz.report.images import image_uri, is_embeddable
from lit_viz.runs.evidence import Evidence
from lit_viz.runs.results import Outcome
from lit_viz.types import Record

MAX_THUMBNAILS = 400
MIN_THUMBNAILS = 6  # fewer tasks have no index
_WIDTH = 96  # of a thumbnail in pixels


@dataclass(frozen=True)
class Thumbnail:
    """A task in the index.

    Attributes:
        record: of the task.
        facets: values by which it is filtered, such as class and outcome.
        image: data URI; empty if there is none.
    """

    record: Record
    facets: Mapping[str, str]
    image: str

    @property
    def title(self) -> str:
        """Name and facets, for a tooltip."""
        return ", ".join([self.record.name, *self.facets.values()])


def build_index(outcomes: Sequence[Outcome], presentation: Presentation, evidence: Evidence) -> list[Thumbnail]:
    """Return the thumbnails of the first :data:`MAX_THUMBNAILS` tasks; none for a few tasks."""
    if len(outcomes) < MIN_THUMBNAILS:
        return []
    thumbnails = []
    ordered = sorted(outcomes, key=lambda outcome: not presentation.comes_first(outcome.record))
    for outcome in ordered[:MAX_THUMBNAILS]:
        _, picture = outcome.pictures()
        image = ""
        if picture is not None and is_embeddable(picture):
            image = image_uri(picture, _WIDTH)
        thumbnails.append(Thumbnail(outcome.record, presentation.facets(outcome.record, evidence), image))
    return thumbnails


def filters_of(index: Sequence[Thumbnail]) -> dict[str, list[str]]:
    """Return the values of each facet that has several, in order of appearance."""
    values: dict[str, list[str]] = {}
    for thumbnail in index:
        for facet, value in thumbnail.facets.items():
            of_facet = values.setdefault(facet, [])
            if value not in of_facet:
                of_facet.append(value)
    return {facet: of_facet for facet, of_facet in values.items() if len(of_facet) > 1}
