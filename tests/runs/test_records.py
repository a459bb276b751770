"""Records are read as the kinds of the methods."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lit_viz.engine.snapshots import Result
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.records import SaliencyRecord
from lit_viz.types import Task

READ = """
import sys
from lit_viz.runs.folder import FolderStorage
(record,) = FolderStorage.open(sys.argv[1]).records()
assert not any(name.startswith("lit_viz.methods") for name in sys.modules)
print(type(record).__name__, record.method)
"""


@pytest.mark.slow
def test_a_new_process_reads_records_without_the_methods(tmp_path: Path) -> None:
    task = Task(0, "cat", 7, target=1)
    folder = FolderStorage.create(tmp_path / "run")
    folder.write_start("seed: 7\n", {}, [task])
    record = SaliencyRecord.of(task, method="gradient", reducer="max_abs", top5=[])
    folder.add_result(Result(task, record))
    folder.commit()
    command = [sys.executable, "-c", READ, str(folder.path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["SaliencyRecord", "gradient"]
