"""What all figures share: signs of any script are written, or left as boxes in silence."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from lit_viz.figures import style as room
from lit_viz.figures.style import fitted, save_figure, style, write


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
