"""What a run states of class images that the network itself does not recognize, and of restarts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lit_viz.engine.snapshots import Result, Snapshot
from lit_viz.evidence.class_visualization import ClassVisualizationVerifier
from lit_viz.evidence.verifier import EvidenceSettings
from lit_viz.methods import ClassVisualization
from lit_viz.presentations import FigureOptions
from lit_viz.presentations.class_visualization import ClassVisualizationPresentation
from lit_viz.runs.evidence import VisualizationEvidence
from lit_viz.runs.memory import MemoryStorage
from lit_viz.runs.records import ClassImageRecord
from lit_viz.types import Task

PRESENTATION = ClassVisualizationPresentation()


def record(index: int, probability: float, **values: Any) -> ClassImageRecord:
    metrics = {"probability": probability, "rank": 1}
    known: dict[str, Any] = {"index": index, "name": f"class {index}", "target": index, "target_name": f"class {index}"}
    return ClassImageRecord(**known, metrics=metrics, top5=[], judges={}, iterations=228, **values)


RECORDS = [record(0, 0.97), record(1, 0.03, restarts=2), record(2, 0.9, restarts=1)]


def storage_of(records: Sequence[ClassImageRecord]) -> MemoryStorage:
    storage = MemoryStorage()
    image = torch.full((3, 8, 8), 0.5)
    for one in records:
        task = Task(one.index, one.name, 0, target=one.target)
        storage.add_result(Result(task, one, image))
        storage.add_snapshot(Snapshot(task, 228, {"probability": one.probability or 0.0}, image))
    return storage


def test_the_table_flags_the_image_and_states_restarts() -> None:
    rows = PRESENTATION.table(RECORDS)
    assert [row["status"] for row in rows] == ["done", "not recognized", "done"]
    assert [row["restarts"] for row in rows] == ["0", "2", "1"]
    (alone,) = PRESENTATION.table(RECORDS[1:2])
    assert (alone["status"], alone["restarts"]) == ("not recognized", "2")
    (usual,) = PRESENTATION.table(RECORDS[:1])
    assert "restarts" not in usual


def test_the_figure_flags_the_image() -> None:
    outcomes = storage_of(RECORDS).outcomes()
    names = [evolution.name for evolution in PRESENTATION.evolutions(outcomes)]
    assert names == ["class 0", "class 1 (not recognized)", "class 2"]
    figure = PRESENTATION.figure(outcomes, FigureOptions())
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    texts += [text.get_text() for text in figure.texts]
    assert sum("not recognized" in text for text in texts) == 1


def test_report_and_loggers_state_what_failed() -> None:
    (item,) = PRESENTATION.evidence_items(VisualizationEvidence(), RECORDS)
    assert item.text == (
        "1 of 3 images not recognized: the network itself gives its class a probability below 0.5 (class 1)."
    )
    assert item.verdict == "failed"
    assert item.rows == [{"class": "1 class 1", "this network": "0.03 (rank 1)", "restarts": "2"}]
    outcomes = [PRESENTATION.facets(one, VisualizationEvidence())["outcome"] for one in RECORDS]
    assert outcomes == ["done", "not recognized", "done"]
    assert PRESENTATION.evidence_items(VisualizationEvidence(), [RECORDS[0], RECORDS[2]]) == []


def test_the_terminal_states_what_failed(smooth: Any) -> None:
    storage = storage_of(RECORDS)
    verifier = ClassVisualizationVerifier(ClassVisualization(smooth), storage.outcomes(), storage, EvidenceSettings())
    (line,) = PRESENTATION.messages(verifier)
    assert line.startswith("evidence: 1 of 3 images not recognized")


def test_the_summary_of_many_images_counts_recognized_ones() -> None:
    rows = PRESENTATION.summary(RECORDS)
    assert [(row["done"], row["recognized"]) for row in rows] == [("1", "1"), ("1", "0"), ("1", "1")]


def test_other_results_are_not_flagged() -> None:
    """Contrasted classes, failed tasks, and scores that are numbers."""
    contrasted, failed = record(0, 0.1, against=3), record(1, 0.1, status="failed")
    score = ClassImageRecord(index=2, name="x", target=0, metrics={"score": 0.2}, top5=[], judges={})
    assert [one.is_recognized for one in (contrasted, failed, score)] == [True, True, True]
    assert [one.is_recognized for one in (record(0, 0.5), record(0, 0.499))] == [True, False]
    assert PRESENTATION.evidence_items(VisualizationEvidence(), [contrasted, failed, score]) == []
