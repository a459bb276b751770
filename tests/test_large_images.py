"""Memory of maps of large images does not grow with the image."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

_RUN = """
import resource, sys
import lit_viz as lv
from tests.support.networks import conv_net

network = lv.load_network(conv_net(), size=64, mean=0.5, std=0.25)
run = lv.saliency(network, sys.argv[1], tile=512, target=1, slots=4, out=sys.argv[2], logger="none")
assert run.maps[0].shape == (int(sys.argv[3]), int(sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _peak(folder: Path, side: int) -> float:
    """Return the peak memory of a run in MB, with evidence, figure and report."""
    file = folder / f"{side}.tif"
    values = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    tifffile.imwrite(file, values, photometric="rgb", tile=(256, 256))
    words = [sys.executable, "-c", _RUN, str(file), str(folder / f"run_{side}"), str(side)]
    root = Path(__file__).parents[1]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of the peak memory differs")
def test_a_tiff_of_6000_pixels_takes_at_most_300_mb_more_than_one_of_1500(tmp_path: Path) -> None:
    assert _peak(tmp_path, 6000) - _peak(tmp_path, 1500) < 300
