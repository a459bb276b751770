"""What all figures share: signs of any script are written or boxes in silence, and no picture is a hole in the page."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from lit_viz.figures import style as room
from lit_viz.figures.style import fitted, save_figure, shown, style, write


def test_a_sign_that_no_font_has_is_a_box_without_a_warning(tmp_path: Path) -> None:
    """matplotlib's warnings stood on the terminal, one a sign and size."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with style():
            figure = Figure(figsize=(2, 1))
            write(figure, fitted("\u732b\u3068\u72ac \ue000", 1.5, 8, weight="bold"), 0.1, 0.1)
        save_figure(figure, tmp_path / "figure.png")
    assert logging.getLogger("matplotlib.font_manager").level == logging.NOTSET


def test_fonts_that_are_not_installed_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_EAST_ASIAN", ("No Such Font", "DejaVu Serif"))
    before = mpl.rcParams["font.family"]
    with style():
        assert mpl.rcParams["font.family"] == ["sans-serif", "DejaVu Serif"]
    assert mpl.rcParams["font.family"] == before


@pytest.mark.parametrize("dpi", [100, 144, 300])
@pytest.mark.parametrize(("level", "framed"), [(255, True), (251, True), (200, False)])
def test_a_white_picture_has_a_thin_frame_that_covers_nothing(
    level: int, framed: bool, dpi: int, tmp_path: Path
) -> None:
    """A white photograph could not be seen on the page."""
    picture = np.full((50, 50, 3), level, np.uint8)
    picture[20:30, 20:30] = 30
    with style():
        figure = Figure(figsize=(1, 1), dpi=dpi)
        shown(figure, picture, 0.25, 0.25, 0.5)
    page = np.asarray(Image.open(save_figure(figure, tmp_path / "figure.png")).convert("RGB"))
    first, last = dpi // 4, dpi // 4 + dpi // 2
    inside = page[first:last, first:last]
    assert set(np.unique(inside)) == {30, level}
    around = page.copy()
    around[first:last, first:last] = 255
    assert bool((around < 250).any()) is framed
    assert (around[: first - 4] == 255).all()
