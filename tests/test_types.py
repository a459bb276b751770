"""Records: kind, nested metrics and settings; keys are read by name, and unknown ones are rejected by name."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from lit_viz.engine.snapshots import PerturbedImageRecord
from lit_viz.errors import LitVizError
from lit_viz.runs.evidence import (
    AdversarialEvidence,
    FileEvidence,
    LocalizationEvidence,
    RobustnessEvidence,
    RobustnessPoint,
)
from lit_viz.runs.records import (
    AdversarialRecord,
    ClassImageRecord,
    LayerImageRecord,
    SaliencyRecord,
    UniversalRecord,
)
from lit_viz.types import JsonObject, Record, Task
from lit_viz.utils.checking import wrong_value
from lit_viz.utils.files import json_line

CAT = Task(0, "cat", seed=7, target=281, target_name="tabby")
RECORDS = [
    Record.of(Task(0, "broken", 7), status="failed", error="no picture"),
    ClassImageRecord.of(
        CAT,
        iterations=6,
        metrics={"probability": 0.25, "rank": 2.0, "objective": None},
        top5=[["tabby", 0.25], ["lynx", None]],
        judges={"other": {"probability": 0.5, "rank": 1}},
        against=287,
        gamma=0.5,
    ),
    LayerImageRecord.of(
        Task(0, "blocks.3_ch1", 7), metrics={"objective": 2.0}, top5=[], layer="blocks.3", channel=1, lr=0.05
    ),
    SaliencyRecord.of(
        CAT,
        metrics={"probability": 0.9, "relative_error": 0.25},
        settings={"layer": "features.3", "grid": [7, 7]},
        method="grad_cam",
        reducer="mean",
        top5=[["tabby", 0.9]],
        original_box=[0.0, 0.0, 1.0, 1.0],
    ),
    AdversarialRecord.of(
        CAT,
        metrics={"margin": 0.5, "linf": 4 / 255},
        settings={"norm": "linf", "eps": 4 / 255, "by": "pgd", "tried": ["fgsm", "pgd"], "fewest": 3},
        attack="ensemble",
        success_file=True,
    ),
    UniversalRecord.of(
        Task(0, "perturbation", 7),
        metrics={"fooling_rate": 0.5},
        settings={"norm": "l2", "eps": 2.0},
        attack="universal",
        magnified=10.0,
        photographs=4,
        trained_on=2,
        held_out=2,
    ),
]
LINES = [record.to_dict() for record in RECORDS]


def shuffled(values: dict[str, Any]) -> dict[str, Any]:
    keys = list(values)
    random.Random(3).shuffle(keys)
    return {key: values[key] for key in keys}


ORDERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "sorted": lambda values: dict(sorted(values.items())),
    "reversed": lambda values: dict(reversed(values.items())),
    "shuffled": shuffled,
}


def content(record: Record) -> tuple[type, dict[str, Any]]:
    return type(record), vars(record)


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_of_the_keys_has_no_meaning(order: str) -> None:
    kinds = set()
    for line, written in zip(LINES, RECORDS, strict=True):
        record = Record.read(ORDERS[order](line))
        assert content(record) == content(written)
        kinds.add(type(record))
    of_package = {kind for kind in Record.kinds.values() if kind.__module__.startswith("lit_viz.")}
    assert kinds == {Record, *of_package}


def test_a_line_is_written_with_the_keys_that_were_read() -> None:
    for line in LINES:
        assert json_line(Record.read(line).to_dict()) == json_line(line)


def test_lines_are_valid() -> None:
    for line in LINES:
        values = json.loads(json.dumps(line))
        kind = Record.class_of(values)
        del values["kind"]
        assert wrong_value(values, kind) is None


def test_a_line_names_its_kind() -> None:
    kinds = {record.kind: type(record) for record in RECORDS}
    names = ["record", "class_image", "layer_image", "saliency_map", "adversarial_example", "universal_perturbation"]
    assert list(kinds) == names
    for name, line in zip(names, LINES, strict=True):
        assert line["kind"] == next(iter(line.values())) == name
        assert Record.class_of(line) is kinds[name]


@pytest.mark.parametrize("kind", [{}, {"kind": "picture"}, {"kind": None}, {"kind": ["record"]}])
def test_another_kind_is_rejected(kind: dict[str, Any]) -> None:
    with pytest.raises(LitVizError, match=r"^kind must be one of record, class_image, layer_image, .*, got "):
        Record.read({"index": 0, "name": "cat", **kind})


def test_metrics_and_settings_are_nested() -> None:
    line = SaliencyRecord.of(
        CAT,
        metrics={"relative_error": 0.25, "novel": 2.0, "probability": 0.5},
        settings={"layer": "features.3", "own": [1]},
        method="grad_cam",
        reducer="mean",
        top5=[],
    ).to_dict()
    assert line["metrics"] == {"relative_error": 0.25, "novel": 2.0, "probability": 0.5}
    assert line["settings"] == {"layer": "features.3", "own": [1]}
    assert not {"relative_error", "novel", "layer", "own"} & line.keys()
    record = Record.read(line)
    assert isinstance(record, SaliencyRecord)
    assert (record.relative_error, record.layer, record.probability) == (0.25, "features.3", 0.5)
    assert math.isnan(record.amend(metrics={"relative_error": None}).relative_error or 0.0)


def test_layers_of_images_are_fields_and_those_of_maps_settings() -> None:
    image, of_map = Record.read(LINES[2]), Record.read(LINES[3])
    assert isinstance(image, LayerImageRecord)
    assert isinstance(of_map, SaliencyRecord)
    assert (image.layer, image.settings) == ("blocks.3", {})
    assert (of_map.layer, of_map.settings["layer"]) == ("features.3", "features.3")


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (Record, {"index": 0, "name": "cat", "novel": 1}, "novel is not a key of Record"),
        (Record, {"index": 0, "name": "cat", "probability": 0.5}, "probability is not a key of Record"),
        (
            Record,
            {"index": 0, "name": "cat", "iteration": 5},
            "iteration is not a key of Record; did you mean 'iterations'?",
        ),
        (PerturbedImageRecord, {"novel": 1, "index": 0, "name": "cat"}, "novel is not a key of PerturbedImageRecord"),
        (AdversarialEvidence, {"novel": 1}, "novel is not a key of AdversarialEvidence"),
        (LocalizationEvidence, {"quantile": 0.9}, "quantile is not a key of LocalizationEvidence"),
        (AdversarialEvidence, {"files": {"read": 1, "wrong": [], "lost": 2}}, "lost is not a key of FileEvidence"),
    ],
)
def test_unknown_keys_are_rejected_by_name(kind: type[JsonObject], values: dict[str, Any], words: str) -> None:
    with pytest.raises(LitVizError, match=re.escape(words)):
        kind.from_dict(values)
    assert wrong_value(values, kind) is not None


def test_a_missing_key_is_named() -> None:
    with pytest.raises(LitVizError, match=r"SaliencyRecord lacks a key .*'reducer'"):
        Record.read({"kind": "saliency_map", "index": 0, "name": "cat", "method": "gradient", "top5": []})


def test_a_field_that_is_none_by_default_is_written_when_it_has_a_value() -> None:
    record = Record.read({"kind": "adversarial_example", "index": 0, "name": "cat", "attack": "ddn"})
    assert record.to_dict().keys() == {"kind", "index", "name", "status", "metrics", "settings", "attack"}
    failed = record.amend(success_file=False)
    assert failed.to_dict()["success_file"] is False
    assert failed.amend(success_file=None).to_dict() == record.to_dict()


def test_a_row_has_metrics_and_settings_beside_the_fields() -> None:
    record = RECORDS[4]
    row = record.flat()
    assert {"metrics", "settings"}.isdisjoint(row)
    assert (row["kind"], row["name"], row["margin"], row["by"]) == ("adversarial_example", "cat", 0.5, "pgd")
    assert row.keys() == {*record.to_dict(), *record.metrics, *record.settings} - {"metrics", "settings"}


def test_values_are_read_by_name() -> None:
    record = RECORDS[4]
    for name, value in record.flat().items():
        assert record[name] == value
    assert record["success_jpeg95"] is None  # a field without a value
    assert record["probability"] is None
    with pytest.raises(KeyError, match=r"margins; did you mean .*margin"):
        record["margins"]


def test_the_text_of_a_record_has_the_values_that_are_there() -> None:
    record = SaliencyRecord.of(
        Task(3, "cat", seed=5, target=281, target_name="tabby"),
        method="gradient",
        reducer="max_abs",
        top5=[("tabby", 0.987654), ("lynx", 0.01)],
        metrics={"probability": 0.987654},
        settings={"sigma": 0.2},
    )
    assert repr(record) == "\n".join(
        [
            "SaliencyRecord",
            "  kind: saliency_map",
            "  index: 3",
            "  name: cat",
            "  status: done",
            "  target: 281",
            "  target_name: tabby",
            "  seed: 5",
            "  metrics: probability 0.9877",
            "  settings: sigma 0.2",
            "  method: gradient",
            "  reducer: max_abs",
            "  top5: tabby, 0.9877, lynx, 0.01",
        ]
    )


def test_the_text_of_evidence_is_one_line_per_part() -> None:
    files = FileEvidence(read=2, tasks=3, wrong=[])
    point = RobustnessPoint(eps="1/255", robust=1, photographs=2, share=0.5, low=0.1, high=0.9)
    robustness = RobustnessEvidence(what="robust accuracy", norm="linf", points=[point])
    assert repr(AdversarialEvidence(files=files, robustness=robustness)) == "\n".join(
        [
            "AdversarialEvidence",
            "  files: read 2, tasks 3, wrong none",
            "  robustness: what robust accuracy, norm linf, points 1 value",
        ]
    )
    assert repr(AdversarialEvidence()) == "AdversarialEvidence (empty)"


def test_an_amended_task_is_the_replaced_one() -> None:
    task = Task(3, "cat", 7, label=2, options={"a": 1})
    assert task.amend(label=None, eps=0.1) == replace(task, label=None, eps=0.1)
    assert task == Task(3, "cat", 7, label=2, options={"a": 1})
    with pytest.raises(AssertionError):
        task.amend(epsilon=0.1)
