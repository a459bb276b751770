"""Pictures show both signs of an attribution where negative values are strong; whole bands have bars, and no map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lit_viz as lv
from lit_viz.images.rendering import BandBars, has_both_signs
from tests.support.bands import band_network

PHOTOGRAPHS = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SIGNED = ["occlusion", "feature_ablation", "kernel_shap", "input_x_gradient", "integrated_gradients", "deep_lift"]


@pytest.mark.parametrize(("least", "expected"), [(0.0, False), (-0.24, False), (-0.26, True), (-7.0, True)])
def test_signs_are_shown_from_a_quarter_of_the_largest_value(least: float, expected: bool) -> None:
    values = torch.zeros(4, 4)
    values[0, 0], values[1, 1], values[2, 2] = 1.0, least, torch.nan
    assert has_both_signs(values) == expected


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=pytest.mark.slow if name == "kernel_shap" else ()) for name in SIGNED]
)
def test_records_and_figures_show_negative_evidence(smooth: Any, method: str, figures: Any) -> None:
    run = lv.saliency(smooth, PHOTOGRAPHS, target=[1, 2], method=method, captum="none")
    for record, array in zip(run.records, run.arrays, strict=True):
        values = array.sum(0)
        assert (record["signed"] is True) == bool(-values.min() > 0.25 * values.max().clamp_min(0))
    assert any(record["signed"] for record in run.records)
    figure = run.figure()
    assert "sum over the channels" in figures.caption(figure)
    assert "blue against it" in figures.caption(figure)


def test_a_given_reducer_is_drawn(smooth: Any, figures: Any) -> None:
    run = lv.saliency(smooth, PHOTOGRAPHS, target=[1, 2], method="occlusion", reducer="positive", captum="none")
    assert [record["signed"] for record in run.records] == [None, None]
    assert "positive part" in figures.caption(run.figure())


@pytest.mark.parametrize("store", ["files", "tar"])
def test_a_stored_map_keeps_the_sign_that_its_record_states(smooth: Any, store: Any, tmp_path: Path) -> None:
    methods = ["occlusion", "input_x_gradient"]
    run = lv.saliency(
        smooth,
        PHOTOGRAPHS,
        target=[1, 2],
        method=methods,
        captum="none",
        out=tmp_path / "run",
        store=store,
        logger="none",
    )
    shown = 0
    for outcome in run.outcomes:
        if outcome.record["signed"]:
            shown += 1
            array = outcome.array()
            assert array is not None
            assert bool((array < 0).any())
    assert shown


def test_the_ablation_of_bands_has_bars_and_no_map(figures: Any) -> None:
    network = lv.load_network(band_network(), channels=13, size=16, mean=0.0, std=1.0)
    bands = torch.rand(2, 13, 16, 16, generator=torch.Generator().manual_seed(0))
    method = lv.attributions.FeatureAblation(features="bands")
    run = lv.saliency(network, bands, target=[1, 2], method=[method, "gradient"], captum="none")
    assert run.records[0]["features"] == "bands"
    texts = figures.texts(run.figure())
    assert not any("zero everywhere" in text for text in texts)
    assert "feature ablation" not in texts
    assert "gradient" in texts
    assert any("feature ablation, by band" in text for text in texts)
    alone = lv.saliency(network, bands, target=[1, 2], method=method, captum="none")
    assert "No map was computed" not in " ".join(figures.texts(alone.figure()))


def test_bars_show_the_sign_of_each_band() -> None:
    picture = BandBars(torch.zeros(20, 30), bands=torch.tensor([1.0, -1.0, 0.0])).picture
    assert picture.shape == (3, 20, 30)
    assert picture[0, 5, 5] > picture[2, 5, 5]  # red above the line
    assert picture[2, 15, 15] > picture[0, 15, 15]  # blue below it
    assert (picture[:, 3, 25] == 1).all()
