import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lit_viz.attributions.reducers import reduce_channels
from lit_viz.figures.evidence import EvidenceRow, Gate, evidence_figure
from lit_viz.figures.layout import pixels
from lit_viz.figures.style import COLORS
from lit_viz.images.rendering import clip_limits, heat
from tests.figures.helpers import LONG, assert_no_overlap, assert_pixels_are_blocks, images, texts

FORMULA = Gate("formula in float64", 2e-15, 1e-8, passed=True)
BROKEN = Gate("delivered map", 0.25, 1e-6, passed=False)
NUMBERS = {"this map": {"Spearman": 0.99987, "SSIM": 1.0}, "another class": {"Spearman": -1e-7, "SSIM": math.nan}}


def row(seed=0, gates=(FORMULA,), size=(8, 8), channels=3):
    ours = torch.randn(channels, *size, generator=torch.Generator().manual_seed(seed))
    captum = ours.double()
    captum[-1, 0, 0] += 2.0  # in one channel and one pixel only
    return EvidenceRow(f"class {seed}", "gradient", ours.numpy(), captum, gates, NUMBERS)


def test_map_reference_and_difference_share_one_scale():
    of = row(size=(16, 16))
    figure = evidence_figure([of])
    attributions = torch.stack([torch.from_numpy(of.attribution).double(), of.reference])
    maps = reduce_channels(attributions)
    limit = clip_limits(maps)[0]
    difference = torch.zeros(16, 16, dtype=torch.float64)
    difference[0, 0] = 2.0
    for axes, values in zip(images(figure), [*maps, difference], strict=True):
        assert np.array_equal(axes.images[0].get_array(), pixels(heat(values, limit)))
    assert {"lit_viz", "Captum", "difference", "largest: 2.00", f"≥ {limit:.3g}", "0"} <= set(texts(figure))
    assert "pixels above the 99.5 % quantile are clipped" in " ".join(texts(figure))


def test_differences_that_cancel_in_the_channel_sum_are_detected():
    ours = torch.zeros(3, 4, 4)
    figure = evidence_figure([EvidenceRow("a", "gradient", ours + torch.tensor([3.0, -3, 0]).view(3, 1, 1), ours)])
    assert "largest: 3.00" in texts(figure)


@pytest.mark.parametrize(
    ("gates", "word", "color"), [([FORMULA], "passed", COLORS[2]), ([BROKEN], "failed", COLORS[1])]
)
def test_verdict_has_word_and_color(gates, word, color):
    figure = evidence_figure([row(gates=gates)])
    assert [text.get_color() for text in figure.texts if text.get_text() == word] == [color, color]


def test_one_failed_gate_fails_the_map():
    figure = evidence_figure([row(gates=[FORMULA, BROKEN])])
    assert texts(figure).count("failed") == 2
    assert texts(figure).count("passed") == 1
    assert {"2.00e-15 ≤ 1.00e-08", "0.250 > 1.00e-06"} <= set(texts(figure))
    assert texts(figure)[0].startswith("0 of 1 checked maps passed.")


def test_similarity_table_contains_controls():
    assert {"Spearman", "SSIM", "0.9999", "1.0000", "-1.00e-07", "undefined"} <= set(texts(evidence_figure([row()])))


def test_a_row_without_gates_is_not_checked():
    assert {"not checked", "No map was checked. Maps: "} <= {
        text[:26] for text in texts(evidence_figure([row(gates=())]))
    }


def test_zero_and_non_finite_maps_are_noted():
    zero, broken = torch.zeros(3, 4, 4), torch.zeros(3, 4, 4)
    broken[0, 0, 0] = math.nan
    written = texts(
        evidence_figure([EvidenceRow("a", "gradient", zero, zero), EvidenceRow("b", "gradient", broken, zero)])
    )
    assert written.count("zero everywhere") == 3
    assert "largest: 0" in written
    assert written.count("1 non-finite pixel (black)") == 2


def test_failed_maps_take_precedence():
    figure = evidence_figure([row(seed, [FORMULA]) for seed in range(25)] + [row(99, [BROKEN])])
    assert len(images(figure)) == 3 * 20
    assert texts(figure)[0].startswith("20 of 26 maps, failed maps first. 25 of 26 checked maps passed.")
    assert "gradient · class 99" in texts(figure)
    assert "gradient · class 0" in texts(evidence_figure([row(1), row(0)]))


@pytest.mark.parametrize(("count", "columns"), [(2, 1), (3, 2), (6, 2), (7, 3)])
def test_many_maps_are_arranged_in_columns(count, columns):
    figure = evidence_figure([row(seed) for seed in range(count)])
    first = [axes.get_position() for axes in images(figure)[::3]]
    lefts = [round(place.x0, 4) for place in first]
    assert lefts[:columns] == sorted(set(lefts))
    assert lefts == [lefts[place % columns] for place in range(count)]
    assert_no_overlap(figure)


def test_no_overlap_and_each_pixel_is_a_block(tmp_path):
    long_name = replace(row(size=(33, 33)), name=LONG)
    figure = evidence_figure([long_name, row(1, [FORMULA, replace(BROKEN, name=LONG)], size=(33, 33))])
    assert_no_overlap(figure)
    assert_pixels_are_blocks(figure, images(figure), tmp_path / "evidence.png")
