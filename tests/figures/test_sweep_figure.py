"""The grid of a sweep: labels where the values are, no pixel lost."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lit_viz.figures.layout import Cell
from lit_viz.figures.sheet import sweep_figure


def test_labels_are_aligned_and_every_pixel_is_shown() -> None:
    colors = ((200, 40, 40), (40, 200, 40), (40, 40, 200))  # which no letter has
    pictures = [np.full((8, 8, 3), color, dtype=np.uint8) for color in colors]
    first, second, third = (Cell(picture, [f"p = {n}"]) for n, picture in enumerate(pictures))
    rows = [["a class whose name is long", "lr 0.1"], ["another", "lr 0.2"]]
    figure = sweep_figure(rows, ["iterations 50", "iterations 100"], [[first, second], [None, third]], "A caption.")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3]
    size = figure.dpi * 1.4
    assert size % 8 == pytest.approx(0)
    for picture in pictures:
        assert (drawn == picture[0, 0]).all(-1).sum() == pytest.approx(size**2)
    boxes = {text.get_text(): text.get_window_extent() for text in figure.texts}
    left = boxes["iterations 100"].x0
    assert boxes["p = 1"].x0 == pytest.approx(left, abs=1)
    assert boxes["p = 2"].x0 == pytest.approx(left, abs=1)
    assert boxes["another"].y1 < boxes["lr 0.1"].y0


def test_label_column_is_as_narrow_as_its_text() -> None:
    cell = Cell(np.zeros((8, 8, 3), np.uint8), ["p = 1"])
    short, long, longer = (
        sweep_figure([[name]], ["lr 1"], [[cell]], "A caption.").get_figwidth()
        for name in ("hen", "a class whose name is longer than a column", "a name that is longer than that of a class")
    )
    assert short < long == longer
