"""The tasks of a report: each with a slider over its logged iterations, its curves and its record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_viz.figures.evolution import spread
from lit_viz.images.difference import MAGNIFIED
from lit_viz.report.curves import Curve, curves
from lit_viz.report.files import can_hold, data_uri, thumbnail
from lit_viz.report.markup import Markup, element, joined
from lit_viz.runs.writer import RunFolder
from lit_viz.types import key_of
from lit_viz.utils.formatting import format_distance, label_with_lr

_FRAMES = 12  # of a task
_OF_FLOATS = "Curves are of the image before it was rounded to 8 bits, the table is of its file."
_BEARERS = 8  # photographs of a universal perturbation
_THUMBNAILS, _ROWS = 200, 5000  # tasks of the table that have a picture, and that are in it at all


@dataclass(frozen=True)
class Stop:
    """A place of the slider.

    Attributes:
        iteration: that is shown; None for the result, where it is the picture of no logged iteration.
        picture: its file.
        difference: the magnified difference to the photograph, where there is one.
    """

    iteration: int | None
    picture: Path
    difference: Path | None = None

    @property
    def said(self) -> str:
        """What the slider calls it."""
        return "the result" if self.iteration is None else str(self.iteration)

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(path.stat().st_size for path in (self.picture, self.difference) if path is not None)


@dataclass(frozen=True)
class Shown:
    """A task as the report shows it.

    Attributes:
        record: as in ``results.jsonl``.
        row: of the table that is printed at the end of a run.
        metrics: its scalars.
        source: its photograph.
        stops: of its slider, in order; none where it has no picture, or none that fits.
        logged: how many places the slider would have with all iterations.
        perturbed_images: some of the photographs that bear what was trained for all: record, file and original.
    """

    record: Mapping[str, Any]
    row: Mapping[str, str]
    metrics: Mapping[str, Curve]
    source: Path | None
    stops: Sequence[Stop]
    logged: int
    perturbed_images: Sequence[tuple[Mapping[str, Any], Path, Path]] = field(default=())

    @classmethod
    def of(
        cls,
        folder: RunFolder,
        record: Mapping[str, Any],
        row: Mapping[str, str],
        metrics: Mapping[str, Curve],
        room: float,
    ) -> Shown:
        """Return a task with as many of its iterations as fit into so many bytes, the first and the last before
        others."""
        key = key_of(record["index"], record["name"])
        source = folder.path / "sources" / f"{key}.png"
        borne = [(b.record, b.image, b.source) for b in folder.perturbed_images(key)]
        files = [(of, a, b) for of, a, b in borne if isinstance(a, Path) and isinstance(b, Path)][:_BEARERS]
        room -= sum(a.stat().st_size + b.stat().st_size for _, a, b in files)
        if source.exists():
            room -= source.stat().st_size
        stops = _stops(folder, key, record)
        kept = _fitting(stops, room)
        return cls(record, row, metrics, source if source.exists() else None, kept, len(stops), files)

    def as_card(self) -> Markup:
        """Return it as HTML."""
        index, named = self.record["index"], label_with_lr(self.record["name"], self.record)
        drawn = curves(self.metrics, [stop.iteration for stop in self.stops])
        return element(
            "article",
            element("h3", element("span", str(index), class_="index"), named, self._asked()),
            element(
                "div",
                element("div", self._pictures(), self._slider(), *self._cut(), class_="view"),
                element(
                    "div",
                    element("div", *drawn, class_="curves") if drawn else None,
                    element("p", _OF_FLOATS, class_="note") if drawn and "attack" in self.record else None,
                    facts(self.row),
                    *([element("p", str(self.record["error"]), class_="bad")] if self.record["error"] else []),
                    element("details", element("summary", "the whole record"), facts(self.record)),
                    class_="facts",
                ),
                class_="columns" if self.source is None else "rows",
            ),
            self._borne(),
            id=f"task-{index}",
            data_stops=json.dumps([stop.said for stop in self.stops]),
        )

    def _asked(self) -> Markup | None:
        """Return what was asked of a photograph."""
        target, method = self.record["target_name"], self.record.get("method")
        if method is not None:
            layer = self.record.get("layer")
            return element("small", f"{method}, {target}" if layer is None else f"{method} of {layer}, {target}")
        if "attack" not in self.record:
            return None
        asked = [f"towards {target}"] if target else []
        if self.record.get("eps") is not None:
            asked.append(f"eps {format_distance(self.record['eps'], self.record['norm'])}")
        return element("small", ", ".join(asked)) if asked else None

    def _pictures(self) -> Markup:
        name = str(self.record["name"])
        shots = []
        if self.source is not None:
            shots.append(_shot("photograph", [(self.source, f"photograph {self.record['name']}")]))
        if self.stops:
            pictures = [(stop.picture, f"{name}, iteration {stop.said}") for stop in self.stops]
            shots.append(_shot(_called(self.record), pictures))
        known = [stop for stop in self.stops if stop.difference is not None]
        if known:  # a result that is the picture of no iteration stands beside the last difference
            these = [stop if stop.difference is not None else known[-1] for stop in self.stops]
            changes = [(s.difference, f"difference at iteration {s.said}") for s in these if s.difference is not None]
            shots.append(_shot(f"difference × {MAGNIFIED:g}", changes))
        return element("div", *shots, class_="shots") if shots else element("p", "no picture")

    def _slider(self) -> Markup | None:
        if len(self.stops) < 2:
            return None
        last, slider = len(self.stops) - 1, f"slider-{self.record['index']}"
        return element(
            "div",
            element("label", "iteration ", element("output", self.stops[-1].said, for_=slider), for_=slider),
            element("input", type="range", id=slider, min="0", max=str(last), step="1", value=str(last)),
            class_="slider",
        )

    def _cut(self) -> list[Markup]:
        if len(self.stops) == self.logged:
            return []
        left = self.logged - len(self.stops)
        key = key_of(self.record["index"], self.record["name"])
        return [element("p", f"{left} more of {self.logged} pictures: frames/{key}/ and images/", class_="note")]

    def _borne(self) -> Markup | None:
        if not self.perturbed_images:
            return None
        pairs = [
            element(
                "figure",
                element("img", src=data_uri(original), alt=f"photograph {record['name']}"),
                element("img", src=data_uri(image), alt=f"{record['name']} with the perturbation"),
                element("figcaption", _seen(record)),
            )
            for record, image, original in self.perturbed_images
        ]
        return element("div", *pairs, class_="bearers")


def _called(record: Mapping[str, Any]) -> str:
    if record.get("method") is not None:
        return "map"
    return {None: "image", "universal": "perturbation"}.get(record.get("attack"), "attacked")


def _seen(record: Mapping[str, Any]) -> str:
    before, after = (record.get(key) or "?" for key in ("predicted_before_name", "predicted_name"))
    notes = {", not counted": record["status"] == "skipped", ", held out": record.get("held_out")}
    return f"{record['name']}: {before} → {after}{next((note for note, holds in notes.items() if holds), '')}"


def _stops(folder: RunFolder, key: str, record: Mapping[str, Any]) -> list[Stop]:
    differences = dict(folder.frames(f"{key}.difference"))
    stops = [Stop(iteration, path, differences.get(iteration)) for iteration, path in folder.frames(key)]
    if record["file"] and can_hold(result := folder.path / record["file"]):
        last = stops[-1].picture if stops else None
        if last is None or last.read_bytes() != result.read_bytes():
            stops.append(Stop(None, result))
    return stops


def _fitting(stops: Sequence[Stop], room: float) -> list[Stop]:
    for count in range(min(_FRAMES, len(stops)), 0, -1):
        chosen = [stops[place] for place in spread(len(stops), count)]
        if sum(stop.size for stop in chosen) <= room:
            return chosen
    return []


def _shot(title: str, pictures: Sequence[tuple[Path, str]]) -> Markup:
    """Return pictures in one place, the last of which is seen until the slider moves."""
    last = len(pictures) - 1
    images = [
        element("img", src=data_uri(path), alt=said, hidden=place != last)
        for place, (path, said) in enumerate(pictures)
    ]
    return element("figure", element("div", *images, class_="stack"), element("figcaption", title))


def facts(values: Mapping[str, Any]) -> Markup:
    """Return values by name as a small table; those that are None are left out."""
    rows = [
        element("tr", element("th", name, scope="row"), element("td", plain(value)))
        for name, value in values.items()
        if value is not None
    ]
    return element("table", *rows, class_="record")


def plain(value: Any) -> str:
    """Return a value of a record as it is read: numbers to four digits, nested ones in one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        pairs = all(isinstance(item, (list, tuple)) for item in value)
        return (", " if not pairs else "; ").join(" ".join(map(plain, i)) if pairs else plain(i) for i in value)
    return str(value)


def rest(folder: RunFolder, records: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, str]]) -> Markup | None:
    """Return the tasks that have no card as a table, the first ones with a small picture, and what is left out."""
    if not records:
        return None
    columns = list(rows[0])
    lines = [
        element(
            "tr",
            element("td", _small(folder, record) if place < _THUMBNAILS else None),
            element("td", str(record["index"])),
            *(element("td", row.get(column, "")) for column in columns),
        )
        for place, (record, row) in enumerate(zip(records[:_ROWS], rows, strict=False))
    ]
    head = element("tr", *(element("th", column, scope="col") for column in ("", "", *columns)))
    return element(
        "section",
        element("h2", f"{len(records)} more"),
        element("p", _left_out(len(records)), class_="note"),
        element("div", element("table", element("thead", head), element("tbody", *lines)), class_="wide"),
        id="more",
    )


def _left_out(count: int) -> str:
    said = "Their iterations are in frames/, their pictures in images/, their scalars in metrics.csv."
    if count > _THUMBNAILS:
        said += f" The first {_THUMBNAILS} have their picture here."
    return said + (f" All {count} records are in results.jsonl, {_ROWS} of them here." if count > _ROWS else "")


def _small(folder: RunFolder, record: Mapping[str, Any]) -> Markup | None:
    if not record["file"] or not can_hold(path := folder.path / record["file"]):
        return None
    return element("img", src=thumbnail(path), alt=str(record["name"]), loading="lazy")


def cards(
    folder: RunFolder, records: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, str]], room: float
) -> Markup:
    """Return the cards of some tasks, which share so many bytes of pictures."""
    metrics = folder.metrics([key_of(record["index"], record["name"]) for record in records])
    each = room / max(1, len(records))
    made = [
        Shown.of(folder, record, row, metrics[key_of(record["index"], record["name"])], each).as_card()
        for record, row in zip(records, rows, strict=True)
    ]
    return element("section", element("h2", "Images"), joined(*made), id="images")
