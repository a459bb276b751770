import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lit_viz.figures.attack import attack_figure, attack_pages
from lit_viz.figures.layout import pixels
from lit_viz.figures.style import COLORS, save_figure
from lit_viz.images.reading import to_uint8
from lit_viz.images.rendering import difference, gray_levels
from tests.support.marks import slow


@pytest.mark.parametrize(("size", "count"), [((8, 8), 1), ((33, 33), 3), slow((224, 224), 1)])
def test_each_pixel_is_a_block_of_the_file(tmp_path, size, count, figures: Any):
    drawn = [figures.attacked(seed, size) for seed in range(count)]
    figure = attack_figure(drawn)
    figures.assert_pixels_are_blocks(figure, figures.images(figure), tmp_path / "figure.png")
    last = drawn[-1]
    expected = [to_uint8(last.source()), to_uint8(last.image())]
    expected += [gray_levels(difference(last.image(), last.source(), times)[0]) for times in (1, 10)]
    for axes, picture in zip(figures.images(figure)[-4:], expected, strict=True):
        assert np.array_equal(axes.images[0].get_array(), picture)


def test_files_are_decoded_for_drawing_and_norms(tmp_path, monkeypatch, figures: Any):
    made = figures.attacked(result=figures.levels(0) + torch.tensor([3.4 / 255]))
    assert f"L2 {3.4 / 255 * math.sqrt(192):.3g} · L∞ 3.40/255" in figures.texts(attack_figure([made]))
    Image.fromarray(to_uint8(made.image())).save(tmp_path / "fooled.png")
    monkeypatch.setattr(made, "pictures", lambda: (figures.levels(0), tmp_path / "fooled.png"))
    figure = attack_figure([made])
    assert np.array_equal(figures.images(figure)[1].images[0].get_array(), pixels(tmp_path / "fooled.png"))
    norm = 3 / 255 * math.sqrt(192)
    assert f"L2 {norm:.3g} · L∞ 3/255" in figures.texts(figure)


def test_text_contains_predictions_notes_and_verdicts(figures: Any):
    written = figures.texts(attack_figure([figures.attacked(settings={"by": "square"})]))
    assert {"quail", "stingray: p = 0.03", "stingray", "stingray: p = 0.41", "12 iterations", "by square"} <= set(
        written
    )
    assert {"in the file", "after JPEG 95", "after JPEG 75"} <= set(written)
    first = written.index("original")
    assert written[first : first + 4] == ["original", "fooled", "difference", "difference × 10"]


def test_verdicts_have_words_and_colors(figures: Any):
    figure = attack_figure([figures.attacked()])
    rows = {text.get_text(): text for text in figure.texts if text.get_position()[0] < 0.1}
    assert rows["fooled"].get_color() == COLORS[2]
    assert rows["robust"].get_color() == COLORS[1]
    assert rows["not tested"].get_color() not in COLORS
    heights = {text.get_text(): text.get_position()[1] for text in figure.texts}
    assert rows["robust"].get_position()[1] == heights["after JPEG 75"]


def test_a_failed_attack_is_titled_attacked(figures: Any):
    failed = figures.attacked(1, success_file=False, curves=figures.trace(flip=None))
    figure = attack_figure([figures.attacked(0), failed])
    assert "attacked" in figures.texts(figure)
    assert "fooled at iteration 6, before rounding" in figures.texts(figure)
    message = next(text for text in figure.texts if text.get_text() == "robust after 9 iterations")
    assert message.get_color() == COLORS[1]
    assert figures.caption(figure).startswith("1 of 2 fooled in the file.")
    assert "attacked minus original" in figures.caption(figure)
    assert "attacked" in figures.texts(attack_figure([figures.attacked(success_file=None)]))  # no verification


def test_clipped_share_is_noted(figures: Any):
    quiet = attack_figure([figures.attacked(result=figures.levels(0) + 0.01)])
    assert "no value is clipped" in figures.caption(quiet)
    assert not any(text.endswith("% clipped") for text in figures.texts(quiet))
    fooled = figures.levels(0)
    fooled[0, 0, :2] = 1.2
    loud = attack_figure([figures.attacked(result=fooled)])
    share = f"{100 * 2 / 192:.3g} % clipped"
    assert figures.texts(loud).count(share) >= 2  # the fooled image itself, and the difference × 10
    assert "values outside [0, 1] are clipped" in figures.caption(loud)
    one = torch.full((3, 224, 224), 0.5)
    one[0, 0, 0] = 0.6
    assert "< 0.01 % clipped" in figures.texts(
        attack_figure([figures.attacked(original=torch.full((3, 224, 224), 0.5), result=one)])
    )


def test_curves_share_the_iteration_axis(figures: Any):
    figure = attack_figure([figures.attacked()])
    strips = figures.plots(figure)
    assert len(strips) == 4
    assert len({axes.get_xlim() for axes in strips}) == 1
    made = figures.trace()
    required = [made["probability"], made["margin"], made["l2"], [(k, 255 * value) for k, value in made["linf"]]]
    for axes, curve in zip(strips, required, strict=True):
        line = max(axes.lines, key=lambda line: len(line.get_xdata()))
        assert np.array_equal(np.transpose(line.get_data()), curve)
        assert any(set(line.get_xdata()) == {6} for line in axes.lines)
        assert axes.get_ylim()[0] <= 0 <= axes.get_ylim()[1]
    assert strips[0].get_ylim() == (0, 1)
    assert {"probability of stingray", "margin", "L2", "L∞ (/255)"} <= set(figures.texts(figure))


@pytest.mark.parametrize("last", [1, 10, 13, 17, 100, 333])
def test_iteration_axis_ends_at_a_labeled_tick(last, figures: Any):
    margins = [(k, k - last + 0.5) for k in range(last + 1)]
    figure = attack_figure([figures.attacked(curves={"margin": margins})])
    ticks = figures.plots(figure)[-1].get_xticks()
    assert [ticks[0], ticks[-1]] == [0, last]


def test_empty_curves_have_no_strip(figures: Any):
    only = {"margin": [(0, -1.0), (1, math.nan), (2, 1.0)]}
    assert len(figures.plots(attack_figure([figures.attacked(curves=only)]))) == 1
    assert figures.plots(attack_figure([figures.attacked(curves={})])) == []


def test_a_skipped_image_has_the_reason_and_no_curve(figures: Any):
    figure = attack_figure([figures.attacked(status="skipped", curves=figures.trace(1))])
    assert "skipped: target predicted" in " ".join(figures.texts(figure))
    assert "not tested" in figures.texts(figure)
    assert figures.plots(figure) == []


@pytest.mark.parametrize(
    "odd",
    [
        {"probability": [(0, 0.2)], "margin": [(0, 0.1)], "l2": [(0, 0.0)], "linf": [(0, 0.0)]},
        {"probability": [(0, 0.2), (10, 0.9)], "margin": [(12, 1.0)]},
        {"probability": [(0, math.nan)], "margin": [(0, math.inf)], "l2": [(0, math.nan)]},
        {"probability": [(99_990, 0.1), (100_000, 0.9)]},
    ],
)
def test_degenerate_traces(tmp_path, odd, figures: Any):
    figure = attack_figure([figures.attacked(curves=odd, target_name=figures.LONG)])
    assert all(np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all() for axes in figure.axes)
    save_figure(figure, tmp_path / "figure.png")


def test_many_images_share_a_plot_and_rows_are_limited(figures: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lit_viz.figures.attack.MOST_ROWS", 4)
    drawn = [figures.attacked(seed, curves=figures.trace(5 + seed, flip=3 if seed else None)) for seed in range(7)]
    figure = attack_figure(drawn)
    assert len(figures.images(figure)) == 4 * 4
    assert len(figures.plots(figure)) == 4
    assert figures.caption(figure).startswith("Page 1 of 2: images 1 to 4 of 7. 7 of 7 fooled in the file.")
    assert "7 images, one line each; dots: first logged success (6 of 7)" in figures.texts(figure)
    assert figures.plots(figure)[0].get_xlim() == (0, 10)
    assert attack_pages(drawn) == 2
    second = attack_figure(drawn, page=2)
    assert len(figures.images(second)) == 4 * 3
    assert figures.caption(second).startswith("Page 2 of 2: images 5 to 7 of 7.")
    assert figures.plots(second) == []
    assert figure.dpi >= 120


def test_shared_plot_of_several_targets_names_no_class(figures: Any):
    drawn = [figures.attacked(seed, target_name=str(seed)) for seed in range(4)]
    assert any(
        text.startswith("probability of") and "stingray" not in text for text in figures.texts(attack_figure(drawn))
    )


def test_long_names_leave_the_probability(figures: Any):
    names = dict.fromkeys(("name", "predicted_before_name", "predicted_name", "target_name"), figures.LONG)
    figure = attack_figure([figures.attacked(settings={"by": figures.LONG}, **names)])
    assert any("p = 0.41" in text for text in figures.texts(figure))


def test_gray_images_and_no_images(figures: Any):
    assert len(figures.images(attack_figure([figures.attacked(channels=1)]))) == 4
    assert attack_figure([]).axes == []


@pytest.mark.parametrize("suffix", [".pdf", ".svg"])
def test_saves_vector_formats(tmp_path, suffix, figures: Any):
    assert save_figure(attack_figure([figures.attacked()]), tmp_path / f"figure{suffix}").stat().st_size > 1000


def test_skipped_images_are_on_the_last_page(figures: Any):
    drawn = [figures.attacked(seed, status="skipped" if seed < 5 else "done") for seed in range(14)]
    first, second = attack_figure(drawn), attack_figure(drawn, page=2)
    assert "Page 1 of 2: images 1 to 12 of 14, skipped ones last." in figures.caption(first)
    assert " ".join(figures.texts(first)).count("skipped: target") == 3
    assert " ".join(figures.texts(second)).count("skipped: target") == 2
