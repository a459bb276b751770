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

from .commands import commands_of, writing
from .material import COMMON

#: Numbers of tasks, and the largest allowed difference of their peaks in MB.
FEW, MANY, ALLOWED = 300, 3000, 60
#: Options by the name of the store; of merged runs two shards are computed and merged in one process.
STORES: dict[str, list[str]] = {"files": [], "tar": ["--store", "tar"], "merged_tars": ["--store", "tar"]}


def memory(folder: Path) -> Iterator[tuple[str, str]]:
    """Compare the peaks of two runs of each store; yield a description, and the failure (empty if the trial passed)."""
    for store in STORES:
        peaks = [peak(count, folder, store) for count in (FEW, MANY)]
        more = peaks[1] - peaks[0]
        what = f"{store}: {peaks[0]:.0f} MB for {FEW} tasks, {peaks[1]:.0f} MB for {MANY}"
        yield what, "" if more <= ALLOWED else f"{more:.0f} MB more, {ALLOWED} are allowed"


def peak(count: int, folder: Path, store: str) -> float:
    """Return the peak memory in MB of a process that explains photographs and logs the run to TensorBoard and CSV."""
    photographs = folder / f"photographs_{count}"
    if not photographs.exists():
        photographs.mkdir()
        generator = torch.Generator().manual_seed(0)
        for index in range(count):
            content = encode_png(torch.rand(3, 32, 32, generator=generator))
            (photographs / f"{index:05d}.png").write_bytes(content)
    words = ["saliency", str(photographs), *COMMON, "--slots", "8", "--captum", "none", *STORES[store]]
    words += ["--logger", "csv,tensorboard"]
    words = writing(store, words, folder / f"{store}_{count}")
    receiver, sender = get_context("spawn").Pipe(duplex=False)
    process = get_context("spawn").Process(target=_measure, args=(words, sender))
    process.start()
    process.join()
    if process.exitcode != 0:
        sys.exit(f"soak: the run of {count} tasks failed with status {process.exitcode}")
    megabytes: float = receiver.recv()
    return megabytes


def _measure(words: Sequence[str], sender: Connection) -> None:
    for command in commands_of(words):
        run_command(command)
    sender.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
