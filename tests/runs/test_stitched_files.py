"""Maps of large images in run folders: memory-mapped, stitched again if damaged, in the geometry of the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

import lit_viz as lv
from tests.support.tiles import Squares, network_of, write_image

pytestmark = pytest.mark.draws

OPTIONS: dict[str, Any] = {"captum": "none", "logger": "none", "target": 0}


def test_maps_are_mapped_from_the_run_folder(tmp_path: Path) -> None:
    write_image(tmp_path, (20, 40))
    run = lv.saliency(
        network_of(Squares()),
        [str(tmp_path / "slide.tif")] * 2,
        tile="network",
        method=["gradient", "integrated_gradients"],
        out=tmp_path / "run",
        **OPTIONS,
    )
    assert len(run.maps) == 4  # of each image by each method
    files = sorted(path.name for path in (tmp_path / "run" / "maps").iterdir())
    assert files == ["0000_slide.npy", "0006_slide.npy", "0012_slide.npy", "0018_slide.npy"]
    stored = np.load(tmp_path / "run" / "maps" / files[0], mmap_mode="r")
    assert stored.dtype == np.float32
    assert np.array_equal(stored, run.maps[0].numpy())
    run.maps[0][:] = 7  # of the copy in memory
    assert np.array_equal(stored, run.maps[0].numpy())


@pytest.mark.slow
def test_a_run_in_memory_has_the_same_maps(tmp_path: Path) -> None:
    write_image(tmp_path, (20, 40))
    network = network_of(Squares())
    stored = lv.saliency(network, tmp_path / "slide.tif", tile="network", out=tmp_path / "run", **OPTIONS)
    memory = lv.saliency(network, tmp_path / "slide.tif", tile="network", **{**OPTIONS, "logger": None})
    assert memory.folder is None
    assert torch.equal(memory.maps[0], stored.maps[0])
    saved = memory.save(tmp_path / "saved")
    assert torch.equal(saved.maps[0], stored.maps[0])
    assert (tmp_path / "saved" / "maps" / "0000_slide.npy").exists()


@pytest.mark.slow
def test_a_damaged_map_is_stitched_again(tmp_path: Path) -> None:
    write_image(tmp_path, (20, 40))
    run = lv.saliency(network_of(Squares()), tmp_path / "slide.tif", tile="network", out=tmp_path / "run", **OPTIONS)
    file = tmp_path / "run" / "maps" / "0000_slide.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-4] + b"abcd")
    assert lv.check(tmp_path / "run", Squares())
    assert file.read_bytes() == content
    file.unlink()
    lv.resume(tmp_path / "run", Squares())
    assert file.read_bytes() == content
    assert len(run) == 6


def test_the_map_of_a_geotiff_has_its_geometry(tmp_path: Path) -> None:
    tags = [
        (33550, 12, 3, (10.0, 10.0, 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, 5000.0, 9000.0, 0.0), True),
        (34735, 3, 4, (1, 1, 0, 0), True),
    ]
    values = np.random.default_rng(0).integers(0, 10_000, (45, 61, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "geo.tif", values, photometric="rgb", extratags=tags)
    run = lv.saliency(network_of(Squares()), tmp_path / "geo.tif", tile="network", out=tmp_path / "run", **OPTIONS)
    with tifffile.TiffFile(tmp_path / "run" / "maps" / "0000_geo.tif") as opened:
        written = opened.pages[0].tags
        assert tuple(written[33550].value) == (10.0, 10.0, 0.0)
        assert tuple(written[33922].value) == (0.0, 0.0, 0.0, 5000.0, 9000.0, 0.0)
        assert tuple(written[34735].value) == (1, 1, 0, 0)
        assert written[42113].value == "nan"
        assert np.array_equal(opened.asarray(), run.maps[0].numpy())
    with tifffile.TiffFile(tmp_path / "run" / "arrays" / "0001_geo_y0_x14.tif") as opened:
        assert tuple(opened.pages[0].tags[33922].value)[3:5] == (5000.0 + 14 * 10, 9000.0)
