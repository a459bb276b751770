"""A run folder and memory give the same outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_viz.engine.lightning import AtomicCheckpointIO
from lit_viz.engine.snapshots import PerturbedImage, PerturbedImageRecord, Result, Snapshot
from lit_viz.errors import LitVizError
from lit_viz.images.reading import read_png
from lit_viz.runs.evidence import FileEvidence, UniversalEvidence
from lit_viz.runs.folder import FolderStorage
from lit_viz.runs.layout import LAST_CHECKPOINT
from lit_viz.runs.memory import MemoryStorage
from lit_viz.runs.results import Outcome
from lit_viz.types import Picture, Record, Task

TASKS = [Task(0, "cat", 7), Task(1, "dog", 8), Task(2, "broken", 9)]


def image(value: int) -> Tensor:
    return torch.full((3, 4, 4), value / 255)


def fill(storage: FolderStorage | MemoryStorage) -> None:
    """Add two finished tasks, the second one first, and a failed one."""
    photograph = PerturbedImage(PerturbedImageRecord(index=0, name="a"), image(3), image(4))
    for task in (TASKS[1], TASKS[0]):
        for iteration in (0, 5):
            metrics = {"probability": (iteration + task.index) / 8}
            storage.add_snapshot(Snapshot(task, iteration, metrics, image(iteration), (("cat", 0.5),)))
        storage.add_snapshot(Snapshot(task, 6, {"logit": 1.5}))
        record = Record.of(task, iterations=6, metrics={"probability": 0.75})
        array = torch.full((1, 4, 4), -0.5)
        perturbed = [photograph] if task.index else ()
        storage.add_result(Result(task, record, image(9), array, image(2), perturbed, torch.ones(2, 4)))
    failed = Record.of(TASKS[2], status="failed", error="no picture")
    storage.add_result(Result(TASKS[2], failed))
    storage.commit()


@pytest.fixture(params=["folder", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> FolderStorage | MemoryStorage:
    made: FolderStorage | MemoryStorage = MemoryStorage(configure=lambda: ("seed: 7\n", {"method": "attack"}))
    if request.param == "folder":
        made = FolderStorage.create(tmp_path / "run")
        made.write_start("seed: 7\n", {"method": "attack"}, TASKS)
    fill(made)
    return made


def pixels(picture: Picture | None) -> Tensor:
    assert picture is not None
    return picture if isinstance(picture, Tensor) else read_png(picture)


def content(outcome: Outcome) -> list[Any]:
    """Return what an outcome gives, as plain values."""
    tensors = [outcome.image(), outcome.array(), outcome.source(), outcome.terms()]
    photographs = [(p.record.name, pixels(p.image).tolist()) for p in outcome.perturbed_images()]
    frames = [(iteration, pixels(frame).tolist()) for iteration, frame in outcome.frames()]
    curves = [list(outcome.logged(metric)) for metric in ("probability", "logit", "none")]
    values = [None if tensor is None else tensor.tolist() for tensor in tensors]
    return [outcome.name, *values, photographs, frames, curves]


def assert_filled(outcomes: Sequence[Outcome]) -> None:
    assert [outcome.record.status for outcome in outcomes] == ["done", "done", "failed"]
    first, second, failed = outcomes
    frames = [(0, image(0).tolist()), (5, image(5).tolist())]
    array = torch.full((1, 4, 4), -0.5).tolist()
    common = [image(9).tolist(), array, image(2).tolist(), torch.ones(2, 4).tolist()]
    curves = [[(0, 0.0), (5, 0.625)], [(6, 1.5)], []]
    assert content(first) == ["cat", *common, [], frames, curves]
    curves = [[(0, 0.125), (5, 0.75)], [(6, 1.5)], []]
    assert content(second) == ["dog", *common, [("a", image(3).tolist())], frames, curves]
    assert content(failed) == ["broken", None, None, None, None, [], [], [[], [], []]]
    photograph, picture = second.pictures()
    assert (pixels(photograph).tolist(), pixels(picture).tolist()) == (image(2).tolist(), image(9).tolist())
    assert failed.pictures() == (None, None)


def test_outcomes_are_equal(storage: FolderStorage | MemoryStorage) -> None:
    assert_filled(storage.outcomes())
    assert [record.index for record in storage.records()] == [0, 1, 2]


def test_an_unknown_curve_names_those_that_exist(storage: FolderStorage | MemoryStorage) -> None:
    first, _, failed = storage.outcomes()
    assert list(first.curve("probability")) == [(0, 0.0), (5, 0.625)]
    with pytest.raises(LitVizError) as caught:
        first.curve("prob")
    assert str(caught.value) == (
        "0000_cat has no curve 'prob'; did you mean 'probability'? (it has logit, probability)"
    )
    with pytest.raises(LitVizError, match=r"has no curve 'probability' \(it has none\)$"):
        failed.curve("probability")


def test_records_are_replaced(storage: FolderStorage | MemoryStorage) -> None:
    outcome = storage.outcomes()[1]
    outcome.amend(seconds=3.0)
    storage.amend([outcome.record])
    assert [record.seconds for record in storage.records()] == [None, 3.0, None]


def test_parts_of_the_evidence_are_replaced(storage: FolderStorage | MemoryStorage) -> None:
    assert storage.evidence(UniversalEvidence).to_dict() == {}
    storage.merge_evidence(UniversalEvidence(files=FileEvidence(read=1, wrong=["cat"])))
    storage.merge_evidence(UniversalEvidence(universal={"cat": ["fools 1 of 2"]}))
    storage.merge_evidence(UniversalEvidence(files=FileEvidence(read=2, wrong=[])))
    evidence = storage.evidence(UniversalEvidence)
    assert evidence.files is not None
    assert (evidence.files.read, evidence.files.wrong) == (2, [])
    assert evidence.universal == {"cat": ["fools 1 of 2"]}


def test_evidence_is_about_the_image_of_the_file(storage: FolderStorage | MemoryStorage) -> None:
    outcomes = storage.outcomes()
    assert [outcome.has_image for outcome in outcomes] == [True, True, False]
    assert outcomes[2].file_image() is None
    written = outcomes[0].file_image()
    assert written is not None
    assert torch.equal(written, image(9))


def test_memory_rounds_the_image_of_the_file_to_8_bits() -> None:
    record = Record.of(TASKS[0])
    (outcome,) = MemoryStorage([Result(TASKS[0], record, torch.full((3, 4, 4), 9.4 / 255))]).outcomes()
    written = outcome.file_image()
    assert written is not None
    assert torch.equal(written, image(9))


def test_a_saved_run_is_complete(storage: FolderStorage | MemoryStorage, tmp_path: Path) -> None:
    storage.merge_evidence(UniversalEvidence(universal={"cat": []}))
    saved = storage.save(tmp_path / "saved")
    assert_filled(saved.outcomes())
    opened = FolderStorage.open(tmp_path / "saved")
    assert opened.recorded["method"] == "attack"
    assert list(opened.queue()) == TASKS
    assert opened.evidence(UniversalEvidence).universal == {"cat": []}


def test_a_saved_run_of_memory_has_a_checkpoint(tmp_path: Path) -> None:
    storage = MemoryStorage()
    fill(storage)
    folder = storage.save(tmp_path / "saved")
    checkpoint = AtomicCheckpointIO().load_checkpoint(folder.path / LAST_CHECKPOINT)
    assert checkpoint["lit_viz"]["slots"] == []
    assert checkpoint["store"] == {"segments": {"000000.jsonl": 3}, "in_progress": {}, "snapshots": 6}
    assert dict(folder.segments.statuses()) == {0: "done", 1: "done", 2: "failed"}
    assert list(folder.mismatches()) == []


def test_memory_writes_no_file_until_it_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a file was written")

    monkeypatch.setattr("tempfile.mkdtemp", refused)
    monkeypatch.setattr("lit_viz.runs.folder.write_bytes", refused)
    storage = MemoryStorage()
    fill(storage)
    assert_filled(storage.outcomes())
    storage.merge_evidence(UniversalEvidence(universal={}))
