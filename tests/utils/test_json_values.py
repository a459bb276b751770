"""Values that were read from a run folder have the types of the classes that hold them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lit_viz.engine.snapshots import PerturbedImageRecord
from lit_viz.errors import LitVizError
from lit_viz.runs.evidence import AdversarialEvidence, SaliencyEvidence, UniversalEvidence
from lit_viz.runs.folder import FolderStorage, Provenance
from lit_viz.runs.records import AdversarialRecord, ClassImageRecord, SaliencyRecord
from lit_viz.runs.segments import signed
from lit_viz.types import Task
from lit_viz.utils.checking import wrong_value

TASK = {"index": 0, "name": "cat", "seed": 7}
IMAGE = {"index": 0, "name": "cat", "top5": [["cat", 0.5]], "judges": {"a": {"probability": 0.5, "rank": 1}}}
MAP = {
    "index": 0,
    "name": "cat",
    "top5": [],
    "method": "gradient",
    "reducer": "max_abs",
    "original_box": [0, 0.5, 1, 1],
}
#: Depth up to which Python reads JSON, but checks no value.
DEPTH = 900 if sys.version_info < (3, 12) else 2000
DEEP = json.dumps({"transfer": {"judges": {}, "files": [{"a": 0}]}}).replace("0", "[" * DEPTH + "]" * DEPTH)
FILES = {"files": {"read": 1, "wrong": ["a"]}, "universal": {"a": ["fools 1 of 2"]}}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (TASK, Task),
        ({**TASK, "eps": 0.1, "channel": 3}, Task),
        (IMAGE, ClassImageRecord),
        (MAP, SaliencyRecord),
        (
            {**MAP, "metrics": {"probability": None, "relative_error": 0.5}, "settings": {"own": {"a": [1]}}},
            SaliencyRecord,
        ),
        ({"index": 0, "name": "a"}, PerturbedImageRecord),
        (FILES, UniversalEvidence),
        ({}, Provenance),
        ({"module": "SaliencyMap", "probe_logits": [0.5, None], "python": "3.11"}, Provenance),
    ],
)
def test_valid_values(values: Any, kind: type) -> None:
    assert wrong_value(values, kind) is None


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        ([], Task, "it must be an object, got []"),
        ({"index": 0, "name": "cat"}, Task, "seed is missing"),
        ({**TASK, "index": "0"}, Task, "index must be a whole number, got '0'"),
        ({**TASK, "index": True}, Task, "index must be a whole number, got True"),
        ({**TASK, "seed": 2**63}, Task, "seed must be a whole number, got 9223372036854775808"),
        ({**TASK, "target": 1.5}, Task, "target must be a whole number or null, got 1.5"),
        ({**TASK, "eps": "4/255"}, Task, "eps must be a number or null, got '4/255'"),
        ({**TASK, "options": {"depth": 10**400}}, Task, "options must be an object, got"),
        ({**IMAGE, "status": "great"}, ClassImageRecord, "status must be done or skipped or failed or unfinished"),
        ({**IMAGE, "seconds": 1e999}, ClassImageRecord, "seconds must be a number or null, got inf"),
        (
            {**IMAGE, "metrics": {"probability": "0.5"}},
            ClassImageRecord,
            "metrics must be an object, got {'probability': '0.5'}",
        ),
        ({**IMAGE, "top5": [["cat"]]}, ClassImageRecord, "top5 must be a list of a list of text and a number or null"),
        ({**IMAGE, "judges": {"a": {"rank": 1}}}, ClassImageRecord, "judges must be an object"),
        ({**IMAGE, "settings": {"own": [{"a": 10**30}]}}, ClassImageRecord, "settings must be an object, got"),
        ({**IMAGE, "metrics": [1]}, ClassImageRecord, "metrics must be an object, got [1]"),
        ({**IMAGE, "novel": 1}, ClassImageRecord, "novel is not a key of ClassImageRecord"),
        ({**TASK, "indexx": 0}, Task, "indexx is not a key of Task; did you mean 'index'?"),
        ({"novel": 1}, AdversarialEvidence, "novel is not a key of AdversarialEvidence"),
        ({**MAP, "original_box": [0, 1]}, SaliencyRecord, "original_box must be a list of a number or null"),
        (
            {"index": 0, "name": "a", "attack": "pgd", "settings": {"norm": "l3"}},
            AdversarialRecord,
            "norm must be l2 or linf or null",
        ),
        ({"index": 0, "name": "a", "file": 3}, PerturbedImageRecord, "file must be text or null, got 3"),
        ({"files": {"read": 1}}, AdversarialEvidence, "files must be an object or null"),
        ({"captum": 5}, SaliencyEvidence, "captum must be an object or null, got 5"),
        ({"module": ["attack"]}, Provenance, "module must be text, got ['attack']"),
    ],
)
def test_other_types_are_named(values: Mapping[str, Any], kind: type, words: str) -> None:
    wrong = wrong_value(values, kind)
    assert wrong is not None
    assert wrong.startswith(words)
    assert len(wrong) < 250


@pytest.fixture
def folder(tmp_path: Any) -> FolderStorage:
    made = FolderStorage.create(tmp_path / "run")
    made.write_start("seed: 7\n", {}, [Task(0, "cat", 7)])
    return made


@pytest.mark.parametrize(
    ("index", "record", "words"),
    [
        (0, '{"index": 0, "name": "a"}', "task 0: kind must be one of record, .*, got None"),
        (0, '{"kind": "record", "index": 0, "name": "a", "novel": 1}', "task 0: novel is not a key of Record"),
        (0, "3", "task 0: it is no JSON object"),
        (0, "[" * 50_000, "task 0: it is no JSON object"),
        (
            0,
            '{"index": 0, "name": "a", "seed": ' + "9" * 6000 + "}",
            "task 0: it is no JSON object",
        ),
        (3, '{"kind": "record", "index": 3, "name": "a"}', "there is no task 3"),
    ],
)
def test_a_damaged_record_is_named(index: int, record: str, words: str, folder: FolderStorage) -> None:
    """Its digest is that of a forger."""
    start = f'{{"index": {index}, "status": "done", "run": "{folder.digest}", "record": '
    write_segment(folder, signed(f'{start}{record}, "rows": [], "files": {{}}'))
    with pytest.raises(LitVizError, match=rf"records is damaged \({words}\): start another run"):
        list(folder.records())


@pytest.mark.parametrize("line", ["not json", '{"index": 0}', "[" * 50_000, "3", ""])
def test_other_lines_are_damage(line: str, folder: FolderStorage) -> None:
    write_segment(folder, f"{line}\n")
    with pytest.raises(LitVizError, match=r"records/000000\.jsonl was changed after it was written: lit-viz resume "):
        list(folder.records())


def write_segment(folder: FolderStorage, line: str) -> None:
    (folder.path / "records").mkdir()
    (folder.path / "records" / "000000.jsonl").write_text(line)


@pytest.mark.parametrize(
    "content",
    ["5", '{"captum": 5}', '{"novel": 1}', "[" * 50_000, DEEP],
)
def test_damaged_evidence_is_named(content: str, folder: FolderStorage) -> None:
    (folder.path / "evidence.json").write_text(content)
    with pytest.raises(LitVizError, match=r"evidence\.json is damaged \(.*\): delete it"):
        folder.evidence(SaliencyEvidence)


@pytest.mark.parametrize("value", ["5", "[a]", "{module: [x]}", "{weights_sha256: 1}", "{probe_logits: a}"])
def test_damaged_provenance_is_named(value: str, folder: FolderStorage) -> None:
    path = folder.path / "config.yaml"
    path.write_text(path.read_text().partition("recorded:")[0] + f"recorded: {value}\n")
    with pytest.raises(LitVizError, match=r"config\.yaml is damaged \(recorded: .*\): restore it"):
        FolderStorage.open(folder.path)


@pytest.mark.parametrize("group", ["network", "module", "tasks", "run", "trainer"])
def test_options_that_are_no_mapping_are_named(group: str, tmp_path: Path) -> None:
    folder = FolderStorage.create(tmp_path / "run")
    options = f"{group}: [a, b]\n"
    folder.write_config(f"run:\n  {options}" if group == "trainer" else options)
    with pytest.raises(LitVizError, match=rf"config.yaml is damaged \({group} must be a mapping\): restore it"):
        _ = folder.config
