"""Style shared by all figures: fonts, missing glyphs and frames of white images."""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.font_manager import fontManager
from PIL import Image

from lit_viz.figures.layout import Cell, Grid, Text, compose
from lit_viz.figures.style import save_figure, style


def test_a_missing_glyph_is_a_box_without_a_warning(tmp_path: Path) -> None:
    """matplotlib warns once per glyph and size."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with style():
            figure = compose(Grid([[Text("\u732b\u3068\u72ac \ue000", 1.5, weight="bold")]]))
        save_figure(figure, tmp_path / "figure.png")


def test_only_installed_fonts_are_requested() -> None:
    before = mpl.rcParams["font.family"]
    with style():
        assert set(mpl.rcParams["font.family"]) <= {font.name for font in fontManager.ttflist}
        assert "DejaVu Sans" in mpl.rcParams["font.family"]
    assert mpl.rcParams["font.family"] == before


@pytest.mark.parametrize("size", [50, 100, 224])
@pytest.mark.parametrize(("level", "framed"), [(255, True), (251, True), (200, False)])
def test_an_image_with_a_white_border_has_a_thin_frame_outside_its_pixels(
    level: int, framed: bool, size: int, tmp_path: Path
) -> None:
    """Without a frame, a white photograph is not distinguishable from the page."""
    picture = np.full((size, size, 3), level, np.uint8)
    picture[20:30, 20:30] = 30
    figure = compose(Grid([[Cell(picture)]]))
    page = np.asarray(Image.open(save_figure(figure, tmp_path / "figure.png")).convert("RGB"))
    box = figure.axes[0].get_window_extent()
    first, last = round(box.x0), round(box.x1)
    inside = page[first:last, first:last]
    assert set(np.unique(inside)) == {30, level}
    around = page.copy()
    around[first:last, first:last] = 255
    assert bool((around < 250).any()) is framed
    assert (around[: first - 4] == 255).all()
