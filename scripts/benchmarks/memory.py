"""Peak memory of runs: it does not grow with images or samples."""

from __future__ import annotations

import resource
import tempfile

import lit_viz as lv

from .material import loaded, photographs
from .running import Plan, Result, table


def class_images(images: int) -> Result:
    """Return the peak memory, in MiB, of a run of class images in 8 slots with a run folder."""
    with tempfile.TemporaryDirectory() as folder:
        options: Result = {"slots": 8, "wandb": "disabled", "log_at": "every:1", "out": f"{folder}/run"}
        lv.visualize("efficientnet_lite0", [*range(images)], iterations=2, **options)
    return {"MiB": _peak()}


def smoothgrad(images: int, samples: int) -> Result:
    """Return the peak memory, in MiB, of a SmoothGrad run without a folder."""
    net = loaded()
    x, labels = photographs(net, images)
    lv.saliency(net, x, target=labels, method="smoothgrad", iterations=samples, captum="none", log_at="last")
    return {"MiB": _peak()}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(plan: Plan) -> str:
    """Return the table; nothing is timed, so one round is enough."""
    few, many = (2, 3) if plan.quick else (16, 64)
    rows = []
    for images in (2, 3) if plan.quick else (8, 200):
        peak = plan.side("memory.class_images", images=images)["MiB"]
        rows.append([f"class images in 8 slots, {images}", f"{peak:.0f} MiB"])
    for images, samples in ((few, few), (few, many), (many, few)):
        peak = plan.side("memory.smoothgrad", images=images, samples=samples)["MiB"]
        rows.append([f"SmoothGrad, {images} photographs x {samples} samples", f"{peak:.0f} MiB"])
    return table(["run of EfficientNet-Lite0", "peak memory"], rows)
