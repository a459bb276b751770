import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from lit_viz.errors import LitVizError
from lit_viz.evidence.summaries import wilson_interval
from lit_viz.figures.attack import AttackPanel, attack_figure
from lit_viz.figures.layout import pixels
from lit_viz.figures.robustness import robustness_figure
from lit_viz.figures.style import COLORS, save_figure
from lit_viz.figures.traces import Trace
from lit_viz.images.difference import difference, gray_levels
from lit_viz.images.reading import to_uint8

LONG = "American Staffordshire terrier, American pit bull terrier"
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


def texts(figure):
    return [text.get_text().replace("\u00a0", " ") for text in figure.texts]


def caption(figure):
    written = texts(figure)
    return " ".join(written[: written.index("original")])


def pictures(figure):
    return [axes for axes in figure.axes if axes.images]


def plots(figure):
    return [axes for axes in figure.axes if not axes.images]


def assert_nothing_collides(figure):
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    written = [*figure.texts]
    for axes in plots(figure):
        written += [axes.xaxis.label, axes.yaxis.label]
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            ticks = axis.get_major_ticks() if axes.axison else []
            written += [tick.label1 for tick in ticks if tick.label1.get_visible() and low <= tick.get_loc() <= high]
    boxes = [text.get_window_extent(renderer) for text in written if text.get_text()]
    boxes += [axes.get_window_extent(renderer) for axes in figure.axes]
    pairs = [(a, b) for n, a in enumerate(boxes) for b in boxes[n + 1 :]]
    assert not [(a, b) for a, b in pairs if a.padded(-1).overlaps(b.padded(-1))]
    wide, high = figure.get_size_inches() * figure.dpi
    assert all(min(box.x0, box.y0, wide - box.x1, high - box.y1) >= 0 for box in boxes)


@pytest.mark.parametrize(
    ("change", "shown", "level", "clipped"),
    [(0.7, 1.0, 255, 1), (-0.6, 0.0, 0, 1), (0.5, 1.0, 255, 0), (-0.5, 0.0, 0, 0), (0.0, 0.5, 128, 0)],
)
def test_a_difference_is_clipped_and_never_wraps(change, shown, level, clipped):
    source = torch.full((3, 2, 2), 0.65 if change < 0 else 0.2)
    picture, share = difference(source + change, source)
    assert picture.shape == (3, 2, 2)
    assert picture.numpy() == pytest.approx(shown, abs=1e-6)
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert (gray_levels(picture) == level).all()
    assert share == clipped


def test_no_change_is_exactly_mid_grey_and_one_level_of_change_one_level_of_grey():
    source = torch.arange(20, 236).float().expand(3, 1, -1) / 255
    assert (difference(source, source)[0] == 0.5).all()
    for steps in range(-12, 13):
        moved = (source * 255 + steps) / 255
        assert (gray_levels(difference(moved, source)[0]) == 128 + steps).all()
        picture, share = difference(moved, source, 10)
        assert (gray_levels(picture) == 128 + 10 * steps).all()
        assert share == 0


def test_the_clipped_share_counts_values():
    source = torch.full((3, 4, 4), 0.5)
    image = source.clone()
    image[0, 0, :3] += 0.06
    image[1, 0, 0] -= 0.06
    image[2] += 0.04
    picture, share = difference(image, source, 10)
    assert share == pytest.approx(4 / 48)
    assert picture[:, 0, 0].tolist() == pytest.approx([1.0, 0.0, 0.9])
    assert difference(image, source)[1] == 0


def test_one_channel_becomes_grey():
    source = levels(0, channels=1)
    picture, _ = difference(source + 0.1, source)
    assert picture.shape == (3, 8, 8)
    assert picture.numpy() == pytest.approx(0.6)


def test_what_is_not_a_number_counts_as_clipped_and_leaves_no_nan():
    image = levels(0)
    image[0, 0, :2] = torch.tensor([math.nan, math.inf])
    picture, share = difference(image, levels(0))
    assert share == pytest.approx(2 / 192)
    assert picture[0, 0, :3].tolist() == [0, 1, 0.5]


def test_images_of_two_shapes_have_no_difference():
    with pytest.raises(LitVizError, match="same shape, got 3 x 8 x 8 and 1 x 8 x 8"):
        difference(levels(0), levels(0, 1))


@pytest.mark.parametrize(("size", "count"), [((8, 8), 1), ((12, 10), 4), ((33, 33), 7), ((224, 224), 1)])
def test_every_pixel_is_a_block_of_the_file_and_nothing_is_rescaled(tmp_path, size, count):
    drawn = [panel(seed, size) for seed in range(count)]
    figure = attack_figure(drawn)
    file = np.asarray(Image.open(save_figure(figure, tmp_path / "figure.png")).convert("RGB"))
    renderer = FigureCanvasAgg(figure).get_renderer()
    last = drawn[-1]
    wanted = [to_uint8(last.original), to_uint8(last.result)]
    wanted += [gray_levels(difference(last.result, last.original, times)[0]) for times in (1, 10)]
    for axes, picture in zip(pictures(figure)[-4:], wanted, strict=True):
        box = axes.get_window_extent(renderer)
        times = round(box.width) // size[1]
        assert times >= 2
        top, left = round(file.shape[0] - box.y1), round(box.x0)
        block = file[top : top + times * size[0], left : left + times * size[1]]
        assert np.array_equal(block, picture.repeat(times, 0).repeat(times, 1))


def test_files_are_drawn_and_measured_as_a_reader_gets_them(tmp_path):
    made = panel(result=levels(0) + torch.tensor([3.4 / 255]))
    Image.fromarray(to_uint8(made.result)).save(tmp_path / "fooled.png")
    figure = attack_figure([replace(made, result=tmp_path / "fooled.png")])
    assert np.array_equal(pictures(figure)[1].images[0].get_array(), pixels(tmp_path / "fooled.png"))
    norm = 3 / 255 * math.sqrt(192)
    assert f"L2 {norm:.3g} · L∞ 3/255" in texts(figure)
    assert f"L2 {3.4 / 255 * math.sqrt(192):.3g} · L∞ 3.40/255" in texts(attack_figure([made]))


def test_class_probability_norms_and_verdicts_are_told():
    written = texts(attack_figure([panel(notes=["12 iterations"])]))
    assert {"quail, p = 0.93", "stingray, p = 0.41", "12 iterations", "in the file", "after JPEG 75"} <= set(written)
    first = written.index("original")
    assert written[first : first + 4] == ["original", "fooled", "difference", "difference × 10"]


def test_a_verdict_is_told_by_word_and_colour():
    figure = attack_figure([panel(verdicts={**HOLDS, "by a judge": None})])
    rows = {text.get_text(): text for text in figure.texts if text.get_position()[0] < 0.1}
    assert rows["fooled"].get_color() == COLORS[2]
    assert rows["not fooled"].get_color() == COLORS[1]
    assert rows["not tested"].get_color() not in COLORS
    heights = {text.get_text(): text.get_position()[1] for text in figure.texts}
    assert rows["not fooled"].get_position()[1] == heights["after JPEG 75"]


def test_a_failed_attack_is_not_called_fooled():
    failed = panel(1, verdicts={"in the file": False}, trace=trace(flip=None))
    figure = attack_figure([panel(0), failed])
    assert "attacked" in texts(figure)
    assert "fooled at iteration 6, before rounding" in texts(figure)
    said = next(text for text in figure.texts if text.get_text() == "not fooled in 9 iterations")
    assert said.get_color() == COLORS[1]
    assert caption(figure).startswith("1 of 2 fooled in the file.")
    assert "attacked minus original" in caption(figure)
    assert "attacked" in texts(attack_figure([panel(verdicts={})]))  # nobody tried


def test_what_is_clipped_is_said_where_it_is():
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


def test_the_curves_are_drawn_as_they_are_over_one_axis():
    figure = attack_figure([panel()])
    strips = plots(figure)
    assert len(strips) == 4
    assert len({axes.get_xlim() for axes in strips}) == 1
    made = trace()
    wanted = [made.probability, made.margin, made.l2, [(k, 255 * value) for k, value in made.linf]]
    for axes, curve in zip(strips, wanted, strict=True):
        line = max(axes.lines, key=lambda line: len(line.get_xdata()))
        assert np.array_equal(np.transpose(line.get_data()), curve)
        assert any(set(line.get_xdata()) == {made.flip} for line in axes.lines)
        assert axes.get_ylim()[0] <= 0 <= axes.get_ylim()[1]
    assert strips[0].get_ylim() == (0, 1)
    assert {"probability of stingray", "margin", "L2", "L∞ (/255)"} <= set(texts(figure))


@pytest.mark.parametrize("last", [1, 10, 13, 17, 100, 333])
def test_the_last_iteration_is_at_the_end_of_the_axis_in_numbers(last):
    margins = [(k, k - last + 0.5) for k in range(last + 1)]
    ticks = plots(attack_figure([panel(trace=Trace(margin=margins, flip=last))]))[-1].get_xticks()
    assert [ticks[0], ticks[-1]] == [0, last]
    assert (np.diff(ticks) > 0.08 * last).all()


def test_what_nothing_is_known_of_has_no_strip():
    only = Trace(margin=[(0, -1.0), (1, math.nan), (2, 1.0)], flip=2)
    assert len(plots(attack_figure([panel(trace=only)]))) == 1
    assert plots(attack_figure([panel(trace=Trace())])) == []
    assert plots(attack_figure([panel(trace=None)])) == []
    assert_nothing_collides(attack_figure([panel(trace=only)]))


@pytest.mark.parametrize(
    "odd",
    [
        Trace([(0, 0.2)], [(0, 0.0)], [(0, 0.0)], [(0, 0.0)], flip=0),
        Trace([(0, 0.2), (10, 0.9)], flip=12),
        Trace([(0, math.nan)], [(0, math.inf)], [(0, math.nan)]),
        Trace([(99_990, 0.1), (100_000, 0.9)], goal=LONG),
    ],
)
def test_odd_traces_are_drawn_too(tmp_path, odd):
    figure = attack_figure([panel(trace=odd)])
    assert_nothing_collides(figure)
    assert all(np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all() for axes in figure.axes)
    save_figure(figure, tmp_path / "figure.png")


def test_many_images_share_a_plot_and_are_cut_and_counted():
    drawn = [panel(seed, trace=trace(5 + seed, flip=3 if seed else None)) for seed in range(30)]
    figure = attack_figure(drawn)
    assert len(pictures(figure)) == 4 * 20
    assert len(plots(figure)) == 4
    assert caption(figure).startswith("The first 20 of 30 images. 30 of 30 fooled in the file.")
    assert "30 images, one line each; dots: first success (29 of 30)" in texts(figure)
    assert plots(figure)[0].get_xlim() == (0, 33)
    assert figure.dpi >= 120
    assert_nothing_collides(figure)


def test_the_compact_plot_of_different_goals_names_none():
    drawn = [panel(seed, trace=replace(trace(), goal=str(seed))) for seed in range(4)]
    assert any(text.startswith("probability of") and "stingray" not in text for text in texts(attack_figure(drawn)))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_long_names_collide_with_nothing(count):
    odd = {"name": LONG, "before": f"{LONG}, p = 0.93", "after": f"{LONG}, p = 0.41", "notes": [LONG, "x" * 60]}
    drawn = [
        panel(seed, (33, 20 + 10 * seed), result=levels(seed + 1, size=(33, 20 + 10 * seed)), **odd)
        for seed in range(count)
    ]
    drawn = [replace(made, verdicts={**HOLDS, LONG: False}, trace=replace(trace(), goal=LONG)) for made in drawn]
    figure = attack_figure(drawn)
    assert_nothing_collides(figure)
    if count < 7:
        assert any("p = 0.93" in text for text in texts(figure))


def test_grey_images_and_no_images():
    assert len(pictures(attack_figure([panel(channels=1)]))) == 4
    assert attack_figure([]).axes == []


@pytest.mark.parametrize("suffix", [".pdf", ".svg"])
def test_it_is_written_for_papers_too(tmp_path, suffix):
    assert save_figure(attack_figure([panel()]), tmp_path / f"figure{suffix}").stat().st_size > 1000


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_the_published_one(successes, n, low, high):
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    assert wilson_interval(successes, n, z=1.959964) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(n - successes, n, z=1.959964) == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.mark.parametrize("n", [1, 7, 200, 10**6])
def test_wilsons_limits_solve_the_score_equation(n):
    for successes in {0, 1, n // 2, n}:
        low, high = wilson_interval(successes, n)
        assert 0 <= low <= successes / n <= high <= 1
        for end in (low, high):  # (p - end)^2 = z^2 end (1 - end) / n, the definition
            assert (successes / n - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / n, rel=1e-6, abs=1e-15)


def test_wilsons_interval_at_its_ends():
    assert wilson_interval(0, 10) == (0.0, pytest.approx(1.96**2 / (10 + 1.96**2)))
    assert wilson_interval(10, 10) == (pytest.approx(10 / (10 + 1.96**2)), 1.0)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    for wrong in ((-1, 5), (6, 5)):
        with pytest.raises(LitVizError, match="can't have succeeded"):
            wilson_interval(*wrong)


def curves(count):
    return {
        f"network {n} {LONG if n % 2 else ''}": [
            (eps / 255, share := round(0.9 / (1 + n + eps), 2), *wilson_interval(round(100 * share), 100))
            for eps in (8, 0, 4)
        ]
        for n in range(count)
    }


def test_robust_accuracy_is_drawn_against_eps_with_its_interval():
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
def test_the_names_of_networks_collide_with_nothing(tmp_path, count):
    figure = robustness_figure(curves(count) | ({"empty": []} if count else {}))
    looks = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines]
    assert len(set(looks)) == len(looks)
    assert_nothing_collides(figure)
    save_figure(figure, tmp_path / "figure.png")
