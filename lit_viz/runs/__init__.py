"""Run folders: their files, their reader and writer, and the outcomes of a run."""

from lit_viz.runs.access import creation_errors, folder_lock, is_empty, is_run, run_lock
from lit_viz.runs.layout import CONFIG, EVIDENCE, FORMAT, LOCK, RECORDED, REPORT, RESULTS

__all__ = [
    "CONFIG",
    "EVIDENCE",
    "FORMAT",
    "LOCK",
    "RECORDED",
    "REPORT",
    "RESULTS",
    "creation_errors",
    "folder_lock",
    "is_empty",
    "is_run",
    "run_lock",
]
