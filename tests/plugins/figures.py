"""Fixture with functions that make outcomes for figures, and that read texts, axes and geometry of figures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from lit_viz.engine.snapshots import Result, Snapshot
from lit_viz.figures.style import save_figure
from lit_viz.runs.memory import MemoryStorage
from lit_viz.runs.records import AdversarialRecord
from lit_viz.types import Task

LONG = "American Staffordshire terrier, American pit bull terrier"


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def caption(figure: Figure) -> str:
    """Return the caption, the first lines of a figure, up to the line that ends its last sentence."""
    lines = [text for text in figure.texts if text.get_position()[0] == figure.texts[0].get_position()[0]]
    bottom = min(text.get_position()[1] for text in lines)
    first = figure.texts[0].get_position()[1]
    return " ".join(text.get_text() for text in lines if bottom <= text.get_position()[1] <= first)


def images(figure: Figure) -> list[Axes]:
    """Return the axes of images, without plots and color bars."""
    return [axes for axes in figure.axes if axes.images and not axes.axison]


def plots(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if not axes.images]


def assert_no_overlap(figure: Figure) -> None:
    """Assert that texts, tick labels and axes do not overlap and lie within the figure."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    written = [*figure.texts]
    for axes in figure.axes:
        if not axes.axison or axes.images:
            continue
        written += [axes.xaxis.label, axes.yaxis.label]
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            ticks = axis.get_major_ticks()
            written += [tick.label1 for tick in ticks if tick.label1.get_visible() and low <= tick.get_loc() <= high]
    extents = [text.get_window_extent(renderer).extents for text in written if text.get_text()]
    extents += [axes.get_window_extent(renderer).extents for axes in figure.axes]
    boxes = np.reshape(extents, (-1, 4))
    low, high = boxes[:, :2] + 1, boxes[:, 2:] - 1  # boxes may touch by a dot
    overlap = (np.minimum(low, high)[:, None] <= np.maximum(low, high)).all(2)
    assert not np.triu(overlap & overlap.T, 1).any()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= figure.get_size_inches() * figure.dpi).all()


def assert_pixels_are_blocks(figure: Figure, drawn: list[Axes], path: Path) -> None:
    """Assert that each pixel of each image is a square of at least two dots of one color in the saved file."""
    page = np.asarray(Image.open(save_figure(figure, path)).convert("RGB"))
    for axes in drawn:
        picture, box = np.asarray(axes.images[0].get_array()), axes.get_window_extent()
        times = round(box.width) // picture.shape[1]
        assert times >= 2
        top, left = round(page.shape[0] - box.y1), round(box.x0)
        block = page[top : top + times * picture.shape[0], left : left + times * picture.shape[1]]
        assert np.array_equal(block, picture.repeat(times, 0).repeat(times, 1))


def levels(seed, channels=3, size=(8, 8)):
    """Return an image of whole 255ths."""
    drawn = torch.randint(20, 236, (channels, *size), generator=torch.Generator().manual_seed(seed))
    return drawn / 255


def trace(count=10, flip=6):
    """Return curves by metric, with a first success at ``flip``."""
    ks = range(count)
    return {
        "probability": [(k, k / count) for k in ks],
        "margin": [(k, k - flip + 0.5 if flip is not None else -1.0 - k) for k in ks],
        "l2": [(k, 0.1 * k) for k in ks],
        "linf": [(k, k / 255) for k in ks],
    }


def attacked(seed=0, size=(8, 8), channels=3, *, original=None, result=None, curves=None, **fields):
    """Return the outcome of an attack with these curves and fields of its record."""
    original = levels(seed, channels, size) if original is None else original
    if result is None:
        result = (original + levels(seed + 100, channels, size).sub(0.5).mul(10).round() / 255).clamp(0, 1)
    default = {
        "name": f"image {seed}", "target": 1, "target_name": "stingray", "iterations": 12, "attack": "pgd",
        "predicted_before_name": "quail", "predicted_name": "stingray", "probability_before": 0.03,
        "metrics": {"probability": 0.41}, "success_file": True, "success_jpeg75": False,
    }  # fmt: skip
    record = AdversarialRecord(index=seed, **{**default, **fields})
    task = Task(seed, record.name, seed)
    values = {}
    for metric, curve in (trace() if curves is None else curves).items():
        for k, value in curve:
            values.setdefault(k, {})[metric] = value
    snapshots = [Snapshot(task, k, metrics) for k, metrics in sorted(values.items())]
    storage = MemoryStorage([Result(task, record, result, source=original)])
    for snapshot in snapshots:
        storage.add_snapshot(snapshot)
    return storage.outcomes()[0]


@pytest.fixture(scope="session")
def figures() -> SimpleNamespace:
    """Return the functions of this module by name, and a label that is long."""
    return SimpleNamespace(
        texts=texts,
        caption=caption,
        images=images,
        plots=plots,
        assert_no_overlap=assert_no_overlap,
        assert_pixels_are_blocks=assert_pixels_are_blocks,
        levels=levels,
        trace=trace,
        attacked=attacked,
        LONG=LONG,
    )
