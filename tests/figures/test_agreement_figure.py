import math

import numpy as np
import pytest
import torch

from lit_viz.attributions.reducers import reduce_channels
from lit_viz.figures.agreement import agreement_figure
from lit_viz.figures.layout import pixels
from lit_viz.figures.style import COLORS
from lit_viz.images.rendering import clip_limits, heat
from lit_viz.utils.limits import MOST_ROWS
from tests.support.figures import AGREEMENT, BROKEN, compare, evidence_of, outcome


def test_map_reference_and_difference_share_one_scale(figures):
    map_ = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    reference = map_.double()
    reference[-1, 0, 0] += 2.0
    figure = compare(AGREEMENT, references=[(map_, reference)])
    maps = reduce_channels(torch.stack([map_.double(), reference]))
    limit = clip_limits(maps)[0]
    difference = torch.zeros(16, 16, dtype=torch.float64)
    difference[0, 0] = 2.0
    for axes, values in zip(figures.images(figure), [*maps, difference], strict=True):
        assert np.array_equal(axes.images[0].get_array(), pixels(heat(values, limit)))
    assert {"lit_viz", "Captum", "difference", "largest: 2.00", f"≥ {limit:.3g}", "0"} <= set(figures.texts(figure))
    assert "pixels above the 99.5 % quantile are clipped" in " ".join(figures.texts(figure))


def test_differences_that_cancel_in_the_channel_sum_are_detected(figures):
    zero = torch.zeros(3, 4, 4)
    figure = compare(AGREEMENT, references=[(zero + torch.tensor([3.0, -3, 0]).view(3, 1, 1), zero)])
    assert "largest: 3.00" in figures.texts(figure)


@pytest.mark.parametrize(
    ("agreement", "words"), [(AGREEMENT, {"passed": 3}), (BROKEN, {"failed": 2, "passed": 1})], ids=["passed", "failed"]
)
def test_verdicts_have_words_and_colors(agreement, words, figures):
    figure = compare(agreement)
    colors = {"passed": COLORS[2], "failed": COLORS[1]}
    found = [(text.get_text(), text.get_color()) for text in figure.texts if text.get_text() in colors]
    assert sorted(found) == sorted((word, colors[word]) for word, count in words.items() for _ in range(count))


def test_gates_and_similarity_are_listed(figures):
    written = figures.texts(compare(BROKEN))
    assert {"2.00e-15 ≤ 1.00e-08", "0.250 > 1.20e-06"} <= set(written)
    assert {"Spearman", "SSIM", "0.9999", "1.0000", "-1.00e-07", "undefined"} <= set(written)
    assert written[0].startswith("0 of 1 checked maps passed.")


def test_zero_and_non_finite_maps_are_noted(figures):
    zero, broken = torch.zeros(3, 4, 4), torch.zeros(3, 4, 4)
    broken[0, 0, 0] = math.nan
    written = figures.texts(compare(AGREEMENT, AGREEMENT, references=[(zero, zero), (broken, zero)]))
    assert written.count("zero everywhere") == 3
    assert "largest: 0" in written
    assert written.count("1 non-finite pixel (black)") == 2


def test_failed_maps_take_precedence(figures):
    figure = compare(*[AGREEMENT] * 21, BROKEN)
    assert len(figures.images(figure)) == 3 * MOST_ROWS
    assert figures.texts(figure)[0].startswith("12 of 22 maps, failed maps first. 21 of 22 checked maps passed.")
    assert any(text.endswith("· class 21") for text in figures.texts(figure))
    assert agreement_figure(evidence_of([]), {}, [outcome()]) is None


@pytest.mark.parametrize(("count", "columns"), [(2, 1), (3, 2), (7, 3)])
def test_many_maps_are_arranged_in_columns(count, columns, figures):
    figure = compare(*[AGREEMENT] * count)
    first = [axes.get_position() for axes in figures.images(figure)[::3]]
    lefts = [round(place.x0, 4) for place in first]
    assert lefts[:columns] == sorted(set(lefts))
    assert lefts == [lefts[place % columns] for place in range(count)]


def test_each_pixel_of_a_compared_map_is_a_block(tmp_path, figures):
    figure = compare(AGREEMENT, BROKEN, size=(33, 33))
    figures.assert_pixels_are_blocks(figure, figures.images(figure), tmp_path / "agreement.png")
