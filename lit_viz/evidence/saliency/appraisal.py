"""What was found of the maps of a run, as it is told and kept."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from lit_viz.attributions import title_of
from lit_viz.evidence.saliency.faithfulness import Curve
from lit_viz.evidence.saliency.randomization import Stage, unchanged
from lit_viz.evidence.tables import text_table

#: Maps that the terminal shows; all are in evidence.json.
_ROWS = 40


@dataclass(frozen=True)
class MapMetrics:
    """What was measured of one map.

    Attributes:
        of: its record.
        deletion, insertion: curves of the class's probability.
        controls: areas of (deletion, insertion) for maps that know nothing of the network, by name.
        sensitivity: to tiny changes of the photograph; None where it was left out.
        stages: of the cascading randomization; empty where it was left out.
        pointed: whether the map points at a true box; None where none is known.
        left_out: why something was.
    """

    of: Mapping[str, Any]
    deletion: Curve
    insertion: Curve
    controls: Mapping[str, tuple[float, float]]
    sensitivity: float | None = None
    stages: Sequence[Stage] = field(default_factory=list)
    pointed: bool | None = None
    left_out: str | None = None

    @property
    def remarks(self) -> list[str]:
        """What must be said of the map: what was left out, and that it doesn't depend on what upper layers know."""
        title, last = title_of(self.of["method"]), unchanged(self.stages)
        said = [] if self.left_out is None else [f"{title} is not measured anew (-): {self.left_out}"]
        if last is None:
            return said
        count = "all" if last is self.stages[-1] else f"the {last.layers} uppermost"
        layers = f"{count} layers are" if last.layers > 1 else "the uppermost layer is"
        return [
            *said,
            f"{title} of {self.of['name']} is insensitive to the network: its map stays the same "
            f"(Spearman {last.spearman:.2f}) when {layers} drawn anew",
        ]

    def row(self) -> dict[str, float | None]:
        """Return the numbers of the map's row in a table, by column."""
        deletions, insertions = (
            {f"{sign} {name}": areas[place] for name, areas in self.controls.items()}
            for place, sign in enumerate(("↓", "↑"))
        )
        first, last = (self.stages[i].spearman if self.stages else None for i in (0, -1))
        return {
            **{"deletion ↓": self.deletion.area, **deletions, "insertion ↑": self.insertion.area, **insertions},
            **{"sensitivity ↓": self.sensitivity, "top anew": first, "all anew": last},
            **({} if self.pointed is None else {"points": float(self.pointed)}),
        }

    def as_record(self) -> dict[str, Any]:
        """Return everything in plain values, as in ``evidence.json``."""
        return {
            **{key: self.of[key] for key in ("index", "name", "method", "target_name")},
            "deletion": self._curve(self.deletion, 0),
            "insertion": self._curve(self.insertion, 1),
            "max_sensitivity": _plain(self.sensitivity),
            "randomization": [{key: _plain(value) for key, value in vars(stage).items()} for stage in self.stages],
            "points_at_box": self.pointed,
            "left_out": self.left_out,
            "remarks": self.remarks,
        }

    def _curve(self, curve: Curve, place: int) -> dict[str, Any]:
        areas = {name: _plain(of_control[place]) for name, of_control in self.controls.items()}
        return {"area": _plain(curve.area), **areas, "curve": [_plain(value) for value in curve.scores.tolist()]}


def _plain(value: Any) -> Any:
    """Return a value that JSON knows: numbers to six decimals, None where they are not finite."""
    if not isinstance(value, float):
        return value
    return round(value, 6) if math.isfinite(value) else None


def table(appraisals: Sequence[MapMetrics]) -> str:
    """Return a line a map and, of a method that made several, a line with the means; below it what it means."""
    rows = [(a.of["name"], a.of["method"], a.of["target_name"] or "-", a.row()) for a in appraisals]
    columns = list(dict.fromkeys(column for *_, numbers in rows for column in numbers))
    told = [
        {"photograph": name, "method": method, "class": seen, **{c: _said(numbers.get(c)) for c in columns}}
        for name, method, seen, numbers in [*rows[:_ROWS], *_means(rows)]
    ]
    return f"{text_table(told, words=3)}\n{_MEANING}"


_Row = tuple[str, str, str, dict[str, float | None]]
_MEANING = (
    "deletion, insertion: mean probability while pixels are replaced, the most salient first; beside it for a random "
    "map and for the map moved by half a picture. anew: Spearman with the map of a network whose top layer, or all of "
    "which, is drawn anew."
)


def _means(rows: Sequence[_Row]) -> list[_Row]:
    by_method: dict[str, list[dict[str, float | None]]] = defaultdict(list)
    for _, method, _, numbers in rows:
        by_method[method].append(numbers)
    return [
        (f"mean of {len(several)}", method, "", {column: _mean(several, column) for column in several[0]})
        for method, several in by_method.items()
        if len(several) > 1
    ]


def _mean(rows: Sequence[Mapping[str, float | None]], column: str) -> float | None:
    known = [value for row in rows if (value := row.get(column)) is not None]
    return fmean(known) if known else None


def _said(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"
