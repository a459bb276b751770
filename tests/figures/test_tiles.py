"""Figures of large images: the whole, the score or verdict of each tile, and the tiles with the largest values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import lit_viz as lv
from lit_viz.figures.scales import number
from lit_viz.runs.stitching import reduced_map, tiled_images
from tests.support.networks import conv_net
from tests.support.tiles import Squares, network_of, write_image

OPTIONS: dict[str, Any] = {"captum": "none", "logger": None}


def _texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_the_figure_of_maps_shows_the_whole_and_the_tiles_with_the_largest_values(tmp_path: Path) -> None:
    write_image(tmp_path)
    run = lv.saliency(
        network_of(conv_net()), tmp_path / "slide.tif", tile="network", target=1, reducer="sum", **OPTIONS
    )
    figure = run.figure()
    texts = _texts(figure)
    assert {"slide", "photograph", "gradient", "logit of each tile"} <= set(texts)
    tiles = [text for text in texts if ": row " in text]
    maxima: dict[tuple[int, int], float] = {}
    for outcome in run.outcomes:
        tile = outcome.record.tile
        maxima[tile.row, tile.column] = float(outcome.array().sum(0).abs().max())  # reduced as in the figure
    place = max(maxima, key=lambda key: maxima[key])
    assert tiles[0] == f"1: row {place[0]}, column {place[1]}"
    assert len(tiles) == 3
    whole = figure.axes[0].images[0].get_array()
    assert whole.shape == (45, 61, 3)
    assert len(figure.axes[0].patches) == 3  # outlines of the tiles
    assert any("20 tiles of 16 x 16 pixels." in text for text in texts)


@pytest.mark.parametrize("reducer", [None, "positive"])
def test_evidence_against_the_class_is_drawn_where_it_is_strong(tmp_path: Path, reducer: str | None) -> None:
    """Each pixel lowers the score of class 1."""
    write_image(tmp_path)
    options = OPTIONS if reducer is None else {**OPTIONS, "reducer": reducer}
    method = lv.attributions.Occlusion(window=4, stride=4)
    run = lv.saliency(network_of(Squares()), tmp_path / "slide.tif", tile="network", target=1, method=method, **options)
    figure = run.figure()
    texts = " ".join(_texts(figure)).replace("\n", " ")
    whole = torch.from_numpy(figure.axes[1].images[0].get_array()).float()
    expected = [reduced_map(outcome, "sum") for outcome in run.outcomes]
    largest = max(float(values.abs().max()) for values in expected if values is not None)
    if reducer is None:
        assert "blue against it" in texts
        assert "sum over the channels" in texts
        assert "zero everywhere" not in texts
        assert f"maximum {number(largest)}" in texts
        assert bool((whole[..., 2] > whole[..., 0]).float().mean() > 0.5)  # blue
    else:
        assert "blue against it" not in texts
        assert "positive part" in texts


def test_the_figure_of_an_attack_shows_the_verdict_on_each_tile(tmp_path: Path) -> None:
    write_image(tmp_path, (48, 64))
    run = lv.attack(
        network_of(conv_net()), tmp_path / "slide.tif", tile="network", attack="pgd", eps="8/255", iterations=2,
        logger=None,
    )  # fmt: skip
    texts = _texts(run.figure())
    assert {"slide", "photograph", "attacked", "verdict on each tile"} <= set(texts)
    done = [record for record in run.records if record.status == "done"]
    fooled = sum(bool(record.success_file) for record in done)
    assert any(f"slide: {fooled} of {len(done)} tiles fooled in the file." in text.replace("\n", " ") for text in
               [" ".join(texts)])  # fmt: skip


@pytest.mark.parametrize("factor", [1, 2, 4, 7, 100])
def test_a_shrunk_image_has_the_means_of_blocks(tmp_path: Path, factor: int) -> None:
    values = write_image(tmp_path).max(-1) / 255
    run = lv.saliency(network_of(Squares()), tmp_path / "slide.tif", tile="network", target=0, **OPTIONS)
    (image,) = tiled_images(run.outcomes)
    assert image is not None
    shrunk = image.shrunk(image.map_rows(), factor)[0]
    rows, columns = range(0, 45, factor), range(0, 61, factor)
    assert shrunk.shape == (len(rows), len(columns))
    expected = [[values[row : row + factor, column : column + factor].mean() for column in columns] for row in rows]
    assert np.abs(shrunk.numpy() - np.array(expected)).max() < 1e-6


def test_tiles_of_a_figure_share_no_pixel(tmp_path: Path) -> None:
    write_image(tmp_path, (60, 60))
    run = lv.saliency(network_of(conv_net()), tmp_path / "slide.tif", tile="network", overlap=12, target=1, **OPTIONS)
    tiles: list[tuple[int, int]] = []
    for text in _texts(run.figure()):
        if ": row " in text:
            row, column = text.partition("row ")[2].split(", column ")
            tiles.append((int(row), int(column)))
    for first in tiles:
        for second in tiles:
            if first != second:
                assert max(abs(first[0] - second[0]), abs(first[1] - second[1])) >= 16
    assert torch.isfinite(run.maps[0]).all()
