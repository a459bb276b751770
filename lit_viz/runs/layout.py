"""Names and patterns of the files of a run folder."""

from __future__ import annotations

from pathlib import Path

#: Locked by the process that writes the run. The operating system releases the lock when the process ends.
LOCK = ".lock"
CONFIG, QUEUE, METRICS, RESULTS = "config.yaml", "queue.jsonl", "metrics.csv", "results.jsonl"
EVIDENCE, REPORT, MANIFEST = "evidence.json", "report.html", "manifest.json"
#: Folder of the finished tasks.
SEGMENTS = "records"
#: Entry of a checkpoint for the store.
STORE = "store"
FRAMES = "frames"
#: Folder of the tars of a run with many tasks.
TARS = "tars"
#: Folders of files whose names begin with the key of their task.
TASK_FOLDERS = ("sources", "images", "arrays", "photographs", FRAMES)
#: File of the last checkpoint, relative to the run folder.
LAST_CHECKPOINT = Path("checkpoints", "last.ckpt")

#: First line of ``config.yaml``. LightningCLI writes the file too; ``overwrite`` deletes only runs of lit_viz.
MARK = "# lit_viz run\n"
#: Key of ``config.yaml`` for the provenance of the run (method, versions, network); it is no option.
RECORDED = "recorded"


def iteration_of(frame: Path) -> int:
    """Return the iteration at the end of a frame's file name, as in ``iter_000050.png``; -1 for other names."""
    number = frame.stem.rpartition("_")[2]
    return int(number) if number.isdecimal() else -1


def terms_name(key: str) -> str:
    """Return the file of the recorded terms of a saliency map, relative to the run folder."""
    return f"arrays/{key}.terms.npy"
