"""Run every method on a simulated device, and bound the number of synchronizations per step.

The simulated device rejects operations that mix its tensors with those of the CPU. The number of synchronizations must
not depend on the number of images. Real GPUs are tested in test_gpu.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from statistics import median_low

import pytest
from torch.utils import backend_registration

from tests.test_cli import ROOT

#: Largest number of synchronizations per step of eight images. A step of the ensemble runs several attacks; attacks
#: record a curve point in every iteration. Slow steps log their means each time.
LIMITS = {"attack": 16, "attack ensemble": 24, "saliency": 6, "visualize": 10}
#: One run per command, which the fast test executes.
FEW = ("attack by name", "saliency by name", "visualize Adam")


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="requires a version of torch that supports device backends in Python",
)
@pytest.mark.parametrize("names", [FEW, pytest.param((), marks=pytest.mark.slow)], ids=["few", "all"])
def test_runs_on_another_device(names: tuple[str, ...]) -> None:
    program = [sys.executable, "-m", "tests.imagined_device", *names]
    process = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout.splitlines()[-1])
    assert len(report) == len(names) if names else len(report) > 25
    for name, run in report.items():
        assert "error" not in run, f"{name}: {run['error']}"
        assert set(run["statuses"]) == {"done"}, name
        steps = [after - before for before, after in pairwise(run["counts"])][:-1]  # without start and final evidence
        per_step = median_low(steps or [0])  # images that end early are saved in some steps
        assert per_step <= LIMITS.get(name, LIMITS[name.split()[0]]), f"{name}: {per_step} synchronizations per step"
