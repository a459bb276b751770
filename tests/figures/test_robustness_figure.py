from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from lit_viz.attacks.norms import L2, LINF
from lit_viz.evidence.attacks.robustness import RobustAccuracy
from lit_viz.figures.attack import robustness_figure
from lit_viz.figures.curves import robustness_chart
from lit_viz.figures.layout import compose
from lit_viz.figures.style import COLORS, save_figure
from lit_viz.runs.evidence import DiagnosisEvidence
from tests.support.figures import accuracies


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.texts)


def test_draws_counts_against_eps_with_interval(figures: Any) -> None:
    figure = compose(robustness_chart(accuracies(2), LINF, "robust"))
    axes = figure.axes[0]
    line = next(line for line in axes.lines if line.get_color() == COLORS[0])
    points = sorted(accuracies(2)["network 0 "], key=lambda point: point.eps)
    assert line.get_xdata().tolist() == pytest.approx([0, 4, 8])
    assert line.get_ydata().tolist() == [point.robust / 100 for point in points]
    (collection,) = axes.collections
    band, last = collection.get_paths()[0].vertices, list(accuracies(2).values())[-1]
    assert {round(y, 9) for _, y in band} == {round(end, 9) for point in last for end in point.interval}
    assert [text.get_text() for text in axes.texts] == ["45 of 100", "15 of 100", "9 of 100"]
    assert axes.get_ylim() == (0, 1)
    assert axes.get_xlabel() == "eps, L∞ (/255)"
    euclidean = compose(robustness_chart({"a": [RobustAccuracy(0.5, 1, 2)]}, L2, "success"))
    assert euclidean.axes[0].lines[0].get_xdata().tolist() == [0.5]
    assert (euclidean.axes[0].get_xlabel(), euclidean.axes[0].get_ylabel()) == ("eps, L2", "success")


def test_shows_the_verdict_and_four_photographs(tmp_path: Path, figures: Any) -> None:
    outcomes = [
        figures.attacked(seed, success_file=seed > 0, settings={"eps": eps, "norm": "linf"}, name=f"photograph {seed}")
        for seed in range(5)
        for eps in (1 / 255, 2 / 255)
    ]
    trust = DiagnosisEvidence(reasons=["masked gradients"], tried=["gradients"])
    figure = robustness_figure(outcomes, LINF, trust)
    assert "Do not trust: masked gradients (checked: gradients)." in texts(figure)
    assert [f"photograph {seed}" in texts(figure) for seed in range(5)] == [True] * 4 + [False]
    assert texts(figure).count("fooled at eps 1/255") == 3
    assert "robust up to eps 2/255" in texts(figure)
    assert sum(bool(axes.images) for axes in figure.axes) == 7
    save_figure(figure, tmp_path / "figure.png")


@pytest.mark.parametrize("count", [0, 1, 3, 13])
def test_networks_have_lines_of_different_styles(tmp_path: Path, count: int, figures: Any) -> None:
    figure = compose(robustness_chart(accuracies(count) | ({"empty": []} if count else {}), LINF, "robust"))
    styles = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines]
    assert len(set(styles)) == len(styles)
    save_figure(figure, tmp_path / "figure.png")
