"""Run folders that were changed by a forger: all digests confirm what is in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import lit_viz as lv
from lit_viz.errors import LitVizError
from lit_viz.networks import Network
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import RESULTS, SEGMENTS
from lit_viz.runs.tar_store import storage_class
from tests.support.marks import slow

#: Stores of runs that are forged or damaged: what is stated of a record hardly depends on its store.
STORES = ["files", slow("tar")]


def loaded(run: Path) -> FolderStorage:
    """Return a finished run with its segments."""
    options = FolderStorage(run).config.get("run") or {}
    return storage_class(options.get("store"))(run)


def values_of(record: Any) -> dict[str, Any]:
    """Return the values of a record by name: fields, metrics and settings, also those that are None."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    metrics, settings = values.pop("metrics", {}), values.pop("settings", {})
    return {**values, **metrics, **settings}


def rewrite(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the lines of finished tasks, with the digests of their files, of themselves and of the run."""
    for path in sorted((run / SEGMENTS).glob("[!.]*.jsonl")):
        lines = []
        for line in path.read_text().splitlines():
            values = json.loads(line)
            del values["sha256"]
            change(values)
            _sign(run, values["files"])
            values["status"] = values["record"]["status"]
            values["run"] = loaded(run).digest
            text = json.dumps(values)[:-1]
            lines.append(f'{text}, "sha256": "{sha256(text.encode()).hexdigest()}"}}\n')
        path.write_text("".join(lines))
    loaded(run).seal()


def _sign(run: Path, files: dict[str, Any]) -> None:
    for name in list(files):
        if (run / name).exists():
            content = (run / name).read_bytes()
            files[name] = {"size": len(content), "sha256": sha256(content).hexdigest()}
        else:
            del files[name]


def reseal(run: Path) -> None:
    """Let all digests confirm the files of the run, and the records in ``results.jsonl``."""
    records = {}
    if not (run / RESULTS).exists():
        loaded(run).seal()
        return
    for line in (run / RESULTS).read_text().splitlines():
        record = json.loads(line)
        records[record["index"]] = record
    rewrite(run, lambda values: values.update(record=records[values["index"]]))


def forge(run: Path, index: int, name: str, value: object) -> None:
    """Change a field, a metric or a setting of a record."""

    def change(values: dict[str, Any]) -> None:
        if values["index"] == index:
            record = values["record"]
            home = next((record[part] for part in ("metrics", "settings") if name in record[part]), record)
            home[name] = value

    rewrite(run, change)


def forge_line(run: Path, name: str, number: int, **values: object) -> None:
    """Change values of a line of a JSON Lines file of a task."""
    lines = (run / name).read_text().splitlines()
    lines[number] = json.dumps(json.loads(lines[number]) | values)
    (run / name).write_text("".join(f"{line}\n" for line in lines))
    rewrite(run, lambda _: None)


def another(value: object) -> object:
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.9 + 0.01
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, (list, tuple)):
        return list(value[1:])
    return None


@dataclass(frozen=True)
class ForgedRun:
    """The copy of a finished run, of which values are forged.

    Attributes:
        folder: run folder of the copy.
        network: of the run.
        capsys: output of the test.
    """

    folder: Path
    network: Network
    capsys: pytest.CaptureFixture[str]

    def loaded(self) -> FolderStorage:
        """Return the storage of the run, read again."""
        return loaded(self.folder)

    def record(self, index: int) -> Any:
        """Return the record of a task."""
        return self.loaded().records().of_index(index)

    def forge(self, index: int, name: str, value: object) -> None:
        """Change a field, a metric or a setting of a record."""
        forge(self.folder, index, name, value)

    def check(self) -> bool:
        """Return whether the check passes."""
        return lv.check(self.folder, self.network, progress=True)

    def stated(self) -> str:
        """Return what a check that fails states."""
        self.capsys.readouterr()
        try:
            assert not self.check()
        except LitVizError as error:
            return str(error)
        return " ".join(self.capsys.readouterr().err.split())


#: Returns a copy of a finished run.
Copied = Callable[[Path], ForgedRun]
