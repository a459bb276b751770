"""Maps of large images: equal to closed forms, the same after a resume, in the geometry of the source."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lit_viz as lv
from lit_viz.errors import Interrupted
from lit_viz.images.tiles import blend_weights, starts
from lit_viz.methods.photographs import PhotographTraining
from lit_viz.runs.folder import FolderStorage
from tests.support.marks import slow
from tests.support.tiles import SIDE, Squares, Weighted, network_of, write_image

OPTIONS: dict[str, Any] = {"captum": "none", "logger": "none", "target": 0}


@pytest.mark.parametrize("overlap", [None, slow(0), 5, slow(12)])
@pytest.mark.parametrize("size", [(45, 61), (16, 16), (17, 40), (9, 40), (5, 7)])
def test_a_map_of_single_pixels_is_that_of_the_whole_image(
    tmp_path: Path, size: tuple[int, int], overlap: int | None
) -> None:
    """The gradient of half the sum of squares by a pixel is the pixel, wherever its tile is."""
    values = write_image(tmp_path, size)
    run = lv.saliency(
        network_of(Squares()), tmp_path / "slide.tif", tile="network", overlap=overlap, out=tmp_path / "run", **OPTIONS
    )
    (stitched,) = run.maps
    assert stitched.shape == size
    expected = torch.from_numpy(values.astype(np.float64) / 255).amax(-1)
    assert float((stitched - expected).abs().max()) < 1e-6


@pytest.mark.parametrize("overlap", [0, 2, 7])
def test_a_map_is_the_weighted_sum_of_those_of_its_tiles(tmp_path: Path, overlap: int) -> None:
    """Each tile has the pattern of the network as its map; the sum is computed pixel by pixel."""
    write_image(tmp_path)
    module = Weighted()
    run = lv.saliency(
        network_of(module), tmp_path / "slide.tif", tile="network", overlap=overlap, out=tmp_path / "run", **OPTIONS
    )
    pattern = module.pattern.detach().double().abs().amax(0).numpy()
    rows, columns = starts(45, SIDE, overlap), starts(61, SIDE, overlap)
    expected = np.zeros((45, 61))
    for row, down in zip(rows, blend_weights(rows, SIDE), strict=True):
        for column, across in zip(columns, blend_weights(columns, SIDE), strict=True):
            expected[row : row + SIDE, column : column + SIDE] += down[:, None] * across * pattern
    assert np.abs(run.maps[0].numpy() - expected).max() < 1e-6


def test_the_score_of_each_tile_is_a_map(tmp_path: Path) -> None:
    values = write_image(tmp_path, (40, 61)).astype(np.float64) / 255
    run = lv.saliency(
        network_of(Squares()), tmp_path / "slide.tif", tile="network", overlap=2, out=tmp_path / "run", **OPTIONS
    )
    (scores,) = run.score_maps
    rows, columns = starts(40, SIDE, 2), starts(61, SIDE, 2)
    assert scores.shape == (len(rows), len(columns))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            expected = (values[row : row + SIDE, column : column + SIDE] ** 2).sum() / 2
            assert float(scores[i, j]) == pytest.approx(expected, rel=1e-5)


def test_tiles_that_fail_are_nan_where_no_other_has_values(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((3, 16, 44)).astype(np.float32)
    values[0, 5, 20] = np.nan  # in the second tile alone
    np.save(tmp_path / "a.npy", values)
    network = network_of(Squares(), value_range=(0, 1), channels=3)
    with pytest.warns(UserWarning, match="1 failed of 3 images: a_y0_x14: .* values without data"):
        run = lv.saliency(
            network, tmp_path / "a.npy", tile="network", overlap=2, axes="CHW", out=tmp_path / "run", **OPTIONS
        )
    stitched = run.maps[0].numpy()
    assert np.isnan(stitched[:, 16:28]).all()
    assert np.abs(np.delete(stitched - values.max(0), np.s_[16:28], axis=1)).max() < 1e-6
    assert run.score_maps[0].isnan().tolist() == [[False, True, False]]


def _interrupted_at(monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    start = PhotographTraining.start

    def stopping(self: PhotographTraining, task: lv.types.Task) -> torch.Tensor:
        if task.index == index:
            os.kill(os.getpid(), signal.SIGINT)
        return start(self, task)

    monkeypatch.setattr(PhotographTraining, "start", stopping)


def test_an_interrupted_and_resumed_run_has_the_same_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path)
    network = network_of(Weighted())
    arguments = {"tile": "network", "slots": 2, **OPTIONS}
    whole = lv.saliency(network, tmp_path / "slide.tif", out=tmp_path / "whole", **arguments)
    with monkeypatch.context() as patched:
        _interrupted_at(patched, 9)
        with pytest.raises(Interrupted):
            lv.saliency(network, tmp_path / "slide.tif", out=tmp_path / "run", **arguments)
    done = len(FolderStorage(tmp_path / "run").records())
    assert 0 < done < len(whole)
    assert not (tmp_path / "run" / "maps").exists()
    started: list[int] = []
    start = PhotographTraining.start

    def counting(self: PhotographTraining, task: lv.types.Task) -> torch.Tensor:
        started.append(task.index)
        return start(self, task)

    monkeypatch.setattr(PhotographTraining, "start", counting)
    again = lv.resume(tmp_path / "run", Weighted())
    assert min(started) >= 9  # tiles that were done are not computed again
    assert torch.equal(again.maps[0], whole.maps[0])


_KILLED = """
import os, signal, sys
import lit_viz as lv
from lit_viz.methods.photographs import PhotographTraining
from tests.support.tiles import Weighted, network_of

start = PhotographTraining.start

def killed(self, task):
    if task.index == 11:
        os.kill(os.getpid(), signal.SIGKILL)
    return start(self, task)

PhotographTraining.start = killed
lv.saliency(network_of(Weighted()), sys.argv[1], tile="network", slots=2, checkpoint_every=1, out=sys.argv[2],
            captum="none", logger="none", target=0)
"""


@pytest.mark.slow
def test_a_killed_and_resumed_run_has_the_same_map(tmp_path: Path) -> None:
    write_image(tmp_path)
    source, run = tmp_path / "slide.tif", tmp_path / "run"
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", _KILLED, source, run], cwd=root, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    again = lv.resume(run, Weighted())
    whole = lv.saliency(network_of(Weighted()), source, tile="network", slots=2, **{**OPTIONS, "logger": None})
    assert torch.equal(again.maps[0], whole.maps[0])
