"""Tasks of a run as cards: images with a slider over the logged iterations, curves, and the record."""

from __future__ import annotations

import io
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lit_viz.attacks.norms import NORMS
from lit_viz.figures.curves import is_geometric, spread
from lit_viz.images.rendering import MAGNIFIED
from lit_viz.methods.records import label_with_lr
from lit_viz.presentations import Presentation
from lit_viz.runs.folder import RunFolder
from lit_viz.types import Curve, Record

_MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".gif": "image/gif", ".svg": "image/svg+xml"}
#: Size in bytes up to which a file is embedded unchanged.
EXACT_BYTES = 16_000
MAX_FRAMES = 12  # of a card
_MAX_PERTURBED_IMAGES = 8  # of a universal perturbation
# Plot area in units of the view box in templates/card.html.
_LEFT, _RIGHT, _TOP, _BOTTOM = 34.0, 236.0, 8.0, 66.0
_MAX_POINTS = 400  # of a line
_FIRST_METRICS = ("probability", "objective", "margin", "relative_error", "standard_error", "logit", *NORMS)


@dataclass(frozen=True)
class Frame:
    """Images at a position of the slider, as data URIs."""

    iteration: int | None  # None for a result that differs from the last logged image
    image: str
    difference: str  # magnified, to the photograph; empty if there is none

    @property
    def label(self) -> str:
        """Text of the slider position."""
        return "the result" if self.iteration is None else str(self.iteration)


@dataclass(frozen=True)
class CurvePlot:
    """A metric over the iterations as the coordinates of an inline SVG plot."""

    label: str
    description: str  # text alternative
    points: str  # of the line, as in the attribute of an SVG polyline
    marks: Sequence[tuple[float, float, str] | None]  # x, y and value by slider position; None if not logged
    limits: tuple[float, float]  # of the vertical axis
    iterations: tuple[int, int]  # first and last


def build_cards(
    folder: RunFolder,
    records: Sequence[Record],
    rows: Sequence[Mapping[str, str]],
    presentation: Presentation,
    budget: float,
) -> list[dict[str, Any]]:
    """Return the cards of some tasks, as ``card.html`` takes them.

    Args:
        folder: run folder.
        records: of the tasks.
        rows: of the results table.
        presentation: of the method.
        budget: total size of the embedded images in bytes, divided evenly.
    """
    metrics = folder.metrics([record.key for record in records])
    cards = []
    for record, row in zip(records, rows, strict=True):
        perturbed = _perturbed(folder, record.key)
        source = folder.path / "sources" / f"{record.key}.png"
        photograph = image_uri(source) if source.exists() else ""
        used = len(photograph) + sum(len(original) + len(image) for _, original, image, _ in perturbed)
        files = _files(folder, record)
        frames = _fit(files, budget / len(records) - used)
        stacks = {"photograph": [(photograph, f"photograph {record.name}")]} if photograph else {}
        if frames:
            stacks[presentation.result] = [(f.image, f"{record.name}, iteration {f.label}") for f in frames]
        if differences := [(f.difference, f"difference at iteration {f.label}") for f in frames if f.difference]:
            stacks[f"difference × {MAGNIFIED:g}"] = differences
        card = {
            "record": record,
            "title": label_with_lr(record.name, record),
            "subtitle": presentation.subtitle(record),
            "note": presentation.note,
            "row": row,
            "curves": plot_curves(metrics[record.key], [frame.iteration for frame in frames]),
            "stacks": stacks,  # images in one place by caption, of which the slider selects one
            "labels": [frame.label for frame in frames],  # of the slider positions
            "logged": len(files),
            "perturbed": perturbed,
        }
        cards.append(card)
    return cards


def _files(folder: RunFolder, record: Record) -> list[tuple[int | None, Path, Path | None]]:
    """Return iteration, image and difference of each logged image, and of the result if it differs from the last."""
    differences = dict(folder.frames(f"{record.key}.difference"))
    files: list[tuple[int | None, Path, Path | None]] = [
        (iteration, path, differences.get(iteration)) for iteration, path in folder.frames(record.key)
    ]
    result = folder.path / (record.file or "")
    if is_embeddable(result) and not (files and files[-1][1].read_bytes() == result.read_bytes()):
        files.append((None, result, None))
    return files


def _fit(files: Sequence[tuple[int | None, Path, Path | None]], budget: float) -> list[Frame]:
    """Embed as many images as the budget in bytes allows, evenly, the first and the last included."""
    frames = [
        Frame(iteration, image_uri(path), "" if difference is None else image_uri(difference))
        for iteration, path, difference in (files[place] for place in spread(len(files), MAX_FRAMES))
    ]
    for count in range(len(frames), 0, -1):
        selected = [frames[place] for place in spread(len(frames), count)]
        if sum(len(frame.image) + len(frame.difference) for frame in selected) <= budget:
            return selected
    return []


def _perturbed(folder: RunFolder, key: str) -> list[tuple[str, str, str, str]]:
    """Return name, photograph, the photograph with the perturbation, and caption of the first perturbed images."""
    images = []
    for record in (perturbed.record for perturbed in folder.perturbed_images(key)[:_MAX_PERTURBED_IMAGES]):
        original, image = (folder.path / (file or "") for file in (record.original, record.file))
        if is_embeddable(original) and is_embeddable(image):
            status = ", not counted" if record.status == "skipped" else ", held out" if record.held_out else ""
            change = f"{record.predicted_before_name or '?'} → {record.predicted_name or '?'}"
            images.append((record.name, image_uri(original), image_uri(image), f"{record.name}: {change}{status}"))
    return images


def plot_curves(metrics: Mapping[str, Curve], stops: Sequence[int | None]) -> list[CurvePlot]:
    """Return a plot of each metric that varies; all plots share the horizontal axis.

    Args:
        metrics: curves by metric name.
        stops: iteration of each slider position; None for a position without one.
    """
    factors = {name: norm.display_scale for name, norm in NORMS.items()}
    curves = {
        name: [(k, factors.get(name, 1.0) * value) for k, value in curve if math.isfinite(value)]
        for name, curve in metrics.items()
    }
    order = {name: place for place, name in enumerate(_FIRST_METRICS)}
    names = sorted(curves, key=lambda name: (order.get(name, len(order)), name))
    names = [name for name in names if len({value for _, value in curves[name]}) > 1]
    iterations = sorted({k for name in names for k, _ in curves[name]})
    return [_plot(name, curves[name], iterations, stops) for name in names]


def _plot(name: str, curve: Curve, iterations: Sequence[int], stops: Sequence[int | None]) -> CurvePlot:
    values = dict(curve)
    low, high = (0.0, 1.0) if name == "probability" else (min(values.values()), max(values.values()))
    first, last = iterations[0], iterations[-1]
    logarithmic = is_geometric(np.array(iterations, dtype=float))

    def to_x(iteration: int) -> float:
        offset, span = ((math.log1p(k - first) if logarithmic else k - first) for k in (iteration, last))
        return round(_LEFT + (_RIGHT - _LEFT) * offset / span, 1)

    def to_y(value: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * (value - low) / (high - low), 1)

    label = NORMS[name].axis_label if name in NORMS else name.replace("_", " ")
    (k0, v0), (k1, v1) = curve[0], curve[-1]
    line = [curve[place] for place in spread(len(curve), _MAX_POINTS)]
    return CurvePlot(
        label=label,
        description=f"{label} over the iterations, from {v0:.4g} at {k0} to {v1:.4g} at {k1}",
        points=" ".join(f"{to_x(k):g},{to_y(value):g}" for k, value in line),
        marks=[(to_x(k), to_y(values[k]), f"{values[k]:.4g}") if k in values else None for k in stops],
        limits=(low, high),
        iterations=(first, last),
    )


def is_embeddable(path: Path) -> bool:
    """Return whether ``path`` is an existing file in an image format that browsers display."""
    return path.suffix.lower() in _MEDIA_TYPES and path.is_file()


def image_uri(path: Path, width: int | None = None) -> str:
    """Return an image file as a data URI: a PNG of more than :data:`EXACT_BYTES` as JPEG, other files unchanged.

    Args:
        path: file.
        width: maximum width in pixels.
    """
    return data_uri(path.read_bytes(), _MEDIA_TYPES[path.suffix.lower()], width)


def data_uri(data: bytes, media_type: str = "image/png", width: int | None = None) -> str:
    """Return an encoded image as :func:`image_uri` does."""
    if media_type == "image/png" and len(data) > EXACT_BYTES:
        with Image.open(io.BytesIO(data)) as file:
            image = file.convert("RGB")
        image.thumbnail((width or image.width, image.height))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        media_type, data = min((media_type, data), ("image/jpeg", buffer.getvalue()), key=lambda item: len(item[1]))
    return f"data:{media_type};base64,{b64encode(data).decode('ascii')}"


def printed_width(path: Path) -> int | None:
    """Return the width of a PNG in CSS pixels (1/96 inch); None if it has no resolution."""
    if path.suffix.lower() != ".png":
        return None
    with Image.open(path) as file:
        dpi = file.info.get("dpi", (0.0,))[0]
        return round(96 * file.width / dpi) if dpi else None
