"""Peak memory of a run with its figure, report and loggers, by the number of tasks."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from lit_viz.cli import main as run_command
from lit_viz.images.reading import encode_png

from .material import COMMON

#: Numbers of tasks, and the largest allowed difference of their peaks in MB.
FEW, MANY, ALLOWED = 300, 3000, 60


def memory(folder: Path) -> Iterator[tuple[str, str]]:
    """Compare the peaks of two runs; yield a description, and the failure (empty if the trial passed)."""
    peaks = [peak(count, folder) for count in (FEW, MANY)]
    more = peaks[1] - peaks[0]
    what = f"{peaks[0]:.0f} MB for {FEW} tasks, {peaks[1]:.0f} MB for {MANY}"
    yield what, "" if more <= ALLOWED else f"{more:.0f} MB more, {ALLOWED} are allowed"


def peak(count: int, folder: Path) -> float:
    """Return the peak memory in MB of a process that explains photographs and logs the run to TensorBoard and CSV."""
    photographs = folder / f"photographs_{count}"
    photographs.mkdir()
    generator = torch.Generator().manual_seed(0)
    for index in range(count):
        content = encode_png(torch.rand(3, 32, 32, generator=generator))
        (photographs / f"{index:05d}.png").write_bytes(content)
    words = ["saliency", str(photographs), *COMMON, "--slots", "8", "--logger", "csv,tensorboard", "--captum", "none"]
    words += ["--out", str(folder / f"run_{count}")]
    receiver, sender = get_context("spawn").Pipe(duplex=False)
    process = get_context("spawn").Process(target=_measure, args=(words, sender))
    process.start()
    process.join()
    if process.exitcode != 0:
        sys.exit(f"soak: the run of {count} tasks failed with status {process.exitcode}")
    megabytes: float = receiver.recv()
    return megabytes


def _measure(words: Sequence[str], sender: Connection) -> None:
    run_command(list(words))
    sender.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
