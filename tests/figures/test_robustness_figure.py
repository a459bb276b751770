import pytest

from lit_viz.evidence.attacks.robustness import wilson_interval
from lit_viz.figures.curves import robustness_figure
from lit_viz.figures.style import COLORS, save_figure
from tests.figures.helpers import LONG, assert_no_overlap


def curves(count):
    return {
        f"network {n} {LONG if n % 2 else ''}": [
            (eps / 255, share := round(0.9 / (1 + n + eps), 2), *wilson_interval(round(100 * share), 100))
            for eps in (8, 0, 4)
        ]
        for n in range(count)
    }


def test_draws_rate_against_eps_with_interval():
    figure = robustness_figure(curves(2))
    line = next(line for line in figure.axes[0].lines if line.get_color() == COLORS[0])
    made = sorted(curves(2)["network 0 "])
    assert line.get_xdata().tolist() == pytest.approx([0, 4, 8])
    assert line.get_ydata().tolist() == [share for _, share, _, _ in made]
    (of_last,) = figure.axes[0].collections
    band, last = of_last.get_paths()[0].vertices, list(curves(2).values())[-1]
    assert {round(y, 9) for _, y in band} == {round(end, 9) for _, _, low, high in last for end in (low, high)}
    assert figure.axes[0].get_ylim() == (0, 1)
    assert figure.axes[0].get_xlabel() == "eps, L∞ (/255)"
    euclidean = robustness_figure({"a": [(0.5, 0.5, 0.4, 0.6)]}, norm="L2", what="success")
    assert euclidean.axes[0].lines[0].get_xdata().tolist() == [0.5]
    assert (euclidean.axes[0].get_xlabel(), euclidean.axes[0].get_ylabel()) == ("eps, L2", "success")


@pytest.mark.parametrize("count", [0, 1, 3, 13])
def test_legend_does_not_overlap(tmp_path, count):
    figure = robustness_figure(curves(count) | ({"empty": []} if count else {}))
    looks = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines]
    assert len(set(looks)) == len(looks)
    assert_no_overlap(figure)
    save_figure(figure, tmp_path / "figure.png")
