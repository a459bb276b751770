"""Tasks of the tiles of large images: records, goals, sizes, and errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from torch import nn
from torch.utils.data import TensorDataset

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.images.rasters import read_image
from lit_viz.types import Tile
from tests.support.networks import conv_net
from tests.support.tiles import SIDE, Squares, network_of, write_image

OPTIONS: dict[str, Any] = {"captum": "none", "logger": None}


def _conv(**options: Any) -> lv.Network:
    return network_of(conv_net(), **options)


def test_tiles_are_tasks_with_records(tmp_path: Path) -> None:
    write_image(tmp_path, (40, 45))
    run = lv.saliency(_conv(), tmp_path / "slide.tif", tile="network", target=1, out=tmp_path / "run", captum="none",
                      logger="none")  # fmt: skip
    places = [(row, column) for row in (0, 14, 24) for column in (0, 14, 28, 29)]
    assert [(record.tile.row, record.tile.column) for record in run.records] == places
    for index, record in enumerate(run.records):
        row, column = places[index]
        assert record.key == f"{index:04d}_slide_y{row}_x{column}"
        expected = Tile(image=0, row=row, column=column, height=SIDE, width=SIDE)
        assert record.tile.to_dict() == expected.to_dict()
        assert list(record.original_size) == [40, 45]
        assert list(record.original_box) == [column, row, column + SIDE, row + SIDE]
    lines = (tmp_path / "run" / "results.jsonl").read_text().splitlines()
    assert '"tile": {"image": 0, "row": 0, "column": 14, "height": 16, "width": 16}' in lines[1]


def test_a_map_of_a_tile_is_that_of_its_crop(tmp_path: Path) -> None:
    values = write_image(tmp_path)
    network = _conv()
    run = lv.saliency(network, tmp_path / "slide.tif", tile="network", target=1, **OPTIONS)
    tile = run.records[6].tile
    assert tile is not None
    crop = np.ascontiguousarray(values[tile.rows, tile.columns])
    alone = lv.saliency(network, crop, target=1, **OPTIONS)
    assert torch.allclose(run.arrays[6], alone.arrays[0], rtol=1e-4, atol=1e-7)


def test_all_tiles_have_the_class_of_the_largest_mean_score(tmp_path: Path) -> None:
    write_image(tmp_path)
    network = _conv()
    run = lv.saliency(network, tmp_path / "slide.tif", tile="network", slots=3, **OPTIONS)
    tiles: list[torch.Tensor] = []
    for record in run.records:
        tiles.append(read_image(tmp_path / "slide.tif", (SIDE, SIDE), network.bands, window=record.tile).pixels)
    mean = network.scores(torch.stack(tiles)).double().mean(0)
    assert {(record.target, record.label, record.label_source) for record in run.records} == {
        (int(mean.argmax()), int(mean.argmax()), "predicted")
    }
    least = lv.saliency(network, tmp_path / "slide.tif", tile="network", target="least-likely", **OPTIONS)
    assert {record.target for record in least.records} == {int(mean.argmin())}
    runner = lv.saliency(network, tmp_path / "slide.tif", tile="network", against="runner-up", **OPTIONS)
    second = int(mean.topk(2).indices[1])
    assert {record.against for record in runner.records} == {second}
    drawn = lv.saliency(network, tmp_path / "slide.tif", tile="network", target="random", **OPTIONS)
    assert len({record.target for record in drawn.records}) == 1


def test_a_given_target_needs_no_pass_over_the_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path)
    monkeypatch.setattr("lit_viz.methods.photographs.PhotographTraining._mean_scores", lambda *_: pytest.fail("pass"))
    for goal in ({"target": 3}, {"label": 3}):
        run = lv.saliency(_conv(), tmp_path / "slide.tif", tile="network", **goal, **OPTIONS)
        assert {record.target for record in run.records} == {3}


def test_a_network_that_accepts_it_has_tiles_of_another_size(tmp_path: Path) -> None:
    write_image(tmp_path, (40, 36))
    network = _conv()
    run = lv.saliency(
        network, tmp_path / "slide.tif", tile=32, target=1, method=["gradient", "occlusion"],
        out=tmp_path / "run", **{**OPTIONS, "logger": "none"},
    )  # fmt: skip
    assert run.outcomes[0].array().shape == (3, 32, 32)
    assert [map_.shape for map_ in run.maps] == [(40, 36), (40, 36)]
    assert network.size == (SIDE, SIDE)
    assert "size:\n  - 32\n  - 32" in (tmp_path / "run" / "config.yaml").read_text()
    assert lv.check(tmp_path / "run", conv_net())
    assert torch.equal(lv.resume(tmp_path / "run", conv_net()).maps[0], run.maps[0])


class _Fixed(nn.Module):
    """A network of one input size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * SIDE * SIDE, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.layer(x.flatten(1))
        return scores


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile": 32}, r"_Fixed takes inputs of 16 x 16 pixels, and does not accept 32 x 32"),
        ({"tile": 0}, "tile must be positive, got 0"),
        ({"tile": -3}, "tile must be positive, got -3"),
        ({"tile": "network", "overlap": 16}, "overlap must be 0 to 15, got 16"),
        ({"tile": "network", "overlap": -1}, "overlap must be 0 to 15, got -1"),
        ({"overlap": 4}, 'overlap requires tile, got 4: try tile="network"'),
    ],
)
def test_invalid_tiles_are_one_error(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    write_image(tmp_path)
    network = network_of(_Fixed())
    with pytest.raises(LitVizError, match=re.escape(message)):
        lv.saliency(network, tmp_path / "slide.tif", **arguments, **OPTIONS)


def test_tasks_of_another_size_than_the_network_are_one_error(tmp_path: Path) -> None:
    write_image(tmp_path)
    with pytest.raises(LitVizError, match=r"tile must be network, or the size .*\(16 x 16\), got 32.*size=32"):
        lv.ImageTasks(_conv(), tmp_path / "slide.tif", tile=32)
    assert len(lv.ImageTasks(_conv(), tmp_path / "slide.tif", tile=16).tasks) == 1


def test_a_dataset_has_no_tiles() -> None:
    dataset = TensorDataset(torch.rand(2, 3, 40, 40))
    with pytest.raises(LitVizError, match="tile requires files, arrays or tensors, got a dataset"):
        lv.ImageTasks(_conv(), dataset, tile="network")


def test_tiles_of_attacks_share_no_pixel_and_leave_the_rest_out(tmp_path: Path) -> None:
    values = write_image(tmp_path, (40, 50))
    network = _conv()
    run = lv.attack(
        network, tmp_path / "slide.tif", tile="network", attack="pgd", eps="8/255", iterations=5, out=tmp_path / "run",
        logger="none",
    )  # fmt: skip
    places = [(record.tile.row, record.tile.column) for record in run.records]
    assert places == [(row, column) for row in (0, 16) for column in (0, 16, 32)]
    assert len({record.label for record in run.records}) == 1
    for record in run.records:
        assert record.file == f"images/{record.key}.tif"
        attacked = tifffile.imread(tmp_path / "run" / record.file).astype(int)
        assert np.abs(attacked - values[record.tile.rows, record.tile.columns]).max() <= 8
    assert lv.check(tmp_path / "run", conv_net())
    for overlap in (0, 4):
        tasks = lv.ImageTasks(network, tmp_path / "slide.tif", tile="network", overlap=overlap)
        module = lv.AdversarialExample(network)
        if overlap:
            with pytest.raises(LitVizError, match="tiles of attacks must share no pixels, with overlap 0, got 4"):
                module.expand_tasks(tasks.tasks)
        else:
            assert len(module.expand_tasks(tasks.tasks)) == 6
            assert module.notes == ["slide: the last 8 rows and 2 columns fill no tile, and are left out"]


def test_a_universal_perturbation_has_no_tiles(tmp_path: Path) -> None:
    write_image(tmp_path)
    with pytest.raises(LitVizError, match="tile does not apply to universal perturbations"):
        lv.attack(_conv(), tmp_path / "slide.tif", tile="network", attack="universal", **{"logger": None})


def test_arrays_have_tiles(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (2, 40, 33, 3)).astype(np.uint8)
    run = lv.saliency(network_of(Squares()), list(values), tile="network", target=0, **OPTIONS)
    assert [record.tile.image for record in run.records] == [0] * 9 + [1] * 9
    for stitched, image in zip(run.maps, values, strict=True):
        assert np.abs(stitched.numpy() - image.max(-1) / 255).max() < 1e-6


def test_an_image_that_cannot_be_read_fails_alone(tmp_path: Path) -> None:
    write_image(tmp_path)
    (tmp_path / "broken.tif").write_bytes(b"II*\0 no image")
    with pytest.warns(UserWarning, match="1 failed of 21 images: broken"):
        run = lv.saliency(
            network_of(Squares()), [str(tmp_path / "broken.tif"), str(tmp_path / "slide.tif")], tile="network",
            target=0, **OPTIONS,
        )  # fmt: skip
    assert [stitched.shape for stitched in run.maps] == [(0, 0), (45, 61)]


def test_a_plain_trainer_trains_tiles(tmp_path: Path) -> None:
    import pytorch_lightning as pl

    write_image(tmp_path)
    network = _conv()
    module, tasks = lv.SaliencyMap(network), lv.ImageTasks(network, tmp_path / "slide.tif", tile="network")
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    trainer.fit(module, tasks)
    assert [result.record.tile.column for result in module.results[:3]] == [0, 14, 28]


def test_the_command_line_has_tiles(tmp_path: Path) -> None:
    from lit_viz.cli import main

    write_image(tmp_path)
    words = [
        "saliency", str(tmp_path / "slide.tif"), "--network", "tests.support.networks:conv_net", "--network.weights",
        "none", "--network.size", "16", "--network.mean", "0.5", "--network.std", "0.25", "--tile", "32", "--overlap",
        "4", "--target", "1", "--out", str(tmp_path / "run"), "--logger", "none", "--captum", "none",
    ]  # fmt: skip
    main(words)
    assert len((tmp_path / "run" / "results.jsonl").read_text().splitlines()) == 6
