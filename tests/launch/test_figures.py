"""The figures of all methods name the network and the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lit_viz as lv
from lit_viz.figures.scales import number
from tests.support.marks import slow

pytestmark = pytest.mark.draws
PHOTOGRAPHS = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def visualize(network: Any, **options: Any) -> Any:
    return lv.visualize(network, **{"target": [1], "iterations": 2, "views": 2, "seed": 7, **options})


def saliency(network: Any, **options: Any) -> Any:
    return lv.saliency(network, PHOTOGRAPHS, target=[1, 2], captum="none", **options)


def attack(network: Any, **options: Any) -> Any:
    labels = network.scores(PHOTOGRAPHS).argmax(1).tolist()
    return lv.attack(network, PHOTOGRAPHS, label=labels, **{"iterations": 2, **options})


@pytest.mark.parametrize(
    ("run", "options", "settings"),
    [
        (visualize, {}, ["Fourier (decay 1.15, chroma 0.3), Adam, RandomCrop", "2 iterations", "2 views"]),
        (visualize, {"iterations": [2, 3]}, ["2, 3 iterations"]),
        (visualize, {"lr": [0.02, 0.05]}, ["Adam (lr 0.02, 0.05)"]),
        (visualize, {"target": (), "layer": "features.3", "channel": "0,1"}, ["seed 7"]),
        (saliency, {"method": "smoothgrad", "sigma": 0.25}, ["SmoothGrad (sigma 0.25)", "128 iterations", "seed 0"]),
        (
            saliency,
            {"method": ["gradient", "integrated_gradients"]},
            ["Gradient, IntegratedGradients", "1, 50 iterations"],
        ),
        (attack, {"attack": "pgd"}, ["PGD (eps 4/255", "2 iterations"]),
        (attack, {"attack": "pgd", "eps": [1 / 255, 2 / 255]}, ["PGD (eps 1/255, 2/255"]),
        slow(attack, {"attack": "ddn"}, ["DDN", "2 iterations"]),
        slow(attack, {"attack": "normalized_ascent", "iterations": 300}, ["of at most 300 iterations"]),
        (attack, {"attack": "universal"}, ["Universal (eps 10/255"]),
    ],
)
def test_each_figure_names_network_and_settings(
    smooth: Any, run: Any, options: Any, settings: list[str], figures: Any
) -> None:
    figure = run(smooth, **options).figure()
    smallest = min(text.get_fontsize() for text in figure.texts)
    line = " ".join(text.get_text() for text in figure.texts if text.get_fontsize() == smallest)
    assert smallest == 6
    assert line.startswith(f"{smooth.name} · ")
    for setting in settings:
        assert setting in line
    figures.assert_no_overlap(figure)


def test_many_photographs_are_drawn_on_pages(
    smooth: Any, figures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_viz.presentations.saliency_map.MOST_ROWS", 2)
    photographs = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"captum": "none", "logger": "none"}
    methods = ["gradient", "input_x_gradient"]
    several = lv.saliency(smooth, photographs, label=[1] * 3, method=methods, out=tmp_path, **options)
    assert sorted(path.name for path in tmp_path.glob("figure*")) == ["figure.png", "figure_2.png"]
    assert "figure_2.png" in (tmp_path / "report.html").read_text()
    first, second = several.figure(), several.figure(2)
    assert len(figures.images(first)) == 3 * 2
    assert len(figures.images(second)) == 3
    assert "Page 1 of 2: photographs 1 to 2 of 3, errors first." in figures.caption(first)
    with pytest.raises(lv.LitVizError, match="page must be between 1 and 2, got 3"):
        several.figure(3)
    (tmp_path / "figure_2.png").unlink()
    lv.resume(tmp_path, smooth)
    assert (tmp_path / "figure_2.png").exists()
    assert lv.check(tmp_path, smooth)
    one = lv.saliency(smooth, photographs, **options)
    assert len(figures.images(one.figure())) == 2 * 3
    assert "Page" not in figures.caption(one.figure())


def test_rows_of_maps_are_a_stated_selection(smooth: Any, figures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_viz.presentations.saliency_map.MOST_ROWS", 1)
    photographs = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = smooth.scores(photographs).argmax(1).tolist()
    labels[2] = (labels[2] + 1) % 5  # an error
    options: dict[str, Any] = {"method": ["gradient", "input_x_gradient"], "captum": "none", "logger": "none"}
    run = lv.saliency(smooth, photographs, label=labels, rows="worst", **options)
    chances = {record.name: record.probability for record in run.records}
    right = sorted((name for name in chances if name != run.records[2].name), key=lambda name: chances[name])
    worst, best = [run.records[2].name, *right], [*reversed(right), run.records[2].name]
    for rows, names in {None: worst, "worst": worst, "best": best}.items():
        for page, name in enumerate(names, start=1):
            texts = " ".join(figures.texts(run.figure(page, rows=rows)))
            assert [other for other in chances if f"of {other}" in texts] == [name]
    assert "photographs 1 to 1 of 4, errors and the least probable classes first." in figures.caption(run.figure())
    assert "of 4, errors first." in figures.caption(run.figure(rows="first"))
    drawn = {" ".join(figures.texts(run.figure(page, rows="random"))) for page in range(1, 5)}
    assert len(drawn) == 4
    with pytest.raises(lv.LitVizError, match="rows must be"):
        run.figure(rows="wrst")  # type: ignore[arg-type]


def test_rows_of_attacks_are_a_stated_selection(smooth: Any, figures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_viz.figures.attack.MOST_ROWS", 1)
    photographs = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = smooth.scores(photographs).argmax(1).tolist()
    run = lv.attack(smooth, photographs, label=labels, attack="ddn", iterations=10, logger="none")
    assert all(record.success_file for record in run.records)
    ordered = sorted(run.records, key=lambda record: record.l2)
    for rows, record in {"best": ordered[0], "worst": ordered[-1]}.items():
        texts = " ".join(figures.texts(run.figure(rows=rows)))
        assert f"L2 {number(record.l2)}" in texts
    assert "images 1 to 1 of 4, the smallest changes first." in figures.caption(run.figure(rows="best"))
