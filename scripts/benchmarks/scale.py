"""Many distinct tasks of a small network: time, disk space and memory by store and number of tasks, and of two shards.

The images are drawn by their index when their tasks start, so that no images are in memory or on the disk. The bare
estimator draws them too, and evaluates the attribution on the frozen network in a plain loop. Its batches are spread
over the run, because the speed of a machine drifts by more than the bookkeeping takes. A process has one thread, like a
shard among many: the time that threads wait for each other would count as time of the processor.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

import lit_viz as lv
from lit_viz.attributions import attribute
from lit_viz.attributions.gradient import Gradient
from lit_viz.zoo import planted_images

from .running import Plan, Result, table

NETWORK = "zoo/planted_cnn"
BATCH, TARGET = 64, 3
#: Images of a run between two batches of the bare estimator.
_BETWEEN = 5 * BATCH
#: Largest number of tasks by store.
MOST = {"files": 10_000, "tar": 100_000}
COUNTS = (1_000, 10_000, 100_000)
#: Of the model: photographs, numbers of GPUs, and bytes of a map of 224 pixels in float16.
PHOTOGRAPHS, GPUS, MAP_BYTES = 1_000_000, (8, 64), 2 * 224**2
_OWN_MAP_BYTES = 2 * 32**2


class BareEstimator:
    """The attribution of drawn images by the frozen network.

    Attributes:
        images, seconds: number of its images, and their time.
    """

    def __init__(self) -> None:
        network, self._estimator = lv.load_network(NETWORK), Gradient()
        self._estimator.bind(network)
        self._frozen = network.fast()
        self.images, self.seconds = 0, 0.0

    def compute(self, first: int) -> None:
        """Draw the images of a batch, and compute their maps."""
        start = time.thread_time()
        with torch.no_grad():
            x = torch.stack([_drawn(index) for index in range(first, first + BATCH)])
            attribute(self._estimator, self._frozen, x, torch.full((BATCH,), TARGET), evaluations=1)
        self.images += BATCH
        self.seconds += time.thread_time() - start


class DrawnImages(Dataset[Tensor]):
    """Images with planted evidence, drawn by their index; after every ``_BETWEEN`` of them another estimator computes a
    batch."""

    def __init__(self, count: int, other: BareEstimator | None = None) -> None:
        self.count, self.other = count, other

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        if self.other is not None and index % _BETWEEN == 0:
            self.other.compute(index)
        return _drawn(index)


def _drawn(index: int) -> Tensor:
    return planted_images([index]).images[0]


def run(store: str, count: int, shard: str | None = None, out: str | None = None) -> Result:
    """Return seconds and seconds of the processor, those of the bare estimator for an image, bytes on the disk, and the
    peak memory, of a run or a shard."""
    torch.set_num_threads(1)
    BareEstimator().compute(0)  # a warm-up
    network, bare = lv.load_network(NETWORK), BareEstimator()
    options: dict[str, Any] = {"target": TARGET, "slots": BATCH, "captum": "none", "logger": "none", "store": store}
    with tempfile.TemporaryDirectory() as folder:
        lv.saliency(network, DrawnImages(BATCH), method="gradient", out=f"{folder}/first", **options)
        images = DrawnImages(count, bare if shard is None else None)
        path = out or f"{folder}/run"
        start, processor = time.perf_counter(), time.process_time()
        lv.saliency(network, images, method="gradient", out=path, shard=shard, **options)
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        size = sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds": seconds - bare.seconds,
        "processor": processor - bare.seconds,
        "bare": bare.seconds / max(bare.images, 1),
        "bytes": size,
        "MiB": peak,
    }


def two_shards(plan: Plan, count: int) -> float:
    """Return the seconds of two shards at once, in a process each."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as threads:

        def seconds(shard: str) -> float:
            result = plan.side("scale.run", store="tar", count=count, shard=shard, out=f"{folder}/run")
            return float(result["seconds"])

        shards = ("0/2", "1/2")
        return max(map(seconds, shards) if plan.quick else threads.map(seconds, shards))


def compare(plan: Plan) -> str:
    """Return the table of the measurements, and that of the model."""
    counts = (64, 128) if plan.quick else COUNTS
    rows: list[list[str]] = []
    estimators: list[float] = []
    bookkeeping = overhead = 0.0
    for store, most in MOST.items():
        for count in counts:
            if count > most:
                continue
            results = [plan.side("scale.run", store=store, count=count) for _ in range(plan.rounds)]
            estimators += [result["bare"] for result in results]
            own = statistics.median(result["processor"] / count - result["bare"] for result in results)
            size = results[0]["bytes"] / count
            elapsed, peak = _median(results, "seconds") / count, max(result["MiB"] for result in results)
            rows.append(
                [
                    store,
                    f"{count:,}",
                    "1",
                    _milliseconds(elapsed),
                    _milliseconds(own),
                    f"{size:,.0f}",
                    f"{peak:.0f} MiB",
                ]
            )
            if store == "tar":
                bookkeeping, overhead = own, size - _OWN_MAP_BYTES
    for count in counts:
        seconds = statistics.median(two_shards(plan, count) for _ in range(plan.rounds))
        rows.append(["tar", f"{count:,}", "2", _milliseconds(seconds / count), "", "", ""])
    head = ["store", "tasks", "processes", "time a task", "above the bare estimator", "bytes a task", "peak memory"]
    measured = table(head, rows)
    least, most = map(_milliseconds, (min(estimators), max(estimators)))
    remark = (
        f"The bare estimator, in turns with each run, takes {least} to {most} a task, in which the image is drawn; the "
        "most beside the thread that writes files."
    )
    return f"{measured}\n\n{remark}\n\n{_model(bookkeeping, overhead)}"


def _median(results: Sequence[Result], name: str) -> float:
    return statistics.median(float(result[name]) for result in results)


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def _model(bookkeeping: float, overhead: float) -> str:
    """Return the table of a million photographs of 224 pixels, computed from the figures of the largest run in tars."""
    size = PHOTOGRAPHS * (overhead + MAP_BYTES) / 1e9
    files = PHOTOGRAPHS // 1000
    rows = []
    for gpus in GPUS:
        minutes = PHOTOGRAPHS * bookkeeping / gpus / 60
        rows.append([str(gpus), f"{minutes:.1f} min", f"{size:.0f} GB in {files:,} tars"])
    return table(["GPUs, a shard each", "bookkeeping", "maps of a method"], rows)
