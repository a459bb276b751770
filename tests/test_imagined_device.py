"""Runs on a device that is only imagined: nothing mixes it with the processor, and a step waits for it a few times,
however many images are in the slots. What a GPU really does is tested on one (test_gpu.py)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from torch.utils import backend_registration

from tests.cli.test_main import ROOT

#: Waits a step, at most. An ensemble has several attacks at work in one; of attacks a curve of every iteration is kept.
LIMITS = {"attack": 16, "attack ensemble": 24, "saliency": 6, "visualize": 8}


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch knows no devices that are made in Python",
)
def test_runs_on_another_device() -> None:
    program = [sys.executable, "-m", "tests.imagined_device"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told["runs"]) > 25
    for name, runs in told["runs"].items():
        for run in runs:
            assert "error" not in run, f"{name}: {run['error']}"
            assert {record["status"] for record in run["records"]} == {"done"}, name
        few, more = (len(run["waits"]) for run in runs)
        a_step = (more - few) / told["steps"]
        assert a_step <= LIMITS.get(name, LIMITS[name.split()[0]]), f"{name} waits {a_step} times a step"
