"""Fixture with functions that make outcomes for figures, and that read texts, axes and pixels of figures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from lit_viz.figures.style import save_figure
from tests.support.figures import LONG, attacked, levels, trace


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


def written_texts(figure: Figure) -> list[Text]:
    """Return the texts, tick labels and labels of axes that are drawn."""
    written = [*figure.texts]
    for axes in figure.axes:
        if not axes.axison or axes.images:
            continue
        written += [axes.xaxis.label, axes.yaxis.label]
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            ticks = axis.get_major_ticks()
            written += [tick.label1 for tick in ticks if tick.label1.get_visible() and low <= tick.get_loc() <= high]
    return [text for text in written if text.get_text()]


def assert_legible(figure: Figure) -> None:
    """Assert that letters have at least 10 dots, and 4.5 points where the figure is printed at most 12 inches wide."""
    smallest = min((text.get_fontsize() for text in written_texts(figure)), default=6.0)
    assert smallest * figure.dpi / 72 >= 10
    assert smallest * min(1, 12 / figure.get_figwidth()) >= 4.5


def assert_no_overlap(figure: Figure) -> None:
    """Assert that texts, tick labels and axes do not overlap and lie within the figure."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    extents = [text.get_window_extent(renderer).extents for text in written_texts(figure)]
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


@pytest.fixture(scope="session")
def figures() -> SimpleNamespace:
    """Return the functions of this module by name, and a label that is long."""
    return SimpleNamespace(
        texts=texts,
        caption=caption,
        images=images,
        plots=plots,
        assert_no_overlap=assert_no_overlap,
        assert_legible=assert_legible,
        assert_pixels_are_blocks=assert_pixels_are_blocks,
        levels=levels,
        trace=trace,
        attacked=attacked,
        LONG=LONG,
    )
