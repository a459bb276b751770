import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lit_viz.attributions.reducers import reduce_channels
from lit_viz.errors import LitVizError
from lit_viz.figures.layout import Grid, compose, pixels
from lit_viz.figures.saliency import saliency_figure
from lit_viz.figures.scales import ColorBar
from lit_viz.figures.style import save_figure
from lit_viz.images.rendering import clip_limits, heat
from tests.support.figures import panels
from tests.support.marks import slow


@pytest.mark.parametrize("size", [(8, 8), (12, 10), (33, 33), slow((224, 224))])
@pytest.mark.parametrize("methods", [slow(("gradient",)), ("gradient", "smoothgrad")])
def test_each_pixel_of_a_map_is_a_block_of_the_file(tmp_path, size, methods, figures):
    drawn = panels(2, methods, size)
    figure = saliency_figure(drawn, scale="shared")
    figures.assert_pixels_are_blocks(figure, figures.images(figure), tmp_path / "figure.png")
    maps = reduce_channels(torch.stack([panel.maps["gradient"] for panel in drawn]))
    expected = pixels(heat(maps[1], clip_limits(maps)[0]))
    assert any(np.array_equal(axes.images[0].get_array(), expected) for axes in figures.images(figure))


@pytest.mark.parametrize("suffix", [".pdf", ".svg"])
def test_saves_vector_formats(tmp_path, suffix):
    assert save_figure(saliency_figure(panels(1)), tmp_path / f"figure{suffix}").stat().st_size > 1000


def test_maps_are_below_their_photographs(figures):
    figure = saliency_figure(panels(3))
    drawn = [axes.get_window_extent() for axes in figures.images(figure)]
    photographs, maps = drawn[:3], drawn[3:6]
    for photograph, below in zip(photographs, maps, strict=True):
        assert photograph.x0 == pytest.approx(below.x0)
        assert photograph.y0 > below.y1
        assert photograph.width == pytest.approx(below.width)
    assert {"class 0", "explains: class 0, p = 0.90", "gradient"} <= set(figures.texts(figure))


def test_shared_scale(figures):
    drawn = panels(2)
    figure = saliency_figure(drawn, scale="shared")
    maps = reduce_channels(torch.stack([panel.maps["gradient"] for panel in drawn]))
    limit = clip_limits(maps)[0]
    for axes, values in zip(figures.images(figure)[2:], maps, strict=True):
        assert np.array_equal(axes.images[0].get_array(), pixels(heat(values, limit)))
    assert figures.caption(figure) == (
        f"Maps: maximum absolute value over the channels. Scale: 0 to {limit:.3g}, shared by all maps; "
        "pixels above the 99.5 % quantile are clipped."
    )
    assert {"0", f"≥ {limit:.3g}"} <= set(figures.texts(figure))


def test_scale_per_map_is_noted_beneath_each(figures):
    drawn = panels(2)
    figure = saliency_figure(drawn)
    limits = [clip_limits(reduce_channels(panel.maps["gradient"]))[0] for panel in drawn]
    for axes, panel, limit in zip(figures.images(figure)[2:], drawn, limits, strict=True):
        values = reduce_channels(panel.maps["gradient"])[0]
        assert np.array_equal(axes.images[0].get_array(), pixels(heat(values, limit)))
    assert {f"limit {limit:.3g}" for limit in limits} <= set(figures.texts(figure))
    assert figures.caption(figure).endswith(
        "Each map has its own scale, up to the limit beneath it; pixels above the 99.5 % quantile are clipped."
    )


def test_faint_map_is_noted(figures):
    some = panels(2)
    faint = replace(some[0], maps={"gradient": 0.1 * some[1].maps["gradient"]})
    largest = float(reduce_channels(faint.maps["gradient"]).max())
    figure = saliency_figure([faint, some[1]], scale="shared")
    assert f"maximum {largest:.3g}, faint" in figures.texts(figure)
    assert "scale=map gives each map a scale of its own" in figures.caption(figure)
    assert "aint" not in " ".join(figures.texts(saliency_figure([faint, some[1]])))
    assert "aint" not in " ".join(figures.texts(saliency_figure(some, scale="shared")))


def test_a_map_is_zero_only_if_its_attribution_is(figures):
    negative = replace(panels(1)[0], maps={"occlusion": -7 * torch.ones(1, 8, 8)})
    texts = figures.texts(saliency_figure([negative], how="positive"))
    assert "zero everywhere" not in texts
    assert "no value above zero; least: −7.00" in " ".join(texts)


def test_methods_are_columns_with_one_scale_each(figures):
    drawn = panels(3, ("gradient", "grad-cam"))
    drawn = [replace(p, maps={**p.maps, "grad-cam": np.full((1, 8, 8), 7, np.float32)}) for p in drawn]
    figure = saliency_figure(drawn, scale="shared")
    assert len(figures.images(figure)) == 9
    assert {"gradient", "grad-cam", "7.00"} <= set(figures.texts(figure))
    assert "one per method" in figures.caption(figure)


def test_missing_map_leaves_an_empty_place(figures):
    first, second = panels(2, ("gradient", "smoothgrad"))
    figure = saliency_figure([first, replace(second, maps={"gradient": second.maps["gradient"]})])
    assert len(figures.images(figure)) == 5


def test_zero_and_non_finite_maps_are_noted(figures):
    zero, broken, sound = panels(3)
    broken.maps["gradient"][0, :2, :2] = math.nan
    figure = saliency_figure([replace(zero, maps={"gradient": torch.zeros(3, 8, 8)}), broken, sound], scale="map")
    assert {"zero everywhere", "4 non-finite pixels (black)"} <= set(figures.texts(figure))
    shown = [axes.images[0].get_array() for axes in figures.images(figure)[3:]]
    assert shown[0].max() < 12
    assert (shown[1][:2, :2] == 0).all()
    assert shown[1].max() == shown[2].max() == 255


def test_map_of_zeros(figures):
    figure = saliency_figure([replace(panels(1)[0], maps={"gradient": torch.zeros(3, 8, 8)})], scale="shared")
    assert "Scale: 0 to 0, shared by all maps; no pixel is clipped." in figures.caption(figure)


def test_signed_maps_have_a_diverging_scale(figures):
    figure = saliency_figure(panels(2), how="sum", scale="shared")
    assert any(text.startswith("≤ −") for text in figures.texts(figure))
    assert "Scale: −" in figures.caption(figure)
    assert "Red is evidence for the class, blue against it." in figures.caption(figure)


@pytest.mark.parametrize("vertical", [True, False])
def test_a_color_bar_ends_white_at_the_label_of_the_limit(vertical, figures):
    figure = compose(Grid([[ColorBar(("0", "5"), False, 2.0, vertical)]]))
    colors = figure.axes[0].images[0].get_array()
    positions = {text.get_text(): text.get_position() for text in figure.texts}
    axis = 1 if vertical else 0
    assert positions["5"][axis] > positions["0"][axis]
    assert (colors[(0, 0) if vertical else (0, -1)] == 1).all()
    assert colors.size == 3 * 256


def test_overlays_are_an_additional_row(figures):
    plain, more = saliency_figure(panels(2)), saliency_figure(panels(2), overlays=True)
    assert len(figures.images(more)) == len(figures.images(plain)) + 2
    assert "gradient, overlaid" in figures.texts(more)
    signed = saliency_figure(
        [replace(p, maps={"gradient": -p.maps["gradient"].abs()}) for p in panels(2)], "sum", overlays=True
    )
    laid = figures.images(signed)[-1].images[0].get_array().astype(int)
    assert (laid[..., 2] - laid[..., 0]).max() > 100  # blue, as what speaks against the class


def test_overlays_do_not_widen_the_figure(figures):
    methods = ("gradient", "grad-cam", "smoothgrad", "occlusion")
    for drawn in (panels(2), panels(1), panels(2, methods)):
        plain, more = saliency_figure(drawn), saliency_figure(drawn, overlays=True)
        assert more.get_figwidth() == plain.get_figwidth()


@pytest.mark.parametrize("count", [1, 3])
def test_headers_are_never_cut(count, figures):
    name = "IMG_20240611_174523_PORTRAIT_edited_final_version_2.jpeg"
    drawn = [
        replace(panel, name=name) for panel in panels(count, (f"integrated gradients, {figures.LONG}, {figures.LONG}",))
    ]
    figure = saliency_figure(drawn, overlays=True)
    assert not any("…" in text for text in figures.texts(figure))
    assert name in "".join(figures.texts(figure))


def test_uncertainty_is_noted(figures):
    figure = saliency_figure([replace(panel, uncertainty={"gradient": "± 2 %"}) for panel in panels(2)])
    assert figures.texts(figure).count("± 2 %") == 2


def test_line_break_does_not_split_a_probability(figures):
    figure = saliency_figure([replace(p, subtitle="explains: Tibetan mastiff, p = 0.93") for p in panels(2)])
    assert figures.texts(figure).count("p = 0.93") == 2


def test_many_photographs_wrap(figures):
    figure = saliency_figure(panels(36), scale="shared")
    assert len(figures.images(figure)) == 72
    lefts = {round(box.x0) for box in (axes.get_window_extent() for axes in figure.axes)}
    assert len(lefts) == 7  # six columns and the color bars
    assert figure.dpi >= 120  # of 8 dots an inch, no letter could be read


def test_bars_of_bands_are_columns_beside_the_maps(figures):
    values = {f"B{n:02d}": float(n - 5) for n in range(13)}
    drawn = []
    for panel in panels(4, ("gradient", "occlusion"), (32, 32)):
        drawn.append(replace(panel, bands={"gradient": values, "feature ablation": values}))
    figure = saliency_figure(drawn)
    charts = [axes for axes in figure.axes if axes.get_ylabel()]
    assert [axes.get_ylabel() for axes in charts] == ["sum of the map", "value"] * 4
    assert [label.get_text() for label in charts[0].get_xticklabels()] == list(values)
    photographs = [axes for axes in figures.images(figure) if axes not in charts][:1]
    tops = {round(axes.get_window_extent().y1) for axes in charts[:2]}
    assert tops == {round(photographs[0].get_window_extent().y1)}
    assert {"class 0", "gradient, by band", "feature ablation, by band"} <= set(figures.texts(figure))
    assert figure.get_figheight() < 9


def test_run_without_maps(figures):
    figure = saliency_figure([replace(panel, maps={}) for panel in panels(2)])
    assert len(figures.images(figure)) == 2
    assert figures.texts(figure)[0] == "No map was computed."
    assert saliency_figure([]).axes == []


def test_rejects_an_unknown_reducer():
    with pytest.raises(LitVizError, match="must be one of max_abs"):
        saliency_figure(panels(1), how="l1")
