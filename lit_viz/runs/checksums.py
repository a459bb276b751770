"""Checksums of runs of earlier versions, which their checkpoints contain in place of a manifest."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

from lit_viz.runs import METRICS, RESULTS
from lit_viz.runs.layout import kept, kept_files
from lit_viz.types import Record, index_of
from lit_viz.utils.files import complete_lines, json_line, read_regular


def checksums_on_disk(
    root: Path, records: Collection[Record], done: Collection[int], iterations: Mapping[int, int]
) -> dict[int, dict[str, int]]:
    """Return the checksums of tasks by index and name: CRC-32 of their files and records, and sums over their rows.

    Args:
        root: run folder.
        records: records in the folder.
        done, iterations: see :func:`~lit_viz.runs.layout.kept`.
    """
    measured: dict[int, dict[str, int]] = {}
    for index in (*done, *iterations):
        measured[index] = {}
    is_kept = kept(done, iterations)
    for row in csv.reader(complete_lines(root / METRICS)):
        if len(row) == 4 and row[1].isdecimal() and is_kept(row[0], int(row[1])):
            checksums = measured[index_of(row[0])]
            checksums[METRICS] = checksums.get(METRICS, 0) + zlib.crc32("\0".join(row).encode())
    for index, name, path in kept_files(root, done, iterations):
        measured[index][name] = zlib.crc32(read_regular(path))
    for record in records:
        if record.index in measured and record.index in done:
            values = dict(sorted(record.without_evidence().items()))
            measured[record.index][RESULTS] = zlib.crc32(json_line(values).encode())
    return measured
