import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lit_viz.figures.attack import AttackPanel, attack_figure
from lit_viz.figures.curves import Trace
from lit_viz.figures.layout import pixels
from lit_viz.figures.style import COLORS, save_figure
from lit_viz.images.reading import to_uint8
from lit_viz.images.rendering import difference, gray_levels
from tests.figures.helpers import LONG, assert_no_overlap, assert_pixels_are_blocks, caption, images, plots, texts

HOLDS = {"in the file": True, "after JPEG 75": False}


def levels(seed, channels=3, size=(8, 8)):
    """Return an image of whole 255ths."""
    drawn = torch.randint(20, 236, (channels, *size), generator=torch.Generator().manual_seed(seed))
    return drawn / 255


def trace(count=10, flip=6):
    ks = range(count)
    return Trace(
        [(k, k / count) for k in ks],
        [(k, k - flip - 0.5 if flip is not None else -1.0 - k) for k in ks],
        [(k, 0.1 * k) for k in ks],
        [(k, k / 255) for k in ks],
        flip=flip,
        goal="stingray",
    )


def panel(seed=0, size=(8, 8), channels=3, **changes):
    original = levels(seed, channels, size)
    fooled = (original + levels(seed + 100, channels, size).sub(0.5).mul(10).round() / 255).clamp(0, 1)
    made = AttackPanel(f"image {seed}", original, fooled, "quail, p = 0.93", "stingray, p = 0.41", HOLDS, trace=trace())
    return replace(made, **changes)


@pytest.mark.parametrize(("size", "count"), [((8, 8), 1), ((33, 33), 5), ((224, 224), 1)])
def test_each_pixel_is_a_block_of_the_file(tmp_path, size, count):
    drawn = [panel(seed, size) for seed in range(count)]
    figure = attack_figure(drawn)
    assert_pixels_are_blocks(figure, images(figure), tmp_path / "figure.png")
    last = drawn[-1]
    expected = [to_uint8(last.original), to_uint8(last.result)]
    expected += [gray_levels(difference(last.result, last.original, times)[0]) for times in (1, 10)]
    for axes, picture in zip(images(figure)[-4:], expected, strict=True):
        assert np.array_equal(axes.images[0].get_array(), picture)


def test_files_are_decoded_for_drawing_and_norms(tmp_path):
    made = panel(result=levels(0) + torch.tensor([3.4 / 255]))
    Image.fromarray(to_uint8(made.result)).save(tmp_path / "fooled.png")
    figure = attack_figure([replace(made, result=tmp_path / "fooled.png")])
    assert np.array_equal(images(figure)[1].images[0].get_array(), pixels(tmp_path / "fooled.png"))
    norm = 3 / 255 * math.sqrt(192)
    assert f"L2 {norm:.3g} · L∞ 3/255" in texts(figure)
    assert f"L2 {3.4 / 255 * math.sqrt(192):.3g} · L∞ 3.40/255" in texts(attack_figure([made]))


def test_text_contains_predictions_notes_and_verdicts():
    written = texts(attack_figure([panel(notes=["12 iterations"])]))
    assert {"quail, p = 0.93", "stingray, p = 0.41", "12 iterations", "in the file", "after JPEG 75"} <= set(written)
    first = written.index("original")
    assert written[first : first + 4] == ["original", "fooled", "difference", "difference × 10"]


def test_verdicts_have_words_and_colors():
    figure = attack_figure([panel(verdicts={**HOLDS, "by a judge": None})])
    rows = {text.get_text(): text for text in figure.texts if text.get_position()[0] < 0.1}
    assert rows["fooled"].get_color() == COLORS[2]
    assert rows["not fooled"].get_color() == COLORS[1]
    assert rows["not tested"].get_color() not in COLORS
    heights = {text.get_text(): text.get_position()[1] for text in figure.texts}
    assert rows["not fooled"].get_position()[1] == heights["after JPEG 75"]


def test_a_failed_attack_is_titled_attacked():
    failed = panel(1, verdicts={"in the file": False}, trace=trace(flip=None))
    figure = attack_figure([panel(0), failed])
    assert "attacked" in texts(figure)
    assert "fooled at iteration 6, before rounding" in texts(figure)
    message = next(text for text in figure.texts if text.get_text() == "not fooled in 9 iterations")
    assert message.get_color() == COLORS[1]
    assert caption(figure).startswith("1 of 2 fooled in the file.")
    assert "attacked minus original" in caption(figure)
    assert "attacked" in texts(attack_figure([panel(verdicts={})]))  # no verification


def test_clipped_share_is_noted():
    quiet = attack_figure([panel(result=levels(0) + 0.01)])
    assert "no value is clipped" in caption(quiet)
    assert not any(text.endswith("% clipped") for text in texts(quiet))
    fooled = levels(0)
    fooled[0, 0, :2] = 1.2
    loud = attack_figure([panel(result=fooled)])
    share = f"{100 * 2 / 192:.3g} % clipped"
    assert texts(loud).count(share) >= 2  # the fooled image itself, and the difference × 10
    assert "values outside [0, 1] are clipped" in caption(loud)
    one = torch.full((3, 224, 224), 0.5)
    one[0, 0, 0] = 0.6
    assert "< 0.01 % clipped" in texts(attack_figure([panel(original=torch.full((3, 224, 224), 0.5), result=one)]))


def test_curves_share_the_iteration_axis():
    figure = attack_figure([panel()])
    strips = plots(figure)
    assert len(strips) == 4
    assert len({axes.get_xlim() for axes in strips}) == 1
    made = trace()
    required = [made.probability, made.margin, made.l2, [(k, 255 * value) for k, value in made.linf]]
    for axes, curve in zip(strips, required, strict=True):
        line = max(axes.lines, key=lambda line: len(line.get_xdata()))
        assert np.array_equal(np.transpose(line.get_data()), curve)
        assert any(set(line.get_xdata()) == {made.flip} for line in axes.lines)
        assert axes.get_ylim()[0] <= 0 <= axes.get_ylim()[1]
    assert strips[0].get_ylim() == (0, 1)
    assert {"probability of stingray", "margin", "L2", "L∞ (/255)"} <= set(texts(figure))


@pytest.mark.parametrize("last", [1, 10, 13, 17, 100, 333])
def test_iteration_axis_ends_at_a_labeled_tick(last):
    margins = [(k, k - last + 0.5) for k in range(last + 1)]
    figure = attack_figure([panel(trace=Trace(margin=margins, flip=last))])
    ticks = plots(figure)[-1].get_xticks()
    assert [ticks[0], ticks[-1]] == [0, last]
    assert_no_overlap(figure)


def test_empty_curves_have_no_strip():
    only = Trace(margin=[(0, -1.0), (1, math.nan), (2, 1.0)], flip=2)
    assert len(plots(attack_figure([panel(trace=only)]))) == 1
    assert plots(attack_figure([panel(trace=Trace())])) == []
    assert plots(attack_figure([panel(trace=None)])) == []
    assert_no_overlap(attack_figure([panel(trace=only)]))


@pytest.mark.parametrize(
    "odd",
    [
        Trace([(0, 0.2)], [(0, 0.0)], [(0, 0.0)], [(0, 0.0)], flip=0),
        Trace([(0, 0.2), (10, 0.9)], flip=12),
        Trace([(0, math.nan)], [(0, math.inf)], [(0, math.nan)]),
        Trace([(99_990, 0.1), (100_000, 0.9)], goal=LONG),
    ],
)
def test_degenerate_traces(tmp_path, odd):
    figure = attack_figure([panel(trace=odd)])
    assert_no_overlap(figure)
    assert all(np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all() for axes in figure.axes)
    save_figure(figure, tmp_path / "figure.png")


def test_many_images_share_a_plot_and_rows_are_limited():
    drawn = [panel(seed, trace=trace(5 + seed, flip=3 if seed else None)) for seed in range(22)]
    figure = attack_figure(drawn)
    assert len(images(figure)) == 4 * 20
    assert len(plots(figure)) == 4
    assert caption(figure).startswith("20 of 22 images. 22 of 22 fooled in the file.")
    assert "22 images, one line each; dots: first logged success (21 of 22)" in texts(figure)
    assert plots(figure)[0].get_xlim() == (0, 25)
    assert figure.dpi >= 120
    assert_no_overlap(figure)


def test_shared_plot_of_several_targets_names_no_class():
    drawn = [panel(seed, trace=replace(trace(), goal=str(seed))) for seed in range(4)]
    assert any(text.startswith("probability of") and "stingray" not in text for text in texts(attack_figure(drawn)))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_long_names_do_not_overlap(count):
    odd = {"name": LONG, "before": f"{LONG}, p = 0.93", "after": f"{LONG}, p = 0.41", "notes": [LONG, "x" * 60]}
    drawn = [
        panel(seed, (33, 20 + 10 * seed), result=levels(seed + 1, size=(33, 20 + 10 * seed)), **odd)
        for seed in range(count)
    ]
    drawn = [replace(made, verdicts={**HOLDS, LONG: False}, trace=replace(trace(), goal=LONG)) for made in drawn]
    figure = attack_figure(drawn)
    assert_no_overlap(figure)
    if count < 7:
        assert any("p = 0.93" in text for text in texts(figure))


def test_gray_images_and_no_images():
    assert len(images(attack_figure([panel(channels=1)]))) == 4
    assert attack_figure([]).axes == []


@pytest.mark.parametrize("suffix", [".pdf", ".svg"])
def test_saves_vector_formats(tmp_path, suffix):
    assert save_figure(attack_figure([panel()]), tmp_path / f"figure{suffix}").stat().st_size > 1000
