from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from lit_viz.figures.layout import Cell, Grid, compose, pixels, wrap_text
from lit_viz.figures.sheet import contact_sheet, grid_shape, tile
from lit_viz.figures.style import save_figure
from lit_viz.utils.formatting import probability_text


def pictures(count, size=(8, 8)):
    return [torch.full((3, *size), n / count) for n in range(count)]


def test_each_image_has_its_own_text():
    figure = contact_sheet(pictures(2), ["tabby\np = 0.93\nlite1 0.91", "espresso"])
    assert [text.get_text().replace("\u00a0", " ") for text in figure.texts] == [
        "tabby",
        "p = 0.93",
        "lite1 0.91",
        "espresso",
    ]
    assert [len(axes.images) for axes in figure.axes] == [1, 1]


def test_limit_is_reported():
    figure = contact_sheet(pictures(7), [str(n) for n in range(7)], limit=5)
    assert len(figure.axes) == 5
    assert figure.texts[0].get_text() == "5 of 7 images."


def test_aspect_ratios_are_preserved():
    figure = contact_sheet([*pictures(3), torch.zeros(1, 16, 8)], ["a"] * 4, columns=2)
    boxes = [axes.get_window_extent(FigureCanvasAgg(figure).get_renderer()) for axes in figure.axes]
    assert [round(box.height / box.width, 3) for box in boxes] == [1, 1, 1, 2]


def test_lines_break_at_spaces_and_end_with_an_ellipsis():
    def fits(line):
        return len(line) <= 16

    assert wrap_text("tabby", fits) == ["tabby"]
    assert wrap_text("x" * 99, fits) == ["x" * 15 + "…"]
    assert wrap_text("Tibetan mastiff of the mountains here", fits, lines=2) == ["Tibetan mastiff", "of the mountain…"]
    assert wrap_text("chelsea -> tarantula, eps 0.25/255", fits, lines=3) == [
        "chelsea ->",
        "tarantula, eps",
        "0.25/255",
    ]


def test_without_a_limit_no_text_is_lost():
    def fits(line):
        return len(line) <= 8

    assert wrap_text("IMG_20240611.jpeg of a cat", fits, lines=None) == ["IMG_2024", "0611.jpe", "g of a", "cat"]
    assert wrap_text("tabby", fits, lines=None) == ["tabby"]


def test_probabilities_near_0_and_1():
    values = (0.0004, 0.93, 0.99, 0.996, 1.0, float("nan"))  # 1 is what float32 rounds to
    message = [probability_text(p) for p in values]
    assert message == ["p < 0.01", "p = 0.93", "p = 0.99", "p > 0.99", "p > 0.99", "no p"]


def test_grid_shapes():
    assert [grid_shape(n) for n in (1, 2, 3, 4, 5, 16, 17)] == [(1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (4, 4), (4, 5)]
    assert grid_shape(5, columns=2) == (3, 2)


def test_tiles_are_placed_and_large_grids_downscaled():
    grid = tile([pixels(picture) for picture in pictures(4)], gap=2)
    assert grid.shape == (18, 18, 3)
    assert [grid[y, x, 0] for y in (0, 17) for x in (0, 17)] == [0, 64, 128, 191]
    assert grid[8, 8, 0] == 255
    assert tile([pixels(picture) for picture in pictures(4)], gap=2, side=9).shape == (9, 9, 3)


def test_images_of_many_pixels_are_reduced_to_the_dots_of_a_page(tmp_path: Path) -> None:
    # Each pixel a dot: more than 2,000 dots an inch, and a page of a billion dots for a few epochs.
    large = np.zeros((3000, 3000, 3), np.uint8)
    large[:, 1500:] = (10, 200, 30)
    small = np.full((32, 32, 3), 77, np.uint8)
    figure = compose(Grid([[Cell(large), Cell(small)]]))
    assert figure.dpi <= 900
    saved = np.asarray(Image.open(save_figure(figure, tmp_path / "figure.png")).convert("RGB"))
    assert saved.size < 3e7
    black, green, gray = (np.all(saved == color, axis=-1).sum() for color in (0, (10, 200, 30), 77))
    assert black == green == gray // 2 > 0
    assert figure.axes[0].get_xlim() == (-0.5, 2999.5)  # boxes are drawn in the pixels of the image
