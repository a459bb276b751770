from __future__ import annotations

from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from lit_viz.attacks.norms import L2
from lit_viz.evidence.attacks.robustness import RobustAccuracy
from lit_viz.figures.curves import robustness_figure
from lit_viz.figures.layout import Cell, Text, pixels
from lit_viz.figures.style import COLORS, save_figure
from tests.figures.helpers import LONG, assert_no_overlap


def curves(count: int) -> dict[str, list[RobustAccuracy]]:
    return {
        f"network {n} {LONG if n % 2 else ''}": [
            RobustAccuracy(eps / 255, round(90 / (1 + n + eps)), 100) for eps in (8, 0, 4)
        ]
        for n in range(count)
    }


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)


def test_draws_counts_against_eps_with_interval() -> None:
    figure = robustness_figure(curves(2))
    axes = figure.axes[0]
    line = next(line for line in axes.lines if line.get_color() == COLORS[0])
    points = sorted(curves(2)["network 0 "], key=lambda point: point.eps)
    assert line.get_xdata().tolist() == pytest.approx([0, 4, 8])
    assert line.get_ydata().tolist() == [point.robust / 100 for point in points]
    (collection,) = axes.collections
    band, last = collection.get_paths()[0].vertices, list(curves(2).values())[-1]
    assert {round(y, 9) for _, y in band} == {round(end, 9) for point in last for end in point.interval}
    assert [text.get_text() for text in axes.texts] == ["45 of 100", "15 of 100", "9 of 100"]
    assert axes.get_ylim() == (0, 1)
    assert axes.get_xlabel() == "eps, L∞ (/255)"
    euclidean = robustness_figure({"a": [RobustAccuracy(0.5, 1, 2)]}, L2, "success")
    assert euclidean.axes[0].lines[0].get_xdata().tolist() == [0.5]
    assert (euclidean.axes[0].get_xlabel(), euclidean.axes[0].get_ylabel()) == ("eps, L2", "success")


def test_shows_the_verdict_and_four_photographs(tmp_path: Path) -> None:
    image = torch.rand(3, 16, 16)
    examples = [
        (Cell(pixels(image), [f"photograph {n}", "cat"]), Cell(pixels(image), [f"note {n}"]) if n else Text("note 0"))
        for n in range(4)
    ]
    figure = robustness_figure(curves(1), verdict=(False, "do not trust: masked gradients"), examples=examples)
    assert "do not trust: masked gradients" in texts(figure)
    assert all(f"photograph {n}" in texts(figure) and f"note {n}" in texts(figure) for n in range(4))
    assert sum(bool(axes.images) for axes in figure.axes) == 7
    assert_no_overlap(figure)
    save_figure(figure, tmp_path / "figure.png")


@pytest.mark.parametrize("count", [0, 1, 3, 13])
def test_legend_does_not_overlap(tmp_path: Path, count: int) -> None:
    figure = robustness_figure(curves(count) | ({"empty": []} if count else {}))
    looks = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines]
    assert len(set(looks)) == len(looks)
    assert_no_overlap(figure)
    save_figure(figure, tmp_path / "figure.png")
